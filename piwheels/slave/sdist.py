# SPDX-License-Identifier: BSD-3-Clause
"""Fetches a source distribution and checks that it is the one that was meant, before anything looks into it.

The standard library's HTTP client, with every wait bounded: by the socket, by a total deadline, by a size. Only http
and https, also after redirects. Proxies come from the environment as usual; certificates from PIP_CERT,
REQUESTS_CA_BUNDLE, SSL_CERT_FILE or the system. It must not know what is done with the file.

A wrong hash or size counts as the network's fault: the same address may answer differently next time or elsewhere, and
the master's strikes end the trying.
"""

import errno
import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from piwheels import __version__
from piwheels.errors import BuildError
from piwheels.vocabulary import FailureReason
from piwheels.wire.messages import Order

MAX_SIZE = 2 * 1024**3  #: bytes, where nobody announced a size
MAX_REDIRECTS = 5
SOCKET_TIMEOUT = 30.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!~-]{0,240}\.(tar\.gz|tgz|zip|tar\.bz2|tar\.xz|tar)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x20\x7f-\x9f]")
_BLOCK = 256 * 1024


class BuildFailed(BuildError):
    """A build cannot go on; ``reason`` says whose fault it is."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def fetch(order: Order, directory: Path, *, deadline: float, environ: Mapping[str, str], min_free: int = 0) -> Path:
    """Fetch the order's sdist into ``directory`` and return its path; ``deadline`` is monotonic.

    Raises BuildFailed; then nothing of it is left there.
    """
    _check(order)
    path = directory / order.sdist_name
    try:
        with path.open("xb") as file:
            digest = _download(order, file, deadline=deadline, environ=environ, min_free=min_free)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BuildFailed(disk_or_builder(error), f"the sdist cannot be kept: {error.strerror or error}") from error
        raise
    if digest != order.sdist_sha256:
        path.unlink()
        raise BuildFailed(
            FailureReason.NETWORK,
            f"the sdist that came has SHA-256 {digest}, not {order.sdist_sha256} as announced; nothing of it was run",
        )
    return path


def disk_or_builder(error: OSError) -> FailureReason:
    """Whose fault it is that a file could not be written."""
    return FailureReason.DISK if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else FailureReason.BUILDER


def is_web_address(url: str) -> bool:
    """Whether it is an http or https address with a host and nothing unprintable."""
    try:
        parts = urlsplit(url)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_right and not _CONTROL.search(url)


def _check(order: Order) -> None:
    """Refuse an order whose words must not reach a path or a request."""
    if not _NAME.fullmatch(order.sdist_name):
        raise BuildFailed(FailureReason.BUILDER, f"{order.sdist_name[:100]!r} is not the name of an sdist")
    if not _SHA256.fullmatch(order.sdist_sha256):
        raise BuildFailed(FailureReason.BUILDER, "the master sent no proper SHA-256 of the sdist")
    if not is_web_address(order.sdist_url):
        raise BuildFailed(FailureReason.BUILDER, f"{order.sdist_url[:200]!r} is not an http or https address")
    if order.sdist_size is not None and not 0 < order.sdist_size <= MAX_SIZE:
        raise BuildFailed(FailureReason.BUILDER, f"an sdist of {order.sdist_size} bytes is not taken on")


def _download(order: Order, file: IO[bytes], *, deadline: float, environ: Mapping[str, str], min_free: int) -> str:
    """Write what the address answers to ``file``; return its SHA-256."""
    host = urlsplit(order.sdist_url).hostname
    try:
        request = urllib.request.Request(order.sdist_url, headers={"Accept-Encoding": "identity"})
        with _opener(environ).open(request, timeout=min(SOCKET_TIMEOUT, _left(deadline, order))) as response:
            return _copy(response, file, order=order, deadline=deadline, min_free=min_free)
    except BuildFailed:
        raise
    except urllib.error.HTTPError as error:
        with error:
            detail = f"{host} answered {error.code} {error.reason} when asked for the sdist"
        raise BuildFailed(FailureReason.NETWORK, detail) from error
    except urllib.error.URLError as error:
        raise BuildFailed(FailureReason.NETWORK, f"the sdist cannot be fetched from {host}: {error.reason}") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, _WriteError):
            raise error.cause from error
        detail = f"the sdist cannot be fetched from {host}: {error or type(error).__name__}"
        raise BuildFailed(FailureReason.NETWORK, detail) from error


class _WriteError(OSError):
    """Our own disk's error, to tell it from the network's."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _copy(response: Any, file: IO[bytes], *, order: Order, deadline: float, min_free: int) -> str:
    limit = order.sdist_size or MAX_SIZE
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) != limit and (order.sdist_size or int(announced) > limit):
        raise BuildFailed(FailureReason.NETWORK, f"the sdist has {announced[:20]} bytes where {limit} were announced")
    digest = hashlib.sha256()
    length = 0
    while block := response.read1(_BLOCK):
        _left(deadline, order)
        length += len(block)
        if length > limit:
            raise BuildFailed(FailureReason.NETWORK, f"the sdist is longer than the {limit} bytes announced")
        digest.update(block)
        _write(file, block, min_free=min_free)
    if order.sdist_size is not None and length != order.sdist_size:
        raise BuildFailed(FailureReason.NETWORK, f"the sdist ended after {length} of {order.sdist_size} bytes")
    return digest.hexdigest()


def _write(file: IO[bytes], block: bytes, *, min_free: int) -> None:
    try:
        file.write(block)
        status = os.fstatvfs(file.fileno())
    except OSError as error:
        raise _WriteError(error) from error
    if status.f_bavail * status.f_frsize < min_free:
        raise BuildFailed(FailureReason.DISK, "the builder's disk is nearly full")


def _left(deadline: float, order: Order) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise BuildFailed(FailureReason.NETWORK, f"fetching {order.sdist_name} took too long")
    return left


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, never away from http and https, and never from https to http."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        downgraded = urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https"
        if downgraded or not is_web_address(newurl):
            raise urllib.error.URLError(f"it redirects to {newurl[:200]!r}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any) -> Any:
        """Follow, or close what is not read on."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError:  # has the response, and closes it
            raise
        except Exception:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener(environ: Mapping[str, str]) -> urllib.request.OpenerDirector:
    """An opener without the handlers for files, FTP and data that urllib's default one has."""
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", f"piwheels/{__version__} (piw-slave)")]
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_trust(environ)),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Whose certificates count: what pip would use, else the system's (which honours SSL_CERT_FILE and _DIR)."""
    bundle = environ.get("PIP_CERT") or environ.get("REQUESTS_CA_BUNDLE")
    try:
        if bundle and Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle or None)
    except OSError as error:
        raise BuildFailed(FailureReason.BUILDER, f"the certificates in {bundle} cannot be read: {error}") from error
