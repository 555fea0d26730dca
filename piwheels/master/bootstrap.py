# SPDX-License-Identifier: BSD-3-Clause
"""Filling a farm with what PyPI has already: everything, some projects, or what a requirements file needs.

Only writes down what is to be asked for; the feed role asks. Where none runs, this process does, until one starts.
Whatever was not asked for when it is killed still waits, so that running it again, or the master, carries on.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import Connection, Engine

from piwheels.db import changes, documents, roles, survey, upstream, watches
from piwheels.db import targets as target_rows
from piwheels.db.beside import Beside, OnlyOne
from piwheels.errors import UnavailableError, UpstreamError
from piwheels.logs import RateLimited
from piwheels.master import feed
from piwheels.master.feed_apply import Applier, together
from piwheels.master.feed_fetch import Gate
from piwheels.pypi.client import PyPI
from piwheels.pypi.entry import requires_of
from piwheels.pypi.interpret import Change
from piwheels.pypi.listing import Listing
from piwheels.pypi.pending import Priority
from piwheels.pypi.requirements import environments, needed
from piwheels.pypi.weather import Weather
from piwheels.settings import Settings
from piwheels.vocabulary import Role

logger = logging.getLogger(__name__)

LOOK = 0.5  #: seconds between two looks at how far it is

Needs = dict[str, frozenset[str]]  #: canonical name → extras


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is, in projects."""

    total: int
    waiting: int  #: not asked for yet, or not often enough to give up
    trouble: int  #: asked for without an answer that could be used; the master's feed goes on trying
    applying: bool  #: by this process, rather than by the master's feed
    missing: tuple[str, ...] = ()  #: of those that were asked for by name, in the end: PyPI has none of these

    @property
    def done(self) -> int:
        """Asked for, with whatever result."""
        return max(0, self.total - self.waiting)


