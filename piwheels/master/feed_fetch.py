# SPDX-License-Identifier: BSD-3-Clause
"""Asking PyPI for one project: which requests that takes, and what they came to. Knows no rows.

Nothing is concluded here from an answer's absence; that is feed_verdict's.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from piwheels.errors import UpstreamError, UpstreamMissing
from piwheels.pypi.client import Page, PyPI
from piwheels.pypi.model import UpstreamProject, UpstreamUnusable, needs_links, with_links, with_page, with_status
from piwheels.pypi.pending import Emptied, Failed, Found, Gone, Hidden, Outcome, Pending, Priority, Unchanged
from piwheels.pypi.weather import UpstreamAway, Weather
from piwheels.vocabulary import ProjectStatus

logger = logging.getLogger(__name__)

T = TypeVar("T")

Links = Mapping[str, tuple[str, str]]
PATIENT = 10  #: tries for an index page that is to be read, after which the JSON has to do
NAP = 0.25  #: seconds between two looks at whether it is time


class Gate:
    """Lets requests through: so many at a time, one while PyPI is away, none while it wants to be left alone."""

    def __init__(self, weather: Weather, *, parallel: int) -> None:
        self.weather = weather
        self.trouble = ""  #: why PyPI is away; empty while it answers
        self._slots = asyncio.Semaphore(parallel)
        self._turn = asyncio.Lock()

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request when it is time for it, and learn from what becomes of it. Raises what it raises."""
        async with self._slots:
            while self._must_wait():
                async with self._turn:
                    while (pause := self.weather.pause(time.monotonic())) > 0:
                        await asyncio.sleep(min(pause, NAP))
                    if self.weather.is_down:
                        return await self._try(request)
            return await self._try(request)

    def _must_wait(self) -> bool:
        return self.weather.is_down or self.weather.pause(time.monotonic()) > 0

    async def _try(self, request: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await request()
        except UpstreamAway as away:
            self.weather.failed(time.monotonic(), retry_after=away.retry_after)
            if not self.trouble:  # one line for an outage, however long it is
                logger.warning("%s; trying again until it does", away)
            self.trouble = str(away)
            raise
        except UpstreamError:  # PyPI is there, whatever it says
            self._answered()
            raise
        self._answered()
        return answer

    def _answered(self) -> None:
        self.weather.succeeded()
        if self.trouble:
            self.trouble = ""
            logger.info("PyPI answers again")


async def fetch(pypi: PyPI, gate: Gate, pending: Pending, known_links: Callable[[str], Awaitable[Links]]) -> Outcome:
    """Ask for a project. ``known_links``: where its sdists are, as far as our rows say."""
    etag = "" if pending.serial or pending.page else pending.etag  # news: it did change
    try:
        answer = await gate.ask(lambda: pypi.project(pending.name, etag=etag))
        if answer.project is None:
            return Unchanged()
        project = await _completed(pypi, gate, pending, answer.project, known_links)
        return Found(project, answer.etag, answer.entry, answer.requires)
    except UpstreamMissing:
        return await _missing(pypi, gate, pending.name)
    except UpstreamError as error:
        return Failed(str(error), away=isinstance(error, UpstreamAway))


async def _completed(
    pypi: PyPI,
    gate: Gate,
    pending: Pending,
    project: UpstreamProject,
    known_links: Callable[[str], Awaitable[Links]],
) -> UpstreamProject:
    """Add what only the index page says: its status, what is quarantined, and where sdists are if the JSON does not."""
    if needs_links(project):
        project = with_links(project, await known_links(project.name))
    if not (_wants_page(pending, project) or needs_links(project)):
        return project
    try:
        page: Page = await gate.ask(lambda: pypi.page(project.name))
    except UpstreamMissing:
        missed = pending.page or needs_links(project)
        if missed and pending.attempts < PATIENT:  # one cache knows the project, the other does not yet
            raise UpstreamUnusable(f"PyPI has JSON of {project.name}, but no index page") from None
        return project  # the JSON is there, so the project is
    if pending.page and page.serial and project.serial and page.serial != project.serial:
        raise UpstreamUnusable(f"PyPI's index page and JSON of {project.name} are of different moments")
    marked = with_status(with_links(project, page.links), page.status, page.status_reason)
    return with_page(marked, page.filenames, serial=page.serial)


def _wants_page(pending: Pending, project: UpstreamProject) -> bool:
    """Whether the project's status may be another than we think: we heard so, or nothing tells us."""
    return pending.page or (pending.priority is Priority.WATCH and project.serial != pending.known_serial)


async def _missing(pypi: PyPI, gate: Gate, name: str) -> Outcome:
    try:
        page: Page = await gate.ask(lambda: pypi.page(name))
    except UpstreamMissing:
        return Gone()
    except UpstreamError as error:
        return Failed(str(error), away=isinstance(error, UpstreamAway))
    if page.filenames:
        return Failed(f"PyPI has an index page of {name}, with files, but no JSON", away=False)
    if page.status is ProjectStatus.QUARANTINED:  # the only status that takes the JSON away
        return Hidden(page.status, page.status_reason, page.serial)
    return Emptied(page.serial, page.status or ProjectStatus.ACTIVE, page.status_reason)
