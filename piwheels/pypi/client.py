# SPDX-License-Identifier: BSD-3-Clause
"""A polite client of PyPI's JSON API and simple index: one pool, bounded in every direction, conditional requests.

Owns HTTP and nothing else: what an answer means is model's, when to ask again is schedule's. Every error is an
UpstreamError: UpstreamMissing (404), UpstreamUnusable (answered, with something wrong) or UpstreamAway (weather).
"""

import asyncio
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
import certifi
from pypi_simple import PYPI_SIMPLE_ENDPOINT, ProjectPage, UnsupportedRepoVersionError

from piwheels import __version__
from piwheels.errors import UpstreamError, UpstreamMissing
from piwheels.pypi.model import MAX_REASON, UpstreamProject, UpstreamUnusable, canonical, clean, parse_project
from piwheels.settings import FarmSettings, UpstreamSettings
from piwheels.vocabulary import ProjectStatus

MAX_BODY = 64 * 1024**2  #: bytes, unpacked
MAX_REDIRECTS = 3
MAX_ETAG = 200
LONGEST_RETRY_AFTER = timedelta(hours=1)  #: whatever the other side asks for
PATIENCE = 4  #: an answer that keeps coming may take so many times the time-out

_JSON = "application/json"
_HTML = "text/html"
_SIMPLE_HTML = "application/vnd.pypi.simple.v1+html"


class UpstreamAway(UpstreamError, ConnectionError):
    """PyPI cannot be reached, does not answer in time, breaks off, is broken, or asks to be left alone."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  #: seconds that it asked for


@dataclass(frozen=True, slots=True)
class Answer:
    """What asking for a project brought."""

    project: UpstreamProject | None  #: None: not modified since the ETag that was sent
    etag: str  #: to send the next time; empty: none was given


@dataclass(frozen=True, slots=True)
class Page:
    """A project's page of the simple index, as far as it adds to the JSON."""

    links: dict[str, tuple[str, str]]  #: file name → (absolute URL, SHA-256 in hex)
    status: ProjectStatus | None
    status_reason: str


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where things are, derived from the address of the simple index."""

    simple: str  #: ends with a slash
    root: str  #: ends with a slash

    @classmethod
    def of(cls, simple_url: str) -> Self:
        """``simple_url`` empty: the one that pypi-simple knows."""
        simple = (simple_url or PYPI_SIMPLE_ENDPOINT).rstrip("/")
        return cls(simple=simple + "/", root=simple.removesuffix("/simple") + "/")

    def page(self, name: str) -> str:
        """A project's page of the simple index (PEP 503)."""
        return f"{self.simple}{quote(name, safe='')}/"

    def json(self, name: str) -> str:
        """A project's JSON."""
        return f"{self.root}pypi/{quote(name, safe='')}/json"


