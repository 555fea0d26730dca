# SPDX-License-Identifier: BSD-3-Clause
"""The feed role: follows PyPI and keeps our rows of its projects equal to what it says.

A source says that projects changed (feed_sources), feed_choice says which source; what they say waits in the table
``changes``; the applier asks for each project and makes our rows equal to the answer (feed_apply). This is the shell
that runs them side by side. It must not know builders or pages.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from packaging.utils import canonicalize_name
from sqlalchemy import Connection

from piwheels.db import changes, planning, upstream, watches
from piwheels.db.beside import Beside, OnlyOne
from piwheels.db.watches import Entry, Watch
from piwheels.errors import UpstreamError
from piwheels.logs import RateLimited
from piwheels.master.feed_apply import Applier, together
from piwheels.master.feed_choice import Choice, SourceName
from piwheels.master.feed_fetch import Gate
from piwheels.master.feed_recipes import Recipes
from piwheels.master.feed_sources import POLITE, Ears, Heard, Index, Journal, Source, WatchList
from piwheels.master.feed_write import Rules
from piwheels.master.policy import policy_of
from piwheels.master.role import Context
from piwheels.pypi.client import JournalRefused, PyPI, UpstreamAway
from piwheels.pypi.model import UpstreamUnusable, canonical, clean
from piwheels.pypi.requirements import read_requirements
from piwheels.pypi.weather import Weather
from piwheels.settings import Settings

logger = logging.getLogger(__name__)

TICK = 0.2  #: seconds between two looks at the stop event
LOOK = 5.0  #: seconds between two looks at whether targets have changed
REPORT = 1.0  #: seconds between two reports
HOPELESS = 4  #: tries without an answer, after which names that never had one are shown as errors (and still tried)
QUIET = timedelta(minutes=10)  #: the same trouble is logged once in so long
LOCK = 7_496_357_702  #: "only one feed"; any number will do as long as it stays


def run(settings: Settings, context: Context) -> None:
    """Follow PyPI until told to stop."""
    asyncio.run(Feed(settings, context).follow())


class Feed:
    """The sources, the applier, and what they share."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._entries = watch_list(settings)
        self._rules = rules_of(settings)
        self._choice = Choice.of(
            settings.feed.source,
            listed=self._rules.listed,
            retry=settings.feed.journal_retry.total_seconds(),
        )
        self._log = RateLimited(logger, per=QUIET)
        self._weather = Weather()
        self._database = Beside(
            context.engine, settings.database, name=context.name, threads=settings.database.pool, stop=context.stop
        )
        self._recipes = Recipes(settings.recipes.folder, self._database, self._rules.policy)
        self._lock = OnlyOne(settings.database, LOCK, name=f"{context.name} lock")

    async def follow(self) -> None:
        """Work until told to stop."""
        try:
            await together(self._until_stopped(), self._work())
        finally:
            self._lock.release()
            await self._database.close()

    async def _until_stopped(self) -> None:
        while not self._context.stop.is_set():
            await asyncio.sleep(TICK)

    async def _work(self) -> None:
        await self._be_the_only_one()
        await self._recipes.look()
        await self._settle()
        await self._catch_up()
        async with PyPI(self._settings.upstream, farm=self._settings.farm) as pypi:
            gate = Gate(self._weather, parallel=self._settings.upstream.connections)
            ears = Ears(pypi, gate, self._database, self._rules.listed, self._log)
            applier = Applier(
                pypi,
                gate,
                self._database,
                self._rules,
                parallel=self._settings.upstream.connections,
                repairs=self._settings.feed.repairs,
                log=self._log,
            )
            sources = _Sources(Journal(ears), self._index(ears), WatchList(ears, self._names()))
            await together(
                applier.run(),
                self._listen(sources, applier),
                self._reconcile(sources.index, applier),
                self._keep_up(),
                self._recipes.keep_looking(),
                self._recipes.keep_planning(),
                self._report(ears, applier),
            )

    def _index(self, ears: Ears) -> Index:
        return Index(ears, hidden_every=self._settings.feed.reconcile.total_seconds())

    async def _be_the_only_one(self) -> None:
        told = False
        while not await asyncio.to_thread(self._lock.hold):
            if not told:
                logger.warning("waiting: another feed (or piw-bootstrap) is at work on this database")
                told = True
            await asyncio.sleep(1.0)

    # What is followed

    async def _settle(self) -> None:
        """Bring the stored list, and what is to be built, into agreement with the settings."""
        every = self._rules.every

        def work(conn: Connection) -> list[Watch]:
            found = watches.settle(conn, self._entries, every=every)
            if self._rules.listed:
                changes.forget_unwatched(conn)
            for watch in found:
                if not is_name(watch.name):
                    words = f"{clean(watch.spelling, 80)!r} is not a project name"
                    watches.note_wrong(conn, watch, words)
            return found

        which = "all" if every else "latest"
        for watch in await self._database(work):
            if watch.known and watch.releases != which:
                await self._rewant(watch, which)

    async def _rewant(self, watch: Watch, which: str) -> None:
        def work(conn: Connection) -> None:
            upstream.rewant(conn, watch.name, every=self._rules.every, policy=self._rules.policy)
            watches.note_releases(conn, watch, which, policy=self._rules.policy)

        await self._database(work)

    def _names(self) -> list[str]:
        return [entry.name for entry in self._entries if is_name(entry.name)]

    # Listening

    async def _listen(self, sources: "_Sources", applier: Applier) -> None:
        while True:
            source = sources[self._choice.current]
            heard = await self._poll(source)
            if heard is not None and heard.projects:
                applier.heard.set()
            if self._choice.should_try_journal(time.monotonic()) and await self._journal_answers(sources.journal):
                logger.info("PyPI's journal answers again; following it from where we were")
                self._choice.journal_is_back()
            elif source.name is self._choice.current:  # else the other one is asked at once
                await asyncio.sleep(POLITE if heard and heard.more else self._pace(source.name))

    async def _poll(self, source: Source) -> Heard | None:
        """Ask a source once; None: it did not answer, or not with anything that can be used."""
        try:
            heard = await source.poll()
        except JournalRefused as refused:
            self._leave(self._choice.refused(time.monotonic(), str(refused)), str(refused), source)
        except UpstreamAway as away:
            logger.debug("nothing heard: %s", away)
        except UpstreamError as unusable:
            self._leave(self._choice.made_no_sense(time.monotonic(), str(unusable)), str(unusable), source)
        else:
            self._choice.answered()
            return heard
        return None

    def _leave(self, leaving: bool, why: str, source: Source) -> None:
        if leaving:
            logger.warning("%s; following PyPI's index instead of its journal", why)
        else:
            self._log.warning(f"source {source.name.value}", why)

    async def _journal_answers(self, journal: Journal) -> bool:
        try:
            return await journal.answers()
        except UpstreamError as error:
            logger.debug("the journal does not answer yet: %s", error)
            return False

    def _pace(self, name: SourceName) -> float:
        feed = self._settings.feed
        paces = {
            SourceName.JOURNAL: feed.poll,
            SourceName.INDEX: min(feed.listing, feed.journal_retry) if not self._choice.fixed else feed.listing,
            SourceName.WATCH: feed.interval,
        }
        return paces[name].total_seconds()

    async def _reconcile(self, index: Index, applier: Applier) -> None:
        """Compare with the whole index now and then; where the index is followed, or only a list, that is done."""
        interval = self._settings.feed.reconcile.total_seconds()
        while True:
            await asyncio.sleep(min(interval, LOOK) or LOOK)
            if interval and self._choice.current is SourceName.JOURNAL:
                try:
                    if (await index.reconcile()).projects:
                        applier.heard.set()
                except UpstreamError as error:
                    self._log.warning("reconcile", f"no comparison with PyPI's index: {error}")
                await asyncio.sleep(interval)

    # What else is to be kept up

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._catch_up()
            if not await asyncio.to_thread(self._lock.hold):
                self._log.warning("lock", "the lock on following PyPI was lost with its connection; taking it again")

    async def _catch_up(self) -> None:
        """Plan everything anew when targets were added, enabled, disabled or changed."""
        policy, every = self._rules.policy, self._rules.every
        planned = 0
        while not (progress := await self._database(lambda conn: planning.catch_up(conn, policy=policy))).finished:
            planned += progress.planned
        planned += progress.planned
        if planned:
            logger.info("planned %d releases for the targets that are enabled now", planned)
            if self._rules.listed:
                await self._database(lambda conn: watches.look_out(conn, policy=policy))
        while not await self._database(lambda conn: upstream.rewant_next(conn, every=every, policy=policy)):
            pass

    # What is said

    async def _report(self, ears: Ears, applier: Applier) -> None:
        while True:
            if self._weather.tries >= HOPELESS and self._rules.listed:
                await self._database(partial(watches.give_up, why=ears.gate.trouble))
            stand = await self._database(_stand)
            self._context.report(
                source=self._choice.current.value,
                why=self._choice.why[:200],
                upstream="away" if self._weather.is_down else "answers",
                outage=round(self._weather.outage(time.monotonic())),
                totals=dict(applier.totals),
                events=dict(ears.counts),
                **stand,
            )
            await asyncio.sleep(REPORT)


