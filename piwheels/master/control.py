# SPDX-License-Identifier: BSD-3-Clause
"""The control role: carries out operators' commands and publishes the farm's status, over two local sockets.

``control`` (for REQ) takes one command a message (piwheels.master.commands); ``status`` (PUB) sends a snapshot (JSON,
no topic) about twice a second. Both lie in paths.run and are open to their owner and group alone. The role keeps
nothing: what an operator wants is in the database, and the roles it concerns are woken.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import zmq
from packaging.utils import canonicalize_name
from sqlalchemy import Connection

from piwheels.db import operator, slaves, status
from piwheels.db.builds import RetryPolicy
from piwheels.db.engine import in_transaction
from piwheels.db.operator import Running
from piwheels.errors import DatabaseError, PeerError, UnavailableError
from piwheels.master import commands, envelope, live_logs
from piwheels.master.commands import Command, Verb
from piwheels.master.policy import policy_of, retry_policy_of
from piwheels.master.role import Context
from piwheels.master.steering import Answer, steer
from piwheels.processes import only_one
from piwheels.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL = 0.5  #: seconds between two snapshots
VERDICTS_INTERVAL = 2.0  #: seconds between two rounds of asking the planner about the watched projects
MAX_SUBSCRIPTION = 64  #: bytes; ZMTP's own greeting needs 40 of them
PATIENCE = 2.0  #: seconds that a command or a snapshot waits for the database before it says that it is away


def run(settings: Settings, context: Context) -> None:
    """The role's body: until told to stop."""
    folder = settings.paths.run
    zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with only_one(folder / "control.lock", what="the control role"):
            ask = bind(zmq_context, zmq.ROUTER, folder / "control")
            tell = bind(zmq_context, zmq.PUB, folder / "status")
            Control(context, ask=ask, tell=tell).loop()
    finally:
        zmq_context.destroy(linger=0)


def bind(context: "zmq.Context[zmq.Socket[bytes]]", kind: int, path: Path) -> "zmq.Socket[bytes]":
    """A local socket for owner and group only, from the moment that it exists."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    # A publisher remembers every subscription, byte by byte; there is one to have, which is empty.
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION if kind == zmq.PUB else commands.MAX_COMMAND)
    socket.setsockopt(zmq.RCVHWM, 16)  # of each peer; one that asks waits for its answer
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
        if (request := envelope.take(self._ask)) is None:
            return
        asker, frames = request
        try:
            if len(frames) != 1:
                raise PeerError("a command is one frame")
            reply = self._obey(commands.decode(frames[0]))
        except (PeerError, DatabaseError) as error:
            reply = commands.answer(False, str(error))
        envelope.answer(self._ask, asker, reply)
        self._answered += 1
        self._context.report(commands=self._answered)

    def _obey(self, command: Command) -> bytes:
        if command.verb is Verb.STATUS:
            return commands.answer(True, "", status=self._snapshot())
        if command.verb is Verb.LOG:
            return self._log(command)
        policy = retry_policy_of(self._context.settings)
        said = self._work(lambda conn: obey(conn, command, policy=policy))
        logger.info("command %s: %s", command.verb, said.message)
        self._status_due = 0.0  # whoever watches sees it at once
        return commands.answer(said.ok, said.message, **said.more)

    def _log(self, command: Command) -> bytes:
        build = self._work(lambda conn: running(conn, command.build))
        excerpt = live_logs.read(self._context.settings.paths.run, build.token, int(command.position))
        position = int(command.position) if excerpt is None else excerpt.end
        return commands.answer(
            True,
            f"builder {build.slave_id} {build.label} builds {build}",
            token=build.token,
            start=position if excerpt is None else excerpt.start,
            position=position,
            text="" if excerpt is None else excerpt.text,
        )

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


def obey(conn: Connection, command: Command, *, policy: RetryPolicy) -> Answer:
    """Do what a command says."""
    if command.verb in (Verb.PAUSE, Verb.RESUME):
        paused = command.verb is Verb.PAUSE
        changed = operator.pause(conn, paused)
        how = "paused: builds in hand are finished, none begins" if paused else "running"
        return Answer(True, f"the farm is {'' if changed else 'already '}{how}")
    if command.slave:
        return steer(conn, command, policy=policy)
    found = operator.cancel_build(conn, command.project, command.version, target=command.target)
    what = f"{command.project} {command.version} for {command.target}"
    return Answer(found, f"the builder of {what} is told to drop it" if found else f"{what} is not being built")


def running(conn: Connection, build: str) -> Running:
    """The build in hand that a builder's name or a project's name means; PeerError if that is not exactly one."""
    ids = [slave.id for slave in slaves.find(conn, build)]
    found = operator.running(conn, slave_ids=ids) if ids else []
    found = found or operator.running(conn, project=canonicalize_name(build))
    if len(found) > 1:
        raise PeerError(f"{build} is being built {len(found)} times: name one of the builders, {_holders(found)}")
    if not found:
        raise PeerError(f"builder {ids[0]} is building nothing" if ids else f"{build} is not being built")
    return found[0]


def _holders(found: Sequence[Running]) -> str:
    return ", ".join(str(one.slave_id) for one in found[:20])
