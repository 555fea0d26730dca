# SPDX-License-Identifier: BSD-3-Clause
"""A whole farm on one machine, running: its processes in order of need, watched, and ended in order.

The thin shell around farm_story (what is told, when it is done), farm_children (processes) and farm_check.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import FrameType

from packaging.utils import canonicalize_name
from sqlalchemy import Connection, Engine

from piwheels import farm_home, farm_story
from piwheels.db import farm_facts, migrate, status, targets
from piwheels.db import slaves as slave_rows
from piwheels.db.engine import describe, in_transaction, is_passing, make_engine
from piwheels.errors import DatabaseError, ExitCode, UnavailableError
from piwheels.farm_check import Checked, Checker
from piwheels.farm_children import Backoff, Child
from piwheels.farm_home import LOCAL, Home, Wish
from piwheels.farm_screen import Screen, status_line
from piwheels.farm_story import End, Ending, Look, Story
from piwheels.master.policy import policy_of
from piwheels.master.targets import NATIVE, PRESETS, native
from piwheels.postgres import Cluster
from piwheels.processes import set_from_handler
from piwheels.pypi.model import clean
from piwheels.settings import DatabaseSettings, Settings
from piwheels.vocabulary import WatchState
from piwheels.wire import keys

log = logging.getLogger(__name__)

TURN = 0.15  #: seconds between two looks at the processes
LOOK = 0.4  #: seconds between two looks at the database
HOPELESS = 8  #: deaths of a child in a row after which --once gives up
END_BUILDER, END_WEB, END_LOGGER, END_MASTER = 8.0, 3.0, 4.0, 12.0  #: seconds each has to end by itself


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for, beyond settings."""

    wish: Wish
    target: str  #: "native", or a preset's name
    slave: bool  #: whether to run a builder here
    once: bool


@dataclass(frozen=True, slots=True)
class Since:
    """Where the story begins."""

    time: datetime  #: the database's
    build: int  #: the newest build then


