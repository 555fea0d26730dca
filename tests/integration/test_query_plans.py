# SPDX-License-Identifier: BSD-3-Clause
"""No statement that is sent often reads a big table from one end to the other: PostgreSQL's own plans, over enough rows
that it minds. The queue's statements are in test_query_plans_queue.py."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text, update

from piwheels.db import (
    changes,
    documents,
    farm_pages,
    news,
    page_facts,
    pages,
    planning,
    recipes,
    status,
    targets,
    upstream,
    why,
)
from piwheels.db.engine import make_engine
from piwheels.db.recipe_planning import replan_next
from piwheels.db.tables import planning as planning_table
from piwheels.master.planner import Policy
from piwheels.master.recipes import Entry, Recipe
from piwheels.master.targets import PRESETS
from piwheels.postgres import Cluster
from piwheels.pypi.interpret import Change
from piwheels.pypi.model import parse_project
from piwheels.pypi.pending import Priority
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import NewsKind
from tests.integration.plans import scans, statements
from tests.planner_facts import FREE
from tests.simulator.history import History

pytestmark = pytest.mark.integration

NOW = datetime(2026, 3, 14, tzinfo=UTC)
PROJECTS = 4000
ROWS = f"""
INSERT INTO projects (name, display_name, serial) SELECT 'p-' || n, 'P-' || n, n FROM generate_series(1, {PROJECTS}) n;
INSERT INTO project_names (project_id, name) SELECT id, display_name FROM projects;
INSERT INTO releases (project_id, version, sort_key, released)
    SELECT id, n || '.0', CAST('\\x01' AS bytea) || decode(lpad(to_hex(n), 4, '0'), 'hex'), now() - interval '1 year'
    FROM projects, generate_series(1, 8) n;
INSERT INTO upstream_files (release_id, filename, kind, url, sha256, uploaded)
    SELECT r.id, replace(p.name, '-', '_') || '-' || r.version
            || CASE n WHEN 1 THEN '.tar.gz' ELSE '-cp39-cp39-win32.whl' END,
        CASE n WHEN 1 THEN 'sdist' ELSE 'wheel' END :: upstream_kind, 'https://x.example/y', sha256('s'), now()
    FROM releases r JOIN projects p ON p.id = r.project_id, generate_series(1, 2) n;
INSERT INTO builds (release_id, target_id, token, started, finished, duration, outcome)
    SELECT id, 1, gen_random_uuid(), now(), now() - id * interval '1 s', interval '9 s', 'success' FROM releases;
INSERT INTO files (build_id, filename, size, sha256, metadata_sha256)
    SELECT id, 'f-1.0-py2-none-any.whl', 1, sha256(CAST(id AS text) :: bytea), sha256('m') FROM builds;
INSERT INTO dependencies (file_id, tool, name) SELECT id, 'apt', 'libc6' FROM files;
INSERT INTO jobs (release_id, target_id, priority, released) SELECT id, 2, 3, released FROM releases;
INSERT INTO needs (project_id, target_id) SELECT id, 1 FROM projects;
INSERT INTO documents (project_id, body) SELECT id, 'x' FROM projects;
INSERT INTO download_days (project_id, day, count)
    SELECT id, current_date - n, 1 FROM projects, generate_series(1, 9) n;
INSERT INTO published (name, listed, files) SELECT name, true, 1 FROM projects;
INSERT INTO pages (kind, key) SELECT 'project', name FROM projects;
INSERT INTO news (serial, kind, project, version, build_id)
    SELECT b.id, 'built', p.name, r.version, b.id
    FROM builds b JOIN releases r ON r.id = b.release_id JOIN projects p ON p.id = r.project_id;
