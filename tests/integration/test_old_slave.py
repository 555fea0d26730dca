# SPDX-License-Identifier: BSD-3-Clause
"""0.2x slaves on the address without encryption: served beside ours."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from piwheels.admin import keys
from piwheels.db import slaves as slave_rows
from piwheels.db.tables import builds, dependencies, files, jobs
from piwheels.master import plain_door
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Outcome
from piwheels.wire import messages as m
from piwheels.wire import plain
from tests.integration import dispatch_world as world
from tests.integration.builder import Builder, announce
from tests.integration.old_world import Old, serving_old, wheel_of
from tests.old_slave import NOTHING, Wheel, encode
from tests.old_slave import Outcome as Made

pytestmark = pytest.mark.integration


@pytest.fixture
def old(
    database: Engine, database_settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Old]:
    with serving_old(database, database_settings, tmp_path, monkeypatch) as old:
        yield old


def deliver(builder: Builder) -> None:
    """A current slave's work, once."""
    build = builder.job()
    wheel = wheel_of(build.package, build.version)
    assert builder.built(build, announce(wheel.filename, wheel.data)) == m.Send(wheel.filename)
    builder.deliver(wheel.data)
    assert builder.ask(m.Sent()) == m.Done()


# Served


def test_an_old_and_a_current_slave_side_by_side(old: Old) -> None:
    old.enrol()
    farm = old.farm
    farm.job("alpha")
    begun, done = threading.Event(), threading.Event()
    made: list[Wheel] = []

    def build(package: str, version: str) -> Made:
        begun.set()
        assert done.wait(20)  # while the other has its turn
        wheels = [] if package == "Gamma" else [wheel_of(package, version, padding=700_000)]
        made.extend(wheels)
        return Made(wheels, log=f"{package} by 0.2x\n", busy=2)

    slave = old.slave(build=build)
    life = threading.Thread(target=slave.run, daemon=True)
    life.start()
    assert begun.wait(20), "the old slave was given nothing"
    current = farm.builder()
    assert isinstance(current.hello(), m.Ack)
    farm.job("beta")
    deliver(current)
    done.set()
    world.wait_for(lambda: world.count(farm.engine, builds) == 2, "both builds")
    farm.job("gamma")
    world.wait_for(lambda: world.count(farm.engine, builds) == 3, "the old slave's failure")
    world.wait_for(lambda: slave.heard[-1] == "SLEEP", "there to be no more")
    slave.stopped.set()
    life.join(20)
    assert not life.is_alive()
    assert {"ACK", "SLEEP", "BUILD", "CONT", "SEND", "DONE"} == set(slave.heard)

    with farm.engine.begin() as conn:
        rows = {row.log_of: row for row in conn.execute(select(builds, builds.c.id.label("log_of")))}
        by_slave = {row.slave_id for row in rows.values()}
        wheels = {row.filename: row for row in conn.execute(select(files))}
        assert set(conn.execute(select(dependencies.c.name)).scalars()) == {"libc6"}
    row = old.row(slave)
    assert by_slave == {slave.slave_id, current.slave_id}
    assert row.key == "plain 127.0.0.1 #1" and row.agent == "piwheels 0.2x" and row.label == "old-pi"
    assert row.target_id == farm.target_id and row.board == "a02082"
    mine = [build for build in rows.values() if build.slave_id == slave.slave_id]
    assert sorted(build.outcome for build in mine) == [Outcome.FAILED, Outcome.SUCCESS]
    assert {build.reason for build in mine} == {None, FailureReason.PACKAGE} and all(build.has_log for build in mine)
    assert {build.duration for build in mine} == {timedelta(seconds=12, microseconds=345)}
    assert set(wheels) == {f"{name}-3.6-cp311-cp311-linux_armv7l.whl" for name in ("alpha", "beta")}
    (alpha,) = made
    assert bytes(wheels[alpha.filename].sha256) == hashlib.sha256(alpha.data).digest()
    assert world.count(farm.engine, jobs) == 0


def test_an_old_slave_is_served_by_the_encrypted_address_if_it_has_a_key(old: Old) -> None:
    """A ten-element HELLO is no matter of encryption."""
    builder = old.farm.builder()
    answer = builder.ask(replace(builder.hello_message(), capabilities=None))
    assert isinstance(answer, m.Ack)
    old.farm.job()
    assert builder.job().order is None


def test_no_data_nested_in_other_data(old: Old) -> None:
    old.enrol()
    old.farm.job()
    slave = old.slave()
    slave.hello()
    _, (package, version) = slave.idle()
    wheel = wheel_of(package, version)
    wheel.requires_python = NOTHING
    assert slave.built(Made([wheel])) == ("SEND", wheel.filename)


