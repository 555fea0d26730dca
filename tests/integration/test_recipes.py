# SPDX-License-Identifier: BSD-3-Clause
"""Recipes as rows, planning anew what they concern, and piw-recipes."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, func, insert, select, update

from piwheels.admin import recipes as command
from piwheels.db import pages, planning, queue, recipe_planning, recipes, targets
from piwheels.db.beside import Beside
from piwheels.db.recipes import Changed
from piwheels.db.tables import builds, jobs, projects, recipe_changes, releases, slaves, upstream_files
from piwheels.master import feed_recipes
from piwheels.master.planner import Policy
from piwheels.master.recipes import NOTHING, Entry, Source, parse
from piwheels.master.targets import PRESETS
from piwheels.settings import DatabaseSettings
from piwheels.versions import sort_key
from piwheels.vocabulary import FailureReason, Outcome, UpstreamKind
from piwheels.wire import codec
from piwheels.wire.messages import Build
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

POLICY = Policy()


def entries(text: str) -> tuple[Entry, ...]:
    return parse([Source("a.toml", text.encode())])


def skip(*names: str, why: str = "no") -> tuple[Entry, ...]:
    return entries(f"[[recipe]]\nprojects = {json.dumps(names)}\nskip = '{why}'\n")


class Farm:
    """Projects with a release each that has an sdist, and one target."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with engine.begin() as conn:
            self.target = targets.add(conn, PRESETS["bookworm-armhf"])

    def add(self, *names: str, versions: int = 1) -> None:
        with self.engine.begin() as conn:
            for name in names:
                values = {"name": name, "display_name": name}
                project_id = conn.execute(insert(projects).values(values).returning(projects.c.id)).scalar_one()
                ids = [self.release(conn, project_id, name, f"{number}.0") for number in range(1, versions + 1)]
                planning.replan(conn, ids)

    def release(self, conn: Connection, project_id: int, name: str, version: str) -> int:
        """Add a release with an sdist."""
        values: dict[str, Any] = {"project_id": project_id, "version": version, "sort_key": sort_key(version)}
        row = insert(releases).values(values | {"released": func.now()}).returning(releases.c.id)
        release_id: int = conn.execute(row).scalar_one()
        file = {"filename": f"{name}-{version}.tar.gz", "kind": UpstreamKind.SDIST, "url": "https://example.org/x"}
        file |= {"sha256": b"x" * 32, "uploaded": func.now(), "release_id": release_id}
        conn.execute(insert(upstream_files).values(file))
        return release_id

    def queued(self) -> list[str]:
        """Names of projects with jobs."""
        query = select(projects.c.name).join(releases, releases.c.project_id == projects.c.id)
        with self.engine.begin() as conn:
            return sorted(conn.scalars(query.join(jobs, jobs.c.release_id == releases.c.id)))

    def apply(self, some: tuple[Entry, ...]) -> Changed:
        with self.engine.begin() as conn:
            return recipes.apply(conn, some)

    def plan(self) -> list[int]:
        """Plan all that waits; the projects of each batch in which there were some."""
        found = []
        while not (batch := self.plan_some()).finished:
            found.append(batch.projects)
        return [count for count in found if count]

    def plan_some(self) -> recipe_planning.Batch:
        """One batch, if there is one; waits for autovacuum, whose transactions might be ours."""
        while True:
            with self.engine.begin() as conn:
                batch = recipe_planning.replan_next(conn, policy=POLICY)
            if batch.projects or batch.finished:
                return batch
            threading.Event().wait(0.01 if batch.busy else 0)

    def notice(self) -> None:
        """Have changes noticed, without planning anything yet."""
        with self.engine.begin() as conn:
            assert recipe_planning.replan_next(conn, policy=POLICY) == recipe_planning.Batch()


@pytest.fixture
def farm(database: Engine) -> Farm:
    return Farm(database)


# The set


