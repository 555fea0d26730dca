# SPDX-License-Identifier: BSD-3-Clause
"""Where a farm's story is told: lines on any output, and on a terminal a live table of what is going on below them.

Knows rich; decides nothing.
"""

import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from piwheels.db.farm_facts import Project, Release
from piwheels.farm_story import Look, span
from piwheels.master.planner import Code, Verdict
from piwheels.vocabulary import WatchState

ROWS = 20
_STYLES = {
    Code.BUILT: "green",
    Code.ON_PYPI: "cyan",
    Code.QUEUED: "dim",
    Code.BUILDING: "yellow",
    Code.RETRYING: "yellow",
    Code.FAILED: "red",
    Code.UNUSABLE: "red",
    Code.GIVEN_UP: "red",
}


class Screen:
    """Says lines; on a terminal, shows the farm's state below them until closed."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._stack = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live = self._stack.enter_context(live)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live = None
        self._stack.close()

    def say(self, line: str, *, style: str = "") -> None:
        """Say one line."""
        if self._console.is_terminal:
            self._console.print(Text(line, style=style))
        else:
            print(line, flush=True)

    def complain(self, line: str) -> None:
        """Say one line about what went wrong, on standard error."""
        if self._live is not None:
            self.say(line, style="red")
        else:
            print(line, file=sys.stderr, flush=True)

    def show(self, look: Look | None, status: str) -> None:
        """Show the farm's state, where there is a terminal to show it on."""
        if self._live is not None:
            parts: list[RenderableType] = [_table(look)] if look and look.projects else []
            self._live.update(Group(*parts, Text(status, style="dim")), refresh=True)


def status_line(look: Look | None, *, url: str) -> str:
    """The farm in one line."""
    if look is None:
        return "starting …"
    todo = look.outstanding
    parts = [] if look.settled else ["asking PyPI"]
    if todo.building or todo.jobs:
        parts.append(f"{todo.building} building, {todo.jobs} waiting")
    elif look.settled:
        parts.append("nothing to build")
    if todo.pages:
        parts.append(f"{todo.pages} pages to write")
    if look.away:
        parts.append("PyPI does not answer")
    return f"{'; '.join(parts)} · {url}/ · Ctrl-C stops the farm"


def _table(look: Look) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    started = {build.release_id: build.started for build in look.running}
    rows = [row for project in look.projects for row in _rows(project, started)]
    for cells in rows[:ROWS]:
        table.add_row(*cells)
    if len(rows) > ROWS:
        table.add_row(f"… and {len(rows) - ROWS} more", "", "")
    return table


def _rows(project: Project, started: dict[int, datetime]) -> list[tuple[str, str, str]]:
    if project.state is not WatchState.FOUND or not project.releases:
        words = project.detail or ("asking PyPI" if project.state is WatchState.PENDING else "")
        return [(escape(project.spelling), "", escape(words))]
    return [
        (escape(project.spelling), escape(release.version), _words(release, verdict, started))
        for release in project.releases
        for verdict in release.verdicts
    ]


def _words(release: Release, verdict: Verdict, started: dict[int, datetime]) -> str:
    words = verdict.words
    if verdict.code is Code.BUILDING and release.id in started:
        words = f"being built for {span(datetime.now(UTC) - started[release.id])}"
    style = _STYLES.get(verdict.code, "")
    return f"[{style}]{escape(words)}[/]" if style else escape(words)
