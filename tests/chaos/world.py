# SPDX-License-Identifier: BSD-3-Clause
"""The farm under chaos: PostgreSQL, dispatch, two publishers and builders, as processes; what they build; its books."""

import shutil
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, func, insert, select, tuple_, update

from piwheels import settings as declarations
from piwheels.db import migrate, pages, planning, slaves, targets
from piwheels.db.engine import in_transaction, make_engine
from piwheels.db.tables import builds, files, jobs, news, projects, published, releases, upstream_files
from piwheels.db.tables import pages as page_table
from piwheels.db.tables import slaves as slave_table
from piwheels.db.tables import targets as target_table
from piwheels.master.dispatch_sweep import SHARDS, Sweeper
from piwheels.master.dispatch_work import Clerk
from piwheels.master.policy import policy_of
from piwheels.master.store import Store
from piwheels.master.targets import native
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings, Settings
from piwheels.versions import sort_key
from piwheels.vocabulary import Outcome, PageKind, UpstreamKind
from piwheels.wire import keys
from tests.chaos import auditor
from tests.chaos.plan import Plan
from tests.chaos.proxy import lines_to
from tests.chaos.unit import Unit
from tests.e2e.running import free_port
from tests.files_server import serve
from tests.sdists import make_sdist

EACH = 3  #: releases of a project
BAD = 5  #: one project in so many cannot be built
NO_INDEX = "http://127.0.0.1:9/simple/"  #: nobody listens there; nothing is to be asked for


