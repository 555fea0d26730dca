# SPDX-License-Identifier: BSD-3-Clause
"""Any order, repetition, cut and restart of a recorded history leaves the database as PyPI is in the end.

A case is one project's way through its history. Some share a farm, as projects do: its journal, its transactions and
its kills; see replay. A failure names the recording and the seed, and tells the follower's story. ``PIWHEELS_CASES``
says how many there are to be, for a machine with time on its hands.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from piwheels.db import changes, targets
from piwheels.master.targets import PRESETS
from tests.integration.replay import Caches, Follower, Recording, everything
from tests.simulator.script import Step, random_day

pytestmark = pytest.mark.integration

CASES = int(os.environ.get("PIWHEELS_CASES", "2000"))  #: of each of the two properties, half
PARTS = 4  #: that each property is tested in
RECORDINGS = 40
PROJECTS, EVENTS = 10, 100  #: of a recording

#: Every action that the brief names, and what only makes sense together.
BY_HAND: list[Step] = [
    {"do": "add_project", "name": "Alpha.One"},
    {"do": "add_release", "name": "Alpha.One", "version": "1.0", "recipe": "tiny"},
    {"do": "change_owner", "name": "Alpha.One", "who": "remove-me"},
    {"do": "add_release", "name": "beta", "version": "1.0", "recipe": None, "wheels": ["cp39-cp39-win32"]},
    {"do": "change_owner", "name": "alpha-one", "who": "remove-me", "remove": True},
    {"do": "change_owner", "name": "alpha-one", "who": "x", "role": "Maintainer"},
    {"do": "docupdate", "name": "alpha-one"},
    {"do": "add_release", "name": "beta", "version": "1.0", "recipe": "tiny"},
    {"do": "add_release", "name": "beta", "version": "2.0", "recipe": "tiny", "wheels": ["py3-none-any"]},
    {"do": "yank", "name": "beta", "version": "2.0", "reason": "broken"},
    {"do": "unknown_event", "name": "alpha-one", "action": "remove", "version": "0.9"},
    {"do": "unknown_event", "name": "alpha-one", "action": "remove trusted publisher"},
    {"do": "quarantine", "name": "alpha-one"},
    {"do": "remove_file", "name": "beta", "filename": "beta-2.0-py3-none-any.whl"},
    {"do": "yank", "name": "beta", "version": "2.0", "yanked": False},
    {"do": "clear_quarantine", "name": "alpha-one"},
    {"do": "quarantine_release", "name": "beta", "version": "2.0"},
    {"do": "add_release", "name": "gamma", "version": "dog", "recipe": "tiny"},
    {"do": "rename", "name": "alpha-one", "spelling": "ALPHA_one"},
    {"do": "skip", "serials": 77},
    {"do": "remove_release", "name": "beta", "version": "1.0"},
    {"do": "recreate", "name": "gamma", "version": "dog", "recipe": "tiny"},
    {"do": "docupdate", "name": "beta"},
    {"do": "clear_release_quarantine", "name": "beta", "version": "2.0"},
    {"do": "remove_project", "name": "gamma"},
    {"do": "set_status", "name": "beta", "status": "archived"},
    {"do": "remove_project", "name": "alpha-one"},
    {"do": "add_release", "name": "alpha.one", "version": "0.1", "recipe": "tiny"},
    {"do": "unknown_event", "name": "beta", "action": "polish the brass"},
]


def coming_and_going() -> Iterator[Step]:
    """Deleted and created anew, time and again."""
    for number in range(40):
        name, version = f"phoenix-{number % 4}", f"1.{number}"
        if number < 4:
            yield {"do": "add_release", "name": name, "version": version, "recipe": "tiny"}
        elif number % 3:
            yield {"do": "recreate", "name": name, "version": version, "recipe": "tiny"}
        else:
            yield {"do": "remove_project", "name": name}
            yield {"do": "add_release", "name": name, "version": version, "recipe": "tiny"}
    yield {"do": "remove_project", "name": "phoenix-0"}


#: How the brief's actions begin.
NAMED = (
    *("create", "new release", "add source file", "add cp39 file", "remove", "remove project", "remove release"),
    *("remove file", "yank release", "unyank release", "remove Owner", "add Maintainer", "docupdate"),
    *("project quarantine", "polish the brass"),
)


@cache
def recording(number: int) -> Recording:
    if number == 0:
        return Recording("the one by hand", BY_HAND)
    if number == 1:
        return Recording("coming and going", list(coming_and_going()))
    return Recording(f"random day {number}", random_day(number, projects=PROJECTS, events=EVENTS))


@pytest.fixture
def farm(database: Engine) -> Iterator[Connection]:
    """A connection to a farm with two targets, that has followed PyPI up to where every history begins."""
    with database.begin() as conn:
        for name in ("bookworm-armhf", "trixie-armhf"):
            targets.add(conn, PRESETS[name])
        changes.advance(conn, recording(0).first, source="test")
    with database.connect() as conn:
        yield conn


@contextmanager
def ways_of(conn: Connection, number: int, seed: str) -> Iterator[Follower]:
    """A follower with an empty farm, which is gone afterwards."""
    rng = random.Random(seed)
    found = recording(number)
    follower = Follower(conn, Caches(found, rng), rng)
    transaction = conn.begin()
    try:
        yield follower
    except Exception as error:
        error.add_note(f"{found.name}, seed {seed!r}:\n  " + "\n  ".join(follower.story))
        raise
    finally:
        transaction.rollback()


_references: dict[int, Any] = {}


def reference(conn: Connection, number: int) -> Any:
    """What a farm has that reads it all at once in the end."""
    if number not in _references:
        with ways_of(conn, number, "reference") as follower:
            follower.pypi.now = follower.recording.last
            follower.hear(follower.recording.events, after=follower.recording.first)
            follower.finish()
            follower.check_end()
            _references[number] = everything(conn)
    return _references[number]


def run(conn: Connection, part: int, way: Callable[[Follower], None]) -> None:
    cases, number = 0, part
    while cases < CASES // PARTS // 2:
        against = reference(conn, number % RECORDINGS)
        with ways_of(conn, number % RECORDINGS, f"{way.__name__} {number}") as follower:
            way(follower)
            follower.finish()
            follower.check_position()
            follower.check_end(against)
        cases += follower.recording.projects
        number += PARTS


@pytest.mark.parametrize("part", range(PARTS))
def test_as_it_happens(part: int, farm: Connection) -> None:
    """The journal is read while PyPI changes; answers come from caches; the index is compared, or followed, at times;
    the feed is killed anywhere."""
    run(farm, part, as_it_happens)


@pytest.mark.parametrize("part", range(PARTS))
def test_in_any_order(part: int, farm: Connection) -> None:
    """The whole history's events in any order, over any number of answers, many of them twice."""
    run(farm, part, in_any_order)


