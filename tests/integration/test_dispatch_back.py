# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch, its builders and their leases after restarts, cuts and disappearances; and what it takes from strangers."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text, update

from piwheels.db import slaves as slave_rows
from piwheels.db.tables import builds, jobs
from piwheels.master import dispatch
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Outcome
from piwheels.wire import messages as m
from piwheels.wire.codec import decode_file_from_master, encode_file
from tests.integration import dispatch_world as world
from tests.integration.builder import announce, stats
from tests.integration.dispatch_farm import WHEEL, Farm, at_work, make_farm

pytestmark = pytest.mark.integration


@pytest.fixture
def farm(
    database: Engine, database_settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Farm]:
    monkeypatch.setattr(dispatch, "REPORT", 0.05)
    made = make_farm(database, database_settings, tmp_path, lambda settings: settings)
    made.start()
    yield made
    made.close()


# Coming back


def test_dispatch_restarted_in_mid_build_loses_nothing(farm: Farm) -> None:
    builder, build = at_work(farm)
    assert build.order is not None
    farm.stop()
    farm.start()
    builder.connect()
    assert isinstance(builder.hello(resume=build.order.token), m.Ack)
    assert builder.busy() == m.Cont()
    data = world.wheel_bytes()
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
    builder.deliver(data)
    assert builder.ask(m.Sent()) == m.Done()
    row = farm.build()
    assert row.outcome is Outcome.SUCCESS and row.token == uuid.UUID(hex=build.order.token)


def test_a_delivery_that_was_cut_goes_on_where_it_was(farm: Farm) -> None:
    builder, build = at_work(farm)
    assert build.order is not None
    data = world.wheel_bytes(padding=6_000_000)
    file = announce(WHEEL, data)
    assert builder.built(build, file) == m.Send(WHEEL)
    with builder.file_channel() as channel:
        channel.send_multipart(encode_file(m.FileHello(builder.slave_id)))
        for _ in range(10):
            assert channel.poll(15_000)
            fetch = decode_file_from_master(channel.recv_multipart())
            assert isinstance(fetch, m.Fetch)
            channel.send_multipart(encode_file(m.Chunk(fetch.offset, data[fetch.offset :][: fetch.length])))
        assert channel.poll(15_000), "the master asks for more, so it has what it got"
    builder.connect()
    assert isinstance(builder.hello(resume=build.order.token), m.Ack)
    assert builder.built(build, file) == m.Send(WHEEL)
    builder.deliver(data)
    assert sum(builder.sent_chunks) < len(data) - 256 * 1024, "what had come is not asked for again"
    assert builder.ask(m.Sent()) == m.Done()
    assert farm.build().outcome is Outcome.SUCCESS


def test_a_result_delivered_twice_counts_once(farm: Farm) -> None:
    builder, build = at_work(farm)
    assert build.order is not None
    assert builder.fail(build, FailureReason.PACKAGE) == m.Done()
    # The answer was lost: the builder comes back with its finished build.
    builder.connect()
    assert isinstance(builder.hello(resume=build.order.token), m.Ack)
    assert builder.fail(build, FailureReason.PACKAGE) == m.Done()
    assert world.count(farm.engine, builds) == 1
    logs = [path for path in (farm.settings.paths.output / "logs").rglob("*") if path.is_file()]
    assert len(logs) == 1
    assert isinstance(builder.idle(), m.Sleep)


def test_a_builder_that_forgot_its_build_gives_it_back(farm: Farm) -> None:
    builder, build = at_work(farm)
    builder.connect()
    builder.hello()
    row = world.wait_for(farm.build, "the lost attempt")
    assert row.reason is FailureReason.LOST and build.order is not None and row.token.hex == build.order.token
    again = world.wait_for(lambda: isinstance(a := builder.idle(), m.Build) and a, "the job again")
    assert again.order.token != build.order.token


def test_the_new_session_of_a_builder_replaces_the_old(farm: Farm) -> None:
    first, build = at_work(farm)
    second = farm.builder(keys=first.keys)
    assert build.order is not None
    assert isinstance(second.hello(resume=build.order.token), m.Ack)
    assert second.busy() == m.Cont()
    first.send(m.Busy(stats()))
    assert second.busy() == m.Cont()
    assert not first.socket.poll(100)


def test_another_builders_lease_cannot_be_resumed(farm: Farm) -> None:
    _, build = at_work(farm)
    assert build.order is not None
    thief = farm.builder()
    thief.hello(resume=build.order.token)
    with farm.engine.begin() as conn:
        assert conn.execute(select(jobs.c.lease_slave_id)).scalar_one() != thief.slave_id
    assert thief.fail(build, FailureReason.PACKAGE) in (m.Done(), m.Die())
    assert world.count(farm.engine, builds) == 0


