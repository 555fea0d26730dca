# SPDX-License-Identifier: BSD-3-Clause
"""What events come to, in any order, repetition and grouping."""

import random
from functools import reduce
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piwheels.pypi.interpret import Change, Meaning, Reading, interpret, meaning, merge
from piwheels.pypi.journal import Event

#: Every action that PyPI's journal has been seen with, and what it is about.
ACTIONS = {
    "create": Meaning.CREATED,
    "new release": Meaning.RELEASED,
    "add source file spam-1.0.tar.gz": Meaning.FILE,
    "add py3 file spam-1.0-py3-none-any.whl": Meaning.FILE,
    "add cp311 file spam-1.0-cp311-cp311-linux_armv7l.whl": Meaning.FILE,
    "add any file spam 1.0.zip": Meaning.FILE,
    "add source file quarantine-1.0.tar.gz": Meaning.FILE,
    "remove": Meaning.REMOVED_PROJECT,
    "remove project": Meaning.REMOVED_PROJECT,
    "remove release": Meaning.REMOVED_RELEASE,
    "remove file spam-1.0.tar.gz": Meaning.REMOVED_FILE,
    "remove file Owner": Meaning.REMOVED_FILE,
    "yank release": Meaning.YANKED,
    "unyank release": Meaning.UNYANKED,
    "add Owner eric": Meaning.PEOPLE,
    "add Maintainer quarantine": Meaning.PEOPLE,
    "remove Owner eric": Meaning.PEOPLE,
    "remove Maintainer project": Meaning.PEOPLE,
    "remove Owner": Meaning.PEOPLE,
    "change Owner eric to Maintainer": Meaning.PEOPLE,
    "invite Maintainer eric": Meaning.PEOPLE,
    "accepted Owner eric": Meaning.PEOPLE,
    "docupdate": Meaning.DOCS,
    "docdestroy": Meaning.DOCS,
    "project quarantined": Meaning.STATUS,
    "project quarantine enter": Meaning.STATUS,
    "project quarantine/exit": Meaning.STATUS,
    "quarantine_enter": Meaning.STATUS,
    "quarantine cleared": Meaning.STATUS,
    "project archived": Meaning.STATUS,
    "unarchive": Meaning.STATUS,
    "project status deprecated": Meaning.STATUS,
    "release quarantined": Meaning.STATUS,
    "update summary": Meaning.UNKNOWN,
    "remove projects": Meaning.UNKNOWN,
    "remover": Meaning.UNKNOWN,
    "remove  project now": Meaning.UNKNOWN,
    "created": Meaning.UNKNOWN,
    "transmogrify": Meaning.UNKNOWN,
    "": Meaning.UNKNOWN,
    "\n\x00": Meaning.UNKNOWN,
}


def event(serial: int, action: str, name: str = "spam", version: str | None = None) -> Event:
    return Event(name, version, 0, action, serial)


def change(*events: Event) -> Change:
    [found] = interpret(events, after=0).changes
    return found


@pytest.mark.parametrize(("action", "about"), ACTIONS.items())
def test_meanings(action: str, about: Meaning) -> None:
    assert meaning(action) is about
    assert meaning(f" {action.upper()} ") is about


def test_a_days_events() -> None:
    reading = interpret(
        [
            event(11, "create", "Spam.Eggs"),
            event(12, "new release", "spam_eggs", "1.0"),
            event(13, "add source file spam_eggs-1.0.tar.gz", "Spam-Eggs", "1.0"),
            event(14, "remove Owner eric", "ham"),
            event(15, "transmogrify", "alpha"),
        ],
        after=11,
    )
    assert reading == Reading(
        changes=(
            Change("alpha", 15, 15, removed=False, page=False),
            Change("ham", 14, 14, removed=False, page=False),
            Change("spam-eggs", 12, 13, removed=False, page=False, said=13),
        ),
        upto=15,
        counts={Meaning.RELEASED: 1, Meaning.FILE: 1, Meaning.PEOPLE: 1, Meaning.UNKNOWN: 1},
        refused=0,
    )


def test_nothing_new() -> None:
    assert interpret([], after=7) == Reading((), 7, {}, 0)
    assert interpret([event(5, "remove project")], after=7) == Reading((), 7, {}, 0)


