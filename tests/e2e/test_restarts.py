# SPDX-License-Identifier: BSD-3-Clause
"""piw-master restarted ten times during ten builds of real piw-slaves: none is built twice, none is lost."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from piwheels.db import slaves
from piwheels.db.tables import builds, files, jobs
from piwheels.master import targets
from piwheels.settings import DatabaseSettings
from piwheels.wire import keys
from tests.e2e import held_job
from tests.e2e.running import clean_environ, free_port
from tests.integration import dispatch_world as world

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BUILDS = RESTARTS = 10
SLAVES = 2
PATIENCE = 60.0  #: seconds


class Farm:
    """A master that comes and goes, builders that stay, and what is to be built."""

    def __init__(self, engine: Engine, database: DatabaseSettings, folder: Path, stack: ExitStack) -> None:
        self.engine, self.folder, self._stack = engine, folder, stack
        own = keys.load_or_make(folder / "keys" / "master.key")
        builders, taken = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self._master = {
            "database.url": database.url,
            "dispatch.builders": builders,
            "dispatch.files": taken,
            "dispatch.min_free": 0,
            **{f"paths.{name}": folder / name for name in ("output", "store", "run", "keys")},
        }
        self._slave = {
            "slave.builders": builders,
            "slave.files": taken,
            "slave.master_key": own.public,
            "slave.poll": 0.1,
            "slave.min_free": 0,
            "slave.sandbox": "off",  # nothing strange is run
        }
        self._process: subprocess.Popen[bytes] | None = None
        with engine.begin() as conn:
            self._target = world.add_target(conn, targets.native())
        stack.callback(self.end, signal.SIGKILL)

    def queue(self, count: int) -> None:
        """So many things to build."""
        with self.engine.begin() as conn:
            for number in range(count):
                world.add_job(conn, world.add_release(conn, f"held-{number}", "1.0"), self._target)

    def hire(self, name: str) -> None:
        """Start a builder, which lives until the test ends."""
        pair = keys.load_or_make(self.folder / "keys" / f"{name}.key")
        with self.engine.begin() as conn:
            slaves.enrol(conn, pair.public, label=name)
        own = {"slave.key": self.folder / "keys" / f"{name}.key", "slave.work": self.folder / f"work-{name}"}
        process = self._run(["-c", held_job.BUILDER], self._slave | own, name)
        self._stack.callback(process.wait, 10)
        self._stack.callback(process.kill)

    def start(self) -> None:
        """Start the master."""
        self._process = self._run(["-m", "piwheels.master.cli", "dispatch"], self._master, "master")

    def end(self, how: signal.Signals) -> None:
        """End it so; asked kindly, it ends well."""
        if self._process is not None:
            self._process.send_signal(how)
            assert self._process.wait(20) == (0 if how == signal.SIGTERM else -how)
            self._process = None

    def words(self) -> str:
        """What all of them said, for a test that fails."""
        return "".join(f"--- {log.name}\n{log.read_text()[-6000:]}\n" for log in sorted(self.folder.glob("*.log")))

    def _run(self, command: list[str], settings: dict[str, object], name: str) -> "subprocess.Popen[bytes]":
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        with (self.folder / f"{name}.log").open("ab") as log:
            environ = clean_environ() | {"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))}
            return subprocess.Popen([sys.executable, *command, *words], cwd=ROOT, stdout=log, stderr=log, env=environ)


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings) -> Iterator[Farm]:
    folder = Path(tempfile.mkdtemp(prefix="piw-e2e-", dir="/tmp"))  # short: sockets go inside
    (folder / "keys").mkdir(mode=0o700)
    try:
        with ExitStack() as stack:
            made = Farm(database, database_settings, folder, stack)
            yield made
            print(made.words())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_ten_restarts_during_ten_builds(farm: Farm) -> None:
    """Before each restart all builders are at work, and one of their builds ends around it: while the master is asked
    to end or killed, so that it may be anywhere between BUILT and DONE; while there is none; or after it is back."""
    farm.queue(BUILDS)
    farm.start()
    for number in range(SLAVES):
        farm.hire(f"slave-{number}")
    folder = farm.folder
    for number in range(RESTARTS):
        at_work = min(number + SLAVES, BUILDS)
        world.wait_for(
            lambda at_work=at_work: len(held_job.begun(folder)) >= at_work, "builders at work", timeout=PATIENCE
        )  # type: ignore[misc]
        package = held_job.begun(folder)[number]
        if number % 3 == 0:
            held_job.let_go(folder, package)
        farm.end(signal.SIGKILL if number % 2 else signal.SIGTERM)
        if number % 3 == 1:
            held_job.let_go(folder, package)
        farm.start()
        if number % 3 == 2:
            held_job.let_go(folder, package)
    world.wait_for(lambda: not world.count(farm.engine, jobs), "the last build", timeout=PATIENCE)
    farm.end(signal.SIGTERM)

    names = sorted(f"held-{number}" for number in range(BUILDS))
    assert sorted(name.lower() for name in held_job.begun(folder)) == names, "each was begun once"
    with farm.engine.begin() as conn:
        recorded = [(row.reason, row.has_log) for row in conn.execute(select(builds))]
        assert recorded == [(None, True)] * BUILDS, "each is recorded once, as built"
        assert len({row.release_id for row in conn.execute(select(builds))}) == BUILDS
        made = sorted(conn.execute(select(files.c.filename)).scalars())
    assert [name.lower() for name in made] == sorted(f"{name.replace('-', '_')}-1.0-py3-none-any.whl" for name in names)