@dataclass(frozen=True, slots=True)
class _Sources:
    journal: Journal
    index: Index
    watch: WatchList

    def __getitem__(self, name: SourceName) -> Source:
        if name is SourceName.JOURNAL:
            return self.journal
        return self.index if name is SourceName.INDEX else self.watch


def _stand(conn: Connection) -> dict[str, object]:
    return {
        "serial": changes.position(conn) or 0,
        "applied": changes.applied(conn),
        "waiting": {priority.name.lower(): count for priority, count in changes.waiting(conn).items()},
        "watches": {state.value: count for state, count in watches.counts(conn).items()},
    }


def rules_of(settings: Settings) -> Rules:
    """What the operator wants done with answers."""
    return Rules(
        every=settings.feed.releases == "all",
        policy=policy_of(settings),
        disbelief=settings.feed.disbelief,
        listed=bool(settings.feed.projects or settings.feed.requirements),
        addresses=settings.publish.all_index == "yes",
    )


def watch_list(settings: Settings) -> list[Entry]:
    """What the settings name, each once; what is no name is kept, to be shown as an error. Raises SettingsError."""
    entries = {entry.name: entry for entry in entries_of(settings.feed.projects)}
    if settings.feed.requirements:
        for requirement in read_requirements(Path(settings.feed.requirements)):
            name = str(canonicalize_name(requirement.name))
            extras = frozenset(str(canonicalize_name(extra)) for extra in requirement.extras)
            before = entries.get(name)
            if before is not None and before.origin == "required":
                extras |= before.extras
            entries[name] = Entry(name, requirement.name, "required", extras)
    return list(entries.values())


def entries_of(spellings: Iterable[str]) -> list[Entry]:
    """Names as entries of the list, each once."""
    entries: dict[str, Entry] = {}
    for spelling in spellings:
        text = clean(spelling, 200)
        name = str(canonicalize_name(text))
        entries.setdefault(name, Entry(name, text))
    return list(entries.values())


def is_name(name: str) -> bool:
    """Whether this could be a project's name."""
    try:
        canonical(name)
    except UpstreamUnusable:
        return False
    return True
