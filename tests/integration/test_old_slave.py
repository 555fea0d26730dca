# SPDX-License-Identifier: BSD-3-Clause
"""0.2x slaves on the address without encryption: served beside ours, and what strangers try there."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from sqlalchemy import Engine, select, text

from piwheels.admin import keys
from piwheels.db import slaves as slave_rows
from piwheels.db.tables import builds, dependencies, files, jobs, slaves
from piwheels.errors import SettingsError
from piwheels.master import dispatch, plain_door
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Outcome
from piwheels.wire import messages as m
from piwheels.wire import plain
from tests.integration import dispatch_world as world
from tests.integration.builder import Builder, announce
from tests.integration.dispatch_farm import Farm, make_farm
from tests.old_slave import NOTHING, Silence, Slave, Wheel, encode
from tests.old_slave import Outcome as Made

pytestmark = pytest.mark.integration

HERE = "127.0.0.1"
SHORTLY = timedelta(seconds=0.4)  #: how long nothing must be answered


class Old:
    """A farm that serves 0.2x slaves too."""

    def __init__(self, farm: Farm, stack: ExitStack) -> None:
        self.farm = farm
        self.stack = stack

    def enrol(self, address: str = HERE) -> int:
        key = plain.address_key(address)
        assert key is not None
        with self.farm.engine.begin() as conn:
            number = slave_rows.enrol(conn, key)
        self.farm.wait_for_admission()
        return number

    def slave(self, **values: Any) -> Slave:
        slave = Slave(*self.farm.plain_address, **{"pace": 0.001, **values})
        self.stack.callback(slave.close)
        slave.connect()
        return slave

    def connections(self) -> list[Any]:
        """The master's ends of connections to the address for builders."""
        port = int(self.farm.plain_address[0].rsplit(":", 1)[1])
        return [one for one in psutil.net_connections("tcp") if one.laddr.port == port and one.raddr]

    def row(self, slave: Slave) -> Any:
        with self.farm.engine.begin() as conn:
            return conn.execute(select(slaves).where(slaves.c.id == slave.slave_id)).one()

    def dropped(self, slave: Slave, name: str, data: Any) -> None:
        """The message is counted and not answered."""
        before = self.farm.state["nonsense"]
        with patience(slave, SHORTLY), pytest.raises(Silence):
            slave.ask(name, data)
        world.wait_for(lambda: self.farm.state["nonsense"] > before, "the message to be counted")

    def turned_away(self, slave: Slave) -> None:
        """Its connection is refused before it has said anything; such are counted."""
        before = self.farm.state.get("refused", 0)
        slave.connect()
        slave.socket.setsockopt(zmq.SNDTIMEO, 500)  # once it was refused, there is nobody to send to
        with patience(slave, SHORTLY), pytest.raises((Silence, zmq.Again)):
            slave.hello()
        world.wait_for(lambda: self.farm.state.get("refused", 0) > before, "the connection to be counted")


@contextmanager
def patience(slave: Slave, time: timedelta) -> Iterator[None]:
    """Have it wait for so long."""
    before, slave.busy_timeout = slave.busy_timeout, time
    yield
    slave.busy_timeout = before


@pytest.fixture
def old(
    database: Engine, database_settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Old]:
    monkeypatch.setattr(dispatch, "REPORT", 0.05)
    where = "tcp://127.0.0.1:*"
    change = {"plain_builders": where, "plain_files": where}
    farm = make_farm(database, database_settings, tmp_path, lambda d: replace(d, **change))
    with ExitStack() as stack:
        stack.callback(farm.close)
        farm.start()
        yield Old(farm, stack)


def wheel_of(package: str, version: str, *, padding: int = 0) -> Wheel:
    name = package.lower()
    data = world.wheel_bytes(name, version, padding=padding)
    return Wheel(f"{name}-{version}-cp311-cp311-linux_armv7l.whl", data)


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


# Refused


def test_an_address_that_is_not_enrolled_gets_no_answer(old: Old) -> None:
    old.enrol("127.0.0.2")
    stranger, known = old.slave(), old.slave(source="127.0.0.2")
    nonsense = old.farm.state["nonsense"]
    old.turned_away(stranger)
    assert known.hello()[0] == "ACK"
    assert old.row(known).key == "plain 127.0.0.2 #1"
    assert old.farm.state["nonsense"] == nonsense


