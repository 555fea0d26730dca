# SPDX-License-Identifier: BSD-3-Clause
"""The pages about the farm as a whole: what the publish role makes of the rows, and when it does so again."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, delete, insert, select, update

from piwheels.db import downloads, farm_pages, migrate, pages, search_rows
from piwheels.db.tables import build_days, builds, download_counts, files, jobs, renderings, roles, slaves
from piwheels.db.tables import pages as pages_table
from piwheels.master import publish, publish_site
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.settings import DatabaseSettings
from piwheels.site.search_index import INDEX
from piwheels.vocabulary import PageKind, Role
from tests import samples
from tests.samples import Sample
from tests.unit.test_site_pages import parse, words
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def sample(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Sample:
    """A farm's rows; nothing is published yet."""
    return samples.fill(database, samples.settings_of(database_settings, tmp_path))


@pytest.fixture
def small(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[Publisher]:
    """The publisher of a farm without anything."""
    settings = samples.settings_of(database_settings, tmp_path)
    context = Context(Role.PUBLISH, settings)
    yield Publisher(settings, context)
    context.close()


def said(sample: Sample, page: str) -> str:
    return words(parse((sample.www / page).read_bytes()))


def test_everything_is_published(sample: Sample) -> None:
    samples.publish(sample)
    home = said(sample, "index.html")
    assert "Awaited 1.0for" in home.replace("awaited", "Awaited") and "on pi4-blue" in home
    assert "Fundamental package for array computing" in home
    status = said(sample, "status/index.html")
    assert "All is well, and 3 builds run." in status and "pi5-attic" in status
    assert "the journal" in status and "31 234 567" in status
    stats = said(sample, "stats/index.html")
    assert "Raspbian GNU/Linux 12" in stats and "Most downloaded" in stats
    for page in ("search", "faq", "api"):
        assert said(sample, f"{page}/index.html")
    for page in sample.www.rglob("*.html"):
        text = page.read_text("utf-8")
        assert "<script>alert" not in text and "<img" not in text.replace('<img class="badge"', ""), page
    # Nothing tells where a builder is or how it proves who it is.
    assert "0" * 39 not in status
    names = {one if isinstance(one, str) else one[0] for one in json.loads(_names(sample, "_.json"))}
    assert {"numpy", "ruamel-yaml", "wxpython", "awaited"} <= names
    assert json.loads(_names(sample, INDEX)) == {"all": "_", "best": ""}
    (part,) = (sample.www / "sitemap").iterdir()
    assert part.name == "0001.xml" and part.read_text().count("/project/") == len(names)
    assert "sitemap/0001.xml" in (sample.www / "sitemap.xml").read_text()
    with sample.engine.begin() as conn:
        assert set(conn.scalars(select(renderings.c.kind))) == set(farm_pages.RESTS)


def _names(sample: Sample, name: str) -> bytes:
    return (sample.www / "search" / "names" / name).read_bytes()


def test_projects_with_wheels_are_found_by_each_word(sample: Sample) -> None:
    samples.publish(sample)
    with sample.engine.begin() as conn:
        keys = [(one.key, one.name) for one in search_rows.stream(conn, today=sample.now.date())]
    assert keys == sorted(keys)
    assert {("yaml", "ruamel-yaml"), ("yaml", "pyyaml"), ("bme280", "rpi-bme280"), ("pyyaml", "pyyaml")} <= set(keys)
    assert ("io", "tensorflow-io") not in keys  # it has none


def test_rows_that_stay_leave_files_that_stay(sample: Sample) -> None:
    samples.publish(sample)
    wanted = ("search", "stats", "status", "sitemap", "faq", "api", "static")
    before = {p: p.stat().st_mtime_ns for place in wanted for p in (sample.www / place).rglob("*") if p.is_file()}
    with sample.engine.begin() as conn:
        for kind in farm_pages.RESTS:
            pages.mark_stale(conn, kind, "", "again")
    samples.publish(sample)
    assert {p: p.stat().st_mtime_ns for p in before} == before and len(before) > 12


def test_files_of_the_index_that_are_not_wanted_any_more_go(small: Publisher, database: Engine) -> None:
    folder = small.output / "search" / "names"
    folder.mkdir(parents=True)
    for name in ("zz.json", "zz.json.gz", "zz.json.zst", ".x.json.tmp"):
        (folder / name).write_bytes(b"old")
    with database.begin() as conn:
        publish_site.render(conn, PageKind.SEARCH, small.site, small.output)
    assert sorted(path.name for path in folder.iterdir()) == ["_.json", INDEX]


# When


def test_pages_are_due_again_after_a_rest_that_grows_with_their_cost(small: Publisher, database: Engine) -> None:
    def due() -> set[PageKind]:
        with database.begin() as conn:
            found = set(farm_pages.mark_due(conn))
            conn.execute(delete(pages_table))
            return found

    def rendered(kind: PageKind, ago: timedelta, took: timedelta) -> None:
        with database.begin() as conn:
            conn.execute(delete(renderings).where(renderings.c.kind == kind))
            farm_pages.note_rendered(conn, kind, took=took)
            conn.execute(
                update(renderings).where(renderings.c.kind == kind).values(rendered_at=renderings.c.rendered_at - ago)
            )

    second = timedelta(seconds=1)
    assert due() == set(farm_pages.RESTS)
    for kind in farm_pages.RESTS:
        rendered(kind, 0 * second, second / 100)
    assert due() == set()
    rendered(PageKind.STATUS, 31 * second, second / 100)
    rendered(PageKind.SEARCH, 200 * second, 10 * second)
    assert due() == {PageKind.STATUS}
    rendered(PageKind.SEARCH, 401 * second, 10 * second)
    rendered(PageKind.STATUS, -5 * second, second)  # the clock was set back
    assert due() == {PageKind.STATUS, PageKind.SEARCH}
    with database.begin() as conn:
        assert set(farm_pages.mark_due(conn)) == {PageKind.STATUS, PageKind.SEARCH}
        assert farm_pages.mark_due(conn) == []  # they are marked already


def test_the_role_renders_them_by_itself(small: Publisher) -> None:
    settings = small.context.settings
    context = Context(Role.PUBLISH, settings)
    thread = threading.Thread(target=publish.run, args=(settings, context))
    thread.start()
    try:
        every = (
            "index.html",
            "stats/index.html",
            "status/index.html",
            "sitemap.xml",
            f"search/names/{INDEX}",
            "404.html",
        )
        wait_for(lambda: all((small.output / path).exists() for path in every), "the pages about the farm", seconds=20)
    finally:
        context.stop.set()
        thread.join(20)
        context.close()
    assert not thread.is_alive()


def test_a_fault_beside_ends_the_role(small: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(conn: object) -> None:
        raise RuntimeError("beside itself")

    monkeypatch.setattr(farm_pages, "mark_due", broken)
    context = Context(Role.PUBLISH, small.context.settings)
    with pytest.raises(RuntimeError, match="beside itself"):
        publish.run(small.context.settings, context)
    assert context.stop.is_set()
    context.close()


# What they show


def test_status_of_a_farm_in_trouble(sample: Sample) -> None:
    with sample.engine.begin() as conn:
        conn.execute(update(slaves).values(label="192.0.2.7").where(slaves.c.label == "pi4-blue"))
        conn.execute(update(roles).values(seen_at=roles.c.seen_at - timedelta(hours=1)).where(roles.c.name == "feed"))
        facts = farm_pages.load_status(conn)
    assert [process.name for process in facts.processes if process.silent] == ["feed"]
    names = [builder.name for builder in facts.builders]
    assert "192.0.2.7" not in names and any(name.startswith("builder ") for name in names)
    assert [(queue.waiting, queue.building) for queue in facts.queues] == [(1, 1), (1, 1), (1, 1), (2, 0)]
    assert all(queue.oldest for queue in facts.queues)
    assert facts.feed.waiting == 3 and facts.feed.answers
    assert len(facts.recent) == farm_pages.RECENT


@pytest.mark.parametrize(
    ("label", "expected"),
    [("", "builder 7"), ("attic", "attic"), ("192.0.2.7", "builder 7"), ("[2001:db8::1]", "builder 7"), (" pi ", "pi")],
)
def test_public_names_of_builders(label: str, expected: str) -> None:
    assert farm_pages.builder_name(7, label) == expected


def test_days_that_are_over_are_summed_up_once(sample: Sample) -> None:
    today = sample.now.date()
    with sample.engine.begin() as conn:
        begun = farm_pages.load_stats(conn, today=today)
        total = len(conn.execute(select(builds.c.id).where(builds.c.finished > sample.now - farm_pages.YEAR)).all())
        assert sum(day.built + day.failed for day in begun.builds) == total
        days = conn.scalars(select(build_days.c.day)).all()
        assert max(days) == today - timedelta(days=1) and len(days) == len(set(days))
        # Builds that are deleted later, with their project, were made all the same.
        conn.execute(delete(jobs))
        conn.execute(delete(builds).where(builds.c.finished < sample.now - timedelta(days=2)))
        assert sum(day.built + day.failed for day in farm_pages.load_stats(conn, today=today).builds) == total


# Downloads


def count(database: Engine, number: int, *rows: downloads.Row) -> None:
    with database.begin() as conn:
        downloads.count_batch(conn, UUID(int=1), number, rows=rows, now=NOW)


def row(project: str, filename: str, **told: Any) -> downloads.Row:
    values = {"arch": "armv7l", "distro": "Debian 12", "python": "3.11", "installer": "pip", **told}
    return downloads.Row(NOW, project, filename, **values)


def test_downloads_are_counted_by_what_was_told_and_by_what_they_saved(sample: Sample) -> None:
    with sample.engine.begin() as conn:
        conn.execute(delete(download_counts))
        wheel = "numpy-2.3.4-cp311-cp311-linux_armv7l.whl"
        took = conn.scalar(
            select(builds.c.duration).join(files, files.c.build_id == builds.c.id).where(files.c.filename == wheel)
        )
    assert took is not None
    count(
        sample.engine,
        1,
        row("numpy", wheel),
        row("numpy", wheel, arch="aarch64"),
        row("numpy", "numpy-9-py3-none-any.whl"),
    )
    count(sample.engine, 1, row("numpy", wheel))  # the same batch again
    with sample.engine.begin() as conn:
        rows = conn.execute(select(download_counts).where(download_counts.c.kind.in_(("all", "arch")))).all()
        assert {(one.kind, one.value): (one._mapping["count"], one.saved) for one in rows} == {
            ("all", ""): (3, 2 * took),
            ("arch", "armv7l"): (2, timedelta(0)),
            ("arch", "aarch64"): (1, timedelta(0)),
        }


def test_values_that_strangers_invent_are_bounded(sample: Sample) -> None:
    with sample.engine.begin() as conn:
        conn.execute(delete(download_counts))
    for batch in range(3):
        rows = [row("numpy", "numpy-1-py3-none-any.whl", arch=f"cpu{n}") for n in range(batch * 30, batch * 30 + 30)]
        count(sample.engine, batch + 1, *rows)
    with sample.engine.begin() as conn:
        told = dict(farm_pages.load_stats(conn, today=NOW.date()).told)
        values = conn.scalars(select(download_counts.c.value).where(download_counts.c.kind == "arch")).all()
    assert len(values) == 41  # forty, and the rest of them
    assert len(told["arch"]) == farm_pages.TOLD + 1 and sum(n for _, n in told["arch"]) == 90
    assert told["arch"][-1] == ("", 90 - farm_pages.TOLD)


def test_what_was_counted_before_the_migration_is_taken_over(empty_database: DatabaseSettings) -> None:
    """The migration sums download_days up, and keeps the names of few values."""
    every = migrate.migrations()
    number = next(one.version for one in every if one.name == "site_pages")
    with psycopg.connect(empty_database.url, autocommit=True) as conn:
        for migration in every[: number - 1]:
            conn.execute(migration.text.encode())
        conn.execute("INSERT INTO projects (name, display_name) VALUES ('foo', 'foo')")
        conn.execute(
            "INSERT INTO download_days (project_id, day, arch, count)"
            " SELECT 1, '2026-11-20', 'cpu' || n, n FROM generate_series(1, 60) AS n"
        )
        conn.execute(every[number - 1].text.encode())
        found = conn.execute(
            "SELECT kind, count(*), sum(count) FROM download_counts WHERE kind IN ('all', 'arch') GROUP BY 1 ORDER BY 1"
        ).fetchall()
        rest = conn.execute("SELECT count FROM download_counts WHERE kind = 'arch' AND value = ''").fetchone()
    assert found == [("all", 1, 1830), ("arch", 41, 1830)]
    assert rest == (210,)  # the twenty rarest


def test_home_counts_what_is_of_today(sample: Sample) -> None:
    with sample.engine.begin() as conn:
        conn.execute(delete(download_counts))
        day = sample.now.date()
        for back, number in ((0, 5), (29, 7), (30, 100)):
            conn.execute(
                insert(download_counts).values(day=day - timedelta(days=back), kind="all", value="", count=number)
            )
        facts = farm_pages.load_home(conn, today=day)
    assert facts.downloads == 12
    assert facts.distributions == ("bookworm", "trixie")
    assert len(facts.running) == 3 and facts.running[0].builder == "pi5-attic"
    assert len(facts.latest) == farm_pages.LATEST
    assert list(facts.latest) == sorted(facts.latest, key=lambda one: one.finished, reverse=True)
