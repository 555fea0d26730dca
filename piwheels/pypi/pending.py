# SPDX-License-Identifier: BSD-3-Clause
"""A project that is to be asked for, and what may become of asking. Facts only; no I/O, no decision."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from piwheels.pypi.model import UpstreamProject
from piwheels.vocabulary import ProjectStatus


class Priority(IntEnum):
    """Who comes first."""

    NEWS = 0
    WATCH = 1
    BOOTSTRAP = 2
    REPAIR = 3


@dataclass(frozen=True, slots=True)
class Pending:
    """A project to ask for."""

    name: str  #: canonical
    priority: Priority
    serial: int  #: an answer with a lower one is stale
    removed: bool  #: heard so, of a time that our rows do not reflect yet
    page: bool  #: the index page is to be read too: heard so, or what it said the last time was out of the ordinary
    seq: int
    attempts: int
    doubted_since: datetime | None
    project_id: int | None = None  #: None: we do not know it
    known_serial: int = 0  #: what our rows reflect
    status: ProjectStatus | None = None  #: as we know it
    etag: str = ""  #: of the answer that our rows reflect, if it is watched


@dataclass(frozen=True, slots=True)
class Found:
    """The project as it is."""

    project: UpstreamProject
    etag: str = ""
    entry: bytes | None = None  #: for the dump
    requires: tuple[str, ...] = ()  #: the latest release's Requires-Dist


@dataclass(frozen=True, slots=True)
class Unchanged:
    """It is what it was when we last asked."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Its JSON is missing, and its index page says why: a status."""

    status: ProjectStatus
    reason: str
    serial: int  #: 0: not given


@dataclass(frozen=True, slots=True)
class Emptied:
    """Its JSON is missing, and its index page has no files: there are no releases any more, or not yet."""

    serial: int
    status: ProjectStatus = ProjectStatus.ACTIVE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """Neither its JSON nor its index page is there."""


@dataclass(frozen=True, slots=True)
class Failed:
    """There was no answer that means anything."""

    words: str
    away: bool  #: PyPI's fault, not the project's


Outcome = Found | Unchanged | Hidden | Emptied | Gone | Failed