def test_enrolling_an_address_takes_effect_at_the_gate(old: Old) -> None:
    slave = old.slave()
    old.turned_away(slave)
    number = old.enrol()
    slave.connect()
    assert slave.hello()[0] == "ACK"
    with old.farm.engine.begin() as conn:
        slave_rows.set_enabled(conn, number, False)
    old.farm.wait_for_admission()
    old.turned_away(slave)


def test_disabling_an_address_cuts_all_of_it_and_nobody_else(old: Old) -> None:
    number = old.enrol()
    old.enrol("127.0.0.2")
    old.farm.job()
    slaves_here = [old.slave(), old.slave(serial="two")]
    other = old.slave(source="127.0.0.2")
    for slave in [*slaves_here, other]:
        slave.hello()
    assert slaves_here[0].idle()[0] == "BUILD"
    with old.farm.engine.begin() as conn:
        slave_rows.set_enabled(conn, number, False)
    world.wait_for(old.farm.build, "its lease to return")
    for slave in slaves_here:
        assert not old.row(slave).enabled
        old.dropped(slave, "IDLE", slave.stats())
    assert other.idle()[0] in ("SLEEP", "BUILD")
    old.enrol()
    again = old.slave()
    assert again.hello()[0] == "ACK"


def test_one_builder_of_an_address_can_be_disabled(old: Old) -> None:
    old.enrol()
    slave, second = old.slave(), old.slave(serial="two")
    slave.hello()
    with old.farm.engine.begin() as conn:
        slave_rows.set_enabled(conn, slave.slave_id, False)
    old.farm.wait_for_admission()
    old.dropped(slave, "IDLE", slave.stats())
    second.hello()
    assert old.row(second).key == "plain 127.0.0.1 #2"


def test_a_current_slave_is_refused_without_encryption(old: Old) -> None:
    old.enrol()
    slave = old.slave()
    old.dropped(slave, "HELLO", [*slave.hello_data(), {"protocol": 2, "slave": "x"}])
    slave.connect()
    slave.hello()
    old.dropped(slave, "BUSY", [*slave.stats(), "a live log"])


def test_only_so_many_from_one_address(old: Old) -> None:
    old.enrol()
    old.enrol("127.0.0.2")
    crowd = [old.slave(serial=str(number)) for number in range(plain.MOST + 3)]
    for slave in crowd[: plain.MOST]:
        assert slave.hello()[0] == "ACK"
    for slave in crowd[plain.MOST :]:
        old.dropped(slave, "HELLO", slave.hello_data())
    assert old.slave(source="127.0.0.2").hello()[0] == "ACK"
    world.wait_for(lambda: old.farm.state["builders"] == plain.MOST + 1, "all of them to be counted")
    crowd[4].bye()
    world.wait_for(lambda: old.farm.state["builders"] == plain.MOST, "its leaving")
    late = old.slave()
    late.hello()
    assert old.row(late).key == "plain 127.0.0.1 #5"


def _came(old: Old) -> tuple[int, int]:
    """A number that grows with what comes from admitted addresses and from others."""
    return old.farm.state["messages"], old.farm.state["refused"]


def at_the_file_channel(old: Old, source: str, *messages: list[bytes]) -> list[list[bytes]]:
    """What the master says to somebody who sends this over the file channel."""
    slave = old.slave(source=source)
    channel = slave.context.socket(zmq.DEALER)
    channel.connect(slave.files)
    before = _came(old)
    for frames in messages:
        channel.send_multipart(frames)
    world.wait_for(lambda: _came(old) > before, "them to arrive")
    heard = []
    while channel.poll(200):
        heard.append(channel.recv_multipart())
    channel.close(linger=0)
    return heard


def test_a_stolen_slave_id_is_of_no_use_at_another_address(old: Old) -> None:
    old.enrol()
    old.enrol("127.0.0.2")
    old.farm.job()
    slave, thief = old.slave(), old.slave(source="127.0.0.2")
    thief.hello()
    slave.hello()
    _, (package, version) = slave.idle()
    wheel = wheel_of(package, version)
    assert slave.built(Made([wheel])) == ("SEND", wheel.filename)
    hello = [b"HELLO", b"%d" % slave.slave_id]
    for source in ("127.0.0.2", "127.0.0.3"):
        assert at_the_file_channel(old, source, hello, [b"CHUNK", b"0", b"x" * 100]) == []
    builder = old.farm.builder()
    builder.hello()
    with builder.file_channel() as channel:  # nor with a key, on the encrypted channel
        channel.send_multipart(hello)
        assert not channel.poll(200)
    slave.transfer(wheel.data)
    assert slave.ask("SENT")[0] == "DONE"
    assert old.farm.build().outcome is Outcome.SUCCESS


