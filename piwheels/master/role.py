# SPDX-License-Identifier: BSD-3-Clause
"""The frame around every process of the master: signals, heartbeat, waiting for the database, how it may end.

A role module has ``run(settings, context)``, which works until ``context.stop`` is set. Owns nothing of what roles do.
"""

import json
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from sqlalchemy import Engine

from piwheels.db import migrate, roles
from piwheels.db.engine import Stopped, describe, in_transaction, is_passing, make_engine
from piwheels.errors import DatabaseError, ExitCode, PiwheelsError
from piwheels.processes import allow_many_files, set_from_handler
from piwheels.settings import Settings
from piwheels.vocabulary import Role

logger = logging.getLogger(__name__)

BEAT = 2.0  #: seconds between two heartbeats; a role not seen for several is in trouble
LEAVE = 1.0  #: seconds spent at most on saying good-bye
MAX_STATE = 20_000  #: characters of a state as JSON


class Context:
    """What a role is given: who it is, when to stop, a pool of connections, and a place to say how it does."""

    def __init__(self, role: Role, settings: Settings, *, index: int = 1) -> None:
        self.role = role
        self.index = index
        self.name = role.value if index == 1 else f"{role.value}-{index}"  #: unique among the master's processes
        self.settings = settings
        self.stop = threading.Event()  #: set: finish what is in hand, begin nothing, return from run
        self.started = datetime.now(UTC)
        self._engine: Engine | None = None
        self._state: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """This process's pool of connections; made at first use, closed by the frame."""
        with self._lock:
            if self._engine is None:
                self._engine = make_engine(self.settings.database, name=self.name)
            return self._engine

    def report(self, **state: Any) -> None:
        """Add to what status and monitor show of this role; goes out with the next heartbeat. Values must be JSON's."""
        with self._lock:
            merged = {**self._state, **state}
            if len(json.dumps(merged)) > MAX_STATE:
                raise ValueError(f"the state of {self.name} is longer than {MAX_STATE} characters")
            self._state = merged

    @property
    def state(self) -> dict[str, Any]:
        """What was reported so far."""
        with self._lock:
            return dict(self._state)

    def close(self) -> None:
        """Close the pool."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()


def run_role(role: Role, settings: Settings, body: Callable[[Settings, Context], None], *, index: int = 1) -> int:
    """Run a role in this process until SIGTERM or SIGINT, or until it fails; returns the exit status."""
    allow_many_files()
    context = Context(role, settings, index=index)

    def on_signal(number: int, frame: FrameType | None) -> None:
        set_from_handler(context.stop)

    before = [(number, signal.signal(number, on_signal)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        return _run(context, body)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _run(context: Context, body: Callable[[Settings, Context], None]) -> int:
    heart = threading.Thread(target=_beat_until_stopped, args=(context,), name="heartbeat", daemon=True)
    beating = False
    try:
        wait_for_database(context)
        heart.start()
        beating = True
        logger.info("started")
        body(context.settings, context)
        if not context.stop.is_set():
            raise RuntimeError("the role ended although nobody asked it to")
        logger.info("stopped")
        return int(ExitCode.OK)
    except Stopped:
        logger.info("stopped")
        return int(ExitCode.OK)
    except PiwheelsError as error:
        logger.error("%s", error)
        return int(error.exit_code)
    except Exception:
        logger.exception("a fault in piwheels itself")
        return int(ExitCode.INTERNAL)
    finally:
        context.stop.set()
        if beating:
            heart.join(BEAT)
        context.close()


def wait_for_database(context: Context) -> None:
    """Return once the database is there and has this code's schema; Stopped if told to stop before."""
    told = None
    while True:
        wrong = migrate.mismatch(in_transaction(context.engine, migrate.schema_version, stop=context.stop))
        if wrong is None:
            return
        if wrong != told:
            logger.warning("waiting: %s", wrong)
            told = wrong
        if context.stop.wait(BEAT):
            raise Stopped("stopped while waiting for the database's schema")


def _beat_until_stopped(context: Context) -> None:
    """The heartbeat's thread, on a connection of its own: a role whose pool is busy is still alive."""
    engine = make_engine(context.settings.database, name=f"{context.name} heartbeat")
    try:
        while True:
            _beat(engine, context)
            if context.stop.wait(BEAT):
                break
        with suppress(DatabaseError):
            in_transaction(engine, lambda conn: roles.leave(conn, context.name), deadline=LEAVE)
    finally:
        engine.dispose()


def _beat(engine: Engine, context: Context) -> None:
    try:
        with engine.begin() as conn:
            roles.beat(conn, context.name, started=context.started, state=context.state)
    except Exception as error:
        if not is_passing(error):
            raise
        logger.debug("no heartbeat: %s", describe(error))