class Stop:
    """Ctrl-C and its like: the first ends the farm in order, a second one at once."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.status = int(ExitCode.OK)

    def install(self, *, once: bool) -> None:
        """Catch the signals."""
        self._once = once
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.event.is_set() and number == signal.SIGINT:
            os._exit(ExitCode.INTERRUPTED)  # the kernel tells the children (farm_children, postgres)
        if number == signal.SIGINT or self._once:
            self.status = int(ExitCode.INTERRUPTED)
        set_from_handler(self.event)


class Farm:
    """One farm. ``run`` returns the command's exit status."""

    def __init__(self, home: Home, given: Settings, plan: Plan, *, screen: Screen, stop: Stop) -> None:
        self._home = home
        self._given = given
        self._plan = plan
        self._screen = screen
        self._stop = stop
        self._cluster = Cluster(home.postgres)
        self._revival = Backoff()
        self._revived = time.monotonic()
        self._children: list[Child] = []
        self._pipe: tuple[int, int] | None = None
        self._settings = given
        self._since: Since | None = None

    def run(self) -> int:
        """Start everything, watch it, end it."""
        try:
            self._start()
            return self._watch()
        finally:
            self._end()

    # Starting

    def _start(self) -> None:
        self._screen.say(f"Starting a farm in {self._home.folder}")
        self._cluster.start()
        database = DatabaseSettings(url=self._cluster.url)
        migrate.create_database(database)
        migrate.upgrade(database)
        master = keys.load_or_make(self._home.folder / "keys" / "master.key")
        own = keys.load_or_make(self._home.folder / "keys" / "slave.key")
        self._settings = farm_home.compose(
            self._home, self._given, self._plan.wish, database=database.url, master_key=master.public
        )
        farm_home.write(self._home, self._settings)
        engine = make_engine(self._settings.database, name="piw-farm")
        try:
            self._since = in_transaction(engine, lambda conn: self._furnish(conn, own.public))
        finally:
            engine.dispose()
        self._make_children()
        self._keep_up()

    def _furnish(self, conn: Connection, slave_key: str) -> "Since":
        """Make the rows that a farm needs before its first start, and note where the story begins."""
        wanted = PRESETS[self._plan.target] if self._plan.target != NATIVE else native()
        targets.add(conn, wanted)
        targets.enable_only(conn, [wanted.name])
        if self._plan.slave:
            slave_rows.enrol(conn, slave_key, label=self._settings.slave.label)
        return Since(farm_facts.now(conn), farm_facts.last_build(conn))

    def _make_children(self) -> None:
        config = ("--config", str(self._home.config))
        # Both ends stay open here, so that either process can be started anew and no line is lost.
        self._pipe = reading, writing = os.pipe2(os.O_CLOEXEC)

        def child(name: str, module: str, *arguments: str, stdin: int | None = None, stdout: int | None = None) -> None:
            path = self._home.logs / f"{name}.log"
            made = Child(name=name, module=module, arguments=(*config, *arguments), log=path, stdout=stdout)
            made.stdin = made.stdin if stdin is None else stdin
            self._children.append(made)

        web = ("--root", str(self._home.output), "--host", LOCAL, "--port", str(self._plan.wish.port))
        child("master", "piwheels.master.cli")
        child("web", "piwheels.site.web", *web, "--access-log", "-", stdout=writing)
        child("logger", "piwheels.logger.cli", "--patience", "3", stdin=reading)
        if self._plan.slave:
            child("slave", "piwheels.slave.cli")

    # Running

    def _watch(self) -> int:
        url = self._settings.farm.base_url
        story, ending = Story(url), Ending()
        assert self._since is not None
        with Watcher(self._settings, since=self._since) as watcher:
            last: Look | None = None
            shown_usage = False
            while not self._stop.event.is_set():
                self._keep_up()
                if watcher.fault is not None:
                    raise watcher.fault
                look = watcher.look
                if look is not None and look is not last:
                    last = look
                    for line in story.tell(look):
                        self._screen.say(line)
                    verdict = ending.judge(look)
                    if self._plan.once and verdict is not End.NOT_YET:
                        return self._finish(look, verdict, watcher)
                    if verdict is End.DONE and not shown_usage:
                        shown_usage = True
                        self._say_usage(look)
                self._screen.show(look, status_line(look, url=url))
                if self._plan.once:
                    self._give_up_if_hopeless()
                self._stop.event.wait(TURN)
        return self._stop.status

    def _keep_up(self) -> None:
        """Start whatever died, once its time has come. Main thread only: children die with the thread they are from."""
        now = time.monotonic()
        if not self._cluster.running and now >= self._revival.ready_at:
            self._screen.complain(f"PostgreSQL ended; starting it again (see {self._cluster.log})")
            self._revival.died(now, lived=now - self._revived)
            self._revived = now
            with suppress(UnavailableError):  # said above, with the place where to look; tried again
                self._cluster.start()
        for child in self._children:
            trouble = child.keep_up(now)
            if trouble is not None:
                self._screen.complain(trouble)

    def _give_up_if_hopeless(self) -> None:
        for child in self._children:
            if child.backoff.deaths >= HOPELESS:
                raise UnavailableError(f"{child.name} does not stay up; see the end of {child.log}")

    # Finishing --once

    def _finish(self, look: Look, verdict: End, watcher: "Watcher") -> int:
        if verdict is End.AWAY:
            details = [p.detail for p in look.projects if p.state is not WatchState.FOUND and p.detail]
            raise UnavailableError(details[0] if details else "PyPI cannot be reached")
        if look.away:
            self._screen.say("PyPI does not answer; this is what was known before.")
        wheels, causes = watcher.results(look)
        self._screen.say(f"Nothing is left to do; installing {len(wheels)} built projects from the index with pip")
        index = f"{self._settings.farm.base_url}/simple/"
        checker = Checker(self._home.check, index_url=index, stop=self._stop.event)
        results = self._checked(checker, wheels)
        if self._stop.event.is_set():
            return self._stop.status
        for project, release in farm_story.served_by_pypi(look.projects):
            self._screen.say(f"served by PyPI: {project.spelling} {release.version}")
        bad = [f"{one.wheel.project} {one.wheel.version}: {one.problem}" for one in results if not one.ok]
        for line in (*causes, *bad):
            self._screen.complain(f"failed: {line}")
        self._say_usage(look)
        return int(ExitCode.FAILED if causes or bad else ExitCode.OK)

    def _checked(self, checker: Checker, wheels: Sequence[farm_facts.Wheel]) -> list[Checked]:
        """Check beside the main thread, which goes on keeping the farm up."""
        results: list[Checked] = []
        lines: list[str] = []

        def report(one: Checked) -> None:
            if one.ok:
                names = ", ".join(one.wheel.top_level) or "nothing"
                lines.append(f"installed {one.wheel.filename}, imported {names}")

        worker = threading.Thread(target=lambda: results.extend(checker.check(wheels, report)), name="check")
        worker.start()
        while worker.is_alive() or lines:
            while lines:
                self._screen.say(lines.pop(0))
            if not self._stop.event.is_set():
                self._keep_up()
            worker.join(TURN)
        return results

    def _say_usage(self, look: Look) -> None:
        built = [p for p in look.projects if p.listed]
        if built:
            for line in farm_story.usage(self._settings.farm.base_url, built[0].spelling, runs=not self._plan.once):
                self._screen.say(line)

    # Ending

    def _end(self) -> None:
        self._screen.show(None, "stopping …")
        children = {child.name: child for child in self._children}
        self._end_children([child for name, child in children.items() if name in ("slave", "web")])
        if self._pipe is not None:
            os.close(self._pipe[1])  # the logger reads what is left, and then the end
            if "logger" in children:
                children["logger"].end(time.monotonic() + END_LOGGER, now=time.monotonic())
            os.close(self._pipe[0])
            self._pipe = None
        self._end_children([child for name, child in children.items() if name == "master"])
        self._cluster.stop()
        if self._stop.event.is_set():
            self._screen.say("Stopped. The same command carries on where this one stopped.")

    def _end_children(self, children: Sequence[Child]) -> None:
        for child in children:
            child.signal(signal.SIGTERM)
        until = {"slave": END_BUILDER, "web": END_WEB, "master": END_MASTER}
        begin = time.monotonic()
        for child in children:
            child.end(begin + until[child.name], now=time.monotonic())


