# SPDX-License-Identifier: BSD-3-Clause
"""piw-master as a whole: starts the roles as processes of their own, restarts what dies, drains on SIGTERM.

:class:`Keeper` decides when a role is started (again), told the time; :class:`Supervisor` is the shell that forks,
reaps and signals. Knows nothing of what roles do. If the supervisor itself is killed, the kernel kills its roles
(``die_with_parent``), so that starting it again never makes two sets.

Roles are forks of the supervisor, which has loaded what they need, and has no other threads and no connections: each
would take a second to load it, and forty megabytes to keep it (docs/decisions/0011-forked-roles.rst).
"""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import IO

from setproctitle import setproctitle

from piwheels.errors import ExitCode
from piwheels.processes import die_with_parent, only_one, set_from_handler, tell_systemd
from piwheels.settings import Settings
from piwheels.vocabulary import Role

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  #: seconds between an end and the next start
STABLE = 60.0  #: seconds of running after which earlier ends are forgotten
DRAIN = 10.0  #: seconds that roles have to end by themselves
TURN = 0.2  #: seconds between two looks at the processes
_ASKED_TO_END = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Post:
    """A place that a process is to fill."""

    role: Role
    index: int = 1

    @property
    def name(self) -> str:
        """As its heartbeat calls it."""
        return self.role.value if self.index == 1 else f"{self.role.value}-{self.index}"


def posts(roles: Sequence[Role], *, publishers: int) -> list[Post]:
    """Every process that these roles need."""
    count = {Role.PUBLISH: publishers}
    return [Post(role, index) for role in roles for index in range(1, count.get(role, 1) + 1)]


@dataclass(slots=True)
class Keeper:
    """When one post's process is to be started: pure, times are monotonic seconds."""

    due: float | None = 0.0  #: when to start it; None while it runs
    ends: int = 0  #: in a row, none of them after running stably
    started_at: float = field(default=0.0)

    def started(self, now: float) -> None:
        """It was started."""
        self.due, self.started_at = None, now

    def ended(self, now: float) -> float:
        """It ended; how long to wait before it is started again: doubling, forgotten once it ran stably."""
        if now - self.started_at >= STABLE:
            self.ends = 0
        delay = min(FIRST_DELAY * 2.0 ** min(self.ends, 30), LONGEST_DELAY)
        self.ends += 1
        self.due = now + delay
        return delay

    def is_due(self, now: float) -> bool:
        """Whether to start it now."""
        return self.due is not None and now >= self.due


class Supervisor:
    """Runs until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, roles: Sequence[Role], *, work: Callable[[Post], int]) -> None:
        """``work``: what a post's process does; returns its exit status."""
        self._settings = settings
        self._work = work
        self._keepers = {post: Keeper() for post in posts(roles, publishers=settings.publish.workers)}
        self._running: dict[Post, ForkProcess] = {}
        self._stop = threading.Event()

    def run(self) -> int:
        """Supervise; returns the exit status. Raises UnavailableError if another does already."""
        with only_one(self._settings.paths.run / "master.lock", what="piw-master") as lock:
            for number in _ASKED_TO_END:
                signal.signal(number, self._on_signal)
            gc.freeze()  # a look through what was loaded would copy all of it in every process
            try:
                self._supervise(lock)
            finally:
                self._drain()
        return int(ExitCode.OK)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        set_from_handler(self._stop)

    def _supervise(self, lock: IO[str]) -> None:
        ready = False
        while not self._stop.is_set():
            now = time.monotonic()
            self._reap(now)
            self._start_due(now, lock)
            if not ready:
                ready = True
                tell_systemd(f"READY=1\nSTATUS=running {len(self._running)} processes")
                logger.info("running: %s", ", ".join(post.name for post in self._running))
            tell_systemd("WATCHDOG=1")
            self._stop.wait(TURN)

    def _reap(self, now: float) -> None:
        for post, process in list(self._running.items()):
            status = process.exitcode
            if status is not None:
                del self._running[post]
                delay = self._keepers[post].ended(now)
                logger.warning("%s %s; it is started again in %.1f s", post.name, ending(status), delay)

    def _start_due(self, now: float, lock: IO[str]) -> None:
        for post, keeper in self._keepers.items():
            if keeper.is_due(now):
                try:
                    self._running[post] = start(post, self._work, lock)
                    keeper.started(now)
                except OSError as error:  # no memory or no process to be had just now
                    logger.error("cannot start %s (%s); tried again in %.1f s", post.name, error, keeper.ended(now))

    def _drain(self) -> None:
        """End every process: asked first, killed at the deadline."""
        tell_systemd("STOPPING=1")
        until = time.monotonic() + DRAIN
        for process in self._running.values():
            process.terminate()
        for post, process in self._running.items():
            process.join(max(0.0, until - time.monotonic()))
            if process.exitcode is None:
                logger.error("%s did not end within %.0f s and is killed", post.name, DRAIN)
                process.kill()
                process.join(5)
        self._running.clear()
        logger.info("stopped")


def start(post: Post, work: Callable[[Post], int], lock: IO[str]) -> ForkProcess:
    """Fork a post's process. Call it from the main thread: the child dies with the thread it is from.

    ``lock``: the supervisor's, which no child may go on holding.
    """
    process = multiprocessing.get_context("fork").Process(target=_be, args=(post, work, lock, os.getpid()))
    with _held_back(_ASKED_TO_END):  # in a child that has the supervisor's handlers still, they would be lost
        process.start()
    return process


@contextmanager
def _held_back(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be(post: Post, work: Callable[[Post], int], lock: IO[str], parent: int) -> None:
    """The child's life."""
    for number in _ASKED_TO_END:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED_TO_END)
    die_with_parent(parent)
    lock.close()
    os.setpgid(0, 0)  # Ctrl-C at the terminal is the supervisor's to pass on
    setproctitle(f"piw-master {post.name}")
    sys.exit(work(post))


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
