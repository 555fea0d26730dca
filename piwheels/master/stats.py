# SPDX-License-Identifier: BSD-3-Clause
"""The stats role: counts the downloads that piw-logger hands over, and writes packages.json and the metadata dump.

It owns the socket ``stats`` in the run directory. Batches and answers are described in
:mod:`piwheels.logger.batches`; a batch is answered after the commit that counted it.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path

import zmq
from sqlalchemy import Connection

from piwheels.db import downloads
from piwheels.db.engine import in_transaction
from piwheels.durable import sync_directory
from piwheels.errors import DatabaseError, PeerError
from piwheels.logger import batches
from piwheels.logger.batches import Answer, Batch
from piwheels.logs import RateLimited
from piwheels.master import envelope
from piwheels.master.dump import Dumper
from piwheels.master.role import Context
from piwheels.processes import only_one
from piwheels.settings import Settings
from piwheels.site.paths import PACKAGES_JSON

log = logging.getLogger(__name__)
peers = RateLimited(log, per=timedelta(minutes=1))

POLL_MILLISECONDS = 500
REST = 10  #: packages.json is written no more often than every so many times as long as writing took
FORGET_SECONDS = 3600.0
ROWS_AT_ONCE = 1000  #: of packages.json that are put together in memory


def run(settings: Settings, context: Context) -> None:
    """The role's body: until told to stop."""
    zmq_context = zmq.Context()
    dumper = Dumper(settings, context)
    dumper.start()
    run = settings.paths.run
    try:
        with only_one(run / "stats.lock", what="the stats role"):
            Stats(settings, context, socket=_bind(zmq_context, run / "stats")).loop()
    finally:
        zmq_context.destroy(linger=0)
        context.stop.set()  # on the way out by an error it is not set yet
        dumper.join()


def _bind(context: zmq.Context[zmq.Socket[bytes]], path: Path) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, batches.LONGEST_MESSAGE)
    socket.setsockopt(zmq.RCVHWM, 16)  # of each logger; one waits for its answer before it sends on
    before = os.umask(0o117)  # owner and group only, from the moment that it exists
    try:
        socket.bind(f"ipc://{path}")
    finally:
        os.umask(before)
    return socket


class Stats:
    """Answers loggers and keeps packages.json up to date."""

    def __init__(self, settings: Settings, context: Context, *, socket: zmq.Socket[bytes]) -> None:
        self._context = context
        self._engine = context.engine
        self._socket = socket
        self._packages = Packages(settings.paths.output / PACKAGES_JSON, interval=settings.stats.interval)
        self._counted = self._ignored = self._refused = 0
        self._forget_at = time.monotonic() + FORGET_SECONDS

    def loop(self) -> None:
        """Work until told to stop."""
        while not self._context.stop.is_set():
            try:
                if self._socket.poll(POLL_MILLISECONDS):
                    self._answer_one()
                self._write_packages()
                self._forget_loggers()
            except (
                DatabaseError
            ) as error:  # away for long, or we are told to stop; whatever was not answered comes again
                if not self._context.stop.is_set():
                    log.warning("%s", error)

    def _answer_one(self) -> None:
        if (request := envelope.take(self._socket)) is not None:
            asker, frames = request
            envelope.answer(self._socket, asker, batches.encode_answer(self._answer(frames)))

    def _answer(self, frames: list[bytes]) -> Answer:
        try:
            if len(frames) != 1:
                raise PeerError("a batch that is not one frame")
            batch = batches.decode_batch(frames[0])
        except PeerError as error:
            self._refused += 1
            peers.warning("batch", f"refused from a logger: {error}")
            return Answer(0, error=f"refused: {error}")
        result = in_transaction(self._engine, lambda conn: _count(conn, batch), stop=self._context.stop)
        if not result.repeated:
            self._counted += result.counted
            self._ignored += result.ignored
            self._packages.changed |= result.counted > 0
            self._context.report(counted=self._counted, ignored=self._ignored, refused=self._refused)
        return Answer(batch.number, counted=result.counted)

    def _write_packages(self) -> None:
        now = time.monotonic()
        if now < self._packages.next_look:
            return
        today = datetime.now(UTC).date()
        in_transaction(self._engine, lambda conn: self._packages.update(conn, today=today), stop=self._context.stop)
        took = time.monotonic() - now
        self._packages.next_look = now + max(self._packages.interval.total_seconds(), REST * took)

    def _forget_loggers(self) -> None:
        if time.monotonic() < self._forget_at:
            return
        self._forget_at = time.monotonic() + FORGET_SECONDS
        now = datetime.now(UTC)
        in_transaction(self._engine, lambda conn: downloads.forget_loggers(conn, now=now), stop=self._context.stop)


def _count(conn: Connection, batch: Batch) -> downloads.Counted:
    rows = [
        downloads.Row(
            at=one.at,
            project=one.project,
            filename=one.filename,
            arch=one.agent.arch,
            distro=one.agent.distro,
            python=one.agent.python,
            installer=one.agent.installer,
        )
        for one in batch.downloads
    ]
    return downloads.count_batch(conn, batch.logger, batch.number, rows=rows, now=datetime.now(UTC))


@dataclass(slots=True)
class Packages:
    """packages.json: every project we know with its downloads of 30 days and of all time."""

    path: Path
    interval: timedelta
    changed: bool = True  #: something was counted since it was written; True at first, since we cannot know
    next_look: float = 0.0  #: monotonic
    _shows: tuple[date, tuple[int, int]] | None = field(default=None, init=False)

    def update(self, conn: Connection, *, today: date) -> None:
        """Write it if there is news: downloads, projects, or another day (30 days move on)."""
        shows = (today, downloads.newest_project(conn))
        if not self.changed and shows == self._shows:
            return
        write_packages(self.path, downloads.totals(conn, today=today))
        self.changed, self._shows = False, shows


def write_packages(path: Path, rows: Iterable[tuple[str, int, int]]) -> bool:
    """Write packages.json atomically, if its bytes change; returns whether they did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")  # one stats role writes here, so a leftover of a killed one is replaced
    with new.open("wb") as file:
        for part in _json_parts(rows):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    if _same(new, path):
        new.unlink()
        return False
    new.replace(path)
    sync_directory(path.parent)
    return True


def _json_parts(rows: Iterable[tuple[str, int, int]]) -> Iterator[bytes]:
    """One array, a line for each row."""
    encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each row
    yield b"["
    separator = "\n"
    lines = map(encode, rows)
    while part := list(islice(lines, ROWS_AT_ONCE)):
        yield (separator + ",\n".join(part)).encode()
        separator = ",\n"
    yield b"\n]\n"


def _same(one: Path, other: Path) -> bool:
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
        with one.open("rb") as a, other.open("rb") as b:
            while block := a.read(1 << 16):
                if block != b.read(1 << 16):
                    return False
    except FileNotFoundError:
        return False
    return True
