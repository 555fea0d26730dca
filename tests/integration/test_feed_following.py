# SPDX-License-Identifier: BSD-3-Clause
"""The feed role following everything, by journal and by index: whatever PyPI does, we have what it has, and delete
nothing that it did not."""

import logging
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select, update

from piwheels.db import changes
from piwheels.db.tables import changes as change_table
from piwheels.db.tables import documents, projects, watches
from piwheels.pypi.interpret import Change
from piwheels.pypi.pending import Priority
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import ProjectStatus
from tests.integration.feed_world import QUICK, World
from tests.simulator import Fault, Simulator
from tests.simulator.fixtures import simulator
from tests.simulator.recipes import PURE, variant

__all__ = ["simulator"]

pytestmark = pytest.mark.integration

SOON = timedelta(seconds=0.3)


@pytest.fixture
def world(database: Engine, database_settings: DatabaseSettings, simulator: Simulator) -> World:
    return World(database, database_settings, simulator)


@pytest.fixture
def following(world: World) -> World:
    """A world whose feed has begun at serial 1000, before anything happened."""
    with world.engine.begin() as conn:
        changes.advance(conn, world.pypi.serial, source="test")
    return world


def test_a_new_release_becomes_a_job(following: World) -> None:
    with following.feeding() as context:
        following.pypi.add_release("Alpha.One", "1.0")
        following.wait(lambda: following.jobs() == [("1.0", "bookworm-armhf")])
        following.wait(lambda: following.followed() and following.applied() == following.pypi.serial)
        following.wait(lambda: context.state.get("source") == "journal")
    assert following.stale().keys() == {"alpha-one"}
    with following.engine.begin() as conn:
        assert len(conn.execute(select(documents)).all()) == 1


def test_a_new_farm_begins_now(world: World) -> None:
    """What was there before comes with piw-bootstrap, or by and by with comparisons."""
    world.pypi.add_release("old")
    with world.feeding():
        world.wait(lambda: world.applied() == world.pypi.serial)
        world.pypi.add_release("new")
        world.wait(lambda: "new" in world.ours())
        assert set(world.ours()) == {"new"}
    with world.feeding(reconcile=QUICK, repairs=6000):
        world.wait(world.followed)


@pytest.mark.parametrize("source", ["journal", "index"])
def test_everything_that_can_happen_to_a_project(source: str, following: World) -> None:
    pypi = following.pypi
    with following.feeding(source=source):
        for name in ("alpha", "beta", "gamma", "delta"):
            pypi.add_release(name, "1.0", wheels=("cp39-cp39-win32",))
            pypi.add_release(name, "1.1")
        following.wait(following.followed)
        pypi.yank("alpha", "1.1", "broken")
        pypi.remove_release("beta", "1.0")
        pypi.remove_file("gamma", "gamma-1.1.tar.gz")
        pypi.rename("delta", "DELTA")
        following.wait(following.followed)
        pypi.yank("alpha", "1.1", yanked=False)
        pypi.add_release("beta", "1.0.post1", None, wheels=("py3-none-any",))
        pypi.recreate("gamma", "0.1")
        pypi.set_status("delta", "archived")
        following.wait(following.followed)
        pypi.quarantine("alpha")
        pypi.quarantine_release("beta", "1.1")
        pypi.remove_project("gamma")
        pypi.set_status("delta", "active")
        following.wait(following.followed)
        assert following.ours()["alpha"].status == "quarantined" and len(following.ours()["alpha"].releases) == 2
        assert "gamma" not in following.ours() and set(following.ours()["beta"].releases) == {"1.0.post1"}
        pypi.clear_quarantine("alpha")
        pypi.clear_release_quarantine("beta", "1.1")
        following.wait(following.followed)
        following.wait(lambda: following.waiting() == 0)
    assert {"alpha", "beta", "gamma", "delta"} <= following.stale().keys()


def test_quarantine_stops_builds_and_its_end_starts_them(following: World) -> None:
    with following.feeding():
        following.pypi.add_release("alpha", "1.0")
        following.wait(following.jobs)
        following.pypi.quarantine("alpha")
        following.wait(lambda: not following.jobs())
        following.pypi.clear_quarantine("alpha")
        following.wait(following.jobs)


def test_what_was_removed_while_in_quarantine_is_noticed_without_the_journal(following: World) -> None:
    following.pypi.add_release("alpha", "1.0")
    following.pypi.add_release("beta", "1.0")
    with following.feeding(source="index", reconcile=SOON, repairs=6000, disbelief=SOON):
        following.wait(lambda: following.followed() and following.ours())
        following.pypi.quarantine("alpha")
        following.wait(lambda: following.ours()["alpha"].status == "quarantined")
        following.pypi.remove_project("alpha")
        following.wait(lambda: set(following.ours()) == {"beta"})


