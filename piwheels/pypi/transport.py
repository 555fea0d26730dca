# SPDX-License-Identifier: BSD-3-Clause
"""HTTP to PyPI: one pool of connections, and every answer either a bounded body of a kind that was asked for, or an
UpstreamError. Must not know what bodies mean.

The hot path is one project's JSON, tens of thousands of times: what would be looked up for each request (the proxies of
the environment, a header's media type) is looked up once.
"""

import os
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import getproxies

import aiohttp
import certifi
from yarl import URL

from piwheels import __version__
from piwheels.errors import UpstreamError, UpstreamMissing
from piwheels.pypi.model import MAX_SERIAL, UpstreamUnusable, clean
from piwheels.pypi.weather import LONGEST_RETRY_AFTER, UpstreamAway
from piwheels.settings import FarmSettings, UpstreamSettings

T = TypeVar("T")

MAX_REDIRECTS = 3
MAX_ETAG = 200
_PLAIN = re.compile(r"https?://[a-z0-9.-]+(?::[1-9][0-9]{1,4})?(?:/[A-Za-z0-9_-]+)+/?")  #: no dots: yarl folds them
PATIENCE = 4  #: an answer that keeps coming may take so many times the time-out


@dataclass(frozen=True, slots=True)
class Reply:
    """A 200."""

    body: bytearray
    kind: str  #: its media type
    url: str  #: after redirects
    charset: str | None
    etag: str
    serial: int  #: X-PyPI-Last-Serial; 0: not given


