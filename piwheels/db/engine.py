# SPDX-License-Identifier: BSD-3-Clause
"""Connections to PostgreSQL, and the one way to do work in a transaction. Knows no table.

Every session runs in UTC and has time-outs for statements, locks and idle transactions, so that nobody waits for ever
and a process that hangs holds nothing for long.
"""

import errno
import logging
import os
import random
import re
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from piwheels import faults
from piwheels.errors import DatabaseError
from piwheels.settings import DatabaseSettings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT = 5  #: seconds
STATEMENT_TIMEOUT = 30_000  #: milliseconds; what runs often must be far below, what scans runs in batches
LOCK_TIMEOUT = 10_000
IDLE_TIMEOUT = 60_000  #: in a transaction; a live worker is never that slow between two statements
PATIENCE = 60.0  #: seconds that in_transaction tries when told neither a deadline nor a stop event
FIRST_DELAY, LONGEST_DELAY = 0.05, 2.0  #: seconds between two tries

# Errors of PostgreSQL (appendix A of its manual) after which the same transaction may succeed: whole classes, then
# single ones. 57014 is a statement time-out: the server is overloaded, or the lock holder is slow. 58030 is an error of
# the server's disk: nothing that the transaction did, and for the operator to mend while we wait.
_PASSING_CLASSES = ("08", "40", "53", "57P")
_PASSING = frozenset({"55P03", "55006", "57014", "25P03", "58030"})
#: What SQLAlchemy says, in an error of a type that it has for much else, when it replaced a dead connection twice and
#: each was dead too: the server is just going.
_EXHAUSTED = "This connection is closed"


class Stopped(DatabaseError):
    """The process was told to stop while it waited for the database."""


class DatabaseAway(DatabaseError):
    """The database did not become usable within the deadline."""


def parameters(settings: DatabaseSettings) -> dict[str, str | int | None]:
    """What the setting database.url says, as libpq reads it; DatabaseError if it makes no sense."""
    try:
        return conninfo_to_dict(settings.url)
    except psycopg.Error as error:
        raise DatabaseError(f"database.url cannot be used: {describe(error)}") from error


def connect(settings: DatabaseSettings, *, name: str, autocommit: bool = False) -> psycopg.Connection:
    """A connection of its own, outside the pool, with the same time-outs.

    Raises psycopg.Error, and DatabaseError for a URL that makes no sense.
    """
    return psycopg.connect(_conninfo(settings, name), autocommit=autocommit)


def _conninfo(settings: DatabaseSettings, name: str) -> str:
    given = parameters(settings)
    options = (
        f"-c timezone=UTC -c statement_timeout={STATEMENT_TIMEOUT} -c lock_timeout={LOCK_TIMEOUT}"
        f" -c idle_in_transaction_session_timeout={IDLE_TIMEOUT} {given.pop('options', None) or ''}"
    )
    defaults: dict[str, str | int | None] = {
        "application_name": f"{name} {os.getpid()}",
        "connect_timeout": CONNECT_TIMEOUT,
        # A server whose machine vanished is noticed within half a minute, not after TCP's two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    return make_conninfo("", **{**defaults, **given, "options": options})


def make_engine(settings: DatabaseSettings, *, name: str) -> Engine:
    """A pool of connections; ``name`` shows in pg_stat_activity. Connects only when used."""
    parameters(settings)
    engine = create_engine(
        "postgresql+psycopg://",  # the rest is in the creator, since libpq's URLs say more than SQLAlchemy's
        creator=lambda: connect(settings, name=name),
        pool_size=settings.pool,
        **_POOL,
    )
    event.listen(engine, "checkout", _refuse_dead)
    return engine


def make_async_engine(settings: DatabaseSettings, *, name: str, connections: int) -> "AsyncEngine":
    """The same for a process with an asyncio loop, in which nothing else may use its connections."""
    from sqlalchemy.ext.asyncio import create_async_engine  # it takes long to import, and one role needs it

    info = _conninfo(settings, name)

    async def creator() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(info)

    engine = create_async_engine("postgresql+psycopg://", async_creator=creator, pool_size=connections, **_POOL)
    event.listen(engine.sync_engine, "checkout", _refuse_dead)
    return engine


_POOL: dict[str, Any] = {
    "max_overflow": 0,
    "pool_timeout": CONNECT_TIMEOUT * 2,
    "pool_recycle": 3600,
}


def _refuse_dead(_: object, record: ConnectionPoolEntry, __: object) -> None:
    """Have the pool make another connection instead of one that was ended while it lay there.

    A server says nothing to an idle client but that it is about to leave, so whatever can be read will do. This is a
    look at the socket; SQLAlchemy's own check (pool_pre_ping) is a round to the server, a tenth of what a claim costs.
    One that vanished without a word is noticed by neither before its time-outs; :func:`in_transaction` tries again.
    """
    connection = record.driver_connection
    if connection is None or connection.closed or _can_be_read(connection.fileno()):
        raise DisconnectionError("the session was ended while it was idle")


def _can_be_read(descriptor: int) -> bool:
    waiting = select.poll()  # not select(2), which knows no descriptors beyond 1023
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))


