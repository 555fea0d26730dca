# SPDX-License-Identifier: BSD-3-Clause
"""What the answers to one project's requests come to, where caches disagree."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest

from piwheels.errors import UpstreamMissing
from piwheels.master.feed_fetch import PATIENT, fetch
from piwheels.pypi.client import Answer, Page
from piwheels.pypi.model import UpstreamProject, parse_project
from piwheels.pypi.pending import Emptied, Failed, Found, Gone, Hidden, Outcome, Pending, Priority
from piwheels.vocabulary import ProjectStatus

T = TypeVar("T")

NEWS = Pending("spam", Priority.NEWS, 100, removed=False, page=True, seq=1, attempts=0, doubted_since=None)
FILE = "spam-1.0.tar.gz"


def project(url: str | None = "https://files.example.org/spam-1.0.tar.gz") -> UpstreamProject:
    file = {"filename": FILE, "packagetype": "sdist", "digests": {"sha256": "0" * 64}, "url": url}
    return parse_project({"info": {"name": "spam"}, "last_serial": 100, "releases": {"1.0": [file]}}, name="spam")


def page(*filenames: str, status: ProjectStatus | None = None, serial: int = 100) -> Page:
    links = {name: (f"https://files.example.org/{name}", "0" * 64) for name in filenames}
    return Page(links, status, "", serial, frozenset(filenames))


@dataclass
class Fake:
    """PyPI, and the gate to it; None: 404."""

    json: UpstreamProject | None
    index: Page | None

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        return await request()

    async def project(self, name: str, *, etag: str = "") -> Answer:
        if self.json is None:
            raise UpstreamMissing(name)
        return Answer(self.json, "")

    async def page(self, name: str) -> Page:
        if self.index is None:
            raise UpstreamMissing(name)
        return self.index


async def no_links(name: str) -> Mapping[str, tuple[str, str]]:
    return {}


def ask(json: UpstreamProject | None, index: Page | None, **changes: Any) -> Outcome:
    pypi: Any = Fake(json, index)
    return asyncio.run(fetch(pypi, pypi, replace(NEWS, **changes), no_links))


def test_a_page_that_hides_a_file() -> None:
    outcome = ask(project(), page())
    assert isinstance(outcome, Found) and outcome.project.releases == () and outcome.project.hides


def test_a_page_that_is_not_there_though_it_is_to_be_read_is_waited_for() -> None:
    """Else what it hides would be believed to be there."""
    assert isinstance(ask(project(), None), Failed)
    assert isinstance(ask(project(), None, attempts=PATIENT), Found)
    assert isinstance(ask(project(), None, page=False), Found)


def test_addresses_that_only_the_page_has_are_waited_for() -> None:
    assert isinstance(ask(project(url=None), None, page=False), Failed)
    found = ask(project(url=None), page(FILE), page=False)
    assert isinstance(found, Found) and found.project.releases[0].files[0].url


def test_a_page_of_another_moment_is_none() -> None:
    assert isinstance(ask(project(), page(FILE, serial=99)), Failed)


def test_without_json_and_page_it_is_gone() -> None:
    assert ask(None, None) == Gone()


def test_only_quarantine_takes_the_json_away() -> None:
    """Of an archived project without JSON we would else believe that nothing is to be known of it."""
    quarantined = page(status=ProjectStatus.QUARANTINED)
    assert ask(None, quarantined) == Hidden(ProjectStatus.QUARANTINED, "", 100)
    assert isinstance(ask(None, page(FILE, status=ProjectStatus.ARCHIVED)), Failed)
    assert ask(None, page(status=ProjectStatus.ARCHIVED)) == Emptied(100, ProjectStatus.ARCHIVED)


@pytest.mark.parametrize("status", [None, ProjectStatus.ACTIVE])
def test_a_page_without_files_and_no_json(status: ProjectStatus | None) -> None:
    assert ask(None, page(status=status)) == Emptied(100)
