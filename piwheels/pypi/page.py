# SPDX-License-Identifier: BSD-3-Clause
"""A project's page of the simple index, in JSON (PEP 691) or HTML (PEP 503): bytes in, frozen values out. No I/O.

We read what the project's JSON does not say: its status (PEP 792), which files are listed (those of a release in
quarantine are not), where they are. As a file that is missing here counts as hidden, a page of which any entry cannot
be read is refused as a whole, and so is HTML that may be anything: an empty page empties a project.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from pypi_simple import RepositoryPage

from piwheels.pypi.model import (
    MAX_FILES,
    MAX_REASON,
    MAX_SERIAL,
    MAX_URL,
    UpstreamUnusable,
    clean,
    is_filename,
    plain_name,
)
from piwheels.vocabulary import ProjectStatus

MAX_HTML = 16 * 1024**2  #: bytes; reading HTML takes more than a hundred times as much memory and time as JSON


@dataclass(frozen=True, slots=True)
class Page:
    """A project's page of the simple index, as far as it adds to the JSON."""

    links: dict[str, tuple[str, str]]  #: file name → (absolute URL, SHA-256 in hex, empty if not given)
    status: ProjectStatus | None  #: None: the page did not say, or in words that are new
    status_reason: str
    serial: int = 0  #: PyPI's last serial of the project; 0: not given
    filenames: frozenset[str] = frozenset()


def read_json(body: bytes | bytearray, *, name: str, url: str, serial: int) -> Page:
    """Read PEP 691's project detail. ``url`` is the page's, ``serial`` the header's, for a body that does not say."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UpstreamUnusable(f"PyPI's index page of {name} is not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("files"), list):
        raise UpstreamUnusable(f"PyPI's index page of {name} has no list of files")
    if plain_name(document.get("name")) != name:
        raise UpstreamUnusable(
            f"PyPI's index page of {name} is of another project: {clean(document.get('name'), 80)!r}"
        )
    _check_version(_of(document, "meta").get("api-version"), name)
    if len(document["files"]) > MAX_FILES:
        raise UpstreamUnusable(f"PyPI's index page of {name} has more than {MAX_FILES} files")
    links = dict(_link(file, name=name, url=url) for file in document["files"])
    marker = _of(document, "project-status")
    serial = _serial(_of(document, "meta").get("_last-serial")) or serial
    return Page(links, *_status(marker.get("status"), marker.get("reason")), serial, frozenset(links))


def read_html(body: bytes | bytearray, *, name: str, url: str, charset: str | None, serial: int) -> Page:
    """Read PEP 503's page."""
    if len(body) > MAX_HTML:
        raise UpstreamUnusable(f"PyPI's index page of {name} has more than {MAX_HTML} bytes of HTML")
    try:
        page = RepositoryPage.from_html(bytes(body), base_url=url, from_encoding=charset)
        links = dict(found for link in page.links if (found := _anchor(link.text, link.url)))
    except Exception as error:  # Beautiful Soup's own errors, assertions and what Python raises: it reads anything
        raise UpstreamUnusable(f"PyPI's index page of {name} cannot be read") from error
    if page.repository_version is None and not links:
        raise UpstreamUnusable(f"PyPI's index page of {name} is some other page")
    if page.repository_version is not None:
        _check_version(page.repository_version, name)
    status, reason = (page.pypi_meta.get(key, [""])[0] for key in ("project-status", "project-status-reason"))
    return Page(links, *_status(status, reason), serial, frozenset(links))


def _check_version(version: object, name: str) -> None:
    """PEP 629: a newer major version may mean anything by the same words."""
    if not isinstance(version, str) or version.partition(".")[0] != "1":
        raise UpstreamUnusable(f"PyPI's index page of {name} is of version {clean(version, 20) or 'unknown'}, not 1")


def _of(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _link(file: Any, *, name: str, url: str) -> tuple[str, tuple[str, str]]:
    filename = file.get("filename") if isinstance(file, dict) else None
    if not isinstance(filename, str) or not is_filename(filename):
        raise UpstreamUnusable(f"PyPI's index page of {name} has a file called {clean(filename, 60)!r}")
    sha256 = _of(file, "hashes").get("sha256")
    return filename, (_absolute(url, file.get("url")), sha256.lower() if isinstance(sha256, str) else "")


def _anchor(text: str, url: str) -> tuple[str, tuple[str, str]] | None:
    """A link to a file. PEP 503: its text is the URL's last component, and the hash is in the fragment."""
    parts = urlsplit(url)
    if not is_filename(text) or unquote(parts.path).rpartition("/")[2] != text:
        return None
    kind, _, digest = parts.fragment.partition("=")
    return text, (parts._replace(fragment="").geturl(), digest.lower() if kind == "sha256" else "")


def _absolute(base: str, url: object) -> str:
    """Empty for what is no URL."""
    try:
        return urljoin(base, url) if isinstance(url, str) and len(url) <= MAX_URL else ""
    except ValueError:
        return ""


def _serial(value: object) -> int:
    return value if type(value) is int and 0 < value < MAX_SERIAL else 0


def _status(status: object, reason: object) -> tuple[ProjectStatus | None, str]:
    """PEP 792's marker."""
    known = ProjectStatus(status) if isinstance(status, str) and status in set(ProjectStatus) else None
    return known, clean(reason, MAX_REASON)
