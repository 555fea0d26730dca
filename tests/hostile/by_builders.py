# SPDX-License-Identifier: BSD-3-Clause
"""What an admitted builder's key can try on the builder channel: it runs strangers' code, so it may be anybody's."""

import random
import struct
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cbor2

from piwheels.vocabulary import FailureReason
from piwheels.wire import messages as m
from piwheels.wire.cbor import MAX_ITEMS, MAX_MESSAGE
from piwheels.wire.codec import encode
from tests import wire_samples as samples
from tests.hostile.attack import attack
from tests.hostile.ground import MEBI, Ground, wheel_of
from tests.integration.builder import announce, stats

RIGHT = {
    "HELLO": encode(samples.HELLO),
    "IDLE": encode(m.Idle(samples.STATS)),
    "BUSY": encode(m.Busy(samples.STATS, "log\n")),
    "BUILT": encode(samples.built(samples.file_info())),
    "failed": encode(samples.built(reason=FailureReason.PACKAGE)),
    "SENT": encode(m.Sent()),
    "BYE": encode(m.Bye()),
}


def _text(text: bytes) -> bytes:
    return b"\x7a" + struct.pack(">I", len(text)) + text


BOMBS = {
    "arrays in arrays": b"\x81" * 1_000_000,
    "maps in maps": b"\xa1\x61a" * 300_000,
    "tags in tags": b"\xd9\x07\xd1" * 300_000,
    "an endless array": b"\x9f" + b"\x00" * 100_000 + b"\xff",
    "endless arrays in endless arrays": b"\x9f" * 100_000,
    "an endless map": b"\xbf" + b"\x61a\x00" * 1000 + b"\xff",
    "an endless text": b"\x7f" + b"\x61a" * 1000 + b"\xff",
    "an array of 2**63": b"\x9b\x7f" + b"\xff" * 7,
    "an array of 2**32-1": b"\x9a\xff\xff\xff\xff",
    "a map of 2**62": b"\xbb\x40" + bytes(7),
    "a text of 2**64-1": b"\x7b" + b"\xff" * 8,
    "a byte string of 2**31": b"\x5a\x80\x00\x00\x00",
    "shared references": cbor2.dumps([cbor2.CBORTag(28, [1]), cbor2.CBORTag(29, 0)]),
    "a cycle": b"\xd8\x1c\x81\xd8\x1d\x00",
    "a string reference": b"\xd9\x01\x00\x82\x63abc\xd8\x19\x00",
    "a bignum": b"\xc2\x5a\x00\x01\x00\x00" + b"\xff" * 65_536,
    "a decimal fraction": b"\xc4\x82\x1a\x7f\xff\xff\xff\x01",
    "a bigfloat": b"\xc5\x82\x1a\x7f\xff\xff\xff\x01",
    "a rational": b"\xd8\x1e\x82\x01\x00",
    "a regular expression": b"\xd8\x23" + _text(b"(a*)*" * 100),
    "MIME": b"\xd8\x24" + _text(b"X: y\r\n" * 100),
    "a set": b"\xd9\x01\x02\x81\x01",
    "seconds since 1970": b"\xc1\xfb" + struct.pack(">d", 1e300),
    "a date of nonsense": b"\xc0" + _text(b"9" * 100_000),
    "a date of year 0": b"\xc0\x740000-00-00T00:00:00Z",
    "a date beyond all": b"\xc0\x78\x199999-12-31T23:59:59-23:59",
    "undefined": b"\xf7",
    "a simple value": b"\xf8\xff",
    "break": b"\xff",
    "bad UTF-8": b"\x82\x65HELLO\x64\xff\xfe\xfd\xfc",
    "as many items as may be": b"\x9a" + struct.pack(">I", MAX_ITEMS - 1) + b"\x00" * (MAX_ITEMS - 1),
    "one item more": b"\x9a" + struct.pack(">I", MAX_ITEMS) + b"\x00" * MAX_ITEMS,
    "a map of equal keys": b"\xb9\xff\xff" + b"\x61a\x00" * 65_535,
    "two messages": RIGHT["BYE"] * 2,
}


