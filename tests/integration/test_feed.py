# SPDX-License-Identifier: BSD-3-Clause
"""The feed role with a watch list, against the simulator and a real database: rows end up as PyPI's truth."""

import logging
import os
import random
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import Engine, delete

from piwheels.db import targets, upstream
from piwheels.db.tables import projects
from piwheels.db.tables import targets as target_table
from piwheels.db.tables import watches as watch_table
from piwheels.master import feed
from piwheels.master.planner import Policy
from piwheels.master.targets import PRESETS
from piwheels.pypi.model import parse_project
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import WatchState
from tests.integration.feed_world import OLD, QUICK, SECONDS, World
from tests.simulator import Fault, Simulator
from tests.simulator.fixtures import simulator

__all__ = ["simulator"]

pytestmark = pytest.mark.integration


@pytest.fixture
def world(database: Engine, database_settings: DatabaseSettings, simulator: Simulator) -> World:
    return World(database, database_settings, simulator)


def test_first_sync(world: World) -> None:
    world.pypi.add_project("Alpha.One", summary="The first")
    world.pypi.add_release("Alpha.One", "1.0", uploaded=OLD)
    world.pypi.add_release("Alpha.One", "1.1", uploaded=OLD, requires_python=">=3.8")
    assert world.settle("alpha_one") == {"alpha-one": (WatchState.FOUND, "")}
    one, two = world.rows()
    assert one[:6] == ("alpha-one", "Alpha.One", "The first", world.pypi.find("alpha-one").serial, "1.0", OLD)  # type: ignore[union-attr]
    assert (one[9], two[9]) == (False, True)
    assert two[8] == ">=3.8"
    assert two[12] == f"{world.pypi.root}files/alpha_one-1.1.tar.gz"
    assert world.jobs() == [("1.1", "bookworm-armhf")]
    assert world.stale() == {"alpha-one": 1}


def test_all_releases(world: World) -> None:
    for version in ("1.0", "1.1rc1", "1.1"):
        world.pypi.add_release("alpha", version)
    world.settle("alpha", releases="all")
    assert [version for version, _ in world.jobs()] == ["1.0", "1.1", "1.1rc1"]


def test_a_second_look_writes_nothing_and_transfers_next_to_nothing(world: World) -> None:
    for name in ("alpha", "beta", "gamma"):
        world.pypi.add_release(name, "1.0", wheels=("cp39-cp39-win32",))
    world.settle("alpha", "beta", "gamma")
    before, asked, sent = world.marks(), len(world.pypi.asked()), world.pypi.sent()
    with world.feeding("alpha", "beta", "gamma", interval=QUICK):
        world.wait(lambda: world.pypi.tally()[304] >= 9)
    assert world.marks() == before
    assert world.pypi.sent() == sent
    assert all(request.if_none_match for request in world.pypi.asked()[asked:])
    assert not world.pypi.asked("/files/")


def test_without_etags_a_second_look_writes_nothing_either(world: World) -> None:
    world.pypi.etags = False
    world.pypi.add_release("alpha", "1.0", wheels=("cp39-cp39-win32",))
    world.settle("alpha")
    before = world.marks()
    with world.feeding("alpha", interval=QUICK):
        world.wait(lambda: len(world.pypi.asked("json")) >= 4)
    assert world.marks() == before


@pytest.mark.parametrize("urls", ["relative", "absent"])
def test_addresses_from_the_index_page_are_looked_up_once(urls: str, world: World) -> None:
    world.pypi.etags, world.pypi.json_urls = False, urls
    world.pypi.add_release("alpha", "1.0", uploaded=OLD)
    world.settle("alpha")
    assert world.rows()[0][12] == f"{world.pypi.root}files/alpha-1.0.tar.gz"
    assert world.jobs() == [("1.0", "bookworm-armhf")]
    before = world.marks()
    with world.feeding("alpha", interval=QUICK):
        world.wait(lambda: len(world.pypi.asked("json")) >= 4)
    assert world.marks() == before
    assert len(world.pypi.asked("simple")) == 1


