# SPDX-License-Identifier: BSD-3-Clause
"""Whether PyPI is up and how long it is left alone, with a clock that tests wind; and who asks, and where."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.errors import UpstreamError
from piwheels.pypi.addresses import Addresses
from piwheels.pypi.client import UpstreamAway, retry_after, user_agent
from piwheels.pypi.weather import LONGEST_OUTAGE, LONGEST_RETRY_AFTER, Backoff, Weather
from piwheels.settings import FarmSettings

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def weather() -> Weather:
    return Weather(rng=random.Random(1))


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


def test_good_weather() -> None:
    fine = weather()
    assert (fine.is_down, fine.since, fine.tries, fine.outage(5.0), fine.pause(5.0)) == (False, None, 0, 0.0, 0.0)
    assert fine.limit(16) == 16


def test_when_pypi_is_away_one_request_at_a_time_tries() -> None:
    bad = weather()
    bad.failed(100.0)
    assert (bad.is_down, bad.limit(16), bad.since) == (True, 1, 100.0)
    assert 0.5 <= bad.pause(100.0) <= 1.0
    assert bad.pause(101.0) == 0.0
    bad.failed(101.0)
    assert 1.0 <= bad.pause(101.0) <= 2.0
    assert (bad.tries, bad.since, bad.outage(160.0)) == (2, 100.0, 60.0)
    bad.succeeded()
    assert (bad.is_down, bad.limit(16), bad.since, bad.pause(101.0)) == (False, 16, None, 0.0)


def test_requests_that_fail_together_count_once() -> None:
    bad = weather()
    for number in range(16):
        bad.failed(number * 0.01)
    assert bad.tries == 1
    assert bad.pause(0.15) <= 1.0


def test_a_long_outage_is_looked_at_once_a_minute() -> None:
    bad, now = weather(), 0.0
    for _ in range(30):
        bad.failed(now)
        assert 0.0 < bad.pause(now) <= LONGEST_OUTAGE
        now += bad.pause(now)
    bad.failed(now)
    assert bad.pause(now) >= 0.5 * LONGEST_OUTAGE


def test_retry_after_is_waited_for_even_if_another_request_succeeds() -> None:
    bad = weather()
    bad.failed(0.0, retry_after=100.0)
    bad.failed(0.1, retry_after=90.0)  # a shorter one does not shorten it
    assert bad.pause(0.1) == pytest.approx(99.9)
    bad.succeeded()
    assert not bad.is_down
    assert bad.pause(50.0) == 50.0
    assert bad.pause(100.0) == 0.0


@pytest.mark.parametrize("asked", [-5.0, 0.0, float("nan"), float("inf"), 1e300])
def test_nobody_can_ask_for_for_ever(asked: float) -> None:
    bad = weather()
    bad.failed(0.0, retry_after=asked)
    assert 0.0 < bad.pause(0.0) <= LONGEST_RETRY_AFTER


def test_a_clock_that_goes_back_does_not_stop_it() -> None:
    bad = weather()
    bad.failed(10_000.0, retry_after=30.0)
    assert bad.pause(10.0) == 30.0
    assert bad.pause(40.0) == 0.0
    assert bad.outage(40.0) == 0.0


@given(st.lists(st.tuples(st.sampled_from(["ok", "away", "asked", "wait"]), st.floats(-50, 400)), max_size=60))
def test_waiting_always_ends(story: list[tuple[str, float]]) -> None:
    sky, now = weather(), 0.0
    for event, passed in story:
        now += passed
        if event == "ok":
            sky.succeeded()
        elif event != "wait":
            sky.failed(now, retry_after=passed if event == "asked" else None)
        pause = sky.pause(now)
        assert 0.0 <= pause <= LONGEST_RETRY_AFTER
        assert sky.pause(now + pause) == pytest.approx(0.0, abs=1e-6)
        assert sky.is_down == (sky.since is not None) == (sky.limit(4) == 1)


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
