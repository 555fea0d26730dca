# SPDX-License-Identifier: BSD-3-Clause
"""Everything that a builder made: listed, and taken back in batches.

A batch is one transaction: wheels move from ``files`` to ``withdrawn``, their builds count no more, their releases are
planned again and their pages marked. Nothing else says how far it is: begun again after a kill, it finds what is left.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select, text, true, update

from piwheels.db import plan_rows, wake
from piwheels.db.arrays import among
from piwheels.db.pages import mark_all_stale
from piwheels.db.planning import replan
from piwheels.db.tables import builds, files, jobs, projects, releases, slaves, targets, withdrawn
from piwheels.master.planner import Policy
from piwheels.vocabulary import FailureReason, PageKind
from piwheels.wire.plain import builder_keys, is_address

BATCH = 100  #: builds taken back in one transaction
PAGE = 500  #: builds listed with one query


@dataclass(frozen=True, slots=True)
class Reach:
    """What is meant: the builders' numbers, and the earliest end of a build; None: all of them."""

    slave_ids: tuple[int, ...]
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that a build made."""

    filename: str
    size: int
    sha256: bytes
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Made:
    """A build, for people."""

    id: int
    finished: datetime
    project: str
    version: str
    target: str
    reason: FailureReason | None  #: None: it succeeded
    superseded: bool
    wheels: tuple[Wheel, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What there is to take back."""

    builds: int  #: that count, or have wheels
    wheels: int
    projects: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one batch came to."""

    builds: int = 0
    wheels: int = 0
    after: int = 0  #: the last build of it; where the next batch begins
    finished: bool = False


def builders_of(conn: Connection, slave_id: int, key: str) -> tuple[int, ...]:
    """The builder; or, if it is an address, that and all builders that came from there."""
    if not is_address(key):
        return (slave_id,)
    found = conn.scalars(select(slaves.c.id).where(slaves.c.key.in_(builder_keys(key))))
    return tuple(sorted({slave_id, *found}))


def made(conn: Connection, reach: Reach, *, after: int = 0, limit: int = PAGE) -> list[Made]:
    """The next builds after one, in order of number, failed ones too."""
    query = (
        select(
            builds.c.id,
            builds.c.finished,
            builds.c.reason,
            builds.c.superseded,
            projects.c.name,
            releases.c.version,
            targets.c.name.label("target"),
        )
        .join(releases, releases.c.id == builds.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.id == builds.c.target_id)
    )
    rows = conn.execute(_within(query, reach, after).order_by(builds.c.id).limit(limit)).all()
    wheels = _wheels(conn, [row.id for row in rows])
    return [
        Made(row.id, row.finished, row.name, row.version, row.target, row.reason, row.superseded, tuple(wheels[row.id]))
        for row in rows
    ]


def _wheels(conn: Connection, ids: Sequence[int]) -> dict[int, list[Wheel]]:
    found: dict[int, list[Wheel]] = defaultdict(list)
    for table, gone in ((files, False), (withdrawn, True)):
        columns = (table.c.build_id, table.c.filename, table.c.size, table.c.sha256)
        for row in conn.execute(select(*columns).where(among(table.c.build_id, ids)).order_by(table.c.filename)):
            found[row.build_id].append(Wheel(row.filename, row.size, bytes(row.sha256), gone))
    return found


def scope(conn: Connection, reach: Reach) -> Scope:
    """How much there is to take back."""
    mine = _left(_within(select(builds.c.id, builds.c.release_id), reach, 0)).subquery()
    query = select(
        func.count(),
        func.count(releases.c.project_id.distinct()),
        select(func.count()).select_from(files.join(mine, mine.c.id == files.c.build_id)).scalar_subquery(),
    ).select_from(mine.join(releases, releases.c.id == mine.c.release_id))
    row = conn.execute(query).one()
    return Scope(builds=row[0], projects=row[1], wheels=row[2])


def stop_builds(conn: Connection, slave_ids: Collection[int]) -> int:
    """Let nothing come of what these builders are building: a result that arrives from now on is not recorded. What
    becomes of the jobs is decided once their builders are told. How many there were."""
    held = select(jobs.c.release_id).where(among(jobs.c.lease_slave_id, list(slave_ids)))
    conn.execute(held.order_by(jobs.c.release_id, jobs.c.target_id).with_for_update())
    stop = update(jobs).where(among(jobs.c.lease_slave_id, list(slave_ids))).values(cancelled=true())
    stopped = conn.execute(stop).rowcount
    wake.notify(conn, wake.CONTROL)
    return stopped


def withdraw_next(conn: Connection, reach: Reach, *, policy: Policy, after: int = 0, limit: int = BATCH) -> Step:
    """Take back the next builds after one, with their wheels. Call it again until it has finished."""
    columns = (builds.c.id, builds.c.release_id)
    query = _left(_within(select(*columns), reach, after)).order_by(builds.c.id).limit(limit)
    rows = conn.execute(query).all()
    if not rows:
        return Step(after=after, finished=True)
    ids, release_ids = [row.id for row in rows], {row.release_id for row in rows}
    plan_rows.lock(conn, release_ids)  # before what hangs from them, in the order in which everybody does
    conn.execute(update(builds).where(among(builds.c.id, ids), ~builds.c.superseded).values(superseded=true()))
    gone = conn.execute(_MOVE, {"ids": ids}).rowcount
    replan(conn, release_ids, policy=policy)
    mine = among(releases.c.id, list(release_ids))
    names = conn.scalars(select(projects.c.name).join(releases, releases.c.project_id == projects.c.id).where(mine))
    mark_all_stale(conn, PageKind.PROJECT, list(names), "what a builder made is withdrawn")
    return Step(builds=len(rows), wheels=gone, after=ids[-1], finished=len(rows) < limit)


_MOVE = text("""
    WITH gone AS (
        DELETE FROM files WHERE build_id = ANY(CAST(:ids AS bigint[])) RETURNING build_id, filename, size, sha256
    ), told AS (
        INSERT INTO news (kind, project, version, target, build_id, files)
        SELECT 'withdrawn', p.name, r.version, t.name, b.id, x.names
        FROM (SELECT build_id, array_agg(filename ORDER BY filename) AS names FROM gone GROUP BY build_id) AS x
            JOIN builds b ON b.id = x.build_id JOIN releases r ON r.id = b.release_id
            JOIN projects p ON p.id = r.project_id JOIN targets t ON t.id = b.target_id
    )
    INSERT INTO withdrawn (build_id, filename, size, sha256) SELECT build_id, filename, size, sha256 FROM gone
    ON CONFLICT (build_id, filename) DO UPDATE SET sha256 = excluded.sha256, withdrawn_at = now()
""")


def _within(query: Select[Any], reach: Reach, after: int) -> Select[Any]:
    query = query.where(among(builds.c.slave_id, list(reach.slave_ids)), builds.c.id > after)
    return query if reach.since is None else query.where(builds.c.finished >= reach.since)


def _left(query: Select[Any]) -> Select[Any]:
    """Of these builds those that were not taken back yet. One that a new sdist superseded has its wheels still."""
    return query.where(or_(~builds.c.superseded, select(files.c.id).where(files.c.build_id == builds.c.id).exists()))
