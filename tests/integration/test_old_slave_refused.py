# SPDX-License-Identifier: BSD-3-Clause
"""Who and what is refused on the addresses without encryption."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from sqlalchemy import Engine

from piwheels.db import slaves as slave_rows
from piwheels.db.tables import slaves
from piwheels.errors import SettingsError
from piwheels.master import dispatch
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import Outcome
from piwheels.wire import messages as m
from piwheels.wire import plain
from tests.integration import dispatch_world as world
from tests.integration.old_world import Old, serving_old, wheel_of
from tests.old_slave import Outcome as Made
from tests.old_slave import Slave, encode

pytestmark = pytest.mark.integration


@pytest.fixture
def old(
    database: Engine, database_settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Old]:
    with serving_old(database, database_settings, tmp_path, monkeypatch) as old:
        yield old


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
