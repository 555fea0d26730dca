# SPDX-License-Identifier: BSD-3-Clause
"""What somebody who may open the local sockets tries on them: control, status and stats."""

import json
import random
import socket
import struct
import uuid
from contextlib import suppress

import zmq

from piwheels.monitor.client import Client
from tests.hostile.attack import MORE, attack, frame, greeting, say, shake_hands
from tests.hostile.by_strangers import PIECES
from tests.hostile.ground import MEBI, SERVED_WITHIN, Ground

NAMES = ("control", "status", "stats")
ASKED = ("control", "stats")  #: those that answer

_BATCH = {"logger": uuid.UUID(int=1).hex, "batch": 1, "downloads": []}
_ROW = ["2026-11-21T12:00:00+00:00", "foo", "foo-1.0-py3-none-any.whl", "armv7l", "Debian", "3.11", "pip"]
WRONG = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 4000,
    b'{"command": {"command": "status"}}',
    b'{"command": "skip", "project": "\\u0000", "version": "1", "target": "x"}',
    b'{"command": "slave-stop", "slave": "\\ud800"}',
    b'{"command": "slave-stop", "slave": ' + b"9" * 3000 + b"}",
    b'{"command": "slave-stop", "slave": 99999999999999999999999}',
    b'{"command": "slave-stop", "slave": "%_\'; DROP TABLE slaves; --"}',
    b'{"command": "slave-stop", "slave": -1}',
    b'{"command": "slave-stop", "slave": 1e999}',
    b'{"command": "NaN"}',
    b"NaN",
    *(
        json.dumps({**_BATCH, **change}).encode()
        for change in (
            {"logger": "x"},
            {"logger": None},
            {"batch": 0},
            {"batch": 2**63},
            {"batch": 1.5},
            {"batch": True},
            {"downloads": {}},
            {"downloads": [[]] * 1001},
            {"downloads": [_ROW[:6]]},
            {"downloads": [["now", *_ROW[1:]]]},
            {"downloads": [["0001-01-01T00:00:00+23:59", *_ROW[1:]]]},
            {"downloads": [["9999-12-31T23:59:59-23:59", *_ROW[1:]]]},
            {"downloads": [["2026-11-21T12:00:00", *_ROW[1:]]]},
            {"downloads": [["3026-11-21T12:00:00+00:00", *_ROW[1:]]]},
            {"downloads": [[*_ROW[:2], "../../x.whl", *_ROW[3:]]]},
            {"downloads": [[*_ROW[:3], "\0", *_ROW[4:]]]},
            {"downloads": [[*_ROW[:3], "\ud800", *_ROW[4:]]]},
            {"downloads": [[*_ROW[:3], "x" * 255, *_ROW[4:]]]},
        )
    ),
]


def _ask(ground: Ground, name: str, data: list[bytes]) -> bytes:
    peer = ground.peer(name, zmq.REQ, rcvtimeo=15_000)
    peer.send_multipart(data)
    answer: bytes = peer.recv()
    peer.close(linger=0)
    return answer


@attack()
def requests_that_are_none(ground: Ground) -> None:
    """Each is answered, with what is wrong."""
    for name in ASKED:
        for data in WRONG:
            if len(data) <= (4096 if name == "control" else MEBI):
                answer = json.loads(_ask(ground, name, [data]))
                assert answer.get("ok") is not True, (data, answer)


@attack()
def requests_of_several_frames(ground: Ground) -> None:
    for name in ASKED:
        for frames in ([b"x", b"y"], [b""] * 500, [b"", json.dumps(_BATCH).encode()]):
            answer = json.loads(_ask(ground, name, frames))
            assert answer.get("ok") is not True and "counted" not in answer, (name, answer)


@attack()
def requests_too_long(ground: Ground) -> None:
    for name in NAMES:
        with suppress(zmq.Again):  # status may have hung up already: nobody sends to it
            ground.peer(name, linger=500).send_multipart([b"", b"x" * (2 * MEBI)], zmq.NOBLOCK)


@attack()
def right_commands_spoiled(ground: Ground) -> None:
    chance = random.Random(5)
    right = json.dumps({"command": "skip", "project": "foo", "version": "1", "target": "x"}).encode()
    for name, data in (("control", right), ("stats", json.dumps({**_BATCH, "downloads": [_ROW]}).encode())):
        channel = ground.peer(name)
        for _ in range(150):
            spoiled = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
            channel.send_multipart([b"", bytes(spoiled)])
            assert channel.recv_multipart()


@attack()
def questions_whose_answers_nobody_reads(ground: Ground) -> None:
    for name in ASKED:
        channel = ground.peer(name, rcvhwm=1)
        for _ in range(1000):
            channel.send_multipart([b"", b"{}"])


@attack(memory=100 * MEBI)
def questions_of_very_many_frames(ground: Ground) -> None:
    """ZeroMQ does not limit them (by_builders): what is asked for here is that it is let go of again."""
    for name in ASKED:
        channel = ground.peer(name)
        channel.send_multipart([bytes(4000)] * 5000)


@attack()
def questions_without_an_envelope(ground: Ground) -> None:
    """libzmq's REP says that there is something, throws it away, and waits for the next: nobody is to wait with it."""
    for name in ASKED:
        channel = ground.peer(name)
        for frames in ([b"x"], [b"x"] * 100, [b"x"]):
            channel.send_multipart(frames)
    with Client(ground.run, timeout=SERVED_WITHIN) as client:
        told = client.snapshots()
        for _ in range(3):
            assert next(told)["problem"] is None


@attack(memory=100 * MEBI)
def subscriptions_without_end(ground: Ground) -> None:
    """A publisher remembers each, byte by byte; nobody needs more than one, of nothing."""
    for length in (30, 4000):
        peer = ground.unix("status")
        shake_hands(peer, b"SUB")
        say(peer, b"".join(frame(b"\x01" + b"%08d" % n + b"x" * (length - 9)) for n in range(5000)))


@attack()
def subscribers_that_do_not_read(ground: Ground) -> None:
    for _ in range(40):
        ground.peer("status", zmq.SUB, subscribe=b"", rcvhwm=1, rcvbuf=4096)


@attack()
def the_wrong_kinds_of_socket(ground: Ground) -> None:
    for name in NAMES:
        for kind in (zmq.DEALER, zmq.REQ, zmq.PUSH, zmq.PULL, zmq.PUB, zmq.SUB, zmq.ROUTER, zmq.PAIR, zmq.REP):
            peer = ground.peer(name, kind)
            with suppress(zmq.ZMQError):
                peer.send(b"x" * 100, zmq.NOBLOCK)


@attack()
def bytes_that_are_no_peer(ground: Ground) -> None:
    for name in NAMES:
        for piece in PIECES.values():
            say(ground.unix(name), piece)


@attack()
def silence_on_local_sockets(ground: Ground) -> None:
    for name in NAMES:
        for number in range(60):
            say(ground.unix(name), greeting(b"NULL")[: number % 65])


@attack()
def half_a_request(ground: Ground) -> None:
    """A peer that leaves within a message, or within one of many frames."""
    for name in NAMES:
        for rest in (frame(b"", flags=MORE), frame(b"", flags=MORE) + frame(b"{}", claim=1000), b"\x02" + bytes(3)):
            for _ in range(10):
                peer = ground.unix(name)
                shake_hands(peer)
                say(peer, rest)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