def test_the_histories_hold_every_action() -> None:
    actions = {event.action for event in recording(0).events} | {
        event.action for number in range(1, RECORDINGS) for event in recording(number).events
    }
    assert [word for word in NAMED if not any(action.startswith(word) for action in actions)] == []
    assert len({recording(number).last for number in range(RECORDINGS)}) > RECORDINGS / 4  # not all the same


def test_old_news_of_a_removal_and_a_404_delete_nothing(farm: Connection) -> None:
    """The project is known to have come back, and a cache shows otherwise for once."""
    with ways_of(farm, 1, "old news") as follower:
        follower.pypi.now = follower.recording.last
        events = [event for event in follower.recording.events if event.name == "phoenix-1"]
        follower.hear(events, after=follower.recording.first)
        follower.finish()
        removal = next(event for event in events if event.action == "remove project")
        follower.hear([removal], after=follower.recording.first)
        follower.pypi.vanish = 1.0
        follower.take()
        follower.ask()
        follower.write()
        assert "phoenix-1" in everything(farm)
        follower.finish()
        assert "phoenix-1" in everything(farm)


def as_it_happens(follower: Follower) -> None:
    pypi, rng, recorded = follower.pypi, follower.rng, follower.recording
    pypi.lag, pypi.vanish, pypi.trouble = (rng.choice([0.0, 0.1, 0.4]) for _ in range(3))
    follower.kill_rate = rng.choice([0.0, 0.1, 0.3])
    ways = [time_passes, hear_on, follower.take, ask_some, write_some, follower.wait, follower.check_position]
    weights = [4.0, 4.0, 2.0, 3.0, 3.0, 1.0, 0.3]
    compares = rng.random() < 0.3
    while pypi.now < recorded.last or follower.position() < pypi.now:
        (way,) = rng.choices([*ways, compare], [*weights, 1.0 * compares])
        way(follower) if getattr(way, "__self__", None) is None else way()  # type: ignore[operator,call-arg]
    if compares:  # an old listing is believed at first: the next one puts that right
        follower.kill_rate = 0.0
        follower.compare(recorded.listing(recorded.last), live=False)


def time_passes(follower: Follower) -> None:
    moments = follower.recording.moments
    number = moments.index(follower.pypi.now)
    follower.pypi.now = moments[min(number + follower.rng.choice([1, 1, 2, 5, 20]), len(moments) - 1)]


def hear_on(follower: Follower) -> None:
    """What the journal answers: the next events, as many as it likes, in an order of its own, some twice."""
    position, rng = follower.position(), follower.rng
    events = follower.recording.heard(position, follower.pypi.now)
    if len(events) > 1 and rng.random() < 0.3:
        events = events[: rng.randint(1, len(events))]
    twice = [rng.choice(events) for _ in range(rng.choice([0, 0, 3]))] if events else []
    before = follower.recording.heard(follower.recording.first, position)[-rng.choice([1, 5]) :]
    heard = events + twice + before
    rng.shuffle(heard)
    follower.hear(heard, after=position)


def ask_some(follower: Follower) -> None:
    follower.ask(follower.rng.choice([1, 2, 100]))


def write_some(follower: Follower) -> None:
    follower.write(follower.rng.choice([1, 2, 100]))


def compare(follower: Follower) -> None:
    listing = follower.recording.listing(follower.pypi.old_moment())
    follower.compare(listing, live=follower.rng.random() < 0.5)


def in_any_order(follower: Follower) -> None:
    pypi, rng, recorded = follower.pypi, follower.rng, follower.recording
    pypi.now = recorded.last
    pypi.vanish, pypi.trouble = (rng.choice([0.0, 0.1, 0.4]) for _ in range(2))
    left = recorded.events + rng.sample(recorded.events, rng.choice([0, len(recorded.events) // 2]))
    rng.shuffle(left)
    ways = [follower.take, follower.wait, lambda: ask_some(follower), lambda: write_some(follower), follower.die]
    while left:
        number = rng.choice([1, 3, 10, 100])
        some, left = left[:number], left[number:]
        follower.hear(some, after=recorded.first)
        for _ in range(rng.choice([0, 2, 5])):
            rng.choices(ways, [2.0, 1.0, 3.0, 3.0, 0.3])[0]()
