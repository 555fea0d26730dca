# SPDX-License-Identifier: BSD-3-Clause
"""What an operator sees of the queue, and asks of it. How jobs are handed out is db/queue's and db/claims'.

Reads are bounded however long the queue is. A request forgets the failures of a release, has it planned again, and puts
what is then to be built before everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from packaging.utils import canonicalize_name
from sqlalchemy import Connection, Select, and_, false, func, select, true, update

from piwheels.db import claims, direct, planning, wake
from piwheels.db import targets as target_rows
from piwheels.db.arrays import among
from piwheels.db.pages import mark_stale
from piwheels.db.tables import builds, jobs, projects, releases, slaves
from piwheels.errors import PiwheelsError
from piwheels.master.needs import Room
from piwheels.master.planner import Policy
from piwheels.master.targets import Target
from piwheels.versions import parse_or_none
from piwheels.vocabulary import Outcome, PageKind, Priority

CEILING = 100_000  #: where counting jobs stops
VERSIONS = 20_000  #: releases of a project among which an equal version is looked for


class UnknownError(PiwheelsError, LookupError):
    """The farm does not know the project, release or target that was named."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A job, for people."""

    project: str
    version: str
    priority: Priority
    downloads: int
    strikes: int
    need: Room
    ready_at: datetime
    started: datetime | None  #: of the build, if it is being built
    builder: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs a target has; each number stops at CEILING."""

    waiting: int  #: could be handed out
    resting: int  #: wait for their next try
    leased: int


@dataclass(frozen=True, slots=True)
class Requested:
    """What a request came to."""

    project: str  #: canonical name
    version: str
    forgotten: int  #: failed attempts that do not count any more
    queued: tuple[str, ...]  #: names of targets for which it is now in the queue
    building: tuple[str, ...]  #: for which it is being built already
    left: tuple[str, ...]  #: for which there is nothing to build; why says why


def target_named(conn: Connection, name: str) -> Target:
    """The target of this name; UnknownError."""
    targets = target_rows.every(conn)
    found = next((target for target in targets if target.name == name), None)
    if found is None:
        raise UnknownError(f"there is no target {name}; there are: {', '.join(t.name for t in targets) or 'none'}")
    return found


def counts(conn: Connection, target: Target) -> Counts:
    """How many jobs a target has."""
    mine, free = jobs.c.target_id == target.id, jobs.c.lease_token.is_(None)
    kinds = (
        and_(mine, free, ~jobs.c.resting),
        and_(mine, free, jobs.c.resting),
        and_(mine, jobs.c.lease_expires.is_not(None)),
    )
    return Counts(*(conn.scalar(_counted(select(jobs.c.release_id).where(kind))) or 0 for kind in kinds))


def _counted(query: Select[Any]) -> Select[Any]:
    return select(func.count()).select_from(query.limit(CEILING).subquery())


def first(conn: Connection, target: Target, *, limit: int) -> list[Listed]:
    """The next jobs of a target, in the order in which they are handed out to who has room for all."""
    room = {"memory": 7, "disk": 7, "time": 7}
    ids = [row[0] for row in direct.fetch(conn, claims.upcoming(limit), {"target": target.id, **room})]
    found = conn.execute(_listed().where(among(jobs.c.release_id, ids), jobs.c.target_id == target.id))
    return [_job(row) for row in sorted(found, key=lambda row: ids.index(row.release_id))]


def resting(conn: Connection, target: Target, *, limit: int) -> list[Listed]:
    """The jobs that wait for their next try, the next first."""
    mine = (jobs.c.target_id == target.id, jobs.c.resting, jobs.c.lease_token.is_(None))
    return [_job(row) for row in conn.execute(_listed().where(*mine).order_by(jobs.c.ready_at).limit(limit))]


def leased(conn: Connection, target: Target, *, limit: int) -> list[Listed]:
    """The jobs that are being built, the longest first."""
    mine = (jobs.c.target_id == target.id, jobs.c.lease_expires.is_not(None))
    return [_job(row) for row in conn.execute(_listed().where(*mine).order_by(jobs.c.lease_started).limit(limit))]


def _listed() -> Select[Any]:
    return (
        select(jobs, projects.c.name, releases.c.version, slaves.c.label, slaves.c.id.label("slave_id"))
        .join(releases, releases.c.id == jobs.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .outerjoin(slaves, slaves.c.id == jobs.c.lease_slave_id)
    )


def _job(row: Any) -> Listed:
    ahead = row.lease_token is not None and row.slave_id is None
    return Listed(
        project=row.name,
        version=row.version,
        priority=Priority(row.priority),
        downloads=row.downloads,
        strikes=row.strikes,
        need=Room(row.memory_class, row.disk_class, row.time_class),
        ready_at=row.ready_at,
        started=row.lease_started,
        builder="the next that asks" if ahead else row.label or (str(row.slave_id) if row.slave_id else ""),
    )


# Asking


def request(
    conn: Connection, project: str, version: str | None, target: Target | None, *, policy: Policy, urgent: bool
) -> Requested:
    """Have a release (by default the newest that is wanted) built for a target (by default: all), as if it had not
    failed; ``urgent``: before everything else, even if it is not a release that the farm would build by itself."""
    name = str(canonicalize_name(project))
    project_id = conn.execute(select(projects.c.id).where(projects.c.name == name)).scalar_one_or_none()
    if project_id is None:
        raise UnknownError(f"{name}: no such project is known here")
    release_id, spelled = _release(conn, project_id, name, version)
    conn.execute(select(releases.c.id).where(releases.c.id == release_id).with_for_update(key_share=True))
    if urgent and version is not None:
        conn.execute(update(releases).where(releases.c.id == release_id).values(wanted=true()))
    forgotten = _forget(conn, release_id, target)
    planning.replan_release(conn, release_id, policy=policy)
    if urgent:
        _hurry(conn, release_id, target)
    mark_stale(conn, PageKind.PROJECT, name, "requested")
    wake.notify(conn, wake.CONTROL)  # what was taken ahead goes back, so that nothing is before this
    wake.notify(conn, wake.JOBS)
    return _requested(conn, release_id, name, spelled, forgotten, [target] if target else target_rows.enabled(conn))


def _release(conn: Connection, project_id: int, name: str, version: str | None) -> tuple[int, str]:
    found = select(releases.c.id, releases.c.version).where(releases.c.project_id == project_id)
    if version is None:
        newest = found.where(releases.c.wanted).order_by(releases.c.sort_key.desc(), releases.c.id.desc())
        row = conn.execute(newest.limit(1)).one_or_none()
        if row is None:
            raise UnknownError(f"{name}: no release of it is built here; name a version")
        return row.id, row.version
    row = conn.execute(found.where(releases.c.version == version)).one_or_none()
    wanted = parse_or_none(version)
    if row is None and wanted is not None:
        row = next((one for one in conn.execute(found.limit(VERSIONS)) if parse_or_none(one.version) == wanted), None)
    if row is None:
        raise UnknownError(f"{name} {version}: no such release is known here")
    return row.id, row.version


def _forget(conn: Connection, release_id: int, target: Target | None) -> int:
    """Let failures count no more, and the jobs that there are begin anew."""
    failed = [builds.c.release_id == release_id, builds.c.outcome == Outcome.FAILED, ~builds.c.superseded]
    struck = [jobs.c.release_id == release_id, jobs.c.lease_token.is_(None)]
    if target is not None:
        failed.append(builds.c.target_id == target.id)
        struck.append(jobs.c.target_id == target.id)
    conn.execute(update(jobs).where(*struck).values(strikes=0, resting=false(), ready_at=func.now()))
    return conn.execute(update(builds).where(*failed).values(superseded=True)).rowcount


def _hurry(conn: Connection, release_id: int, target: Target | None) -> None:
    mine = [jobs.c.release_id == release_id]
    if target is not None:
        mine.append(jobs.c.target_id == target.id)
    conn.execute(update(jobs).where(*mine).values(priority=Priority.REQUEST.value))


def _requested(
    conn: Connection, release_id: int, name: str, version: str, forgotten: int, targets: Sequence[Target]
) -> Requested:
    these = {target.id: target.name for target in targets if target.id is not None}
    query = select(jobs.c.target_id, jobs.c.lease_slave_id).where(jobs.c.release_id == release_id)
    found = conn.execute(query.where(among(jobs.c.target_id, these))).all()
    there = {row.target_id: row.lease_slave_id for row in found}
    return Requested(
        project=name,
        version=version,
        forgotten=forgotten,
        queued=tuple(these[id_] for id_, slave in there.items() if slave is None),
        building=tuple(these[id_] for id_, slave in there.items() if slave is not None),
        left=tuple(label for id_, label in these.items() if id_ not in there),
    )


def in_words(time: timedelta) -> str:
    """A length of time, short."""
    seconds = int(time.total_seconds())
    if seconds < 120:
        return f"{max(seconds, 0)} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
