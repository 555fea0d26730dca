# SPDX-License-Identifier: BSD-3-Clause
"""When PyPI is asked, with a clock that tests wind."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.errors import UpstreamError
from piwheels.pypi.client import Addresses, UpstreamAway, retry_after, user_agent
from piwheels.pypi.schedule import LONGEST_OUTAGE, Backoff, Schedule
from piwheels.settings import FarmSettings

INTERVAL = 300.0
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def schedule(*names: str, parallel: int = 2) -> Schedule:
    made = Schedule(interval=INTERVAL, parallel=parallel, rng=random.Random(1))
    made.watch(names, 0.0)
    return made


@given(st.integers(0), st.integers(1, 200), st.floats(0.1, 10), st.floats(10, 1000))
def test_back_off_grows_within_bounds_and_differs(seed: int, failures: int, first: float, longest: float) -> None:
    backoff = Backoff(first, longest, random.Random(seed))
    delays = [backoff.failed() for _ in range(failures)]
    for number, delay in enumerate(delays):
        assert 0.5 * min(longest, first * 2.0**number) <= delay <= longest
    backoff.succeeded()
    assert backoff.failed() <= first


def test_what_the_other_side_asks_for_is_the_least() -> None:
    assert Backoff(1.0, 60.0).failed(at_least=900.0) == 900.0


def test_all_are_asked_at_once_as_far_as_allowed_and_again_after_the_interval() -> None:
    plan = schedule("a", "b", "c")
    assert plan.take(0.0) == ["a", "b"]
    assert plan.take(0.0) == []
    plan.answered("a", 1.0)
    assert plan.take(1.0) == ["c"]
    plan.answered("b", 2.0)
    plan.answered("c", 2.0)
    assert 0.9 * INTERVAL - 1 <= plan.wait(2.0) <= INTERVAL
    assert plan.take(0.9 * INTERVAL) == []
    again = plan.take(2.0 + INTERVAL)
    assert len(again) == len(set(again)) == 2


def test_an_unusable_answer_delays_its_name_only() -> None:
    plan = schedule("a", "b", parallel=1)
    assert plan.take(0.0) == ["a"]
    plan.unusable("a", 0.0)
    assert not plan.is_down
    assert plan.take(0.0) == ["b"]
    plan.answered("b", 0.0)
    assert plan.take(0.4) == []
    assert plan.take(1.0) == ["a"]


def test_when_pypi_is_away_one_request_at_a_time_tries() -> None:
    plan = schedule("a", "b", "c")
    assert plan.take(0.0) == ["a", "b"]
    plan.away("a", 0.0)
    plan.away("b", 0.0)  # failed together: counts once
    assert (plan.is_down, plan.outage) == (True, 1)
    assert plan.take(0.4) == []
    assert plan.take(1.0) == ["c"]
    assert plan.take(1.0) == []
    plan.answered("c", 1.5)
    assert not plan.is_down
    assert sorted(plan.take(3.0)) == ["a", "b"]


def test_retry_after_quiets_everything() -> None:
    plan = schedule("a", "b", parallel=1)
    plan.take(0.0)
    plan.away("a", 0.0, retry_after=100.0)
    assert plan.wait(0.0) == 100.0
    assert plan.take(99.0) == []
    assert plan.take(100.0) == ["b"]


def test_a_long_outage_is_looked_at_once_a_minute() -> None:
    plan = schedule("a")
    now = 0.0
    for _ in range(30):
        now += plan.wait(now)
        assert plan.take(now) == ["a"]
        plan.away("a", now)
    assert 0.5 * LONGEST_OUTAGE <= plan.wait(now) <= INTERVAL


def test_one_project_that_always_fails_does_not_hold_up_the_others() -> None:
    plan = schedule("bad", "good", parallel=1)
    now, asked = 0.0, {"bad": 0, "good": 0}
    while now < 20 * INTERVAL:
        now += max(plan.wait(now), 0.01)
        for name in plan.take(now):
            asked[name] += 1
            if name == "bad":
                plan.away(name, now)
            else:
                plan.answered(name, now)
    assert asked["good"] >= 18
    assert asked["bad"] <= 60


def test_names_that_left_the_list_are_forgotten() -> None:
    plan = schedule("a", "b", parallel=1)
    assert plan.take(0.0) == ["a"]
    plan.watch(["b"], 0.0)
    plan.answered("a", 1.0)
    assert plan.take(1.0) == ["b"]
    assert plan.wait(2.0) == float("inf")


@given(st.lists(st.tuples(st.sampled_from(["ok", "bad", "away", "wait"]), st.floats(0, 400)), max_size=60))
def test_every_name_comes_round_whatever_happens(story: list[tuple[str, float]]) -> None:
    plan = schedule("a", "b", "c")
    now, flying = 0.0, list[str]()
    for event, passed in story:
        now += passed
        flying += plan.take(now)
        assert len(flying) == len(set(flying)) <= 2
        if flying and event != "wait":
            name = flying.pop(0)
            {"ok": plan.answered, "bad": plan.unusable, "away": plan.away}[event](name, now)
    for name in flying:
        plan.answered(name, now)
    seen = set[str]()
    for _ in range(10):
        now += plan.wait(now)
        for name in plan.take(now):
            seen.add(name)
            plan.answered(name, now)
    assert seen == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 5000, 3600.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 12:00:30", 30.0),
        ("Sat, 21 Nov 2020 12:00:30 GMT", 0.0),
        ("Sat, 21 Nov 9999 12:00:30 GMT", 3600.0),
        ("Sat, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_header(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, now=NOW) == seconds


def test_addresses_derive_from_the_simple_index() -> None:
    for given_ in ("http://127.0.0.1:1/simple", "http://127.0.0.1:1/simple/"):
        addresses = Addresses.of(given_)
        assert addresses.page("spam") == "http://127.0.0.1:1/simple/spam/"
        assert addresses.json("spam") == "http://127.0.0.1:1/pypi/spam/json"
    assert (
        Addresses.of("https://example.org/mirror/simple/").json("spam") == "https://example.org/mirror/pypi/spam/json"
    )
    assert Addresses.of("").simple.startswith("https://")


def test_the_user_agent_says_who_asks() -> None:
    agent = user_agent(FarmSettings(name="Färm (one)\r\nX-Evil: 1", contact="me@example.org"))
    assert agent.startswith("piwheels/")
    assert agent.endswith(" (Frm [one] X-Evil: 1; me@example.org)")
    assert user_agent(FarmSettings(name="", contact="")).count("(") == 0


def test_the_errors_are_a_family() -> None:
    away = UpstreamAway("PyPI does not answer", retry_after=3.0)
    assert isinstance(away, UpstreamError | OSError)
    assert (str(away), away.retry_after) == ("PyPI does not answer", 3.0)
