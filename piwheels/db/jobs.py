# SPDX-License-Identifier: BSD-3-Clause
"""Jobs as rows: found by their lease, held, given back, dropped. What that is for, queue and builds know.

Locks are taken in one order, so that transactions that end attempts cannot wait for each other: releases in order of
id, their jobs, names, builds, files, pages.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Integer,
    SmallInteger,
    delete,
    func,
    select,
    true,
    update,
)
from sqlalchemy.types import TypeEngine

from piwheels.db import direct
from piwheels.db.arrays import among, given, rows_of
from piwheels.db.tables import jobs
from piwheels.master.needs import Room
from piwheels.vocabulary import Priority

LONGEST_WAIT = timedelta(days=1)  #: between two tries of a job, however many strikes it has

_RETURNED: Mapping[str, TypeEngine[Any]] = {
    "release_id": BigInteger(),
    "target_id": Integer(),
    "seconds": Double(),
    "memory_class": SmallInteger(),
    "disk_class": SmallInteger(),
    "time_class": SmallInteger(),
}

NO_LEASE: Mapping[str, None] = {
    "lease_slave_id": None,
    "lease_token": None,
    "lease_started": None,
    "lease_expires": None,
}


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """A job that is being built, its row and its release locked by this transaction."""

    release_id: int
    target_id: int
    slave_id: int | None  #: None: it waits in dispatch's hands
    token: UUID
    started: datetime
    strikes: int
    cancelled: bool
    need: Room
    known: Room  #: what its project was known to need
    project_id: int
    project: str  #: canonical name
    recorded: int | None  #: the build that has its token: somebody put the job back by hand


@dataclass(frozen=True, slots=True)
class Return:
    """A job that goes back to the queue as a retry."""

    job: LeasedJob
    wait: timedelta
    need: Room


def token_or_none(text: str | None) -> UUID | None:
    """A lease token as the database's type; None for what is not 32 hex digits (it comes from peers)."""
    if text is None or len(text) != 32 or not all(c in "0123456789abcdef" for c in text):
        return None
    return UUID(hex=text)


def lock_leased(conn: Connection, token: UUID) -> LeasedJob | None:
    """The job leased under this token, locked together with its release; None when no job is."""
    return lock_all_leased(conn, [token]).get(token)


def lock_all_leased(conn: Connection, tokens: Collection[UUID]) -> dict[UUID, LeasedJob]:
    """The jobs leased under these tokens, locked together with their releases.

    A release's lock makes planners of the same release take turns: each sees what the one before it committed.
    """
    if not tokens:
        return {}
    held = [_leased(*row) for row in direct.fetch(conn, _LOCK, {"tokens": [token.hex for token in tokens]})]
    return {job.token: job for job in held}


# Rows are locked one after the other, a release before its job, after they were sorted.
_LOCK = f"""
    SELECT j.release_id, j.target_id, j.lease_slave_id, j.lease_token, j.lease_started, j.strikes, j.cancelled,
        j.room, coalesce(n.memory_class * 64 + n.disk_class * 8 + n.time_class, 0), p.id, p.name,
        (SELECT b.id FROM builds b WHERE b.token = j.lease_token)
    FROM jobs j JOIN releases r ON r.id = j.release_id JOIN projects p ON p.id = r.project_id
        LEFT JOIN needs n ON n.project_id = p.id AND n.target_id = j.target_id
    WHERE {direct.among("j.lease_token", "tokens", "uuid")}
    ORDER BY j.release_id, j.target_id
    FOR NO KEY UPDATE OF r FOR UPDATE OF j
"""


def lock_jobs(conn: Connection, tokens: Collection[UUID]) -> None:
    """Lock the jobs leased under these tokens, without their releases; in the order in which everybody does."""
    mine = select(jobs.c.release_id).where(among(jobs.c.lease_token, tokens))
    conn.execute(mine.order_by(jobs.c.release_id, jobs.c.target_id).with_for_update())


def drop(conn: Connection, done: Sequence[LeasedJob]) -> None:
    """These jobs are done with."""
    if done:
        these = rows_of(jobs, [{"release_id": job.release_id, "target_id": job.target_id} for job in done])
        mine = (jobs.c.release_id == these.c.release_id, jobs.c.target_id == these.c.target_id)
        conn.execute(delete(jobs).where(*mine))


def give_back(conn: Connection, returns: Sequence[Return]) -> None:
    """Take the leases away and count a strike; each job is ready again, as a retry, after its wait."""
    if not returns:
        return
    new = given(
        _RETURNED,
        [
            {
                "release_id": one.job.release_id,
                "target_id": one.job.target_id,
                "seconds": one.wait.total_seconds(),
                "memory_class": one.need.memory,
                "disk_class": one.need.disk,
                "time_class": one.need.time,
            }
            for one in returns
        ],
    )
    classes = {name: new.c[name] for name in ("memory_class", "disk_class", "time_class")}
    conn.execute(
        update(jobs)
        .where(jobs.c.release_id == new.c.release_id, jobs.c.target_id == new.c.target_id)
        .values(
            **NO_LEASE,
            **classes,
            strikes=jobs.c.strikes + 1,
            priority=Priority.RETRY.value,
            ready_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, new.c.seconds),
            resting=new.c.seconds > 0,
        )
    )


def unlease(conn: Connection, tokens: Collection[UUID]) -> int:
    """Take back leases as if they had never been; how many there were."""
    return conn.execute(update(jobs).where(among(jobs.c.lease_token, tokens)).values(NO_LEASE)).rowcount


def rest(conn: Connection, release_id: int, wait: timedelta) -> None:
    """Let the jobs of a release that nobody has rest for a while."""
    waiting = update(jobs).where(jobs.c.release_id == release_id, jobs.c.lease_token.is_(None))
    conn.execute(waiting.values(ready_at=func.now() + wait, resting=true()))


def back_off(retry_after: timedelta, strikes: int) -> timedelta:
    """How long a job rests after its ``strikes``th strike: doubling, bounded."""
    factor: int = 2 ** min(max(strikes - 1, 0), 16)
    return min(retry_after * factor, LONGEST_WAIT)


def _leased(
    release_id: int,
    target_id: int,
    slave_id: int | None,
    token: UUID,
    started: datetime,
    strikes: int,
    cancelled: bool,
    need: int,
    known: int,
    project_id: int,
    project: str,
    recorded: int | None,
) -> LeasedJob:
    return LeasedJob(
        release_id=release_id,
        target_id=target_id,
        slave_id=slave_id,
        token=token,
        started=started,
        strikes=strikes,
        cancelled=cancelled,
        need=Room.of_number(need),
        known=Room.of_number(known),
        project_id=project_id,
        project=project,
        recorded=recorded,
    )
