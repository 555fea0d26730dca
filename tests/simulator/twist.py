# SPDX-License-Identifier: BSD-3-Clause
"""What the faults of content (faults.py) do to listings, events and documents. Pure, but for the randomness handed in.

Where a fault adds to a list, what is right stays in it: a follower that refuses the rest loses nothing. The serials of
what is added never exceed those of what is right, or a follower would rightly believe to have read further than it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.simulator.faults import Fault
from tests.simulator.history import History
from tests.simulator.things import JournalEntry, Project

MEGA = "x" * (1 << 20)
CONTROL = "evil\x9b31m\r\n\u2028name"  #: what XML 1.0 lets through
BACK = 500  #: serials that SERIAL_BACK goes back by
YEARS_BACK = 20 * 365 * 86400  #: seconds that TIME_BACK goes back by
DEPTH = 100_000  #: of the arrays that stand for an XML bomb where JSON is due

BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE bomb [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    + '<!ENTITY file SYSTEM "file:///etc/passwd">]>\n'
    "<methodResponse><params><param><value><string>&a11;&file;</string></value></param></params></methodResponse>"
)
HTML = "<!DOCTYPE html><html><body>Please log in to this network</body></html>"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the listing."""

    name: Any
    canonical: str
    serial: int


def bomb(kind: str) -> bytes:
    """What explodes in a reader of this type."""
    return b"[" * DEPTH if kind.endswith("json") else BOMB.encode()


def listing(history: History, fault: Fault | None, rng: Random, *, quarantined: bool = False) -> tuple[int, list[Row]]:
    """The last serial and the listed projects; those in quarantine only where that is asked for."""
    with history.lock:
        projects = dict(history.projects)
        serial = _undo(history, projects) if fault is Fault.STALE else history.serial
        shown = [one for one in projects.values() if quarantined or one.status != "quarantined"]
        rows = [Row(project.name, project.canonical, project.serial) for project in shown]
    if fault is Fault.SERIAL_BACK:
        serial = max(serial - BACK, 0)
        rows = [replace(row, serial=min(row.serial, serial)) for row in rows]
    return serial, _twist_rows(rows, fault, rng)


def _undo(history: History, projects: dict[str, Project]) -> int:
    """Take the last change back; the serial before it."""
    name, serial = history.last_change
    before = before_last(history, name)
    projects.pop(name, None)
    if before is not None:
        projects[name] = before
    return serial


def before_last(history: History, name: str) -> Project | None:
    """A project (by canonical name) as it was before its last change."""
    now = history.projects.get(name)
    return now.before if now is not None else history.gone.get(name)


def _twist_rows(rows: list[Row], fault: Fault | None, rng: Random) -> list[Row]:
    if fault is Fault.EMPTY_LISTING:
        return []
    if fault is Fault.SHUFFLE:
        return rng.sample(rows, len(rows))
    if fault is Fault.DUPLICATE:
        return [
            *rows,
            *(Row(str(row.name).upper().replace("-", "_"), row.canonical, max(row.serial - 7, 1)) for row in rows),
        ]
    if fault is Fault.NULLS:
        return [*rows, *(replace(row, name=None) for row in rows[:50])]
    if fault is Fault.MEGA_NAME:
        return [*rows, Row(MEGA, "x", 1), Row(CONTROL, "evil", 1), Row("", "", 1), Row("../..", "..", 1)]
    return rows


def last_serial(history: History, fault: Fault | None) -> int:
    """The journal's."""
    with history.lock:
        if fault is Fault.STALE:
            return history.last_change[1]
        return max(history.serial - BACK, 0) if fault is Fault.SERIAL_BACK else history.serial


def events(history: History, since: int, fault: Fault | None, rng: Random, *, limit: int) -> list[list[Any]]:
    """The events after a serial, as the journal's array has them."""
    upto = last_serial(history, fault)
    found = [event for event in history.events_since(since, limit=limit) if event.serial <= upto]
    rows = [event.row() for event in found]
    return _twist_events(rows, found, fault, rng) if rows else rows


def _twist_events(
    rows: list[list[Any]], found: Sequence[JournalEntry], fault: Fault | None, rng: Random
) -> list[list[Any]]:
    last = found[-1].serial
    if fault is Fault.SHUFFLE:
        return rng.sample(rows, len(rows))
    if fault is Fault.DUPLICATE:
        return [*rows, *rng.sample(rows, len(rows)), rows[0]]
    if fault is Fault.TIME_BACK:
        return [[name, version, time - rng.randrange(YEARS_BACK), *rest] for name, version, time, *rest in rows]
    if fault is Fault.NULLS:
        return [*rows, [None, None, None, None, last], [rows[0][0], None, 0, None, last], [None] * 5, None]  # type: ignore[list-item]
    if fault is Fault.MEGA_NAME:
        return [
            *rows,
            [MEGA, "1.0", 0, "create", last],
            [CONTROL, MEGA, 0, MEGA, last],
            ["../..", None, 0, "create", last],
        ]
    return rows


def document(found: Any, fault: Fault | None) -> Any:
    """A project's JSON or index page."""
    if fault is Fault.NULLS:
        return _without_strings(found)
    if fault is Fault.MEGA_NAME and isinstance(found, dict):
        inner = {"info": {**found["info"], "name": MEGA}} if isinstance(found.get("info"), dict) else {"name": MEGA}
        return {**found, **inner}
    return found


def _without_strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_strings(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_strings(one) for one in value]
    return None if isinstance(value, str) else value


def project(history: History, name: str, fault: Fault | None) -> Project | None:
    """A project by canonical name, as an answer with this fault has it; None: 404."""
    with history.lock:
        if fault is Fault.VANISH:
            return None
        if fault is Fault.STALE:
            return before_last(history, name)
        found = history.projects.get(name)
        if found is None:
            return None
        shown = found.snapshot()
        if fault is Fault.SERIAL_BACK:
            shown.serial = max(shown.serial - BACK, 0)
        return shown
