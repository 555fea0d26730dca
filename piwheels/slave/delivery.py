# SPDX-License-Identifier: BSD-3-Clause
"""Hands one wheel over on the file channel: the thin shell around :class:`piwheels.wire.transfer.Sender`.

Owns one socket and one open file. It must not know what is asked for when; the session does.
"""

from pathlib import Path

import zmq

from piwheels import faults
from piwheels.errors import PeerError
from piwheels.wire import codec
from piwheels.wire.messages import Chunk, FileHello, FileMessage
from piwheels.wire.transfer import Finished, GiveUp, Sender, SendRange

_AT_ONCE = 16  #: messages answered before the rest of the agent has its turn


class Delivery:
    """One file on its way. ``socket``, a connected DEALER, is closed with it. Raises OSError for a missing file."""

    def __init__(self, socket: "zmq.Socket[bytes]", path: Path, *, slave_id: int, now: float) -> None:
        self.socket = socket
        self._file = path.open("rb")
        self._sender = Sender(self._file.seek(0, 2), slave_id=slave_id)
        # What the socket did not take yet: a HELLO before the connection is made, a chunk when the master reads slowly.
        self._owed: FileHello | SendRange | None = None
        for hello in self._sender.start(now):
            self._owed = hello

    @property
    def deadline(self) -> float | None:
        """When ``handle`` is wanted even if nothing comes (monotonic)."""
        return self._sender.deadline

    @property
    def events(self) -> int:
        """What to poll the socket for."""
        return int(zmq.POLLIN if self._owed is None else zmq.POLLOUT)

    def handle(self, now: float) -> tuple[bool, str] | None:
        """Answer what came and do what time asks for; (whole, why not) once it is over."""
        try:
            for _ in range(_AT_ONCE):
                if not self._pay() or (ended := self._receive(now)) is False:
                    break
                if ended is True:
                    return True, ""
            return self._tick(now)
        except (PeerError, OSError, zmq.ZMQError) as error:
            return False, str(error)

    def close(self) -> None:
        """Close socket and file."""
        self.socket.close(linger=0)
        self._file.close()

    def _receive(self, now: float) -> bool | None:
        """Take one message: True when the master has it all, False when there is none, else None."""
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        for effect in self._sender.handle(codec.decode_file_from_master(frames), now):
            if isinstance(effect, Finished):
                return True
            self._owed = effect
        return None

    def _pay(self) -> bool:
        """Send the chunk that is owed; whether none is owed any more."""
        if self._owed is not None:
            if not self._send(self._message(self._owed)):
                return False
            self._owed = None
        return True

    def _message(self, owed: FileHello | SendRange) -> FileMessage:
        if isinstance(owed, FileHello):
            return owed
        if faults.point("sending"):
            raise PeerError("lost on purpose")
        self._file.seek(owed.offset)
        return Chunk(owed.offset, self._file.read(owed.length))

    def _send(self, message: FileMessage) -> bool:
        try:
            self.socket.send_multipart(codec.encode_file(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _tick(self, now: float) -> tuple[bool, str] | None:
        for effect in self._sender.tick(now):
            if isinstance(effect, GiveUp):
                return False, effect.why
            self._owed = self._owed or effect
        return None
