# SPDX-License-Identifier: BSD-3-Clause
"""What the database says of the farm as a whole, as far as pages show it: rows in, nothing decided.

db/farm_pages.py reads them. Nothing here tells where a builder is or how it proves who it is: these pages are public.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from piwheels.vocabulary import FailureReason, SlaveWish


@dataclass(frozen=True, slots=True)
class RecentBuild:
    """A build that ended."""

    build_id: int
    project: str
    display_name: str
    version: str
    target: str
    finished: datetime
    duration: timedelta
    reason: FailureReason | None
    has_log: bool


@dataclass(frozen=True, slots=True)
class Running:
    """A build in hand."""

    project: str
    display_name: str
    version: str
    target: str
    builder: str
    started: datetime


@dataclass(frozen=True, slots=True)
class Latest:
    """A release that wheels were made of lately."""

    project: str
    display_name: str
    version: str
    summary: str
    targets: tuple[str, ...]
    finished: datetime  #: the last of those builds


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """What the home page shows."""

    projects: int  #: that are listed
    files: int
    builds: int  #: that ended within a day
    downloads: int  #: within 30 days
    targets: tuple[str, ...]  #: names of those enabled, oldest first
    distributions: tuple[str, ...]  #: of theirs, each once, in the same order
    running: tuple[Running, ...]  #: the oldest first
    latest: tuple[Latest, ...]  #: latest first


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the master's."""

    name: str
    seen_at: datetime
    silent: bool  #: its heartbeat is overdue


@dataclass(frozen=True, slots=True)
class Builder:
    """A builder that is admitted."""

    name: str
    target: str  #: empty: none yet
    wish: SlaveWish
    seen_at: datetime | None
    building: Running | None


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for one target."""

    target: str
    waiting: int  #: counting stops at a ceiling
    building: int
    oldest: datetime | None  #: of those counted


@dataclass(frozen=True, slots=True)
class Feed:
    """How far PyPI is followed."""

    source: str  #: empty: the feed does not run
    answers: bool  #: PyPI does
    serial: int  #: PyPI's, up to which everything was heard
    waiting: int  #: projects that changed and are still to be asked for
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the status page shows."""

    paused: bool
    ceiling: int  #: where counting stops
    processes: tuple[Process, ...]
    builders: tuple[Builder, ...]
    queues: tuple[Queue, ...]
    feed: Feed
    stale: int  #: pages that are not rendered yet; counting stops at the ceiling
    stale_since: datetime | None
    recent: tuple[RecentBuild, ...]  #: latest first

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return sum(queue.waiting for queue in self.queues)


@dataclass(frozen=True, slots=True)
class Downloads:
    """One day's downloads."""

    day: date
    count: int
    saved: timedelta  #: how long the builds of what was fetched took


@dataclass(frozen=True, slots=True)
class Builds:
    """One day's builds."""

    day: date
    built: int
    failed: int
    duration: timedelta


@dataclass(frozen=True, slots=True)
class StatsFacts:
    """What the statistics page shows. Days without anything are missing."""

    today: date
    downloads: tuple[Downloads, ...]  #: of the last year
    builds: tuple[Builds, ...]  #: of the last year
    told: Mapping[
        str, tuple[tuple[str, int], ...]
    ]  #: kind of detail → values of the last 30 days with their downloads, most first
    projects: int  #: that are listed
    files: int
    waiting: int  #: jobs in the queue
    saved: timedelta  #: over all time
    fetched: int  #: downloads over all time
    top: tuple[tuple[str, int], ...] = field(default=())  #: projects most downloaded in 30 days
