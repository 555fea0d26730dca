# SPDX-License-Identifier: BSD-3-Clause
"""The builder's shell: polls sockets, the build and signals, feeds the session, and does what the session says.

What to say to the master, and when, is :mod:`piwheels.slave.session`'s business; how to build is the runner's. This
loop waits nowhere but in its one poll, and there no longer than a second.
"""

import contextlib
import logging
import os
import random
import signal
import time
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any

import zmq

from piwheels import faults
from piwheels.errors import ExitCode, LocalProtocolError, PeerError
from piwheels.settings import SlaveSettings
from piwheels.slave import limits, session
from piwheels.slave.delivery import Delivery
from piwheels.slave.runner import Runner
from piwheels.slave.sdist import disk_or_builder
from piwheels.slave.session import Rhythm, Session
from piwheels.slave.stats import hello, stats
from piwheels.vocabulary import FailureReason
from piwheels.wire import codec, sockets
from piwheels.wire import messages as m
from piwheels.wire.keys import KeyPair

_STEP = 1.0  #: seconds; longest wait in the poll
_LAST_WORD = 1000  #: milliseconds that a BYE may take to leave
_ANSWER = 500  #: milliseconds that an answer is waited for at the end
_ANSWERED_SOON = (session.State.ASKING, session.State.REPORTING)
_WIPE_AT_END = 5.0  #: seconds; what takes longer is left to the next start

logger = logging.getLogger(__name__)


