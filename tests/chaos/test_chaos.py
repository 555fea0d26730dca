# SPDX-License-Identifier: BSD-3-Clause
"""A short storm, of half a minute; ``make chaos`` is the long one."""

import pytest

from tests.chaos.plan import Plan
from tests.chaos.storm import ride
from tests.chaos.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # on a busy machine


def test_a_short_storm() -> None:
    plan = Plan(seed=1, builds=13, faults=6, slaves=3, real=1, seconds=240.0)
    with World(plan) as world:
        report = ride(world)
    assert not report.problems, f"{report}\n" + "\n".join(report.problems)
    assert report.faults >= plan.faults and report.attempts["success"] == sum(one.good for one in world.releases)
