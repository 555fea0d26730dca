# SPDX-License-Identifier: BSD-3-Clause
"""What happened on the farm: noted with what it tells of, numbered without gaps, and on the site for who follows."""

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import Connection, Engine, insert, select, update

from piwheels.db import builds as attempts
from piwheels.db import news, queue, slaves, upstream, withdrawal
from piwheels.db.builds import Entry
from piwheels.db.tables import builds, projects
from piwheels.db.tables import news as table
from piwheels.db.withdrawal import Reach
from piwheels.master.news_desk import NewsDesk
from piwheels.master.planner import Policy
from piwheels.settings import DatabaseSettings
from piwheels.site import changes, paths
from piwheels.vocabulary import FailureReason, NewsKind, ProjectStatus
from piwheels.wire import keys
from tests.integration import dispatch_world as world
from tests.integration.publish_world import WHEEL, Farm
from tests.integration.test_upstream_rows import a_file, a_project

pytestmark = pytest.mark.integration

POLICY = Policy()


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[Farm]:
    made = Farm(database, database_settings, tmp_path)
    made.publisher.start()
    yield made
    made.close()


def told(conn: Connection) -> list[tuple[NewsKind, str, str, list[str]]]:
    rows = conn.execute(select(table).order_by(table.c.id))
    return [(row.kind, row.project, row.version, row.files) for row in rows]


def note(engine: Engine, *projects: str) -> None:
    with engine.begin() as conn:
        news.note(conn, [news.Item(NewsKind.REMOVED, project) for project in projects])


# Who notes what


def test_builds_are_noted_with_what_they_made(database: Engine) -> None:
    with database.begin() as conn:
        target = world.add_target(conn)
        slave = world.add_slave(conn, target_id=target)
        for version in ("1", "2", "3"):
            world.add_job(conn, world.add_release(conn, version=version), target)
        leases = [queue.claim(conn, slave_id=slave, target_id=target, terms=world.TERMS) for _ in range(3)]
        first, second, third = (lease for lease in leases if lease)
        wheels = [world.verified(f"spidev-3-{tag}-none-any.whl") for tag in ("py3", "py2")]
        results = [
            Entry(world.success(first, *wheels)),
            Entry(world.failed(second, FailureReason.PACKAGE, detail="x" * 900), has_log=True),
        ]
        numbers = attempts.record_many(conn, results, policy=world.POLICY)
        queue.release(conn, third.token, FailureReason.LOST, "gone", policy=world.POLICY)
        assert attempts.record_many(conn, results, policy=world.POLICY) == numbers  # a second time is no news
        rows = {row.version: row for row in conn.execute(select(table))}
        versions = [lease.version for lease in (first, second, third)]
    built, failed, lost = (rows[version] for version in versions)
    assert (built.kind, built.project, built.target, built.build_id) == ("built", "spidev", world.PI.name, numbers[0])
    assert built.files == ["spidev-3-py2-none-any.whl", "spidev-3-py3-none-any.whl"]
    assert (failed.kind, failed.reason, failed.has_log, len(failed.detail)) == ("failed", "package", True, 300)
    assert (lost.kind, lost.reason, lost.detail, lost.files) == ("failed", "lost", "gone", [])


def test_what_pypi_takes_back_is_noted_if_we_had_something_of_it(farm: Farm) -> None:
    def sync(conn: Connection, versions: dict[str, Any], status: ProjectStatus | None = None, serial: int = 7) -> None:
        files = {version: [a_file(f"foo-{version}.tar.gz", **facts)] for version, facts in versions.items()}
        found = a_project("foo", files)
        upstream.sync_project(conn, replace(found, status=status, serial=serial), every=True, policy=POLICY)

    with farm.database.begin() as conn:
        sync(conn, {"1.0": {}, "2.0": {}})
        release = conn.scalar(select(upstream.releases.c.id).where(upstream.releases.c.version == "1.0")) or 0
    farm.build(release)
    gone = {"yanked": True, "yanked_reason": "bad"}
    with farm.database.begin() as conn:
        sync(conn, {"1.0": gone, "2.0": gone})  # of 2.0 we have nothing
        sync(conn, {"1.0": {}, "2.0": {}})
        sync(conn, {"1.0": {}, "2.0": {}}, ProjectStatus.QUARANTINED)
        upstream.set_status(conn, "foo", ProjectStatus.ACTIVE, "", 8, policy=POLICY)
        sync(conn, {"1.0": {}}, serial=9)
        sync(conn, {"3.0": {}}, serial=10)
        upstream.delete_project(conn, "foo")
        assert told(conn) == [
            (NewsKind.YANKED, "foo", "1.0", [WHEEL]),
            (NewsKind.RESTORED, "foo", "1.0", [WHEEL]),
            (NewsKind.QUARANTINED, "foo", "", []),
            (NewsKind.RESTORED, "foo", "", []),
            (NewsKind.REMOVED, "foo", "1.0", [WHEEL]),
            (NewsKind.REMOVED, "foo", "", []),
        ]
        assert [one.detail for one in news.of_projects(conn, ["foo", "bar"], limit=9)["foo"]][-1] == "bad"


def test_what_the_operator_withdraws_is_noted(farm: Farm) -> None:
    build = farm.build(farm.release())
    with farm.database.begin() as conn:
        slave = slaves.enrol(conn, keys.make().public)
        conn.execute(update(builds).values(slave_id=slave))
        withdrawal.withdraw_next(conn, Reach((slave,)), policy=POLICY)
        withdrawal.withdraw_next(conn, Reach((slave,)), policy=POLICY)
        assert told(conn) == [(NewsKind.WITHDRAWN, "foo", "1.0", [WHEEL])]
        assert conn.scalar(select(table.c.build_id)) == build


