# SPDX-License-Identifier: BSD-3-Clause
"""When to ask PyPI what: pure objects that are told the time. They know names and seconds, not HTTP and not rows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST_OUTAGE = 60.0  #: seconds between two tries whether PyPI is back


@dataclass(slots=True)
class Backoff:
    """Growing delays: doubling, bounded, with jitter so that many who failed together do not come back together."""

    first: float  #: seconds
    longest: float
    rng: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def failed(self, *, at_least: float | None = None) -> float:
        """Count a failure; returns how long to wait. ``at_least`` is what the other side asked for (Retry-After)."""
        self.failures += 1
        delay = min(self.longest, self.first * 2.0 ** min(self.failures - 1, 60)) * self.rng.uniform(0.5, 1.0)
        return max(delay, at_least or 0.0)

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0


@dataclass(slots=True)
class _Watch:
    due: float
    backoff: Backoff
    asked: bool = False  #: a request is under way


class Schedule:
    """A list of names, each to be asked for once an interval, a bounded number at the same time.

    What one name's answer says is wrong delays that name. When PyPI itself is away, everything waits, and then one
    request at a time tries, until one is answered.
    """

    def __init__(self, *, interval: float, parallel: int, rng: random.Random | None = None) -> None:
        self._interval = interval
        self._parallel = parallel
        self._rng = rng or random.Random()
        self._watches: dict[str, _Watch] = {}
        self._weather = Backoff(1.0, LONGEST_OUTAGE, self._rng)
        self._quiet_until = float("-inf")

    def watch(self, names: Sequence[str], now: float) -> None:
        """Replace the list; names that are new are due at once, in order."""
        known = self._watches
        longest = max(self._interval, 1.0)
        self._watches = {name: known.get(name) or _Watch(now, Backoff(1.0, longest, self._rng)) for name in names}

    @property
    def is_down(self) -> bool:
        """Whether the last that was heard of PyPI was that it does not answer."""
        return self._weather.failures > 0

    @property
    def outage(self) -> int:
        """How often in a row PyPI was tried and did not answer, all names together."""
        return self._weather.failures

    def take(self, now: float) -> list[str]:
        """The names to ask for now, the longest due first; each must be answered by one of the methods below."""
        free = (1 if self.is_down else self._parallel) - sum(watch.asked for watch in self._watches.values())
        if now < self._quiet_until or free <= 0:
            return []
        due = sorted((w.due, n) for n, w in enumerate(self._watches.values()) if not w.asked and w.due <= now)
        names = list(self._watches)
        chosen = [names[number] for _, number in due[:free]]
        for name in chosen:
            self._watches[name].asked = True
        return chosen

    def wait(self, now: float) -> float:
        """Seconds until :meth:`take` may have something, answers aside; infinite when only an answer will do."""
        due = [watch.due for watch in self._watches.values() if not watch.asked]
        return max(0.0, max(min(due), self._quiet_until) - now) if due else float("inf")

    def answered(self, name: str, now: float) -> None:
        """PyPI said what there is to say about the name."""
        self._weather.succeeded()
        self._quiet_until = float("-inf")
        if watch := self._watches.get(name):
            watch.backoff.succeeded()
            watch.asked = False
            watch.due = now + self._interval * self._rng.uniform(0.9, 1.0)

    def unusable(self, name: str, now: float) -> None:
        """PyPI answered, with something that cannot be used."""
        self._weather.succeeded()
        self._quiet_until = float("-inf")
        self._delay(name, now)

    def away(self, name: str, now: float, *, retry_after: float | None = None) -> None:
        """PyPI did not answer, or asked to be left alone. Requests that fail together count once."""
        if now >= self._quiet_until or retry_after:
            self._quiet_until = max(self._quiet_until, now + self._weather.failed(at_least=retry_after))
        self._delay(name, now)

    def _delay(self, name: str, now: float) -> None:
        if watch := self._watches.get(name):
            watch.asked = False
            watch.due = now + watch.backoff.failed()