@attack()
def bombs(ground: Ground) -> None:
    with_name = [b"\x82" + _text(name.encode()) + bomb for name in RIGHT for bomb in BOMBS.values()]
    channel = ground.peer("builders")
    for greeted in (False, True):
        for data in (*BOMBS.values(), *with_name):
            channel.send_multipart([b"", data])
        if not greeted:
            ground.greet(channel)


@attack()
def every_message_cut_short_and_spoiled(ground: Ground) -> None:
    chance = random.Random(2)
    channel = ground.peer("builders")
    ground.greet(channel)
    for data in RIGHT.values():
        for length in range(len(data)):
            channel.send_multipart([b"", data[:length]])
        for _ in range(150):
            spoiled = bytearray(data)
            for _ in range(chance.randint(1, 3)):
                spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
            channel.send_multipart([b"", bytes(spoiled)])
    ground.greet(channel)


@attack()
def wrong_envelopes(ground: Ground) -> None:
    channel = ground.peer("builders")
    ground.greet(channel)
    for frames in (
        [b""],
        [b"", b""],
        [b"x"],
        [RIGHT["BYE"]],
        [b"x", RIGHT["BYE"]],
        [b"", b"", RIGHT["BYE"]],
        [b"", RIGHT["BYE"], b""],
        [b""] * 1000,
        [b"x" * 1000] * 1000,
        [b"", b"HELLO", b"1"],
    ):
        channel.send_multipart(frames)
    ground.greet(channel)


@attack()
def every_value_out_of_range(ground: Ground) -> None:
    """Each place of each message in turn holds each odd value."""
    odd = [
        None, True, -1, 2**63, 2**64 - 1, -(2**64), 1e308, float("nan"), float("inf"), "", "\0", "\x1b[2J",
        "x" * 100_000, "\u202e", "../../etc/passwd", [], {}, [[]], {"a": 1}, cbor2.CBORTag(2001, [2**60, 0, 0]),
        cbor2.CBORTag(2001, [-1, -1, -1]), cbor2.CBORTag(2001, None), cbor2.CBORTag(2002, None),
        cbor2.CBORTag(2002, [1]), cbor2.CBORTag(0, "now"), cbor2.CBORTag(0, "0001-01-01T00:00:00+23:59"),
    ]  # fmt: skip
    channel = ground.peer("builders")
    ground.greet(channel)
    for data in RIGHT.values():
        item = cbor2.loads(data)
        if isinstance(item, str):
            continue
        for spoiled in _variants(item, odd):
            with suppress(cbor2.CBOREncodeError):
                channel.send_multipart([b"", cbor2.dumps(spoiled, default=_tag)])
    ground.greet(channel)


@attack()
def messages_of_every_kind_out_of_turn(ground: Ground) -> None:
    """In every order of two, after hello and without; and those that only a master says."""
    chance = random.Random(3)
    ours = [encode(message) for message in (m.Ack(1, ""), m.Sleep(False), m.Cont(), m.Send("x"), m.Done(), m.Die())]
    for first in (*RIGHT.values(), *ours):
        channel = ground.peer("builders")
        if chance.random() < 0.3:
            ground.greet(channel)
        for second in RIGHT.values():
            channel.send_multipart([b"", first])
            channel.send_multipart([b"", second])
        channel.close(linger=1000)
    for _ in range(300):
        channel = ground.peer("builders") if _ % 30 == 0 else channel
        channel.send_multipart([b"", chance.choice(list(RIGHT.values()))])
    ground.serve_the_honest()


@attack()
def hellos_without_end(ground: Ground) -> None:
    channel = ground.peer("builders")
    for _ in range(1000):
        channel.send_multipart([b"", RIGHT["HELLO"]])
    ground.serve_the_honest()
    ground.greet(channel)


@attack()
def hellos_over_many_connections(ground: Ground) -> None:
    channels = [ground.peer("builders") for _ in range(150)]
    for channel in channels:
        for _ in range(5):
            channel.send_multipart([b"", RIGHT["HELLO"]])
    ground.serve_the_honest()
    ground.greet(channels[0])


@attack()
def requests_whose_answers_nobody_reads(ground: Ground) -> None:
    channel = ground.peer("builders", rcvhwm=1, rcvbuf=4096)
    ground.greet(channel)
    for _ in range(2000):
        channel.send_multipart([b"", RIGHT["IDLE"]])
    ground.serve_the_honest()


