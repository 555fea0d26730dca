# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch as builders meet it: over TCP with CurveZMQ, before a real database."""

import gzip
import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update

from piwheels.db import operator
from piwheels.db import slaves as slave_rows
from piwheels.db.tables import builds, dependencies, files, jobs, pages, slaves, switches, targets
from piwheels.master import dispatch
from piwheels.settings import DatabaseSettings
from piwheels.site.paths import log_path
from piwheels.vocabulary import FailureReason, Outcome, SlaveWish
from piwheels.wire import messages as m
from tests.integration import dispatch_world as world
from tests.integration.builder import announce
from tests.integration.dispatch_farm import WHEEL, Farm, at_work, make_farm

pytestmark = pytest.mark.integration


@pytest.fixture
def make(
    database: Engine, database_settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Farm]]:
    """Makes a running farm, with settings changed as told."""
    monkeypatch.setattr(dispatch, "REPORT", 0.05)
    made: list[Farm] = []

    def start(**changes: object) -> Farm:
        farm = make_farm(database, database_settings, tmp_path, lambda d: replace(d, **changes))
        made.append(farm)
        farm.start()
        return farm

    yield start
    for farm in made:
        farm.close()


@pytest.fixture
def farm(make: Callable[..., Farm]) -> Farm:
    return make()


# Joining and being given work


def test_register(farm: Farm) -> None:
    builder = farm.builder()
    answer = builder.hello()
    assert isinstance(answer, m.Ack) and answer.index_url == "https://index.example.org/simple/"
    with farm.engine.begin() as conn:
        row = conn.execute(select(slaves)).one()
    assert (row.id, row.key, row.label) == (answer.slave_id, builder.keys.public, "tester")
    assert row.target_id == farm.target_id and row.agent == "tests"
    assert builder.idle() == m.Sleep(paused=False)
    world.wait_for(
        lambda: world.count(farm.engine, slaves, slaves.c.stats["disk_free"].as_integer() == 500), "figures in the row"
    )


def test_a_build_is_handed_out_with_its_lease_in_the_database(farm: Farm) -> None:
    builder, build = at_work(farm)
    assert (build.package, build.version) == ("Spidev", "3.6")
    assert build.order is not None and build.order.sdist_name == "spidev-3.6.tar.gz"
    assert build.order.time_limit == timedelta(hours=3)
    with farm.engine.begin() as conn:
        job = conn.execute(select(jobs)).one()
    assert job.lease_token.hex == build.order.token and job.lease_slave_id == builder.slave_id
    assert builder.busy() == m.Cont()
    other = farm.builder()
    other.hello()
    assert other.idle() == m.Sleep(paused=False)


def test_the_next_jobs_are_leased_ahead(farm: Farm) -> None:
    for number in range(6):
        farm.job(f"p{number}")
    builder = farm.builder()
    builder.hello()
    first = builder.job()
    builder.fail(first, FailureReason.PACKAGE)
    second = builder.job()  # asks for the second time: that is demand
    world.wait_for(lambda: farm.state.get("ahead"), "jobs that are leased ahead")
    nobodys = (jobs.c.lease_token.is_not(None), jobs.c.lease_slave_id.is_(None))
    assert world.count(farm.engine, jobs, *nobodys) == farm.state["ahead"]
    builder.fail(second, FailureReason.PACKAGE)
    third = builder.job()
    assert third.order is not None
    token = uuid.UUID(hex=third.order.token)
    mine = (jobs.c.lease_token == token, jobs.c.lease_slave_id == builder.slave_id)
    world.wait_for(lambda: world.count(farm.engine, jobs, *mine), "the builder as its holder")
    with farm.engine.begin() as conn:
        operator.pause(conn, True)
    world.wait_for(lambda: not world.count(farm.engine, jobs, *nobodys), "all to be given back")
    assert builder.busy() == m.Cont(), "what is being built is finished"
    with farm.engine.begin() as conn:
        operator.pause(conn, False)
    builder.fail(third, FailureReason.PACKAGE)
    fourth = builder.job()
    builder.fail(fourth, FailureReason.PACKAGE)
    assert world.count(farm.engine, builds) == 4
    assert world.count(farm.engine, builds, builds.c.slave_id == builder.slave_id) == 4
    farm.stop()
    assert world.count(farm.engine, jobs, *nobodys) == 0, "nothing is left behind"


