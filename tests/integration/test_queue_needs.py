# SPDX-License-Identifier: BSD-3-Clause
"""Classes of memory, disk and time in a real database: learnt from builds, kept, and obeyed by claims; and hostile or
unlucky input to the queue."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, delete, func, select, update

from piwheels.db import builds as attempts
from piwheels.db import operator, queue
from piwheels.db.tables import builds, files, jobs, needs, releases, slaves
from piwheels.master.needs import ANY, MEMORY_UNIT, TOP, Room
from piwheels.master.session import Lease, Result
from piwheels.vocabulary import FailureReason, Priority
from tests.integration import dispatch_world as world

pytestmark = pytest.mark.integration


@pytest.fixture
def farm(database: Engine) -> tuple[int, int]:
    """A target and a slave."""
    with database.begin() as conn:
        target_id = world.add_target(conn)
        return target_id, world.add_slave(conn, target_id=target_id)


def claim(engine: Engine, farm: tuple[int, int], room: Room = ANY) -> Lease | None:
    with engine.begin() as conn:
        terms = replace(world.TERMS, memory_limit=10**9)
        return queue.claim(conn, slave_id=farm[1], target_id=farm[0], terms=terms, room=room, policy=world.POLICY)


def record(engine: Engine, *results: Result) -> list[int | None]:
    with engine.begin() as conn:
        return attempts.record_many(conn, [attempts.Entry(result) for result in results], policy=world.POLICY)


def add(engine: Engine, farm: tuple[int, int], project: str, **values: object) -> int:
    with engine.begin() as conn:
        release_id = world.add_release(conn, project)
        world.add_job(conn, release_id, farm[0], **values)
    return release_id


def ready(engine: Engine) -> None:
    """Let every rest be over."""
    with engine.begin() as conn:
        conn.execute(update(jobs).where(jobs.c.resting).values(ready_at=func.now()))


def test_a_claim_finds_the_first_of_what_fits(database: Engine, farm: tuple[int, int]) -> None:
    add(database, farm, "huge", memory_class=5, priority=Priority.REQUEST)
    add(database, farm, "long", time_class=2, disk_class=1, priority=Priority.NEW)
    add(database, farm, "plain", priority=Priority.BACKLOG)
    add(database, farm, "large", memory_class=2, priority=Priority.RETRY)
    small, middle = Room(1, 1, 1), Room(memory=2, disk=1, time=2)
    names = []
    for room in (small, small, middle, middle, middle, ANY):
        lease = claim(database, farm, room)
        names.append(lease.project if lease else None)
    assert names == ["plain", None, "long", "large", None, "huge"]


def test_out_of_memory_goes_to_one_that_has_more(database: Engine, farm: tuple[int, int]) -> None:
    add(database, farm, "big")
    with database.begin() as conn:
        conn.execute(update(slaves).values(stats={"mem_size": 4 * MEMORY_UNIT, "disk_free": 10**10}))
    lease = claim(database, farm)
    assert lease is not None and lease.order.memory_limit == 10**9
    record(database, world.failed(lease, FailureReason.MEMORY))
    ready(database)
    assert claim(database, farm, Room(3, TOP, TOP)) is None, "one like that has failed"
    again = claim(database, farm, Room(4, TOP, TOP))
    assert again is not None and again.need == Room(memory=4)
    assert again.order.memory_limit > 10**9, "or the limit would end it again"
    with database.begin() as conn:
        assert conn.execute(select(needs.c.memory_class)).scalar_one() == 4
    other = add(database, farm, "other")
    with database.begin() as conn:
        conn.execute(delete(jobs).where(jobs.c.release_id == other))


def test_what_was_learnt_is_for_the_next_release_and_for_this_target(database: Engine, farm: tuple[int, int]) -> None:
    add(database, farm, "big")
    lease = claim(database, farm)
    assert lease is not None
    record(database, world.failed(lease, FailureReason.DISK))
    with database.begin() as conn:
        newer = world.add_release(conn, "big", "9.9")
        attempts.replan(conn, [newer])
        job = conn.execute(select(jobs).where(jobs.c.release_id == newer)).one()
    assert (job.memory_class, job.disk_class, job.time_class) == (0, 1, 0)


def test_success_forgets_what_is_not_needed(database: Engine, farm: tuple[int, int]) -> None:
    add(database, farm, "big")
    for reason in (FailureReason.MEMORY, FailureReason.TIMEOUT):
        lease = claim(database, farm)
        assert lease is not None
        record(database, world.failed(lease, reason))
        ready(database)
    with database.begin() as conn:
        row = conn.execute(select(needs)).one()
        assert (row.memory_class, row.disk_class, row.time_class) == (1, 0, 1)
    lease = claim(database, farm)
    assert lease is not None and lease.order.time_limit == world.TERMS.build_timeout * 2
    done = world.success(lease, world.verified("big-3.6-cp311-cp311-linux_armv7l.whl"))
    assert done.report is not None
    record(database, replace(done, report=replace(done.report, peak_memory=10**6)))
    assert world.count(database, needs) == 0


def test_a_batch_is_recorded_whole_and_each_by_itself(database: Engine, farm: tuple[int, int]) -> None:
    for number in range(6):
        add(database, farm, f"p{number}")
    leases = [claim(database, farm) for _ in range(6)]
    assert None not in leases
    good, bad, twice, gone, cancelled, unknown = [lease for lease in leases if lease is not None]
    unknown = replace(unknown, token="f" * 32)
    with database.begin() as conn:
        conn.execute(delete(releases).where(releases.c.id == gone.release_id))
        conn.execute(update(jobs).where(jobs.c.release_id == cancelled.release_id).values(cancelled=True))
    wheel = world.verified("p-3.6-cp311-cp311-linux_armv7l.whl")
    numbers = record(
        database,
        world.success(good, wheel, replace(wheel, filename="p-3.6-cp311-none-linux_armv7l.whl"), wheel),
        world.failed(bad, FailureReason.PACKAGE),
        world.success(twice, wheel),
        world.failed(twice, FailureReason.DISK),
        world.success(gone, wheel),
        world.success(cancelled, wheel),
        world.success(unknown, wheel),
    )
    assert numbers[2] == numbers[3] and None not in numbers[:4]
    assert numbers[4:] == [None, None, None]
    assert world.count(database, builds) == 3
    assert world.count(database, files) == 3, "two of the first, the same name once; one of the third"


def test_a_job_put_back_by_hand_with_its_old_token(database: Engine, farm: tuple[int, int]) -> None:
    release_id = add(database, farm, "again")
    lease = claim(database, farm)
    assert lease is not None
    (number,) = record(database, world.failed(lease, FailureReason.PACKAGE))
    with database.begin() as conn:
        now = {"lease_started": func.now(), "lease_expires": func.now(), "lease_token": uuid.UUID(hex=lease.token)}
        world.add_job(conn, release_id, farm[0], lease_slave_id=farm[1], **now)
    done = world.success(lease, world.verified())
    assert record(database, done, done) == [number, number], "what is recorded stays recorded"
    assert world.count(database, builds) == 1 and world.count(database, jobs) == 0


def test_a_release_deleted_while_it_is_built(database: Engine, farm: tuple[int, int]) -> None:
    add(database, farm, "gone")
    lease = claim(database, farm)
    assert lease is not None
    with database.begin() as conn:
        conn.execute(delete(releases))
        assert queue.renew(conn, [lease.token], lease=timedelta(minutes=1)) == frozenset()
        assert queue.assign(conn, {lease.token: farm[1]}, lease=timedelta(minutes=1)) == frozenset()
        assert not queue.release(conn, lease.token, FailureReason.LOST, "", policy=world.POLICY)
        queue.unclaim(conn, lease.token, policy=world.POLICY)
        assert queue.lease_by_token(conn, lease.token, slave_id=farm[1], terms=world.TERMS) is None


def test_jobs_taken_ahead(database: Engine, farm: tuple[int, int]) -> None:
    for number in range(3):
        add(database, farm, f"p{number}")
    with database.begin() as conn:
        kept, told, lost = queue.claim_many(conn, target_id=farm[0], terms=world.TERMS, limit=9, policy=world.POLICY)
        assert queue.assign(conn, {told.token: farm[1]}, lease=world.TERMS.lease) == {told.token}
        assert queue.prolong_all(conn, lease=timedelta(hours=1)) == 1, "what nobody has is not prolonged"
        other = world.add_slave(conn, target_id=farm[0])
        assert queue.assign(conn, {told.token: other}, lease=world.TERMS.lease) == frozenset(), "it is another's"
        # Killed after the builder was told and before that was written down: the builder knows the token.
        resumed = queue.lease_by_token(conn, lost.token, slave_id=other, terms=world.TERMS)
        assert resumed is not None and resumed.token == lost.token
        conn.execute(update(jobs).where(jobs.c.release_id == kept.release_id).values(lease_expires=func.now()))
        assert queue.expire(conn, policy=world.POLICY) == (kept.token,)
        job = conn.execute(select(jobs).where(jobs.c.release_id == kept.release_id)).one()
    assert (job.strikes, job.lease_token) == (0, None) and world.count(database, builds) == 0


def test_clocks_that_jump(database: Engine, farm: tuple[int, int]) -> None:
    add(database, farm, "leased")
    lease = claim(database, farm)
    add(database, farm, "waiting")
    add(database, farm, "resting", resting=True, ready_at=func.now() + timedelta(days=400))
    with database.begin() as conn:  # as if the clock had been a year ahead when all this was written
        conn.execute(update(jobs).values(ready_at=func.now() + timedelta(days=400), created_at=func.now()))
        conn.execute(update(jobs).where(jobs.c.lease_token.is_not(None)).values(lease_expires=jobs.c.ready_at))
    found = [claim(database, farm), claim(database, farm)]
    assert [one.project if one else None for one in found] == ["waiting", "resting"], "no rest lasts for a year"
    assert lease is not None
    with database.begin() as conn:
        queue.prolong_all(conn, lease=timedelta(minutes=10))
        mine = select(jobs.c.lease_expires - func.now()).where(jobs.c.lease_token.is_not(None))
        assert set(conn.execute(mine).scalars()) == {timedelta(minutes=10)}, "no lease lasts longer than it should"


def test_who_may_be_given_jobs(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        world.add_slave(conn)
        assert queue.fit(conn) == {farm[1]: farm[0]}
        conn.execute(update(slaves).values(wish="pause"))
        assert queue.fit(conn) == {}
        conn.execute(update(slaves).values(wish="run"))
        operator.pause(conn, True)
        assert queue.fit(conn) == {}
