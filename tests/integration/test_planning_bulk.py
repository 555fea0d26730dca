# SPDX-License-Identifier: BSD-3-Clause
"""Planning many releases: the same jobs as one by one, resumable, and right beside others who plan."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import (
    Connection,
    Engine,
    ScalarSelect,
    Select,
    delete,
    event,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)

from piwheels.db import planning, recipes, targets
from piwheels.db.engine import in_transaction
from piwheels.db.tables import builds, download_days, files, jobs, needs, projects, releases, upstream_files
from piwheels.db.tables import planning as planning_table
from piwheels.db.tables import targets as target_table
from piwheels.master.planner import Policy, Rebuild
from piwheels.master.recipes import Entry, Recipe
from piwheels.master.targets import PRESETS
from piwheels.versions import sort_key
from piwheels.vocabulary import Outcome
from tests.integration import planning_world as world
from tests.planner_facts import FREE

pytestmark = pytest.mark.integration

every = targets.every  # before a test puts something in its place


@pytest.fixture
def engine(database: Engine) -> Engine:
    with database.begin() as conn:
        for preset in PRESETS.values():
            targets.add(conn, preset)
        off = replace(PRESETS["bookworm-armhf"], name="bookworm-off", enabled=False, rank=90)
        targets.add(conn, off)
        targets.add(conn, replace(PRESETS["bookworm-armhf"], name="bookworm-twin", rank=150))
    return database


def catch_up(engine: Engine, *, batch: int = 50, policy: Policy | None = None) -> int:
    """How many steps it takes."""
    steps = 0
    while not in_transaction(engine, lambda conn: planning.catch_up(conn, batch=batch, policy=policy)).finished:
        steps += 1
        assert steps < 10_000
    return steps


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("policy", [Policy(), Policy(Rebuild.ALL, strikes=2, prereleases=False)])
def test_rows_in_short_say_what_rows_in_full_do(engine: Engine, seed: int, policy: Policy) -> None:
    with engine.begin() as conn:
        ids = world.fill(conn, Random(seed), 60)
        expected = world.expected(conn, policy)
        cancelled = {(r.release_id, r.target_id) for r in conn.execute(select(jobs).where(jobs.c.cancelled))}
        planning.replan(conn, ids, policy=policy)
        assert world.present(conn) == expected - cancelled
        assert len(expected) > 20


@pytest.mark.parametrize("seed", range(3))
def test_catching_up_plans_as_one_by_one_does(engine: Engine, seed: int) -> None:
    with engine.begin() as conn:
        ids = world.fill(conn, Random(seed), 60)
        world.reset(conn)
        expected = world.expected(conn)
    catch_up(engine, batch=7)
    with engine.begin() as conn:
        assert world.present(conn) == expected
        progress = planning.progress(conn)
        assert progress is not None
        assert (progress.planned, progress.share) == (len(ids), 1.0)
        assert progress.finished is not None
        assert progress.rate > 0
        assert progress.changed > 10


def test_a_recipe_decides_in_short_as_in_full(engine: Engine) -> None:
    with engine.begin() as conn:
        world.fill(conn, Random(9), 60)
        world.reset(conn)
        names = conn.execute(select(projects.c.name).order_by(projects.c.id)).scalars().all()
        said = [
            Recipe(skip="no"),
            Recipe(rebuild=Rebuild.ALL),
            Recipe(prereleases=False),
            Recipe(targets=("trixie-armhf", "nowhere")),
        ]
        entries = [Entry(name, said[n % 4], "x.toml", n) for n, name in enumerate(names[:40])]
        before = world.expected(conn)
        recipes.apply(conn, entries)
        expected = world.expected(conn)
        assert expected != before
    catch_up(engine)
    with engine.begin() as conn:
        assert world.present(conn) == expected


def test_a_target_that_is_enabled_disabled_and_enabled_again(engine: Engine) -> None:
    with engine.begin() as conn:
        world.fill(conn, Random(5), 60)
        world.reset(conn)
    catch_up(engine)
    with engine.begin() as conn:
        before = world.present(conn)
        targets.add(conn, replace(FREE, rank=300))
    catch_up(engine)
    with engine.begin() as conn:
        assert world.present(conn) == world.expected(conn) > before
        conn.execute(update(target_table).where(target_table.c.name == FREE.name).values(enabled=False))
    catch_up(engine)
    with engine.begin() as conn:
        assert world.present(conn) == before


def test_nothing_is_locked_or_written_where_nothing_changes(engine: Engine) -> None:
    with engine.begin() as conn:
        world.fill(conn, Random(6), 20)
        world.reset(conn)
    catch_up(engine)
    with engine.begin() as conn:
        conn.execute(delete(planning_table))
    written: list[str] = []
    with engine.begin() as conn:
        event.listen(conn, "before_cursor_execute", lambda *told: written.append(told[2]))
        assert planning.catch_up(conn).finished
    assert not [line for line in written if not line.startswith("SELECT") and " planning " not in line]
    assert not [line for line in written if "FOR NO KEY UPDATE" in line and "FROM releases" in line]


def test_where_it_is_survives_releases_that_go(engine: Engine) -> None:
    """The release at which it stands is deleted, and so is the whole project."""
    with engine.begin() as conn:
        world.fill(conn, Random(7), 40)
        world.reset(conn)
    for what in (releases, projects):
        with engine.begin() as conn:
            assert not planning.catch_up(conn, batch=11).finished
            stand = conn.execute(select(planning_table)).one()
            gone = stand.release_id if what is releases else stand.project_id
            conn.execute(delete(what).where(what.c.id == gone))
    catch_up(engine, batch=11)
    with engine.begin() as conn:
        assert world.present(conn) == world.expected(conn)


def test_targets_that_change_meanwhile_begin_it_anew(engine: Engine) -> None:
    with engine.begin() as conn:
        world.fill(conn, Random(8), 40)
        world.reset(conn)
    with engine.begin() as conn:
        assert planning.catch_up(conn, batch=20).planned == 20
        targets.add(conn, replace(FREE, rank=300))
    with engine.begin() as conn:
        planning.catch_up(conn, batch=20)
        progress = planning.progress(conn)
        assert progress is not None
        assert progress.planned == 20
        assert progress.finished is None
    catch_up(engine)
    with engine.begin() as conn:
        assert world.present(conn) == world.expected(conn)


def test_no_progress_before_it_ever_ran(engine: Engine) -> None:
    with engine.begin() as conn:
        assert planning.progress(conn) is None
        assert planning.catch_up(conn).finished  # there is nothing to plan
        progress = planning.progress(conn)
        assert progress is not None
        assert (progress.planned, progress.total, progress.share) == (0, 0, 1.0)


def test_jobs_are_made_with_what_is_known_of_their_project(engine: Engine) -> None:
    with engine.begin() as conn:
        world.fill(conn, Random(1), 30)
        conn.execute(delete(jobs))
        each = select(projects.c.id, target_table.c.id).select_from(projects.join(target_table, text("true")))
        memory = each.add_columns(text("2"), text("1"), text("3"))
        names = ["project_id", "target_id", "memory_class", "disk_class", "time_class"]
        conn.execute(insert(needs).from_select(names, memory))
        days = select(projects.c.id, func.current_date() - 1, projects.c.id * 10)
        conn.execute(insert(download_days).from_select(["project_id", "day", "count"], days))
        ancient = select(projects.c.id, func.current_date() - 99, text("5"))
        conn.execute(insert(download_days).from_select(["project_id", "day", "count"], ancient))
    catch_up(engine)
    with engine.begin() as conn:
        rows = conn.execute(
            select(jobs, releases.c.project_id).join(releases, releases.c.id == jobs.c.release_id)
        ).all()
        assert len(rows) > 10
        for row in rows:
            assert (row.memory_class, row.disk_class, row.time_class) == (2, 1, 3)
            assert row.downloads == row.project_id * 10
            assert row.released in (world.OLD, world.NOW - timedelta(days=1))


# Beside others


def one_release(conn: Connection, name: str = "alpha", *, skip_reason: str = "") -> int:
    """A release of one project, which is to be built."""
    project = {"name": name, "display_name": name}
    project_id = conn.execute(insert(projects).values(project).returning(projects.c.id)).scalar_one()
    row = {"project_id": project_id, "version": "1.0", "sort_key": sort_key("1.0"), "released": world.OLD}
    row["skip_reason"] = skip_reason
    release_id = conn.execute(insert(releases).values(row).returning(releases.c.id)).scalar_one()
    sdist = {"release_id": release_id, "filename": "alpha-1.0.tar.gz", "kind": "sdist", "uploaded": world.OLD}
    conn.execute(insert(upstream_files).values(**sdist, url="https://x.example/a", sha256=b"s" * 32))
    return int(release_id)


def build(conn: Connection, release_id: int, target_id: int | None, filename: str) -> None:
    """One that succeeded."""
    row = {"release_id": release_id, "target_id": target_id, "token": uuid.uuid4(), "outcome": Outcome.SUCCESS}
    row |= {"started": world.OLD, "duration": timedelta(seconds=1)}
    number = conn.execute(insert(builds).values(row).returning(builds.c.id)).scalar_one()
    digests = {"sha256": b"a" * 32, "metadata_sha256": b"b" * 32}
    conn.execute(insert(files).values(build_id=number, filename=filename, size=1, **digests))


def test_a_release_that_somebody_plans_meanwhile_is_looked_at_again(engine: Engine) -> None:
    """Between catch_up's look and its lock, a build ends and a pure wheel makes the job superfluous."""
    with engine.begin() as conn:
        one_release(conn, "aardvark")
        release_id = one_release(conn)
        wheel_target = targets.every(conn)[-1].id
    with engine.begin() as conn:
        assert planning.catch_up(conn, batch=1).planned == 1  # it has begun, so it waits for nobody who comes later
    waiting = threading.Event()
    done = threading.Event()

    def other() -> None:
        def tell(*told: object) -> None:
            if "FOR NO KEY UPDATE" in str(told[2]) and "releases" in str(told[2]):
                waiting.set()

        with engine.begin() as conn:
            event.listen(conn, "before_cursor_execute", tell)
            planning.catch_up(conn)
        done.set()

    thread = threading.Thread(target=other)
    with engine.begin() as conn:
        conn.execute(text("SELECT 1 FROM releases FOR NO KEY UPDATE"))
        thread.start()
        assert waiting.wait(10)
        build(conn, release_id, wheel_target, "alpha-1.0-py3-none-any.whl")
        planning.replan_release(conn, release_id)
        assert not done.is_set()
    thread.join(20)
    with engine.begin() as conn:
        assert world.present(conn) == world.expected(conn)
        assert release_id not in {id_ for id_, _ in world.present(conn)}


