# SPDX-License-Identifier: BSD-3-Clause
"""The feed role: follows PyPI and keeps our rows of its projects equal to what it says. Here: by a watch list.

Every name on the list (``feed.projects``) is asked for once an interval, conditionally. What an answer means is
pypi/model's, when to ask is pypi/schedule's, what it changes is db/upstream's; this is the shell that moves things
between them. It must not know builders or pages.

A project that PyPI calls missing keeps its rows: one 404 is no reason to delete what people install.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from packaging.utils import canonicalize_name
from sqlalchemy import Connection

from piwheels.db import planning, upstream, watches
from piwheels.db.engine import in_transaction
from piwheels.db.watches import TROUBLE, Watch
from piwheels.errors import UpstreamError, UpstreamMissing
from piwheels.logs import RateLimited
from piwheels.master.planner import Policy
from piwheels.master.role import Context
from piwheels.pypi.client import PyPI, UpstreamAway
from piwheels.pypi.model import (
    UpstreamProject,
    UpstreamUnusable,
    canonical,
    clean,
    needs_links,
    with_links,
    with_status,
)
from piwheels.pypi.schedule import Schedule
from piwheels.settings import Settings
from piwheels.vocabulary import WatchState

logger = logging.getLogger(__name__)

T = TypeVar("T")

TICK = 0.2  #: seconds between two looks at the stop event
LOOK = 5.0  #: seconds between two looks at whether targets have changed
HOPELESS = 5  #: tries without an answer, after which names that never had one are shown as errors (and still tried)
QUIET = timedelta(minutes=10)  #: the same trouble is logged once in so long


def run(settings: Settings, context: Context) -> None:
    """Follow PyPI until told to stop."""
    asyncio.run(Feed(settings, context).follow())


class Feed:
    """The watch list, and the requests under way for it."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._every = settings.feed.releases == "all"
        self._policy = Policy(strikes=settings.dispatch.strikes)
        self._schedule = Schedule(
            interval=settings.feed.interval.total_seconds(), parallel=settings.upstream.connections
        )
        self._watches: dict[str, Watch] = {}  # as they are in the database
        self._limited = RateLimited(logger, per=QUIET)
        self._was_down = False
        self._database = ThreadPoolExecutor(max_workers=settings.database.pool, thread_name_prefix="database")

    async def follow(self) -> None:
        """Work until told to stop."""
        try:
            await self._settle()
            await self._catch_up()
            async with PyPI(self._settings.upstream, farm=self._settings.farm) as pypi:
                await self._ask_around(pypi)
        finally:
            self._database.shutdown()

    async def _ask_around(self, pypi: PyPI) -> None:
        tasks: set[asyncio.Task[None]] = set()
        next_look = time.monotonic() + LOOK
        try:
            while not self._context.stop.is_set():
                tasks |= {asyncio.create_task(self._look_at(pypi, name)) for name in self._take()}
                pause = min(TICK, self._schedule.wait(time.monotonic()) or TICK)
                if tasks:
                    done, tasks = await asyncio.wait(tasks, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()  # a fault of ours ends the role; the supervisor starts it again
                else:
                    await asyncio.sleep(pause)
                if time.monotonic() >= next_look:
                    await self._catch_up()
                    next_look = time.monotonic() + LOOK
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self) -> list[str]:
        return self._schedule.take(time.monotonic())

    async def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` beside the loop, however long the database takes."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._database, lambda: in_transaction(self._context.engine, work, stop=self._context.stop)
        )

    # The list

    async def _settle(self) -> None:
        """Bring the stored list, and what is to be built, into agreement with the settings."""
        names = watch_list(self._settings.feed.projects)
        found = await self._in_transaction(lambda conn: watches.settle(conn, names, every=self._every))
        self._watches = {watch.name: watch for watch in found}
        which = "all" if self._every else "latest"
        for watch in found:
            if watch.known and watch.releases != which:
                await self._rewant(replace(watch, releases=which))
        good = []
        for watch in found:
            if is_name(watch.name):
                good.append(watch.name)
            else:
                await self._note(watch.name, WatchState.ERROR, f"{clean(watch.spelling, 80)!r} is not a project name")
        self._schedule.watch(good, time.monotonic())
        self._report()

    async def _rewant(self, watch: Watch) -> None:
        def work(conn: Connection) -> Watch:
            upstream.rewant(conn, watch.name, every=self._every, policy=self._policy)
            detail = watches.outlook(conn, watch.name, policy=self._policy)
            settled = replace(watch, detail=detail if watch.state is WatchState.FOUND else watch.detail)
            watches.note(conn, settled)
            return settled

        self._watches[watch.name] = await self._in_transaction(work)

    async def _catch_up(self) -> None:
        """Plan everything anew when targets were added, enabled, disabled or changed."""
        planned = 0
        while not self._context.stop.is_set():
            progress = await self._in_transaction(lambda conn: planning.catch_up(conn, policy=self._policy))
            planned += progress.planned
            if progress.finished:
                break
        if planned:
            logger.info("planned %d releases for the targets that are enabled now", planned)
            for watch in list(self._watches.values()):
                if watch.state is WatchState.FOUND and not self._context.stop.is_set():
                    await self._look_out(watch)

    async def _look_out(self, watch: Watch) -> None:
        def work(conn: Connection) -> Watch:
            seen = replace(watch, detail=watches.outlook(conn, watch.name, policy=self._policy))
            if seen != self._watches[watch.name]:
                watches.note(conn, seen)
            return seen

        self._watches[watch.name] = await self._in_transaction(work)

    # One name

    async def _look_at(self, pypi: PyPI, name: str) -> None:
        """Ask for a name and apply the answer."""
        answered = True
        try:
            await self._apply(name, pypi)
        except UpstreamMissing as missing:
            self._schedule.answered(name, time.monotonic())
            await self._note(name, WatchState.MISSING, "PyPI has no project of this name")
            self._limited.warning(f"missing {name}", str(missing))
        except UpstreamAway as away:
            answered = False
            self._schedule.away(name, time.monotonic(), retry_after=away.retry_after)
            await self._note_weather(name, away)
        except UpstreamError as unusable:
            self._schedule.unusable(name, time.monotonic())
            self._limited.warning(f"unusable {name}", str(unusable))
            state = self._watches[name].state
            await self._note(name, state if state is WatchState.FOUND else WatchState.ERROR, str(unusable))
        else:
            self._schedule.answered(name, time.monotonic())
            self._is_up()
        self._report()
        if answered:
            await self._in_transaction(lambda conn: watches.touch(conn, name))

    async def _apply(self, name: str, pypi: PyPI) -> None:
        answer = await pypi.project(name, etag=self._watches[name].etag)
        if answer.project is None:
            return await self._recovered(name)
        project = await self._completed(pypi, answer.project)
        for left_out in project.refused:
            self._limited.warning(f"refused {name} {left_out}", f"left out of {name}: {left_out}")
        watch = self._watches[name]
        etag, which = answer.etag, "all" if self._every else "latest"

        def work(conn: Connection) -> tuple[upstream.Sync, Watch]:
            sync = upstream.sync_project(conn, project, every=self._every, policy=self._policy)
            detail = watches.outlook(conn, name, policy=self._policy)
            found = replace(watch, state=WatchState.FOUND, detail=detail, releases=which, known=True)
            if not sync.older:  # an older answer's ETag must not make us believe that we have the newer one
                found = replace(found, etag=etag)
            if found != watch:
                watches.note(conn, found)
            return sync, found

        sync, self._watches[name] = await self._in_transaction(work)
        if sync.older:
            logger.info("PyPI answered with an older state of %s (serial %d); kept ours", name, project.serial)
        elif sync.changed:
            logger.info("%s is as PyPI has it at serial %d", name, project.serial)
        return None

    async def _completed(self, pypi: PyPI, project: UpstreamProject) -> UpstreamProject:
        """Look up where sdists are, if the JSON does not say, once for every state of the project."""
        if not needs_links(project):
            return project
        known = await self._in_transaction(lambda conn: upstream.known_links(conn, project.name))
        if not needs_links(project := with_links(project, known)):
            return project
        try:
            page = await pypi.page(project.name)
        except UpstreamMissing:  # the JSON is there, so the project is
            return project
        return with_status(with_links(project, page.links), page.status, page.status_reason)

    # What is noted

    async def _recovered(self, name: str) -> None:
        """Nothing has changed since the answer that our rows reflect, whatever went wrong in between."""
        watch = self._watches[name]
        if watch.state is not WatchState.FOUND or watch.detail.startswith(TROUBLE):
            await self._look_out(replace(watch, state=WatchState.FOUND))

    async def _note(self, name: str, state: WatchState, detail: str) -> None:
        watch = self._watches[name]
        if watch.state is WatchState.FOUND is state:
            detail = f"{TROUBLE} {detail}"
        noted = replace(watch, state=state, detail=clean(detail, watches.MAX_DETAIL))
        if noted == watch:
            return
        await self._in_transaction(lambda conn: watches.note(conn, noted))
        self._watches[name] = noted

    async def _note_weather(self, name: str, away: UpstreamAway) -> None:
        """PyPI is down: one line in the log, and what we know of projects stays true."""
        if not self._was_down:
            self._was_down = True
            logger.warning("%s; trying again until it does", away)
        await self._note(name, self._watches[name].state, str(away))
        if self._schedule.outage >= HOPELESS:  # nobody should wait for the rest of the list to fail one by one
            for watch in [w for w in self._watches.values() if w.state is WatchState.PENDING]:
                await self._note(watch.name, WatchState.ERROR, str(away))

    def _is_up(self) -> None:
        if self._was_down:
            self._was_down = False
            logger.info("PyPI answers again")

    def _report(self) -> None:
        states = [watch.state for watch in self._watches.values()]
        counts = {state.value: states.count(state) for state in WatchState}
        self._context.report(watches=counts, upstream="away" if self._was_down else "answers")


def watch_list(projects: tuple[str, ...]) -> list[tuple[str, str]]:
    """The settings' list as (canonical, spelling), each once; what is no name is kept, to be shown as an error."""
    names: dict[str, str] = {}
    for spelling in projects:
        text = clean(spelling, 200)
        names.setdefault(str(canonicalize_name(text)), text)
    return list(names.items())


def is_name(name: str) -> bool:
    """Whether this could be a project's name."""
    try:
        canonical(name)
    except UpstreamUnusable:
        return False
    return True