def connect_as(slave: Slave, identity: bytes) -> None:
    """Have it connect under a name that it chose."""
    slave.drop()
    slave.socket = slave.context.socket(zmq.REQ)
    slave.socket.setsockopt(zmq.IDENTITY, identity)
    slave.socket.connect(slave.builders)


def test_a_stolen_connection_identity_is_of_no_use_either(old: Old) -> None:
    """ZeroMQ lets peers choose the identity of their connection."""
    old.enrol()
    old.enrol("127.0.0.2")
    old.farm.job()
    slave = old.slave()
    connect_as(slave, b"chosen")
    slave.hello()
    assert slave.idle()[0] == "BUILD"
    slave.drop()
    thief = old.slave(source="127.0.0.2")
    farm = old.farm
    for name, data in (("BUSY", thief.stats()), ("HELLO", thief.hello_data())):
        before = farm.state["nonsense"]

        def heard(name: str = name, data: Any = data, before: int = before) -> bool:
            """ZeroMQ drops what comes over a second connection of a name; so, again once the first is gone."""
            connect_as(thief, b"chosen")
            thief.socket.send(encode(name, data))
            assert not thief.socket.poll(300), "it was answered"
            return bool(farm.state["nonsense"] > before)

        world.wait_for(heard, "its message to be counted")
    # The same on the encrypted address is another connection, whatever it is called.
    keyed = old.farm.builder()
    keyed.close()
    keyed.socket = keyed.context.socket(zmq.REQ)
    keyed.socket.setsockopt(zmq.IDENTITY, b"chosen")
    keyed.socket.curve_serverkey = keyed.address.key.encode()
    keyed.socket.curve_publickey, keyed.socket.curve_secretkey = keyed.keys.public.encode(), keyed.keys.secret.encode()
    keyed.socket.connect(keyed.address.builders)
    assert isinstance(keyed.hello(), m.Ack)


def test_metadata_that_a_peer_sends_of_itself_is_not_believed(old: Old) -> None:
    """On a connection without encryption a peer may claim any User-Id and Peer-Address (ZMTP 3.1, metadata)."""
    old.enrol("127.0.0.2")
    honest = old.farm.builder()
    slave = old.slave()
    before = old.farm.state["refused"]
    host, port = old.farm.plain_address[0].removeprefix("tcp://").rsplit(":", 1)
    claims = {"User-Id": honest.keys.public, "Peer-Address": "127.0.0.2"}
    request = encode("HELLO", slave.hello_data())
    said = b"\x01\x00\x00" + bytes([len(request)]) + request
    with zmtp(host, int(port), claims) as connection:
        world.wait_for(lambda: old.farm.state["refused"] > before, "it to be refused")
        with suppress(ConnectionError):
            connection.sendall(said)
            while connection.recv(1000):
                pass
    assert world.count(old.farm.engine, slaves) == 2
    old.enrol()
    with zmtp(host, int(port), claims) as connection:
        connection.sendall(said)
        world.wait_for(lambda: old.farm.state["builders"], "the same to be admitted for where it comes from")
    world.wait_for(lambda: world.count(old.farm.engine, slaves, slaves.c.key == "plain 127.0.0.1 #1"), "its row")


@contextmanager
def zmtp(host: str, port: int, metadata: dict[str, str]) -> Iterator[Any]:
    """A TCP connection that has shaken hands as a REQ without security, and claimed this of itself (ZeroMQ RFC 37)."""
    import socket

    properties = {"Socket-Type": "REQ", "Identity": "", **metadata}
    body = b"\x05READY" + b"".join(
        bytes([len(name)]) + name.encode() + len(value).to_bytes(4, "big") + value.encode()
        for name, value in properties.items()
    )
    with socket.create_connection((host, port), 10) as connection:
        connection.settimeout(10)
        connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32))
        greeting = b""
        while len(greeting) < 64:
            greeting += connection.recv(64 - len(greeting))
        connection.sendall(b"\x04" + bytes([len(body)]) + body)
        yield connection


def test_both_addresses_or_neither(old: Old) -> None:
    old.farm.stop()
    settings = replace(old.farm.settings, dispatch=replace(old.farm.settings.dispatch, plain_files=""))
    refused: Callable[..., None] = dispatch.serve
    with pytest.raises(SettingsError, match="belong together"):
        refused(settings, old.farm.keys, engine=old.farm.engine, stop=threading.Event(), report=lambda **_: None)


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
