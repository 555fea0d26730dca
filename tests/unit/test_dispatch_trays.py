# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that were leased ahead: who gets them, how many there are, when they go back; and who is answered at once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from piwheels.master import session as s
from piwheels.master.dispatch_desk import Builder
from piwheels.master.dispatch_offers import FRESH, LONGEST_WAIT, Fit, Offers
from piwheels.master.dispatch_trays import MOST, MOST_OF_ALL, STALE, Trays
from piwheels.master.needs import ANY, MEMORY_UNIT, TOP, Room
from piwheels.wire import messages as m

ORDER = m.Order("0" * 32, "t", "s.tar.gz", "https://example.org/s", "a" * 64, 1, timedelta(hours=1), 0)
HELLO = m.Hello(timedelta(hours=3), timedelta(minutes=5), "311", "cp311", "linux_armv7l", "", "", "", "", "")


def lease(number: int, need: Room = Room(), target_id: int = 1) -> s.Lease:  # noqa: B008 - frozen
    return s.Lease(f"{number:032x}", number, target_id, "p", "p", "1", ORDER, need)


@pytest.fixture
def trays() -> Trays:
    made = Trays()
    made.put([lease(1, Room(memory=2)), lease(2), lease(3)], 0.0)
    return made


def test_first_come_first_that_fits(trays: Trays) -> None:
    assert trays.take(1, Room(memory=1), 1.0) == lease(2)
    assert trays.take(1, ANY, 1.0) == lease(1, Room(memory=2))
    assert trays.take(2, ANY, 1.0) is None, "another target"
    assert trays.take(1, ANY, 1.0) == lease(3)
    assert trays.take(1, ANY, 1.0) is None and len(trays) == 0


def test_what_is_stale_goes_back(trays: Trays) -> None:
    trays.put([lease(4)], STALE)
    assert trays.take(1, Room(), STALE + 0.1) == lease(4), "the others' leases may be over soon"
    trays.put([lease(5)], STALE)
    assert trays.remove_stale(STALE + 0.1) == [lease(n).token for n in (1, 2, 3)]
    assert trays.empty() == [lease(5).token] and len(trays) == 0


def test_a_tray_holds_what_is_asked_for(trays: Trays) -> None:
    assert trays.lacking(1, 0.0) == 0, "nobody asked"
    for _ in range(20):
        trays.asked(2, 1.0)
    assert trays.lacking(2, 1.0) == 6, "three seconds' worth of two a second"
    assert trays.lacking(2, 1.0) == 0, "somebody is at it"
    trays.filled(2)
    assert trays.lacking(2, 1.0) == 6
    trays.filled(2)
    for _ in range(1000):
        trays.asked(2, 2.0)
    assert trays.lacking(2, 2.0) == 51, "what is asked for in half a second, when that is more"
    trays.filled(2)
    assert trays.lacking(2, 2.0, waiting=10) == 61
    trays.filled(2)
    assert trays.lacking(2, 2.0, waiting=2000) == MOST_OF_ALL
    trays.filled(2)
    for _ in range(130):
        trays.asked(3, 2.0)
    assert trays.lacking(3, 2.0) == MOST
    assert trays.lacking(2, 60.0) == 0, "that was long ago"


def builder(number: int, memory: int = 0) -> Builder:
    stats = m.Stats(datetime(2026, 1, 1, tzinfo=UTC), 1, 1, memory, 1, 1, 1, 0.0, 0.0)
    made = Builder(number, b"%d" % number, "k" * 40, HELLO, s.Session(), 0.0)
    made.slave_id, made.target_id, made.stats = number, 1, stats
    return made


def test_who_is_answered_at_once(trays: Trays) -> None:
    small, large = builder(1, MEMORY_UNIT), builder(2, 4 * MEMORY_UNIT)
    offers = Offers(lambda: [small, large], build_timeout=timedelta(hours=3))
    offers.trays = trays
    assert offers.at_once(small, 0.0) is None, "nothing is known of it"
    assert offers.update(Fit(0.0, {1: 1, 2: 2}), nudged=False) == [lease(n).token for n in (1, 2, 3)]
    trays.put([lease(1, Room(memory=TOP)), lease(2)], 0.0)
    assert offers.update(Fit(0.0, {1: 1, 2: 2}), nudged=False) == []
    assert offers.at_once(large, 0.0) is None, "it serves another target by now"
    assert offers.at_once(small, FRESH + 1) is None, "that was long ago"
    assert offers.at_once(small, 1.0) == lease(2), "the first one needs more memory than it has"
    assert offers.update(Fit(1.0, {1: 1, 2: 1}), nudged=False) == [lease(1).token]
    trays.put([lease(1, Room(memory=TOP))], 1.0)
    assert offers.at_once(large, 1.0) == lease(1, Room(memory=TOP)), "nobody here has more"
    trays.put([lease(3)], 1.0)
    assert offers.update(Fit(2.0, {1: 1, 2: 1}), nudged=True) == [lease(3).token], "the operator wants something"


def test_who_waits_for_what_is_claimed_for_all(trays: Trays) -> None:
    small, large = builder(1, MEMORY_UNIT), builder(2, 4 * MEMORY_UNIT)
    offers = Offers(lambda: [small, large], build_timeout=timedelta(hours=3))
    offers.trays = trays
    assert not offers.should_wait(small, 0.0, 0.0), "nothing is known of it"
    offers.update(Fit(10.0, {1: 1, 2: 1}), nudged=True)
    assert offers.should_wait(small, 0.0, 10.0), "others came first, and it is in the queue behind them"
    trays.put([lease(1, Room(memory=TOP))], 10.0)
    assert offers.should_wait(small, 10.0 - LONGEST_WAIT, 10.0)
    assert not offers.should_wait(small, 9.9 - LONGEST_WAIT, 10.0), "what is there needs more than it has"
    assert trays.take(1, ANY, 10.0) and offers.should_wait(small, 0.0, 10.0)


def test_a_new_builder_counts_soon(trays: Trays) -> None:
    small, large = builder(1, MEMORY_UNIT), builder(2, 4 * MEMORY_UNIT)
    here = [small]
    offers = Offers(lambda: here, build_timeout=timedelta(hours=3))
    assert offers.room(small, 0.0) == ANY
    here.append(large)
    assert offers.room(small, 2.0).memory == 1
    long = replace(HELLO, build_timeout=timedelta(hours=24))
    large.hello = long
    assert offers.room(small, 4.0) == Room(1, TOP, 0)
