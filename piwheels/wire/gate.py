# SPDX-License-Identifier: BSD-3-Clause
"""The gate that admits builders while they connect: by the key that they prove, or without encryption by their address.

libzmq asks whoever answers at a fixed inproc address about every connection in a socket's ZAP domain (ZeroMQ RFC 27),
and ends those that are refused before they can send a message. pyzmq's own authenticator does not decide about
connections without encryption by domain, and cannot take back an address that it allowed; so the thread is ours.
"""

import logging
import threading
from collections.abc import Collection
from typing import Any

import zmq
from zmq.utils import z85

from piwheels.errors import UnavailableError
from piwheels.wire.plain import address_key

KEYED_DOMAIN = "piwheels"  #: of sockets with encryption
PLAIN_DOMAIN = "piwheels plain"

_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_END = [b"end"]  #: what stop sends there: no request is so short
_PATIENCE = 5.0  #: seconds that stopping may take

_logger = logging.getLogger(__name__)


class Gate:
    """Admits builders by public key or address (``wire.plain``), in a thread.

    One for a context, started before the routers listen: they refuse everybody while there is none. What is not
    admitted any more opens no new connection; the connections it has are for the dispatcher to refuse (each frame
    carries its key or address).
    """

    def __init__(self, context: "zmq.Context[Any]", admitted: Collection[str] = ()) -> None:
        self._context = context
        self._admitted: frozenset[str] = frozenset()
        self._thread = threading.Thread(name="gate", daemon=True)
        self.refused = 0  #: connections turned away so far
        self.admit(admitted)

    def admit(self, names: Collection[str]) -> None:
        """Admit exactly these keys and addresses from now on. May be called at any time, from any thread."""
        self._admitted = frozenset(names)  # one assignment: the thread sees old or new

    def start(self) -> None:
        """Begin to answer; UnavailableError if another gate of this context does already."""
        socket = self._context.socket(zmq.REP)
        try:
            socket.bind(_ENDPOINT)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise UnavailableError(f"cannot open the gate: {error.strerror}") from error
        self._thread = threading.Thread(target=self._serve, args=(socket,), name="gate", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether there is somebody to answer; False before start and after stop, or should the thread have died."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop answering; nobody new gets in after that."""
        if not self.alive:
            return
        with self._context.socket(zmq.REQ) as asking:
            asking.setsockopt(zmq.LINGER, 0)
            asking.setsockopt(zmq.RCVTIMEO, int(1000 * _PATIENCE))
            asking.connect(_ENDPOINT)
            asking.send_multipart(_END)
            asking.recv()
        self._thread.join(_PATIENCE)

    def _serve(self, socket: "zmq.Socket[bytes]") -> None:
        try:
            while (request := socket.recv_multipart()) != _END:
                socket.send_multipart(self._answer(request))
            socket.unbind(_ENDPOINT)
            socket.send(b"")
        except zmq.ContextTerminated:
            pass
        finally:
            socket.close(linger=1000)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        try:
            name = _name(request)
        except Exception:
            _logger.exception("a fault in piwheels itself at the gate")
            name = None
        if name is None or name not in self._admitted:
            self.refused += 1
            return [_VERSION, request[1] if len(request) > 1 else b"", b"400", b"not admitted", b"", b""]
        # What is given as User-Id here is what each frame carries as that: peers' own claims do not replace it.
        return [_VERSION, request[1], b"200", b"OK", name.encode(), b""]


def _name(request: list[bytes]) -> str | None:
    """Who wants to come in, as the operator admits them."""
    version, _, domain, address, _, mechanism, *credentials = request
    if version != _VERSION:
        return None
    if (domain, mechanism) == (KEYED_DOMAIN.encode(), b"CURVE"):
        return z85.encode(credentials[0]).decode("ascii")
    if (domain, mechanism) == (PLAIN_DOMAIN.encode(), b"NULL"):
        return address_key(address.decode())
    return None
