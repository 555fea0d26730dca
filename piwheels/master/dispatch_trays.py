# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that dispatch has leased ahead, so that a builder that asks is answered at once. Pure.

One tray a target. What is in it is leased in the database, to nobody: if we are killed, those leases expire soon. A
tray holds about what will be asked for in the next moments, and nothing for long: it is in the order in which it was
claimed, and what becomes more urgent meanwhile should not wait behind it for long.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from piwheels.master.needs import Room
from piwheels.master.session import Lease

MOST = 32  #: jobs in a tray, but for a farm that asks for so many a second that these are gone at once
AHEAD = 3.0  #: seconds of demand that a tray holds
MOST_OF_ALL, LEAST_AHEAD = 256, 0.5  #: jobs in any tray; seconds of demand for which a tray may have more than MOST
WINDOW = 10.0  #: seconds over which demand is measured
STALE = 15.0  #: seconds after which a job goes back to the queue; well below the time its lease lasts (queue.AHEAD)


@dataclass(slots=True)
class _Tray:
    jobs: deque[tuple[float, Lease]] = field(default_factory=deque)  #: (since, job), first come first
    asked: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))  #: when jobs were asked for, lately
    filling: bool = False  #: somebody is claiming for it


class Trays:
    """All of them. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._trays: dict[int, _Tray] = {}

    def __len__(self) -> int:
        return sum(len(tray.jobs) for tray in self._trays.values())

    def asked(self, target_id: int, now: float) -> None:
        """Note that somebody asks for a job of this target; what is kept here follows from that."""
        self._tray(target_id).asked.append(now)

    def take(self, target_id: int, room: Room, now: float) -> Lease | None:
        """The first job of a target that a builder with this room can take; None: there is none here."""
        tray = self._tray(target_id)
        for item in tray.jobs:
            since, lease = item
            if now - since <= STALE and room.holds(lease.need):
                tray.jobs.remove(item)
                return lease
        return None

    def count(self, target_id: int) -> int:
        """How many jobs of a target are here."""
        return len(self._tray(target_id).jobs)

    def put(self, leases: Iterable[Lease], now: float) -> None:
        """Keep these."""
        for lease in leases:
            self._tray(lease.target_id).jobs.append((now, lease))

    def lacking(self, target_id: int, now: float, *, waiting: int = 0) -> int:
        """How many more should be claimed ahead. Whoever is told of some claims them, and says so with ``filled``.
        ``waiting``: builders that have asked and wait for that."""
        tray = self._tray(target_id)
        while tray.asked and tray.asked[0] < now - WINDOW:
            tray.asked.popleft()
        rate = len(tray.asked) / WINDOW
        usual = max(min(math.ceil(rate * AHEAD), MOST), math.ceil(rate * LEAST_AHEAD))
        wanted = min(usual + waiting, MOST_OF_ALL) - len(tray.jobs)
        if tray.filling or wanted <= 0:
            return 0
        tray.filling = True
        return wanted

    def is_filling(self, target_id: int) -> bool:
        """Whether somebody is claiming for this tray."""
        return self._tray(target_id).filling

    def filled(self, target_id: int) -> None:
        """The claiming that ``lacking`` caused is over, however it came out."""
        self._tray(target_id).filling = False

    def remove_stale(self, now: float) -> list[str]:
        """Take out what has been here for too long; the tokens, to be given back."""
        return self._remove(before=now - STALE)

    def empty(self) -> list[str]:
        """Take out everything; the tokens, to be given back."""
        return self._remove(before=math.inf)

    def _remove(self, *, before: float) -> list[str]:
        tokens = []
        for tray in self._trays.values():
            tokens += [lease.token for since, lease in tray.jobs if since < before]
            tray.jobs = deque(item for item in tray.jobs if item[0] >= before)
        return tokens

    def _tray(self, target_id: int) -> _Tray:
        return self._trays.setdefault(target_id, _Tray())
