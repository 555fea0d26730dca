# SPDX-License-Identifier: BSD-3-Clause
"""Whether PyPI is up, and how long to leave it alone: pure objects that are told the time.

They know seconds, not HTTP, names or rows. All times are monotonic seconds.
"""

import random
from dataclasses import dataclass, field

from piwheels.errors import UpstreamError

LONGEST_OUTAGE = 60.0  #: seconds between two tries whether PyPI is back
LONGEST_RETRY_AFTER = 3600.0  #: seconds; whatever the other side asks for
FIRST_DELAY = 1.0  #: seconds


class UpstreamAway(UpstreamError, ConnectionError):
    """PyPI cannot be reached, does not answer in time, breaks off, is broken, or asks to be left alone."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  #: seconds that it asked for


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
class _Quiet:
    """A time of silence that a clock going back cannot lengthen."""

    start: float = 0.0
    length: float = 0.0

    def left(self, now: float) -> float:
        if now < self.start:
            self.start = now
        return max(0.0, self.start + self.length - now)

    def extend(self, now: float, seconds: float) -> None:
        if seconds > self.left(now):
            self.start, self.length = now, seconds


class Weather:
    """What is known of PyPI's being there, shared by everything that asks it.

    When PyPI is away everything waits, and then one request at a time tries, until one is answered. How long a client
    was asked to wait (Retry-After) is kept even if another request succeeds meanwhile.
    """

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._backoff = Backoff(FIRST_DELAY, LONGEST_OUTAGE, rng or random.Random())
        self._ours = _Quiet()  # what we wait of our own accord
        self._asked = _Quiet()  # what we were asked to wait
        self._since: float | None = None

    @property
    def is_down(self) -> bool:
        """Whether the last that was heard of PyPI was that it does not answer."""
        return self._backoff.failures > 0

    @property
    def since(self) -> float | None:
        """When the outage began; None: there is none."""
        return self._since

    @property
    def tries(self) -> int:
        """How often in a row PyPI was tried and did not answer."""
        return self._backoff.failures

    def outage(self, now: float) -> float:
        """Seconds since PyPI first failed to answer; 0 while it is up."""
        return 0.0 if self._since is None else max(0.0, now - self._since)

    def pause(self, now: float) -> float:
        """Seconds to wait before the next request."""
        return max(self._ours.left(now), self._asked.left(now))

    def limit(self, parallel: int) -> int:
        """How many requests may be under way, of ``parallel`` in good weather."""
        return 1 if self.is_down else parallel

    def failed(self, now: float, *, retry_after: float | None = None) -> None:
        """PyPI did not answer, or asked to be left alone. Requests that fail together count once."""
        if self._since is None:
            self._since = now
        if not self.is_down or self.pause(now) == 0.0:
            self._ours.extend(now, self._backoff.failed())
        if retry_after is not None and retry_after > 0:
            self._asked.extend(now, min(retry_after, LONGEST_RETRY_AFTER))

    def succeeded(self) -> None:
        """PyPI answered, usably or not."""
        self._backoff.succeeded()
        self._ours = _Quiet()
        self._since = None
