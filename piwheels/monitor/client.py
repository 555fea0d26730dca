# SPDX-License-Identifier: BSD-3-Clause
"""Talking to a running master's control role over its local sockets. Knows no database and prints nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from piwheels.errors import UnavailableError
from piwheels.master.commands import Command, encode

TIMEOUT = 5.0  #: seconds to wait for an answer or a snapshot
MAX_ANSWER = 4 * 1024**2  #: bytes


class Client:
    """The two sockets of one master. Use as a context manager."""

    def __init__(self, folder: Path, *, timeout: float = TIMEOUT) -> None:
        """``folder``: the master's paths.run. Raises UnavailableError if no master made its sockets there."""
        if not (folder / "control").is_socket():
            raise UnavailableError(f"the master does not run: {folder / 'control'} is missing (setting paths.run)")
        self._folder = folder
        self._timeout = int(timeout * 1000)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._context.destroy(linger=0)

    def command(self, command: Command) -> dict[str, Any]:
        """Send a command and return its answer: ``ok``, ``message`` and whatever else belongs to it."""
        with self._socket(zmq.REQ, "control") as socket:
            try:
                socket.send(encode(command))
                return _object(socket.recv())
            except zmq.Again:
                raise UnavailableError(_silent(self._folder)) from None

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """Snapshots as they come; UnavailableError when none came for a while."""
        with self._socket(zmq.SUB, "status") as socket:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            while True:
                try:
                    yield _object(socket.recv())
                except zmq.Again:
                    raise UnavailableError(_silent(self._folder)) from None

    def _socket(self, kind: int, name: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.RCVTIMEO, self._timeout),
            (zmq.SNDTIMEO, self._timeout),
            (zmq.RCVHWM, 4),
            (zmq.MAXMSGSIZE, MAX_ANSWER),
        ):
            socket.setsockopt(option, value)
        try:
            socket.connect(f"ipc://{self._folder / name}")
        except zmq.ZMQError as error:
            socket.close()
            raise UnavailableError(f"cannot use the socket {self._folder / name}: {error}") from error
        return socket


def _silent(folder: Path) -> str:
    return f"the master does not answer on {folder}: it does not run, or its control role is in trouble (see its log)"


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UnavailableError("what answers is not the master: its answer is not JSON") from error
    if not isinstance(value, dict):
        raise UnavailableError("what answers is not the master: its answer is not a JSON object")
    return value
