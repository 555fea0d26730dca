# SPDX-License-Identifier: BSD-3-Clause
"""What an admitted builder's key can try on the file channel."""

import random
from typing import Any

from piwheels.wire import messages as m
from piwheels.wire.codec import MAX_CHUNK, decode_file_from_master, encode_file
from tests.hostile.attack import attack
from tests.hostile.by_builders import BOMBS, RIGHT
from tests.hostile.ground import MEBI, Ground, wheel_of
from tests.integration.builder import Builder, announce

Ranges = list[tuple[bytes, bytes]]


@attack()
def frames_that_are_no_file(ground: Ground) -> None:
    chance = random.Random(4)
    channel = ground.peer("files")
    for frames in (
        [b""],
        [b"HELLO"],
        [b"HELLO", b""],
        [b"HELLO", b"-1"],
        [b"HELLO", b"1" * 1000],
        [b"HELLO", b"\xd9\xa1"],
        [b"HELLO", b"1", b"1"],
        [b"CHUNK"],
        [b"CHUNK", b"0"],
        [b"CHUNK", b"0x10", b"x"],
        [b"CHUNK", b"1e9", b"x"],
        [b"CHUNK", b"9" * 18, b"x"],
        [b"CHUNK", b"0", b""],
        [b"FETCH", b"0", b"1"],
        [b"DONE"],
        [b""] * 1000,
        [b"x" * MAX_CHUNK] * 5,
        *([value] for value in BOMBS.values()),
        *([b"", value] for value in RIGHT.values()),
    ):
        channel.send_multipart(frames)
    for _ in range(2000):
        channel.send_multipart([chance.randbytes(chance.randrange(30)) for _ in range(chance.randrange(1, 6))])


@attack()
def chunks_that_nobody_asked_for(ground: Ground) -> None:
    """Before a hello, after one, and while nothing is expected."""
    channel = ground.peer("files")
    for slave_id in (ground.victim.slave_id, 1, 2, 3, 10**17):
        channel.send_multipart([b"HELLO", b"%d" % slave_id])
        for offset in (0, 1, 2**40, 10**17):
            channel.send_multipart([b"CHUNK", b"%d" % offset, bytes(100_000)])
    ground.serve_the_honest()


@attack()
def chunks_larger_than_any(ground: Ground) -> None:
    for size in (MAX_CHUNK + 1, 4 * MAX_CHUNK):
        ground.peer("files", linger=2000).send_multipart([b"CHUNK", b"0", bytes(size)])


@attack()
def ranges_out_of_bounds(ground: Ground) -> None:
    """While a file is expected: beyond its end, before its start, across blocks, twice, empty."""
    builder, build = ground.at_work()
    name, data = wheel_of(build, padding=600_000)
    size = len(data)
    assert isinstance(builder.built(build, announce(name, data)), m.Send)

    def spoil(offset: int, chunk: bytes) -> Ranges:
        odd = [(size, b"x"), (size - 1, b"xx"), (2**62, b"x"), (0, b"\xff" * 1000), (offset, b""), (offset + 1, b"y")]
        spoiled = [(b"%d" % at, piece) for at, piece in odd]
        return [*spoiled, (b"-1", b"x"), (b"", b"x"), (b"%d" % offset, chunk), (b"%d" % offset, chunk)]

    _deliver(ground, builder, data, spoil)
    answer = builder.ask(m.Sent())
    assert isinstance(answer, m.Done | m.Send)


@attack()
def bytes_one_by_one(ground: Ground) -> None:
    builder, build = ground.at_work()
    name, data = wheel_of(build)
    assert isinstance(builder.built(build, announce(name, data)), m.Send)

    def crumble(offset: int, chunk: bytes) -> Ranges:
        return [(b"%d" % (offset + at), chunk[at : at + 1]) for at in range(len(chunk))]

    _deliver(ground, builder, data, crumble)
    assert builder.ask(m.Sent()) == m.Done()


@attack(memory=100 * MEBI)
def the_same_chunk_a_hundred_times(ground: Ground) -> None:
    builder, build = ground.at_work()
    name, data = wheel_of(build, padding=1_000_000)
    assert isinstance(builder.built(build, announce(name, data)), m.Send)
    _deliver(ground, builder, data, lambda offset, chunk: [(b"%d" % offset, chunk)] * 100)
    assert builder.ask(m.Sent()) == m.Done()


