# SPDX-License-Identifier: BSD-3-Clause
"""The closed sets that the database, the wire and the pages share, and nothing else.

Each enum here that the schema knows has a PostgreSQL enum type of the same members; a test of the schema compares
the two.
"""

from enum import IntEnum, StrEnum


class ProjectStatus(StrEnum):
    """PEP 792's project status markers, as PyPI gives them. PostgreSQL type ``project_status``."""

    ACTIVE = "active"
    ARCHIVED = "archived"
    QUARANTINED = "quarantined"
    DEPRECATED = "deprecated"


class UpstreamKind(StrEnum):
    """What an upstream file is, as far as the planner cares. PostgreSQL type ``upstream_kind``."""

    SDIST = "sdist"
    WHEEL = "wheel"
    OTHER = "other"


class Outcome(StrEnum):
    """How one build attempt ended. PostgreSQL type ``build_outcome``."""

    SUCCESS = "success"
    FAILED = "failed"


class FailureReason(StrEnum):
    """Why a build attempt failed. PostgreSQL type ``failure_reason``; travels in ``BUILT``.

    ``PACKAGE`` is the package's fault; every other is the builder's or circumstance's, and the job is tried again.
    """

    PACKAGE = "package"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    DISK = "disk"
    NETWORK = "network"
    BUILDER = "builder"
    LOST = "lost"  #: the lease expired or the builder came back without its build; set by the master only

    @property
    def is_packages_fault(self) -> bool:
        """Whether trying the same thing again elsewhere is pointless."""
        return self is FailureReason.PACKAGE


class Priority(IntEnum):
    """Order of jobs within a target; lower comes first. Column ``jobs.priority``."""

    REQUEST = 0
    NEW = 1
    RETRY = 2
    BACKLOG = 3


class DependencyTool(StrEnum):
    """Who provides a dependency of a wheel. PostgreSQL type ``dependency_tool``."""

    APT = "apt"
    PIP = "pip"
    NONE = ""  #: a shared library that no package of the builder's system owns


class PageKind(StrEnum):
    """What the publish role renders. PostgreSQL type ``page_kind``."""

    PROJECT = "project"  #: everything of one project: index pages, project page, JSON; key: its canonical name
    ROOT = "root"  #: /simple/; key: empty
    HOME = "home"  #: /; key: empty
    SEARCH = "search"  #: what the search page looks names up in; key: empty
    STATS = "stats"  #: /stats/; key: empty
    STATUS = "status"  #: /status/; key: empty
    SITEMAP = "sitemap"  #: /sitemap.xml and the parts it lists; key: empty
    CHANGES = "changes"  #: /changes.json, the pages of older ones, /changes.atom; key: empty


class NewsKind(StrEnum):
    """What happened to something that the site has. PostgreSQL type ``news_kind``."""

    BUILT = "built"
    FAILED = "failed"  #: an attempt to build did
    WITHDRAWN = "withdrawn"  #: the operator took files back that a build had made
    YANKED = "yanked"  #: PyPI yanked a release, or files are superseded by others
    RESTORED = "restored"  #: a release is no longer yanked, or a project no longer quarantined
    REMOVED = "removed"  #: PyPI has a project or release no more, and neither has the farm
    QUARANTINED = "quarantined"  #: PyPI put a project into quarantine: none of its files is listed


class WatchState(StrEnum):
    """Where the feed stands with one entry of the watch list. PostgreSQL type ``watch_state``."""

    PENDING = "pending"
    FOUND = "found"
    MISSING = "missing"  #: PyPI has no such project
    ERROR = "error"  #: PyPI's answer could not be used; ``watches.detail`` says why


class SlaveWish(StrEnum):
    """What the operator wants a slave to do. PostgreSQL type ``slave_wish``."""

    RUN = "run"
    PAUSE = "pause"  #: finish the build in hand, then take no more
    STOP = "stop"  #: be told DIE at its next request


class Role(StrEnum):
    """The master's processes."""

    FEED = "feed"
    DISPATCH = "dispatch"
    PUBLISH = "publish"
    STATS = "stats"
    CONTROL = "control"
