# SPDX-License-Identifier: BSD-3-Clause
"""The planner's rules over sets of targets: where a release is to be built, once it is known what holds where.

A set of targets is an integer; its bit n stands for the n-th enabled target, oldest first. So a release's situation is
a handful of small numbers, equal for most releases, and what follows from it is remembered. What holds where is found
by master/planner.py for one release and by master/bulk.py for thousands. It must not know wheels, versions or rows.
"""

from functools import lru_cache
from typing import NamedTuple

from piwheels.vocabulary import Priority

TRIES = 2  #: targets on which a release may fail before it is given up


class Situation(NamedTuple):
    """What decides about a release. Sets of targets are integers."""

    targets: int  #: all that are enabled
    closed: int = 0  #: where rules 1 to 3 say no: served, not to be built, or done with
    failed: int = 0  #: where attempts failed so that no more are made
    tried: int = 0  #: where an attempt failed
    leased: int = 0  #: where a builder is at work
    attempted: bool = False  #: anywhere, also where nothing is built any more
    succeeded: bool = False  #: the same
    native: bool = False  #: it is known that building compiles something
    fresh: bool = False  #: released lately


@lru_cache(maxsize=100_000)
def to_build(situation: Situation) -> int:
    """The targets that there should be a job for.

    What a builder is at work on stays, whatever failed elsewhere meanwhile, and is as good a probe as the oldest.
    """
    s = situation
    possible = s.targets & ~(s.closed | s.failed)
    at_work = possible & s.leased
    if s.succeeded:
        return possible
    if s.failed.bit_count() >= TRIES:
        return at_work
    if s.native and not s.failed:
        return possible
    return at_work or possible & -possible  # the lowest bit: the oldest


def priority(situation: Situation, target: int) -> Priority:
    """The place in the queue of a job for this target (a set of one)."""
    if situation.tried & target or (situation.attempted and not situation.succeeded):
        return Priority.RETRY
    return Priority.NEW if situation.fresh else Priority.BACKLOG


@lru_cache(maxsize=100_000)
def wanted(situation: Situation) -> tuple[tuple[int, Priority], ...]:
    """The jobs there should be: place of the target, oldest first → priority."""
    chosen = to_build(situation)
    return tuple((n, priority(situation, 1 << n)) for n in range(chosen.bit_length()) if chosen >> n & 1)