def test_people_who_leave_take_no_project_with_them(following: World) -> None:
    with following.feeding():
        following.pypi.add_release("alpha", "1.0")
        following.pypi.change_owner("alpha", "remove-me")
        following.pypi.change_owner("alpha", "remove-me", remove=True)
        following.pypi.unknown_event("alpha", "remove trusted publisher")
        following.pypi.docupdate("alpha")
        following.wait(lambda: following.followed() and following.waiting() == 0)
        assert set(following.ours()) == {"alpha"}


def test_a_404_is_not_a_deletion(following: World) -> None:
    with following.feeding():
        following.pypi.add_release("alpha", "1.0")
        following.wait(lambda: following.followed() and following.waiting() == 0)
        following.pypi.fault(Fault.MISSING, path="alpha", times=4)
        following.pypi.add_release("alpha", "1.1")
        following.wait(following.followed)
    assert set(following.ours()["alpha"].releases) == {"1.0", "1.1"}


def test_a_404_that_stays_is(following: World) -> None:
    following.pypi.add_release("alpha", "1.0")
    with following.feeding(disbelief=SOON):
        following.wait(lambda: following.followed() and following.ours())
        following.pypi.fault(Fault.MISSING, path="alpha", times=None)
        following.pypi.docupdate("alpha")
        following.wait(lambda: not following.ours())


def test_a_stale_answer_is_asked_for_again(following: World) -> None:
    with following.feeding():
        following.pypi.add_release("alpha", "1.0")
        following.wait(following.followed)
        following.pypi.fault(Fault.STALE, path="json", times=2)
        following.pypi.add_release("alpha", "1.1")
        following.wait(following.followed)
        following.wait(lambda: following.waiting() == 0)


def test_a_state_older_than_ours_is_believed_in_the_end(following: World) -> None:
    """As after PyPI was restored from a backup."""
    following.pypi.add_release("alpha", "1.0")
    with following.feeding(disbelief=SOON):
        following.wait(lambda: following.followed() and following.ours())
        with following.engine.begin() as conn:
            conn.execute(update(projects).values(serial=10**9, summary="from the future"))
        following.pypi.docupdate("alpha")
        following.wait(following.followed)


def test_over_to_the_index_and_back(following: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="piwheels")
    pypi = following.pypi
    with following.feeding(journal_retry=SOON) as context:
        for round_ in range(3):
            pypi.add_release("alpha", f"{round_}.0")
            following.wait(following.followed)
            pypi.journal_enabled = False
            pypi.add_release("beta", f"{round_}.0")
            pypi.add_release("alpha", f"{round_}.1")
            following.wait(lambda: context.state.get("source") == "index")
            following.wait(following.followed)
            pypi.add_release("gamma", f"{round_}.0")
            following.wait(following.followed)
            pypi.add_release("delta", f"{round_}.0")
            pypi.journal_enabled = True
            following.wait(lambda: context.state.get("source") == "journal")
            following.wait(following.followed)
    said = [record.message for record in caplog.records]
    assert sum("instead of its journal" in line for line in said) == 3
    assert sum("answers again" in line for line in said) == 3


@pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE, Fault.XML_BOMB, Fault.NULLS, Fault.WRONG_TYPE])
def test_a_journal_that_makes_no_sense(fault: Fault, following: World) -> None:
    """Nothing of it is believed, nothing is lost, and the index is followed if it stays so."""
    following.pypi.fault(fault, path="pypi", times=3)
    with following.feeding():
        following.pypi.add_release("alpha", "1.0")
        following.wait(following.followed)