class PyPI:
    """The client; an asynchronous context manager."""

    def __init__(self, settings: UpstreamSettings, *, farm: FarmSettings) -> None:
        self.addresses = Addresses.of(settings.simple_url)
        self._settings = settings
        self._agent = user_agent(farm)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        wait = self._settings.timeout.total_seconds()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._settings.connections, ssl=_ssl_context()),
            timeout=aiohttp.ClientTimeout(total=wait * PATIENCE, sock_connect=wait, sock_read=wait),
            headers={"User-Agent": self._agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,  # proxies
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def project(self, name: str, *, etag: str = "") -> Answer:
        """The project as it is now, unless it is what it was when PyPI gave this ETag."""
        name = canonical(name)
        reply = await self._get(self.addresses.json(name), what=name, accept=(_JSON,), etag=etag)
        if reply is None:
            return Answer(None, etag)
        project = await asyncio.to_thread(_read_json, reply.body, name)
        return Answer(project, reply.etag)

    async def page(self, name: str) -> Page:
        """The project's page of the simple index."""
        name = canonical(name)
        url = self.addresses.page(name)
        reply = await self._get(url, what=name, accept=(_SIMPLE_HTML, _HTML))
        if reply is None:
            raise UpstreamUnusable(f"PyPI answered 304 for {name} without having been asked conditionally")
        return await asyncio.to_thread(_read_page, reply, name)

    async def _get(self, url: str, *, what: str, accept: tuple[str, ...], etag: str = "") -> "_Reply | None":
        """The body of a 200; None for a 304; an error for everything else."""
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        headers = {"Accept": ", ".join(accept)} | ({"If-None-Match": etag} if etag else {})
        try:
            async with self._session.get(url, headers=headers, max_redirects=MAX_REDIRECTS) as response:
                if response.status == 304 and etag:
                    return None
                _check(response, what=what, accept=accept)
                body = await _body(response, what=what)
                return _Reply(body, str(response.url), response.charset, _etag(response))
        except aiohttp.TooManyRedirects as error:
            raise UpstreamUnusable(f"PyPI redirects the request for {what} in circles") from error
        except TimeoutError as error:
            raise UpstreamAway("PyPI does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, UpstreamError):
                raise
            raise UpstreamAway(f"PyPI cannot be reached: {_words(error)}") from error
        except ValueError as error:  # a redirect to something that is no URL, a header that is no header
            raise UpstreamUnusable(f"PyPI's answer for {what} is not HTTP as it should be") from error


@dataclass(frozen=True, slots=True)
class _Reply:
    body: bytes
    url: str  #: after redirects
    charset: str | None
    etag: str


def user_agent(farm: FarmSettings) -> str:
    """Who asks: the program, the farm and whom to write to when it misbehaves."""
    words = [clean(word, 200).encode("ascii", "ignore").decode().strip() for word in (farm.name, farm.contact)]
    comment = "; ".join(word.replace("(", "[").replace(")", "]") for word in words if word)
    return f"piwheels/{__version__}" + (f" ({comment})" if comment else "")


def retry_after(value: str | None, *, now: datetime) -> float | None:
    """A Retry-After header (RFC 9110, section 10.2.3: seconds or a date) as seconds, bounded; None: not given."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:12])
    else:
        try:
            date = parsedate_to_datetime(text)
            seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER.total_seconds())


def _check(response: aiohttp.ClientResponse, *, what: str, accept: tuple[str, ...]) -> None:
    """Raise for everything but a 200 with a body of the right kind and of bearable length."""
    status = response.status
    if status in (404, 410):
        raise UpstreamMissing(f"PyPI has no project {what}")
    if status in (408, 425, 429) or status >= 500:
        wait = retry_after(response.headers.get("Retry-After"), now=datetime.now(UTC))
        words = "PyPI asks for fewer requests" if status == 429 else f"PyPI answers {status}"
        raise UpstreamAway(words, retry_after=wait)
    if status != 200:
        raise UpstreamUnusable(f"PyPI answers {status} to the request for {what}")
    if response.content_type not in accept:
        raise UpstreamUnusable(f"PyPI's answer for {what} is {clean(response.content_type, 60)}, not {accept[-1]}")
    if (response.content_length or 0) > MAX_BODY:
        raise UpstreamUnusable(f"PyPI's answer for {what} has more than {MAX_BODY} bytes")


async def _body(response: aiohttp.ClientResponse, *, what: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_BODY:  # the length announced is of the packed body, or was a lie
            raise UpstreamUnusable(f"PyPI's answer for {what} has more than {MAX_BODY} bytes")
    return bytes(body)


def _etag(response: aiohttp.ClientResponse) -> str:
    etag = response.headers.get("ETag", "")
    return etag if len(etag) <= MAX_ETAG and etag.isascii() and etag.isprintable() else ""


def _read_json(body: bytes, name: str) -> UpstreamProject:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UpstreamUnusable(f"PyPI's answer for {name} is not JSON") from error
    return parse_project(document, name=name)


def _read_page(reply: _Reply, name: str) -> Page:
    try:
        page = ProjectPage.from_html(name, reply.body, base_url=reply.url, from_encoding=reply.charset)
    except (ValueError, LookupError, RecursionError, UnsupportedRepoVersionError) as error:
        raise UpstreamUnusable(f"PyPI's index page of {name} cannot be read") from error
    links = {file.filename: (file.url, file.digests.get("sha256", "").lower()) for file in page.packages}
    status = ProjectStatus(page.status.value) if page.status and page.status.value in set(ProjectStatus) else None
    return Page(links=links, status=status, status_reason=clean(page.status_reason, MAX_REASON))


def _words(error: Exception) -> str:
    """A network error for people, without the request's internals."""
    cause = getattr(error, "os_error", None) or error
    text = str(getattr(cause, "strerror", "") or "") or str(cause) or type(error).__name__
    return clean(text, 200)


def _ssl_context() -> ssl.SSLContext:
    """The system's certificates; certifi's, as pip does, on a system that has none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None  # None too when there is no such directory
    if not paths.cafile and (folder is None or not any(folder.iterdir())):
        context.load_verify_locations(certifi.where())
    return context
