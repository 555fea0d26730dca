# SPDX-License-Identifier: BSD-3-Clause
"""The sockets of the slave protocol, with every limit and time-out they need.

Owns what ZeroMQ is told; must not know messages, sessions or the database. The builder's side (``builder_req``,
``file_dealer``, ``watch``) runs on pyzmq 24 too.

The sockets are to be used with ``zmq.NOBLOCK`` behind a poller; a blocking call that slips in ends with ``zmq.Again``
after ``FORGOTTEN`` milliseconds. Raises SettingsError for a bad address or key, UnavailableError for one in use.
"""

from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from piwheels.errors import SettingsError, UnavailableError
from piwheels.wire.cbor import MAX_MESSAGE
from piwheels.wire.codec import MAX_CHUNK
from piwheels.wire.gate import KEYED_DOMAIN, PLAIN_DOMAIN
from piwheels.wire.keys import KeyPair, is_key

MAX_ANSWER = 256 * 1024  #: bytes; largest message from master to builder
FORGOTTEN = 5000  #: milliseconds; after which a blocking call that should not be there ends

#: For every socket. Heartbeats find a peer whose machine or network went away without a word (ZMTP 3.1, PING); both
#: HANDSHAKE_IVL and CONNECT_TIMEOUT end peers that accept a connection and then say nothing.
_COMMON: dict[int, int] = {
    zmq.HEARTBEAT_IVL: 10_000,
    zmq.HEARTBEAT_TIMEOUT: 30_000,
    zmq.HEARTBEAT_TTL: 60_000,
    zmq.HANDSHAKE_IVL: 10_000,
    zmq.RCVTIMEO: FORGOTTEN,
    zmq.SNDTIMEO: FORGOTTEN,
}

#: For the builder's two sockets, which find their master again by themselves.
_CONNECTING: dict[int, int] = {zmq.CONNECT_TIMEOUT: 10_000, zmq.RECONNECT_IVL: 500, zmq.RECONNECT_IVL_MAX: 10_000}

#: For the master's two. MANDATORY makes a send to a builder that is gone, or that does not read, an error instead of
#: nothing at all: the file channel's credits can then wait. (High-water marks of a ROUTER count for each peer.)
_LISTENING: dict[int, int] = {zmq.ROUTER_MANDATORY: 1, zmq.BACKLOG: 1024}


def builder_router(context: "zmq.Context[Any]", address: str, keys: KeyPair | None) -> "zmq.Socket[bytes]":
    """The master's end of the builder channel. Only builders that a started ``gate.Gate`` admits get in:
    with ``keys`` by their own, without by their address."""
    # A builder has one request under way, so four waiting are already too many from one that floods us.
    options: dict[int, int] = {zmq.MAXMSGSIZE: MAX_MESSAGE, zmq.RCVHWM: 4, zmq.SNDHWM: 16, zmq.LINGER: 1000}
    return _listen(context, address, keys, options)


def file_router(context: "zmq.Context[Any]", address: str, keys: KeyPair | None) -> "zmq.Socket[bytes]":
    """The master's end of the file channel."""
    options: dict[int, int] = {zmq.MAXMSGSIZE: MAX_CHUNK, zmq.RCVHWM: 16, zmq.SNDHWM: 64, zmq.LINGER: 1000}
    return _listen(context, address, keys, options)


def builder_req(
    context: "zmq.Context[Any]", address: str, *, server_key: str | None, keys: KeyPair | None
) -> "zmq.Socket[bytes]":
    """A builder's end of the builder channel. LINGER lets a BYE out; no IMMEDIATE, so that a HELLO waits in the socket
    until the master is there, and the session's own deadline ends the waiting."""
    options: dict[int, int] = {zmq.MAXMSGSIZE: MAX_ANSWER, zmq.LINGER: 1000}
    return _connect(context, zmq.REQ, address, server_key, keys, options)


def file_dealer(
    context: "zmq.Context[Any]", address: str, *, server_key: str | None, keys: KeyPair | None
) -> "zmq.Socket[bytes]":
    """A builder's end of the file channel; one for each file."""
    # IMMEDIATE: repeated HELLOs and stale chunks are not piled up for a master that is away.
    options: dict[int, int] = {zmq.MAXMSGSIZE: 1024, zmq.RCVHWM: 64, zmq.SNDHWM: 16, zmq.LINGER: 0, zmq.IMMEDIATE: 1}
    return _connect(context, zmq.DEALER, address, server_key, keys, options)