def test_an_empty_listing_deletes_nothing(following: World, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("alpha", "beta", "gamma"):
        following.pypi.add_release(name, "1.0")
    with following.feeding(source="index", repairs=6000):
        following.wait(following.followed)
        following.pypi.fault(Fault.EMPTY_LISTING, path="/simple/", times=3)
        following.pypi.add_release("delta", "1.0")
        following.wait(following.followed)
        assert len(following.ours()) == 4
    assert "not believed" in caplog.text


def test_comparing_repairs_what_was_missed(following: World) -> None:
    pypi = following.pypi
    for name in ("alpha", "beta", "gamma", "delta"):
        pypi.add_release(name, "1.0")
    with following.feeding():
        following.wait(following.followed)
    pypi.add_release("alpha", "2.0")
    pypi.remove_project("beta")
    with following.engine.begin() as conn:
        changes.advance(conn, pypi.serial, source="test")  # as if the journal had swallowed all that
        conn.execute(delete(projects).where(projects.c.name == "gamma"))
    assert not following.followed()
    with following.feeding(reconcile=QUICK, repairs=6000) as context:
        following.wait(following.followed)
        following.wait(lambda: context.state.get("totals", {}).get("repaired") == 3)


def test_only_what_is_listed_is_followed(following: World) -> None:
    with following.feeding("alpha", source="journal"):
        following.pypi.add_release("beta", "1.0")
        following.pypi.add_release("alpha", "1.0")
        following.wait(lambda: "alpha" in following.ours() and following.applied() == following.pypi.serial)
    assert set(following.ours()) == {"alpha"}
    assert not following.pypi.asked("beta")
    with following.engine.begin() as conn:
        heard = [Change(name, 0, 0, removed=False, page=False) for name in ("alpha", "beta", "gamma")]
        assert changes.record(conn, heard, Priority.REPAIR, restricted=True) == 1
        assert changes.record(conn, heard, Priority.REPAIR) == 3


def test_requirements_with_what_they_depend_on(following: World, tmp_path: Path) -> None:
    pypi = following.pypi
    for name, requires in {
        "app": ["lib>=1", 'windows-only; sys_platform == "win32"', 'extra-lib; extra == "more"'],
        "lib": ["deep"],
        "extra-lib": [],
        "deep": ["lib"],
        "windows-only": [],
        "other": [],
    }.items():
        pypi.add_release(name, "1.0", variant(PURE, requires_dist=tuple(requires)))
    file = tmp_path / "requirements.txt"
    file.write_text("app[more]==1.0  # the one\n")
    with following.feeding(requirements=str(file)):
        following.wait(
            lambda: following.waiting() == 0 and set(following.ours()) == {"app", "lib", "deep", "extra-lib"}
        )
    file.write_text("lib\n")
    with following.feeding(requirements=str(file)):
        following.wait(lambda: set(listed(following)) == {"lib", "deep"})


def listed(world: World) -> list[str]:
    with world.engine.begin() as conn:
        return list(conn.scalars(select(watches.c.name)))


def test_the_journal_asks_for_patience(following: World) -> None:
    following.pypi.fault(Fault.RPC_LIMIT, path="pypi", times=2)
    with following.feeding():
        following.pypi.add_release("alpha", "1.0")
        following.wait(following.followed)


def test_two_feeds_take_turns(following: World, caplog: pytest.LogCaptureFixture) -> None:
    with following.feeding():
        following.wait(lambda: following.pypi.asked("pypi"))
        with following.feeding():
            following.wait(lambda: "another feed" in caplog.text)
    following.pypi.add_release("alpha", "1.0")
    with following.feeding():
        following.wait(following.followed)


def test_what_cannot_be_read_holds_nobody_up(following: World) -> None:
    with following.feeding():
        following.pypi.add_release("alpha", "1.0")
        following.pypi.answer_with("alpha", {"info": None})
        for number in range(20):
            following.pypi.add_release(f"good-{number}", "1.0")
        following.wait(lambda: len(following.ours()) == 20)
        with following.engine.begin() as conn:
            waiting = conn.execute(select(change_table)).all()
        assert [row.name for row in waiting] == ["alpha"]
        assert following.applied() < waiting[0].first_serial
        following.pypi.answer_with("alpha", None)
        following.wait(following.followed)
        following.wait(lambda: following.applied() == following.pypi.serial)


def test_status_words(following: World) -> None:
    following.pypi.add_release("alpha", "1.0")
    with following.feeding():
        following.wait(following.followed)
        for status in ("archived", "deprecated", "quarantined", "active"):
            following.pypi.set_status("alpha", status)
            following.wait(lambda status=status: following.ours()["alpha"].status == status)  # type: ignore[misc]
    assert following.ours()["alpha"].status == ProjectStatus.ACTIVE


def test_a_quarantined_release_stays_hidden_whatever_else_happens(following: World) -> None:
    pypi = following.pypi
    with following.feeding():
        pypi.add_release("alpha", "1.0")
        pypi.add_release("alpha", "1.1")
        pypi.quarantine_release("alpha", "1.1")
        following.wait(lambda: following.followed() and following.ours())
        pypi.docupdate("alpha")
        following.wait(lambda: following.followed() and following.waiting() == 0)
        pypi.add_release("alpha", "1.2")
        following.wait(lambda: following.followed() and following.waiting() == 0)
        assert set(following.ours()["alpha"].releases) == {"1.0", "1.2"}
        pypi.clear_release_quarantine("alpha", "1.1")
        following.wait(following.followed)


@pytest.mark.parametrize("kept", ["kept", "missing"])
def test_projects_without_releases(kept: str, following: World) -> None:
    """Whether PyPI answers for them or not."""
    following.pypi.empty_json = kept
    with following.feeding():
        following.pypi.add_project("alpha")
        following.pypi.add_release("beta", "1.0")
        following.wait(lambda: following.followed() and "beta" in following.ours())
        following.pypi.remove_release("beta", "1.0")
        following.wait(lambda: following.followed() and not following.ours()["beta"].releases)
        following.pypi.add_release("alpha", "1.0")
        following.wait(following.followed)
        following.wait(lambda: following.waiting() == 0)