def test_removing_people_and_parts_removes_no_project() -> None:
    for action, about in ACTIONS.items():
        assert change(event(5, action)).removed == (about is Meaning.REMOVED_PROJECT)
    assert not change(event(5, "remove", version="1.0")).removed  # a release, in old entries


def test_the_last_word_on_a_project_counts_whatever_comes_after_it() -> None:
    gone = (event(5, "create"), event(7, "remove project"), event(9, "remove Owner eric"))
    assert change(*gone).removed
    back = (*gone, event(8, "create"))
    assert not change(*back).removed
    assert not change(*reversed(back)).removed


def test_events_of_status_ask_for_the_page() -> None:
    assert change(event(5, "project quarantined"), event(6, "docupdate")).page
    assert not change(event(5, "yank release")).page


@pytest.mark.parametrize("name", ["", "a b", "../../x", "x" * 201, "x" * 10_000_000, "a\x00", "é", "-"])
def test_what_is_no_name_is_counted_and_passed_by(name: str) -> None:
    reading = interpret([event(5, "create"), event(9, "create", name)], after=0)
    assert [found.name for found in reading.changes] == ["spam"]
    assert (reading.upto, reading.refused) == (9, 1)


def test_a_serial_beyond_reason_does_not_end_the_journal_for_us() -> None:
    reading = interpret([event(2**50, "create"), event(9, "create", "ham")], after=5)
    assert ([found.name for found in reading.changes], reading.upto, reading.refused) == (["ham"], 9, 1)


events = st.builds(
    Event,
    name=st.sampled_from(["spam", "Spam", "ham.eggs", "HAM_eggs", "a b", ""]),
    version=st.sampled_from([None, "1.0"]),
    time=st.integers(-10, 10),
    action=st.sampled_from([*ACTIONS, "remove project", "create"]),
    serial=st.integers(1, 30),
)
changes = st.builds(
    Change,
    name=st.just("spam"),
    first=st.integers(1, 9),
    serial=st.integers(1, 9),
    removed=st.booleans(),
    page=st.booleans(),
    said=st.integers(0, 9),
)


@given(changes, changes, changes)
def test_merging_is_an_algebra(a: Change, b: Change, c: Change) -> None:
    assert merge(a, a) == a
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@settings(max_examples=1000)
@given(st.lists(events, max_size=15), st.randoms(use_true_random=False), st.integers(0, 30))
def test_any_order_and_repetition_comes_to_the_same(story: list[Event], rng: random.Random, after: int) -> None:
    reading = interpret(story, after=after)
    shuffled = rng.sample(story, len(story)) + (rng.choices(story, k=5) if story else [])
    assert interpret(shuffled, after=after) == reading
    assert reading.upto == max([after, *(e.serial for e in story)])
    for found in reading.changes:
        assert after < found.first <= found.serial <= reading.upto
        assert found.said <= found.serial


@settings(max_examples=1000)
@given(st.lists(events, max_size=15), st.lists(st.integers(0, 15), max_size=5))
def test_any_cut_comes_to_the_same(story: list[Event], cuts: list[int]) -> None:
    """Read in pieces that overlap, and merged, as after restarts and changes of source."""
    story = sorted(story, key=lambda e: e.serial)
    ends = [0, *sorted(cuts), len(story)]
    parts = [interpret(story[max(0, start - 3) : end], after=0) for start, end in pairwise(ends)]
    merged: dict[str, Change] = {}
    for part in parts:
        for found in part.changes:
            merged[found.name] = merge(merged.get(found.name, found), found)
    assert tuple(merged[name] for name in sorted(merged)) == interpret(story, after=0).changes


@given(st.lists(events, min_size=1, max_size=20))
def test_a_reading_is_its_events_merged(story: list[Event]) -> None:
    for found in interpret(story, after=0).changes:
        singles = [c for e in story for c in interpret([e], after=0).changes if c.name == found.name]
        assert reduce(merge, singles) == found


def test_reading_on_never_goes_back() -> None:
    first = interpret([event(50, "create")], after=0)
    assert interpret([event(3, "create"), event(49, "new release")], after=first.upto) == Reading((), 50, {}, 0)