def test_a_slave_that_waited_in_vain_comes_back_under_its_number(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    """It drops its connection and its build; the build goes back at once, for it cannot be resumed."""
    monkeypatch.setattr(plain_door, "LEAST_SILENCE", 0.5)
    old.enrol()
    old.farm.job()
    other = old.slave(serial="another")
    slave = old.slave(busy_timeout=timedelta(seconds=1.5))
    slave.hello()
    number = slave.slave_id
    assert slave.idle()[0] == "BUILD"
    other.hello()
    slave.connect()  # too early for having given up: for all we know, it is a second slave on that machine
    slave.hello()
    assert slave.slave_id not in (number, other.slave_id)
    slave.bye()
    slave.connect()
    slave.stopped.wait(1.5)
    slave.hello()
    assert slave.slave_id == number and slave.lives == 3
    row = world.wait_for(old.farm.build, "the lost build")
    assert row.reason is FailureReason.LOST and row.slave_id == number
    assert other.idle()[0] in ("SLEEP", "BUILD")


def test_a_job_for_a_slave_that_left_meanwhile_goes_back(old: Old) -> None:
    """Nobody was told of it, so it is nobody's fault: no attempt is recorded."""
    old.enrol()
    old.farm.job()
    slave = old.slave()
    slave.hello()
    with old.farm.engine.begin() as conn:
        conn.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        slave.socket.send(encode("IDLE", slave.stats()))
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        world.wait_for(lambda: conn.execute(waiting).scalar_one(), "dispatch to look for a job")
        slave.drop()
        # Else the job could still be told to a connection whose end the master has not heard of.
        world.wait_for(lambda: not old.connections(), "the master to see it leave")
    other = old.slave(serial="two")
    other.hello()
    assert world.wait_for(lambda: other.idle()[0] == "BUILD", "the job")
    assert world.count(old.farm.engine, builds) == 0


def test_a_restart_of_the_master(old: Old) -> None:
    """The slave waits in vain, begins anew by itself, and builds it again: it cannot resume."""
    old.enrol()
    farm = old.farm
    farm.job()
    begun, restarted = threading.Event(), threading.Event()

    def build(package: str, version: str) -> Made:
        begun.set()
        assert restarted.wait(20)
        return Made([wheel_of(package, version)])

    slave = old.slave(busy_timeout=timedelta(seconds=2), build=build, pace=0.01)
    life = threading.Thread(target=slave.run, daemon=True)
    life.start()
    assert begun.wait(20), "it was given nothing"
    lives = slave.lives
    farm.stop()
    farm.start()
    restarted.set()
    world.wait_for(lambda: world.count(farm.engine, builds, builds.c.outcome == Outcome.SUCCESS), "the second attempt")
    slave.stopped.set()
    life.join(20)
    assert not life.is_alive() and slave.lives > lives
    with farm.engine.begin() as conn:
        reasons = conn.execute(select(builds.c.reason).order_by(builds.c.id)).scalars().all()
    assert reasons == [FailureReason.LOST, None]


def test_it_repeats_its_hello_until_it_is_heard(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.old_slave.HELLO_AGAIN", 0.2)
    old.enrol()
    old.farm.job()
    slave = old.slave()
    slave.hello()
    _, (package, version) = slave.idle()
    wheel = wheel_of(package, version)
    sender = threading.Thread(target=slave.transfer, args=(wheel.data,), daemon=True)
    sender.start()  # before the master expects anything
    world.wait_for(lambda: slave.hellos >= 3, "repetitions")
    assert slave.built(Made([wheel])) == ("SEND", wheel.filename)
    sender.join(20)
    assert not sender.is_alive()
    assert slave.ask("SENT")[0] == "DONE"
    assert old.farm.build().outcome is Outcome.SUCCESS


# The operator's side


def test_addresses_are_enrolled_and_disabled_by_command(
    database: Engine, database_settings: DatabaseSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str]:
        status = keys.main([*words, "--set", f"database.url={database_settings.url}"])
        return status, capsys.readouterr().out

    assert run("enrol", "192.0.2.5") == (0, "builder 1 is admitted: plain 192.0.2.5\n")
    assert run("enrol", "::ffff:192.0.2.5", "--label", "old fleet")[1].startswith("builder 1 ")
    assert run("enrol", "2001:DB8::0:1")[1].endswith(" is admitted: plain 2001:db8::1\n")
    with database.begin() as conn:
        hello = m.Hello(timedelta(1), timedelta(1), "311", "cp311", "linux_armv7l", "old", "", "", "", "")
        assert slave_rows.register(conn, "plain 192.0.2.6 #1", hello, target_id=None) is None, "not enrolled"
        number = slave_rows.register(conn, "plain 192.0.2.5 #1", hello, target_id=None)
        assert slave_rows.register(conn, "plain 192.0.2.5 #1", hello, target_id=None) == number
        admitted = slave_rows.admitted_keys(conn)
        assert {"plain 192.0.2.5", "plain 192.0.2.5 #1", f"plain 2001:db8::1 #{plain.MOST}"} <= admitted
        assert len(admitted) == 2 * (plain.MOST + 1)
    assert f"{number}  plain 192.0.2.5 #1  enabled" in run("list")[1]
    assert run("disable", "192.0.2.5")[0] == 0
    with database.begin() as conn:
        assert len(slave_rows.admitted_keys(conn)) == plain.MOST + 1
        assert slave_rows.register(conn, "plain 192.0.2.5 #1", hello, target_id=None) is None
        assert slave_rows.register(conn, "plain 192.0.2.5 #2", hello, target_id=None) is None
    assert run("enable", "old fleet")[0] == 0
    assert run("disable", "plain 192.0.2.5 #1")[0] == 0
    with database.begin() as conn:
        assert len(slave_rows.admitted_keys(conn)) == 2 * (plain.MOST + 1) - 1
