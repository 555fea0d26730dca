# SPDX-License-Identifier: BSD-3-Clause
"""From what waits in ``changes`` to rows: takes names, asks PyPI for them side by side, writes answers in batches.

Three loops with bounded queues between them: while the database writes one batch the next is being fetched. Whatever
is in hand when the process is killed still waits in ``changes``.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Coroutine
from dataclasses import dataclass, field

from piwheels.db import changes, upstream
from piwheels.db.beside import Beside, Refused
from piwheels.logs import RateLimited
from piwheels.master.feed_fetch import Gate, Links, fetch
from piwheels.master.feed_write import Answered, Rules, Written, write
from piwheels.pypi.client import PyPI
from piwheels.pypi.pending import Failed, Found, Pending, Priority

logger = logging.getLogger(__name__)

BATCH = 128  #: answers in one transaction
WRITERS = 2  #: transactions at a time: while the server works at one, the other is put together
LINGER = 0.02  #: seconds that a transaction waits for more answers while there are names to ask for
HOLD = 1024  #: names in hand
HEAVY = 20_000  #: rows after which a transaction takes no more projects; a single one may be larger
INSIST = 1.0  #: seconds between two cancellations of what does not end
LOOK = 1.0  #: seconds between two looks whether something waits that nobody told us of


async def together(*works: Coroutine[None, None, None]) -> None:
    """Run all until one ends or fails, then stop the others; raises what it raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _end(tasks)


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel, and insist: up to Python 3.11, a cancellation that comes together with what ``wait_for`` waits for is
    lost (bpo-37658), and the database's driver waits so."""
    interrupted = False
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=INSIST)
        except asyncio.CancelledError:
            interrupted = True  # somebody insists with us
    await asyncio.gather(*tasks, return_exceptions=True)  # whatever went wrong in them is known by now
    if interrupted:
        raise asyncio.CancelledError


@dataclass(slots=True)
class Allowance:
    """So many a minute, saved up for no longer than a minute."""

    per_minute: int
    left: float = 1.0
    at: float = field(default_factory=time.monotonic)

    def whole(self) -> int:
        """How many may be taken now."""
        now = time.monotonic()
        passed, self.at = max(0.0, now - self.at), now
        self.left = min(float(self.per_minute), self.left + passed * self.per_minute / 60)
        return int(self.left)

    def spend(self, number: int) -> None:
        """They were taken."""
        self.left -= number


class Applier:
    """Works off what waits; one in a farm at a time."""

    def __init__(
        self, pypi: PyPI, gate: Gate, database: Beside, rules: Rules, *, parallel: int, repairs: int, log: RateLimited
    ) -> None:
        self.rules = rules
        self.totals: Counter[str] = Counter()  #: since the start: asked, applied, changed, deleted, doubted, repaired …
        self.heard = asyncio.Event()  #: set it when something was recorded
        self._pypi, self._gate, self._database = pypi, gate, database
        self._parallel = parallel
        self._repairs = Allowance(repairs)
        self._log = log
        self._busy: set[str] = set()
        self._names: asyncio.Queue[Pending] = asyncio.Queue()
        self._answers: asyncio.Queue[Answered] = asyncio.Queue(maxsize=4 * BATCH)

    @property
    def in_hand(self) -> int:
        """How many names are being worked at."""
        return len(self._busy)

    async def run(self) -> None:
        """Until cancelled."""
        writers = (self._write() for _ in range(WRITERS))
        await together(self._take(), *writers, *(self._fetch() for _ in range(self._parallel)))

    # Taking

    async def _take(self) -> None:
        while True:
            self.heard.clear()
            free = HOLD - self._names.qsize()
            taken = await self._take_some(free)
            for pending in taken:
                self._busy.add(pending.name)
                self._names.put_nowait(pending)
            if len(taken) < free:
                await self._rest()
            while self._names.qsize() > HOLD // 2:
                await asyncio.sleep(LINGER)

    async def _take_some(self, free: int) -> list[Pending]:
        limits = dict.fromkeys(Priority, free) | {Priority.REPAIR: min(free, self._repairs.whole())}
        busy = tuple(self._busy)
        taken = (await self._database.within(lambda conn: changes.take(conn, limits, busy=busy)))[:free]
        self._repairs.spend(sum(one.priority is Priority.REPAIR for one in taken))
        return taken

    async def _rest(self) -> None:
        """Until something is heard, or may have become ready."""
        try:
            async with asyncio.timeout(LOOK):
                await self.heard.wait()
        except TimeoutError:
            pass

    # Fetching

    async def _fetch(self) -> None:
        while True:
            pending = await self._names.get()
            outcome = await fetch(self._pypi, self._gate, pending, self._known_links)
            self.totals["asked"] += 1
            if isinstance(outcome, Failed) and not outcome.away:
                self._log.warning(f"unusable {pending.name}", outcome.words)
            await self._answers.put(Answered(pending, outcome))

    async def _known_links(self, name: str) -> Links:
        return await self._database(lambda conn: upstream.known_links(conn, name))

    # Writing

    async def _write(self) -> None:
        while True:
            batch = [await self._answers.get()]
            if not self._names.empty() and self._answers.qsize() < BATCH // 2:
                await asyncio.sleep(LINGER)  # a commit costs more than the wait
            weight = batch[0].weight
            while len(batch) < BATCH and weight < HEAVY and not self._answers.empty():
                batch.append(self._answers.get_nowait())
                weight += batch[-1].weight
            await self._write_batch(batch)
            self._busy.difference_update(one.pending.name for one in batch)
            if any(one.pending.priority is Priority.NEWS for one in batch):
                self.heard.set()  # more may have been heard of them while they were in hand

    async def _write_batch(self, batch: list[Answered]) -> None:
        try:
            written = await self._database.within(lambda conn: write(conn, batch, self.rules))
        except Refused as error:
            if len(batch) > 1:  # one of them is to blame; the others are not to suffer
                for one in batch:
                    await self._write_batch([one])
                return
            await self._refuse(batch[0], error)
            return
        self._note(batch, written)

    async def _refuse(self, one: Answered, error: Refused) -> None:
        """What PyPI says passed all our checks, and the database does not take it."""
        words = str(error)[:200]
        self._log.warning(f"refused {one.pending.name}", f"{one.pending.name} cannot be stored: {words}")
        failed = Answered(one.pending, Failed(f"cannot be stored: {words}", away=False))
        await self._database(lambda conn: write(conn, [failed], self.rules))

    def _note(self, batch: list[Answered], written: Written) -> None:
        self.totals["applied"] += written.settled
        self.totals["added"] += len(written.added)
        self.totals["changed"] += len(written.changed)
        self.totals["deleted"] += len(written.deleted)
        self.totals["doubted"] += len(written.doubted)
        if written.news:
            self.heard.set()
        self._note_repairs(batch, written)
        for name in written.deleted:
            logger.info("%s is gone from PyPI; deleted", name)
        for name in written.older:
            self._log.warning(f"older {name}", f"PyPI answered with an older state of {name}; kept ours")
        for one in batch:
            if isinstance(one.outcome, Found):
                for left_out in one.outcome.project.refused:
                    text = f"left out of {one.pending.name}: {left_out}"
                    self._log.warning(f"left out {one.pending.name} {left_out}", text)

    def _note_repairs(self, batch: list[Answered], written: Written) -> None:
        done = {*written.added, *written.changed, *written.deleted}
        repaired = [
            one.pending.name for one in batch if one.pending.priority is Priority.REPAIR and one.pending.name in done
        ]
        self.totals["repaired"] += len(repaired)
        for name in repaired:
            logger.debug("repaired %s", name)