def test_a_new_release_takes_the_place_of_the_older(world: World) -> None:
    world.pypi.add_release("alpha", "1.0")
    with world.feeding("alpha", interval=QUICK):
        world.wait(lambda: world.jobs() == [("1.0", "bookworm-armhf")])
        world.pypi.add_release("alpha", "1.1")
        world.wait(lambda: world.jobs() == [("1.1", "bookworm-armhf")])
        world.pypi.add_release("alpha", "2.0rc1")
        world.wait(lambda: "2.0rc1" in world.versions())
    assert world.jobs() == [("1.1", "bookworm-armhf")]
    assert world.stale() == {"alpha": 3}


def test_yank_and_its_reverse(world: World) -> None:
    world.pypi.add_release("alpha", "1.0")
    world.pypi.add_release("alpha", "1.1")
    with world.feeding("alpha", interval=QUICK):
        world.wait(lambda: world.jobs() == [("1.1", "bookworm-armhf")])
        world.pypi.yank("alpha", "1.1", "broken")
        world.wait(lambda: world.jobs() == [("1.0", "bookworm-armhf")])
        assert [row[6:8] for row in world.rows()] == [(False, ""), (True, "broken")]
        world.pypi.yank("alpha", "1.1", yanked=False)
        world.wait(lambda: world.jobs() == [("1.1", "bookworm-armhf")])


def test_an_sdist_added_after_the_wheels(world: World) -> None:
    world.pypi.add_release("alpha", "1.0", None, wheels=("cp39-cp39-win32",))
    with world.feeding("alpha", interval=QUICK):
        world.wait(lambda: world.alpha() == (WatchState.FOUND, "no source distribution (1.0)"))
        assert world.jobs() == []
        world.pypi.add_release("alpha", "1.0")
        world.wait(lambda: world.alpha() == (WatchState.FOUND, ""))
    assert world.jobs() == [("1.0", "bookworm-armhf"), ("1.0", "trixie-armhf")]


def test_files_and_releases_that_go(world: World) -> None:
    world.pypi.add_release("alpha", "1.0", wheels=("cp39-cp39-win32",))
    world.pypi.add_release("alpha", "1.1")
    world.settle("alpha")
    world.pypi.remove_release("alpha", "1.1")
    world.pypi.remove_file("alpha", "alpha-1.0-cp39-cp39-win32.whl")
    world.settle("alpha")
    with world.feeding("alpha", interval=QUICK):
        world.wait(lambda: [row[10] for row in world.rows()] == ["alpha-1.0.tar.gz"])
    assert world.jobs() == [("1.0", "bookworm-armhf")]


def test_what_the_operator_is_told(world: World) -> None:
    world.pypi.add_release("built", "1.0")
    world.pypi.add_release("served", "1.0", wheels=("py3-none-any",))
    world.pypi.add_release("wheels-only", "1.0", None, wheels=("cp39-cp39-win32",))
    world.pypi.add_release("newer", "1.0", requires_python=">=3.99")
    world.pypi.add_release("yanked", "1.0")
    world.pypi.yank("yanked", "1.0")
    world.pypi.add_project("empty")
    names = ("built", "served", "wheels-only", "newer", "yanked", "empty", "unknown", "../etc", "Served")
    told = world.settle(*names)
    assert list(told) == ["built", "served", "wheels-only", "newer", "yanked", "empty", "unknown", "-/etc"]
    assert {state for state, _ in list(told.values())[:6]} == {WatchState.FOUND}
    assert told["built"][1] == ""
    assert told["served"][1] == "served by PyPI (1.0)"
    assert told["wheels-only"][1] == "no source distribution (1.0)"
    assert told["newer"][1].startswith("not built: needs another Python: >=3.99")
    assert told["yanked"][1] == "not built: yanked (1.0)"
    assert told["empty"][1] == "PyPI has no release of it with files"
    assert told["unknown"] == (WatchState.MISSING, "PyPI has no project of this name")
    assert told["-/etc"] == (WatchState.ERROR, "'../etc' is not a project name")
    assert world.jobs() == [("1.0", "bookworm-armhf")]


