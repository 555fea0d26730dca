# SPDX-License-Identifier: BSD-3-Clause
"""A simulator, a database with two targets, and feeds that run between them, for the tests of the feed role."""

import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from packaging.utils import canonicalize_name
from sqlalchemy import Connection, Engine, Select, func, select

from piwheels.db import changes, targets, watches
from piwheels.db.tables import feeds, jobs, pages, projects, releases, upstream_files
from piwheels.db.tables import targets as target_table
from piwheels.db.tables import watches as watch_table
from piwheels.master import feed
from piwheels.master.role import Context
from piwheels.master.targets import PRESETS
from piwheels.pypi.model import MAX_REASON, clean
from piwheels.settings import DatabaseSettings, FeedSettings, Settings, UpstreamSettings
from piwheels.vocabulary import Role, WatchState
from tests.simulator import Simulator
from tests.simulator.truth import TruthProject, TruthRelease
from tests.waiting import wait_for

OLD = datetime(2020, 1, 1, tzinfo=UTC)
SECONDS = 20  #: how long a test waits for what should take a fraction of a second
QUICK = timedelta(seconds=0.1)
NEVER = timedelta(hours=9)


class World:
    """A simulator, a database with two targets, and feeds that run between them."""

    def __init__(self, engine: Engine, database: DatabaseSettings, pypi: Simulator) -> None:
        self.engine, self.database, self.pypi = engine, database, pypi
        with engine.begin() as conn:
            for name in ("bookworm-armhf", "trixie-armhf"):
                targets.add(conn, PRESETS[name])

    def settings(self, *names: str, **feed_settings: Any) -> Settings:
        given = {"interval": NEVER, "reconcile": timedelta(0), "poll": QUICK, "listing": QUICK, **feed_settings}
        return Settings(
            database=self.database,
            upstream=UpstreamSettings(simple_url=self.pypi.url, timeout=timedelta(seconds=5)),
            feed=FeedSettings(projects=names, **given),
        )

    @contextmanager
    def feeding(self, *names: str, **feed_settings: Any) -> Iterator[Context]:
        """A feed in a thread of its own: of a watch list if there are names, else of the journal."""
        settings = self.settings(*names, **feed_settings)
        context = Context(Role.FEED, settings)
        faults: list[BaseException] = []

        def body() -> None:
            try:
                feed.run(settings, context)
            except BaseException as error:
                faults.append(error)

        thread = threading.Thread(target=body, name="feed")
        thread.start()
        try:
            yield context
        finally:
            context.stop.set()
            thread.join(SECONDS)
            context.close()
        assert not thread.is_alive(), "the feed did not stop"
        if faults:
            raise faults[0]

    def settle(self, *names: str, releases: str = "latest") -> dict[str, tuple[WatchState, str]]:
        """Run a feed until nothing is pending."""
        with self.feeding(*names, releases=releases):
            self.wait(lambda: self._has_settled({canonicalize_name(name) for name in names}))
        return self.watches()

    def _has_settled(self, names: AbstractSet[str]) -> bool:
        found = self.watches()
        return found.keys() == names and all(state is not WatchState.PENDING for state, _ in found.values())

    def wait(self, condition: Callable[[], Any], what: str = "the feed") -> Any:
        return wait_for(condition, what, seconds=SECONDS)

    def watches(self) -> dict[str, tuple[WatchState, str]]:
        with self.engine.begin() as conn:
            return {watch.name: (watch.state, watch.detail) for watch in watches.listed(conn)}

    def alpha(self) -> tuple[WatchState, str]:
        return self.watches().get("alpha", (WatchState.PENDING, ""))

    def rows(self) -> list[Any]:
        """Everything that PyPI's truth became, without our own numbers."""
        with self.engine.begin() as conn:
            return [tuple(row) for row in conn.execute(facts())]

    def jobs(self) -> list[tuple[str, str]]:
        """(version, target)"""
        query = (
            select(releases.c.version, target_table.c.name)
            .join(jobs, jobs.c.release_id == releases.c.id)
            .join(target_table, target_table.c.id == jobs.c.target_id)
            .order_by(releases.c.version, target_table.c.rank)
        )
        with self.engine.begin() as conn:
            return [(row.version, row.name) for row in conn.execute(query)]

    def count(self, table: Any) -> int:
        with self.engine.begin() as conn:
            return conn.execute(select(func.count()).select_from(table)).scalar_one()

    def versions(self) -> set[str]:
        return {row[4] for row in self.rows()}

    def stale(self) -> dict[str, int]:
        with self.engine.begin() as conn:
            return {row.key: row.seq for row in conn.execute(select(pages))}

    def marks(self) -> dict[str, list[str]]:
        """A token of every row version: changes with any write, but for the time of the last look at a name."""
        with self.engine.begin() as conn:
            found = {
                table.name: sorted(conn.exec_driver_sql(f"SELECT xmin::text || ctid::text FROM {table.name}").scalars())
                for table in (projects, releases, upstream_files, jobs, pages, feeds)
            }
            seen = conn.execute(select(watch_table).order_by(watch_table.c.position))
            return found | {"watches": [str({**row._mapping, "checked_at": None}) for row in seen]}

    # Following everything

    def ours(self) -> dict[str, TruthProject]:
        """What we have, in the words of the simulator's truth."""
        with self.engine.begin() as conn:
            return ours(conn)

    def truth(self) -> dict[str, TruthProject]:
        """What we should have; see :func:`expected`."""
        return expected(self.pypi.truth(), self.ours())

    def followed(self) -> bool:
        """Whether everything that PyPI has is what we have."""
        return self.ours() == self.truth()

    def applied(self) -> int:
        with self.engine.begin() as conn:
            return changes.applied(conn)

    def waiting(self) -> int:
        with self.engine.begin() as conn:
            return sum(changes.waiting(conn).values())


