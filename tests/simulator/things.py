# SPDX-License-Identifier: BSD-3-Clause
"""What a simulated PyPI is made of: files, projects, journal entries. Not how they change, nor how they are shown.

A file is never altered once it is held by a project; a change puts another in its place, so that copies of a project's
table of files are snapshots of it.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from typing import Any

from packaging.utils import canonicalize_name

from piwheels.versions import is_prerelease, sort_key


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An event, as ``changelog_since_serial`` tells it."""

    name: str  #: as displayed at that time
    version: str | None
    time: int  #: seconds since 1970, UTC
    action: str
    serial: int

    def row(self) -> list[Any]:
        """As the journal's array has it."""
        return [self.name, self.version, self.time, self.action, self.serial]


@dataclass
class File:
    """A file of a release."""

    filename: str
    version: str
    data: bytes
    packagetype: str
    uploaded: datetime
    requires_python: str | None = None
    yanked: bool = False
    yanked_reason: str | None = None
    sha256: str = ""  #: what is said of it; not always the truth
    requires_dist: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or hashlib.sha256(self.data).hexdigest()

    @property
    def python_version(self) -> str:
        """``source``, or the Python tag of a wheel."""
        return "source" if self.packagetype == "sdist" else self.filename.rsplit("-", 3)[1]

    @cached_property
    def md5(self) -> str:
        """As the JSON gives it."""
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()

    @cached_property
    def metadata(self) -> bytes | None:
        """A wheel's METADATA, served beside it (PEP 658); None: there is none."""
        if self.packagetype != "bdist_wheel":
            return None
        with zipfile.ZipFile(io.BytesIO(self.data)) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            return wheel.read(names[0]) if names else None

    @cached_property
    def metadata_sha256(self) -> str:
        """Its hash, in hex; empty without it."""
        return hashlib.sha256(self.metadata).hexdigest() if self.metadata is not None else ""


@dataclass(slots=True)
class Project:
    """A project."""

    name: str  #: as displayed
    summary: str
    serial: int
    files: dict[str, File] = field(default_factory=dict)
    status: str = "active"  #: PEP 792's
    document: object | None = None  #: answered instead of the JSON that follows from the rest
    versions: list[str] = field(default_factory=list)  #: in the order of their registration, those without files too
    hidden: set[str] = field(default_factory=set)  #: versions in quarantine: in the JSON, not on the index page
    roles: list[tuple[str, str]] = field(default_factory=list)  #: (Owner or Maintainer, user)
    classifiers: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)  #: more for the JSON's ``info``
    docs_url: str | None = None
    created: int = 0  #: seconds since 1970, UTC
    before: "Project | None" = None  #: as it was before its last change; None: it was not there

    @property
    def canonical(self) -> str:
        return str(canonicalize_name(self.name))

    def files_of(self, version: str) -> list[File]:
        """A release's files."""
        return [file for file in self.files.values() if file.version == version]

    def on_page(self) -> list[File]:
        """The files that its index page shows: none in quarantine, nor those of releases in quarantine."""
        if self.status == "quarantined":
            return []
        return [file for file in self.files.values() if file.version not in self.hidden]

    def latest(self) -> str | None:
        """The release that the JSON's ``info.version`` names: not yanked, final, newest, in that order."""
        yanked = {file.version for file in self.files.values() if file.yanked}
        yanked -= {file.version for file in self.files.values() if not file.yanked}

        def rank(version: str) -> tuple[bool, bool, bytes]:
            return (version not in yanked, *_rank(version))

        return max(self.versions, key=rank, default=None)

    def snapshot(self) -> "Project":
        """A copy that later changes leave alone."""
        return Project(
            self.name,
            self.summary,
            self.serial,
            dict(self.files),
            self.status,
            self.document,
            list(self.versions),
            set(self.hidden),
            list(self.roles),
            self.classifiers,
            dict(self.info),
            self.docs_url,
            self.created,
        )


@cache
def _rank(version: str) -> tuple[bool, bytes]:
    return (not is_prerelease(version), sort_key(version))


def all_yanked(files: Iterable[File]) -> bool:
    """PEP 592 marks files; a release is yanked when all of its files are."""
    return all(file.yanked for file in files)
