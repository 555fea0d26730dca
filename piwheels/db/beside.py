# SPDX-License-Identifier: BSD-3-Clause
"""The database from an asyncio loop: transactions in threads, so that the loop never waits; and who may be at work."""

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError

from piwheels.db.engine import (
    FIRST_DELAY,
    LONGEST_DELAY,
    connect,
    describe,
    in_transaction,
    is_passing,
    make_async_engine,
)
from piwheels.errors import DatabaseError
from piwheels.settings import DatabaseSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

WITHIN = 4  #: connections of the loop's own
_REFUSALS = (DataError, IntegrityError, psycopg.DataError, psycopg.IntegrityError)  #: COPY raises the driver's own
TELL_AFTER = 3  #: failures after which the log says that the database is waited for


class Refused(DatabaseError, ValueError):
    """The server does not take these values; trying again would change nothing."""


class Beside:
    """Transactions for a loop: ``await beside(work)`` in a thread, ``await beside.within(work)`` in the loop itself.

    What runs all the time goes within: two threads that both have much to compute hand Python's lock to and fro, which
    cost a third of the feed's throughput (docs/decisions/0004). What computes for long goes beside.
    """

    def __init__(
        self, engine: Engine, settings: DatabaseSettings, *, name: str, threads: int, stop: threading.Event
    ) -> None:
        self._engine, self._stop = engine, stop
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="database")
        self._within = make_async_engine(settings, name=f"{name} loop", connections=WITHIN)

    async def __call__(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, in a transaction of its own; see :func:`piwheels.db.engine.in_transaction`. Raises
        Refused, too."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: in_transaction(self._engine, work, stop=self._stop))
        except _REFUSALS as error:
            raise Refused(describe(error)) from error

    async def within(self, work: Callable[[Connection], T]) -> T:
        """The same without a thread: the loop goes on while the server works, and waits while ``work`` computes."""
        delay, failures = FIRST_DELAY, 0
        while True:
            try:
                async with self._within.begin() as connection:
                    return await connection.run_sync(work)
            except _REFUSALS as error:
                raise Refused(describe(error)) from error
            except Exception as error:
                if not is_passing(error):
                    raise
                failures += 1
                if failures == TELL_AFTER:
                    logger.warning("waiting for the database: %s", describe(error))
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, LONGEST_DELAY)

    async def close(self) -> None:
        """Close what is within, and wait for what is beside."""
        await self._within.dispose()
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
