# SPDX-License-Identifier: BSD-3-Clause
"""The file channel as the master sees it: which builder may deliver what, and how far it is. Pure.

``Dock`` takes messages, answers and the time, and returns effects; it must not know sockets, disks or the database. A
builder is named by its key; a file is expected from at most one at a time, and whatever else arrives is dropped. Each
expectation has a number of its own, so that what the disk answers to an earlier one cannot be taken for a later one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from piwheels.errors import PeerError
from piwheels.wire import messages as m
from piwheels.wire.transfer import Complete, GiveUp, Receiver, Write

NOTICE = 2.0  #: seconds between two signs of life passed on to the session
KEPT = 300.0  #: seconds that a part of a file is kept for its builder to come back and go on


# Effects


@dataclass(frozen=True, slots=True)
class Tell:
    """Send this to that connection of the file channel."""

    identity: bytes
    message: m.Fetch | m.FileDone


@dataclass(frozen=True, slots=True)
class Open:
    """Make room for a file on disk. Answer ``opened`` or ``failed``."""

    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write this where it belongs. Answer ``failed`` if that cannot be done, else nothing."""

    number: int
    offset: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Close:
    """All of it was put: check it, and answer the session."""

    number: int


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget the file and remove what there is of it."""

    number: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The session asked for a file to be verified that is not to be had: answer Rejected."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Alive:
    """Bytes came from this builder: tell its session, now and then."""

    key: str


Effect = Tell | Open | Put | Close | Discard | Refuse | Alive


@dataclass(slots=True)
class _Expected:
    """A file on its way."""

    number: int
    key: str
    slave_id: int
    file: m.FileInfo
    receiver: Receiver
    identity: bytes | None = None  #: the connection it comes over, once one said FileHello
    opened: bool = False  #: the disk has room for it
    complete: bool = False
    trouble: str | None = None  #: why it will never be whole
    noticed: float = field(default=float("-inf"))
    aside_until: float | None = None  #: when a part that nobody asks for is not kept any longer; set by a tick


class Dock:
    """All files on their way."""

    def __init__(self, new_receiver: Callable[[int], Receiver] = Receiver) -> None:
        """``new_receiver`` makes the machine for a file of so many bytes."""
        self._new_receiver = new_receiver
        self._expected: dict[str, _Expected] = {}
        self._aside: dict[str, _Expected] = {}  #: parts of files; at most one of each builder's
        self._numbers = 0

    @property
    def active(self) -> int:
        """How many files are expected."""
        return len(self._expected)

    def expect(self, key: str, slave_id: int, file: m.FileInfo) -> list[Effect]:
        """Be ready for a file, whose announcement was found to be in order. If a part of it came before the builder's
        connections were cut, it goes on from there."""
        effects = self.stop(key)
        if (part := self._aside.get(key)) is not None and (part.slave_id, part.file) == (slave_id, file):
            part.receiver.resume()
            part.identity, part.aside_until = None, None
            self._expected[key] = self._aside.pop(key)
            return effects
        effects += self._drop_part(key)
        self._numbers += 1
        receiver = self._new_receiver(file.size)
        expected = _Expected(self._numbers, key, slave_id, file, receiver)
        self._expected[key] = expected
        return [*effects, Open(expected.number, file.size)]

    def stop(self, key: str) -> list[Effect]:
        """Expect nothing of this builder any more. What came of a file is kept for a while, in case that its builder
        lost us and delivers it again."""
        expected = self._expected.pop(key, None)
        if expected is None:
            return []
        if not expected.opened or expected.trouble is not None or not expected.receiver.received:
            return [Discard(expected.number)]
        dropped = self._drop_part(key)
        self._aside[key] = expected
        return dropped

    def _drop_part(self, key: str) -> list[Effect]:
        part = self._aside.pop(key, None)
        return [] if part is None else [Discard(part.number)]

    def message(self, identity: bytes, key: str, message: m.FileHello | m.Chunk, now: float) -> list[Effect]:
        """Something came over the file channel. Raises PeerError for what was not asked for."""
        expected = self._expected.get(key)
        if expected is None:
            raise PeerError("nothing is expected of it on the file channel")
        if isinstance(message, m.FileHello):
            return self._hello(expected, identity, message, now)
        if identity != expected.identity or not expected.opened:
            raise PeerError("sent a chunk without having said hello")
        if expected.complete or expected.trouble:
            return []  # late duplicates
        return [*self._run(expected, expected.receiver.handle(message, now)), *self._notice(expected, now)]

    def opened(self, number: int, now: float) -> list[Effect]:
        """The disk has room for a file: ask for it, if its builder is there."""
        expected = self._by_number(number)
        if expected is None:
            return [Discard(number)]
        expected.opened = True
        return [] if expected.identity is None else self._start(expected, now)

    def failed(self, number: int, why: str) -> list[Effect]:
        """The disk cannot take a file. Its builder is told that it is done, so that it asks what is next."""
        expected = self._by_number(number)
        if expected is None:
            lost = [key for key, part in self._aside.items() if part.number == number]
            return [effect for key in lost for effect in self._drop_part(key)]
        return self._trouble(expected, why)

    def verify(self, key: str) -> list[Effect]:
        """The builder says that it sent the file."""
        expected = self._expected.get(key)
        if expected is None:
            return [Refuse(key, "no file was expected")]
        if expected.trouble is not None:
            return [*self.stop(key), Refuse(key, expected.trouble)]
        if not expected.complete:
            return [*self.stop(key), Refuse(key, "the builder says it sent the file, but not all of it came")]
        del self._expected[key]  # the file itself is handed on
        return [Close(expected.number)]

    def tick(self, now: float) -> list[Effect]:
        """Ask again for what did not come; forget parts that nobody came back for."""
        return [*self._overdue(now), *self._outdated(now)]

    def _outdated(self, now: float) -> list[Effect]:
        for part in self._aside.values():
            part.aside_until = part.aside_until or now + KEPT
        late = [key for key, part in self._aside.items() if part.aside_until is not None and now >= part.aside_until]
        return [effect for key in late for effect in self._drop_part(key)]

    def _overdue(self, now: float) -> Iterator[Effect]:
        for expected in self._expected.values():
            if expected.opened and expected.identity is not None and not (expected.complete or expected.trouble):
                yield from self._run(expected, expected.receiver.tick(now))

    def _hello(self, expected: _Expected, identity: bytes, hello: m.FileHello, now: float) -> list[Effect]:
        if hello.slave_id != expected.slave_id:
            raise PeerError("said hello on the file channel as another builder")
        new_peer = expected.identity != identity
        expected.identity = identity
        if expected.complete or expected.trouble:
            return self._let_go(expected)
        return self._start(expected, now, new_peer=new_peer) if expected.opened else []

    def _start(self, expected: _Expected, now: float, *, new_peer: bool = True) -> list[Effect]:
        """Ask for what is missing: everything at first, the rest after the connection dropped. A hello again over the
        same connection may only mean that the line is slow; silence decides then."""
        return self._run(expected, expected.receiver.start(now, new_peer=new_peer))

    def _run(self, expected: _Expected, steps: Sequence[Write | m.Fetch | Complete | GiveUp]) -> list[Effect]:
        effects: list[Effect] = []
        for step in steps:
            if isinstance(step, Write):
                effects.append(Put(expected.number, step.offset, step.data))
            elif isinstance(step, m.Fetch):
                assert expected.identity is not None
                effects.append(Tell(expected.identity, step))
            elif isinstance(step, GiveUp):
                effects += self._trouble(expected, step.why)
            else:
                expected.complete = True
                effects += self._let_go(expected)
        return effects

    def _trouble(self, expected: _Expected, why: str) -> list[Effect]:
        expected.trouble = why
        return [Discard(expected.number), *self._let_go(expected)]

    def _let_go(self, expected: _Expected) -> list[Effect]:
        return [] if expected.identity is None else [Tell(expected.identity, m.FileDone())]

    def _notice(self, expected: _Expected, now: float) -> list[Effect]:
        if now - expected.noticed < NOTICE:
            return []
        expected.noticed = now
        return [Alive(expected.key)]

    def _by_number(self, number: int) -> _Expected | None:
        return next((expected for expected in self._expected.values() if expected.number == number), None)