def test_names_that_leave_the_list_keep_their_projects(world: World) -> None:
    world.pypi.add_release("alpha")
    world.pypi.add_release("beta")
    world.settle("alpha", "beta")
    assert list(world.settle("beta")) == ["beta"]
    assert world.count(projects) == 2
    assert list(world.settle("beta", "alpha")) == ["beta", "alpha"]


def test_one_404_deletes_nothing(world: World) -> None:
    world.pypi.add_release("alpha")
    world.settle("alpha")
    rows = world.rows()
    with world.feeding("alpha", interval=QUICK):
        world.pypi.fault(Fault.MISSING, path="alpha", times=None)
        world.wait(lambda: world.alpha()[0] is WatchState.MISSING)
        assert world.rows() == rows
        assert world.jobs()
        world.pypi.clear_faults()
        world.wait(lambda: world.alpha() == (WatchState.FOUND, ""))


def test_latest_or_all_is_a_matter_of_settings(world: World) -> None:
    world.pypi.add_release("alpha", "1.0")
    world.pypi.add_release("alpha", "1.1")
    world.settle("alpha")
    world.pypi.stop()  # it takes no word from PyPI
    with world.feeding("alpha", releases="all"):
        world.wait(lambda: len(world.jobs()) == 2)
    with world.feeding("alpha"):
        world.wait(lambda: world.jobs() == [("1.1", "bookworm-armhf")])


def test_pypi_down_then_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.pypi.add_release("alpha")
    world.pypi.add_release("beta")
    world.pypi.stop()
    caplog.set_level(logging.INFO, logger="piwheels")
    with world.feeding("alpha", "beta", interval=QUICK):
        world.wait(lambda: any("cannot be reached" in detail for _, detail in world.watches().values()))
        assert {state for state, _ in world.watches().values()} == {WatchState.PENDING}
        world.pypi.start()
        world.wait(lambda: {state for state, _ in world.watches().values()} == {WatchState.FOUND})
        assert len(world.jobs()) == 2
        world.pypi.stop()
        world.wait(lambda: any(detail.startswith("not seen lately") for _, detail in world.watches().values()))
        assert {state for state, _ in world.watches().values()} == {WatchState.FOUND}
        world.pypi.start()
        world.wait(lambda: set(world.watches().values()) == {(WatchState.FOUND, "")})
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2  # one for each outage
    assert len([record for record in caplog.records if record.message == "PyPI answers again"]) == 2


def test_a_pypi_that_stays_away_is_an_error_but_is_still_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "HOPELESS", 2)
    names = [f"p{number}" for number in range(30)]
    for name in names:
        world.pypi.add_release(name)
    world.pypi.fault(Fault.UNAVAILABLE, times=None)
    with world.feeding(*names):
        world.wait(lambda: {s for s, _ in world.watches().values()} == {WatchState.ERROR})
        assert len(world.pypi.asked()) <= 6  # polite: as many as go at once, then one at a time
        world.pypi.clear_faults()
        world.wait(lambda: {s for s, _ in world.watches().values()} == {WatchState.FOUND})


