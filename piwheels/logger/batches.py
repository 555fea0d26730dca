# SPDX-License-Identifier: BSD-3-Clause
"""What piw-logger and the stats role say to each other, and what the logger keeps until it is answered.

Pure: no socket, no clock. A request is one JSON object: ``logger`` (a UUID of that process's), ``batch`` (counts from
1) and ``downloads`` (an array of arrays in the order of :class:`Download`'s fields). The answer is
``{"batch": n, "counted": c}`` once that is committed, or ``{"batch": n, "error": text}``. A batch is sent unchanged
until it is answered, and the stats role remembers each logger's last: so each counts exactly once, whoever is killed.
"""

import json
import re
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from piwheels.errors import PeerError, WheelError
from piwheels.logger.agents import LONGEST, Agent
from piwheels.logger.lines import Download
from piwheels.wheelfile import parse_wheel_name

LONGEST_MESSAGE = 1024 * 1024  #: bytes
BATCH = 1000  #: downloads; far below what LONGEST_MESSAGE holds
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some downloads, to be counted once."""

    logger: uuid.UUID
    number: int
    downloads: tuple[Download, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the stats role says to a batch."""

    number: int
    counted: int = 0
    error: str = ""


def encode_batch(batch: Batch) -> bytes:
    """A batch as bytes."""
    rows = [
        [d.at.isoformat(), d.project, d.filename, d.agent.arch, d.agent.distro, d.agent.python, d.agent.installer]
        for d in batch.downloads
    ]
    return json.dumps({"logger": batch.logger.hex, "batch": batch.number, "downloads": rows}).encode()


def decode_batch(data: bytes) -> Batch:
    """A batch from bytes; raises PeerError for anything else."""
    message = _object(data)
    try:
        logger = uuid.UUID(hex=_text(message.get("logger"), longest=36))
    except ValueError as error:
        raise PeerError("a batch without the logger's UUID") from error
    number, rows = message.get("batch"), message.get("downloads")
    if type(number) is not int or not 0 < number < 2**62:
        raise PeerError("a batch without a number")
    if not isinstance(rows, list) or len(rows) > BATCH:
        raise PeerError(f"a batch of something else than up to {BATCH} downloads")
    return Batch(logger, number, tuple(_download(row) for row in rows))


def _download(row: object) -> Download:
    if not isinstance(row, list) or len(row) != 7:
        raise PeerError("a download that is not a list of seven")
    at, project, filename, *agent = (_text(field, longest=255) for field in row)
    if any(len(field) > LONGEST for field in agent):
        raise PeerError("a download with a field that is too long")
    try:
        when, name = datetime.fromisoformat(at), parse_wheel_name(filename)
        at_utc = when.astimezone(UTC)  # OverflowError: in the year 1 or 9999, of another zone
    except (ValueError, OverflowError, WheelError) as error:
        raise PeerError("a download without a time or a wheel's name") from error
    if when.tzinfo is None or name.project != project:
        raise PeerError("a download whose time has no zone, or of another project's wheel")
    return Download(at=at_utc, project=project, filename=filename, agent=Agent(*agent))


def encode_answer(answer: Answer) -> bytes:
    """An answer as bytes."""
    body: dict[str, Any] = {"batch": answer.number}
    body |= {"error": answer.error} if answer.error else {"counted": answer.counted}
    return json.dumps(body).encode()


def decode_answer(data: bytes) -> Answer:
    """An answer from bytes; raises PeerError for anything else."""
    message = _object(data)
    number, counted = message.get("batch"), message.get("counted", 0)
    if type(number) is not int or type(counted) is not int:
        raise PeerError("an answer without a batch's number")
    return Answer(number, counted, _text(message.get("error", ""), longest=1000))


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > LONGEST_MESSAGE:
        raise PeerError(f"a message of {len(data)} bytes")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PeerError("a message that is not JSON") from error
    if not isinstance(message, dict):
        raise PeerError("a message that is not an object")
    return message


def _text(value: object, *, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or _CONTROL.search(value):
        raise PeerError("a field that is not a short plain text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PeerError("a field that is not Unicode") from error
    return value


class Outbox:
    """Downloads that are not counted yet, in batches, in bounded memory."""

    def __init__(self, logger: uuid.UUID, *, room: int, batch: int = BATCH) -> None:
        self._logger = logger
        self._room = room
        self._batch = batch
        self._waiting: deque[Download] = deque()
        self._current: Batch | None = None
        self._last = 0
        self.counted = 0  #: acknowledged
        self.dropped = 0  #: for want of room
        self.refused = 0  #: in batches that the stats role would not take

    @property
    def pending(self) -> int:
        """Downloads not acknowledged yet."""
        return len(self._waiting) + (len(self._current.downloads) if self._current else 0)

    @property
    def is_full(self) -> bool:
        """Whether the next download would push out the oldest."""
        return len(self._waiting) >= self._room

    def add(self, downloads: Iterable[Download]) -> None:
        """Keep downloads until they are counted; where there is no room, the oldest go."""
        for download in downloads:
            if self.is_full:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(download)

    def current(self) -> Batch | None:
        """The batch to send, the same until it is answered; None when there is nothing to send."""
        if self._current is None and self._waiting:
            self._last += 1
            size = min(self._batch, len(self._waiting))
            self._current = Batch(self._logger, self._last, tuple(self._waiting.popleft() for _ in range(size)))
        return self._current

    def answered(self, answer: Answer) -> bool:
        """Take note of an answer; False when it is not to the batch in hand (a late one to a repeated sending).

        A refusal may come without a number, when the batch could not be read.
        """
        if self._current is None or (
            answer.number != self._current.number and not (answer.error and not answer.number)
        ):
            return False
        size = len(self._current.downloads)
        if answer.error:
            self.refused += size
        else:
            self.counted += size
        self._current = None
        return True
