# SPDX-License-Identifier: BSD-3-Clause
"""What builds need and builders have, in classes."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.master.needs import (
    ANY,
    DISK_UNIT,
    MEMORY_UNIT,
    NOTHING,
    TOP,
    Amounts,
    Room,
    after_failure,
    after_success,
    class_above,
    class_below,
    least,
    memory_limit,
    room_of,
    time_limit,
)
from piwheels.vocabulary import FailureReason

HOUR = timedelta(hours=1)
CLASSES = st.integers(0, TOP)
ROOMS = st.builds(Room, CLASSES, CLASSES, CLASSES)
AMOUNTS = st.floats(0, 1e14, allow_nan=False)


@given(ROOMS)
def test_a_number_says_all(room: Room) -> None:
    assert Room.of_number(room.number) == room and 0 <= room.number < 2**15


@given(AMOUNTS)
def test_a_class_holds_what_it_says(amount: float) -> None:
    have, need = class_below(amount, MEMORY_UNIT), class_above(amount, MEMORY_UNIT)
    assert least(have, MEMORY_UNIT) <= amount
    assert have == TOP or amount < least(have + 1, MEMORY_UNIT)
    assert need == TOP or amount <= max(least(need, MEMORY_UNIT), MEMORY_UNIT / 2)
    assert have <= need + 1 or need == TOP


@pytest.mark.parametrize(("sold", "number"), [(0.5, 0), (1, 1), (2, 2), (4, 3), (8, 4), (16, 5)])
def test_pis_differ(sold: float, number: int) -> None:
    shown = int(sold * 1024**3 * 0.9)
    assert room_of(Amounts(memory=shown), build_timeout=HOUR) == Room(memory=number)


def test_what_a_builder_says() -> None:
    has = Amounts(memory=2 * MEMORY_UNIT, disk=DISK_UNIT, time=HOUR * 4)
    assert room_of(has, build_timeout=HOUR) == Room(2, 1, 2)
    assert room_of(Amounts(), build_timeout=HOUR) == NOTHING
    assert room_of(Amounts(memory=-5, disk=2**80, time=timedelta(-1)), build_timeout=HOUR) == Room(0, TOP, 0)


SHORT = [(FailureReason.MEMORY, "memory"), (FailureReason.DISK, "disk"), (FailureReason.TIMEOUT, "time")]


@given(need=ROOMS, has=ROOMS, short=st.sampled_from(SHORT))
def test_what_ran_short_goes_to_one_that_has_more(need: Room, has: Room, short: tuple[FailureReason, str]) -> None:
    reason, name = short
    after = after_failure(need, reason, has)
    assert getattr(after, name) > getattr(need, name) or getattr(after, name) == TOP
    assert not has.holds(after) or getattr(has, name) == TOP
    assert {getattr(after, n) == getattr(need, n) for _, n in SHORT if n != name} == {True}


@given(ROOMS, ROOMS)
def test_other_failures_teach_nothing(need: Room, has: Room) -> None:
    assert after_failure(need, FailureReason.NETWORK, has) == need


def test_success_teaches_what_it_took() -> None:
    before = Room(5, 3, 2)
    small = Amounts(memory=MEMORY_UNIT // 3, time=HOUR / 2)
    assert after_success(before, small, build_timeout=HOUR) == Room(0, 3, 0)
    large = Amounts(memory=3 * MEMORY_UNIT, time=HOUR * 1.5)
    assert after_success(NOTHING, large, build_timeout=HOUR) == Room(3, 0, 1)
    assert after_success(before, Amounts(), build_timeout=HOUR) == before


@given(has=ROOMS, others=st.lists(ROOMS))
def test_somebody_here_can_take_anything_of_one_kind(has: Room, others: list[Room]) -> None:
    top = has.largest(*others)
    every = [one.where_top(top) for one in (has, *others)]
    for name in ("memory", "disk", "time"):
        assert max(getattr(one, name) for one in every) == TOP
    assert all(one.where_top(top).holds(one) for one in others)


def test_the_only_builder_takes_all() -> None:
    assert Room(1, 0, 0).where_top(Room(1, 0, 0)) == ANY
    assert Room(1, 0, 0).where_top(Room(2, 0, 0)) == Room(1, TOP, TOP)


@given(CLASSES, st.integers(1, 10**11))
def test_limits_grow(number: int, limit: int) -> None:
    assert memory_limit(limit, NOTHING) == limit
    assert memory_limit(0, Room(memory=number)) == 0
    if number:
        assert memory_limit(limit, Room(memory=number)) >= 2 * memory_limit(limit, Room(memory=number - 1)) - 1 or (
            number == 1
        )
    assert time_limit(HOUR, Room(time=number)) == HOUR * 2 ** min(number, 4)
