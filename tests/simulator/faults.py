# SPDX-License-Identifier: BSD-3-Clause
"""How answers go wrong, and when: planned one by one, or at random.

What each fault does to an answer is breakage's (the answer as a whole) and twist's (what it says).
"""

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """How an answer goes wrong."""

    # The answer as a whole
    RATE_LIMIT = "429"
    ERROR = "500"
    UNAVAILABLE = "503"
    MISSING = "404"
    FORBIDDEN = "403"
    STALL = "no answer at all"
    TRUNCATE = "half of the body, then the connection breaks"
    DROP = "the connection breaks at once"
    WRONG_TYPE = "an HTML page that says all is well"
    HTML = "the same HTML page, said to be what was asked for"
    GARBAGE = "the right type, and rubbish"
    HUGE = "a body without an end"
    LOOP = "a redirect to itself"
    REDIRECT = "a redirect to an HTML page elsewhere"
    XML_BOMB = "entities that expand for ever; where JSON is due, arrays within arrays"
    # What it says; where a fault has no meaning for an answer, the answer is right
    NULLS = "null where strings are due; in lists, beside what is right"
    MEGA_NAME = "names of a megabyte and of control characters; in lists, beside what is right"
    EMPTY_LISTING = "no projects, in the right form"
    STALE = "what was right before the last change"
    VANISH = "404 for a project, this once"
    SERIAL_BACK = "serials from before, everywhere"
    SHUFFLE = "events and listings in another order"
    DUPLICATE = "events and listed names twice and more, older serials and other spellings too"
    GAPS = "right, but the next serials are skipped (nothing is lost)"
    TIME_BACK = "events whose times go back by years"
    RPC_LIMIT = "XML-RPC's own rate limit, fault -32500 with status 200; elsewhere 429"


#: The statuses of those that are no more than a status.
STATUSES = {
    Fault.RATE_LIMIT: 429,
    Fault.ERROR: 500,
    Fault.UNAVAILABLE: 503,
    Fault.MISSING: 404,
    Fault.FORBIDDEN: 403,
}

#: What chaos takes by default: all but those that cost the client a time-out or 100 MB each.
CHAOS = tuple(fault for fault in Fault if fault not in (Fault.STALL, Fault.HUGE))


@dataclass(slots=True)
class Planned:
    """A fault for the next answers to some paths."""

    fault: Fault
    path: str = ""  #: contained in the request's path
    times: int | None = 1  #: None: for ever
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class _Chaos:
    rng: random.Random
    rate: float
    faults: Sequence[Fault]
    path: str


class Faults:
    """What is planned; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[Planned] = []
        self._chaos: _Chaos | None = None
        self.rng = random.Random(691)  #: for what a fault leaves open, such as the order of a shuffle

    def fault(self, fault: Fault, *, path: str = "", times: int | None = 1, retry_after: str | None = None) -> None:
        """Let the next ``times`` answers (None: all) to paths that contain ``path`` go wrong."""
        with self._lock:
            self._planned.append(Planned(fault, path, times, retry_after))

    def chaos(self, rng: random.Random, rate: float, *, faults: Sequence[Fault] = CHAOS, path: str = "") -> None:
        """From now on each answer goes wrong with probability ``rate``, by one of ``faults``."""
        with self._lock:
            self._chaos = _Chaos(rng, rate, tuple(faults), path)
            self.rng = rng

    def clear_faults(self) -> None:
        """All is well again."""
        with self._lock:
            self._planned.clear()
            self._chaos = None

    def due_fault(self, path: str) -> Planned | None:
        """What goes wrong with the answer to this request; it is used up."""
        with self._lock:
            for planned in self._planned:
                if planned.path in path and planned.times != 0:
                    if planned.times is not None:
                        planned.times -= 1
                    return planned
            return self._by_chance(path)

    def _by_chance(self, path: str) -> Planned | None:
        chaos = self._chaos
        if chaos is None or chaos.path not in path or chaos.rng.random() >= chaos.rate:
            return None
        return Planned(chaos.rng.choice(chaos.faults))