def in_transaction(
    engine: Engine,
    work: Callable[[Connection], T],
    *,
    deadline: float | None = None,
    stop: threading.Event | None = None,
) -> T:
    """Run ``work`` in one transaction and return what it returns; try again when the server is away or says so.

    ``work`` may run several times, and once more even after a commit whose confirmation was lost: it must be harmless
    to repeat. ``deadline``: seconds for all tries together (default: PATIENCE, or for as long as ``stop`` is not set).
    Raises DatabaseAway at the deadline, Stopped when ``stop`` is set, and anything else that ``work`` raises at once.
    """
    if deadline is None and stop is None:
        deadline = PATIENCE
    until = None if deadline is None else time.monotonic() + deadline
    delay = FIRST_DELAY
    failures = 0
    while True:
        try:
            with engine.begin() as connection:
                result = work(connection)
                _maybe_lose("committing")
            _maybe_lose("committed")
            if failures > 3:
                logger.info("the database is back")
            return result
        except Exception as error:
            if not is_passing(error):
                raise
            failures += 1
            if failures == 3:
                logger.warning("waiting for the database: %s", describe(error))
            _pause(delay, until=until, stop=stop, error=error)
            delay = min(delay * 2, LONGEST_DELAY)


def _maybe_lose(point: str) -> None:
    try:
        lost = faults.point(point)
    except OSError as error:
        kind = psycopg.errors.DiskFull if error.errno == errno.ENOSPC else psycopg.errors.IoError
        raise kind(f"could not write on purpose, {point}: {error.strerror}") from error
    if lost:
        raise psycopg.OperationalError(f"lost on purpose, {point}")


def _pause(delay: float, *, until: float | None, stop: threading.Event | None, error: Exception) -> None:
    """Wait before the next try, or raise if there is none."""
    delay *= random.uniform(0.5, 1.0)  # two that deadlocked must not meet again
    if until is not None and time.monotonic() + delay > until:
        raise DatabaseAway(f"the database cannot be used: {describe(error)}") from error
    if (stop or threading.Event()).wait(delay):
        raise Stopped("stopped while waiting for the database") from error


def is_passing(error: BaseException) -> bool:
    """Whether the error is of the kind that goes away: server restarting, connection lost, deadlock, serialization."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        if error.orig is None:
            return False
        error = error.orig
    if isinstance(error, PoolTimeout):
        return True  # every connection of the pool is in use
    if type(error) is InvalidRequestError and str(error) == _EXHAUSTED:
        return True
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return isinstance(error, psycopg.Error) and _code_is_passing(error.sqlstate)
    return error.sqlstate is None or _code_is_passing(error.sqlstate)


def _code_is_passing(code: str | None) -> bool:
    return code is not None and (code in _PASSING or code.startswith(_PASSING_CLASSES))


def describe(error: BaseException) -> str:
    """A database error as one line for a person."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    text = re.sub(r"^(connection is bad|connection failed): ", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