def test_busy_renews_the_lease(farm: Farm) -> None:
    builder, _ = at_work(farm)
    with farm.engine.begin() as conn:
        conn.execute(update(jobs).values(lease_expires=func.now() + timedelta(seconds=30)))
    builder.busy()
    world.wait_for(
        lambda: world.count(farm.engine, jobs, jobs.c.lease_expires > func.now() + timedelta(minutes=5)), "a renewal"
    )


def test_a_stranger_gets_no_answer(farm: Farm) -> None:
    stranger = farm.builder(admitted=False)
    stranger.send(stranger.hello_message())
    honest = farm.builder()
    honest.hello()
    assert not stranger.socket.poll(300)
    assert world.count(farm.engine, slaves) == 1


def test_a_builder_that_serves_no_target_sleeps(farm: Farm) -> None:
    farm.job()
    builder = farm.builder(platform="linux_riscv64")
    assert isinstance(builder.hello(), m.Ack)
    assert builder.idle() == m.Sleep(paused=False)
    with farm.engine.begin() as conn:
        assert conn.execute(select(slaves.c.target_id)).scalar_one() is None
        world.add_target(
            conn, replace(world.PI, name="new", rank=20, platform="linux_riscv64", platforms=("linux_riscv64",))
        )
        target_id = conn.execute(select(targets.c.id).where(targets.c.name == "new")).scalar_one()
        world.add_job(conn, world.add_release(conn, "other"), target_id)
    assert isinstance(builder.idle(), m.Build), "its target was added while it was here"


def test_pause_and_stop(farm: Farm) -> None:
    farm.job()
    builder = farm.builder()
    builder.hello()
    with farm.engine.begin() as conn:
        conn.execute(switches.insert().values(name="paused", value="1"))
    assert builder.idle() == m.Sleep(paused=True)
    with farm.engine.begin() as conn:
        conn.execute(switches.update().values(value="0"))
        slave_rows.set_wish(conn, builder.slave_id, SlaveWish.PAUSE)
    assert builder.idle() == m.Sleep(paused=True)
    with farm.engine.begin() as conn:
        slave_rows.set_wish(conn, builder.slave_id, SlaveWish.STOP)
    assert builder.idle() == m.Die()


def test_a_disk_that_is_nearly_full_pauses_the_farm(make: Callable[..., Farm]) -> None:
    farm = make(min_free=2**60)
    farm.job()
    builder = farm.builder()
    builder.hello()
    assert builder.idle() == m.Sleep(paused=True)
    assert world.count(farm.engine, jobs, jobs.c.lease_token.is_not(None)) == 0


# Results


def test_a_failed_build_is_recorded_with_its_log(farm: Farm) -> None:
    builder, build = at_work(farm)
    assert builder.fail(build, FailureReason.PACKAGE, log="gcc: \0error\n" * 3) == m.Done()
    row = farm.build()
    assert (row.outcome, row.reason, row.detail) == (Outcome.FAILED, FailureReason.PACKAGE, "it broke")
    assert row.has_log and row.slave_id == builder.slave_id
    log = farm.settings.paths.output / log_path(row.id)
    assert gzip.decompress(log.read_bytes()) == b"gcc: error\n" * 3
    assert world.count(farm.engine, jobs) == 0
    assert world.count(farm.engine, pages, pages.c.key == "spidev") == 1
    assert builder.idle() == m.Sleep(paused=False)


