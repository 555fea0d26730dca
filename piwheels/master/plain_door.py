# SPDX-License-Identifier: BSD-3-Clause
"""Who is who among builders that come without encryption (0.2x): each is given a name, by its address. Pure.

What the operator admits is an address; what desk, dock and database see is a builder's name (``wire.plain``), given
when it says hello and kept while its session lasts. Builders of one address cannot be told apart beyond that: whoever
can send from there can pose as any of them. It must not know sockets or the database.
"""

from piwheels.errors import PeerError
from piwheels.master.dispatch_desk import Builder, Desk
from piwheels.wire import messages as m
from piwheels.wire import plain

GIVEN_UP = 0.9  #: of a builder's busy_timeout: after so long a silence it is about to begin anew
LEAST_SILENCE = 15.0  #: seconds; one that sleeps or builds is silent for up to ten


class PlainDoor:
    """Names those who send something. Raises PeerError for what gets no answer; the sender is then to be dropped."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._files: dict[bytes, tuple[str, str]] = {}  #: connection of the file channel -> (address, builder)
        self._connection: dict[str, bytes] = {}  #: the same the other way; so each builder has one at most

    def builder(self, identity: bytes, address: str, message: m.SlaveMessage, now: float) -> str:
        """The name of who said this on the builder channel. ``address``: the name of where it came from."""
        _check_old(message)
        here = self._desk.at(identity)
        if here is not None:
            if plain.address_of(here.key) != address:
                raise PeerError("uses a connection's identity that is another builder's")
            return here.key
        if not isinstance(message, m.Hello):
            raise PeerError("has not said hello")
        return self._name(address, message, now)

    def file(self, identity: bytes, address: str, message: m.FileHello | m.Chunk) -> str:
        """The name of who said this on the file channel, where builders say their slave id alone."""
        if isinstance(message, m.FileHello):
            key = self._by_slave_id(address, message.slave_id)
            self._bind(identity, address, key)
            return key
        where, key = self._files.get(identity, ("", ""))
        if where != address:
            raise PeerError("sent a chunk without having said hello")
        return key

    def _name(self, address: str, hello: m.Hello, now: float) -> str:
        free = None
        for key in plain.builder_keys(address):
            if not self._desk.is_admitted(key):
                continue  # the operator disabled this one
            sessions = self._desk.of(key)
            if sessions and all(_gave_up(builder, hello, now) for builder in sessions):
                return key
            if not sessions and free is None:
                free = key
        if free is None:
            raise PeerError(f"comes from an address that has {plain.MOST} builders here")
        return free

    def _by_slave_id(self, address: str, slave_id: int) -> str:
        for key in plain.builder_keys(address):
            if any(builder.slave_id == slave_id for builder in self._desk.of(key)):
                return key
        raise PeerError("said hello on the file channel as a slave that is not here from its address")

    def _bind(self, identity: bytes, address: str, key: str) -> None:
        before = self._connection.pop(key, None)
        if before is not None:
            self._files.pop(before, None)
        if identity in self._files:  # it was another builder's until now
            del self._connection[self._files[identity][1]]
        self._files[identity] = (address, key)
        self._connection[key] = identity


def _check_old(message: m.SlaveMessage) -> None:
    """Only 0.2x slaves come here, and what they say has no extensions."""
    if isinstance(message, m.Hello) and message.capabilities is not None:
        raise PeerError("comes without encryption although it could: give it dispatch.builders and the master's key")
    if (isinstance(message, m.Busy) and message.log) or (isinstance(message, m.Built) and message.report):
        raise PeerError("sent an extension that it did not announce")


def _gave_up(builder: Builder, hello: m.Hello, now: float) -> bool:
    """Whether the session is most likely the earlier one of who says this hello.

    A 0.2x slave that had no answer for its busy_timeout begins anew, as somebody else for all that ZeroMQ can tell. One
    at work is never silent for that long.
    """
    long = max(GIVEN_UP * hello.busy_timeout.total_seconds(), LEAST_SILENCE)
    return builder.hello == hello and now - builder.heard >= long