@attack(memory=200 * MEBI)
def the_largest_messages_one_after_the_other(ground: Ground) -> None:
    log = "x" * (11 * MEBI)
    large = encode(m.Built(False, timedelta(seconds=1), log, (), samples.built(reason=FailureReason.PACKAGE).report))
    channel = ground.peer("builders")
    for _ in range(5):
        channel.send_multipart([b"", large])
    ground.greet(channel)
    for _ in range(5):
        channel.send_multipart([b"", large])
    ground.serve_the_honest()


@attack(memory=200 * MEBI)
def messages_that_take_long_to_read(ground: Ground) -> None:
    """As many items as a message may have, over several connections that never say hello."""
    slow = BOMBS["as many items as may be"]
    for _ in range(10):
        channel = ground.peer("builders")
        for _ in range(10):
            channel.send_multipart([b"", slow])
    ground.serve_the_honest()


@attack()
def messages_too_large(ground: Ground) -> None:
    for size in (MAX_MESSAGE + 1, MAX_MESSAGE * 4):
        channel = ground.peer("builders")
        channel.send_multipart([b"", bytes(size)])
        channel.close(linger=2000)


@attack(memory=250 * MEBI)
def a_message_of_very_many_frames(ground: Ground) -> None:
    """ZeroMQ limits a frame's size and how many messages wait, but not how many frames a message has: it holds them all
    until the last has come. What is asked for here is that they are let go of again."""
    channel = ground.peer("builders")
    for _ in range(2):
        channel.send_multipart([bytes(4 * MEBI)] * 20)
        channel.send_multipart([b""] * 20_000)
    ground.greet(channel)


@attack()
def somebody_elses_build(ground: Ground) -> None:
    """A hello that resumes the victim's lease, results and files for it."""
    token = ground.token_of(ground.victim.slave_id)
    channel = ground.peer("builders")
    ground.greet(channel, resume=token)
    answer = ground.ask(channel, m.Busy(stats()), (m.Done, m.Die))
    assert answer == m.Done(), "it has no build"
    report = m.BuildReport(token, FailureReason.PACKAGE, "sabotage")
    answer = ground.ask(channel, m.Built(False, timedelta(seconds=1), "", (), report), (m.Done, m.Die, m.Send))
    assert answer == m.Done(), "nothing is asked of it"
    name, data = "victim-1.0-cp311-cp311-linux_armv7l.whl", b"x" * 100
    built = m.Built(True, timedelta(seconds=1), "", (announce(name, data),), m.BuildReport(token))
    assert ground.ask(channel, built, (m.Done, m.Die, m.Send)) == m.Done()
    assert ground.victim.busy() == m.Cont()


@attack()
def somebody_elses_connection(ground: Ground) -> None:
    """A ZeroMQ identity that somebody has already, or that looks like one that the master gives."""
    for identity in (b"builder", b"\x01" * 255, b"piwheels"):
        first = ground.peer("builders", routing_id=identity)
        ground.greet(first)
        second = ground.peer("builders", routing_id=identity, keys=ground.victim.keys)
        second.send_multipart([b"", RIGHT["BYE"]])
        assert not second.poll(100)
        assert isinstance(ground.ask(first, m.Idle(stats()), (m.Sleep, m.Build)), m.Sleep | m.Build)
        first.send_multipart([b"", RIGHT["BYE"]])


@attack()
def the_same_result_again_and_again(ground: Ground) -> None:
    builder, build = ground.at_work()
    assert build.order is not None
    report = m.BuildReport(build.order.token, FailureReason.PACKAGE, "it broke")
    failed = m.Built(False, timedelta(seconds=1), "log\n", (), report)
    builder.close()
    channel = ground.peer("builders")
    ground.greet(channel, resume=build.order.token)
    for _ in range(50):
        channel.send_multipart([b"", encode(failed)])
    channel = ground.peer("builders")
    ground.greet(channel, resume=build.order.token)
    for _ in range(20):
        assert ground.ask(channel, failed, (m.Done, m.Die)) == m.Done()
    assert ground.builds_of(build.package.lower()) == 1, "it is recorded once"


