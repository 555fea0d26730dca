# SPDX-License-Identifier: BSD-3-Clause
"""Jobs leased ahead: who fetches them, who is told whose they became, who gives them back.

The shell around dispatch_offers, which decides. All methods are for the loop's thread; what takes time is done in
others and comes back through ``post``. It must not know sockets.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from piwheels.db.engine import Stopped
from piwheels.errors import DatabaseError
from piwheels.master.dispatch_desk import Builder, Desk
from piwheels.master.dispatch_offers import Fit, Offers
from piwheels.master.dispatch_pool import Group, Strands
from piwheels.master.dispatch_work import Clerk
from piwheels.master.needs import Room
from piwheels.master.session import Claimed, Lease

ROUND = 32  #: assignments in one transaction

Post = Callable[[Callable[[], None]], None]
Lost = Callable[[str, str], None]  #: (token, why)


class Handout:
    """One for the loop."""

    def __init__(self, clerk: Clerk, desk: Desk, work: Strands, *, post: Post, lost: Lost) -> None:
        """``post`` has the loop make a call; ``lost`` tells it, from any thread, that a lease is over."""
        self._clerk = clerk
        self._work = work
        self._post = post
        self._lost = lost
        self._offers = Offers(desk.builders, build_timeout=clerk.settings.dispatch.build_timeout)
        self._waiting: list[Callable[[], None]] = []
        self._assigner = Group(clerk.assign, most=ROUND, ends=Stopped, name="assigner")

    def start(self) -> None:
        """Begin."""
        self._assigner.start()

    def stop(self, timeout: float) -> None:
        """End, and give back what nobody was told of."""
        self._assigner.stop(timeout)
        with suppress(DatabaseError):  # then their leases expire
            self._give_back(self._offers.trays.empty())

    @property
    def ahead(self) -> int:
        """How many jobs are leased ahead."""
        return len(self._offers.trays)

    def room(self, builder: Builder, now: float) -> Room:
        """What this builder can take."""
        return self._offers.room(builder, now)

    def take(self, builder: Builder, now: float) -> Lease | None:
        """A job for this builder at once; None: ask the database. In either case more may be fetched for the next."""
        lease = self._offers.at_once(builder, now)
        if builder.target_id is not None:
            self._fill(builder.target_id, self._offers.room(builder, now), now)
        return lease

    def instead(self, builder: Builder, event: Claimed, again: Callable[[], None]) -> Claimed | None:
        """What to answer when the database had no job: perhaps the last were leased ahead. None: they are just being
        fetched; ``again`` is called afterwards."""
        target_id, slave_id = event.target_id, builder.slave_id
        if event.lease is not None or event.paused or event.leave or target_id is None or slave_id is None:
            return event
        if self._offers.trays.is_filling(target_id):
            self._waiting.append(again)
            return None
        lease = self._offers.leftover(builder, target_id, time.monotonic())
        if lease is None:
            return event
        self.handed_out(builder, lease, slave_id)
        return Claimed(lease)

    def handed_out(self, builder: Builder, lease: Lease, slave_id: int) -> None:
        """Write down whose the lease is, before anything else is done for this builder."""

        def then(held: bool | None) -> None:  # in the assigner's thread
            self._work.free(builder.key)
            if not held:
                self._lost(lease.token, "it was withdrawn in the moment in which it was handed out")

        def job() -> object:
            self._assigner.put((lease.token, slave_id), then)
            return Strands.HELD

        self._work.submit(builder.key, job)

    def news(self, fit: Fit, nudged: bool) -> None:
        """Who may be given jobs was read again; ``nudged``: because the operator did something."""
        if tokens := self._offers.update(fit, nudged=nudged):
            self._work.submit("trays", partial(self._give_back, tokens))

    def _give_back(self, tokens: list[str]) -> None:
        with suppress(Stopped):
            if tokens:
                self._clerk.unclaim(*tokens)

    def _fill(self, target_id: int, room: Room, now: float) -> None:
        count = self._offers.trays.lacking(target_id, now)
        if not count:
            return

        def put(leases: list[Lease]) -> None:
            self._offers.trays.put(leases, time.monotonic())
            self._offers.trays.filled(target_id)
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                call()

        def job() -> None:
            leases: list[Lease] = []
            try:
                with suppress(Stopped):
                    leases = self._clerk.claim_ahead(target_id, room, count)
            finally:
                self._post(partial(put, leases))

        if not self._work.submit(f"target {target_id}", job):
            self._offers.trays.filled(target_id)
