# SPDX-License-Identifier: BSD-3-Clause
"""Leases in a real database: given once, kept alive, ended, and never two for one job."""

import threading
import uuid
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select, update

from piwheels.db import queue
from piwheels.db.tables import builds, jobs, slaves, switches, targets, upstream_files
from piwheels.vocabulary import FailureReason, Priority, SlaveWish
from tests.integration import dispatch_world as world

pytestmark = pytest.mark.integration


@pytest.fixture
def farm(database: Engine) -> tuple[int, int]:
    """A target and a slave."""
    with database.begin() as conn:
        target_id = world.add_target(conn)
        return target_id, world.add_slave(conn, target_id=target_id)


def claim(engine: Engine, farm: tuple[int, int]):
    with engine.begin() as conn:
        return queue.claim(conn, slave_id=farm[1], target_id=farm[0], terms=world.TERMS)


def test_claim_says_all_that_a_builder_needs(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        release_id = world.add_release(conn, "spidev", "3.6")
        world.add_job(conn, release_id, farm[0])
    lease = claim(database, farm)
    assert (lease.project, lease.package, lease.version) == ("spidev", "Spidev", "3.6")
    assert (lease.release_id, lease.target_id) == (release_id, farm[0])
    order = lease.order
    assert order.token == lease.token and len(order.token) == 32
    assert order.sdist_name == "spidev-3.6.tar.gz", "PEP 625's form comes before .zip"
    assert order.sdist_url == "https://files.example.org/spidev-3.6.tar.gz"
    assert order.target == "bookworm-armhf" and order.sdist_size == 1000 and len(order.sdist_sha256) == 64
    with database.begin() as conn:
        job = conn.execute(select(jobs)).one()
        assert job.lease_token.hex == lease.token and job.lease_slave_id == farm[1]
        assert job.lease_expires - job.lease_started == world.TERMS.lease
    assert claim(database, farm) is None, "a leased job is nobody else's"


def test_order_of_jobs(database: Engine, farm: tuple[int, int]) -> None:
    expected = ["asked", "fresh", "again", "popular", "newest", "oldest"]
    facts = {
        "oldest": {"priority": Priority.BACKLOG},
        "newest": {"priority": Priority.BACKLOG, "released": func.now()},
        "popular": {"priority": Priority.BACKLOG, "downloads": 7},
        "again": {"priority": Priority.RETRY},
        "asked": {"priority": Priority.REQUEST},
        "fresh": {"priority": Priority.NEW},
        "resting": {"priority": Priority.REQUEST, "ready_at": func.now() + timedelta(minutes=1), "resting": True},
    }
    with database.begin() as conn:
        for name, values in facts.items():
            world.add_job(conn, world.add_release(conn, name), farm[0], **values)
    assert [claim(database, farm).project for _ in expected] == expected
    assert claim(database, farm) is None


def test_other_targets_jobs_are_not_handed_out(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        world.add_job(conn, world.add_release(conn), farm[0])
        other = conn.execute(
            targets.insert()
            .values(name="other", python_version="3.13", abi="cp313", platform="x", platforms=["x"], rank=99)
            .returning(targets.c.id)
        ).scalar_one()
        assert queue.claim(conn, slave_id=farm[1], target_id=other, terms=world.TERMS) is None


def test_a_job_without_an_sdist_is_put_aside(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        world.add_job(conn, world.add_release(conn, "bare", sdist=False), farm[0], priority=Priority.REQUEST)
        hashless = world.add_release(conn, "hashless")
        conn.execute(update(upstream_files).where(upstream_files.c.release_id == hashless).values(sha256=None))
        world.add_job(conn, hashless, farm[0], priority=Priority.REQUEST)
        world.add_job(conn, world.add_release(conn, "good"), farm[0])
    assert claim(database, farm).project == "good"
    assert claim(database, farm) is None
    with database.begin() as conn:
        assert conn.execute(select(func.count()).select_from(jobs)).scalar_one() == 1, "the planner took them away"


def test_many_threads_never_get_one_job_twice(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        for number in range(60):
            world.add_job(conn, world.add_release(conn, f"p{number}"), farm[0])
    got: list[int] = []
    start = threading.Barrier(5)

    def work() -> None:
        start.wait(10)
        while (lease := claim(database, farm)) is not None:
            got.append(lease.release_id)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 60 and max(Counter(got).values()) == 1
    assert world.count(database, jobs, jobs.c.lease_token.is_(None)) == 0


def test_renew_holds_only_what_is_live(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        for name in ("a", "b"):
            world.add_job(conn, world.add_release(conn, name), farm[0])
    live, stopped = claim(database, farm).token, claim(database, farm).token
    with database.begin() as conn:
        conn.execute(update(jobs).where(jobs.c.lease_token == uuid.UUID(hex=stopped)).values(cancelled=True))
        conn.execute(update(jobs).values(lease_expires=func.now() - timedelta(seconds=1)))
    tokens = [live, stopped, "0" * 32, "not a token", "'; DROP TABLE jobs"]
    with database.begin() as conn:
        assert queue.renew(conn, tokens, lease=timedelta(minutes=10)) == {live}
        assert queue.cancelled(conn, tokens) == {stopped}
        assert queue.expire(conn, policy=world.POLICY) == (stopped,)
    with database.begin() as conn:
        assert conn.execute(select(jobs.c.lease_token).where(jobs.c.lease_token.is_not(None))).scalar_one().hex == live
        assert conn.execute(select(func.count()).select_from(builds)).scalar_one() == 0, "being cancelled is no attempt"


def test_an_expired_lease_counts_as_a_lost_attempt(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        world.add_job(conn, world.add_release(conn), farm[0])
    token = claim(database, farm).token
    with database.begin() as conn:
        assert queue.expire(conn, policy=world.POLICY) == ()
        conn.execute(update(jobs).values(lease_expires=func.now()))
    with database.begin() as conn:
        assert queue.expire(conn, policy=world.POLICY) == (token,)
        assert queue.expire(conn, policy=world.POLICY) == ()
    with database.begin() as conn:
        build = conn.execute(select(builds)).one()
        assert build.reason is FailureReason.LOST and build.token.hex == token and build.slave_id == farm[1]
        job = conn.execute(select(jobs)).one()
        assert (job.strikes, job.lease_token, job.priority) == (1, None, Priority.RETRY)
        wait = job.ready_at - build.finished
        assert wait == world.POLICY.retry_after


def test_release_all_but_the_resumed_one(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        for name in ("a", "b", "c"):
            world.add_job(conn, world.add_release(conn, name), farm[0])
    tokens = [claim(database, farm).token for _ in range(3)]
    with database.begin() as conn:
        ended = queue.release_all_of(conn, farm[1], tokens[1], policy=world.POLICY, why="came back without it")
        assert set(ended) == {tokens[0], tokens[2]}
        held = queue.lease_by_token(conn, tokens[1], slave_id=farm[1], terms=world.TERMS)
        assert held is not None and held.token == tokens[1]
        assert queue.lease_by_token(conn, tokens[0], slave_id=farm[1], terms=world.TERMS) is None
        stranger = world.add_slave(conn)
        assert queue.lease_by_token(conn, tokens[1], slave_id=stranger, terms=world.TERMS) is None, "another's lease"
        assert queue.lease_by_token(conn, "x" * 32, slave_id=farm[1], terms=world.TERMS) is None


def test_unclaim_leaves_no_trace(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        world.add_job(conn, world.add_release(conn), farm[0])
        before = conn.execute(select(jobs)).one()
    token = claim(database, farm).token
    with database.begin() as conn:
        queue.unclaim(conn, token, policy=world.POLICY)
        assert conn.execute(select(jobs)).one() == before


def test_prolong_all_gives_every_lease_its_time(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        world.add_job(conn, world.add_release(conn, "leased"), farm[0])
    claim(database, farm)
    with database.begin() as conn:
        world.add_job(conn, world.add_release(conn, "waiting"), farm[0])
        conn.execute(update(jobs).where(jobs.c.lease_token.is_not(None)).values(lease_expires=func.now()))
    with database.begin() as conn:
        assert queue.prolong_all(conn, lease=timedelta(minutes=5)) == 1
        assert queue.expire(conn, policy=world.POLICY) == ()


def test_standing(database: Engine, farm: tuple[int, int]) -> None:
    with database.begin() as conn:
        assert queue.standing(conn, 999) is None
        assert queue.standing(conn, farm[1]) == queue.Standing(True, SlaveWish.RUN, False, farm[0])
        conn.execute(switches.insert().values(name="paused", value="1"))
        conn.execute(update(slaves).values(wish=SlaveWish.STOP, enabled=False))
        conn.execute(update(targets).values(enabled=False))
        assert queue.standing(conn, farm[1]) == queue.Standing(False, SlaveWish.STOP, True, None)