INSERT INTO changes (name, priority, serial, first_serial) SELECT name, 2, 5, 5 FROM projects;
"""
#: PostgreSQL takes the number of rows from here, so it plans as for a million projects.
LARGER = """UPDATE pg_class SET reltuples = reltuples * 250
    WHERE relnamespace = 'public' :: regnamespace AND relkind IN ('r', 'i') AND reltuples > 1000"""


@pytest.fixture(scope="module")
def engine(cluster: Cluster, template: str) -> Iterator[Engine]:
    """A database of a size at which PostgreSQL minds scanning it; the tests here change it and do not care."""
    with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as server:
        server.execute(f"CREATE DATABASE plans TEMPLATE {template}".encode())
    engine = make_engine(DatabaseSettings(url=cluster.url_of("plans"), pool=3), name="test")
    with engine.begin() as conn:
        for preset in PRESETS.values():
            targets.add(conn, preset)
    with psycopg.connect(cluster.url_of("plans"), autocommit=True) as conn:
        for statement in ROWS.split(";\n"):
            conn.execute(statement.encode())
        conn.execute("VACUUM ANALYZE")
        conn.execute(LARGER)
    yield engine
    engine.dispose()
    with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as server:
        server.execute("DROP DATABASE plans WITH (FORCE)")


def catch_up(conn: Connection) -> None:
    targets.add(conn, replace(FREE, rank=300))
    while planning.catch_up(conn, batch=500).planned == 0:
        pass
    assert planning.catch_up(conn, batch=500).planned == 500
    planning.progress(conn)
    conn.execute(update(planning_table).values(finished_at=NOW))
    assert planning.catch_up(conn, batch=500).finished


def sync(conn: Connection) -> None:
    pypi = History()
    for version in ("1.0", "2.0", "9.0"):
        pypi.add_release("p-77", version, wheels=("py3-none-any",))
    pypi.add_release("p-new", "1.0")
    for name in ("p-77", "p-new"):
        project = pypi.find(name)
        assert project is not None
        found = parse_project(pypi.json(project, files_url="https://files.example.org/"), name=name)
        found = replace(found, serial=10**9)
        assert upstream.sync_project(conn, found, every=True, policy=Policy()).changed
    upstream.known_links(conn, "p-78")
    upstream.rewant(conn, "p-79", every=False, policy=Policy())
    upstream.rewant_next(conn, every=True, policy=Policy())
    upstream.delete_project(conn, "p-80")
    documents.keep(conn, {81: b"{}"})


def change_recipes(conn: Connection) -> None:
    entries = [Entry("p-99", Recipe(skip="no"), "a", 1), Entry("p-9*", Recipe(network=True), "a", 2)]
    recipes.apply(conn, entries)
    replan_next(conn, policy=Policy())
    replan_next(conn, policy=Policy())


def hear(conn: Connection) -> None:
    changes.record(conn, [Change("p-5", first=7, serial=9, removed=False, said=0, page=False)], Priority.NEWS)
    taken = changes.take(conn, dict.fromkeys(Priority, 5), busy=["p-6"])
    assert taken
    changes.settle(conn, taken[:1])
    changes.postpone(conn, taken[1], timedelta(seconds=9), doubted=True)
    changes.applied(conn)


def publish(conn: Connection) -> None:
    [claim, *_] = pages.claim(conn, "w", limit=3)
    facts = page_facts.load_project(conn, claim.key, today=NOW.date())
    assert facts is not None
    planning.verdicts(conn, facts.id)
    pages.published_facts(conn, [claim.key])
    pages.note_published(conn, [pages.Noted(claim.key, 2, b"f", ("",))])
    pages.finish(conn, "w", [claim])
    pages.mark_published(conn, after="p-3")


def publish_farm(conn: Connection) -> None:
    farm_pages.mark_due(conn)
    pages.claim(conn, "w", limit=3, kinds=pages.BESIDE)
    farm_pages.load_home(conn, today=NOW.date())
    farm_pages.load_status(conn)
    farm_pages.load_stats(conn, today=NOW.date())


def publish_news(conn: Connection) -> None:
    news.note(conn, [news.Item(NewsKind.REMOVED, "p-5")])
    assert news.number(conn) == 1
    last = news.last_serial(conn)
    assert len(news.between(conn, last - 50, last)) == 51
    assert len(news.of_projects(conn, ["p-5", "p-6"], limit=5)["p-5"]) == 5
    news.known_files(conn, [5, 6])
    assert news.was_built(conn, 5)


def watch(conn: Connection) -> None:
    status.snapshot(conn, now=NOW)
    status.verdicts(conn)


SCENES: dict[str, Callable[[Connection], object]] = {
    "a release is planned": lambda conn: planning.replan_release(conn, 4711),
    "several are planned": lambda conn: planning.replan(conn, range(100, 200)),
    "a job is explained": lambda conn: why.explain(conn, "p-100", "3.0", "bookworm-arm64"),
    "an equal version is explained": lambda conn: why.explain(conn, "p-100", "3.0.0", "bookworm-armhf"),
    "all are planned": catch_up,
    "projects are synchronised": sync,
    "recipes change": change_recipes,
    "news is heard": hear,
    "pages are rendered": publish,
    "pages about the farm are rendered": publish_farm,
    "what happened is published": publish_news,
    "the farm is watched": watch,
}

#: What may be read from one end although it is big, and why that does not take long.
KNOWN = {
    (
        "pages are rendered",
        "Index Scan of pages, by pages_order",
    ),  # in their order; only those that are claimed are passed over
    # Each rests 40 times as long as it took; and of builds all of this test's are of the last day.
    *(
        ("pages about the farm are rendered", what)
        for what in (
            "Seq Scan of published",
            "Seq Scan of builds",
            "Seq Scan of jobs",
            "Index Scan of pages, by pages_order",
            "Index Scan of download_days, by download_days_pkey",
        )
    ),
    ("the farm is watched", "Seq Scan of jobs"),  # counted up to a ceiling; only leased ones are passed over
    ("the farm is watched", "Seq Scan of published"),  # the same; only projects without files are passed over
}


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_frequent_scans_a_big_table(engine: Engine, scene: str) -> None:
    with engine.connect() as conn:
        with statements(engine) as sent:
            SCENES[scene](conn)
        conn.rollback()
        assert sent
        found = [one for one in scans(conn, sent) if (scene, one.partition("\n")[0]) not in KNOWN]
    assert not found, "\n\n".join(found)


def test_the_check_finds_what_it_is_for(engine: Engine) -> None:
    asked = (
        "SELECT count(*) FROM releases WHERE skip_reason <> ''",
        "SELECT version FROM releases ORDER BY released LIMIT 1",
    )
    first = "SELECT id FROM releases ORDER BY id LIMIT 5", "SELECT id FROM releases WHERE id = 5"
    with engine.connect() as conn:
        assert len(scans(conn, [(one, None) for one in asked])) == 2
        assert not scans(conn, [(one, None) for one in first])


def test_what_is_deleted_with_a_row_is_found_by_an_index(engine: Engine) -> None:
    """Every foreign key that cascades begins an index: PostgreSQL makes none by itself."""
    query = text(
        """SELECT conrelid :: regclass :: text, conkey[1] FROM pg_constraint c WHERE contype = 'f' AND confdeltype = 'c'
        AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])"""
    )
    with engine.connect() as conn:
        without = {table for table, _ in conn.execute(query)}
    assert without == {"needs"}, "by target: deleted by hand, if ever"
