# SPDX-License-Identifier: BSD-3-Clause
"""Answers that are well formed and wrong, while the feed follows: whatever they say, we end with what PyPI has, the
position never goes back, and nothing is deleted that is there."""

import pytest
from sqlalchemy import Engine

from piwheels.db import changes
from piwheels.settings import DatabaseSettings
from tests.integration.feed_world import World
from tests.simulator import Fault, Simulator
from tests.simulator.fixtures import simulator
from tests.simulator.recipes import TINY

__all__ = ["simulator"]

pytestmark = pytest.mark.integration

LIES = (
    *(Fault.SERIAL_BACK, Fault.STALE, Fault.SHUFFLE, Fault.DUPLICATE, Fault.GAPS, Fault.TIME_BACK),
    *(Fault.MEGA_NAME, Fault.NULLS, Fault.EMPTY_LISTING),
)


@pytest.fixture
def world(database: Engine, database_settings: DatabaseSettings, simulator: Simulator) -> World:
    world = World(database, database_settings, simulator)
    with database.begin() as conn:
        changes.advance(conn, simulator.serial, source="test")
    return world


@pytest.mark.parametrize("fault", LIES)
@pytest.mark.parametrize(("source", "path"), [("journal", "/pypi"), ("index", "/simple/")])
def test_news_that_lie(source: str, path: str, fault: Fault, world: World) -> None:
    pypi = world.pypi
    with world.feeding(source=source, repairs=6000):
        for name in ("alpha", "beta", "gamma"):
            pypi.add_release(name, "1.0", TINY)
        world.wait(world.followed)
        before = position(world)
        pypi.fault(fault, path=path, times=3)
        pypi.add_release("alpha", "1.1", TINY)
        pypi.remove_project("beta")
        world.wait(lambda: position(world) >= before)
        pypi.add_release("delta", "1.0", TINY)
        world.wait(world.followed)
        assert {"alpha", "gamma", "delta"} == set(world.ours())
        assert position(world) == pypi.serial >= before


def test_a_history_that_was_cut_short_is_lived_through(world: World) -> None:
    """PyPI restored from a backup: its serials are lower than ours for a while, and news of that time are old to us."""
    pypi = world.pypi
    pypi.add_release("alpha", "1.0", TINY)
    with world.feeding():
        world.wait(world.followed)
    with world.engine.begin() as conn:
        changes.advance(conn, pypi.serial + 5, source="test")
    with world.feeding():
        pypi.add_release("beta", "1.0", TINY)  # its serials are not above ours
        pypi.add_release("gamma", "1.0", TINY)
        world.wait(lambda: "gamma" in world.ours())
    with world.feeding(reconcile=world.settings().feed.poll, repairs=6000):
        world.wait(world.followed)


def position(world: World) -> int:
    with world.engine.begin() as conn:
        return changes.position(conn) or 0
