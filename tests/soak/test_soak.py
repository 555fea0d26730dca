# SPDX-License-Identifier: BSD-3-Clause
"""A short day, of half a minute; ``make soak`` is the long one."""

import pytest
from sqlalchemy import Engine

from piwheels.settings import DatabaseSettings
from tests.integration.feed_world import World
from tests.simulator import Simulator
from tests.simulator.fixtures import simulator
from tests.soak.day import Day, live

__all__ = ["simulator"]

pytestmark = pytest.mark.integration


def test_a_short_day(database: Engine, database_settings: DatabaseSettings, simulator: Simulator) -> None:
    day = Day(seed=4, events=600, seconds=15.0, refusals=2, projects=40)
    report = live(World(database, database_settings, simulator), day)
    assert report.killed >= 3 and report.refused == 2 and report.wrong > 0, report
