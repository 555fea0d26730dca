# SPDX-License-Identifier: BSD-3-Clause
"""The two channels of dispatch, each over one socket with encryption and perhaps one without, and who is at the other
end. Owns receiving and sending; must not know messages or sessions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import zmq

from piwheels.wire.plain import address_key
from piwheels.wire.sockets import peer_address, peer_key

Socket: TypeAlias = "zmq.Socket[bytes]"

# Connections' identities are chosen by each socket, or by the peer: those of two sockets may be the same. So others see
# them with a letter before them that says which socket it is.
KEYED, PLAIN = b"k", b"p"


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that came."""

    identity: bytes  #: of the connection; to be given to ``send``
    who: str  #: what the operator admits or not: the key that the peer proved, or its address; empty: neither
    plain: bool  #: whether it came without encryption, so that ``who`` is an address (``wire.plain``)
    frames: list[zmq.Frame]  #: without the identity


class Channel:
    """One of the two."""

    def __init__(self, keyed: Socket, plain: "Socket | None" = None) -> None:
        self._sockets = {KEYED: keyed} if plain is None else {KEYED: keyed, PLAIN: plain}

    def register(self, poller: zmq.Poller, flags: int) -> None:
        """Poll for this from now on; 0: for nothing."""
        for socket in self._sockets.values():
            poller.register(socket, flags)

    def ready(self, polled: Mapping[Any, int]) -> Iterator[bytes]:
        """Which of its sockets have something, as ``receive`` takes it."""
        return (which for which, socket in self._sockets.items() if socket in polled)

    def receive(self, which: bytes) -> Heard | None:
        """The next message; None when there is none."""
        try:
            identity, *frames = _received(self._sockets[which])
        except zmq.Again:
            return None
        # A frame of a connection without encryption may carry any User-Id that the peer liked.
        last = frames[-1] if frames else identity
        who = peer_key(last) if which == KEYED else address_key(peer_address(last))
        return Heard(which + identity.bytes, who or "", which == PLAIN, frames)

    def send(self, identity: bytes, frames: list[bytes]) -> bool:
        """Send this over a connection; False when it is gone, or does not read."""
        try:
            self._sockets[identity[:1]].send_multipart([identity[1:], *frames], zmq.NOBLOCK)
        except zmq.ZMQError:  # EHOSTUNREACH: gone. EAGAIN: does not read. Either way it asks again, or is silent
            return False
        return True


def _received(socket: Socket) -> list[zmq.Frame]:
    """As recv_multipart, which asks the socket after each frame whether there is another."""
    frames = [socket.recv(zmq.NOBLOCK, copy=False)]
    while frames[-1].more:
        frames.append(socket.recv(zmq.NOBLOCK, copy=False))  # the rest of a message is there with its first frame
    return frames
