# SPDX-License-Identifier: BSD-3-Clause
"""Single jobs as rows: found by their lease, held, given back, dropped. What that is for, queue and builds know.

Locks are taken in one order, so that transactions that end attempts cannot wait for each other: release, job, build,
files, pages.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update

from piwheels.db.tables import jobs, projects, releases
from piwheels.vocabulary import Priority

LONGEST_WAIT = timedelta(days=1)  #: between two tries of a job, however many strikes it has


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """A job that is being built, its row and its release locked by this transaction."""

    release_id: int
    target_id: int
    slave_id: int
    token: UUID
    started: datetime
    strikes: int
    cancelled: bool
    project: str  #: canonical name


def token_or_none(text: str | None) -> UUID | None:
    """A lease token as the database's type; None for what is not 32 hex digits (it comes from peers)."""
    if text is None or len(text) != 32 or not all(c in "0123456789abcdef" for c in text):
        return None
    return UUID(hex=text)


def lock_leased(conn: Connection, token: UUID) -> LeasedJob | None:
    """The job leased under this token, locked together with its release; None when no job is.

    The release's lock makes planners of the same release take turns: each sees what the one before it committed.
    """
    release = select(jobs.c.release_id).where(jobs.c.lease_token == token)
    release_id = conn.execute(release).scalar_one_or_none()
    if release_id is None:
        return None
    conn.execute(select(releases.c.id).where(releases.c.id == release_id).with_for_update(key_share=True))
    row = conn.execute(
        select(jobs, projects.c.name)
        .join(releases, releases.c.id == jobs.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .where(jobs.c.lease_token == token)
        .with_for_update(of=jobs)
    ).one_or_none()
    if row is None:
        return None
    return LeasedJob(
        release_id=row.release_id,
        target_id=row.target_id,
        slave_id=row.lease_slave_id,
        token=row.lease_token,
        started=row.lease_started,
        strikes=row.strikes,
        cancelled=row.cancelled,
        project=row.name,
    )


def drop(conn: Connection, job: LeasedJob) -> None:
    """The job is done with."""
    conn.execute(delete(jobs).where(_is(job)))


def give_back(conn: Connection, job: LeasedJob, *, wait: timedelta, more_memory: bool) -> None:
    """Take the lease away and count a strike; the job is ready again, as a retry, after ``wait``."""
    conn.execute(
        update(jobs)
        .where(_is(job))
        .values(
            lease_slave_id=None,
            lease_token=None,
            lease_started=None,
            lease_expires=None,
            strikes=jobs.c.strikes + 1,
            memory_class=jobs.c.memory_class + (1 if more_memory else 0),
            priority=Priority.RETRY.value,
            ready_at=func.now() + wait,
        )
    )


def unlease(conn: Connection, token: UUID) -> bool:
    """Take back a lease that nobody was told of, as if it had never been; whether there was one."""
    values = {"lease_slave_id": None, "lease_token": None, "lease_started": None, "lease_expires": None}
    return conn.execute(update(jobs).where(jobs.c.lease_token == token).values(values)).rowcount == 1


def back_off(retry_after: timedelta, strikes: int) -> timedelta:
    """How long a job rests after its ``strikes``th strike: doubling, bounded."""
    factor: int = 2 ** min(max(strikes - 1, 0), 16)
    return min(retry_after * factor, LONGEST_WAIT)


def _is(job: LeasedJob) -> ColumnElement[bool]:
    return and_(jobs.c.release_id == job.release_id, jobs.c.target_id == job.target_id)
