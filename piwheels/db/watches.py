# SPDX-License-Identifier: BSD-3-Clause
"""The watch list as rows: what it holds, and where the feed stands with each name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

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


def settle(conn: Connection, names: Sequence[tuple[str, str]], *, every: bool) -> list[Watch]:
    """Make the list equal to ``names``, (canonical, spelling) in order, and return it.

    Entries that are no longer named go; what we have of their projects stays.
    """
    conn.execute(delete(watches).where(watches.c.name.not_in([name for name, _ in names])))
    there = {row.name: row for row in conn.execute(select(watches))}
    for position, (name, spelling) in enumerate(names):
        row = there.get(name)
        if row is None:
            which = "all" if every else "latest"
            added = insert(watches).values(name=name, spelling=spelling, position=position, releases=which)
            conn.execute(added.on_conflict_do_nothing())
        elif (row.position, row.spelling) != (position, spelling):
            conn.execute(update(watches).where(watches.c.name == name).values(position=position, spelling=spelling))
    return listed(conn)


def listed(conn: Connection) -> list[Watch]:
    """The list, in order."""
    query = (
        select(watches, projects.c.id.label("project_id"))
        .outerjoin(projects, projects.c.name == watches.c.name)
        .order_by(watches.c.position, watches.c.name)
    )
    return [_watch(row) for row in conn.execute(query)]


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


def touch(conn: Connection, name: str) -> None:
    """Note that PyPI said something about the name just now, though nothing may have changed."""
    conn.execute(update(watches).where(watches.c.name == name).values(checked_at=func.now()))


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
