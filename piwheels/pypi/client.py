# SPDX-License-Identifier: BSD-3-Clause
"""A polite client of PyPI's JSON API, simple index and journal: one pool, bounded in every direction, conditional.

Owns what is asked for and in which words; the way there and back is transport's, what an answer means is model's,
journal's and listing's, when to ask again is weather's. Every error is an UpstreamError: UpstreamMissing (404),
JournalRefused (no journal here), UpstreamUnusable (answered, with something wrong) or UpstreamAway (weather).
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from piwheels.errors import UpstreamMissing
from piwheels.pypi import journal
from piwheels.pypi.addresses import Addresses
from piwheels.pypi.entry import entry_of, requires_of
from piwheels.pypi.journal import Events, JournalRefused
from piwheels.pypi.listing import Listing, read_listing
from piwheels.pypi.model import UpstreamProject, UpstreamUnusable, canonical, parse_project
from piwheels.pypi.page import Page, read_html, read_json
from piwheels.pypi.transport import Reply, Transport, retry_after, user_agent
from piwheels.pypi.weather import UpstreamAway
from piwheels.settings import FarmSettings, UpstreamSettings

__all__ = [
    "Answer",
    "JournalRefused",
    "Page",
    "PyPI",
    "UpstreamAway",
    "retry_after",
    "user_agent",
]

MAX_BODY = 64 * 1024**2  #: bytes, unpacked; of a project
MAX_JOURNAL = 64 * 1024**2  #: bytes, unpacked
MAX_LISTING = 256 * 1024**2  #: bytes, unpacked
SMALL = 128 * 1024  #: bytes that are read sooner than a thread is started

_JSON = "application/json"
_HTML = "text/html"
_XML = ("text/xml", "application/xml")
_SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
_SIMPLE_HTML = "application/vnd.pypi.simple.v1+html"
_ACCEPT_PAGE = f"{_SIMPLE_JSON}, {_SIMPLE_HTML};q=0.2, {_HTML};q=0.01"  # PEP 691's own example

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What asking for a project brought."""

    project: UpstreamProject | None  #: None: not modified since the ETag that was sent
    etag: str  #: to send the next time; empty: none was given
    entry: bytes | None = None  #: for the metadata dump; None: not modified, or nothing that a dump could hold
    requires: tuple[str, ...] = ()  #: the latest release's dependencies (PEP 508)


class PyPI:
    """The client; an asynchronous context manager."""

    def __init__(self, settings: UpstreamSettings, *, farm: FarmSettings) -> None:
        self.addresses = Addresses.of(settings.simple_url)
        self._transport = Transport(settings, agent=user_agent(farm))

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def project(self, name: str, *, etag: str = "") -> Answer:
        """The project as it is now, unless it is what it was when PyPI gave this ETag."""
        name = canonical(name)
        reply = await self._transport.get(
            self.addresses.json(name), what=f"project {name}", accept=_JSON, kinds=(_JSON,), most=MAX_BODY, etag=etag
        )
        if reply is None:
            return Answer(None, etag)
        project, entry, requires = await _beside(_read_project, reply, name)
        return Answer(project, reply.etag, entry, requires)

    async def page(self, name: str) -> Page:
        """The project's page of the simple index."""
        name = canonical(name)
        reply = await self._transport.get(
            self.addresses.page(name),
            what=f"project {name}",
            accept=_ACCEPT_PAGE,
            kinds=(_SIMPLE_JSON, _SIMPLE_HTML, _HTML),
            most=MAX_BODY,
        )
        if reply is None:
            raise UpstreamUnusable(f"PyPI answered 304 for {name} without having been asked conditionally")
        return await _beside(_read_page, reply, name)

    async def listing(self, *, etag: str = "") -> Listing | None:
        """All projects and their serials; None: as they were when PyPI gave this ETag."""
        what = "list of all projects"
        try:
            reply = await self._transport.get(
                self.addresses.simple,
                what=what,
                accept=_SIMPLE_JSON,
                kinds=(_SIMPLE_JSON,),
                most=MAX_LISTING,
                etag=etag,
                patience=10,
            )
        except (UpstreamMissing, UpstreamUnusable) as error:
            raise UpstreamUnusable(f"the index lists its projects not in JSON: {error}") from error
        if reply is None:
            return None
        return await _beside(_read_listing, reply, what)

    async def events(self, since: int) -> Events:
        """The journal's events after serial ``since``, as many as PyPI sends at once."""
        return await self._call(journal.read_events, "changelog_since_serial", since)

    async def last_serial(self) -> int:
        """The serial of the journal's last event."""
        return await self._call(journal.read_serial, "changelog_last_serial")

    async def serials(self) -> dict[str, int]:
        """All projects (canonical names) and their serials, from the journal's server."""
        return await self._call(journal.read_serials, "list_packages_with_serial", most=MAX_LISTING)

    async def _call(self, read: Callable[[bytearray], T], method: str, *params: Any, most: int = MAX_JOURNAL) -> T:
        body = journal.call(method, *params)
        try:
            reply = await self._transport.post(
                self.addresses.journal, body, what=f"journal ({method})", kinds=_XML, most=most
            )
        except UpstreamMissing as error:
            raise JournalRefused(str(error)) from error
        return await _beside(lambda found, _: read(found.body), reply, method)


async def _beside(read: Callable[[Reply, str], T], reply: Reply, what: str) -> T:
    """Read an answer: here if that takes no time, else beside the loop."""
    if len(reply.body) < SMALL:
        return read(reply, what)
    return await asyncio.to_thread(read, reply, what)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_not_json).decode


def _load(reply: Reply, what: str) -> Any:
    try:
        return _decode(reply.body.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UpstreamUnusable(f"PyPI's answer for {what} is not JSON") from error


def _read_project(reply: Reply, name: str) -> tuple[UpstreamProject, bytes | None, tuple[str, ...]]:
    document = _load(reply, name)
    return parse_project(document, name=name), entry_of(document), requires_of(document)


def _read_listing(reply: Reply, _: str) -> Listing:
    return read_listing(reply.body, etag=reply.etag, header_serial=reply.serial)


def _read_page(reply: Reply, name: str) -> Page:
    if reply.kind == _SIMPLE_JSON:
        return read_json(reply.body, name=name, url=reply.url, serial=reply.serial)
    return read_html(reply.body, name=name, url=reply.url, charset=reply.charset, serial=reply.serial)
