# SPDX-License-Identifier: BSD-3-Clause
"""Results recorded in a real database: once, for the live lease only, and with all that follows from them."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, delete, select, update

from piwheels.db import builds as attempts
from piwheels.db import queue
from piwheels.db.build_rows import MAX_BUILT_WITH
from piwheels.db.tables import builds, dependencies, files, jobs, pages, releases
from piwheels.master.session import Lease, Result
from piwheels.vocabulary import DependencyTool, FailureReason, Outcome, PageKind, Priority
from tests.integration import dispatch_world as world

pytestmark = pytest.mark.integration


@pytest.fixture
def lease(database: Engine) -> Lease:
    with database.begin() as conn:
        target_id = world.add_target(conn)
        slave_id = world.add_slave(conn, target_id=target_id)
        world.add_job(conn, world.add_release(conn), target_id)
        found = queue.claim(conn, slave_id=slave_id, target_id=target_id, terms=world.TERMS)
    assert found is not None
    return found


def record(engine: Engine, result: Result) -> int | None:
    with engine.begin() as conn:
        return attempts.record(conn, result, policy=world.POLICY, build_id=attempts.next_id(conn), has_log=True)


def claim_again(engine: Engine) -> Lease:
    """The same job, once its rest is over."""
    with engine.begin() as conn:
        conn.execute(update(jobs).values(ready_at=builds.c.finished).where(builds.c.release_id == jobs.c.release_id))
        job = conn.execute(select(jobs)).one()
        slave_id = conn.execute(select(builds.c.slave_id).limit(1)).scalar_one()
        lease = queue.claim(conn, slave_id=slave_id, target_id=job.target_id, terms=world.TERMS)
    assert lease is not None
    return lease


def test_success(database: Engine, lease: Lease) -> None:
    wheel = world.verified()
    number = record(database, world.success(lease, wheel))
    with database.begin() as conn:
        build = conn.execute(select(builds)).one()
        assert (build.id, build.outcome, build.reason, build.token.hex) == (number, Outcome.SUCCESS, None, lease.token)
        assert build.has_log and build.built_from == bytes.fromhex("ab" * 32)
        assert build.duration == timedelta(seconds=3)
        file = conn.execute(select(files)).one()
        assert (file.filename, file.size, bytes(file.sha256)) == (wheel.filename, 10, wheel.sha256)
        assert file.top_level == ["spidev"] and file.requires_python == ">=3.8"
        needs = conn.execute(select(dependencies.c.tool, dependencies.c.name).order_by(dependencies.c.name)).all()
        assert [tuple(need) for need in needs] == [(DependencyTool.APT, "libc6"), (DependencyTool.PIP, "smbus")]
        assert conn.execute(select(jobs)).all() == []
        assert conn.execute(select(pages.c.key).where(pages.c.kind == PageKind.PROJECT)).scalars().all() == ["spidev"]


def test_twice_counts_once(database: Engine, lease: Lease) -> None:
    first = record(database, world.success(lease, world.verified()))
    assert record(database, world.success(lease, world.verified())) == first
    assert record(database, world.failed(lease, FailureReason.DISK)) == first
    assert world.count(database, builds) == 1 and world.count(database, files) == 1


def test_two_at_once_count_once(database: Engine, lease: Lease) -> None:
    numbers: list[int | None] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait(10)
        numbers.append(record(database, world.success(lease, world.verified())))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(numbers)) == 1 and len(numbers) == 4
    assert world.count(database, builds) == 1


def test_the_packages_fault_ends_the_job(database: Engine, lease: Lease) -> None:
    record(database, world.failed(lease, FailureReason.PACKAGE))
    with database.begin() as conn:
        build = conn.execute(select(builds)).one()
        assert (build.outcome, build.reason, build.detail) == (Outcome.FAILED, FailureReason.PACKAGE, "it broke")
        assert (build.peak_memory, build.cpu_seconds, build.built_with) == (5, 1.5, {"pip": "25"})
    assert world.count(database, jobs) == 0
    assert world.count(database, pages, pages.c.key == "spidev") == 1


def test_the_builders_fault_brings_it_back_until_strikes_are_out(database: Engine, lease: Lease) -> None:
    for strike in (1, 2):
        record(database, world.failed(lease, FailureReason.MEMORY))
        with database.begin() as conn:
            job = conn.execute(select(jobs)).one()
            build = conn.execute(select(builds).order_by(builds.c.id.desc()).limit(1)).one()
            assert (job.strikes, job.memory_class, job.priority) == (strike, strike, Priority.RETRY)
            assert job.lease_token is None and job.lease_slave_id is None
            assert job.ready_at - build.finished == world.POLICY.retry_after * 2 ** (strike - 1)
        lease = claim_again(database)
    record(database, world.failed(lease, FailureReason.NETWORK))
    assert world.count(database, jobs) == 0
    assert world.count(database, builds) == 3


def test_a_lease_that_is_over_changes_nothing(database: Engine, lease: Lease) -> None:
    with database.begin() as conn:
        assert queue.release(conn, lease.token, FailureReason.LOST, "gone", policy=world.POLICY)
        assert not queue.release(conn, lease.token, FailureReason.LOST, "gone", policy=world.POLICY)
        lost = conn.execute(select(builds.c.id)).scalar_one()
    assert record(database, world.success(lease, world.verified())) == lost
    assert world.count(database, files) == 0 and world.count(database, builds) == 1
    again = claim_again(database)
    assert again.token != lease.token
    assert record(database, world.success(lease, world.verified())) == lost, "the old token stays worthless"
    assert world.count(database, jobs, jobs.c.lease_token.is_not(None)) == 1


def test_a_deleted_release_takes_its_result_with_it(database: Engine, lease: Lease) -> None:
    with database.begin() as conn:
        conn.execute(delete(releases))
    assert record(database, world.success(lease, world.verified())) is None
    assert world.count(database, builds) == 0


def test_a_cancelled_build_is_not_recorded(database: Engine, lease: Lease) -> None:
    with database.begin() as conn:
        conn.execute(update(releases).values(yanked=True))
        conn.execute(update(jobs).values(cancelled=True))
    assert record(database, world.success(lease, world.verified())) is None
    assert world.count(database, builds) == 0 and world.count(database, jobs) == 0


def test_success_without_a_wheel_is_the_packages_failure(database: Engine, lease: Lease) -> None:
    record(database, world.success(lease))
    with database.begin() as conn:
        build = conn.execute(select(builds)).one()
        assert build.reason is FailureReason.PACKAGE and "no wheel" in build.detail


def test_text_that_postgresql_would_refuse(database: Engine, lease: Lease) -> None:
    report = world.failed(lease, FailureReason.PACKAGE).report
    assert report is not None
    odd = type(report)(
        token=lease.token,
        reason=FailureReason.PACKAGE,
        peak_memory=2**70,
        cpu_seconds=float("nan"),
        built_from="not hex",
        built_with={"pip\0": "2\ud800"} | {f"p{n}": "1" for n in range(1000)},
    )
    result = world.failed(lease, FailureReason.PACKAGE, detail="a\0b\ud800" + "x" * 5000, duration=timedelta(days=-3))
    number = record(database, Result(**{**{k: getattr(result, k) for k in Result.__slots__}, "report": odd}))
    with database.begin() as conn:
        build = conn.execute(select(builds).where(builds.c.id == number)).one()
        assert len(build.detail) == 1000 and "\0" not in build.detail
        assert (build.duration, build.cpu_seconds, build.built_from) == (timedelta(0), None, None)
        assert build.peak_memory == 2**63 - 1 and len(build.built_with) == MAX_BUILT_WITH


def test_numbers_and_orphans(database: Engine, lease: Lease) -> None:
    wheel = world.verified()
    number = record(database, world.success(lease, wheel))
    assert number is not None
    with database.begin() as conn:
        burnt = attempts.next_id(conn)
    with database.begin() as conn:
        assert attempts.last_number(conn) == burnt == number + 1
        assert attempts.missing_of(conn, range(number, burnt + 1)) == {burnt}
        stray = b"s" * 32
        assert attempts.unreferenced(conn, [stray, wheel.sha256, wheel.metadata_sha256]) == {stray}
        assert attempts.unreferenced(conn, []) == set()
        assert attempts.recorded(conn, lease.token) == number
        assert attempts.recorded(conn, "nonsense") is None
