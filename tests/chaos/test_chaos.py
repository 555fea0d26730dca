# SPDX-License-Identifier: BSD-3-Clause
"""A short storm, in which each kind of process is hit once; ``make chaos`` is the long one."""

import pytest

from tests.chaos.plan import Plan
from tests.chaos.storm import ANY, ride
from tests.chaos.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # on a busy machine

FIRST = ("cut the network", "kill postgres", "kill dispatch", "clock forward")
ARMED = {"dispatch": "recorded=stop verified=enospc", "publish": "linked=kill", "slave": "built=kill"}


def test_a_short_storm() -> None:
    plan = Plan(1, builds=13, faults=8, slaves=2, real=0, publishers=1, seconds=240.0, first=FIRST, armed=ARMED)
    with World(plan) as world:
        report = ride(world)
    assert not report.problems, f"{report}\n" + "\n".join(report.problems)
    assert report.faults >= plan.faults and report.attempts["success"] == sum(one.good for one in world.releases)
    assert all(report.happened[ANY, what] for what in FIRST), str(report)
    assert {point for point, _ in report.happened} >= {"recorded", "verified", "built"}, str(report)
    assert {f"kill {whom}" for whom in ("dispatch", "publish", "slave", "postgres")} <= {w for _, w in report.happened}
