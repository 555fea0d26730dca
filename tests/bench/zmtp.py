# SPDX-License-Identifier: BSD-3-Clause
"""Connections of played builders, many in one thread, as cheap as they go.

Two kinds with one face. :class:`PlainLine` speaks ZMTP 3.1 with the NULL mechanism (ZeroMQ RFC 23) over a bare TCP
socket, since libzmq's own sockets would cost these two cores more than what they are to measure. :class:`KeyedLine` is
libzmq's socket with CurveZMQ, made as a real builder makes it.
"""

import errno
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import zmq

Heard: TypeAlias = Callable[[list[bytes]], None]
Data: TypeAlias = "bytes | memoryview"

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
_MORE, _LONG, _COMMAND = 1, 2, 4
_READ = 256 * 1024


class Line(Protocol):
    """A connection to the master."""

    def send(self, frames: Sequence[Data]) -> None:
        """Send a message, as soon as there is a connection."""

    def close(self) -> None:
        """No more."""


class Switchboard:
    """Waits for all lines together and hands out what they hear."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lines: dict[int, PlainLine | KeyedLine] = {}

    def add(self, descriptor: int, line: "PlainLine | KeyedLine", events: int) -> None:
        """Listen to this one."""
        self._lines[descriptor] = line
        self._epoll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        """Wait for something else."""
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Listen to it no more."""
        if self._lines.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def listen(self, seconds: float) -> None:
        """Hand out what comes within this time, and what has come."""
        for descriptor, events in self._epoll.poll(max(seconds, 0.0)):
            line = self._lines.get(descriptor)
            if line is not None:
                line.ready(events)


class PlainLine:
    """Without encryption, from a given address."""

    def __init__(self, board: Switchboard, source: str, port: int, kind: str, heard: Heard) -> None:
        """``kind``: REQ or DEALER. A REQ's empty frame is added and taken away here."""
        self._board = board
        self._heard = heard
        self._envelope = kind == "REQ"
        self._in = bytearray()
        self._greeted = False
        self._frames: list[bytes] = []
        self._out: deque[memoryview] = deque()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((source, 0))
        self._socket.setblocking(False)
        self._number = self._socket.fileno()
        with suppress(BlockingIOError):
            self._socket.connect(("127.0.0.1", port))
        board.add(self._number, self, select.EPOLLIN | select.EPOLLOUT)
        name = kind.encode()
        body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(name)) + name
        self._hello = _GREETING + bytes((_COMMAND, len(body))) + body
        self._ready = False  #: the master said READY; libzmq takes nothing before that
        self._waiting = True  #: until the kernel takes more

    def send(self, frames: Sequence[Data]) -> None:
        """Send a message."""
        parts: list[Data] = [b"\x01\x00"] if self._envelope else []
        for number, frame in enumerate(frames):
            more = _MORE if number < len(frames) - 1 else 0
            if len(frame) < 256:
                parts.append(bytes((more, len(frame))))
            else:
                parts.append(struct.pack(">BQ", more | _LONG, len(frame)))
            parts.append(frame)
        self._put(parts)

    def close(self) -> None:
        """Drop the connection."""
        self._board.remove(self._number)
        self._socket.close()

    def ready(self, events: int) -> None:
        """Something can be read or written."""
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read()
        if self._waiting and events & select.EPOLLOUT and self._socket.fileno() >= 0:
            self._flush()

    def _put(self, parts: Sequence[Data]) -> None:
        if not self._waiting:
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            for part in parts:
                if sent < len(part):
                    self._out.append(memoryview(part)[sent:])
                    sent = 0
                else:
                    sent -= len(part)
            if self._out:
                self._waiting = True
                self._board.change(self._number, select.EPOLLIN | select.EPOLLOUT)
        else:
            self._out.extend(memoryview(part) for part in parts)

    def _flush(self) -> None:
        if self._hello:
            self._socket.send(self._hello)  # a new connection has room for so little
            self._hello = b""
        if not self._ready:
            self._board.change(self._number, select.EPOLLIN)
            return
        while self._out:
            try:
                sent = self._socket.send(self._out[0])
            except BlockingIOError:
                return
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
                return
            self._out.popleft()
        self._waiting = False
        self._board.change(self._number, select.EPOLLIN)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            raise RuntimeError(f"the master dropped a builder's connection: {error.strerror}") from error
        if not data:
            raise RuntimeError("the master closed a builder's connection")
        self._in += data
        if not self._greeted:
            if len(self._in) < len(_GREETING):
                return
            del self._in[: len(_GREETING)]
            self._greeted = True
        self._parse()

    def _parse(self) -> None:
        buffer, at = self._in, 0
        whole: list[list[bytes]] = []
        while len(buffer) - at >= 2:
            flags, length, begin = buffer[at], buffer[at + 1], at + 2
            if flags & _LONG:
                if len(buffer) - at < 9:
                    break
                length, begin = int.from_bytes(buffer[at + 1 : at + 9], "big"), at + 9
            if len(buffer) < begin + length:
                break
            at = begin + length
            body = bytes(buffer[begin:at])
            if flags & _COMMAND:
                self._command(body)
                continue
            self._frames.append(body)
            if not flags & _MORE:
                whole.append(self._frames[1:] if self._envelope else self._frames)
                self._frames = []
        del buffer[:at]
        for frames in whole:
            self._heard(frames)

    def _command(self, body: bytes) -> None:
        if body.startswith(b"\x05READY"):
            self._ready = True
            self._board.change(self._number, select.EPOLLIN | select.EPOLLOUT)
        elif body.startswith(b"\x04PING"):
            pong = b"\x04PONG" + body[7:]
            self._put([bytes((_COMMAND, len(pong))) + pong])


class KeyedLine:
    """With CurveZMQ: a socket of libzmq's."""

    def __init__(self, board: Switchboard, made: Any, heard: Heard) -> None:
        """``made``: what wire.sockets makes for a builder."""
        self._board = board
        self._heard = heard
        self._socket = made
        self._number: int = made.getsockopt(zmq.FD)
        self._out: deque[Sequence[Data]] = deque()
        self._reading = False
        board.add(self._number, self, select.EPOLLIN)

    def send(self, frames: Sequence[Data]) -> None:
        """Send a message."""
        self._out.append(frames)
        self._flush()
        if not self._reading:
            self.ready(0)

    def close(self) -> None:
        """Drop the connection."""
        self._board.remove(self._number)
        self._socket.close(linger=0)

    def ready(self, events: int) -> None:
        """Its descriptor tells a change only, so everything there is must be done."""
        self._reading = True
        try:
            while not self._socket.closed:
                if self._out:
                    self._flush()
                    if self._socket.closed:
                        return
                if not self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    if not self._out or not self._socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT:
                        return
                    continue
                self._heard(self._socket.recv_multipart(zmq.NOBLOCK))
        finally:
            self._reading = False

    def _flush(self) -> None:
        while self._out:
            try:
                self._socket.send_multipart(self._out[0], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno in (errno.EAGAIN, zmq.EFSM):
                    return
                raise
            self._out.popleft()
