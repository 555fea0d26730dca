# SPDX-License-Identifier: BSD-3-Clause
"""When the supervisor starts a process again: decided by the clock it is told."""

import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.errors import SettingsError
from piwheels.master.cli import chosen
from piwheels.master.supervisor import LONGEST_DELAY, STABLE, Keeper, Post, ending, posts
from piwheels.vocabulary import Role


def test_a_new_post_is_due_at_once_and_not_while_it_runs() -> None:
    keeper = Keeper()
    assert keeper.is_due(0.0)
    keeper.started(1.0)
    assert not keeper.is_due(10**6)


def test_delays_double_up_to_a_limit() -> None:
    keeper, now, delays = Keeper(), 0.0, []
    for _ in range(10):
        keeper.started(now)
        delays.append(keeper.ended(now + 1))
        now += 1 + delays[-1]
        assert keeper.is_due(now) and not keeper.is_due(now - 0.01)
    assert delays[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert delays[-1] == LONGEST_DELAY


def test_running_stably_forgets_what_was() -> None:
    keeper = Keeper()
    for _ in range(8):
        keeper.started(0.0)
        keeper.ended(1.0)
    keeper.started(100.0)
    assert keeper.ended(100.0 + STABLE) == 0.5
    keeper.started(200.0)
    assert keeper.ended(200.0 + STABLE - 0.1) == 1.0


@given(st.lists(st.floats(min_value=0, max_value=10**5), max_size=60))
def test_it_is_always_started_again_within_the_limit(runs: list[float]) -> None:
    keeper, now = Keeper(), 0.0
    for run in runs:
        keeper.started(now)
        now += run
        delay = keeper.ended(now)
        assert 0 < delay <= LONGEST_DELAY and not keeper.is_due(now) and keeper.is_due(now + delay)
        now += delay


def test_posts_and_their_names() -> None:
    found = posts(list(Role), publishers=3)
    assert [post.name for post in found] == [
        "feed",
        "dispatch",
        "publish",
        "publish-2",
        "publish-3",
        "stats",
        "control",
    ]
    assert posts([Role.FEED], publishers=5) == [Post(Role.FEED)]


def test_chosen_roles() -> None:
    assert chosen(None) == list(Role)
    assert chosen("control, feed,feed") == [Role.FEED, Role.CONTROL]
    with pytest.raises(SettingsError, match="there are: feed, dispatch"):
        chosen("feed,everything")


def test_endings_in_words() -> None:
    assert ending(70) == "ended with status 70"
    assert ending(-signal.SIGKILL) == "was ended by SIGKILL"
    assert ending(-200) == "was ended by signal 200"


def test_what_is_forked_has_one_thread_and_no_descriptors() -> None:
    """A lock that another thread holds when its process is forked is held for ever in the child."""
    script = (
        "import os, piwheels.master.cli as cli; from piwheels.vocabulary import Role\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "for role in Role: cli._module(role)\n"
        "print(len(os.listdir('/proc/self/task')), len(os.listdir('/proc/self/fd')) - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["1", "0"]
