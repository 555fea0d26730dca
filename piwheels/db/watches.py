# SPDX-License-Identifier: BSD-3-Clause
"""The watch list as rows: what it holds, and where the feed stands with each name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import dependencies
from piwheels.db.planning import verdicts
from piwheels.db.tables import projects, releases, watches
from piwheels.master.planner import Code, Policy
from piwheels.vocabulary import WatchState

MAX_DETAIL = 500
TROUBLE = "not seen lately:"  #: begins the detail of a project that we know and cannot ask for at the moment


@dataclass(frozen=True, slots=True)
class Watch:
    """An entry of the watch list."""

    name: str  #: canonical, or what was given where that is no name
    spelling: str
    state: WatchState
    detail: str
    etag: str  #: of the answer that our rows reflect; empty: ask unconditionally
    releases: str  #: "latest" or "all", as the last synchronisation was told
    known: bool  #: we have rows of the project


@dataclass(frozen=True, slots=True)
class Entry:
    """What the operator put on the list."""

    name: str  #: canonical, or what was given where that is no name
    spelling: str
    origin: str = "listed"  #: "listed" by name, or "required": what it depends on is followed too
    extras: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Seen:
    """What PyPI said of an entry."""

    there: bool
    changed: bool = False  #: it may be another than it was
    etag: str | None = None  #: of the answer that our rows reflect now; None: as it was
    requires: tuple[str, ...] = ()  #: the latest release's Requires-Dist
    trouble: str = ""  #: there was no answer that means anything, and why
    away: bool = False  #: because PyPI was away


def settle(conn: Connection, entries: Sequence[Entry], *, every: bool) -> list[Watch]:
    """Make the list equal to ``entries``, in order, and to what the required ones depend on; return it.

    Entries that are no longer named go; what we have of their projects stays.
    """
    named = watches.c.name.in_([entry.name for entry in entries])
    conn.execute(delete(watches).where(~named, watches.c.origin != "dependency"))
    for position, entry in enumerate(entries):
        facts = {
            "spelling": entry.spelling,
            "position": position,
            "origin": entry.origin,
            "extras": sorted(entry.extras),
        }
        row = insert(watches).values(name=entry.name, releases="all" if every else "latest", **facts)
        differs = or_(*(watches.c[key].is_distinct_from(row.excluded[key]) for key in facts))
        conn.execute(row.on_conflict_do_update(index_elements=[watches.c.name], set_=facts, where=differs))
    dependencies.close(conn, dict.fromkeys(e.name for e in entries if e.origin == "required"))
    return listed(conn)


def listed(conn: Connection) -> list[Watch]:
    """The list, in order."""
    return [_watch(row) for row in conn.execute(_listing().order_by(watches.c.position, watches.c.name))]


def _listing() -> Select[Any]:
    return select(watches, projects.c.id.label("project_id")).outerjoin(projects, projects.c.name == watches.c.name)


def note(conn: Connection, watch: Watch) -> None:
    """Write where the feed stands with one name."""
    conn.execute(
        update(watches)
        .where(watches.c.name == watch.name)
        .values(
            state=watch.state,
            detail=watch.detail[:MAX_DETAIL],
            etag=watch.etag,
            releases=watch.releases,
            checked_at=func.now(),
        )
    )


def note_answers(conn: Connection, seen: Mapping[str, Seen], *, every: bool, policy: Policy) -> int:
    """Write what PyPI said of the entries among ``seen``, and follow what required ones depend on; for how many
    projects changes were recorded by that."""
    rows = list(conn.execute(_listing().where(watches.c.name.in_(sorted(seen))).order_by(watches.c.name)))
    for row in rows:
        before, saw = _watch(row), seen[row.name]
        after = _after(conn, before, saw, every=every, policy=policy)
        if after != before:
            note(conn, after)
        elif not saw.away:
            conn.execute(update(watches).where(watches.c.name == row.name).values(checked_at=func.now()))
    needing = {row.name: seen[row.name].requires for row in rows if row.origin != "listed" and seen[row.name].requires}
    return dependencies.follow(conn, needing)


def _after(conn: Connection, before: Watch, saw: Seen, *, every: bool, policy: Policy) -> Watch:
    if saw.trouble:
        return _in_trouble(before, saw)
    if not saw.there:
        return replace(before, state=WatchState.MISSING, detail="PyPI has no project of this name")
    recovered = before.state is not WatchState.FOUND or before.detail.startswith(TROUBLE)
    return replace(
        before,
        state=WatchState.FOUND,
        detail=outlook(conn, before.name, policy=policy) if saw.changed or recovered else before.detail,
        etag=before.etag if saw.etag is None else saw.etag,
        releases=("all" if every else "latest") if saw.changed else before.releases,
    )


def _in_trouble(before: Watch, saw: Seen) -> Watch:
    if before.state is WatchState.FOUND:
        return replace(before, detail=f"{TROUBLE} {saw.trouble}"[:MAX_DETAIL])
    state = before.state if saw.away else WatchState.ERROR
    return replace(before, state=state, detail=saw.trouble[:MAX_DETAIL])


def give_up(conn: Connection, why: str) -> None:
    """PyPI has been away for so long that nobody should wait for those that never had an answer."""
    never = watches.c.state == WatchState.PENDING
    conn.execute(update(watches).where(never).values(state=WatchState.ERROR, detail=why[:MAX_DETAIL]))


def look_out(conn: Connection, *, policy: Policy) -> None:
    """Say anew why nothing is built of what was found: targets have changed."""
    for watch in listed(conn):
        if watch.state is WatchState.FOUND and not watch.detail.startswith(TROUBLE):
            seen = replace(watch, detail=outlook(conn, watch.name, policy=policy))
            if seen != watch:
                note(conn, seen)


def outlook(conn: Connection, name: str, *, policy: Policy) -> str:
    """What the operator should know of a project that has been found, in words: why nothing of it will be built. Empty
    where something is built or to be built, or where there is no target yet."""
    project_id = conn.execute(select(projects.c.id).where(projects.c.name == name)).scalar_one_or_none()
    if project_id is None:
        return ""
    wanted = select(releases.c.id, releases.c.version).where(releases.c.project_id == project_id, releases.c.wanted)
    versions = {row.id: row.version for row in conn.execute(wanted.order_by(releases.c.sort_key.desc()))}
    if not versions:
        return "PyPI has no release of it with files"
    newest, version = next(iter(versions.items()))
    decided = verdicts(conn, project_id, policy=policy)
    if any(v.wanted or v.code is Code.BUILT for id_ in versions for v in decided.get(id_, {}).values()):
        return ""
    words = dict.fromkeys(_OUTLOOKS.get(v.code) or v.words for v in decided.get(newest, {}).values())
    return "; ".join(f"{word} ({version})" for word in words)[:MAX_DETAIL]


_OUTLOOKS = {Code.ON_PYPI: "served by PyPI", Code.NO_SDIST: "no source distribution"}


def _watch(row: Row[Any]) -> Watch:
    known = row.project_id is not None
    return Watch(
        name=row.name,
        spelling=row.spelling,
        state=row.state,
        detail=row.detail,
        etag=row.etag if known else "",
        releases=row.releases,
        known=known,
    )


def note_wrong(conn: Connection, watch: Watch, words: str) -> None:
    """This entry can never be found."""
    wrong = replace(watch, state=WatchState.ERROR, detail=words[:MAX_DETAIL])
    if wrong != watch:
        note(conn, wrong)


def note_releases(conn: Connection, watch: Watch, which: str, *, policy: Policy) -> None:
    """Other releases of it are to be built than before."""
    detail = outlook(conn, watch.name, policy=policy) if watch.state is WatchState.FOUND else watch.detail
    note(conn, replace(watch, detail=detail, releases=which))


def counts(conn: Connection) -> dict[WatchState, int]:
    """How many entries are in each state."""
    rows = conn.execute(select(watches.c.state, func.count()).group_by(watches.c.state))
    return dict.fromkeys(WatchState, 0) | {row[0]: row[1] for row in rows}