def facts() -> Select[Any]:
    """Everything that PyPI's truth became, without our own numbers."""
    return (
        select(
            projects.c.name,
            projects.c.display_name,
            projects.c.summary,
            projects.c.serial,
            releases.c.version,
            releases.c.released,
            releases.c.yanked,
            releases.c.yanked_reason,
            releases.c.requires_python,
            releases.c.wanted,
            upstream_files.c.filename,
            upstream_files.c.sha256,
            upstream_files.c.url,
            upstream_files.c.yanked,
            upstream_files.c.uploaded,
        )
        .outerjoin(releases, releases.c.project_id == projects.c.id)
        .outerjoin(upstream_files, upstream_files.c.release_id == releases.c.id)
        .order_by(projects.c.name, releases.c.sort_key, upstream_files.c.filename)
    )


def ours(conn: Connection) -> dict[str, TruthProject]:
    """What we have, in the words of the simulator's truth."""
    query = (
        select(
            projects.c.name,
            projects.c.display_name,
            projects.c.serial,
            projects.c.status,
            releases.c.version,
            releases.c.yanked,
            releases.c.yanked_reason,
            upstream_files.c.filename,
            upstream_files.c.sha256,
        )
        .outerjoin(releases, releases.c.project_id == projects.c.id)
        .outerjoin(upstream_files, upstream_files.c.release_id == releases.c.id)
        .order_by(projects.c.name, releases.c.version, upstream_files.c.filename)
    )
    found: dict[str, TruthProject] = {}
    for row in conn.execute(query).mappings():
        project = found.setdefault(
            row["name"], TruthProject(row["display_name"], row["serial"], row["status"].value, {})
        )
        if row["version"] is not None:
            _add_file(project, row)
    return found


def expected(theirs: dict[str, TruthProject], ours: dict[str, TruthProject]) -> dict[str, TruthProject]:
    """What we should have; see TruthProject. Projects that never had a file are none to us; those that have none any
    more may have no JSON, and so no new spelling; of those in quarantine we have what we saw last, be it hidden now."""
    seen = {name: _cleaned(one) for name, one in theirs.items() if one.releases or name in ours}
    for name, one in list(seen.items()):
        if name not in ours and one.status == "quarantined":
            del seen[name]
        elif one.status == "quarantined":
            mine = ours[name]  # the index does not list it, so what happens to its people goes by who follows that
            seen[name] = replace(one, display_name=mine.display_name, serial=mine.serial, releases=mine.releases)
        elif not one.releases:
            seen[name] = replace(one, display_name=ours[name].display_name)
    return seen


def _cleaned(project: TruthProject) -> TruthProject:
    """A stranger's reasons are kept on one line."""
    releases = {
        version: replace(one, yanked_reason=clean(one.yanked_reason, MAX_REASON))
        for version, one in project.releases.items()
    }
    return replace(project, releases=releases)


def _add_file(project: TruthProject, row: Any) -> None:
    before = project.releases.get(row["version"])
    files = before.files if before else ()
    sdists = dict(before.sdists) if before else {}
    if row["sha256"] is not None:
        sdists[row["filename"]] = row["sha256"].hex()
    project.releases[row["version"]] = TruthRelease(
        row["yanked"], row["yanked_reason"], tuple(sorted((*files, row["filename"]))), sdists
    )