def test_retry_after_is_honoured(world: World) -> None:
    world.pypi.add_release("alpha")
    world.pypi.fault(Fault.RATE_LIMIT, retry_after="3600", times=1)
    with world.feeding("alpha", interval=QUICK) as context:
        world.wait(lambda: "fewer requests" in world.alpha()[1])
        assert not context.stop.wait(1.0)
        assert len(world.pypi.asked()) == 1


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"info": {"name": "beta"}, "releases": {}},
        {"info": {"name": "alpha"}, "releases": None},
        "\x00",
    ],
)
def test_hostile_json_is_an_error_of_its_project_alone(document: object, world: World) -> None:
    world.pypi.add_release("good")
    world.pypi.add_release("alpha")
    world.pypi.answer_with("alpha", document if document is not None else {"info": None})
    told = world.settle("alpha", "good")
    assert told["alpha"][0] is WatchState.ERROR
    assert told["alpha"][1]
    assert told["good"] == (WatchState.FOUND, "")
    assert world.count(projects) == 1


def test_strange_but_readable_json_is_stored_as_far_as_it_goes(world: World) -> None:
    nasty = "'; DROP TABLE jobs; --\x00\ud800"
    world.pypi.answer_with(
        "alpha",
        {
            "info": {"name": "Alpha", "summary": nasty * 100},
            "last_serial": 2**62 - 1,
            "releases": {
                nasty: [{"filename": "x.tar.gz"}],
                "dog": [{"filename": "alpha-dog.tar.gz"}],
                "1" * 138: [{"filename": "alpha.tar.gz", "yanked_reason": nasty, "yanked": True}],
                "2.0": [{"filename": nasty}, {"filename": "alpha-2.0.zip", "requires_python": nasty, "size": 2**61}],
            },
        },
    )
    told = world.settle("alpha")
    assert told["alpha"] == (WatchState.FOUND, "no source distribution (2.0)")
    assert world.versions() == {"dog", "1" * 138, "2.0"}


def test_an_unusable_answer_leaves_what_we_have(world: World) -> None:
    world.pypi.add_release("alpha")
    world.settle("alpha")
    rows = world.rows()
    world.pypi.answer_with("alpha", {"info": None})
    with world.feeding("alpha", interval=QUICK):
        world.wait(lambda: world.alpha()[1].startswith("not seen lately"))
        assert world.alpha()[0] is WatchState.FOUND
        assert world.rows() == rows
        world.pypi.answer_with("alpha", None)
        world.wait(lambda: world.alpha() == (WatchState.FOUND, ""))


def test_an_older_answer_changes_nothing(world: World) -> None:
    world.pypi.add_release("alpha", "1.0")
    old = world.pypi.json(world.pypi.projects["alpha"], files_url="https://files.example.org/")
    world.pypi.add_release("alpha", "2.0")
    world.settle("alpha")
    before = world.marks()
    with world.engine.begin() as conn:
        project = parse_project(old, name="alpha")
        assert upstream.sync_project(conn, project, every=False, policy=Policy()).older
    assert world.marks() == before


def test_a_target_enabled_while_the_feed_runs_is_planned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LOOK", 0.1)
    world.pypi.add_release("alpha", "1.0", wheels=("cp39-cp39-win32",))
    with world.feeding("alpha"):
        world.wait(lambda: len(world.jobs()) == 2)
        with world.engine.begin() as conn:
            targets.add(conn, PRESETS["trixie-arm64"])
        world.wait(lambda: ("1.0", "trixie-arm64") in world.jobs())


def test_the_details_follow_the_targets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LOOK", 0.1)
    world.pypi.add_release("alpha", "1.0", requires_python=">=3.13")
    with world.engine.begin() as conn:
        conn.execute(delete(target_table).where(target_table.c.name == "trixie-armhf"))
    with world.feeding("alpha"):
        world.wait(lambda: "needs another Python" in world.alpha()[1])
        with world.engine.begin() as conn:
            targets.add(conn, PRESETS["trixie-armhf"])
        world.wait(lambda: world.alpha() == (WatchState.FOUND, ""))