def watch(socket: "zmq.Socket[bytes]") -> "zmq.Socket[bytes]":
    """A socket to poll that becomes readable when ``socket`` loses its connection; read it with ``connection_lost``.

    Close both with ``unwatch``.
    """
    monitor: zmq.Socket[bytes] = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    monitor.setsockopt(zmq.RCVTIMEO, FORGOTTEN)
    return monitor


def connection_lost(monitor: "zmq.Socket[bytes]") -> bool:
    """Read what ``watch`` reported; whether an established connection dropped."""
    lost = False
    while monitor.poll(0):
        lost |= recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
    return lost


def unwatch(socket: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]", *, linger: int | None = None) -> None:
    """Close a watched socket and its monitor; ``linger`` in milliseconds, None: as the socket was made."""
    socket.disable_monitor()
    monitor.close(linger=0)
    socket.close(linger=linger)


def peer_key(frame: zmq.Frame) -> str | None:
    """The public key (Z85) of whoever sent this frame, as the gate admitted it; None if there is none.

    Not to be asked of messages of sockets without keys: there it is the peer's own claim.
    To be asked of a message's last frame: a ROUTER's identity frame says nothing in some versions of libzmq.
    """
    return _metadata(frame, "User-Id") or None


def peer_address(frame: zmq.Frame) -> str:
    """The network address of whoever sent this frame. It is libzmq that says so; peers cannot.

    (User-Id, too, where the gate set it; what a peer claims of itself is what is not set before.)
    """
    return _metadata(frame, "Peer-Address")


def _metadata(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:  # EINVAL: the connection has no such property
        return ""


def _listen(
    context: "zmq.Context[Any]", address: str, keys: KeyPair | None, options: dict[int, int]
) -> "zmq.Socket[bytes]":
    socket = _socket(context, zmq.ROUTER, _COMMON | _LISTENING | options)
    try:
        if keys is not None:
            socket.curve_secretkey = keys.secret.encode("ascii")
            socket.curve_publickey = keys.public.encode("ascii")
            socket.curve_server = True
        socket.setsockopt(zmq.ZAP_DOMAIN, (PLAIN_DOMAIN if keys is None else KEYED_DOMAIN).encode("ascii"))
        # Otherwise libzmq lets everybody in when no handler answers.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        _bind(socket, address)
    except BaseException:
        socket.close(linger=0)
        raise
    return socket


def _bind(socket: "zmq.Socket[bytes]", address: str) -> None:
    try:
        if "//*" in address or "[" in address:
            try:
                socket.setsockopt(zmq.IPV6, 1)  # a wildcard then means both families
                socket.bind(address)
                return
            except zmq.ZMQError as error:
                if error.errno == zmq.EADDRINUSE or "[" in address:
                    raise
                socket.setsockopt(zmq.IPV6, 0)  # a kernel without IPv6
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EINVAL, zmq.EPROTONOSUPPORT):
            raise SettingsError(f"{address!r} is not an address to listen at; for example tcp://*:5555") from error
        raise UnavailableError(f"cannot listen at {address}: {error.strerror}") from error


def _connect(
    context: "zmq.Context[Any]",
    kind: int,
    address: str,
    server_key: str | None,
    keys: KeyPair | None,
    options: dict[int, int],
) -> "zmq.Socket[bytes]":
    if (server_key is None) != (keys is None):
        raise SettingsError("an encrypted connection needs both the master's public key and a key pair of our own")
    if server_key is not None and not is_key(server_key):
        raise SettingsError(f"{server_key!r} is not a public key: 40 characters of Z85")
    socket = _socket(context, kind, _COMMON | _CONNECTING | options)
    try:
        if server_key is not None and keys is not None:
            socket.curve_serverkey = server_key.encode("ascii")
            socket.curve_publickey = keys.public.encode("ascii")
            socket.curve_secretkey = keys.secret.encode("ascii")
        # Not for names: libzmq tries one address of a name only, and a builder may have no IPv6 route.
        socket.setsockopt(zmq.IPV6, int("[" in address))
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise SettingsError(f"{address!r} is not an address to connect to; for example tcp://192.0.2.1:5555") from error
    except BaseException:
        socket.close(linger=0)
        raise
    return socket


def _socket(context: "zmq.Context[Any]", kind: int, options: dict[int, int]) -> "zmq.Socket[bytes]":
    socket: zmq.Socket[bytes] = context.socket(kind)
    for option, value in options.items():
        socket.setsockopt(option, value)
    return socket