@attack()
def a_file_that_is_another(ground: Ground) -> None:
    """Right size, other bytes: three times, then the job goes back."""
    builder, build = ground.at_work()
    name, data = wheel_of(build)
    answer = builder.built(build, announce(name, data))
    tries = 0
    while isinstance(answer, m.Send):
        tries += 1
        _deliver(ground, builder, bytes(len(data)), lambda offset, chunk: [(b"%d" % offset, chunk)])
        answer = builder.ask(m.Sent())
    assert (answer, tries) == (m.Done(), 3)
    ground.until_no_parts()


@attack()
def sent_without_sending(ground: Ground) -> None:
    builder, build = ground.at_work()
    name, data = wheel_of(build)
    answer = builder.built(build, announce(name, data))
    while isinstance(answer, m.Send):
        answer = builder.ask(m.Sent())
    assert answer == m.Done()
    ground.until_no_parts()


@attack()
def a_disk_full_of_promises(ground: Ground) -> None:
    """Announces large files and never sends one: what was set aside for each is given back with the next."""
    for _ in range(10):
        builder, build = ground.at_work()
        name, data = wheel_of(build)
        file = announce(name, data, size=64 * MEBI)
        assert isinstance(builder.built(build, file), m.Send)
        builder.close()
    ground.until_no_parts(at_most=1)
    builder = ground.villain()
    builder.idle()
    ground.until_no_parts()


@attack()
def hellos_for_a_file_without_end(ground: Ground) -> None:
    """Each could be answered with eight FETCHes; from one connection, and from ever new ones."""
    builder, build = ground.at_work()
    name, data = wheel_of(build, padding=3_000_000)
    assert isinstance(builder.built(build, announce(name, data)), m.Send)
    channel = ground.peer("files", rcvhwm=1)
    for _ in range(2000):
        channel.send_multipart(encode_file(m.FileHello(builder.slave_id)))
    for _ in range(100):
        other = ground.peer("files")
        other.send_multipart(encode_file(m.FileHello(builder.slave_id)))
    ground.serve_the_honest()


@attack()
def somebody_elses_file(ground: Ground) -> None:
    """While the victim delivers: hellos and chunks in its name from another key, over its connection's identity."""
    thief = ground.peer("files", routing_id=b"victim")
    own, _ = ground.at_work()
    builder, build = ground.victims_next()
    name, data = wheel_of(build, padding=500_000)
    assert isinstance(builder.built(build, announce(name, data)), m.Send)
    thief.send_multipart(encode_file(m.FileHello(builder.slave_id)))
    for offset in range(0, len(data), 100_000):
        thief.send_multipart([b"CHUNK", b"%d" % offset, b"\xff" * 100_000])
    assert not thief.poll(300), "it is asked for nothing"
    builder.deliver(data)
    assert builder.ask(m.Sent()) == m.Done()
    own.close()
    ground.victims_next()


@attack()
def the_other_channels_messages(ground: Ground) -> None:
    channel = ground.peer("builders")
    ground.greet(channel)
    for frames in ([b"HELLO", b"1"], [b"CHUNK", b"0", b"x"], [b"", b"HELLO", b"1"]):
        channel.send_multipart(frames)
    ground.greet(channel)


@attack(memory=250 * MEBI)
def a_chunk_of_very_many_frames(ground: Ground) -> None:
    """As on the builder channel: not limited, and to be let go of."""
    channel = ground.peer("files")
    for _ in range(2):
        channel.send_multipart([bytes(4 * MEBI)] * 20)
    ground.serve_the_honest()


@attack(memory=100 * MEBI)
def a_flood_of_chunks(ground: Ground) -> None:
    channels = [ground.peer("files") for _ in range(5)]
    message = [b"CHUNK", b"0", bytes(256 * 1024)]
    for _ in range(50):
        for channel in channels:
            channel.send_multipart(message)
    ground.serve_the_honest()


def _deliver(ground: Ground, builder: Builder, data: bytes, spoil: Any) -> None:
    """Answer FETCHes with what ``spoil`` makes of the chunk, until the master is content."""
    channel = ground.peer("files")
    channel.send_multipart(encode_file(m.FileHello(builder.slave_id)))
    while True:
        if not channel.poll(15_000):
            raise AssertionError("the master asks for nothing")
        message = decode_file_from_master(channel.recv_multipart())
        if isinstance(message, m.FileDone):
            return
        for offset, piece in spoil(message.offset, data[message.offset : message.offset + message.length]):
            channel.send_multipart([b"CHUNK", offset, piece])
