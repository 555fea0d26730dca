# SPDX-License-Identifier: BSD-3-Clause
"""The queue of jobs: leasing them, keeping leases alive, ending them. What an ended attempt entails is db/builds.

Each function belongs into one transaction of its caller and is harmless to repeat, but for claims: if a commit's
confirmation is lost, the lease it made is returned when the slave registers again or when it expires.

Waiting jobs are in three places: ready ones in the index ``jobs_claim``, in the order in which they are handed out;
resting ones outside it until :func:`wake`; leased ones. A lease without a slave is dispatch's own: the job is taken
ahead, for whoever asks next (:func:`assign`). The statement that claims is db/claims'.
"""

import logging
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Integer, Uuid, and_, func, or_, select, text, update
from sqlalchemy.types import TypeEngine

from piwheels.db import builds
from piwheels.db import jobs as rows
from piwheels.db.arrays import among, given
from piwheels.db.build_rows import Attempt, elapsed
from piwheels.db.builds import RetryPolicy
from piwheels.db.claims import Terms, claimed, lease_of, leased
from piwheels.db.planning import replan_release
from piwheels.db.tables import jobs, slaves, switches, targets
from piwheels.master.needs import ANY, Room
from piwheels.master.session import Lease
from piwheels.vocabulary import FailureReason, Outcome, SlaveWish

logger = logging.getLogger(__name__)

MAX_UNUSABLE = 10  #: times that a claim puts jobs without an sdist aside before it gives up for now
PUT_ASIDE = timedelta(hours=1)  #: how long a job rests whose sdist the planner believes in and we cannot find
SWEEP = 100  #: expired leases ended in one transaction
WOKEN = 1000  #: jobs woken in one transaction
AHEAD = timedelta(seconds=60)  #: how long a job stays taken ahead unless it is renewed


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


def clock(conn: Connection) -> float:
    """The database's clock, in seconds since 1970."""
    return float(conn.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())


def fit(conn: Connection) -> dict[int, int]:
    """Who may be given jobs, and of which target: slave id -> target id. Nobody while the farm is paused."""
    paused = select(switches.c.name).where(switches.c.name == "paused", switches.c.value == "1").exists()
    mine = and_(targets.c.id == slaves.c.target_id, targets.c.enabled)
    query = select(slaves.c.id, targets.c.id.label("target_id")).join_from(slaves, targets, mine)
    rows = conn.execute(query.where(slaves.c.enabled, slaves.c.wish == SlaveWish.RUN, ~paused))
    return {row.id: row.target_id for row in rows}


def claim(
    conn: Connection,
    *,
    slave_id: int,
    target_id: int,
    terms: Terms,
    policy: RetryPolicy | None = None,
    room: Room = ANY,
) -> Lease | None:
    """Lease the first job of a target that a slave with this room can take; None when there is nothing to do."""
    found = claim_many(conn, target_id=target_id, terms=terms, limit=1, policy=policy, room=room, slave_id=slave_id)
    return found[0] if found else None


def claim_many(
    conn: Connection,
    *,
    target_id: int,
    terms: Terms,
    limit: int,
    slave_id: int | None = None,
    room: Room = ANY,
    policy: RetryPolicy | None = None,
) -> list[Lease]:
    """Lease the first jobs of a target that need no more than this room, in order; fewer when there are fewer. They are
    the slave's, if one is named; otherwise they are taken ahead, and are nobody's until :func:`assign`."""
    found: list[Lease] = []
    lasts = AHEAD if slave_id is None else terms.lease
    woken = False
    for _ in range(MAX_UNUSABLE):
        taken = claimed(conn, target_id=target_id, room=room, limit=limit - len(found), lasts=lasts, slave_id=slave_id)
        leases = [(job, lease_of(conn, job, terms)) for job in taken]
        found += [lease for _, lease in leases if lease is not None]
        for job, lease in leases:
            if lease is None:
                _put_aside(conn, job.token, job.release_id, policy)
        if len(found) >= limit or (len(taken) < limit and woken):
            break
        if len(taken) < limit:
            woken = True
            if not wake(conn, target_id=target_id):
                break
    return found


def assign(conn: Connection, holders: Mapping[str, int], *, lease: timedelta) -> frozenset[str]:
    """Make jobs that were taken ahead the builds of these slaves, by token; returns the tokens that hold."""
    wanted = {u: slave_id for token, slave_id in holders.items() if (u := rows.token_or_none(token)) is not None}
    if not wanted:
        return frozenset()
    rows.lock_jobs(conn, wanted)
    new = given(_HOLDERS, [{"token": token.hex, "slave_id": slave_id} for token, slave_id in wanted.items()])
    free = or_(jobs.c.lease_slave_id.is_(None), jobs.c.lease_slave_id == new.c.slave_id)
    times = {"lease_started": func.now(), "lease_expires": func.now() + lease}
    statement = update(jobs).where(jobs.c.lease_token == new.c.token, free, ~jobs.c.cancelled)
    held = conn.execute(statement.values(lease_slave_id=new.c.slave_id, **times).returning(jobs.c.lease_token))
    return frozenset(token.hex for token in held.scalars())


_HOLDERS: Mapping[str, TypeEngine[Any]] = {"token": Uuid(), "slave_id": Integer()}


def lease_by_token(conn: Connection, token: str, *, slave_id: int, terms: Terms) -> Lease | None:
    """The live lease under this token, for a slave that resumes; None when it does not hold any more. One that nobody
    has yet becomes this slave's: only dispatch can have told it the token, and was killed before it could say so."""
    uuid_ = rows.token_or_none(token)
    if uuid_ is None or not assign(conn, {token: slave_id}, lease=terms.lease):
        return None
    job = leased(conn, uuid_)
    return None if job is None else lease_of(conn, job, terms)


