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

ROUND = 64  #: assignments in one transaction

Post = Callable[[Callable[[], None]], None]
Lost = Callable[[str, str], None]  #: (token, why)
Again = Callable[[Room | None], None]  #: (for whom there was nothing: a builder with so much room, or less)


class Handout:
    """One for the loop."""

    def __init__(self, clerk: Clerk, desk: Desk, work: Strands, *, post: Post, lost: Lost) -> None:
        """``post`` has the loop make a call; ``lost`` tells it, from any thread, that a lease is over."""
        self._clerk = clerk
        self._work = work
        self._post = post
        self._lost = lost
        self._offers = Offers(desk.builders, build_timeout=clerk.settings.dispatch.build_timeout)
        self._waiting: dict[int, list[Again]] = {}  #: by target
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

    def take(self, builder: Builder, now: float, *, again: bool = False) -> Lease | None:
        """A job for this builder at once; None: wait, or ask the database. In either case more may be fetched for the
        next. ``again``: not the first time since it asked."""
        lease = self._offers.at_once(builder, now, again=again)
        if builder.target_id is not None:
            waits = lease is None and self._offers.is_fit(builder, now)
            self._fill(builder.target_id, self._offers.room(builder, now), now, waiting=int(waits))
        return lease

    def wait(self, builder: Builder, since: float, now: float, again: Again) -> bool:
        """Whether ``again`` will be called soon because jobs are just being claimed for all builders of this one's
        target. A hundred that ask at once are served by one statement so, and not by a hundred."""
        target_id = builder.target_id
        if target_id is None or not self._offers.should_wait(builder, since, now):
            return False
        return self._wait(target_id, again)

    def _wait(self, target_id: int, again: Again) -> bool:
        if not self._offers.trays.is_filling(target_id):
            return False
        self._waiting.setdefault(target_id, []).append(again)
        return True

    def instead(self, builder: Builder, event: Claimed, again: Again) -> Claimed | Lease | None:
        """What to answer when the database had no job: perhaps the last were leased ahead; such a lease is to be
        assigned. None: they are just being fetched; ``again`` is called afterwards."""
        target_id, slave_id = event.target_id, builder.slave_id
        if event.lease is not None or event.paused or event.leave or target_id is None or slave_id is None:
            return event
        if self._wait(target_id, again):
            return None
        lease = self._offers.leftover(builder, target_id, time.monotonic())
        return event if lease is None else lease

    def handed_out(self, builder: Builder, lease: Lease, slave_id: int) -> None:
        """Write down whose the lease is, before anything else is done for this builder."""

        def then(held: bool) -> None:
            if not held:
                self._lost(lease.token, "it was withdrawn in the moment in which it was handed out")

        self.assign(builder, lease, slave_id, then)

    def assign(self, builder: Builder, lease: Lease, slave_id: int, then: Callable[[bool], None]) -> None:
        """Make a lease this builder's; ``then`` is told, in another thread, whether it is."""

        def assigned(held: bool | None) -> None:  # in the assigner's thread
            self._work.free(builder.key)
            then(bool(held))

        def job() -> object:
            self._assigner.put((lease.token, slave_id), assigned)
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

    def _fill(self, target_id: int, room: Room, now: float, *, waiting: int) -> None:
        waiting += len(self._waiting.get(target_id, ()))
        count = self._offers.trays.lacking(target_id, now, waiting=waiting)
        if not count:
            return

        def put(leases: list[Lease] | None) -> None:
            self._offers.trays.put(leases or [], time.monotonic())
            self._offers.trays.filled(target_id)
            nothing_for = room if leases is not None and not leases else None
            for call in self._waiting.pop(target_id, []):
                call(nothing_for)

        def job() -> None:
            leases: list[Lease] | None = None
            try:
                with suppress(Stopped):
                    leases = self._clerk.claim_ahead(target_id, room, count)
            finally:
                self._post(partial(put, leases))

        if not self._work.submit(f"target {target_id}", job):
            self._offers.trays.filled(target_id)