def test_a_set_comes_back_as_it_was_stored(farm: Farm) -> None:
    everything = """
    [[recipe]]
    projects = ["b*", "a"]
    skip = "é\\u2028"
    apt = ["libfoo"]
    environment = { A = "'\\"{}" }
    timeout = 60
    memory = "2 GiB"
    network = false
    rebuild = "all"
    prereleases = false
    targets = ["t"]
    """.replace("\\u2028", "")
    some = entries(everything)
    assert farm.apply(some) == Changed(names=("a",), patterns=("b*",))
    with farm.engine.begin() as conn:
        assert recipes.stored(conn) == some
        assert recipes.effective(conn, ["a", "bc", "c"]) == {"a": some[1].recipe, "bc": some[0].recipe, "c": NOTHING}
    assert not farm.apply(some)
    assert farm.apply(()) == Changed(names=("a",), patterns=("b*",))
    with farm.engine.begin() as conn:
        assert recipes.effective(conn, ["a"]) == {"a": NOTHING}


def test_the_set_is_read_once_until_it_changes(farm: Farm) -> None:
    farm.apply(skip("a"))
    statements: list[str] = []
    event.listen(farm.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with farm.engine.begin() as conn:
        recipes.effective(conn, ["a"])
        del statements[:]
        assert recipes.effective(conn, ["a", "b"])["a"].skip == "no"
        assert len(statements) == 1 and "recipes.content" not in statements[0]
    farm.apply(skip("b"))
    with farm.engine.begin() as conn:
        assert recipes.effective(conn, ["a"])["a"].skip is None


def test_a_set_that_was_taken_back_is_not_remembered(farm: Farm) -> None:
    with farm.engine.connect() as conn:
        recipes.apply(conn, skip("a"))
        assert recipes.effective(conn, ["a"])["a"].skip == "no"
        conn.rollback()
        assert recipes.effective(conn, ["a"])["a"] == NOTHING


# What follows


def test_skipping_takes_jobs_away_and_taking_it_back_returns_them(farm: Farm) -> None:
    farm.add("alpha", "beta", "gamma")
    farm.apply(skip("alpha", "g*"))
    assert farm.queued() == ["alpha", "beta", "gamma"]  # not yet
    assert farm.plan() == [1, 1]
    assert farm.queued() == ["beta"]
    with farm.engine.begin() as conn:
        marked = {claim.key for claim in pages.claim(conn, "test", limit=10)}
        assert {"alpha", "gamma"} <= marked and "beta" not in marked
    farm.apply(entries("[[recipe]]\nprojects = ['g*']\nskip = 'x'\n[[recipe]]\nprojects = ['gamma']\nskip = ''\n"))
    farm.plan()
    assert farm.queued() == ["alpha", "beta", "gamma"]


def test_a_project_that_comes_later_gets_its_recipe_at_once(farm: Farm) -> None:
    farm.apply(skip("al*"))
    farm.add("alpha", "beta")
    assert farm.queued() == ["beta"]


def test_a_recipe_limits_targets(farm: Farm) -> None:
    with farm.engine.begin() as conn:
        targets.add(conn, PRESETS["trixie-armhf"])
    farm.apply(entries("[[recipe]]\nprojects = ['alpha']\ntargets = ['trixie-armhf']\n"))
    farm.add("alpha")
    with farm.engine.begin() as conn:
        query = select(targets.targets.c.name).join(jobs, jobs.c.target_id == targets.targets.c.id)
        assert conn.scalars(query).all() == ["trixie-armhf"]


def fail(farm: Farm, name: str, reason: FailureReason) -> None:
    with farm.engine.begin() as conn:
        query = select(releases.c.id).join(projects, projects.c.id == releases.c.project_id)
        release_id = conn.execute(query.where(projects.c.name == name)).scalar_one()
        row = {"release_id": release_id, "target_id": farm.target, "token": func.gen_random_uuid()}
        row |= {"started": func.now(), "duration": timedelta(1), "outcome": Outcome.FAILED, "reason": reason}
        conn.execute(insert(builds).values(row))
        planning.replan_release(conn, release_id)


def test_what_reaches_the_builder_resets_failures_and_policy_does_not(farm: Farm) -> None:
    farm.add("alpha", "beta")
    fail(farm, "alpha", FailureReason.PACKAGE)
    fail(farm, "beta", FailureReason.PACKAGE)
    assert farm.queued() == []
    farm.apply(entries("[[recipe]]\nprojects = ['alpha', 'beta']\nrebuild = 'all'\n"))
    farm.plan()
    assert farm.queued() == []
    farm.apply(entries("[[recipe]]\nprojects = ['alpha']\napt = ['libfoo']\n"))
    farm.plan()
    assert farm.queued() == ["alpha"]
    with farm.engine.begin() as conn:
        conn.execute(update(jobs).values(strikes=2, ready_at=func.now() + timedelta(hours=1)))
    farm.apply(entries("[[recipe]]\nprojects = ['a*']\nmemory = '1G'\n"))
    farm.plan()
    with farm.engine.begin() as conn:
        assert conn.execute(select(jobs.c.strikes, jobs.c.ready_at <= func.now())).one() == (0, True)


def test_patterns_are_planned_in_batches_that_can_be_resumed(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_planning, "WINDOW", 4)
    monkeypatch.setattr(recipe_planning, "RELEASES", 3)
    names = [f"p{number}" for number in range(10)]
    farm.add("a", *names, "pz-many", "q", versions=2)
    farm.apply(skip("p?*", "none*"))
    farm.notice()
    with farm.engine.connect() as conn:  # a batch that is killed before its end
        recipe_planning.replan_next(conn, policy=POLICY)
        conn.rollback()
    assert farm.plan_some().projects == 1
    with farm.engine.begin() as conn:
        assert {(one.pattern, one.resets) for one in recipes.waiting(conn)} >= {("p?*", False)}
    assert max(farm.plan()) == 1
    assert farm.queued() == ["a", "a", "q", "q"]
    with farm.engine.begin() as conn:
        assert recipes.waiting(conn) == []


def test_a_change_meanwhile_begins_the_pattern_again(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_planning, "RELEASES", 1)
    farm.add("pa", "pb", "pc")
    farm.apply(skip("p*"))
    farm.plan_some()
    with farm.engine.begin() as conn:
        assert [one.after for one in recipes.waiting(conn)] == ["pa"]
    farm.apply(())
    farm.plan()
    assert farm.queued() == ["pa", "pb", "pc"]


def test_names_come_before_patterns_and_large_projects_one_by_one(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_planning, "RELEASES", 3)
    farm.add("a", "b", "c", versions=2)
    farm.apply(skip("*", "b", "c", "unknown"))
    assert farm.plan_some().projects == 1
    with farm.engine.begin() as conn:
        assert {one.pattern for one in recipes.waiting(conn)} == {"*", "c"}
    farm.plan()
    assert farm.queued() == []


def test_two_may_plan_at_the_same_time(farm: Farm) -> None:
    farm.add("a", "b")
    farm.apply(skip("a*", "b*"))
    farm.notice()
    with farm.engine.begin() as one, farm.engine.begin() as other:
        recipe_planning.replan_next(one, policy=POLICY)
        assert recipe_planning.replan_next(other, policy=POLICY).busy
    farm.plan()
    assert farm.queued() == []


def test_who_planned_by_the_old_recipe_is_waited_for(farm: Farm) -> None:
    with farm.engine.connect() as late:
        values = {"name": "alpha", "display_name": "alpha"}
        project = late.execute(insert(projects).values(values).returning(projects.c.id)).scalar_one()
        release = farm.release(late, project, "alpha", "1.0")
        planning.replan(late, [release])
        farm.apply(skip("alpha", "al*"))
        farm.notice()
        with farm.engine.begin() as conn:
            assert recipe_planning.replan_next(conn, policy=POLICY).busy
        late.commit()
    assert farm.queued() == ["alpha"]
    farm.plan()
    assert farm.queued() == []


def test_who_takes_too_long_is_not_waited_for(farm: Farm) -> None:
    farm.add("alpha")
    with farm.engine.connect() as late:
        late.execute(insert(projects).values(name="late", display_name="late"))
        farm.apply(skip("alpha"))
        farm.notice()
        with farm.engine.begin() as conn:
            assert recipe_planning.replan_next(conn, policy=POLICY).busy
            conn.execute(update(recipe_changes).values(since=func.now() - recipe_planning.PATIENCE * 2))
        assert farm.plan_some().projects == 1


def test_a_job_takes_its_recipe_to_the_builder(farm: Farm) -> None:
    farm.add("alpha")
    text = "timeout = 60\nmemory = '1G'\napt = ['libfoo']\nenvironment = { A = 'é' }\nnetwork = false\n"
    farm.apply(entries(f"[[recipe]]\nprojects = ['alpha']\n{text}"))
    terms = queue.Terms(timedelta(minutes=1), timedelta(hours=3), 0)
    with farm.engine.begin() as conn:
        slave_id = conn.execute(insert(slaves).values(key="x" * 40).returning(slaves.c.id)).scalar_one()
        lease = queue.claim(conn, slave_id=slave_id, target_id=farm.target, terms=terms)
    assert lease is not None
    build = codec.decode_from_master(codec.encode(Build("alpha", "1.0", lease.order)))
    assert isinstance(build, Build) and build.order is not None
    order = build.order
    assert (order.time_limit, order.memory_limit) == (timedelta(minutes=1), 1024**3)
    assert (order.apt, order.environment, order.network) == (("libfoo",), (("A", "é"),), False)


# The feed's part


def test_the_feed_follows_the_folder(
    farm: Farm,
    database_settings: DatabaseSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(feed_recipes, "LOOK", 0.01)
    monkeypatch.setattr(feed_recipes, "PLAN", 0.01)
    farm.add("alpha")

    async def work() -> None:
        beside = Beside(farm.engine, database_settings, name="test", threads=2, stop=threading.Event())
        keeper = feed_recipes.Recipes(tmp_path, beside, POLICY)
        await keeper.look()
        tasks = [asyncio.create_task(keeper.keep_looking()), asyncio.create_task(keeper.keep_planning())]
        (tmp_path / "a.toml").write_text("[[recipe]]\nprojects = ['alpha']\nskip = 'x'\n")
        await asyncio.to_thread(wait_for, lambda: not farm.queued(), "the job to go", seconds=20)
        (tmp_path / "b.toml").write_text("[[recipe]]\nprojects = ['alpha']\nskipp = ''\n")
        await asyncio.to_thread(
            wait_for, lambda: "b.toml:3: unknown key skipp" in caplog.text, "the complaint", seconds=20
        )
        assert not farm.queued()
        (tmp_path / "b.toml").write_text("[[recipe]]\nprojects = ['alpha']\nskip = ''\n")
        await asyncio.to_thread(wait_for, farm.queued, "the job to return", seconds=20)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await beside.close()

    with caplog.at_level(logging.INFO, "piwheels"):
        asyncio.run(work())
    assert caplog.text.count("recipes stay as they were") == 1


# piw-recipes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(database_settings: DatabaseSettings, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def one(*words: str) -> tuple[int, str, str]:
        code = command.main([*words, "--set", f"database.url={database_settings.url}"])
        return (code, *capsys.readouterr())

    yield one


def test_checking_needs_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[[recipe]]\nprojects = ['a', 'b*']\nskip = 'x'\n")
    nowhere = ("--set", "database.url=postgresql:///none?host=/none")
    assert run("check", str(tmp_path), *nowhere) == (0, "2 recipes, nothing wrong with them\n", "")
    (tmp_path / "b.toml").write_text("[[recipe]]\nprojects = ['a']\nskipp = 'x'\nmemory = ''\n")
    code, said, errors = run("check", "--set", f"recipes.folder={tmp_path}", *nowhere)
    assert (code, said) == (2, "")
    assert [line.partition(" (")[0].split("; ")[0] for line in errors.splitlines()] == [
        "piw-recipes: b.toml:3: unknown key skipp",
        "piw-recipes: b.toml:4: memory must be bytes, or a text such as '2 GiB' or '900M'",
    ]
    assert run("check") == (2, "", "piw-recipes: give a FOLDER, or set recipes.folder\n")
    assert run("check", "/none")[2] == "piw-recipes: cannot read recipes from /none: No such file or directory\n"


def test_applying_and_showing(run: Run, farm: Farm, tmp_path: Path) -> None:
    farm.add("alpha", "beta")
    text = "[[recipe]]\nprojects = ['al*']\ntimeout = '1h'\nenvironment = { A = '1' }\n"
    text += "[[recipe]]\nprojects = ['Alpha']\nskip = 'too large'\ntargets = ['mars']\n"
    (tmp_path / "a.toml").write_text(text)
    code, said, errors = run("apply", str(tmp_path))
    assert (code, errors) == (0, "piw-recipes: a.toml:6: there is no target mars yet\n")
    assert said == "2 recipes in force; changed: 1 names, 1 patterns\nplanned 2 projects anew\n"
    assert farm.queued() == ["beta"]
    assert run("list")[1].splitlines() == [
        'al*  environment={"A": "1"} timeout=3600  (a.toml:2)',
        'alpha  skip="too large" targets=["mars"]  (a.toml:6)',
    ]
    assert run("show", "ALPHA")[1].splitlines() == [
        'alpha: skip="too large" environment={"A": "1"} timeout=3600 targets=["mars"]',
        '  a.toml:2 of al*: environment={"A": "1"} timeout=3600',
        '  a.toml:6 of alpha: skip="too large" targets=["mars"]',
    ]
    assert run("show", "beta") == (0, "nothing is said of beta\n", "")
    assert run("show", "a*") == (2, "", "piw-recipes: 'a*' is a pattern; show takes a project's name\n")
    (tmp_path / "a.toml").write_text(text + "[[recipe]]\nprojects = ['beta']\nnope = 1\n")
    assert run("apply", str(tmp_path))[0] == 2
    assert farm.queued() == ["beta"]
    (tmp_path / "a.toml").unlink()
    assert run("apply", str(tmp_path), "--no-wait")[1] == "0 recipes in force; changed: 1 names, 1 patterns\n"
    assert run("list")[1] == "no recipes are in force\n"
    with farm.engine.begin() as conn:
        assert [one.pattern for one in recipes.waiting(conn)] == ["alpha", "al*"]


def test_another_folder_than_the_masters_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    code, _, errors = run("apply", str(tmp_path), "--set", f"recipes.folder={tmp_path / 'own'}")
    assert code == 2 and errors.startswith(f"piw-recipes: the master applies {tmp_path / 'own'} by itself")
    assert run("apply", "--set", f"recipes.folder={tmp_path / 'own'}")[0] == 0


def test_applying_may_be_killed(farm: Farm, database_settings: DatabaseSettings, tmp_path: Path) -> None:
    farm.add(*(f"p{number}" for number in range(30)), versions=100)
    (tmp_path / "a.toml").write_text("[[recipe]]\nprojects = ['p*']\nskip = 'x'\n")
    url = ("--set", f"database.url={database_settings.url}")
    process = subprocess.Popen([sys.executable, "-m", command.__name__, "apply", str(tmp_path), *url])

    def begun() -> bool:
        with farm.engine.begin() as conn:
            return any(one.after for one in recipes.waiting(conn)) or process.poll() is not None

    wait_for(begun, "the first batch", seconds=30)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    subprocess.run([sys.executable, "-m", command.__name__, "apply", str(tmp_path), *url], check=True, timeout=60)
    assert farm.queued() == []
    with farm.engine.begin() as conn:
        assert conn.execute(select(func.count()).select_from(recipe_changes)).scalar_one() == 0
