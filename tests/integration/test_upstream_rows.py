# SPDX-License-Identifier: BSD-3-Clause
"""New projects, written without asking back: what is kept of them is what reading them back would find."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select

from piwheels.db import copying, documents, plan_rows, planning, targets, upstream, upstream_rows
from piwheels.db.beside import Beside, Refused
from piwheels.db.tables import jobs, project_names, projects, releases, upstream_files
from piwheels.master.bulk import NEXT, Row
from piwheels.master.planner import Policy
from piwheels.master.targets import PRESETS
from piwheels.pypi.model import UpstreamProject, parse_project
from piwheels.settings import DatabaseSettings

pytestmark = pytest.mark.integration

OLD, NEW = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
SHA256 = "ab" * 32


def a_file(name: str, **changes: Any) -> dict[str, Any]:
    made = {
        "filename": name,
        "packagetype": None,
        "size": 12,
        "digests": {"sha256": SHA256},
        "url": f"https://files.example.org/{name}",
        "requires_python": ">=3.8",
        "upload_time_iso_8601": OLD,
        "yanked": False,
        "yanked_reason": None,
    }
    return made | changes


def a_project(name: str, found: dict[str, list[dict[str, Any]]], **info: Any) -> UpstreamProject:
    document = {"info": {"name": name.upper(), "summary": "Tab\there", **info}, "last_serial": 7, "releases": found}
    return parse_project(document, name=name)


STRANGE = {
    "0.1": [a_file("alpha-0.1-cp39-cp39-linux_armv7l.whl"), a_file("alpha-0.1.tar.gz")],
    "0.2": [a_file("alpha-0.2.tar.gz"), a_file("alpha-0.2.zip")],
    "1.0": [a_file("alpha-1.0.tar.gz", yanked=True, yanked_reason='a \\ and\ta "quote"', requires_python=None)],
    "1.1": [a_file("alpha-1.1.tar.gz", digests={}), a_file("alpha-1.1-py3-none-any.whl", yanked=True, size=None)],
    "1.2": [a_file("alpha-1.2.tar.gz", url="ftp://nowhere"), a_file(f"alpha-1.2-{'x' * 300}-none-any.whl")],
    "1.3": [a_file("alpha-1.3.exe"), a_file("alpha-1.3-py3-none-any.whl", requires_python=None)],
    "2.0b1": [a_file("alpha-2.0b1.tar.gz", upload_time_iso_8601=NEW)],
    "not\\a.version": [a_file("alpha-nav.tar.gz")],
    "2.0": [a_file("alpha-2.0.tar.gz", upload_time_iso_8601=NEW), a_file("alpha-2.0-é.whl")],
}


def sorted_lists(row: Row) -> Row:
    """The order of files in a list means nothing."""
    return row._replace(upstream=row.upstream and NEXT.join(sorted(row.upstream.split(NEXT))))


@pytest.mark.parametrize("wanted", [frozenset(), frozenset({"2.0", "1.0"}), frozenset(STRANGE)])
@pytest.mark.parametrize("status", [None, "quarantined", "archived"])
def test_a_new_project_is_planned_as_it_would_be_read_back(
    database: Engine, wanted: frozenset[str], status: str | None
) -> None:
    found = a_project("alpha", STRANGE, **({"project-status": status} if status else {}))
    with database.begin() as conn:
        row = upstream_rows.add_projects(conn, [found])["alpha"]
        new = [upstream_rows.NewRelease(row.id, one, one.version in wanted) for one in found.releases]
        added = upstream_rows.add_releases(conn, new)
        told = upstream_rows.planned(row, found, added, wanted)
        read = plan_rows.of(conn, [one.id for one in added])
    assert len(told) == len(STRANGE)
    assert [sorted_lists(one) for one in told] == [
        sorted_lists(one) for one in sorted(read, key=lambda one: (one.sort_key, one.id))
    ]


@pytest.mark.parametrize("before", [None, False, True])
@pytest.mark.parametrize("addresses", [False, True])
def test_what_is_copied_is_what_was_said(database: Engine, before: bool | None, addresses: bool) -> None:
    """Where wheels are is kept if somebody wants to know, and forgotten once nobody does any more."""
    found = a_project("alpha", STRANGE)

    def sync_all(conn: Connection, *, addresses: bool) -> upstream.Sync:
        return upstream.sync_projects(conn, [found], every=True, policy=Policy(), addresses=addresses)["alpha"]

    if before is not None:
        with database.begin() as conn:
            assert sync_all(conn, addresses=before).added
            assert sync_all(conn, addresses=addresses).changed == (addresses != before)
            check_rows(conn, found, addresses=addresses)
        return
    with database.begin() as conn:
        sync = sync_all(conn, addresses=addresses)
        assert sync.added
        assert sync.changed
    with database.begin() as conn:
        assert conn.scalars(select(project_names.c.name)).all() == ["ALPHA"]
        rows = {row.version: row for row in conn.execute(select(releases))}
        assert {
            version: (row.released, row.yanked, row.yanked_reason, row.requires_python) for version, row in rows.items()
        } == {one.version: (one.released, one.yanked, one.yanked_reason, one.requires_python) for one in found.releases}
        check_rows(conn, found, addresses=addresses)
        again = sync_all(conn, addresses=addresses)
        assert (again.changed, again.added) == (False, False)


def check_rows(conn: Connection, found: UpstreamProject, *, addresses: bool) -> None:
    stored = {row.filename: row for row in conn.execute(select(upstream_files))}
    for release in found.releases:
        for file in release.files:
            for key, value in upstream_rows.file_values(file, addresses=addresses).items():
                assert getattr(stored[file.filename], key) == value, (file.filename, key)
    wheel = stored["alpha-0.1-cp39-cp39-linux_armv7l.whl"]
    assert (wheel.url is not None, wheel.sha256 is not None) == (addresses, addresses)


def test_a_new_project_gets_the_jobs_that_planning_it_anew_would_give(database: Engine) -> None:
    with database.begin() as conn:
        for preset in PRESETS.values():
            targets.add(conn, preset)
        upstream.sync_project(conn, a_project("alpha", STRANGE), every=True, policy=Policy())
        made = _jobs(conn)
        planning.replan(conn, conn.scalars(select(releases.c.id)).all(), policy=Policy())
        assert made == _jobs(conn)
    assert made


def _jobs(conn: Connection) -> set[tuple[int, int, int]]:
    return {(row.release_id, row.target_id, row.priority) for row in conn.execute(select(jobs))}


def test_numbers_are_taken_once(database: Engine) -> None:
    with database.begin() as conn:
        some, more = copying.new_ids(conn, releases, 3), copying.new_ids(conn, releases, 2)
        assert len({*some, *more}) == 5
        assert copying.new_ids(conn, releases, 0) == []


def test_documents_of_new_projects(database: Engine) -> None:
    with database.begin() as conn:
        rows = upstream_rows.add_projects(conn, [a_project("alpha", {}), a_project("beta", {})])
        a, b = rows["alpha"].id, rows["beta"].id
        documents.keep(conn, {a: b'{"a":1}'})
        documents.keep(conn, {a: b'{"a":2}', b: b'{"b":1}'}, new={b})
        assert documents.load(conn, ["alpha", "beta"]) == {"alpha": b'{"a":2}', "beta": b'{"b":1}'}


@pytest.fixture
def beside(database: Engine, database_settings: DatabaseSettings) -> Iterator[Beside]:
    yield Beside(database, database_settings, name="test", threads=1, stop=threading.Event())


@pytest.mark.parametrize("within", [True, False])
def test_a_copy_that_the_server_refuses_leaves_nothing_and_harms_nobody(beside: Beside, within: bool) -> None:
    def work(conn: Connection, name: str) -> int:
        copying.copy_rows(conn, projects, ("name", "display_name"), [("good", "Good"), (name, name)])
        return conn.scalar(select(func.count()).select_from(projects)) or 0

    async def both() -> list[int]:
        run = beside.within if within else beside
        try:
            for wrong in ("Not Canonical", "good", "nul\x00"):
                with pytest.raises(Refused):
                    await run(lambda conn, name=wrong: work(conn, name))
            return [await run(lambda conn: work(conn, "better"))]
        finally:
            await beside.close()

    assert asyncio.run(both()) == [2]
