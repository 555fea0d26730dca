# SPDX-License-Identifier: BSD-3-Clause
"""Builders without keys: their names, the door that gives them, and the double that plays them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.errors import PeerError
from piwheels.master import session as s
from piwheels.master.dispatch_desk import Desk
from piwheels.master.plain_door import PlainDoor
from piwheels.wire import keys, plain
from piwheels.wire import messages as m
from piwheels.wire.codec import decode_from_slave, encode
from tests import old_slave
from tests.wire_samples import HELLO, STATS, TOKEN

HERE, THERE = "plain 192.0.2.5", "plain 2001:db8::1"
OLD = replace(HELLO, capabilities=None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("192.0.2.5", HERE),
        (" 192.0.2.5\n", HERE),
        ("::ffff:192.0.2.5", HERE),
        ("2001:DB8:0::1", THERE),
        ("fe80::1%eth0", "plain fe80::1%eth0"),
        ("fe80::1%x #1", None),
        ("192.0.2", None),
        ("192.0.2.5 #1", None),
        ("192.0.2.0/24", None),
        ("k" * 40, None),
        ("", None),
    ],
)
def test_addresses(text: str, name: str | None) -> None:
    assert plain.address_key(text) == name


@given(st.ip_addresses().map(str))
def test_names_of_builders_lead_back_to_their_address(text: str) -> None:
    address = plain.address_key(text)
    assert address is not None and plain.is_address(address) and plain.address_of(address) is None
    names = plain.builder_keys(address)
    assert len(set(names)) == plain.MOST
    assert all(plain.address_of(name) == address and not plain.is_address(name) for name in names)
    assert not any(keys.is_key(name) for name in (address, *names)), "no public key can be taken for one"


class House:
    """A desk and its door, both addresses admitted."""

    def __init__(self) -> None:
        self.desk = Desk(s.Session)
        self.desk.admit({name for address in (HERE, THERE) for name in (address, *plain.builder_keys(address))})
        self.door = PlainDoor(self.desk)
        self.ids = 0

    def enter(self, identity: bytes, address: str = HERE, hello: m.Hello = OLD, now: float = 0.0) -> str:
        """Say hello and be registered; the name that was given."""
        key = self.door.builder(identity, address, hello, now)
        for builder, effect in self.desk.message(identity, key, hello, now):
            if isinstance(effect, s.Register):
                self.ids += 1
                self.desk.answer(builder.number, s.Registered(self.ids, None), now)
        return key

    def leave(self, identity: bytes) -> None:
        builder = self.desk.at(identity)
        assert builder is not None
        self.desk.forget(builder)


@pytest.fixture
def house() -> House:
    return House()


def test_the_lowest_number_that_is_free(house: House) -> None:
    assert [house.enter(b"a"), house.enter(b"b"), house.enter(b"c", THERE)] == [
        "plain 192.0.2.5 #1",
        "plain 192.0.2.5 #2",
        "plain 2001:db8::1 #1",
    ]
    assert house.door.builder(b"b", HERE, m.Idle(STATS), 1.0) == "plain 192.0.2.5 #2"
    assert house.door.builder(b"b", HERE, OLD, 1.0) == "plain 192.0.2.5 #2", "a hello again over one connection"
    house.leave(b"a")
    assert house.enter(b"d") == "plain 192.0.2.5 #1"


def test_a_number_that_the_operator_disabled_is_left_out(house: House) -> None:
    house.desk.admit({HERE, *plain.builder_keys(HERE)[1:]})
    assert house.enter(b"a") == "plain 192.0.2.5 #2"


def test_an_address_has_so_many(house: House) -> None:
    for number in range(plain.MOST):
        house.enter(b"%d" % number)
    with pytest.raises(PeerError, match="16 builders"):
        house.enter(b"more")
    assert house.enter(b"elsewhere", THERE) == "plain 2001:db8::1 #1"


def test_who_gave_up_waiting_has_its_number_again(house: House) -> None:
    first = house.enter(b"a")
    assert house.enter(b"b", now=200.0) != first, "another one that says the same of itself"
    assert house.enter(b"c", hello=replace(OLD, board_serial="other"), now=400.0) != first
    assert house.enter(b"d", now=400.0) == first
    assert [builder.identity for builder in house.desk.of(first)] == [b"d"]


def test_who_gets_no_answer(house: House) -> None:
    house.enter(b"a")
    for identity, address, message, why in (
        (b"new", HERE, m.Idle(STATS), "has not said hello"),
        (b"new", HERE, m.Sent(), "has not said hello"),
        (b"a", THERE, m.Idle(STATS), "another builder's"),
        (b"a", THERE, OLD, "another builder's"),
        (b"new", HERE, HELLO, "without encryption although"),
        (b"a", HERE, HELLO, "without encryption although"),
        (b"a", HERE, m.Busy(STATS, "log"), "an extension"),
        (b"a", HERE, m.Built(True, timedelta(1), "", (), m.BuildReport(TOKEN)), "an extension"),
    ):
        with pytest.raises(PeerError, match=why):
            house.door.builder(identity, address, message, 1.0)
    assert len(house.desk) == 1


def test_the_file_channel(house: House) -> None:
    names = [house.enter(b"a"), house.enter(b"b"), house.enter(b"c", THERE)]
    door, chunk = house.door, m.Chunk(0, b"x")
    assert door.file(b"f", HERE, m.FileHello(1)) == names[0]
    assert door.file(b"f", HERE, chunk) == names[0]
    assert door.file(b"g", HERE, m.FileHello(1)) == names[0], "a new connection for each file"
    with pytest.raises(PeerError, match="hello"):
        door.file(b"f", HERE, chunk)
    assert door.file(b"g", HERE, m.FileHello(2)) == names[1], "one connection for two"
    assert door.file(b"h", HERE, m.FileHello(1)) == names[0]
    assert door.file(b"g", HERE, chunk) == names[1]
    for address, message in ((HERE, m.FileHello(3)), (THERE, m.FileHello(1)), (HERE, m.FileHello(99)), (THERE, chunk)):
        with pytest.raises(PeerError):
            door.file(b"g", address, message)
    house.leave(b"a")
    with pytest.raises(PeerError, match="not here"):
        door.file(b"h", HERE, m.FileHello(1))


def test_what_the_door_remembers_is_bounded(house: House) -> None:
    house.enter(b"a")
    for number in range(1000):
        house.door.file(b"%d" % number, HERE, m.FileHello(1))
    assert len(house.door._files) == len(house.door._connection) == 1


# The double


SPAN = "d907d183"  #: tag 2001, an array of three
MESSAGES: list[tuple[str, Any, str]] = [
    ("BYE", None, "63425945"),
    ("SENT", None, "6453454e54"),
    (
        "HELLO",
        [timedelta(hours=3), timedelta(minutes=5), "311", "cp311", "linux_armv7l", "pi", "Debian", "12", "a02082", "1"],
        "826548454c4c4f8a"
        + SPAN
        + "00192a3000"
        + SPAN
        + "0019012c00"
        + "633331316563703331316c6c696e75785f61726d76376c"
        "6270696644656269616e623132666130323038326131",
    ),
    (
        "IDLE",
        [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), 1, 2, 3, 4, 5, 6, 0.5, 48.25],
        "826449444c4589c074323032362d30312d30325430333a30343a30355a010203040506fb3fe0000000000000fb4048200000000000",
    ),
    (
        "BUILT",
        [
            True,
            timedelta(seconds=1),
            "log",
            [
                ["a-1-py3-none-any.whl", 7, "ab", "a", "1", "py3", "none", "any", None, {"apt": ["libc6"]}, "/simple"],
            ],
        ],
        "82654255494c5484f5" + SPAN + "000100" + "636c6f67818b74612d312d7079332d6e6f6e652d616e792e77686c07626162616161"
        "3163707933646e6f6e6563616e79f6a16361707481656c69626336672f73696d706c65",
    ),
]


@pytest.mark.parametrize(("name", "data", "expected"), MESSAGES, ids=[name for name, _, _ in MESSAGES])
def test_the_doubles_bytes(name: str, data: Any, expected: str) -> None:
    """They are what a 0.2x slave sends, written down by hand; and our master understands them."""
    assert old_slave.encode(name, data).hex() == expected
    message = decode_from_slave(bytes.fromhex(expected))
    assert type(message).__name__.upper() == name
    assert decode_from_slave(encode(message)) == message


def test_the_double_is_surprised_by_whatever_is_new() -> None:
    assert old_slave.decode(encode(m.Build("a", "1"))) == ("BUILD", ["a", "1"])
    assert old_slave.decode(encode(m.Ack(1, "https://example.org"))) == ("ACK", [1, "https://example.org"])
    assert old_slave.decode(encode(m.Cont())) == ("CONT", None)
    for data in (["BUILD", ["a", "1", {}]], ["CONT", 1], "SEND", ["SLEEP", 0], ["NEW", 1], 7, ["ACK", [1, "x", 2]]):
        with pytest.raises(old_slave.Surprise):
            old_slave.decode(old_slave.cbor2.dumps(data))
