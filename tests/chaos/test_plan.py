# SPDX-License-Identifier: BSD-3-Clause
"""What a seed draws: the same each time, nothing that is not to be had, and every point there is."""

from random import Random

import pytest

from piwheels.faults import POINTS, Kind, parse
from tests.chaos.plan import BLOWS, MEETINGS, PASSED, Plan, blow, draw, happening


@pytest.mark.parametrize("kind", sorted(PASSED))
def test_processes_get_what_can_happen_to_them_and_one_end_at_most(kind: str) -> None:
    rng, again = Random(5), Random(5)
    drawn = [draw(rng, kind, pace=4.0) for _ in range(300)]
    assert drawn == [draw(again, kind, pace=4.0) for _ in range(300)]
    seen, ends = set(), 0
    for text in drawn:
        faults = parse(text)
        kinds = [fault.kind for waiting in faults.values() for fault in waiting]
        assert kinds.count(Kind.KILL) <= 1 <= len(kinds)
        ends += kinds.count(Kind.KILL)
        seen |= faults.keys()
    assert seen == PASSED[kind].keys() and 150 < ends < 210


def test_every_point_is_passed_by_somebody() -> None:
    never = {"renamed", "unlisted"}  # a storm builds everything once and removes nothing
    assert {point for passed in PASSED.values() for point in passed} == set(POINTS) - never


def test_every_blow_falls() -> None:
    rng = Random(1)
    assert {blow(rng) for _ in range(500)} == set(BLOWS)


def test_what_a_process_says_is_what_is_done_from_outside() -> None:
    said = {
        happening("slave", "built", "kill"),
        happening("publish", "committing", "lost"),
        happening("slave", "sending", "lost"),
        happening("dispatch", "leased", "sleep"),
    }
    assert said == {"kill slave", "cut the database", "cut the network", "stall dispatch"} and said <= set(BLOWS)
    assert set(MEETINGS) <= set(BLOWS)


def test_faults_keep_pace_with_builds() -> None:
    plan = Plan(seed=1, builds=2000, faults=500)
    assert (plan.due(0), plan.due(1000), plan.due(5000)) == (0.25, 250.25, 500)
