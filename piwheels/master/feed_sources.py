# SPDX-License-Identifier: BSD-3-Clause
"""The three ways of hearing what changed, behind one interface: ask, record, move the position, in one transaction.

Knows what to ask and how often; which of them is followed is feed_choice's. None needs to know where another stopped:
they share the position, and hearing twice is harmless.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from sqlalchemy import Connection

from piwheels.db import changes, survey
from piwheels.db.beside import Beside
from piwheels.db.survey import Survey
from piwheels.logs import RateLimited
from piwheels.master.feed_choice import SourceName
from piwheels.master.feed_fetch import Gate
from piwheels.pypi.client import PyPI
from piwheels.pypi.interpret import Change, Reading, interpret
from piwheels.pypi.listing import Listing
from piwheels.pypi.pending import Priority

logger = logging.getLogger(__name__)

MANY = 1000  #: events in an answer after which the next is asked for at once: there is more
POLITE = 1.0  #: seconds between two calls of the journal, whatever there is to hear


@dataclass(frozen=True, slots=True)
class Heard:
    """What asking a source came to."""

    projects: int  #: that changes were recorded for
    more: bool  #: there is more to hear already


@dataclass(slots=True)
class Ears:
    """What all sources need."""

    pypi: PyPI
    gate: Gate
    database: Beside
    restricted: bool  #: only watched projects are followed
    log: RateLimited
    counts: Counter[str] = field(default_factory=Counter)  #: events by meaning, refused ones, findings; since the start


class Source(Protocol):
    """A way of hearing what changed."""

    name: SourceName

    async def poll(self) -> Heard:
        """Ask once and record what is heard. Raises UpstreamError."""


class Journal:
    """XML-RPC's changelog."""

    name = SourceName.JOURNAL

    def __init__(self, ears: Ears) -> None:
        self._ears = ears

    async def poll(self) -> Heard:
        """The events after our position."""
        ears = self._ears
        position = await ears.database(changes.position)
        if position is None:
            await self._begin()
            return Heard(0, more=False)
        events = await ears.gate.ask(lambda: ears.pypi.events(position))
        reading = interpret(events.events, after=position)
        self._count(reading, events.refused)
        if reading.upto == position:
            return Heard(0, more=False)
        recorded = await ears.database(lambda conn: _record(conn, reading, restricted=ears.restricted))
        return Heard(recorded, more=len(events.events) >= MANY)

    async def answers(self) -> bool:
        """Whether the journal is to be had. Raises UpstreamError."""
        serial = await self._ears.gate.ask(self._ears.pypi.last_serial)
        return serial >= 0

    async def _begin(self) -> None:
        """A new farm hears what comes from now on; what there is already comes by comparison, or piw-bootstrap."""
        serial = await self._ears.gate.ask(self._ears.pypi.last_serial)
        await self._ears.database(lambda conn: changes.advance(conn, serial, source="journal"))
        logger.info("following PyPI's journal from serial %d", serial)

    def _count(self, reading: Reading, refused: int) -> None:
        counts = self._ears.counts
        counts.update({meaning.value: number for meaning, number in reading.counts.items()})
        counts["refused"] += reading.refused + refused
        if refused + reading.refused:
            self._ears.log.warning("refused events", f"left out {refused + reading.refused} events that make no sense")


def _record(conn: Connection, reading: Reading, *, restricted: bool) -> int:
    recorded = changes.record(conn, reading.changes, Priority.NEWS, restricted=restricted)
    changes.advance(conn, reading.upto, source="journal")
    return recorded


class Index:
    """The whole listing, compared with our rows."""

    name = SourceName.INDEX

    def __init__(self, ears: Ears, *, hidden_every: float) -> None:
        """``hidden_every``: seconds between two looks at what PyPI hides, at least; 0: none."""
        self._ears = ears
        self._etag = ""
        self._hidden_every = hidden_every
        self._hidden_at = -math.inf

    async def poll(self) -> Heard:
        """What the listing has that we have not."""
        return await self._look(live=True)

    async def reconcile(self) -> Heard:
        """The same, for a farm that hears its news otherwise: only what should not differ."""
        return await self._look(live=False)

    async def _look(self, *, live: bool) -> Heard:
        ears = self._ears
        hidden = self._hidden_every > 0 and time.monotonic() - self._hidden_at >= self._hidden_every
        listing = await ears.gate.ask(lambda: ears.pypi.listing(etag="" if hidden else self._etag))
        if listing is None:
            return Heard(0, more=False)
        note = partial(survey.note, listing=listing, restricted=ears.restricted, live=live, hidden=hidden)
        found = await ears.database(note)
        if hidden:
            self._hidden_at = time.monotonic()
        self._etag = listing.etag if not found.doubt else ""
        self._note(found, listing)
        return Heard(found.news + found.findings, more=False)

    def _note(self, found: Survey, listing: Listing) -> None:
        ears = self._ears
        ears.counts.update(comparisons=1, new=found.added, moved=found.moved, gone=found.gone)
        if found.doubt:
            ears.log.warning("listing", f"PyPI's list of projects is not believed as to what is gone: {found.doubt}")
        if found.findings:
            logger.info(
                "compared %d projects with PyPI's %d: %d missing here, %d different, %d gone there; asking for them",
                found.known,
                found.listed,
                found.added,
                found.moved,
                found.gone,
            )
        if listing.refused:
            ears.log.warning("listing names", f"left out {listing.refused} projects with impossible names")


class WatchList:
    """Each project of the list, asked in turn."""

    name = SourceName.WATCH

    def __init__(self, ears: Ears, names: Sequence[str]) -> None:
        self._ears, self.names = ears, names

    async def poll(self) -> Heard:
        """Have all of them asked for."""
        heard = [Change(name, 0, 0, removed=False, page=False) for name in self.names]
        return Heard(await self._ears.database(lambda conn: changes.record(conn, heard, Priority.WATCH)), more=False)
