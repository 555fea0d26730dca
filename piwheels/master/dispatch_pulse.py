# SPDX-License-Identifier: BSD-3-Clause
"""Once a second, in one thread: leases renewed, builders seen, leases that are over ended, admitted keys read again.

What builders say is collected here and written in one go, so that a thousand of them cost a handful of statements. It
tells the loop what changed through callbacks, which only post; it must not know sessions or sockets.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from piwheels.db import queue, slaves
from piwheels.db.engine import Stopped
from piwheels.db.wake import CONTROL, Listener
from piwheels.master.dispatch_offers import Fit
from piwheels.master.dispatch_work import Clerk
from piwheels.master.live_logs import LiveLogs
from piwheels.wire.messages import Stats

logger = logging.getLogger(__name__)

BEAT = 1.0  #: seconds
JUMP = 30.0  #: seconds; a clock that moved by more against ours was set
SWEEP = 5  #: beats between two looks for expired leases

Lost = Callable[[str, str], None]  #: (token, why)
Admit = Callable[[frozenset[str]], None]
News = Callable[[Fit, bool], None]  #: (who may be given jobs, whether the operator did something)


class Pulse:
    """The thread. ``renew`` and ``seen`` are the loop's to call; they take no time."""

    def __init__(self, clerk: Clerk, *, lost: Lost, admit: Admit, news: News) -> None:
        self._clerk = clerk
        self._lost = lost
        self._admit = admit
        self._news = news
        self._logs = LiveLogs(clerk.settings.paths.run)
        self._nudged = False
        self._skew: float | None = None
        self._lock = threading.Lock()
        self._tokens: set[str] = set()
        self._held: set[str] = set()
        self._stats: dict[int, Stats | None] = {}
        self._keys: frozenset[str] | None = None
        self._beats = 0
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin, with what has to be true before anybody is served."""
        lease = self._clerk.settings.dispatch.lease
        self._clerk.transaction(lambda conn: queue.prolong_all(conn, lease=lease))
        self._read_keys()
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the thread, which ends when the clerk's ``stop`` is set."""
        self._thread.join(timeout)

    def renew(self, token: str, log: str = "") -> None:
        """This lease's builder is at work, and its build wrote this."""
        self._logs.note(token, log)
        with self._lock:
            self._tokens.add(token)

    def hold(self, token: str) -> None:
        """This lease's result is being recorded, which may take as long as the database is away: keep it alive."""
        self._logs.end(token)
        with self._lock:
            self._held.add(token)

    def let_go(self, token: str) -> None:
        """It is recorded."""
        with self._lock:
            self._held.discard(token)
            self._tokens.discard(token)

    def seen(self, slave_id: int, stats: Stats | None) -> None:
        """This builder is alive."""
        with self._lock:
            if stats is not None or slave_id not in self._stats:
                self._stats[slave_id] = stats

    def _run(self) -> None:
        listener = Listener(self._clerk.settings.database, CONTROL, name="dispatch listener")
        try:
            while self._rest(listener):
                try:
                    self.beat()
                except Stopped:
                    return
                except Exception:
                    logger.exception("a fault while renewing leases")
        finally:
            listener.close()

    def _rest(self, listener: Listener) -> bool:
        """Wait for the next beat, which comes at once when the operator did something; False when it is the end."""
        until = time.monotonic() + BEAT
        while not self._clerk.stop.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return True
            if listener.wait(min(left, 0.2)):
                self._nudged = True
                return True
        return False

    def beat(self) -> None:
        """Do everything that is due. While the database is away this waits, and what builders say goes on collecting:
        the first thing after it is back is that their leases are renewed, and only then are overdue ones ended."""
        self._logs.write()
        with self._lock:
            tokens, self._tokens = self._tokens | self._held, set()
            stats, self._stats = self._stats, {}
        if tokens:
            self._renew(tokens)
        if stats:
            said = {number: None if one is None else figures(one) for number, one in stats.items()}
            self._clerk.transaction(lambda conn: slaves.note_seen(conn, said))
        self._beats += 1
        self._clerk.transaction(queue.wake)
        self._mind_the_clock()
        if self._beats % SWEEP == 0:
            self._end_overdue()
        self._read_keys()
        self._read_fit()

    def _mind_the_clock(self) -> None:
        """When the database's clock was set, no lease is over or lasts longer because of that."""
        skew = self._clerk.transaction(queue.clock) - time.monotonic()
        if self._skew is not None and abs(skew - self._skew) > JUMP:
            logger.warning("the database's clock moved by %.0f s; leases are given their time again", skew - self._skew)
            lease = self._clerk.settings.dispatch.lease
            self._clerk.transaction(lambda conn: queue.prolong_all(conn, lease=lease))
        self._skew = skew

    def _read_fit(self) -> None:
        nudged, self._nudged = self._nudged, False
        now = time.monotonic()
        self._news(Fit(now, {} if self._clerk.full else self._clerk.transaction(queue.fit)), nudged)

    def _renew(self, tokens: set[str]) -> None:
        lease = self._clerk.settings.dispatch.lease
        held = self._clerk.transaction(lambda conn: queue.renew(conn, tokens, lease=lease))
        lost = tokens - held
        if not lost:
            return
        cancelled = self._clerk.transaction(lambda conn: queue.cancelled(conn, lost))
        for token in sorted(cancelled):
            self._end_cancelled(token)
        with self._lock:
            lost -= self._held
        for token in sorted(lost):
            self._logs.end(token)
            self._lost(token, "it was cancelled" if token in cancelled else "its lease is over")

    def _end_cancelled(self, token: str) -> None:
        self._clerk.transaction(lambda conn: queue.end_cancelled(conn, token, policy=self._clerk.policy))

    def _end_overdue(self) -> None:
        def work(conn: Connection) -> tuple[str, ...]:
            return queue.expire(conn, policy=self._clerk.policy)

        for token in self._clerk.transaction(work):
            logger.warning("a builder was not heard of until its lease was over (%s); the job goes back", token)
            self._logs.end(token)
            self._lost(token, "its lease expired")

    def _read_keys(self) -> None:
        keys = frozenset(self._clerk.transaction(slaves.admitted_keys))
        if keys != self._keys:
            self._keys = keys
            self._admit(keys)


def figures(stats: Stats) -> dict[str, Any]:
    """A builder's figures as JSON that PostgreSQL takes."""
    return {name: _plain(getattr(stats, name)) for name in _FIGURES}


_FIGURES = tuple(field.name for field in fields(Stats))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
