# SPDX-License-Identifier: BSD-3-Clause
"""What the database says of a project and of the farm, as far as pages show it: rows in, nothing decided.

db/page_facts.py reads them; piwheels.site.model makes pages of them. Text is as it came from PyPI and from builders.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from piwheels.vocabulary import DependencyTool, FailureReason, NewsKind, ProjectStatus


@dataclass(frozen=True, slots=True)
class Link:
    """Somewhere that the farm's pages lead to, beside what they lead to anyway."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What every page knows of the farm it belongs to; from settings."""

    name: str
    base_url: str  #: no slash at its end
    contact: str  #: mail address, URL, or empty
    pypi_project_url: str  #: what a project's name is appended to, for PyPI's page of it; ends with a slash
    dump: bool = False  #: a metadata dump is made, so pages link to what is said of it
    links: tuple[Link, ...] = ()  #: the operator's own, in every footer
    overrides: Path | None = None  #: directory of the operator's own templates and styles
    styles: tuple[str, ...] = ()  #: names of the operator's own style sheets, for after ours


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A wheel of ours."""

    id: int
    build_id: int
    filename: str
    size: int
    sha256: bytes
    metadata_sha256: bytes
    requires_python: str | None
    yanked: bool
    yanked_reason: str
    uploaded: datetime
    distribution: str = ""  #: of the target that it was built for; empty: not known
    dependencies: tuple[tuple[DependencyTool, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """A file that PyPI has, as a merged index shows it."""

    release_id: int
    filename: str
    size: int | None
    sha256: bytes | None
    url: str | None  #: absolute; None: not known here
    requires_python: str | None
    yanked: bool
    yanked_reason: str
    uploaded: datetime


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """An attempt to build a release for a target."""

    id: int
    release_id: int
    target: str
    finished: datetime
    duration: timedelta
    reason: FailureReason | None  #: None: it succeeded
    detail: str
    superseded: bool
    has_log: bool


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """A release, as PyPI has it."""

    id: int
    version: str
    sort_key: bytes
    released: datetime
    yanked: bool
    yanked_reason: str
    skip_reason: str
    wanted: bool  #: False: outside what the feed was told to build


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """Everything a project's pages are made of."""

    id: int
    name: str
    display_name: str
    summary: str
    status: ProjectStatus
    status_reason: str
    skip_reason: str
    serial: int
    aliases: tuple[str, ...]
    releases: tuple[ReleaseFacts, ...]
    builds: tuple[BuildFacts, ...]  #: by id
    files: tuple[FileFacts, ...]  #: by id
    downloads_month: int
    downloads_all: int
    bound: "Bound" = field(default_factory=dict)  #: what the files' names stand for
    download_days: tuple[tuple[date, int], ...] = ()  #: of the last year, those that have any, oldest first
    today: date | None = None  #: UTC's, when they were counted


@dataclass(frozen=True, slots=True)
class DumpFacts:
    """What is known of the metadata dump that the site has."""

    made: datetime
    since: datetime | None  #: it has the projects that changed then or later; None: all that are known
    packages: int
    size: int  #: bytes
    unpacked: int  #: bytes
    sha256: str  #: of the file, in hex


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened to what the site has."""

    id: int  #: never changes; in no particular order
    serial: int | None  #: in the order of publishing; None: not published yet
    at: datetime
    kind: NewsKind
    project: str
    version: str = ""  #: empty: the whole project
    target: str = ""  #: of a build
    build_id: int | None = None
    reason: str = ""  #: what a build failed for
    detail: str = ""
    has_log: bool = False
    files: tuple[str, ...] = ()


MAIN = ""  #: the main index's space of names; every other is called after its distribution
Bound = Mapping[tuple[str, str], bytes]  #: (space, file name) → SHA-256 that the name stands for there
