# SPDX-License-Identifier: BSD-3-Clause
"""What PyPI says of a project, validated: JSON in, frozen values out. No I/O.

Everything in the JSON is a stranger's. A field that is missing, null or of another type is read as absent where we can
do without; a file, release or project that we cannot do without it is refused, with a line that says why. Sources:
PyPI's JSON API (``/pypi/<name>/json``), PEP 503 names, PEP 440 versions, PEP 592 yanks, PEP 625 sdist names.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from piwheels.errors import UpstreamError
from piwheels.versions import is_prerelease, parse_or_none, sort_key
from piwheels.vocabulary import ProjectStatus, UpstreamKind

MAX_NAME = 200
MAX_VERSION = 200
MAX_FILENAME = 400
MAX_URL = 2000
MAX_REASON = 500  #: of a yank
MAX_SUMMARY = 500
MAX_REQUIRES = 200  #: Requires-Python
MAX_RELEASES = 50_000
MAX_FILES = 500_000  #: of a project
MAX_SIZE = 2**62
MAX_SERIAL = 2**53  #: of listings and headers

#: What an sdist may be called, the best first: PEP 625 wants .tar.gz, .zip is what most of the others are.
SDIST_SUFFIXES = (".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".tar.z", ".tar")

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")  #: the name format of PEP 508
_CANONICAL = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  #: lone surrogates too: no database takes them
_PLAIN_URL = re.compile(
    r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?::[1-9][0-9]{0,3}|:[1-5][0-9]{4})?/[!#-;=?-\[\]-~]*"
)  # nothing to be looked at twice
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  #: of a file whose upload time cannot be read


class UpstreamUnusable(UpstreamError, ValueError):
    """PyPI answered, and the answer is not what it should be. Asking again soon does not help."""


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """A file that PyPI has of a release."""

    filename: str
    kind: UpstreamKind
    size: int | None  #: bytes
    sha256: bytes | None
    url: str | None  #: absolute, http or https
    requires_python: str | None
    yanked: bool
    yanked_reason: str
    uploaded: datetime  #: UTC


@dataclass(frozen=True, slots=True)
class UpstreamRelease:
    """A release, with at least one file."""

    version: str  #: as PyPI spells it
    files: tuple[UpstreamFile, ...]  #: by name; no name twice

    @property
    def released(self) -> datetime:
        """When its first file was uploaded."""
        return min(file.uploaded for file in self.files)

    @property
    def yanked(self) -> bool:
        """PEP 592 marks files; a release is yanked when all of its files are."""
        return all(file.yanked for file in self.files)

    @property
    def yanked_reason(self) -> str:
        """The first reason given, of a yanked release."""
        return next((file.yanked_reason for file in self.files if file.yanked_reason), "") if self.yanked else ""

    @property
    def requires_python(self) -> str | None:
        """The sdist's, since that is what we build; else the first one given."""
        best = best_sdist(self.files, version=self.version)
        if best is not None and best.requires_python is not None:
            return best.requires_python
        return next((file.requires_python for file in self.files if file.requires_python is not None), None)


@dataclass(frozen=True, slots=True)
class UpstreamProject:
    """A project as PyPI has it at one serial."""

    name: str  #: canonical
    display_name: str
    summary: str
    serial: int  #: PyPI's last serial of it; 0: not given
    releases: tuple[UpstreamRelease, ...]  #: newest version first
    status: ProjectStatus | None = None  #: None: the answer did not say (the JSON does not)
    status_reason: str = ""
    refused: tuple[str, ...] = ()  #: what was left out, and why; a line each, bounded
    hides: bool | None = None  #: whether the index page hides files that the JSON has; None: it was not compared

    def wanted(self, *, every: bool) -> frozenset[str]:
        """The versions to build: all, or the latest.

        The latest is what pip would choose by version: the newest final release that is not yanked; the newest
        pre-release if there are only those; the newest of all if all are yanked. Which files fit whom decides nothing
        here, so the latest release is meant even where its Requires-Python excludes a target.
        """
        if every or not self.releases:
            return frozenset(release.version for release in self.releases)
        return frozenset({latest((r.version, r.yanked) for r in self.releases)})


def latest(releases: Iterable[tuple[str, bool]]) -> str:
    """The latest of some (version, yanked), at least one; see :meth:`UpstreamProject.wanted`."""
    return max(releases, key=lambda release: _preference(*release))[0]


def _preference(version: str, yanked: bool) -> tuple[bool, bool, bool, bytes, str]:
    valid = parse_or_none(version) is not None
    return (valid, not yanked, not is_prerelease(version), sort_key(version), version)


