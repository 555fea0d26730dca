# SPDX-License-Identifier: BSD-3-Clause
"""Who is talking: the sessions of all builders by connection and key. Pure.

``Desk`` takes decoded messages, answers to effects and the time, feeds them to the right session machines and returns
their effects, each with the builder it is about. It must not know sockets, threads, the database or the disk.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from piwheels.errors import PeerError
from piwheels.master import session as s
from piwheels.wire import messages as m
from piwheels.wire.keys import short

logger = logging.getLogger(__name__)

MAX_SESSIONS = 10_000
SHORTEST_PATIENCE, LONGEST_PATIENCE = 10.0, 3600.0  #: seconds; bounds on what a builder may announce as busy_timeout
GRACE = 30.0  #: seconds beyond busy_timeout: the builder should give up first, as it then comes back by itself


@dataclass(slots=True, eq=False)
class Builder:
    """One connection of a builder that said Hello, and its session."""

    number: int  #: never reused; names the session towards workers
    identity: bytes
    key: str
    hello: m.Hello
    session: s.Session
    heard: float  #: monotonic
    slave_id: int | None = None  #: once registered
    token: str | None = None  #: the lease last handed to it, as far as the shell needs to know
    target_id: int | None = None  #: what it was given jobs of in this session
    stats: m.Stats | None = None  #: what it last said of itself
    gone: bool = False  #: read by workers too: what it asked for is not wanted any more

    @property
    def deadline(self) -> float:
        """When its silence has lasted too long."""
        patience = self.hello.busy_timeout.total_seconds()
        return self.heard + min(max(patience, SHORTEST_PATIENCE), LONGEST_PATIENCE) + GRACE

    def __str__(self) -> str:
        name = self.hello.label or "builder"
        return f"{name[:60]!r} ({short(self.key)}…)"


@dataclass(slots=True)
class Counts:
    """What happened since the start, for status."""

    messages: int = 0
    nonsense: int = 0  #: messages that were dropped: malformed, out of place, from strangers
    unsent: int = 0  #: answers to builders that were gone
    faults: int = 0  #: exceptions that should not have been


Task = tuple[Builder, s.Effect]


class Desk:
    """All sessions."""

    def __init__(self, new_session: Callable[[], s.Session], *, max_sessions: int = MAX_SESSIONS) -> None:
        self._new_session = new_session
        self._max_sessions = max_sessions
        self._by_identity: dict[bytes, Builder] = {}
        self._by_number: dict[int, Builder] = {}
        self._by_key: dict[str, list[Builder]] = {}
        self._numbers = 0
        self._admitted: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._by_identity)

    def builders(self) -> Iterator[Builder]:
        """Those who are here."""
        return iter(list(self._by_identity.values()))

    def at(self, identity: bytes) -> Builder | None:
        """Who is here by this connection."""
        return self._by_identity.get(identity)

    def of(self, key: str) -> tuple[Builder, ...]:
        """The sessions of this key."""
        return tuple(self._by_key.get(key, ()))

    @property
    def admitted(self) -> int:
        """How many keys may talk to us."""
        return len(self._admitted)

    def is_admitted(self, key: str) -> bool:
        """Whether this key may talk to us at all."""
        return key in self._admitted

    def admit(self, keys: Collection[str]) -> list[Builder]:
        """Admit exactly these from now on; returns the sessions that this ends (nobody tells them anything)."""
        self._admitted = frozenset(keys)
        cut = [builder for builder in self.builders() if builder.key not in self._admitted]
        for builder in cut:
            self._remove(builder)
        return cut

    def message(self, identity: bytes, key: str, message: m.SlaveMessage, now: float) -> list[Task]:
        """A builder said something. Raises PeerError for what gets no answer."""
        if key not in self._admitted:
            raise PeerError("is not admitted")
        builder = self._by_identity.get(identity)
        if builder is not None and builder.key != key:
            raise PeerError("uses a connection's identity that is another builder's")
        if isinstance(message, m.Hello):
            return self._hello(identity, key, message, now)
        if builder is None:
            raise PeerError("has not said hello")
        builder.heard = now
        return self._feed(builder, s.Received(message), now)

    def answer(self, number: int, event: s.Event, now: float) -> list[Task]:
        """A worker did what a session had asked for. Nothing happens if that session is over."""
        builder = self._by_number.get(number)
        if builder is None:
            return []
        tasks: list[Task] = []
        if isinstance(event, s.Registered):
            builder.slave_id = event.slave_id
            builder.token = event.resumed.token if event.resumed else None
            builder.target_id = event.target_id
            for other in [b for b in self._by_key.get(builder.key, []) if b is not builder]:
                tasks += self._end(other, s.Superseded(), now)
        elif isinstance(event, s.Claimed):
            builder.token = event.lease.token if event.lease else None
            builder.target_id = event.lease.target_id if event.lease else event.target_id
        return tasks + self._feed(builder, event, now)

    def cancel(self, token: str, why: str, now: float) -> list[Task]:
        """A lease does not hold any more: tell whoever has it."""
        holders = [builder for builder in self.builders() if builder.token == token]
        return [task for builder in holders for task in self._feed(builder, s.Cancelled(why, token), now)]

    def holds(self, number: int) -> bool:
        """Whether this session is still there."""
        return number in self._by_number

    def file_event(self, key: str, event: s.Event, now: float) -> list[Task]:
        """Something happened to the file expected of this builder."""
        builder = self._receiver_of(key)
        if builder is None:
            return []
        if isinstance(event, s.Receiving):
            builder.heard = now
        return self._feed(builder, event, now)

    def tick(self, now: float) -> list[Task]:
        """End sessions that have been silent for too long."""
        silent = [builder for builder in self.builders() if now > builder.deadline]
        return [task for builder in silent for task in self._end(builder, s.Silent(), now)]

    def forget(self, builder: Builder) -> None:
        """The session is over."""
        self._remove(builder)

    def _hello(self, identity: bytes, key: str, hello: m.Hello, now: float) -> list[Task]:
        tasks: list[Task] = []
        if (same := self._by_identity.get(identity)) is not None:
            tasks += self._end(same, s.Superseded(), now)
        # A builder says hello again when an answer did not come; only its last one matters. This also bounds what one
        # key can make us remember: a session that is registered, and one that is not yet.
        for waiting in [b for b in self._by_key.get(key, []) if b.slave_id is None]:
            tasks += self._end(waiting, s.Superseded(), now)
        if len(self) >= self._max_sessions:
            raise PeerError(f"came when {self._max_sessions} builders were here already")
        self._numbers += 1
        builder = Builder(self._numbers, identity, key, hello, self._new_session(), now)
        self._by_identity[identity] = builder
        self._by_number[builder.number] = builder
        self._by_key.setdefault(key, []).append(builder)
        return tasks + self._feed(builder, s.Received(hello), now)

    def _feed(self, builder: Builder, event: s.Event, now: float) -> list[Task]:
        return [(builder, effect) for effect in builder.session.handle(event, now)]

    def _end(self, builder: Builder, event: s.Event, now: float) -> list[Task]:
        """Tell a session that it is over, and make sure that it is."""
        tasks = self._feed(builder, event, now)
        self._remove(builder)
        return tasks

    def _remove(self, builder: Builder) -> None:
        builder.gone = True
        if self._by_number.pop(builder.number, None) is None:
            return
        if self._by_identity.get(builder.identity) is builder:
            del self._by_identity[builder.identity]
        others = self._by_key[builder.key]
        others.remove(builder)
        if not others:
            del self._by_key[builder.key]

    def _receiver_of(self, key: str) -> Builder | None:
        """The session that a file of this builder's is for: the registered one."""
        return next((b for b in self._by_key.get(key, []) if b.slave_id is not None), None)
