# SPDX-License-Identifier: BSD-3-Clause
"""What somebody without an admitted key tries: bytes on bare TCP connections, wrong keys, no keys, many connections."""

import os
import random
import resource
import socket
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import zmq

from piwheels.wire.keys import make
from tests.hostile.attack import COMMAND, MORE, NULL_READY, attack, frame, greeting, say
from tests.hostile.ground import MEBI, Ground

CHANNELS = ("builders", "files")
PIECES = {
    "nothing": b"",
    "a web browser": b"GET / HTTP/1.1\r\nHost: master\r\n\r\n",
    "a TLS client": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "an SSH client": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "noise": random.Random(1).randbytes(300_000),
    "half a greeting": greeting()[:11],
    "ZMTP 1": b"\x01\x00" + b"\x05\x00CHUNK",
    "ZMTP 1, endless": b"\xff" + struct.pack(">Q", 2**63 - 1) + b"\0" + bytes(1000),
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00" + b"\x00\x05HELLO",
    "ZMTP 9": greeting(version=b"\x09\x09") + bytes(100),
    "no such mechanism": greeting(b"KERBEROS") + bytes(100),
    "NULL": greeting(b"NULL") + NULL_READY + frame(b"", flags=MORE) + frame(b"\x63BYE"),
    "PLAIN": greeting(b"PLAIN") + frame(b"\x05HELLO\x01a\x01b", flags=COMMAND),
    "two servers": greeting(as_server=1) + bytes(300),
    "a short CURVE hello": greeting() + frame(b"\x05HELLO\x01\x00", flags=COMMAND),
    "a false CURVE hello": greeting() + frame(b"\x05HELLO\x01\x00" + bytes(192), flags=COMMAND),
    "CURVE initiate first": greeting() + frame(b"\x08INITIATE" + bytes(400), flags=COMMAND),
    "a message before the handshake": greeting() + frame(b"\x07MESSAGE" + bytes(400)),
    "a frame of 8 EiB": greeting() + frame(b"", flags=COMMAND, claim=2**63 - 1) + bytes(1000),
    "a frame of minus one": greeting() + frame(b"", flags=COMMAND, claim=2**64 - 1) + bytes(1000),
    "a frame of 16 GiB": greeting() + frame(b"", flags=COMMAND, claim=2**34) + bytes(100_000),
    "a frame of 15 MiB": greeting() + frame(b"", flags=COMMAND, claim=15 * MEBI) + bytes(100_000),
    "reserved flags": greeting() + b"\xf8\x10" + bytes(16),
    "pings": greeting() + frame(b"\x04PING\x00\x00" + bytes(16), flags=COMMAND) * 1000,
}


@attack()
def bytes_that_are_no_builder(ground: Ground) -> None:
    for channel in CHANNELS:
        for piece in PIECES.values():
            say(ground.tcp(channel), piece)


@attack()
def frames_claimed_and_never_sent(ground: Ground) -> None:
    """Room is not to be made for what is only claimed, however many claim it."""
    for channel in CHANNELS:
        for claim in (15 * MEBI, 16 * MEBI, 2**31, 2**40):
            for _ in range(25):
                say(ground.tcp(channel), greeting() + frame(b"", flags=COMMAND, claim=claim))


@attack()
def silence(ground: Ground) -> None:
    """Slow-loris: connections that say so much and no more, held open."""
    for channel in CHANNELS:
        for number in range(200):
            say(ground.tcp(channel), greeting()[: number % 65])
    ground.serve_the_honest()


@attack()
def one_byte_at_a_time(ground: Ground) -> None:
    held = [ground.tcp(channel) for channel in CHANNELS for _ in range(50)]
    for byte in greeting()[:40]:
        for connection in held:
            say(connection, bytes([byte]))
    ground.serve_the_honest()


@attack()
def five_hundred_connections(ground: Ground) -> None:
    for number in range(500):
        ground.tcp(CHANNELS[number % 2])
    ground.serve_the_honest()


@attack(memory=96 * MEBI)
def more_connections_than_files_may_be_open_by_default(ground: Ground) -> None:
    with many_files(ground):
        for _ in range(1300):
            ground.tcp("builders")
        ground.serve_the_honest()


@attack(memory=256 * MEBI)
def ten_thousand_connections(ground: Ground) -> None:
    """As many as the system lets one process open, where that is less: here each end is one process."""
    with many_files(ground) as most:
        if most < 10_000:
            warnings.warn(f"RLIMIT_NOFILE allows only {most} connections instead of 10 000", stacklevel=1)
        for number in range(most):
            ground.tcp(CHANNELS[number % 2])
        ground.serve_the_honest()


@contextmanager
def many_files(ground: Ground) -> Iterator[int]:
    """This process, which is the stranger, may open many files; how many connections, up to 10 000. They are closed at
    the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 12_000), hard))
    try:
        yield min(10_000, hard - 1000)
    finally:
        ground.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@attack()
def connections_cut_at_once(ground: Ground) -> None:
    """Reset instead of closed, which a listener may meet between two of its system calls."""
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", ground.port(CHANNELS[number % 2])), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 3:
                say(connection, greeting()[: number % 70])


@attack()
def keys_that_nobody_admitted(ground: Ground) -> None:
    for _ in range(100):
        for channel in CHANNELS:
            with suppress(zmq.Again):
                ground.peer(channel, keys=make(), linger=0).send_multipart([b"", b"\x63BYE"], zmq.NOBLOCK)
    ground.serve_the_honest()


@attack()
def another_masters_key(ground: Ground) -> None:
    for channel in CHANNELS:
        for _ in range(20):
            with suppress(zmq.Again):
                ground.peer(channel, server_key=make().public).send(b"x", zmq.NOBLOCK)


@attack()
def no_encryption(ground: Ground) -> None:
    for kind in (zmq.DEALER, zmq.REQ, zmq.PUSH, zmq.PUB, zmq.SUB, zmq.ROUTER, zmq.PAIR, zmq.REP):
        for channel in CHANNELS:
            peer = ground.peer(channel, kind, curve=False)
            with suppress(zmq.ZMQError):
                peer.send(os.urandom(1000), zmq.NOBLOCK)