def test_an_expired_lease_goes_back_and_its_builder_is_told(farm: Farm) -> None:
    builder, _ = at_work(farm)
    with farm.engine.begin() as conn:
        conn.execute(update(jobs).values(lease_expires=func.now() - timedelta(seconds=1)))
    world.wait_for(farm.build, "the sweep")
    assert farm.build().reason is FailureReason.LOST
    world.wait_for(lambda: world.count(farm.engine, jobs, jobs.c.strikes == 1), "the strike")
    assert world.wait_for(lambda: builder.busy() == m.Done(), "being told")
    assert isinstance(world.wait_for(lambda: isinstance(a := builder.idle(), m.Build) and a, "it again"), m.Build)


def test_a_cancelled_build_is_stopped(farm: Farm) -> None:
    builder, _ = at_work(farm)
    with farm.engine.begin() as conn:
        conn.execute(update(jobs).values(cancelled=True))
    world.wait_for(lambda: builder.busy() == m.Done(), "being told to stop")
    assert world.count(farm.engine, builds) == 0


def test_a_disabled_builder_is_cut_off(farm: Farm) -> None:
    builder, _ = at_work(farm)
    with farm.engine.begin() as conn:
        slave_rows.set_enabled(conn, builder.slave_id, False)
    world.wait_for(farm.build, "its lease to return")
    builder.send(m.Busy(stats()))
    assert not builder.socket.poll(300)


# Weather


def test_connections_to_the_database_that_drop(farm: Farm) -> None:
    builder, build = at_work(farm)
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'dispatch%'"
    )
    with farm.engine.begin() as conn:
        # Whatever dispatch writes next waits for us, and dies waiting.
        conn.execute(text("LOCK TABLE builds IN ACCESS EXCLUSIVE MODE"))
        builder.send(
            m.Built(
                False,
                timedelta(seconds=1),
                "boom",
                (),
                m.BuildReport(build.order.token, FailureReason.PACKAGE, "it broke"),  # type: ignore[union-attr]
            )
        )
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        world.wait_for(lambda: conn.execute(waiting).scalar_one(), "dispatch to wait for the lock")
        assert conn.execute(kill).scalar_one() >= 1
        other = farm.builder(admitted=False)
    assert builder.receive() == m.Done()
    assert farm.build().reason is FailureReason.PACKAGE
    assert not other.socket.poll(0)
    assert builder.idle() == m.Sleep(paused=False)


def test_nonsense_on_both_channels_disturbs_nobody(farm: Farm) -> None:
    bad = farm.builder()
    bad.hello()
    nonsense = [
        b"",
        b"\xff" * 100,
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81" * 10_000,
        b"\x82eHELLO\x80",
        b"\x82dIDLE\x01",
        b"x" * 1_000_000,
    ]
    with bad.file_channel(bad.address.builders) as channel:
        for data in nonsense:
            channel.send_multipart([b"", data])
        channel.send_multipart([b"no envelope"])
        world.wait_for(lambda: farm.state.get("nonsense", 0) > len(nonsense), "all of it to arrive")
    with bad.file_channel() as channel:
        for frames in ([b""], [b"CHUNK", b"0", b"x"], [b"HELLO", b"-1"], [b"x"] * 50, [b"CHUNK", b"9" * 40, b"y"]):
            channel.send_multipart(frames)
        world.wait_for(lambda: farm.state.get("nonsense", 0) >= len(nonsense) + 6, "all of that too")
    honest, build = at_work(farm)
    data = world.wheel_bytes()
    honest.built(build, announce(WHEEL, data))
    honest.deliver(data)
    assert honest.ask(m.Sent()) == m.Done()
    assert farm.build().outcome is Outcome.SUCCESS


def test_messages_out_of_turn_end_only_that_session(farm: Farm) -> None:
    for message in (m.Sent(), m.Busy(stats()), m.Built(True, timedelta(0), "", ())):
        builder = farm.builder()
        builder.hello()
        builder.send(message)
        if builder.socket.poll(500):
            assert builder.receive() in (m.Die(), m.Done())
    assert isinstance(farm.builder().hello(), m.Ack)


def test_many_builders_at_once_share_the_queue(farm: Farm) -> None:
    for number in range(12):
        farm.job(f"p{number}")
    crowd = [farm.builder() for _ in range(6)]
    for builder in crowd:
        builder.send(builder.hello_message())
    assert all(isinstance(builder.receive(), m.Ack) for builder in crowd)
    got: list[str] = []
    for _ in range(2):
        for builder in crowd:
            builder.send(m.Idle(stats()))
        answers = [builder.receive() for builder in crowd]
        for builder, answer in zip(crowd, answers, strict=True):
            assert isinstance(answer, m.Build) and answer.order is not None
            got.append(answer.package)
            report = m.BuildReport(answer.order.token, FailureReason.PACKAGE, "no")
            builder.send(m.Built(False, timedelta(0), "", (), report))
        assert [builder.receive() for builder in crowd] == [m.Done()] * 6
    assert len(set(got)) == 12
    assert world.count(farm.engine, builds) == 12