@dataclass
class World:
    """As a context manager it is ended, and nothing of it is left."""

    plan: Plan
    keep: bool = False  #: the directory, if ``failed``
    failed: bool = False
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="piw-chaos-", dir="/tmp")))
    units: list[Unit] = field(default_factory=list)
    releases: list[auditor.Release] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)
        self._stack.callback(self._remove)
        try:
            self._prepare()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for unit in self.units:
            unit.kill()
        self._stack.close()

    def _remove(self) -> None:
        if not (self.keep and self.failed):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        self.cluster = self._stack.enter_context(Cluster(self.folder / "pg", fast=True))
        database = DatabaseSettings(url=self.cluster.url)
        migrate.create_database(database)
        migrate.upgrade(database)
        for name in ("keys", "run", "www", "sdists"):
            (self.folder / name).mkdir(mode=0o700 if name == "keys" else 0o755)
        master = keys.load_or_make(self.folder / "keys" / "master.key").public
        builders, taken = free_port(), free_port()
        given: dict[str, object] = {
            **{f"paths.{name}": self.folder / place for name, place in _PLACES.items()},
            "database.url": database.url,
            "upstream.simple_url": NO_INDEX,
            "dispatch.builders": f"tcp://127.0.0.1:{builders}",
            "dispatch.files": f"tcp://127.0.0.1:{taken}",
            "dispatch.strikes": 100,  # what is lost a dozen times is still to be built
            "dispatch.retry_after": 0.1,
            "dispatch.lease": 8,
            "dispatch.min_free": 0,
        }
        self.settings: Settings = declarations.load(
            None, overrides=[f"{name}={value}" for name, value in given.items()]
        )
        self.engine = make_engine(database, name="chaos")
        self._stack.callback(self.engine.dispose)
        self.lines = self._stack.enter_context(lines_to(builders, taken))
        self._hire(given, master)
        in_transaction(self.engine, self._enrol)
        server = self._stack.enter_context(serve(self.folder / "sdists"))
        self._release(server)

    def _hire(self, given: dict[str, object], master: str) -> None:
        def unit(
            name: str, kind: str, module: str, settings: dict[str, object], *arguments: str, niceness: int = 0
        ) -> None:
            self.units.append(Unit(name, kind, module, settings, self.folder / f"{name}.log", arguments, niceness))

        unit("dispatch", "dispatch", "piwheels.master.cli", given, "dispatch")
        for index in range(1, self.plan.publishers + 1):
            unit(f"publish-{index}", "publish", "piwheels.master.cli", given, "publish", "--index", str(index))
        for number in range(self.plan.slaves):
            name = f"slave-{number}"
            module = "piwheels.slave.cli" if number < self.plan.real else "tests.chaos.quick_slave"
            line = self.lines.lay(name)
            own: dict[str, object] = {
                "builders": f"tcp://127.0.0.1:{line.builders.port}",
                "files": f"tcp://127.0.0.1:{line.files.port}",
                "master_key": master,
                "key": self.folder / "keys" / f"{name}.key",
                "label": name,
                "work": self.folder / f"work-{name}",
                "poll": 0.3,
                "busy_timeout": 4,
                "min_free": 0,
                "sandbox": "off",  # what is built here is ours
            }
            settings = {f"slave.{key}": value for key, value in own.items()}
            unit(name, "slave", module, settings, niceness=10 if number < self.plan.real else 0)  # pip takes a core

    def _enrol(self, conn: Connection) -> None:
        targets.add(conn, native())
        for unit in self.units:
            if unit.kind == "slave":
                slaves.enrol(conn, keys.load_or_make(Path(str(unit.settings["slave.key"]))).public, label=unit.name)

    def _release(self, server: str) -> None:
        """Have as many releases as are to be built."""
        for number in range(self.plan.builds):
            which = number // EACH
            project = f"{'bad' if which % BAD == BAD - 1 else 'good'}-{which}"
            self.releases.append(auditor.Release(project, f"1.{number % EACH}", good=not project.startswith("bad")))
        for start in range(0, len(self.releases), 100):
            batch = self.releases[start : start + 100]
            in_transaction(self.engine, lambda conn, batch=batch: self._insert(conn, batch, server))  # type: ignore[misc]

    def _insert(self, conn: Connection, batch: list[auditor.Release], server: str) -> None:
        numbers = []
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        for release in batch:
            project_id = conn.scalar(select(projects.c.id).where(projects.c.name == release.project))
            if project_id is None:
                row = insert(projects).values(name=release.project, display_name=release.project)
                project_id = conn.execute(row.returning(projects.c.id)).scalar_one()
            release_id = conn.execute(
                insert(releases)
                .values(
                    project_id=project_id, version=release.version, sort_key=sort_key(release.version), released=moment
                )
                .returning(releases.c.id)
            ).scalar_one()
            code = "name = wheel(out)" if release.good else "raise SystemExit('it cannot be built')"
            sdist = make_sdist(self.folder / "sdists", code, project=release.project, version=release.version)
            conn.execute(
                insert(upstream_files).values(
                    release_id=release_id,
                    filename=sdist.path.name,
                    kind=UpstreamKind.SDIST,
                    size=sdist.path.stat().st_size,
                    sha256=bytes.fromhex(sdist.sha256),
                    url=f"{server}/{sdist.path.name}",
                    uploaded=moment,
                )
            )
            numbers.append(release_id)
        planning.replan(conn, numbers, policy=policy_of(self.settings))

    # What is going on

    def done(self, conn: Connection) -> int:
        """How many builds came to their end: all but those that a builder's fault ended."""
        fault = builds.c.reason.in_([*auditor.BLAMELESS])
        return int(conn.scalar(select(func.count()).where(builds.c.reason.is_(None) | ~fault)) or 0)

    def waiting(self, conn: Connection) -> tuple[int, int]:
        """Jobs there are; and stale pages, with news that are to be published."""
        count = select(func.count())
        unpublished = conn.scalar(count.select_from(news).where(news.c.serial.is_(None))) or 0
        stale = conn.scalar(count.select_from(page_table)) or 0
        return int(conn.scalar(count.select_from(jobs)) or 0), int(stale) + int(unpublished)

    def turn_clock(self, conn: Connection, seconds: float) -> bool:
        """Let the database's clock jump: every moment that it compares its clock with is moved the other way. A row
        that one who stands still has locked keeps its own: nobody else can look at it meanwhile. True."""
        step = timedelta(seconds=seconds)
        for table, columns in _MOMENTS.items():
            (key,) = [list(table.primary_key.columns)]
            free = tuple_(*key).in_(select(*key).with_for_update(skip_locked=True))
            conn.execute(update(table).where(free).values({column: table.c[column] - step for column in columns}))
        return True

    def mark_all_stale(self, conn: Connection) -> None:
        """Have every page rendered again."""
        after = ""
        while names := pages.mark_published(conn, after=after):
            after = names[-1]
        for kind in (PageKind.ROOT, PageKind.HOME, PageKind.CHANGES):
            pages.mark_stale(conn, kind, "", "is it the same?")

    def sweep(self) -> int:
        """Remove orphans, as dispatch does in the course of an hour; how many there were."""
        clerk = Clerk(self.engine, Store(self.settings.paths.store), self.settings, threading.Event())
        sweeper = Sweeper(clerk, age=0.0)
        return sum(sweeper.sweep(shard) for shard in range(SHARDS))

    # What is left in the end

    def audit(self) -> list[str]:
        """What the auditor finds."""
        return auditor.audit(in_transaction(self.engine, self._books), self.tree())

    def tree(self) -> auditor.Tree:
        """The disk."""
        paths = self.settings.paths
        return auditor.Tree(auditor.read_folder(paths.output), auditor.read_folder(paths.store))

    def _books(self, conn: Connection) -> auditor.Books:
        release = (projects.c.name, releases.c.version)
        attempts = (
            select(builds, *release, target_table.c.name.label("target"))
            .join(releases, releases.c.id == builds.c.release_id)
            .join(projects, projects.c.id == releases.c.project_id)
            .join(target_table, target_table.c.id == builds.c.target_id)
        )
        wheels = (
            select(files, *release)
            .join(builds, builds.c.id == files.c.build_id)
            .join(releases, releases.c.id == builds.c.release_id)
            .join(projects, projects.c.id == releases.c.project_id)
        )
        return auditor.Books(
            releases=self.releases,
            targets=list(conn.scalars(select(target_table.c.name))),
            builds=[_build(row) for row in conn.execute(attempts)],
            files=[_file(row) for row in conn.execute(wheels)],
            jobs=[str(tuple(row)) for row in conn.execute(select(jobs))],
            pages=[str(tuple(row)) for row in conn.execute(select(page_table))],
            published={row.name: (row.listed, row.files) for row in conn.execute(select(published))},
        )

    def attempts(self) -> dict[str, int]:
        """How many builds ended in what way."""
        with self.engine.begin() as conn:
            found = conn.execute(select(builds.c.reason, func.count()).group_by(builds.c.reason))
            return {"success" if reason is None else reason.value: count for reason, count in found}


_PLACES = {"output": "www", "store": "store", "run": "run", "keys": "keys"}
_MOMENTS: dict[Any, tuple[str, ...]] = {
    jobs: ("lease_started", "lease_expires", "ready_at", "created_at"),
    page_table: ("since", "claimed_until"),
    slave_table: ("last_seen",),
}


def _build(row: Any) -> auditor.Build:
    reason = None if row.reason is None else row.reason.value
    ok = row.outcome is Outcome.SUCCESS
    return auditor.Build(row.id, row.name, row.version, row.target, ok, reason, row.has_log)


def _file(row: Any) -> auditor.File:
    hashes = bytes(row.sha256).hex(), bytes(row.metadata_sha256).hex()
    return auditor.File(row.build_id, row.name, row.version, row.filename, row.size, *hashes)
