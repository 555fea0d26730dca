# SPDX-License-Identifier: BSD-3-Clause
"""A snapshot of the farm as tables: pure, and rendered with rich where it is installed, else as plain text."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from piwheels.logs import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_CELL = 60  #: characters
STALE_ROLE = 10.0  #: seconds without a heartbeat after which a role is called silent


@dataclass(frozen=True, slots=True)
class Grid:
    """A table to be shown; shown only if it has rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headline(snapshot: Mapping[str, Any]) -> str:
    """The farm in one line."""
    if snapshot.get("problem"):
        return one_line(f"in trouble: {snapshot['problem']}")
    queue, published = snapshot["queue"], snapshot["published"]
    words = [
        "paused" if snapshot["paused"] else "running",
        f"{queue['building']} building",
        f"{queue['waiting']} waiting",
        f"{snapshot['pages']['stale']} pages stale",
        f"{published['listed']} projects with {published['files']} wheels published",
    ]
    return ", ".join(words)


def grids(snapshot: Mapping[str, Any]) -> list[Grid]:
    """Everything else, as tables."""
    if snapshot.get("problem"):
        return []
    now = datetime.fromisoformat(snapshot["at"])
    return [
        _grid("Roles", ("role", "process", "heard of", "state"), [_role(one) for one in snapshot["roles"]]),
        slaves(snapshot),
        _grid(
            "Watched projects",
            ("project", "state", "detail"),
            [(one["name"], one["state"], _fate(one, snapshot)) for one in snapshot["watches"]["names"]],
        ),
        _grid(
            "Building",
            ("project", "version", "target", "builder", "for"),
            [
                (one["project"], one["version"], one["target"], one["slave"], since(one["started"], now))
                for one in snapshot["building"]
            ],
        ),
        _grid(
            "Last builds",
            ("build", "project", "version", "target", "result", "took", "why"),
            [_build(one) for one in snapshot["recent"]],
        ),
    ]


def slaves(snapshot: Mapping[str, Any]) -> Grid:
    """The builders."""
    now = datetime.fromisoformat(snapshot["at"])
    rows = [
        (one["id"], one["label"], one["target"] or "none", one["wish"], since(one["last_seen"], now))
        for one in snapshot["slaves"]
    ]
    return _grid("Builders", ("builder", "label", "target", "told to", "heard of"), rows)


def since(moment: str | None, now: datetime) -> str:
    """How long ago, in words short enough for a table."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    return str(timedelta(seconds=seconds))


def plain(head: str, tables: Sequence[Grid]) -> str:
    """As text with columns aligned."""
    return "\n".join([head, *(line for table in tables if table.rows for line in ["", *_plain_lines(table)])])


def rendering(head: str, tables: Sequence[Grid]) -> "RenderableType":
    """As something rich can print, or keep on the screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(head, style="bold")]
    for grid in tables:
        if grid.rows:
            table = Table(title=grid.title, title_justify="left")
            for column in grid.columns:
                table.add_column(column)
            for row in grid.rows:
                table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a name are no markup
            parts.append(table)
    return Group(*parts)


def safe_log(text: str) -> str:
    """A stranger's log as a terminal may have it: lines and tabs stay; whatever else would move the cursor, change
    colours or turn the direction of text is shown instead of done."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c if c in "\n\t" or c.isprintable() else _shown(c) for c in lines)


def _shown(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def has_rich() -> bool:
    """Whether rich is installed; a master needs it not."""
    return importlib.util.find_spec("rich") is not None


def _plain_lines(grid: Grid) -> list[str]:
    rows = [grid.columns, *grid.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(grid.columns))]
    return [grid.title] + ["  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def _grid(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[object]]) -> Grid:
    return Grid(title, columns, tuple(tuple(one_line(str(cell), MAX_CELL) for cell in row) for row in rows))


def _role(one: Mapping[str, Any]) -> tuple[object, ...]:
    silent = " (silent)" if one["age"] > STALE_ROLE else ""
    state = ", ".join(f"{key}: {value}" for key, value in one["state"].items())
    return (one["name"], f"{one['pid']} on {one['host']}", f"{one['age']:.0f} s ago{silent}", state)


def _fate(watch: Mapping[str, Any], snapshot: Mapping[str, Any]) -> str:
    """What the feed says of a watched project, or else what the planner decided about its newest release."""
    decided = [one for one in snapshot.get("verdicts", []) if one["project"] == watch["name"]]
    return watch["detail"] or "; ".join(f"{one['version']} for {one['target']}: {one['words']}" for one in decided)


def _build(one: Mapping[str, Any]) -> tuple[object, ...]:
    result = one["outcome"] if one["reason"] is None else f"{one['outcome']} ({one['reason']})"
    took = timedelta(seconds=round(one["duration"]))
    return (one["build_id"], one["project"], one["version"], one["target"], result, took, one["detail"])
