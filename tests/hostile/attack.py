# SPDX-License-Identifier: BSD-3-Clause
"""What an attack is, and bytes that several of them use."""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.hostile.ground import MEBI, Ground


@dataclass(frozen=True)
class Attack:
    """One thing that a hostile client tries."""

    name: str
    run: Callable[[Ground], None]
    memory: int  #: bytes by which no role may grow, at any time during it
    long: bool  #: not for the ordinary run


ATTACKS: list[Attack] = []


def attack(*, memory: int = 48 * MEBI, long: bool = False) -> Callable[[Callable[[Ground], None]], Callable[..., None]]:
    """Put a function on the list; its name is the attack's."""

    def put(run: Callable[[Ground], None]) -> Callable[[Ground], None]:
        ATTACKS.append(Attack(f"{run.__module__.rpartition('.')[2]}: {run.__name__}", run, memory, long))
        return run

    return put


def greeting(mechanism: bytes = b"CURVE", *, version: bytes = b"\x03\x01", as_server: int = 0) -> bytes:
    """What a ZMTP 3 peer says first (ZeroMQ RFC 37)."""
    return b"\xff" + bytes(8) + b"\x7f" + version + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def frame(body: bytes, *, flags: int = 0, claim: int | None = None) -> bytes:
    """A ZMTP frame; ``claim``: the length that it says it has."""
    return bytes([flags | 2]) + struct.pack(">Q", len(body) if claim is None else claim) + body


COMMAND = 4  #: a ZMTP frame's flag
MORE = 1


def ready(properties: dict[str, bytes]) -> bytes:
    """The command that ends the handshake of mechanism NULL, with what its sender says of itself."""
    said = (
        bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value for name, value in properties.items()
    )
    return frame(b"\x05READY" + b"".join(said), flags=COMMAND)


NULL_READY = ready({"Socket-Type": b"DEALER"})


def say(connection: socket.socket, data: bytes) -> None:
    """Send this over a bare connection, as far as it gets."""
    with suppress(OSError):  # it may have hung up on us already
        connection.sendall(data)


def shake_hands(connection: socket.socket, kind: bytes = b"DEALER", **claims: bytes) -> None:
    """Begin as a peer without encryption, and wait until that is answered: libzmq takes what comes before for a wrong
    command, and hangs up. ``claims``: more that it says of itself."""
    properties = {"Socket-Type": kind, **{name.replace("_", "-"): value for name, value in claims.items()}}
    say(connection, greeting(b"NULL") + ready(properties))
    heard = b""
    with suppress(OSError):
        while len(heard) <= len(greeting()) and (piece := connection.recv(1000)):
            heard += piece
