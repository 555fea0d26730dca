# SPDX-License-Identifier: BSD-3-Clause
"""What a builder that asks for a job can be answered at once, and how much room it has compared with the others. Pure.

Owns the trays of jobs that were leased ahead and what was last read of who may have one. It is a second old at most,
and a nudge from the operator renews it at once; whoever is not known to be fit goes the long way, to the database.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from piwheels.master.dispatch_desk import Builder
from piwheels.master.dispatch_trays import Trays
from piwheels.master.needs import Amounts, Room, room_of
from piwheels.master.session import Lease

FRESH = 10.0  #: seconds for which what was read holds; it is read every second, less often when there is much to do
LONGEST_WAIT = 1.0  #: seconds that a builder waits for what is claimed for all while what is there does not fit it
TOPS = 1.0  #: seconds for which the largest builders are remembered


@dataclass(frozen=True, slots=True)
class Fit:
    """Who may be given a job, and of which target, as it was read at a moment."""

    at: float  #: monotonic
    targets: Mapping[int, int]  #: slave id -> target id; who is paused, disabled or told to leave is not in it


class Offers:
    """One for the loop."""

    def __init__(self, builders: Callable[[], Iterable[Builder]], *, build_timeout: timedelta) -> None:
        """``builders``: those who are here."""
        self.trays = Trays()
        self._builders = builders
        self._build_timeout = build_timeout
        self._fit = Fit(float("-inf"), {})
        self._tops: dict[tuple[str, str, str], Room] = {}
        self._tops_at = float("-inf")

    def update(self, fit: Fit, *, nudged: bool) -> list[str]:
        """Note who may be given jobs; the tokens to be given back. After a nudge that is everything: perhaps there is
        something more urgent now."""
        changed = fit.targets != self._fit.targets
        self._fit = fit
        return self.trays.empty() if changed or nudged else self.trays.remove_stale(fit.at)

    def at_once(self, builder: Builder, now: float, *, again: bool = False) -> Lease | None:
        """A job for this builder without asking the database; None: it must be asked. ``again``: it has been counted as
        somebody who asks."""
        target_id = builder.target_id
        if target_id is None:
            return None
        if not again:
            self.trays.asked(target_id, now)
        return self.trays.take(target_id, self.room(builder, now), now) if self.is_fit(builder, now) else None

    def is_fit(self, builder: Builder, now: float) -> bool:
        """Whether it is known that the builder may have a job of the target that it had jobs of before."""
        if builder.target_id is None or builder.slave_id is None or now - self._fit.at > FRESH:
            return False
        return self._fit.targets.get(builder.slave_id) == builder.target_id

    def should_wait(self, builder: Builder, since: float, now: float) -> bool:
        """Whether a builder that has waited since then should go on waiting for what is being claimed for all.

        However many wait, nobody goes to the database by itself because that takes long: whoever came first is served
        first, and when more is asked for than the database can give, a statement for each only makes it less. But jobs
        may be there that all need more than this builder has, and then those for all do not help it."""
        if builder.target_id is None or not self.is_fit(builder, now):
            return False
        return now - since <= LONGEST_WAIT or not self.trays.count(builder.target_id)

    def leftover(self, builder: Builder, target_id: int, now: float) -> Lease | None:
        """A job for a builder that may have one, for which the database had none."""
        return self.trays.take(target_id, self.room(builder, now), now)

    def room(self, builder: Builder, now: float) -> Room:
        """What a builder can take: what it has, and everything if nobody here has more."""
        if now - self._tops_at > TOPS:
            self._tops = {}
            for other in self._builders():
                kind = _kind(other)
                self._tops[kind] = self._has(other).largest(self._tops.get(kind, Room()))
            self._tops_at = now
        return self._has(builder).where_top(self._tops.get(_kind(builder), Room()))

    def _has(self, builder: Builder) -> Room:
        stats = builder.stats
        amounts = Amounts(
            memory=stats.mem_size if stats else None,
            disk=stats.disk_free if stats else None,
            time=builder.hello.build_timeout,
        )
        return room_of(amounts, build_timeout=self._build_timeout)


def _kind(builder: Builder) -> tuple[str, str, str]:
    """Builders of a kind serve the same target."""
    hello = builder.hello
    return hello.py_version, hello.abi, hello.platform