HOSTILE_NAMES = (
    "../../../../tmp/{name}",
    "/etc/cron.d/{name}",
    "{name}/../../x.whl",
    "..",
    "",
    "\0{name}",
    "{name}\0",
    "{name}\n",
    "\u202e{name}",
    "{project}-1.0-cp311-cp311-linux_armv7l.whl/..",
    "{project}-9.9-cp311-cp311-linux_armv7l.whl",
    "other-1.0-cp311-cp311-linux_armv7l.whl",
    "{project}-1.0-<script>-cp311-linux_armv7l.whl",
    "{project}-1.0-cp311-cp311-linux_armv7l.whl.exe",
    "{project}-1.0'; DROP TABLE builds; --cp311-cp311-any.whl",
    "{project}-1.0-" + "cp311." * 140 + "cp311-cp311-linux_armv7l.whl",
    "{project}-1.0-" + "1" * 900 + "-cp311-cp311-any.whl",
)
HOSTILE_FACTS = (
    {"size": 0},
    {"size": 2**63 - 1},
    {"size": 64 * MEBI + 1},
    {"sha256": ""},
    {"sha256": "../" * 20},
    {"sha256": "AB" * 32},
)


@attack()
def announcements_that_are_lies(ground: Ground) -> None:
    builder, build = ground.at_work()
    for pattern in HOSTILE_NAMES:
        name, data = wheel_of(build)
        spoiled = pattern.format(name=name, project=build.package.lower())
        assert builder.built(build, replace(announce(name, data), filename=spoiled)) == m.Done(), spoiled
        builder.close()
        builder, build = ground.at_work()
    for facts in HOSTILE_FACTS:
        name, data = wheel_of(build)
        assert builder.built(build, replace(announce(name, data), **facts)) == m.Done(), facts
        builder.close()
        builder, build = ground.at_work()
    name, data = wheel_of(build)
    many = [announce(name.replace("1.0-", f"1.0-{n}-"), data) for n in range(1, 101)]
    assert builder.built(build, *many) == m.Done()
    ground.until_no_parts()


@attack()
def tags_and_dependencies_that_are_lies(ground: Ground) -> None:
    """Beside a right file name: what is beside the name is not to become part of anything unparsed."""
    builder, build = ground.at_work()
    name, data = wheel_of(build)
    evil = "<script>alert(1)</script>'; DROP TABLE files; --"
    file = announce(
        name,
        data,
        package_tag="../../x",
        version_tag=evil,
        py_tag="..",
        abi_tag=evil,
        platform_tag="/etc",
        requires_python=evil,
        location="../../../etc",
        dependencies={"apt": tuple(f"{evil}{n}" for n in range(1000)), "": ("/etc/passwd",)},
    )
    assert isinstance(builder.built(build, file), m.Send)
    builder.deliver(data)
    assert builder.ask(m.Sent()) == m.Done()


@attack(memory=120 * MEBI)
def live_logs_without_end(ground: Ground) -> None:
    builder, build = ground.at_work()
    assert build.order is not None
    builder.close()
    channel = ground.peer("builders")
    ground.greet(channel, resume=build.order.token)
    busy = encode(m.Busy(stats(), "\x1b[31m\u202e" * 10_000))
    for _ in range(500):
        channel.send_multipart([b"", busy])
    ground.serve_the_honest()


@attack()
def clocks_and_figures_of_nonsense(ground: Ground) -> None:
    builder = ground.villain()
    for now in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)):
        odd = m.Stats(now, 2**63 - 1, 0, 2**63 - 1, 0, 2**63 - 1, 0, 1e6, -1e6)
        assert isinstance(builder.ask(m.Idle(odd)), m.Sleep | m.Build)
        assert isinstance(builder.ask(m.Busy(odd)), m.Cont | m.Done)


def _variants(item: object, odd: list[object]) -> list[object]:
    """The item with each of its parts in turn replaced by each odd value."""
    found: list[object] = list(odd)
    if isinstance(item, list):
        for index, part in enumerate(item):
            found += [[*item[:index], other, *item[index + 1 :]] for other in _variants(part, odd)]
        found += [item[:-1], [*item, 1], [*item, *item]]
    elif isinstance(item, dict):
        for key, part in item.items():
            found += [{**item, key: other} for other in _variants(part, odd)]
        found.append({**item, "\0": "new"})
    return found


def _tag(encoder: cbor2.CBOREncoder, value: object) -> None:
    encoder.encode(str(value))