def test_whoever_still_plans_for_earlier_targets_is_waited_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that read which targets there are before one was enabled commits after that."""
    with engine.begin() as conn:
        release_id = one_release(conn, skip_reason="not yet")
    catch_up(engine)
    with engine.begin() as slow:
        slow.execute(update(releases).values(skip_reason=""))
        slow.execute(update(releases).values(requires_python=None))
        old = targets.every(slow)
        monkeypatch.setattr(targets, "every", lambda conn: old if conn is slow else every(conn))
        planning.replan_release(slow, release_id)
        with engine.begin() as conn:
            conn.execute(update(target_table).values(enabled=False))
            targets.add(conn, replace(FREE, rank=300))
        for _ in range(3):
            with engine.begin() as conn:
                assert planning.catch_up(conn) == planning.Step(planned=0, finished=False)
    catch_up(engine)
    with engine.begin() as conn:
        assert {target for _, target in world.present(conn)} == {targets.every(conn)[-1].id}
        assert world.present(conn) == world.expected(conn)


def test_nobody_is_waited_for_longer_than_a_minute(engine: Engine) -> None:
    with engine.begin() as conn:
        one_release(conn)
    with engine.begin() as slow:
        slow.execute(update(releases).values(wanted=True))
        with engine.begin() as conn:
            assert not planning.catch_up(conn).finished
            conn.execute(update(planning_table).values(started_at=func.now() - timedelta(minutes=2)))
        slow.rollback()
    assert catch_up(engine) == 0


def test_catching_up_beside_a_farm_at_work(engine: Engine) -> None:
    """Two threads plan single releases, delete some and yank others, while targets come and go."""
    with engine.begin() as conn:
        ids = world.fill(conn, Random(11), 80)
        world.reset(conn)
        free = targets.add(conn, replace(FREE, rank=300))
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        random = Random(seed)
        try:
            while not stop.is_set():
                in_transaction(engine, change(random, ids))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(4):
        with engine.begin() as conn:
            conn.execute(update(target_table).where(target_table.c.id == free).values(enabled=turn % 2 == 0))
        catch_up(engine, batch=40)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not errors
    catch_up(engine)
    with engine.begin() as conn:
        assert world.present(conn) == world.expected(conn)


def change(random: Random, ids: list[int]) -> Callable[[Connection], None]:
    release_id, what = random.choice(ids), random.randrange(4)

    def work(conn: Connection) -> None:
        here = releases.c.id == release_id
        # As upstream.sync does: one transaction of a project at a time, and what takes a hint from this release.
        conn.execute(select(projects.c.id).where(projects.c.id == _project(release_id)).with_for_update())
        concerned = {release_id, *conn.scalars(_next(release_id))}
        if what == 0:
            conn.execute(update(releases).where(here).values(yanked=~releases.c.yanked))
        elif what == 1:
            conn.execute(update(releases).where(here).values(wanted=~releases.c.wanted))
        elif what == 2:
            conn.execute(delete(releases).where(here))
        planning.replan(conn, concerned)

    return work


def _project(release_id: int) -> ScalarSelect[int]:
    return select(releases.c.project_id).where(releases.c.id == release_id).scalar_subquery()


def _next(release_id: int) -> Select[tuple[int]]:
    """The release after it, by version."""
    this = releases.alias("this")
    place = tuple_(releases.c.sort_key, releases.c.id)
    after = place > tuple_(this.c.sort_key, this.c.id)
    query = select(releases.c.id).join(this, this.c.project_id == releases.c.project_id)
    return query.where(this.c.id == release_id, after).order_by(releases.c.sort_key, releases.c.id).limit(1)
