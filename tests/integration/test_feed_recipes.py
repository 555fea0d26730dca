# SPDX-License-Identifier: BSD-3-Clause
"""The feed role with a folder of recipes: in force before anything is planned, and followed while it runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from piwheels.db import changes
from piwheels.master import feed_recipes
from piwheels.settings import DatabaseSettings, RecipeSettings, Settings
from tests.integration.feed_world import World
from tests.simulator import Simulator
from tests.simulator.fixtures import simulator

__all__ = ["simulator"]

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "recipes"
    path.mkdir()
    return path


@pytest.fixture
def world(
    database: Engine,
    database_settings: DatabaseSettings,
    simulator: Simulator,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    monkeypatch.setattr(feed_recipes, "LOOK", 0.05)
    monkeypatch.setattr(feed_recipes, "PLAN", 0.05)
    made = World(database, database_settings, simulator)
    plain = made.settings

    def settings(*names: str, **feed_settings: object) -> Settings:
        return replace(plain(*names, **feed_settings), recipes=RecipeSettings(folder=folder))

    monkeypatch.setattr(made, "settings", settings)
    with database.begin() as conn:
        changes.advance(conn, simulator.serial, source="test")
    return made


def test_the_folder_holds_from_the_start_and_is_followed(world: World, folder: Path) -> None:
    (folder / "a.toml").write_text("[[recipe]]\nprojects = ['alpha']\nskip = 'no'\n")
    with world.feeding():
        world.pypi.add_release("alpha", "1.0")
        world.pypi.add_release("beta", "2.0")
        world.wait(lambda: world.applied() == world.pypi.serial)
        assert [version for version, _ in world.jobs()] == ["2.0"]
        (folder / "a.toml").write_text("[[recipe]]\nprojects = ['b*']\nskip = 'no'\n")
        world.wait(lambda: [version for version, _ in world.jobs()] == ["1.0"])
        (folder / "a.toml").write_text("[[recipe]]\nprojects = ['alpha']\nskipp = 'no'\n")
        world.pypi.add_release("alpha", "3.0")
        world.wait(lambda: world.applied() == world.pypi.serial)
        assert [version for version, _ in world.jobs()] == ["3.0"]
    (folder / "a.toml").unlink()
    with world.feeding():
        world.wait(lambda: [version for version, _ in world.jobs()] == ["2.0", "3.0"])


def test_a_feed_starts_although_its_recipes_make_no_sense(
    world: World, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.toml").write_text("nonsense")
    with world.feeding():
        world.pypi.add_release("alpha", "1.0")
        world.wait(world.jobs)
    assert caplog.text.count("recipes stay as they were: a.toml:1: not TOML") == 1