def renew(conn: Connection, tokens: Collection[str], *, lease: timedelta) -> frozenset[str]:
    """Prolong these leases; returns the tokens that hold. A cancelled one does not."""
    wanted = {u for token in tokens if (u := rows.token_or_none(token)) is not None}
    if not wanted:
        return frozenset()
    rows.lock_jobs(conn, wanted)
    statement = (
        update(jobs)
        .where(among(jobs.c.lease_token, wanted), ~jobs.c.cancelled)
        .values(lease_expires=func.now() + lease)
        .returning(jobs.c.lease_token)
    )
    return frozenset(token.hex for token in conn.execute(statement).scalars())


def prolong_all(conn: Connection, *, lease: timedelta) -> int:
    """Give every builder's lease its full time again, no more and no less: the master was away, or the clock was set,
    and that builders were silent is not their fault."""
    full = func.now() + lease
    off = or_(jobs.c.lease_expires < full, jobs.c.lease_expires > full)
    return conn.execute(update(jobs).where(jobs.c.lease_slave_id.is_not(None), off).values(lease_expires=full)).rowcount


def wake(conn: Connection, *, target_id: int | None = None) -> int:
    """Put jobs whose rest is over where claims find them, a bounded number; how many. A rest that would be longer than
    any is over too: the clock was set back."""
    facts = {"target": target_id, "longest": rows.LONGEST_WAIT + timedelta(minutes=1), "limit": WOKEN}
    return sum(conn.execute(statement, facts).rowcount for statement in _WAKE)


# By address, since the rows are locked by then and cannot move.
_WAKE = tuple(
    text(f"""
        UPDATE jobs SET resting = false WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM jobs
            WHERE resting AND lease_token IS NULL AND ready_at {over}
                AND (CAST(:target AS integer) IS NULL OR target_id = :target)
            ORDER BY ready_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ))
    """)
    for over in ("<= now()", "> now() + CAST(:longest AS interval)")
)


def cancelled(conn: Connection, tokens: Collection[str]) -> frozenset[str]:
    """Which of these leases were cancelled by the operator or the planner."""
    wanted = [u for token in tokens if (u := rows.token_or_none(token)) is not None]
    query = select(jobs.c.lease_token).where(among(jobs.c.lease_token, wanted), jobs.c.cancelled)
    return frozenset(token.hex for token in conn.execute(query).scalars())


def end_cancelled(conn: Connection, token: str, *, policy: RetryPolicy) -> None:
    """End a cancelled lease; the planner says whether there is to be another job."""
    job = rows.lock_leased(conn, uuid.UUID(hex=token))
    if job is not None and job.cancelled:
        builds.abandon(conn, job, policy=policy)


def unclaim(conn: Connection, *tokens: str, policy: RetryPolicy) -> None:
    """Take back leases whose slave was never told of them, or ended in order; no strike."""
    held = rows.lock_all_leased(conn, [uuid.UUID(hex=token) for token in tokens])
    builds.abandon_all(conn, [job for job in held.values() if job.cancelled], policy=policy)
    rows.unlease(conn, [job.token for job in held.values() if not job.cancelled])


def unclaim_ahead(conn: Connection, *, policy: RetryPolicy) -> int:
    """Take back every lease that is kept for whoever asks next: whoever kept them is gone; how many there were."""
    kept = select(jobs.c.lease_token).where(jobs.c.lease_expires.is_not(None), jobs.c.lease_slave_id.is_(None))
    tokens = [token.hex for token in conn.execute(kept).scalars()]
    unclaim(conn, *tokens, policy=policy)
    return len(tokens)


def release(conn: Connection, token: str, reason: FailureReason, why: str, *, policy: RetryPolicy) -> bool:
    """Return a lease to the queue as a failed attempt, with a strike; whether it was live."""
    uuid_ = rows.token_or_none(token)
    job = None if uuid_ is None else rows.lock_leased(conn, uuid_)
    if job is None:
        return False
    if job.cancelled:
        builds.abandon(conn, job, policy=policy)
        return True
    now = conn.execute(select(func.now())).scalar_one()
    attempt = Attempt(Outcome.FAILED, reason, why, elapsed(job.started, now))
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
    """End leases whose time is over, a bounded number of them, as lost; the tokens they had. Jobs that were only taken
    ahead go back as if they had not been."""
    overdue = (
        select(jobs.c.lease_token).where(jobs.c.lease_expires <= func.now()).order_by(jobs.c.lease_expires).limit(SWEEP)
    )
    why = "nothing was heard of the builder for longer than the lease lasts"
    tokens = [token.hex for token in conn.execute(overdue).scalars()]
    return tuple(t for t in tokens if _end_overdue(conn, t, why, policy))


def _end_overdue(conn: Connection, token: str, why: str, policy: RetryPolicy) -> bool:
    """End an overdue lease, unless it was renewed or ended since it was listed."""
    job = rows.lock_leased(conn, uuid.UUID(hex=token))
    if job is None:
        return False
    query = select(jobs.c.lease_expires <= func.now()).where(jobs.c.lease_token == job.token)
    if not conn.execute(query).scalar_one_or_none():
        return False
    if job.slave_id is None:
        unclaim(conn, token, policy=policy)
        return True
    return release(conn, token, FailureReason.LOST, why, policy=policy)


def _put_aside(conn: Connection, token: uuid.UUID, release_id: int, policy: RetryPolicy | None) -> None:
    """A job without an sdist should not be there: let the planner look again, and come back to it later if it stays."""
    rows.unlease(conn, [token])
    rows.rest(conn, release_id, PUT_ASIDE)
    replan_release(conn, release_id, policy=policy.planning if policy else None)
    logger.warning("release %d has a job but no sdist that can be built; put aside", release_id)
