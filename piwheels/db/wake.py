# SPDX-License-Identifier: BSD-3-Clause
"""LISTEN and NOTIFY: a nudge that something changed, never the news itself.

Whoever listens also looks by itself about once a second, so a lost nudge only delays. A nudge is sent when the
transaction that sends it commits.
"""

import logging
import threading
import time

import psycopg
from psycopg import sql
from sqlalchemy import Connection, func, select

from piwheels.db.engine import connect, describe
from piwheels.settings import DatabaseSettings

logger = logging.getLogger(__name__)

JOBS = "piw_jobs"  #: jobs were added, became ready, or were returned
PAGES = "piw_pages"  #: pages became stale
CONTROL = "piw_control"  #: an operator changed a switch, a slave's wish, or cancelled a build

RECONNECT = 1.0  #: seconds between two attempts to reach the server


def notify(conn: Connection, channel: str) -> None:
    """Wake whoever listens to ``channel`` once this transaction commits."""
    conn.execute(select(func.pg_notify(channel, "")))


class Listener:
    """Listens to channels on a connection of its own and outlives PostgreSQL's restarts.

    For one thread. ``wait`` may take up to the connection time-out longer than asked while the server's machine does
    not answer at all; call it where that harms nobody.
    """

    def __init__(self, settings: DatabaseSettings, *channels: str, name: str = "listener") -> None:
        self._settings = settings
        self._channels = frozenset(channels)
        self._name = name
        self._connection: psycopg.Connection | None = None
        self._next_attempt = 0.0  # monotonic
        self._idle = threading.Event()  # never set: a wait that does nothing

    def wait(self, timeout: float) -> set[str]:
        """The channels that were notified, waiting up to ``timeout`` seconds for the first. After a reconnection all of
        them, as notifications may have been lost. Never raises for a database that is away."""
        until = time.monotonic() + timeout
        if self._connection is None:
            if self._reconnect():
                return set(self._channels)
            self._idle.wait(max(0.0, min(until, self._next_attempt) - time.monotonic()))
            return set()
        try:
            # stop_after counts packets, so whatever arrived together comes out together.
            return {n.channel for n in self._connection.notifies(timeout=timeout, stop_after=1)} & self._channels
        except psycopg.Error as error:
            logger.debug("lost the connection that listens: %s", describe(error))
            self.close()
            return set()

    def fileno(self) -> int:
        """The connection's descriptor, for a poll; changes with each reconnection; -1 while there is none."""
        connection = self._connection
        return -1 if connection is None or connection.closed else connection.fileno()

    def close(self) -> None:
        """Stop listening; ``wait`` would start again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _reconnect(self) -> bool:
        if time.monotonic() < self._next_attempt:
            return False
        self._next_attempt = time.monotonic() + RECONNECT
        connection = None
        try:
            connection = connect(self._settings, name=self._name, autocommit=True)
            for channel in sorted(self._channels):
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except psycopg.Error as error:
            logger.debug("cannot listen: %s", describe(error))
            if connection is not None:
                connection.close()
            return False
        self._connection = connection
        return True