def test_a_wheel_is_delivered_in_chunks_and_recorded(farm: Farm) -> None:
    builder, build = at_work(farm)
    data = world.wheel_bytes(padding=3_000_000)
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
    builder.deliver(data)
    assert len(builder.sent_chunks) > 8
    assert builder.ask(m.Sent()) == m.Done()
    digest = hashlib.sha256(data).digest()
    store = farm.settings.paths.store
    assert (store / digest.hex()[:2] / digest.hex()).read_bytes() == data
    assert list((store / "incoming").iterdir()) == []
    with farm.engine.begin() as conn:
        file = conn.execute(select(files)).one()
        assert conn.execute(select(dependencies.c.name)).scalars().all() == ["libc6"]
    assert (file.filename, file.size, bytes(file.sha256)) == (WHEEL, len(data), digest)
    assert file.requires_python == ">=3.8" and file.top_level == ["spidev"]
    metadata = (store / bytes(file.metadata_sha256).hex()[:2] / bytes(file.metadata_sha256).hex()).read_text()
    assert metadata.startswith("Metadata-Version: 2.1\nName: spidev\n")
    row = farm.build()
    assert row.outcome is Outcome.SUCCESS and row.has_log
    assert world.count(farm.engine, jobs) == 0


def test_two_files_of_one_build(farm: Farm) -> None:
    builder, build = at_work(farm)
    wheels = {name: world.wheel_bytes(tag=name[11:-4]) for name in (WHEEL, "spidev-3.6-py3-none-any.whl")}
    answer = builder.built(build, *(announce(name, data) for name, data in wheels.items()))
    for _ in wheels:
        assert isinstance(answer, m.Send)
        builder.deliver(wheels[answer.filename])
        answer = builder.ask(m.Sent())
    assert answer == m.Done()
    assert world.count(farm.engine, files) == 2 and world.count(farm.engine, builds) == 1


def test_a_rebuild_is_recorded_under_a_build_number(farm: Farm) -> None:
    """The builder, which may be of any age, hears nothing of it."""
    builder, build = at_work(farm)
    for number in (0, 1, 2):
        if number:
            with farm.engine.begin() as conn:
                release = conn.execute(select(builds.c.release_id).limit(1)).scalar_one()
                conn.execute(builds.update().values(superseded=True))
                world.add_job(conn, release, farm.target_id)
            build = builder.job()
        data = world.wheel_bytes(padding=1000 + number)
        assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
        builder.deliver(data)
        assert builder.ask(m.Sent()) == m.Done()
    with farm.engine.begin() as conn:
        made = conn.execute(select(files.c.filename).order_by(files.c.id)).scalars().all()
    assert made == [WHEEL, "spidev-3.6-1-cp311-cp311-linux_armv7l.whl", "spidev-3.6-2-cp311-cp311-linux_armv7l.whl"]
    assert world.count(farm.engine, jobs) == 0 and world.count(farm.engine, builds) == 3


def test_a_file_that_arrives_wrong_is_asked_for_again(farm: Farm) -> None:
    builder, build = at_work(farm)
    data = world.wheel_bytes(padding=600_000)
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
    builder.deliver(data, tamper=lambda offset, chunk: [(offset, chunk[:-1] + b"!")])
    assert builder.ask(m.Sent()) == m.Send(WHEEL), "the same again"
    builder.deliver(data)
    assert builder.ask(m.Sent()) == m.Done()
    assert farm.build().outcome is Outcome.SUCCESS


def test_a_file_that_never_verifies_gives_the_job_back(farm: Farm) -> None:
    builder, build = at_work(farm)
    data = world.wheel_bytes()
    answer = builder.built(build, announce(WHEEL, data))
    tries = 0
    while isinstance(answer, m.Send):
        tries += 1
        assert tries < 10
        builder.deliver(data[:-1] + b"!")
        answer = builder.ask(m.Sent())
    assert answer == m.Done() and tries == 3
    world.wait_for(lambda: world.count(farm.engine, jobs, jobs.c.strikes == 1, jobs.c.lease_token.is_(None)), "the job")
    assert farm.build().reason is FailureReason.NETWORK