class Transport:
    """The pool."""

    def __init__(self, settings: UpstreamSettings, *, agent: str) -> None:
        self._settings = settings
        self._agent = agent
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """To be called in the loop that the pool will be used in."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._settings.connections, ssl=_ssl_context()),
            headers={"User-Agent": self._agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout(PATIENCE),
            trust_env=_environment_matters(),
        )

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def get(
        self,
        url: str,
        *,
        what: str,
        accept: str,
        kinds: tuple[str, ...],
        most: int,
        etag: str = "",
        patience: int = PATIENCE,
    ) -> Reply | None:
        """The body of a 200; None for a 304; an error for everything else.

        ``what``: what is asked for, in words that can follow "no"; ``accept``: the header; ``kinds``: the media types
        that will do; ``most``: bytes; ``patience``: so many times the time-out for all of the answer.
        """
        headers = {"Accept": accept, "If-None-Match": etag} if etag else {"Accept": accept}
        options: dict[str, Any] = {"headers": headers, "max_redirects": MAX_REDIRECTS}
        if patience != PATIENCE:
            options["timeout"] = self._timeout(patience)

        async def read(response: aiohttp.ClientResponse) -> Reply | None:
            if response.status == 304 and etag:
                return None
            _check(response, what=what, missing=(404, 410))
            return await _reply(response, what=what, kinds=kinds, most=most)

        return await self._ask("GET", url, read, what=what, **options)

    async def post(self, url: str, body: bytes, *, what: str, kinds: tuple[str, ...], most: int) -> Reply:
        """The answer to an XML document; an error for everything but a 200.

        That includes redirects: what was posted is not for another address. UpstreamMissing: nothing is posted here.
        """

        async def read(response: aiohttp.ClientResponse) -> Reply:
            _check(response, what=what, missing=(404, 405, 410))
            return await _reply(response, what=what, kinds=kinds, most=most)

        headers = {"Accept": kinds[0], "Content-Type": "text/xml"}
        return await self._ask("POST", url, read, what=what, data=body, headers=headers, allow_redirects=False)

    async def _ask(
        self,
        method: str,
        url: str,
        read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        *,
        what: str,
        **options: Any,
    ) -> T:
        """What ``read`` makes of the response. Network errors as ours."""
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        try:
            async with self._session.request(method, _url(url), **options) as response:
                return await read(response)
        except aiohttp.TooManyRedirects as error:
            raise UpstreamUnusable(f"PyPI redirects the request for {what} in circles") from error
        except TimeoutError as error:
            raise UpstreamAway("PyPI does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, UpstreamError):
                raise
            raise UpstreamAway(f"PyPI cannot be reached: {_words(error)}") from error
        except ValueError as error:  # a redirect to something that is no URL, a header that is no header
            if isinstance(error, UpstreamError):
                raise
            raise UpstreamUnusable(f"PyPI's answer for {what} is not HTTP as it should be") from error

    def _timeout(self, patience: int) -> aiohttp.ClientTimeout:
        wait = self._settings.timeout.total_seconds()
        return aiohttp.ClientTimeout(total=wait * patience, sock_connect=wait, sock_read=wait)


def _url(url: str) -> URL:
    """The address, not quoted anew where nothing in it would be, which costs a tenth of a request."""
    return URL(url, encoded=_PLAIN.fullmatch(url) is not None)


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
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


async def _reply(response: aiohttp.ClientResponse, *, what: str, kinds: tuple[str, ...], most: int) -> Reply:
    kind, charset = _media_type(response.headers.get("Content-Type", ""))
    if kind not in kinds:
        raise UpstreamUnusable(f"PyPI's answer for {what} is {clean(kind, 60) or 'of no kind'}, not {kinds[0]}")
    return Reply(
        body=await _body(response, what=what, most=most),
        kind=kind,
        url=str(response.url),
        charset=charset,
        etag=_etag(response.headers.get("ETag", "")),
        serial=_serial(response.headers.get("X-PyPI-Last-Serial", "")),
    )


def _check(response: aiohttp.ClientResponse, *, what: str, missing: tuple[int, ...]) -> None:
    """Raise for everything but a 200."""
    status = response.status
    if status == 200:
        return
    if status in missing:
        raise UpstreamMissing(f"PyPI has no {what}")
    if status in (408, 425, 429) or status >= 500:
        wait = retry_after(response.headers.get("Retry-After"), now=datetime.now(UTC))
        words = "PyPI asks for fewer requests" if status == 429 else f"PyPI answers {status}"
        raise UpstreamAway(words, retry_after=wait)
    raise UpstreamUnusable(f"PyPI answers {status} to the request for {what}")


async def _body(response: aiohttp.ClientResponse, *, what: str, most: int) -> bytearray:
    """The body, unpacked. The length announced is of the packed body, or a lie, so it is counted."""
    body = bytearray()
    if _length(response.headers.get("Content-Length", "")) <= most:
        while chunk := await response.content.readany():
            body += chunk
            if len(body) > most:
                break
        else:
            return body
    raise UpstreamUnusable(f"PyPI's answer for {what} has more than {most} bytes")


@lru_cache(maxsize=64)
def _media_type(header: str) -> tuple[str, str | None]:
    """A Content-Type header (RFC 9110, section 8.3) as its media type, lower case, and charset."""
    message = Message()
    message["Content-Type"] = clean(header, 200)
    kind = message.get_content_type() if header else ""
    return kind, message.get_content_charset()


def _length(text: str) -> int:
    return int(text[:20]) if text.isascii() and text.isdigit() else 0


def _serial(text: str) -> int:
    serial = _length(text)
    return serial if serial < MAX_SERIAL else 0


def _etag(etag: str) -> str:
    return etag if len(etag) <= MAX_ETAG and etag.isascii() and etag.isprintable() else ""


def _words(error: Exception) -> str:
    """A network error for people, without the request's internals."""
    cause = getattr(error, "os_error", None) or error
    text = str(getattr(cause, "strerror", "") or "") or str(cause) or type(error).__name__
    return clean(text, 200)


def _environment_matters() -> bool:
    """Whether there are proxies or passwords to be found; looking for them costs aiohttp a thread for each request."""
    try:
        netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
        return bool(getproxies()) or netrc.exists()
    except (RuntimeError, OSError):  # no home, or none that we may look into
        return True


@cache
def _ssl_context() -> ssl.SSLContext:
    """The system's certificates; certifi's, as pip does, on a system that has none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None  # None too when there is no such directory
    if not paths.cafile and (folder is None or not any(folder.iterdir())):
        context.load_verify_locations(certifi.where())
    return context
