# SPDX-License-Identifier: BSD-3-Clause
"""What earlier builds of a project taught about what it needs: rows of ``needs``, and the classes of its jobs.

What is learnt from a build, piwheels/master/needs.py decides. Every statement here is about given projects.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, delete, func, or_, select, update

from piwheels.db.arrays import among, insert_rows, rows_of
from piwheels.db.jobs import LeasedJob
from piwheels.db.tables import jobs, needs, releases, slaves
from piwheels.master import needs as limits
from piwheels.master.needs import Amounts, Room, after_failure, after_success, room_of
from piwheels.vocabulary import FailureReason

Key = tuple[int, int]  #: project id, target id

SHORTAGES = frozenset({FailureReason.MEMORY, FailureReason.DISK, FailureReason.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Lesson:
    """An attempt that has ended, for what it teaches."""

    job: LeasedJob
    reason: FailureReason | None  #: None: it succeeded
    took: Amounts

    @property
    def key(self) -> Key:
        """What it teaches about."""
        return self.job.project_id, self.job.target_id


def learn(
    conn: Connection, lessons: Sequence[Lesson], *, build_timeout: timedelta, memory_limit: int
) -> dict[UUID, Room]:
    """What these attempts say about what their projects need, by token; remembered where it is news."""
    telling = [one for one in lessons if one.reason is None or one.reason in SHORTAGES]
    short = [one for one in telling if one.reason is not None]
    had = _had(conn, {one.job.slave_id for one in short if one.job.slave_id is not None}) if short else {}
    learnt: dict[UUID, Room] = {}
    news: dict[Key, Room] = {}
    for one in telling:
        old = news.get(one.key, one.job.known)
        if one.reason is None:
            new = after_success(old, one.took, build_timeout=build_timeout)
        else:
            amounts = had.get(one.job.slave_id or 0, Amounts())
            limit = limits.memory_limit(memory_limit, one.job.need)
            memory = min(amounts.memory or limit, limit) if limit else amounts.memory
            has = room_of(Amounts(memory, amounts.disk), build_timeout=build_timeout)
            new = after_failure(old.largest(one.job.need), one.reason, has)
        learnt[one.job.token] = new
        if new != old:
            news[one.key] = new
    note(conn, news)
    return learnt


def _had(conn: Connection, slave_ids: Collection[int]) -> dict[int, Amounts]:
    """What these builders said last of themselves."""
    rows = conn.execute(select(slaves.c.id, slaves.c.stats).where(among(slaves.c.id, slave_ids)))
    return {row.id: Amounts(_whole(row.stats, "mem_size"), _whole(row.stats, "disk_free")) for row in rows}


def _whole(stats: Mapping[str, Any] | None, name: str) -> int | None:
    value = (stats or {}).get(name)
    return value if isinstance(value, int) else None


def note(conn: Connection, rooms: Mapping[Key, Room]) -> None:
    """Remember what these need now; nothing in particular needs no row. In order of key, so that two transactions that
    note the same cannot wait for each other."""
    if taught := [_row(key, room) for key, room in sorted(rooms.items(), key=lambda item: item[0]) if room != Room()]:
        row = insert_rows(needs, taught)
        columns = ("memory_class", "disk_class", "time_class")
        conn.execute(
            row.on_conflict_do_update(
                index_elements=[needs.c.project_id, needs.c.target_id],
                set_={name: row.excluded[name] for name in columns},
            )
        )
    if gone := [{"project_id": key[0], "target_id": key[1]} for key, room in sorted(rooms.items()) if room == Room()]:
        these = rows_of(needs, gone)
        mine = and_(needs.c.project_id == these.c.project_id, needs.c.target_id == these.c.target_id)
        conn.execute(delete(needs).where(mine))


def apply_to(conn: Connection, release_ids: Collection[int]) -> int:
    """Give the jobs of these releases that nobody has the classes that their projects are known to need; how many were
    changed. For whoever makes jobs: in the transaction that made them."""
    mine = and_(
        among(jobs.c.release_id, release_ids),
        releases.c.id == jobs.c.release_id,
        needs.c.project_id == releases.c.project_id,
        needs.c.target_id == jobs.c.target_id,
        jobs.c.lease_token.is_(None),
    )
    more = or_(
        jobs.c.memory_class < needs.c.memory_class,
        jobs.c.disk_class < needs.c.disk_class,
        jobs.c.time_class < needs.c.time_class,
    )
    greater = {
        name: func.greatest(jobs.c[name], needs.c[name]) for name in ("memory_class", "disk_class", "time_class")
    }
    return conn.execute(update(jobs).where(mine, more).values(greater)).rowcount


def _row(key: Key, room: Room) -> dict[str, Any]:
    return {
        "project_id": key[0],
        "target_id": key[1],
        "memory_class": room.memory,
        "disk_class": room.disk,
        "time_class": room.time,
    }