class Agent:
    """One builder. ``run`` returns when it is told to end, by a signal or by its master."""

    def __init__(self, settings: SlaveSettings, runner: Runner, *, master_key: str, keys: KeyPair) -> None:
        self._settings = settings
        self._runner = runner
        self._master_key = master_key
        self._keys = keys
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._delivery: Delivery | None = None
        self._poller = zmq.Poller()
        self._index_url = ""
        self._exit: session.Exit | None = None
        self._asked_to_end = False
        self._queue: deque[session.Event] = deque()
        greeting = hello(label=settings.label, build_timeout=settings.build_timeout, busy_timeout=settings.busy_timeout)
        rhythm = Rhythm(
            poll=settings.poll.total_seconds(),
            busy_timeout=settings.busy_timeout.total_seconds(),
            backoff_cap=max(settings.poll.total_seconds(), 60.0) if settings.poll >= timedelta(seconds=5) else 5.0,
        )
        self._session = Session(greeting, rhythm=rhythm, jitter=random.random)

    def run(self) -> int:
        """Work until told to end; the exit status."""
        with _signals(self._ask_to_end) as wake:
            self._poller.register(wake, zmq.POLLIN)
            try:
                self._feed(session.Start(self._left_over()))
                while self._exit is None:
                    self._step(wake)
            finally:
                self._end()
        assert self._exit is not None
        logger.info("ending: %s", self._exit.why)
        return int(ExitCode.OK if self._exit.asked else ExitCode.FAILED)

    def _left_over(self) -> m.Built | None:
        """What a former life of this builder finished and did not deliver."""
        left = self._runner.left
        if left is None:
            return None
        logger.info("a build that was finished when this builder was killed is to be delivered")
        return _sendable(left)

    def _ask_to_end(self) -> None:
        self._asked_to_end = True

    # One turn of the loop.

    def _step(self, wake: int) -> None:
        ready = dict(self._poll())
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 512)
        if self._asked_to_end:
            self._say_goodbye()
            return
        if self._socket is not None and self._socket in ready:
            self._receive(self._socket)
        if self._monitor is not None and self._monitor in ready and sockets.connection_lost(self._monitor):
            self._feed(session.Lost("the connection dropped"))
        self._attend_build()
        self._attend_delivery()
        deadline = self._session.deadline
        if deadline is not None and time.monotonic() >= deadline and self._exit is None:
            self._feed(self._tick())

    def _say_goodbye(self) -> None:
        """End the session; give an answer that is on its way a moment, for before it comes no BYE can be said."""
        if self._session.state in _ANSWERED_SOON and self._socket is not None and self._socket.poll(_ANSWER):
            self._receive(self._socket)
        self._feed(session.Shutdown())

    def _poll(self) -> list[tuple[Any, int]]:
        """Wait for something to happen."""
        with self._extra() as extra:
            for one, events in extra:
                self._poller.register(one, events)
            try:
                return self._poller.poll(self._timeout())
            finally:
                for one, _ in extra:
                    self._poller.unregister(one)

    @contextlib.contextmanager
    def _extra(self) -> Iterator[list[tuple[Any, int]]]:
        """What is polled in this turn beside the wake-up: it comes and goes."""
        extra: list[tuple[Any, int]] = [(one, zmq.POLLIN) for one in (self._socket, self._monitor) if one is not None]
        if (output := self._runner.output) is not None:
            extra.append((output, zmq.POLLIN))
        if self._delivery is not None:
            extra.append((self._delivery.socket, self._delivery.events))
        yield extra

    def _timeout(self) -> int:
        """Milliseconds until something has to be done."""
        now = time.monotonic()
        deadlines = [self._session.deadline, self._delivery.deadline if self._delivery else None, now + _STEP]
        return max(0, int(1000 * (min(one for one in deadlines if one is not None) - now)) + 1)

    def _receive(self, socket: "zmq.Socket[bytes]") -> None:
        try:
            message = codec.decode_from_master(socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return
        except (PeerError, zmq.ZMQError) as error:
            self._feed(session.Lost(str(error)))
            return
        if isinstance(message, m.Ack):
            self._index_url = message.index_url
            logger.info("the master knows this builder as number %d", message.slave_id)
        self._feed(session.Received(message))

    def _attend_build(self) -> None:
        built = self._runner.poll(now=time.monotonic())
        if built is not None:
            if faults.point("built"):
                self._feed(session.Lost("lost on purpose"))
            self._feed(session.BuildEnded(_sendable(built)))

    def _attend_delivery(self) -> None:
        if self._delivery is not None and (ended := self._delivery.handle(time.monotonic())) is not None:
            self._withdraw()
            if faults.point("sent"):
                self._feed(session.Lost("lost on purpose"))
            self._feed(session.FileEnded(*ended))

    def _tick(self) -> session.Tick:
        free = limits.free_space(self._runner.work)
        return session.Tick(stats(self._runner.work), log=self._runner.news(), can_work=free >= self._settings.min_free)

    # What the session says.

    def _feed(self, event: session.Event) -> None:
        """Feed an event, and those that doing what it leads to brings about."""
        self._queue.append(event)
        while self._queue:
            event = self._queue.popleft()
            if isinstance(event, session.BuildEnded):
                _log_result(event.built)
            for effect in self._session.handle(event, time.monotonic()):
                self._do(effect)

    def _do(self, effect: session.Effect) -> None:
        match effect:
            case session.Connect():
                self._connect()
            case session.Disconnect():
                self._disconnect()
            case session.Send(message):
                self._send(message)
            case session.StartBuild(build):
                self._start(build)
            case session.StopBuild():
                self._runner.stop()
            case session.OfferFile(slave_id, file):
                self._offer(slave_id, file)
            case session.WithdrawFile():
                self._withdraw()
            case session.Wipe():
                self._runner.wipe(timeout=_WIPE_AT_END if self._asked_to_end else 300.0)
            case session.Note(text):
                logger.info("%s", text)
            case session.Exit():
                self._exit = effect

    def _connect(self) -> None:
        self._disconnect()
        self._socket = sockets.builder_req(
            self._context, self._settings.builders, server_key=self._master_key, keys=self._keys
        )
        self._monitor = sockets.watch(self._socket)

    def _disconnect(self, *, linger: int = 0) -> None:
        if self._socket is not None:
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor.close(linger=0)
            self._socket.close(linger=linger)
        self._socket = self._monitor = None

    def _send(self, message: m.SlaveMessage) -> None:
        if self._socket is None:
            return  # the connection was given up by what came before in the same list
        try:
            self._socket.send(codec.encode(message), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._queue.append(session.Lost(f"cannot send: {error.strerror}"))

    def _start(self, build: m.Build) -> None:
        logger.info("building %s %s", build.package, build.version)
        try:
            self._runner.start(build, self._index_url, now=time.monotonic())
            if faults.point("building"):
                self._queue.append(session.Lost("lost on purpose"))
        except OSError as error:
            self._runner.stop()
            reason = disk_or_builder(error)
            self._queue.append(session.BuildEnded(_failed(build, reason, f"cannot start the build: {error}")))

    def _offer(self, slave_id: int, file: m.FileInfo) -> None:
        self._withdraw()
        socket = sockets.file_dealer(self._context, self._settings.files, server_key=self._master_key, keys=self._keys)
        try:
            path = self._runner.wheel(file.filename)
            self._delivery = Delivery(socket, path, slave_id=slave_id, now=time.monotonic())
        except OSError as error:
            socket.close(linger=0)
            self._queue.append(session.FileEnded(ok=False, why=f"cannot read the wheel: {error}"))

    def _withdraw(self) -> None:
        if self._delivery is not None:
            self._delivery.close()
        self._delivery = None

    def _end(self) -> None:
        """Leave nothing behind: no build, no socket."""
        self._runner.close()
        self._withdraw()
        self._disconnect(linger=_LAST_WORD)
        self._context.term()


def _sendable(built: m.Built) -> m.Built:
    """The result, or one that says that it cannot be told: a wheel may have words in it that no message carries."""
    try:
        codec.encode(built)
    except LocalProtocolError as error:
        return _unsendable(built, error)
    return built


def _unsendable(built: m.Built, error: LocalProtocolError) -> m.Built:
    assert built.report is not None
    logger.warning("the result of the build cannot be told to the master: %s", error)
    detail = f"the builder cannot describe what was built: {error}"[:300]
    report = m.BuildReport(token=built.report.token, reason=FailureReason.PACKAGE, detail=detail)
    return m.Built(ok=False, duration=built.duration, log=built.log, files=(), report=report)


def _failed(build: m.Build, reason: FailureReason, detail: str) -> m.Built:
    assert build.order is not None
    report = m.BuildReport(token=build.order.token, reason=reason, detail=detail[:300])
    return m.Built(ok=False, duration=timedelta(0), log=f"piw-slave: {detail}\n", files=(), report=report)


def _log_result(built: m.Built) -> None:
    seconds = built.duration.total_seconds()
    if built.ok:
        logger.info("built %s in %.0f s", ", ".join(file.filename for file in built.files), seconds)
    elif built.report is not None:
        logger.info("build failed after %.0f s: %s: %s", seconds, built.report.reason, built.report.detail)


@contextlib.contextmanager
def _signals(ask: Any) -> Iterator[int]:
    """While in force, SIGTERM and SIGINT call ``ask``; yields a descriptor that is readable after any signal."""
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def handler(number: int, frame: FrameType | None) -> None:
        ask()

    old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    old_waker = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(old_waker)
        for number, previous in old.items():
            signal.signal(number, previous)
        os.close(wake)
        os.close(waker)
