# SPDX-License-Identifier: BSD-3-Clause
"""The queue of jobs: leasing one, keeping leases alive, ending them. What an ended attempt entails is db/builds.

Each function belongs into one transaction of its caller and is harmless to repeat, but for ``claim``: if its commit's
confirmation is lost, the lease it made is returned when the slave registers again or when it expires.
"""

import logging
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from piwheels.db import builds
from piwheels.db import jobs as rows
from piwheels.db.builds import Attempt, RetryPolicy
from piwheels.db.planning import replan_release
from piwheels.db.tables import jobs, projects, releases, slaves, switches, targets, upstream_files
from piwheels.master.session import Lease
from piwheels.vocabulary import FailureReason, Outcome, SlaveWish, UpstreamKind
from piwheels.wire.messages import Order

logger = logging.getLogger(__name__)

MAX_UNUSABLE = 10  #: jobs without an sdist that one claim puts aside before it gives up for now
PUT_ASIDE = timedelta(hours=1)  #: how long a job rests whose sdist the planner believes in and we cannot find
SWEEP = 100  #: expired leases ended in one transaction


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms jobs are handed out."""

    lease: timedelta
    build_timeout: timedelta
    memory_limit: int  #: bytes; 0: what the builder allows


@dataclass(frozen=True, slots=True)
class Standing:
    """What a slave may do at the moment."""

    enabled: bool
    wish: SlaveWish
    paused: bool  #: the whole farm is
    target_id: int | None  #: the enabled target it serves


def standing(conn: Connection, slave_id: int) -> Standing | None:
    """How things stand with a slave; None when it is not enrolled any more."""
    paused = select(func.count()).where(switches.c.name == "paused", switches.c.value == "1").scalar_subquery()
    query = (
        select(slaves.c.enabled, slaves.c.wish, targets.c.id.label("target_id"), paused.label("paused"))
        .select_from(slaves.outerjoin(targets, and_(targets.c.id == slaves.c.target_id, targets.c.enabled)))
        .where(slaves.c.id == slave_id)
    )
    row = conn.execute(query).one_or_none()
    return None if row is None else Standing(row.enabled, row.wish, bool(row.paused), row.target_id)


def claim(conn: Connection, *, slave_id: int, target_id: int, terms: Terms) -> Lease | None:
    """Lease the first job of a target to a slave; None when there is nothing to do."""
    for _ in range(MAX_UNUSABLE):
        leased = conn.execute(_lease_first(slave_id, target_id, terms)).one_or_none()
        if leased is None:
            return None
        lease = _lease(conn, leased.lease_token, terms)
        if lease is not None:
            return lease
        _put_aside(conn, leased.lease_token, leased.release_id)
    return None


def lease_by_token(conn: Connection, token: str, *, slave_id: int, terms: Terms) -> Lease | None:
    """The live lease of this slave under this token, for a slave that resumes; None when it does not hold any more."""
    uuid_ = rows.token_or_none(token)
    if uuid_ is None:
        return None
    held = select(jobs.c.cancelled).where(jobs.c.lease_token == uuid_, jobs.c.lease_slave_id == slave_id)
    if conn.execute(held).scalar_one_or_none() is not False:
        return None
    return _lease(conn, uuid_, terms)


def renew(conn: Connection, tokens: Collection[str], *, lease: timedelta) -> frozenset[str]:
    """Prolong these leases; returns the tokens that hold. A cancelled one does not."""
    wanted = {u for token in tokens if (u := rows.token_or_none(token)) is not None}
    if not wanted:
        return frozenset()
    statement = (
        update(jobs)
        .where(jobs.c.lease_token.in_(sorted(wanted)), ~jobs.c.cancelled)
        .values(lease_expires=func.now() + lease)
        .returning(jobs.c.lease_token)
    )
    return frozenset(token.hex for token in conn.execute(statement).scalars())


def prolong_all(conn: Connection, *, lease: timedelta) -> int:
    """Give every lease its full time again: the master was away, so that builders were silent is not their fault."""
    late = update(jobs).where(jobs.c.lease_token.is_not(None), jobs.c.lease_expires < func.now() + lease)
    return conn.execute(late.values(lease_expires=func.now() + lease)).rowcount


def cancelled(conn: Connection, tokens: Collection[str]) -> frozenset[str]:
    """Which of these leases were cancelled by the operator or the planner."""
    wanted = [u for token in tokens if (u := rows.token_or_none(token)) is not None]
    query = select(jobs.c.lease_token).where(jobs.c.lease_token.in_(wanted), jobs.c.cancelled)
    return frozenset(token.hex for token in conn.execute(query).scalars())


def end_cancelled(conn: Connection, token: str) -> None:
    """End a cancelled lease; the planner says whether there is to be another job."""
    job = rows.lock_leased(conn, uuid.UUID(hex=token))
    if job is not None and job.cancelled:
        builds.abandon(conn, job)


def unclaim(conn: Connection, token: str) -> None:
    """Take back a lease whose slave was never told of it, or ended in order; no strike."""
    job = rows.lock_leased(conn, uuid.UUID(hex=token))
    if job is not None and job.cancelled:
        builds.abandon(conn, job)
    elif job is not None:
        rows.unlease(conn, job.token)


def release(conn: Connection, token: str, reason: FailureReason, why: str, *, policy: RetryPolicy) -> bool:
    """Return a lease to the queue as a failed attempt, with a strike; whether it was live."""
    uuid_ = rows.token_or_none(token)
    job = None if uuid_ is None else rows.lock_leased(conn, uuid_)
    if job is None:
        return False
    if job.cancelled:
        builds.abandon(conn, job)
        return True
    now = conn.execute(select(func.now())).scalar_one()
    attempt = Attempt(Outcome.FAILED, reason, why, builds.elapsed(job.started, now))
    builds.end_attempt(conn, job, attempt, policy=policy)
    return True


def release_all_of(
    conn: Connection, slave_id: int, except_token: str | None, *, policy: RetryPolicy, why: str
) -> tuple[str, ...]:
    """Return every lease of a slave but one to the queue, as lost; the tokens they had."""
    held = select(jobs.c.lease_token).where(jobs.c.lease_slave_id == slave_id).order_by(jobs.c.release_id)
    tokens = [token.hex for token in conn.execute(held).scalars() if token.hex != except_token]
    return tuple(token for token in tokens if release(conn, token, FailureReason.LOST, why, policy=policy))


def expire(conn: Connection, *, policy: RetryPolicy) -> tuple[str, ...]:
    """End leases whose time is over, a bounded number of them, as lost; the tokens they had."""
    overdue = (
        select(jobs.c.lease_token)
        .where(jobs.c.lease_expires <= func.now())
        .order_by(jobs.c.release_id, jobs.c.target_id)
        .limit(SWEEP)
    )
    why = "nothing was heard of the builder for longer than the lease lasts"
    tokens = [token.hex for token in conn.execute(overdue).scalars()]
    return tuple(
        t for t in tokens if _still_overdue(conn, t) and release(conn, t, FailureReason.LOST, why, policy=policy)
    )


def _still_overdue(conn: Connection, token: str) -> bool:
    """Lock an overdue lease, unless it was renewed or ended since it was listed, or is being recorded right now."""
    job = rows.lock_leased(conn, uuid.UUID(hex=token))
    if job is None:
        return False
    query = select(jobs.c.lease_expires <= func.now()).where(jobs.c.lease_token == job.token)
    return bool(conn.execute(query).scalar_one_or_none())


def _lease_first(slave_id: int, target_id: int, terms: Terms) -> "ReturningUpdate[Any]":
    """Choose and lease in one statement. The order is the index jobs_claim's, so that it costs the same however long
    the queue is; SKIP LOCKED so that nobody waits for another's choice."""
    first = (
        select(jobs.c.release_id)
        .where(jobs.c.target_id == target_id, jobs.c.lease_token.is_(None), jobs.c.ready_at <= func.now())
        .order_by(jobs.c.priority, jobs.c.downloads.desc(), jobs.c.released.desc(), jobs.c.release_id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("first")
    )
    return (
        update(jobs)
        .where(jobs.c.release_id == first.c.release_id, jobs.c.target_id == target_id)
        .values(
            lease_slave_id=slave_id,
            lease_token=uuid.uuid4(),
            lease_started=func.now(),
            lease_expires=func.now() + terms.lease,
            cancelled=False,
        )
        .returning(jobs.c.lease_token, jobs.c.release_id)
    )


def _lease(conn: Connection, token: uuid.UUID, terms: Terms) -> Lease | None:
    """The lease under this token with all its builder needs; None when its release has no usable sdist."""
    kind = upstream_files.c.filename
    sdist = (
        select(upstream_files)
        .where(
            upstream_files.c.release_id == jobs.c.release_id,
            upstream_files.c.kind == UpstreamKind.SDIST,
            upstream_files.c.url.is_not(None),
            upstream_files.c.sha256.is_not(None),
        )
        # PEP 625 wants .tar.gz; .zip is what the rest of them are.
        .order_by(upstream_files.c.yanked, _rank(kind), upstream_files.c.id)
        .limit(1)
        .lateral("sdist")
    )
    query = (
        select(
            jobs, projects.c.name, projects.c.display_name, releases.c.version, targets.c.name.label("target"), sdist
        )
        .select_from(jobs)
        .join(releases, releases.c.id == jobs.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.id == jobs.c.target_id)
        .join(sdist, sdist.c.release_id == jobs.c.release_id)
        .where(jobs.c.lease_token == token)
    )
    row = conn.execute(query).one_or_none()
    return None if row is None else _lease_of(row, terms)


def _lease_of(row: Row[Any], terms: Terms) -> Lease:
    return Lease(
        token=row.lease_token.hex,
        release_id=row.release_id,
        target_id=row.target_id,
        project=row.name,
        package=row.display_name,
        version=row.version,
        order=Order(
            token=row.lease_token.hex,
            target=row.target,
            sdist_name=row.filename,
            sdist_url=row.url,
            sdist_sha256=bytes(row.sha256).hex(),
            sdist_size=row.size,
            time_limit=terms.build_timeout,
            memory_limit=terms.memory_limit * 2 ** min(row.memory_class, 4),
        ),
    )


def _rank(filename: "ColumnElement[str]") -> "ColumnElement[int]":
    return case((filename.endswith(".tar.gz"), 0), (filename.endswith(".zip"), 1), else_=2)


def _put_aside(conn: Connection, token: uuid.UUID, release_id: int) -> None:
    """A job without an sdist should not be there: let the planner look again, and come back to it later if it stays."""
    rows.unlease(conn, token)
    rest = update(jobs).where(jobs.c.release_id == release_id, jobs.c.lease_token.is_(None))
    conn.execute(rest.values(ready_at=func.now() + PUT_ASIDE))
    replan_release(conn, release_id)
    logger.warning("release %d has a job but no sdist that can be built; put aside", release_id)