class Bootstrap:
    """One run of it. ``show`` is called with how far it is, about twice a second."""

    def __init__(self, settings: Settings, engine: Engine, show: Callable[[Progress], None]) -> None:
        self._settings = settings
        self._show = show
        self._stop = threading.Event()
        self._database = Beside(
            engine, settings.database, name="piw-bootstrap", threads=settings.database.pool, stop=self._stop
        )
        self._lock = OnlyOne(settings.database, feed.LOCK, name="piw-bootstrap lock")
        self._total = 0
        self._applying = False
        self._rules = feed.rules_of(settings)

    async def run(self, *, names: Sequence[str], requirements: Sequence[Requirement], everything: bool) -> Progress:
        """Fill, and return how it ended. Raises UnavailableError when there is no listing to be had."""
        try:
            async with PyPI(self._settings.upstream, farm=self._settings.farm) as pypi:
                gate = Gate(Weather(), parallel=self._settings.upstream.connections)
                # Before anything is asked for: what is in hand when it is heard of (again) is asked for a second time.
                if everything:
                    self._total = await self._record_everything(pypi, gate)
                self._total += await self._record(names)
                results: list[Progress] = []
                await together(self._apply(pypi, gate), self._fill(names, requirements, results))
                return results[0]
        finally:
            self._stop.set()
            self._lock.release()
            await self._database.close()

    async def _fill(self, names: Sequence[str], requirements: Sequence[Requirement], results: list[Progress]) -> None:
        wave = {str(canonicalize_name(one.name)): _extras(one.extras) for one in requirements}
        await self._waves(wave)
        ended = await self._settled()
        results.append(replace(ended, missing=await self._database(partial(self._missing, names=[*names, *wave]))))

    def _missing(self, conn: Connection, names: Sequence[str]) -> tuple[str, ...]:
        """Those that PyPI does not have, as far as they are followed and it gave an answer."""
        followed = {watch.name for watch in watches.listed(conn)} if self._rules.listed else set(names)
        unknown = [name for name in upstream.unknown(conn, list(dict.fromkeys(names))) if name in followed]
        waiting = changes.among_waiting(conn, unknown)
        return tuple(name for name in unknown if name not in waiting)

    async def _record_everything(self, pypi: PyPI, gate: Gate) -> int:
        """What PyPI lists and we have not, or otherwise; from the journal's server where the index lists nothing."""
        note = partial(survey.note, restricted=self._rules.listed, live=False, fill=Priority.BOOTSTRAP)
        try:
            listing = await gate.ask(pypi.listing)
            assert listing is not None  # it was not asked for conditionally
        except UpstreamError as error:
            logger.warning("%s; asking the journal's server", error)
            listing = await self._journals_listing(pypi, gate)
        found = await self._database(lambda conn: note(conn, listing))
        return found.findings

    async def _journals_listing(self, pypi: PyPI, gate: Gate) -> Listing:
        try:
            last = await gate.ask(pypi.last_serial)  # before the list, so that nothing falls between the two
            return Listing(await gate.ask(pypi.serials), last, etag="", refused=0)
        except UpstreamError as error:
            raise UnavailableError(f"there is no list of PyPI's projects to be had: {error}") from error

    async def _record(self, names: Iterable[str]) -> int:
        heard = [Change(name, 0, 0, removed=False, page=False) for name in names]
        restricted = self._rules.listed
        recorded = await self._database(
            lambda conn: changes.record(conn, heard, Priority.BOOTSTRAP, restricted=restricted)
        )
        if recorded < len(heard):
            logger.warning("left out %d projects that this farm does not follow (feed.projects)", len(heard) - recorded)
        return recorded

    async def _waves(self, wave: Needs) -> None:
        """Ask for these, then for what they depend on, and so forth."""
        known: Needs = {}
        while wave:
            known |= {name: known.get(name, frozenset()) | extras for name, extras in wave.items()}
            names = list(wave)
            self._total += await self._record(await self._database(partial(upstream.unknown, names=names)))
            await self._settled()
            needs = await self._database(partial(_needs, wanted={name: known[name] for name in names}))
            wave = {name: extras for name, extras in needs.items() if name not in known or extras - known[name]}

    async def _settled(self) -> Progress:
        """Once everything has been asked for."""
        while True:
            progress = await self._database(self._progress)
            self._total = max(self._total, progress.waiting + progress.trouble)
            self._show(progress)
            if progress.waiting == 0:
                return progress
            await asyncio.sleep(LOOK)

    def _progress(self, conn: Connection) -> Progress:
        waiting, trouble = changes.bootstrapping(conn)
        return Progress(self._total, waiting, trouble, applying=self._applying)

    # Asking

    async def _apply(self, pypi: PyPI, gate: Gate) -> None:
        """Ask, for as long as no feed does."""
        while True:
            alone = not await self._database(_feed_is_alive) and await asyncio.to_thread(self._lock.hold)
            self._applying = alone
            if alone:
                applier = Applier(
                    pypi,
                    gate,
                    self._database,
                    self._rules,
                    parallel=self._settings.upstream.connections,
                    repairs=self._settings.feed.repairs,
                    log=RateLimited(logger, per=feed.QUIET),
                )
                await together(applier.run(), self._until_a_feed_starts())
                await asyncio.to_thread(self._lock.pause)
            await asyncio.sleep(LOOK)

    async def _until_a_feed_starts(self) -> None:
        while not await self._database(_feed_is_alive):
            await asyncio.sleep(1.0)
        logger.info("the master's feed has started and goes on from here")


def _feed_is_alive(conn: Connection) -> bool:
    return roles.is_alive(conn, Role.FEED.value, within=timedelta(seconds=10))


def _extras(extras: Iterable[str]) -> frozenset[str]:
    return frozenset(str(canonicalize_name(extra)) for extra in extras)


def _needs(conn: Connection, wanted: Needs) -> Needs:
    """What these depend on, on any target that is enabled."""
    contexts = environments(target_rows.enabled(conn))
    found: Needs = {}
    for name, entry in documents.load(conn, wanted).items():
        for other, more in needed(requires_of(json.loads(entry)), extras=wanted[name], environments=contexts).items():
            found[other] = found.get(other, frozenset()) | more
    return found