def test_any_history_killed_anywhere_converges(world: World) -> None:
    """A history of changes with faults, read by feeds that are stopped at random: in the end all is as PyPI has it,
    and as a farm has it that reads it all at once."""
    rng = random.Random(7)
    names = ["alpha", "beta", "gamma"]
    for name in names:
        world.pypi.add_release(name, "0.1", uploaded=OLD)
    for _ in range(6):
        with world.feeding(*names, interval=QUICK):
            for _ in range(rng.randint(1, 6)):
                change(world.pypi, rng, rng.choice(names))
                world.pypi.fault(rng.choice([Fault.TRUNCATE, Fault.DROP, Fault.GARBAGE, Fault.WRONG_TYPE]))
            seen = len(world.pypi.asked()) + rng.randint(0, 4)
            world.wait(lambda seen=seen: len(world.pypi.asked()) >= seen)  # type: ignore[misc]
    world.pypi.clear_faults()
    with world.feeding(*names, interval=QUICK):
        world.wait(
            lambda: {row[:1] + row[3:4] for row in world.rows()} == {(p.canonical, p.serial) for p in all_(world)}
        )
    found = world.rows(), world.jobs()
    assert {(row[4], row[10]) for row in found[0] if row[10]} == {
        (file.version, file.filename) for project in all_(world) for file in project.files.values()
    }
    with world.engine.begin() as conn:
        for table in (projects, watch_table):
            conn.execute(delete(table))
    world.settle(*names)
    assert (world.rows(), world.jobs()) == found


def test_killed_feeds_leave_nothing_half_done(world: World) -> None:
    """kill -9 at random moments, of a real process; each project's rows are all there or not at all."""
    names = [f"p{number}" for number in range(40)]
    for name in names:
        world.pypi.add_release(name, "1.0", wheels=("cp39-cp39-win32",), uploaded=OLD)
        world.pypi.add_release(name, "2.0", uploaded=OLD)
    environment = {
        **os.environ,
        "PIWHEELS_DATABASE_URL": world.database.url,
        "PIWHEELS_UPSTREAM_SIMPLE_URL": world.pypi.url,
        "PIWHEELS_FEED_PROJECTS": " ".join(names),
        "PIWHEELS_FEED_RELEASES": "all",
    }
    command = [sys.executable, "-c", "import sys; from piwheels.master.cli import main; sys.exit(main(['feed']))"]
    for answers in (1, 9, 23):
        asked = len(world.pypi.asked())
        process = subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.DEVNULL)
        try:
            world.wait(lambda asked=asked, n=answers: len(world.pypi.asked()) >= asked + n)  # type: ignore[misc]
        finally:
            process.kill()
            process.wait(SECONDS)
        rows = world.rows()
        assert {len([row for row in rows if row[0] == name]) for name in names} <= {0, 3}
        assert len(world.jobs()) == len({row[0] for row in rows}) * 4  # two releases, two targets, native
    assert {state for state, _ in world.settle(*names, releases="all").values()} == {WatchState.FOUND}
    assert len(world.rows()) == len(names) * 3


def all_(world: World) -> list[Any]:
    return list(world.pypi.projects.values())


def change(pypi: Simulator, rng: random.Random, name: str) -> None:
    """Something that happens to projects."""
    versions = sorted({file.version for file in pypi.projects[name].files.values()})
    some = rng.choice(versions)
    kind = rng.choice(["release", "release", "wheel", "yank", "unyank", "remove", "rename"])
    if kind == "release":
        pypi.add_release(name, f"{rng.randint(0, 3)}.{rng.randint(0, 9)}{rng.choice(['', '', 'rc1'])}", uploaded=OLD)
    elif kind == "wheel":
        pypi.add_release(name, some, None, wheels=(rng.choice(["py3-none-any", "cp39-cp39-win32"]),), uploaded=OLD)
    elif kind == "rename":
        pypi.rename(name, rng.choice([name.upper(), name.title(), name]))
    elif kind == "remove" and len(versions) > 1:
        pypi.remove_release(name, some)
    else:
        pypi.yank(name, some, rng.choice([None, "why not"]), yanked=kind == "yank")
