# SPDX-License-Identifier: BSD-3-Clause
"""What an operator may change while the farm runs; each wakes the roles it concerns."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, select, true, update

from piwheels.db import builds, roles, wake
from piwheels.db import jobs as job_rows
from piwheels.db.arrays import among
from piwheels.db.build_rows import Attempt, elapsed
from piwheels.db.builds import RetryPolicy
from piwheels.db.status import now
from piwheels.db.tables import jobs, projects, releases, slaves, targets
from piwheels.vocabulary import FailureReason, Outcome

MOST = 1000  #: builds in hand looked up at once

STOPPED = "stopped by the operator"  #: what is said of a build that is not to be tried again


@dataclass(frozen=True, slots=True)
class Running:
    """A build in a builder's hands."""

    slave_id: int
    label: str  #: the builder's
    token: str
    project: str
    version: str
    target: str
    cancelled: bool  #: its builder is to be told to drop it

    def __str__(self) -> str:
        return f"{self.project} {self.version} for {self.target}"


def running(conn: Connection, *, slave_ids: Collection[int] | None = None, project: str | None = None) -> list[Running]:
    """What is being built by these builders, or of this project (by its canonical name); the longest first."""
    query = (
        select(
            jobs.c.lease_slave_id,
            jobs.c.lease_token,
            jobs.c.cancelled,
            slaves.c.label,
            projects.c.name,
            releases.c.version,
            targets.c.name.label("target"),
        )
        .join(slaves, slaves.c.id == jobs.c.lease_slave_id)
        .join(releases, releases.c.id == jobs.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.id == jobs.c.target_id)
        .where(jobs.c.lease_slave_id.is_not(None))
    )
    if slave_ids is not None:
        query = query.where(among(jobs.c.lease_slave_id, list(slave_ids)))
    if project is not None:
        query = query.where(projects.c.name == project)
    rows = conn.execute(query.order_by(jobs.c.lease_started, jobs.c.release_id).limit(MOST))
    return [
        Running(
            slave_id=row.lease_slave_id,
            label=row.label,
            token=row.lease_token.hex,
            project=row.name,
            version=row.version,
            target=row.target,
            cancelled=row.cancelled,
        )
        for row in rows
    ]


def cancel(conn: Connection, found: Collection[Running]) -> None:
    """Have builders drop these builds at their next word; the planner then says whether there is to be another job."""
    tokens = [token for one in found if (token := job_rows.token_or_none(one.token)) is not None]
    job_rows.lock_jobs(conn, tokens)
    conn.execute(update(jobs).where(among(jobs.c.lease_token, tokens)).values(cancelled=true()))
    wake.notify(conn, wake.CONTROL)


def end(conn: Connection, found: Collection[Running], *, back: bool, policy: RetryPolicy) -> frozenset[str]:
    """End these builds now, whatever their builders do; the tokens that were live.

    ``back``: the jobs are in the queue again at once, with no strike. Otherwise each is a failed build, and is not
    tried again for that target until the operator asks.
    """
    tokens = [token for one in found if (token := job_rows.token_or_none(one.token)) is not None]
    held = list(job_rows.lock_all_leased(conn, tokens).values())
    free = [job for job in held if back or job.cancelled or job.recorded]
    moment = now(conn)
    failed = [
        builds.Ending(job, Attempt(Outcome.FAILED, FailureReason.PACKAGE, STOPPED, elapsed(job.started, moment)))
        for job in held
        if job not in free
    ]
    builds.abandon_all(conn, free, policy=policy)
    builds.end_all(conn, failed, policy=policy)
    wake.notify(conn, wake.CONTROL)
    wake.notify(conn, wake.JOBS)
    return frozenset(job.token.hex for job in held)


def pause(conn: Connection, paused: bool) -> bool:
    """Stop handing out jobs, or go on; whether that changed anything. Builds in hand are finished either way."""
    changed = roles.set_paused(conn, paused)
    wake.notify(conn, wake.CONTROL)
    if not paused:
        wake.notify(conn, wake.JOBS)
    return changed


def cancel_build(conn: Connection, project: str, version: str, *, target: str) -> bool:
    """Have the builder drop this build at its next word; whether it is being built."""
    meant = (
        select(releases.c.id, targets.c.id)
        .join_from(releases, projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.name == target)
        .where(projects.c.name == project, releases.c.version == version)
    )
    row = conn.execute(meant).one_or_none()
    if row is None:
        return False
    here = (jobs.c.release_id == row[0], jobs.c.target_id == row[1], jobs.c.lease_token.is_not(None))
    found = conn.execute(update(jobs).where(*here).values(cancelled=True)).rowcount > 0
    wake.notify(conn, wake.CONTROL)
    return found