def best_sdist(files: Sequence[UpstreamFile], *, version: str) -> UpstreamFile | None:
    """The sdist to build from: one that can be fetched and verified, .tar.gz before .zip before others, then one that
    is named as PEP 625 says, then the latest."""

    def rank(file: UpstreamFile) -> tuple[bool, int, bool, float]:
        lower = file.filename.lower()
        suffix = next(number for number, end in enumerate(SDIST_SUFFIXES) if lower.endswith(end))
        stem = file.filename[: -len(SDIST_SUFFIXES[suffix])]
        name, _, tail = stem.rpartition("-")
        proper = bool(name) and "-" not in name and tail == version
        return (file.yanked, suffix, not proper, -file.uploaded.timestamp())

    usable = [file for file in files if file.kind is UpstreamKind.SDIST and file.sha256 and file.url]
    return min(usable, key=rank, default=None)


def canonical(name: str) -> str:
    """The canonical form (PEP 503) of a project's name; UpstreamUnusable for what cannot be one."""
    if not (plain := plain_name(name)):
        raise UpstreamUnusable(f"{clean(name, 80)!r} is not a project name")
    return plain


def plain_name(name: object) -> str:
    """The canonical form (PEP 503) of a project's name; empty for what cannot be one."""
    if not isinstance(name, str) or len(name) > MAX_NAME:
        return ""
    if _CANONICAL.fullmatch(name):  # most are, and there are many
        return name
    return str(canonicalize_name(name)) if _NAME.fullmatch(name) else ""


