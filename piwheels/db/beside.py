# SPDX-License-Identifier: BSD-3-Clause
"""The database from an asyncio loop: transactions in threads, so that the loop never waits; and who may be at work."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError

from piwheels.db.engine import connect, describe, in_transaction
from piwheels.errors import DatabaseError
from piwheels.settings import DatabaseSettings

T = TypeVar("T")


class Refused(DatabaseError, ValueError):
    """The server does not take these values; trying again would change nothing."""


class Beside:
    """Runs transactions beside the loop: ``await beside(work)``."""

    def __init__(self, engine: Engine, *, threads: int, stop: threading.Event) -> None:
        self._engine, self._stop = engine, stop
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="database")

    async def __call__(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, in a transaction of its own; see :func:`piwheels.db.engine.in_transaction`. Raises
        Refused, too."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: in_transaction(self._engine, work, stop=self._stop))
        except (DataError, IntegrityError) as error:
            raise Refused(describe(error)) from error

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()


class OnlyOne:
    """A lock that is held for as long as this process lives and the server does. Blocks while it asks."""

    def __init__(self, settings: DatabaseSettings, key: int, *, name: str) -> None:
        self._settings, self._key, self._name = settings, key, name
        self._connection: psycopg.Connection | None = None
        self._guard = threading.Lock()
        self._released = False

    def hold(self) -> bool:
        """Whether the lock is ours, taken now if it is free. False too while the server cannot be asked, and for good
        after :meth:`release`."""
        with self._guard:
            if self._released:
                return False
            try:
                if self._connection is None:
                    self._connection = connect(self._settings, name=self._name, autocommit=True)
                # Taking it again in the same session only counts; asking is what shows that the session still lives.
                row = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
            except psycopg.Error:
                self._close()
                return False
            return bool(row and row[0])

    def pause(self) -> None:
        """Let somebody else have it for now."""
        with self._guard:
            self._close()

    def release(self) -> None:
        """Let somebody else have it; waits for a :meth:`hold` that is under way in another thread."""
        with self._guard:
            self._released = True
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
