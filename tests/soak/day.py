# SPDX-License-Identifier: BSD-3-Clause
"""A day: the simulated PyPI changes and misbehaves, its journal comes and goes, and the feed that follows it is killed
with -9 again and again; in the end the database is equal to PyPI's truth.

The feed is the role as ``piw-master feed`` runs it, in a process of its own.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

from sqlalchemy import func, select, update

from piwheels.db import changes
from piwheels.db.tables import changes as change_table
from piwheels.db.tables import projects
from tests.integration.feed_world import World
from tests.integration.replay import different
from tests.simulator.script import play_step, random_day
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
SETTLING = 150.0  #: seconds that the feed may take to put everything right once nothing goes wrong any more
STARTING = 30.0  #: seconds that a feed may take to begin
NEVER_THERE = timedelta(minutes=11)  #: after so long a project that was heard of and is not there is forgotten


@dataclass(frozen=True, slots=True)
class Day:
    """What is to happen."""

    seed: int
    events: int
    seconds: float  #: that it takes until the last event
    kills: tuple[float, float] = (0.1, 4.0)  #: seconds that a feed works before it is killed, at least and at most
    faults: float = 0.05  #: how many of the answers go wrong
    refusals: int = 8  #: how often the journal is switched off
    projects: int = 200


@dataclass(slots=True)
class Report:
    """What happened."""

    events: int = 0
    killed: int = 0  #: feeds, in the midst of it
    refused: int = 0  #: times that the journal was switched off
    asked: int = 0  #: requests
    wrong: int = 0  #: of them, with a status that is none of 200 and 304; other faults are not counted
    projects: int = 0
    settled: float = 0.0  #: seconds from the last fault to the last difference

    def __str__(self) -> str:
        return (
            f"{self.events} events of {self.projects} projects that are left; {self.killed} feeds killed, the journal "
            f"switched off {self.refused} times; {self.asked} requests, {self.wrong} refused or broken; "
            f"all equal {self.settled:.1f} s after the last fault"
        )


def live(world: World, day: Day, say: Callable[[str], None] = lambda _: None) -> Report:
    """Live through it. Raises AssertionError."""
    return _Life(world, day, say).live()


class _Life:
    def __init__(self, world: World, day: Day, say: Callable[[str], None]) -> None:
        self.world, self.day, self.say = world, day, say
        self.rng = Random(day.seed)
        self.report = Report()
        self.over = threading.Event()  #: the day is
        self.serial = 0
        with world.engine.begin() as conn:
            changes.advance(conn, world.pypi.serial, source="test")

    def live(self) -> Report:
        pypi = self.world.pypi
        pypi.chaos(Random(self.day.seed), self.day.faults)
        failed: list[BaseException] = []
        thread = threading.Thread(target=self._happen, args=(failed,), name="the day")
        with tempfile.TemporaryFile() as log:
            thread.start()
            try:
                while not self.over.is_set():
                    self._one_feed(log.fileno())
            finally:
                self.over.set()
                thread.join()
            if failed:
                raise failed[0]
            pypi.clear_faults()
            pypi.journal_enabled = True
            self._settle(log.fileno())
            log.seek(0)
            said = log.read().decode(errors="replace")
        assert "Traceback" not in said, said[said.index("Traceback") :][:3000]
        return self._reported()

    # PyPI's side

    def _happen(self, failed: list[BaseException]) -> None:
        try:
            steps = random_day(self.day.seed, projects=self.day.projects, events=self.day.events)
            pace = self.day.seconds / len(steps)
            turns = {len(steps) * n // (2 * self.day.refusals + 1) for n in range(1, 2 * self.day.refusals + 1)}
            for number, step in enumerate(steps):
                if self.over.wait(pace):
                    return
                play_step(self.world.pypi, step)
                if number in turns:
                    self._turn()
        except BaseException as error:
            failed.append(error)
        finally:
            self.over.set()

    def _turn(self) -> None:
        pypi = self.world.pypi
        pypi.journal_enabled = not pypi.journal_enabled
        self.report.refused += not pypi.journal_enabled

    # The farm's side

    def _one_feed(self, log: int) -> None:
        with self._feed(log) as process:
            self._until_it_works()
            self.over.wait(self.rng.uniform(*self.day.kills))
            assert process.poll() is None, f"the feed ended by itself, with status {process.returncode}"
        self.report.killed += 1
        self._check()
        pypi = self.world.pypi
        self.say(f"{pypi.serial - self.serial} serials behind; {self.report.killed} feeds killed")

    def _until_it_works(self) -> None:
        """Until the feed has asked for something: on a busy machine it would else be killed before it began."""
        pypi = self.world.pypi
        asked, deadline = len(pypi.requests), time.monotonic() + STARTING
        while len(pypi.requests) == asked and time.monotonic() < deadline:
            if self.over.wait(0.05):
                return

    @contextmanager
    def _feed(self, log: int) -> Iterator[subprocess.Popen[bytes]]:
        """One that is killed in the end."""
        settings = {
            "database.url": self.world.database.url,
            "upstream.simple_url": self.world.pypi.url,
            "upstream.timeout": "5",
            "feed.poll": "0.3",
            "feed.listing": "0.5",
            "feed.journal_retry": "1",
            "feed.reconcile": "2",
            "feed.disbelief": "20",  # of what is removed while in quarantine, the index says nothing
            "feed.repairs": "60000",
        }
        flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "piwheels.master.cli", "feed", *flags]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield process
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

    def _check(self) -> None:
        """What holds at any moment: the position goes forward, and nothing before it is forgotten."""
        with self.world.engine.begin() as conn:
            serial, applied = changes.position(conn) or 0, changes.applied(conn)
        assert self.serial <= serial <= self.world.pypi.serial
        assert applied <= serial
        self.serial = serial

    def _settle(self, log: int) -> None:
        begun = time.monotonic()
        with self._feed(log):
            try:
                wait_for(self._is_equal, "the database to be equal to PyPI's truth", seconds=SETTLING)
            except AssertionError as error:
                raise AssertionError(f"{error}: {self._differences()}") from None
            self.report.settled = time.monotonic() - begun
            self._wind()
            wait_for(lambda: self.world.waiting() == 0, "everything to be settled", seconds=SETTLING)
            assert self._is_equal(), f"settled, and no more equal: {self._differences()}"

    def _is_equal(self) -> bool:
        with self.world.engine.begin() as conn:
            heard = changes.position(conn) == self.world.pypi.serial
        return heard and self.world.followed()

    def _differences(self) -> str:
        found = different(self.world.ours(), self.world.truth())
        return f"{len(found)} projects differ, such as {list(found.items())[:3]}"

    def _wind(self) -> None:
        """What is doubted is asked for again after up to ten minutes, what failed after up to six hours: not here."""
        doubted_since = change_table.c.doubted_since - NEVER_THERE
        with self.world.engine.begin() as conn:
            conn.execute(update(change_table).values(ready_at=func.now(), doubted_since=doubted_since))

    def _reported(self) -> Report:
        report, pypi = self.report, self.world.pypi
        tally = pypi.tally()
        report.events, report.asked = len(pypi.events), tally.total()
        report.wrong = sum(count for status, count in tally.items() if status not in (200, 301, 304))
        with self.world.engine.begin() as conn:
            report.projects = conn.execute(select(func.count()).select_from(projects)).scalar_one()
        return report
