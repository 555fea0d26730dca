# SPDX-License-Identifier: BSD-3-Clause
"""What a build needs of its builder, in classes: memory, free disk, time. Pure.

A class is a power of two: class 0 is had by every builder, class 1 begins at a unit, each further one at twice the one
before. Classes and not amounts, because a queue that is ordered by urgency can be asked for "the first that needs no
more than this" only if there are few different needs. It must not know the database or the protocol.

What is learnt is learnt from builds: one that ran out of memory needs a class more than its builder had; one that
succeeded needs what it took, which may be less than was thought.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from piwheels.vocabulary import FailureReason

TOP = 7  #: the highest class; a builder of this class may have any job
MEMORY_UNIT = (
    900_000_000  #: bytes; what a Pi sold with 1 GB shows to its programs, so that those with 2, 4, 8 double it
)
DISK_UNIT = 4 * 1024**3  #: bytes


@dataclass(frozen=True, slots=True)
class Room:
    """Classes of memory, disk and time: what a job needs, or what a builder has."""

    memory: int = 0
    disk: int = 0
    time: int = 0

    @property
    def number(self) -> int:
        """All in one, as column ``jobs.room`` has it."""
        return self.memory * 64 + self.disk * 8 + self.time

    @classmethod
    def of_number(cls, number: int) -> Self:
        """The inverse of :attr:`number`."""
        return cls(number // 64, number // 8 % 8, number % 8)

    def holds(self, need: "Room") -> bool:
        """Whether a builder with this room can take a job that needs that."""
        return self.memory >= need.memory and self.disk >= need.disk and self.time >= need.time

    def largest(self, *others: "Room") -> "Room":
        """The largest of each kind."""
        every = (self, *others)
        return Room(max(r.memory for r in every), max(r.disk for r in every), max(r.time for r in every))

    def where_top(self, top: "Room") -> "Room":
        """This builder's room among builders of which ``top`` is the largest: whoever has the most of something may
        have what needs more still, since nobody here is more likely to manage it. So no job waits for a builder that
        does not exist."""
        return Room(
            memory=TOP if self.memory >= top.memory else self.memory,
            disk=TOP if self.disk >= top.disk else self.disk,
            time=TOP if self.time >= top.time else self.time,
        )


NOTHING = Room()  #: in particular
ANY = Room(TOP, TOP, TOP)  #: room for everything


@dataclass(frozen=True, slots=True)
class Amounts:
    """Bytes and time, of a builder or a build; None: not known."""

    memory: int | None = None  #: bytes
    disk: int | None = None  #: bytes
    time: timedelta | None = None


def class_below(amount: float, unit: float) -> int:
    """The class of who has this much: the highest whose beginning is not above it."""
    if not amount >= unit > 0:
        return 0
    return min(int(amount / unit).bit_length(), TOP)


def class_above(amount: float, unit: float) -> int:
    """The class needed by what takes this much: the lowest in which everybody has it, 0 where that is hardly anything.
    Half a unit is what the smallest builder is expected to have."""
    if not amount > unit / 2 > 0:
        return 0
    return min(class_below(amount, unit) + (amount != least(class_below(amount, unit), unit)), TOP)


def least(number: int, unit: float) -> float:
    """Where a class begins."""
    return unit * float(2 ** (number - 1)) if number else 0.0


def room_of(has: Amounts, *, build_timeout: timedelta) -> Room:
    """What a builder has; what it does not say is nothing in particular. Time is counted from the farm's own limit:
    class 1 is a builder that lets a build take twice as long."""
    time = has.time or timedelta(0)
    return Room(
        memory=class_below(has.memory or 0, MEMORY_UNIT),
        disk=class_below(has.disk or 0, DISK_UNIT),
        time=class_below(time / build_timeout, 2.0),
    )


def after_failure(need: Room, reason: FailureReason, has: Room) -> Room:
    """What a job needs once a builder with this room ran out of something: more than it needed before, and more than
    that builder has."""
    match reason:
        case FailureReason.MEMORY:
            return replace(need, memory=min(max(need.memory, has.memory) + 1, TOP))
        case FailureReason.DISK:
            return replace(need, disk=min(max(need.disk, has.disk) + 1, TOP))
        case FailureReason.TIMEOUT:
            return replace(need, time=min(max(need.time, has.time) + 1, TOP))
        case _:
            return need


def after_success(need: Room, took: Amounts, *, build_timeout: timedelta) -> Room:
    """What the next release of the project will need: what this one took. What was not measured is left as it was."""
    memory = need.memory if took.memory is None else class_above(took.memory, MEMORY_UNIT)
    time = need.time if took.time is None else class_above(took.time / build_timeout, 2.0)
    return Room(memory, need.disk, time)


def memory_limit(limit: int, need: Room) -> int:
    """The memory a build may use, in bytes, on a farm with this limit (0: none): doubled with each class, and never
    less than twice what its class begins with, so that a job that ran into the limit has more the next time."""
    if not limit:
        return 0
    return max(limit << need.memory, int(2 * least(need.memory, MEMORY_UNIT)))


def time_limit(limit: timedelta, need: Room) -> timedelta:
    """The time a build may take on a farm with this limit: doubled with each class."""
    return limit * (1 << min(need.time, 4))