class Watcher:
    """Looks at the farm's database again and again, in a thread, so that a slow database freezes nothing."""

    def __init__(self, settings: Settings, *, since: Since) -> None:
        self._engine: Engine = make_engine(settings.database, name="piw-farm")
        self._policy = policy_of(settings)
        self._expected = frozenset(str(canonicalize_name(clean(name, 200))) for name in settings.feed.projects)
        # One look is several queries, which must all see the same moment.
        self._looking = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._stop = threading.Event()
        self._since = since
        self.look: Look | None = None  #: the newest
        self.fault: Exception | None = None  #: of ours; there will be no newer look
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2)
        self._engine.dispose()

    def _work(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            try:
                with self._looking.begin() as conn:
                    self.look = self._look(conn)
            except Exception as error:
                if not is_passing(error):
                    self.fault = error
                    return
                log.debug("no look at the farm: %s", describe(error))
            self._stop.wait(max(LOOK, 4 * (time.monotonic() - begin)))

    def _look(self, conn: Connection) -> Look:
        return Look(
            at=time.monotonic(),
            projects=tuple(farm_facts.watched(conn, since=self._since.time, policy=self._policy)),
            attempts=tuple(farm_facts.attempts_since(conn, self._since.build)),
            running=tuple(farm_facts.running(conn)),
            outstanding=status.outstanding(conn),
            away=farm_facts.upstream_is_away(conn),
            expected=self._expected,
        )

    def results(self, look: Look) -> tuple[list[farm_facts.Wheel], list[str]]:
        """For the end of --once: the wheels to check, and one line for each project that has none and why."""
        every = any(len(project.releases) > 1 for project in look.projects)
        failed = farm_story.failures(look.projects, every=every)
        numbers = [failure.release_id for failure in failed if failure.release_id is not None]

        def read(conn: Connection) -> tuple[list[farm_facts.Wheel], dict[int, farm_facts.Attempt]]:
            return farm_facts.wheels(conn, look.projects), farm_facts.last_failures(conn, numbers)

        try:
            wheels, attempts = in_transaction(self._engine, read, deadline=30)
        except DatabaseError as error:
            raise UnavailableError(str(error)) from error
        return wheels, [_with_cause(failure, attempts) for failure in failed]


def _with_cause(failure: farm_story.Failure, attempts: dict[int, farm_facts.Attempt]) -> str:
    attempt = attempts.get(failure.release_id) if failure.release_id is not None else None
    return f"{failure.line}: {attempt.detail} (build {attempt.id})" if attempt and attempt.detail else failure.line