def clean(value: object, limit: int) -> str:
    """A stranger's text on one line, without control characters, not longer than ``limit``; other types are empty."""
    if not isinstance(value, str):
        return ""
    text = " ".join(_CONTROL.sub(" ", value[: limit * 4]).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def parse_project(document: object, *, name: str) -> UpstreamProject:
    """Read the JSON of the project that was asked for as ``name``. Raises UpstreamUnusable."""
    wanted = canonical(name)
    if not isinstance(document, dict):
        raise UpstreamUnusable(f"PyPI's JSON of {wanted} is not an object")
    info = document.get("info")
    releases = document.get("releases")
    if not isinstance(info, dict) or not isinstance(releases, dict):
        raise UpstreamUnusable(f"PyPI's JSON of {wanted} has no {'info' if not isinstance(info, dict) else 'releases'}")
    display = info.get("name")
    if not isinstance(display, str) or canonical(display) != wanted:
        raise UpstreamUnusable(f"PyPI's JSON of {wanted} is of another project: {clean(display, 80)!r}")
    reader = _Reader()
    found = reader.releases(releases)
    status, reason = _status(document, info)
    return UpstreamProject(
        name=wanted,
        display_name=display,
        summary=clean(info.get("summary"), MAX_SUMMARY),
        serial=_natural(document.get("last_serial")) or 0,
        releases=tuple(sorted(found, key=lambda release: (sort_key(release.version), release.version), reverse=True)),
        status=status,
        status_reason=reason,
        refused=tuple(reader.refused),
    )


def with_links(project: UpstreamProject, links: Mapping[str, tuple[str, str]]) -> UpstreamProject:
    """The project, its sdists' addresses taken from its simple page where the JSON has none.

    ``links``: file name → (absolute URL, SHA-256 in hex). An address is believed for the hash that the JSON gives.
    """

    def linked(file: UpstreamFile) -> UpstreamFile:
        url, sha256 = links.get(file.filename, ("", ""))
        if file.url or file.sha256 is None or sha256 != file.sha256.hex() or not _is_web(url):
            return file
        return replace(file, url=url)

    releases = (replace(release, files=tuple(map(linked, release.files))) for release in project.releases)
    return replace(project, releases=tuple(releases))


def with_status(project: UpstreamProject, status: ProjectStatus | None, reason: str) -> UpstreamProject:
    """The project, with the PEP 792 marker of its simple page."""
    return project if status is None else replace(project, status=status, status_reason=reason)


def with_page(project: UpstreamProject, filenames: Collection[str], *, serial: int) -> UpstreamProject:
    """The project without the files that its simple page hides: PyPI quarantines releases so, and the JSON still has
    them.

    Only if the page is of the same serial as the JSON: an older or newer one may differ for other reasons. A project
    that is quarantined as a whole (:func:`with_status` first) has an empty page, and keeps what the JSON says of it.
    """
    if not serial or serial != project.serial or project.status is ProjectStatus.QUARANTINED:
        return project
    listed = frozenset(filenames)
    shown = (
        replace(release, files=tuple(file for file in release.files if file.filename in listed))
        for release in project.releases
    )
    left = tuple(release for release in shown if release.files)
    return replace(project, releases=left, hides=_count(left) < _count(project.releases))


def _count(releases: Iterable[UpstreamRelease]) -> int:
    return sum(len(release.files) for release in releases)


def needs_links(project: UpstreamProject) -> bool:
    """Whether an sdist has no address that it could be fetched from."""
    files = (file for release in project.releases for file in release.files)
    return any(file.kind is UpstreamKind.SDIST and file.sha256 is not None and not file.url for file in files)


class _Reader:
    """Reads releases and notes what it left out."""

    MAX_NOTES = 10

    def __init__(self) -> None:
        self.refused: list[str] = []

    def refuse(self, what: str) -> None:
        if len(self.refused) < self.MAX_NOTES:
            self.refused.append(what)

    def releases(self, found: Mapping[Any, Any]) -> list[UpstreamRelease]:
        if len(found) > MAX_RELEASES or sum(len(v) for v in found.values() if isinstance(v, list)) > MAX_FILES:
            raise UpstreamUnusable(f"PyPI's JSON has {len(found)} releases, which no project can have")
        releases = []
        for version, files in found.items():
            if not _is_version(version):
                self.refuse(f"a release with version {clean(version, 60)!r}")
            elif isinstance(files, list) and (read := self._files(files)):
                releases.append(UpstreamRelease(version, read))
        return releases

    def _files(self, found: Sequence[Any]) -> tuple[UpstreamFile, ...]:
        files = {file.filename: file for item in found if (file := self._file(item)) is not None}
        return tuple(files[name] for name in sorted(files))

    def _file(self, item: object) -> UpstreamFile | None:
        if not isinstance(item, dict):
            self.refuse("a file that is not an object")
            return None
        filename = item.get("filename")
        if not isinstance(filename, str) or not is_filename(filename):
            self.refuse(f"a file called {clean(filename, 60)!r}")
            return None
        kind = _kind(filename, item.get("packagetype"))
        digests = item.get("digests")
        sha256 = digests.get("sha256") if isinstance(digests, dict) else None
        url = item.get("url")
        return UpstreamFile(
            filename=filename,
            kind=kind,
            size=_natural(item.get("size")),
            sha256=bytes.fromhex(sha256) if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None,
            url=url if isinstance(url, str) and _is_web(url) else None,
            requires_python=_requires(item.get("requires_python")),
            yanked=item.get("yanked") is True,
            yanked_reason=clean(item.get("yanked_reason"), MAX_REASON),
            uploaded=_time(item.get("upload_time_iso_8601")) or _time(item.get("upload_time")) or _EPOCH,
        )


def _is_version(version: object) -> bool:
    """Versions that PEP 440 rejects are kept: they were legal once."""
    return isinstance(version, str) and 0 < len(version) <= MAX_VERSION and version.isprintable()


def is_filename(name: str) -> bool:
    """Whether a file of a release may be called so."""
    return (
        0 < len(name) <= MAX_FILENAME
        and name.isprintable()
        and "/" not in name
        and "\\" not in name
        and not name.startswith(".")
    )


def _kind(filename: str, packagetype: object) -> UpstreamKind:
    """By the file's name, as installers judge; eggs, installers for Windows and the like are of no use to us."""
    lower = filename.lower()
    if lower.endswith(".whl"):
        return UpstreamKind.WHEEL
    if packagetype in ("sdist", None) and lower.endswith(SDIST_SUFFIXES):
        return UpstreamKind.SDIST
    return UpstreamKind.OTHER


def _natural(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_SIZE else None


def _requires(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > MAX_REQUIRES or not value.isprintable():
        return None
    return value.strip() or None


def _time(value: object) -> datetime | None:
    """PyPI's times are UTC, whether they say so or not."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        time = datetime.fromisoformat(value)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if 1990 <= time.year <= 2999 else None


def _is_web(url: str) -> bool:
    """Whether a URL is absolute, http(s), and fit to be handed to a builder."""
    if len(url) <= MAX_URL and _PLAIN_URL.fullmatch(url):
        return True
    if not 0 < len(url) <= MAX_URL or not url.isprintable() or re.search(r"[\s<>\"\\]", url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _status(document: Mapping[str, Any], info: Mapping[str, Any]) -> tuple[ProjectStatus | None, str]:
    """PEP 792's marker, where the JSON carries one (PyPI's does not today; its index pages do)."""
    for holder in (document, info):
        marker = holder.get("project-status", holder.get("project_status"))
        status = marker.get("status") if isinstance(marker, dict) else marker
        if isinstance(status, str) and status in set(ProjectStatus):
            return ProjectStatus(status), clean(marker.get("reason"), MAX_REASON) if isinstance(marker, dict) else ""
    return None, ""
