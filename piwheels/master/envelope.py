# SPDX-License-Identifier: BSD-3-Clause
"""Requests of REQ sockets taken from a ROUTER, for roles that answer over a local socket.

libzmq's own REP waits within recv for the next message when it has thrown one away that has no envelope, although it
said that there is one; and what is left of a peer that went within a message can cost it the next peer's request.
"""

from typing import Any

import zmq

MOST = 3  #: frames before the empty one that ends an envelope: who, and what a REQ adds to know the answer by


def take(socket: "zmq.Socket[Any]") -> tuple[list[bytes], list[bytes]] | None:
    """The next request of a ROUTER that is readable: its envelope, with which to begin the answer, and its frames; None
    for what is no request. zmq.Again when there is nothing."""
    frames = socket.recv_multipart(zmq.NOBLOCK)
    if b"" not in frames[1 : MOST + 1]:
        return None
    end = frames.index(b"", 1) + 1
    return frames[:end], frames[end:]


def answer(socket: "zmq.Socket[Any]", envelope: list[bytes], data: bytes) -> None:
    """Send an answer; dropped if who asked has left or does not read."""
    socket.send_multipart([*envelope, data], zmq.NOBLOCK)
