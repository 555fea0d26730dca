# SPDX-License-Identifier: BSD-3-Clause
"""The dispatch role: gives jobs to builders and takes in what they made. Here it is put together.

The parts, each of which knows only its own: the loop (dispatch_loop) and its sockets (dispatch_channels), who is
talking (dispatch_desk, session; plain_door names those without keys), files on their way (receiving, receiving_disk),
work in threads (dispatch_work, dispatch_pool), what happens once a second (dispatch_pulse), what is swept now and then
(dispatch_sweep).
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import zmq
from sqlalchemy import Engine

from piwheels.db import slaves
from piwheels.db.engine import Stopped
from piwheels.errors import SettingsError, UnavailableError
from piwheels.master.announcement import Limits
from piwheels.master.dispatch_channels import Channel
from piwheels.master.dispatch_desk import Desk
from piwheels.master.dispatch_loop import Loop
from piwheels.master.dispatch_sweep import Sweeper
from piwheels.master.dispatch_work import Clerk
from piwheels.master.receiving import Dock
from piwheels.master.role import Context
from piwheels.master.session import Session
from piwheels.master.store import Store
from piwheels.pypi.addresses import Addresses
from piwheels.settings import Settings
from piwheels.wire import sockets
from piwheels.wire.gate import Gate
from piwheels.wire.keys import KeyPair, load_or_make

logger = logging.getLogger(__name__)

MASTER_KEY = "master.key"  #: its name in the directory paths.keys
IO_THREADS = 2  #: libzmq's: one deciphers 200 to 400 MB/s
# Seconds after which a thread that computes lets another go on, if that wants to. The loop gives way at every call of
# its sockets; with Python's own 5 ms it waited that long, several times for a message, while others computed.
TURN = 0.0005
REPORT = 2.0  #: seconds between two reports of how it does
PATIENCE = 10.0  #: seconds that an address may be in use by our predecessor

Report = Callable[..., None]


def run(settings: Settings, context: Context) -> None:
    """Serve builders until ``context.stop`` is set; UnavailableError when an address or a path cannot be used."""
    sys.setswitchinterval(TURN)
    keys = load_or_make(settings.paths.keys / MASTER_KEY)
    serve(settings, keys, engine=context.engine, stop=context.stop, report=context.report)


def serve(
    settings: Settings,
    keys: KeyPair,
    *,
    engine: Engine,
    stop: threading.Event,
    report: Report,
    listening: Callable[[str, str], None] = lambda builders, files: None,
    listening_plain: Callable[[str, str], None] = lambda builders, files: None,
) -> None:
    """As :func:`run`, with everything given. ``listening`` is told the two addresses once they are bound;
    ``listening_plain``, before that, those without encryption, if there are any."""
    clerk = Clerk(engine, Store(settings.paths.store), settings, stop)
    # A connection that comes before its key is admitted is turned away for good, so the keys come before the sockets.
    admitted = clerk.transaction(slaves.admitted_keys)
    with _sockets(settings, keys, admitted, stop) as (builders, files, plain, gate):
        # Only now: whoever has the addresses is the only one who receives, so what is half received is nobody's.
        clerk.store.prepare()
        clerk.sweep_logs()
        clerk.unclaim_ahead()
        if plain is not None:
            listening_plain(_endpoint(plain[0]), _endpoint(plain[1]))
        listening(_endpoint(builders), _endpoint(files))
        limits = Limits(max_file=settings.dispatch.max_file, max_files=settings.dispatch.max_files)
        desk = Desk(lambda: Session(index_url=_index_url(settings), limits=limits))
        channels = [Channel(*pair) for pair in zip((builders, files), plain or (None, None), strict=True)]
        loop = Loop(builders=channels[0], files=channels[1], gate=gate, clerk=clerk, desk=desk, dock=Dock())
        helpers = [
            threading.Thread(target=_report, args=(loop, stop, report), name="report", daemon=True),
            threading.Thread(target=Sweeper(clerk).run, name="sweeper", daemon=True),
        ]
        try:
            for helper in helpers:
                helper.start()
            loop.run()
        except Stopped:
            logger.debug("stopped while waiting for the database")
        finally:
            stop.set()
            for helper in helpers:
                helper.join(2.0)


def _index_url(settings: Settings) -> str:
    """Where builders get build requirements: PyPI. Ours might have a wheel that is broken, and build requirements from
    there could make every later build wrong."""
    return settings.upstream.simple_url or Addresses.of("").simple


@contextmanager
def _sockets(
    settings: Settings, keys: KeyPair, admitted: Collection[str], stop: threading.Event
) -> Iterator[tuple[Any, Any, tuple[Any, Any] | None, Gate]]:
    """Both sockets, bound, behind a gate; the two without encryption, if the operator wants them."""
    dispatch = settings.dispatch
    if bool(dispatch.plain_builders) != bool(dispatch.plain_files):
        raise SettingsError("dispatch.plain_builders and dispatch.plain_files belong together: set both, or neither")
    context: zmq.Context[Any] = zmq.Context(IO_THREADS)
    context.set(zmq.MAX_SOCKETS, 60_000)
    opened: list[Any] = []
    gate = Gate(context, admitted)
    try:
        gate.start()
        opened.append(_bind(lambda: sockets.builder_router(context, dispatch.builders, keys), stop))
        opened.append(_bind(lambda: sockets.file_router(context, dispatch.files, keys), stop))
        plain = None
        if dispatch.plain_builders:
            opened.append(_bind(lambda: sockets.builder_router(context, dispatch.plain_builders, None), stop))
            opened.append(_bind(lambda: sockets.file_router(context, dispatch.plain_files, None), stop))
            plain = opened[2], opened[3]
        yield opened[0], opened[1], plain, gate
    finally:
        for socket in opened:
            socket.close(linger=200)
        gate.stop()
        context.destroy(linger=200)


def _bind(make: Callable[[], Any], stop: threading.Event) -> Any:
    """Make a listening socket; a predecessor that was killed may hold its address for a moment."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return make()
        except UnavailableError:
            if time.monotonic() > until or stop.wait(0.5):
                raise


def _endpoint(socket: Any) -> str:
    """Where it listens really, with the port that * became."""
    endpoint: bytes = socket.getsockopt(zmq.LAST_ENDPOINT)
    return endpoint.rstrip(b"\0").decode()


def _report(loop: Loop, stop: threading.Event, report: Report) -> None:
    while not stop.wait(REPORT):
        report(**loop.state())
