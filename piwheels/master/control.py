# SPDX-License-Identifier: BSD-3-Clause
"""The control role: carries out operators' commands and publishes the farm's status, over two local sockets.

``control`` (REP) takes one command a message (piwheels.master.commands); ``status`` (PUB) sends a snapshot (JSON, no
topic) about twice a second. Both lie in paths.run and are open to their owner and group alone. The role keeps nothing:
what an operator wants is in the database, and the roles it concerns are woken.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import zmq
from sqlalchemy import Connection

from piwheels.db import operator, slaves, status
from piwheels.db.engine import in_transaction
from piwheels.errors import DatabaseError, PeerError, UnavailableError
from piwheels.master import commands
from piwheels.master.commands import Command, Verb
from piwheels.master.policy import policy_of
from piwheels.master.role import Context
from piwheels.processes import only_one
from piwheels.settings import Settings
from piwheels.vocabulary import SlaveWish

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL = 0.5  #: seconds between two snapshots
VERDICTS_INTERVAL = 2.0  #: seconds between two rounds of asking the planner about the watched projects
PATIENCE = 2.0  #: seconds that a command or a snapshot waits for the database before it says that it is away
WISHES = {
    Verb.SLAVE_PAUSE: SlaveWish.PAUSE,
    Verb.SLAVE_RESUME: SlaveWish.RUN,
    Verb.SLAVE_STOP: SlaveWish.STOP,
}


def run(settings: Settings, context: Context) -> None:
    """The role's body: until told to stop."""
    folder = settings.paths.run
    zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with only_one(folder / "control.lock", what="the control role"):
            ask = bind(zmq_context, zmq.REP, folder / "control")
            tell = bind(zmq_context, zmq.PUB, folder / "status")
            Control(context, ask=ask, tell=tell).loop()
    finally:
        zmq_context.destroy(linger=0)


def bind(context: "zmq.Context[zmq.Socket[bytes]]", kind: int, path: Path) -> "zmq.Socket[bytes]":
    """A local socket for owner and group only, from the moment that it exists."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, commands.MAX_COMMAND)
    socket.setsockopt(zmq.SNDHWM, 10)  # a monitor that does not read misses snapshots, and costs us nothing
    before = os.umask(0o117)
    try:
        socket.bind(f"ipc://{path}")
    except zmq.ZMQError as error:
        raise UnavailableError(f"cannot make the socket {path}: {error}; is paths.run too long or missing?") from error
    finally:
        os.umask(before)
    return socket


class Control:
    """The role at work, one thread."""

    def __init__(self, context: Context, *, ask: "zmq.Socket[bytes]", tell: "zmq.Socket[bytes]") -> None:
        self._context = context
        self._ask = ask
        self._tell = tell
        self._verdicts: list[dict[str, Any]] = []
        self._verdicts_due = 0.0
        self._status_due = 0.0
        self._answered = 0

    def loop(self) -> None:
        """Answer and publish until told to stop."""
        while not self._context.stop.is_set():
            wait = max(0.0, self._status_due - time.monotonic())
            if self._ask.poll(int(wait * 1000)):
                self._answer_one()
            if time.monotonic() >= self._status_due:
                self._publish()
                self._status_due = time.monotonic() + INTERVAL

    def _answer_one(self) -> None:
        frames = self._ask.recv_multipart()
        try:
            if len(frames) != 1:
                raise PeerError("a command is one frame")
            reply = self._obey(commands.decode(frames[0]))
        except (PeerError, DatabaseError) as error:
            reply = commands.answer(False, str(error))
        self._ask.send(reply)
        self._answered += 1
        self._context.report(commands=self._answered)

    def _obey(self, command: Command) -> bytes:
        if command.verb is Verb.STATUS:
            return commands.answer(True, "", status=self._snapshot())
        ok, message = self._work(lambda conn: obey(conn, command))
        logger.info("command %s: %s", command.verb, message)
        self._status_due = 0.0  # whoever watches sees it at once
        return commands.answer(ok, message)

    def _publish(self) -> None:
        try:
            snapshot = self._snapshot()
        except DatabaseError as error:
            snapshot = {"at": datetime.now(UTC).isoformat(), "problem": str(error)}
        self._tell.send(json.dumps(snapshot).encode(), zmq.NOBLOCK)

    def _snapshot(self) -> dict[str, Any]:
        if time.monotonic() >= self._verdicts_due:
            self._verdicts = self._work(partial(status.verdicts, policy=policy_of(self._context.settings)))
            self._verdicts_due = time.monotonic() + VERDICTS_INTERVAL
        found = self._work(lambda conn: status.snapshot(conn, now=datetime.now(UTC)))
        return {
            **found,
            "problem": None,
            "verdicts": self._verdicts,
            "served_upstream": status.served_upstream(self._verdicts),
        }

    def _work(self, work: Callable[[Connection], T]) -> T:
        return in_transaction(self._context.engine, work, deadline=PATIENCE, stop=self._context.stop)


def obey(conn: Connection, command: Command) -> tuple[bool, str]:
    """Do what a command says; whether it was done, and one line for the operator."""
    if command.verb in (Verb.PAUSE, Verb.RESUME):
        paused = command.verb is Verb.PAUSE
        changed = operator.pause(conn, paused)
        how = "paused: builds in hand are finished, none begins" if paused else "running"
        return True, f"the farm is {'' if changed else 'already '}{how}"
    if command.verb in WISHES:
        return _steer(conn, command)
    found = operator.cancel_build(conn, command.project, command.version, target=command.target)
    what = f"{command.project} {command.version} for {command.target}"
    return found, f"the builder of {what} is told to drop it" if found else f"{what} is not being built"


def _steer(conn: Connection, command: Command) -> tuple[bool, str]:
    found = slaves.find(conn, command.slave)
    if len(found) != 1:
        what = "no builder is" if not found else f"{len(found)} builders are"
        return False, f"{what} called {command.slave}; piw-monitor slaves lists them"
    slave = found[0]
    slaves.set_wish(conn, slave.id, WISHES[command.verb])
    how = {
        Verb.SLAVE_PAUSE: "takes no more jobs",
        Verb.SLAVE_RESUME: "takes jobs",
        Verb.SLAVE_STOP: "is told to leave",
    }[command.verb]
    return True, f"builder {slave.id} {slave.label} {how}".replace("  ", " ")