def test_chunks_repeated_cut_and_out_of_range_do_no_harm(farm: Farm) -> None:
    builder, build = at_work(farm)
    data = world.wheel_bytes(padding=600_000)
    builder.built(build, announce(WHEEL, data))

    def mess(offset: int, chunk: bytes) -> list[tuple[int, bytes]]:
        half = len(chunk) // 2
        return [
            (offset, chunk[:half]),
            (offset, chunk[:half]),
            (10**15, b"far away"),
            (offset, chunk),
            (offset, b"x" * len(chunk)),
        ]

    builder.deliver(data, tamper=mess)
    assert builder.ask(m.Sent()) == m.Done()
    assert farm.build().outcome is Outcome.SUCCESS


HOSTILE = [
    "../../etc/passwd",
    "/etc/cron.d/x-1-py3-none-any.whl",
    "spidev-3.6-cp311-cp311-linux_" + "a" * 300 + ".whl",
    "numpy-3.6-cp311-cp311-linux_armv7l.whl",
    "spidev-9.9-cp311-cp311-linux_armv7l.whl",
    "spidev-3.6-cp311-cp311-win_amd64.whl",
    "spidev-3.6-cp311-cp311-linux_armv7l.whl\x00.txt",
]


@pytest.mark.parametrize("filename", HOSTILE)
def test_hostile_names_end_the_build_and_nothing_else(farm: Farm, filename: str) -> None:
    builder, build = at_work(farm)
    data = world.wheel_bytes()
    parts = {"package_tag": "spidev", "version_tag": "3.6", "py_tag": "cp311", "abi_tag": "cp311"}
    answer = builder.built(build, announce(filename, data, **parts, platform_tag="linux_armv7l"))
    if isinstance(answer, m.Send):
        builder.deliver(data)
        answer = builder.ask(m.Sent())
    assert answer in (m.Done(), m.Die())
    world.wait_for(lambda: farm.build() is not None or answer == m.Die(), "the attempt in the database")
    assert world.count(farm.engine, files) == 0
    written = [path for path in farm.settings.paths.store.rglob("*") if path.is_file()]
    assert written == []
    honest = farm.builder()
    assert isinstance(honest.hello(), m.Ack)


def test_a_wheel_that_lies_about_its_project(farm: Farm) -> None:
    builder, build = at_work(farm)
    data = world.wheel_bytes(inside="numpy")
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
    builder.deliver(data)
    assert builder.ask(m.Sent()) == m.Done()
    world.wait_for(farm.build, "the attempt")
    assert farm.build().outcome is Outcome.FAILED and "numpy" in farm.build().detail
    assert world.count(farm.engine, files) == 0


def test_a_file_larger_than_allowed(make: Callable[..., Farm]) -> None:
    farm = make(max_file=1000)
    builder, build = at_work(farm)
    data = world.wheel_bytes(padding=5000)
    answer = builder.built(build, announce(WHEEL, data))
    if isinstance(answer, m.Send):
        builder.deliver(data)
        answer = builder.ask(m.Sent())
    assert answer == m.Done()
    assert builder.sent_chunks == [], "not a byte of it was asked for"
    world.wait_for(farm.build, "the attempt")
    assert farm.build().outcome is Outcome.FAILED


def test_a_log_of_many_megabytes_is_cut(make: Callable[..., Farm]) -> None:
    farm = make(max_log=100_000)
    builder, build = at_work(farm)
    builder.fail(build, FailureReason.PACKAGE, log="start\n" + "x" * 8_000_000 + "\nend\n")
    log = gzip.decompress((farm.settings.paths.output / log_path(farm.build().id)).read_bytes())
    assert len(log) <= 100_000 and log.startswith(b"start") and log.endswith(b"end\n")