# Numbers


def test_serials_follow_the_order_of_commits_and_have_no_gaps(database: Engine) -> None:
    """Whoever has seen a serial never finds a lower one that was not there: a transaction that began first and commits
    last comes last, and one that is rolled back leaves no hole."""
    with database.connect() as slow, database.connect() as lost:
        news.note(slow, [news.Item(NewsKind.REMOVED, "slow")])
        news.note(lost, [news.Item(NewsKind.REMOVED, "lost")])
        note(database, "quick")
        with database.begin() as conn:
            assert news.number(conn) == 1
        lost.rollback()
        slow.commit()
    note(database, "last")
    with database.begin() as conn:
        assert news.number(conn, limit=1) == 1
        assert news.number(conn) == 1
        assert news.number(conn) == 0
        assert [(one.serial, one.project) for one in news.between(conn, 1, 9)] == [
            (1, "quick"),
            (2, "slow"),
            (3, "last"),
        ]
        assert news.last_serial(conn) == 3


def test_one_numbers_at_a_time(database: Engine) -> None:
    note(database, "a")
    with database.begin() as one, database.begin() as other:
        assert news.number(one) == 1
        assert news.number(other) == 0


# On the site


def test_changes_are_published(farm: Farm) -> None:
    farm.build(farm.release())
    with farm.database.begin() as conn:
        number = conn.scalar(select(builds.c.id))
        row = {"kind": NewsKind.BUILT, "project": "foo", "version": "1.0", "target": "t", "build_id": number}
        conn.execute(insert(table).values(**row, files=[WHEEL]))
    farm.settle()
    found = farm.json("changes.json")
    Draft202012Validator(farm.json("schema/changes.json")).validate(found)
    assert (found["serial"], found["first"], found["changes"][0]["files"]) == (1, 1, [WHEEL])
    for name in ("changes.atom", "project/foo/changes.atom"):
        titles = [e.text for e in ElementTree.parse(farm.www / name).iter("{http://www.w3.org/2005/Atom}title")]
        assert titles[1] == "foo 1.0 built for t"
    assert 'href="changes.atom"' in (farm.www / "project/foo/index.html").read_text("utf-8")


def test_what_is_published_stays_the_same_wherever_the_process_is_killed(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are committed before anybody can read them."""
    note(farm.database, "a")
    desk = NewsDesk(farm.www, farm.publisher.site)
    with monkeypatch.context() as patch:
        patch.setattr("piwheels.site.writer.write_if_changed", lambda *_: pytest.fail("written before the commit"))
        with farm.database.begin() as conn:
            assert not desk.look(lambda work: work(conn))
    note(farm.database, "b")
    farm.settle()
    farm.publisher._news._next_look = 0.0
    farm.settle()
    assert [(one["serial"], one["package"]) for one in farm.json("changes.json")["changes"]] == [(1, "a"), (2, "b")]


def test_older_pages_are_written_in_parts_and_before_they_are_needed(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "PAGE", 4)
    monkeypatch.setattr(changes, "LATEST", 2)
    monkeypatch.setattr("piwheels.master.news_desk.PAGES_AT_ONCE", 2)
    note(farm.database, *(f"p{number}" for number in range(1, 23)))
    farm.settle()
    pages = {number: farm.json(f"changes/{number}.json") for number in range(1, 6)}
    assert [one["package"] for page in pages.values() for one in page["changes"]] == [f"p{n}" for n in range(1, 21)]
    latest = farm.json("changes.json")
    assert (latest["first"], latest["serial"], latest["pages"]) == (21, 22, 5)
    assert not (farm.www / "changes/6.json").exists()
    # One that was lost is written again by whoever starts; what is there is not looked into.
    (farm.www / paths.changes_page(2)).unlink()
    before = (farm.www / paths.changes_page(3)).stat().st_mtime_ns
    with farm.database.begin() as conn:
        NewsDesk(farm.www, farm.publisher.site).write(conn)
    assert farm.json("changes/2.json") == pages[2]
    assert (farm.www / paths.changes_page(3)).stat().st_mtime_ns == before


# Logs


def test_logs_of_failed_builds_have_pages(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    release = farm.release()
    good = farm.build(release)
    bad = farm.build(farm.release(version="2.0"), "foo-2.0-cp311-cp311-linux_armv7l.whl")
    log = farm.www / paths.log_path(bad)
    log.parent.mkdir(parents=True)
    log.write_bytes(gzip.compress(b"one\na.c:1:2: error: <b>two</b>\n"))
    with farm.database.begin() as conn:
        conn.execute(update(builds).where(builds.c.id == bad).values(outcome="failed", reason=FailureReason.PACKAGE))
    farm.settle()
    page = farm.www / paths.log_page(bad)
    said = gzip.decompress(page.read_bytes()).decode()
    assert 'id="error"' in said and "error: &lt;b&gt;two&lt;/b&gt;" in said
    assert not (farm.www / paths.log_page(good)).exists()
    assert f"{bad}.html.gz#error" in (farm.www / "project/foo/index.html").read_text("utf-8")
    document = farm.json("project/foo/json/index.json")
    assert document["releases"]["2.0"]["builds"][world.PI.name]["log_page_url"].endswith(f"/{bad}.html.gz")
    before = page.stat().st_mtime_ns
    farm.change(update(projects).values(summary="rendered again"))
    farm.settle()
    assert "rendered again" in (farm.www / "project/foo/index.html").read_text("utf-8")
    assert page.stat().st_mtime_ns == before
    monkeypatch.setattr("piwheels.site.assets.look", lambda site: "another look")
    log.unlink()  # what is there no more has a page that says nothing
    farm.change()
    farm.settle(farm.new_publisher())
    assert page.stat().st_mtime_ns != before
