# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: RUF009 - setting() makes a dataclass field, which the linter cannot see
"""The farm's settings: one frozen object, built once from file < environment < flags.

The file is TOML, one table a section; the environment is ``PIWHEELS_<SECTION>_<KEY>``; any command takes
``--set section.key=value``. Each field's metadata carries its help, which ``--show-config`` and the manual print, and
its check. What is declared here is read by :mod:`piwheels.configuration`; :func:`load` and :func:`show` are its doors.
This module is imported by slaves too, so it needs the standard library alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from piwheels.checks import (
    address,
    address_or_none,
    at_least,
    between,
    database_url,
    links,
    natural,
    one_of,
    positive,
    web_address,
)

Check = Callable[[Any], str | None]  #: what is wrong with a value, in words that follow it; None: nothing


def setting(default: Any, help: str, check: Check | None = None) -> Any:
    """Declare a setting: its default, one sentence for the manual, and what its values must be."""
    metadata = {"help": help, "check": check}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class FarmSettings:
    """Who runs the farm and where people find it."""

    name: str = setting("piwheels", "The farm's name, shown on its pages.")
    base_url: str = setting(
        "http://127.0.0.1:8080", "Where the published tree is served, without a slash at the end.", web_address()
    )
    contact: str = setting(
        "", "Mail address or URL of the operator; sent to PyPI in the User-Agent and shown on pages."
    )
    links: tuple[str, ...] = setting(
        [],
        "Links in every page's footer, as NAME=URL each, such as Source=https://www.example.org/source; a name with "
        "spaces needs a TOML list.",
        links,
    )


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The farm's memory."""

    url: str = setting("postgresql:///piwheels", "libpq URL of the database.", database_url)
    pool: int = setting(8, "Most connections a process of the master opens.", between(1, 1000))


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Where bytes are kept. output and store must be on one file system (hard links)."""

    output: Path = setting(Path("/var/lib/piwheels/www"), "The published tree.")
    store: Path = setting(Path("/var/lib/piwheels/store"), "Wheels by content.")
    run: Path = setting(Path("/run/piwheels"), "Local sockets and locks; owner and group only.")
    keys: Path = setting(Path("/etc/piwheels/keys"), "The master's key pair.")


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """PyPI, or whatever stands in for it."""

    simple_url: str = setting(
        "",
        "PyPI's simple index; empty: the address pypi-simple knows. All others derive from it.",
        web_address(empty=True, slash=True),
    )
    timeout: timedelta = setting(timedelta(seconds=30), "Longest wait for an answer, in seconds.", positive)
    connections: int = setting(4, "Most requests to PyPI at the same time.", between(1, 100))


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """What is followed, and how."""

    source: str = setting(
        "auto",
        "Where news come from: journal, index, watch, or auto (the watch list if there is one; else the journal, and "
        "the index while that is refused).",
        one_of("auto", "journal", "index", "watch"),
    )
    projects: tuple[str, ...] = setting([], "The watch list: names of the only projects to follow; empty: all.")
    requirements: str = setting(
        "", "A requirements file: what it names, and what that depends on, joins the watch list; empty: none."
    )
    releases: str = setting("latest", "Which releases of a project are built: latest or all.", one_of("latest", "all"))
    interval: timedelta = setting(
        timedelta(minutes=5), "Time between two looks at a watched project, in seconds.", positive
    )
    poll: timedelta = setting(timedelta(seconds=10), "Time between two looks at the journal, in seconds.", positive)
    listing: timedelta = setting(
        timedelta(minutes=5), "Time between two looks at the index, while that is followed, in seconds.", positive
    )
    journal_retry: timedelta = setting(
        timedelta(minutes=10), "Time after which a journal that was refused is tried again, in seconds.", positive
    )
    reconcile: timedelta = setting(
        timedelta(hours=6), "Time between two comparisons with the whole index, in seconds; 0: never.", natural
    )
    repairs: int = setting(
        120, "Most projects a minute that are asked for because a comparison found them different.", at_least(1)
    )
    disbelief: timedelta = setting(
        timedelta(hours=24),
        "How long PyPI must say that a project is gone, or older than we have it, before that is believed on its word "
        "alone, in seconds.",
        natural,
    )


@dataclass(frozen=True, slots=True)
class PlanningSettings:
    """What is built, as far as no recipe says otherwise. All processes must be told the same."""

    rebuild: str = setting(
        "missing",
        "What is built: missing, what PyPI has no wheel of; or all, whatever PyPI has.",
        one_of("missing", "all"),
    )
    prereleases: str = setting("yes", "Whether pre-releases are built: yes or no.", one_of("yes", "no"))


@dataclass(frozen=True, slots=True)
class RecipeSettings:
    """What is said of particular projects."""

    folder: Path | None = setting(
        None,
        "Folder of recipe files; the master applies them when it starts and when they change. Empty: none, or "
        "what piw-recipes apply was given.",
    )


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """Where builders connect, and what they may do."""

    builders: str = setting("tcp://*:5555", "Address of the builder channel.", address)
    files: str = setting("tcp://*:5556", "Address of the file channel.", address)
    plain_builders: str = setting(
        "",
        "Address of another builder channel, without encryption, for 0.2x builders from addresses that piw-keys enrol "
        "was given; empty: none.",
        address_or_none,
    )
    plain_files: str = setting("", "Address of the file channel that belongs to plain_builders.", address_or_none)
    lease: timedelta = setting(
        timedelta(minutes=10), "How long a job stays with a builder that is not heard of, in seconds.", positive
    )
    build_timeout: timedelta = setting(timedelta(hours=3), "Longest build, in seconds.", positive)
    memory_limit: int = setting(0, "Most memory a build may use, in bytes; 0: what the builder allows.", at_least(0))
    strikes: int = setting(3, "Builder's faults after which a job is given up.", between(1, 100))
    retry_after: timedelta = setting(
        timedelta(seconds=60),
        "Wait before a job that failed by a builder's fault is tried again, in seconds; doubles with each strike.",
        positive,
    )
    max_file: int = setting(2 * 1024**3, "Largest wheel accepted, in bytes.", at_least(1))
    max_files: int = setting(20, "Most wheels of one build.", between(1, 1000))
    max_log: int = setting(
        8 * 1024**2, "Longest build log kept, in bytes; the middle of a longer one is cut.", at_least(1024)
    )
    min_free: int = setting(
        512 * 1024**2, "Free bytes on the store's disk below which nothing is handed out or received.", at_least(0)
    )


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """The site."""

    workers: int = setting(1, "Publishing processes.", between(1, 64))
    listing_interval: timedelta = setting(
        timedelta(minutes=2),
        "Longest rest between two writings of an index's list of all projects, in seconds; a short list, quickly "
        "written, rests less, a second at least.",
        positive,
    )
    distributions: str = setting(
        "auto",
        "Whether each distribution has an index of its own wheels, /<distribution>/simple/: yes, no, or auto (if "
        "targets are of more than one).",
        one_of("auto", "yes", "no"),
    )
    all_index: str = setting(
        "no",
        "Whether there is an index of PyPI's own files and ours together, /all/simple/: yes or no. All processes must "
        "be told the same; a farm that followed PyPI without it is to be filled again (piw-bootstrap).",
        one_of("yes", "no"),
    )
    overrides: Path | None = setting(
        None,
        "Directory of the operator's own templates (in templates/) and styles (in static/), which win over those that "
        "come with piwheels; read when the master starts. Empty: none.",
    )


@dataclass(frozen=True, slots=True)
class StatsSettings:
    """Download statistics."""

    interval: timedelta = setting(
        timedelta(seconds=20), "Longest time between a download and its showing in packages.json, in seconds.", positive
    )


@dataclass(frozen=True, slots=True)
class DumpSettings:
    """The metadata dump, /pypi-metadata.json.zst."""

    interval: timedelta = setting(timedelta(days=1), "Time between two dumps, in seconds; 0: none.", natural)
    window: timedelta = setting(
        timedelta(days=60),
        "Projects that changed within this time are in it, in seconds; 0: all that are known.",
        natural,
    )


@dataclass(frozen=True, slots=True)
class SlaveSettings:
    """A builder."""

    builders: str = setting("tcp://127.0.0.1:5555", "The master's builder channel.", address)
    files: str = setting("tcp://127.0.0.1:5556", "The master's file channel.", address)
    master_key: str = setting("", "The master's public key (Z85, 40 characters), or a file that holds it.")
    key: Path = setting(Path("/etc/piwheels/slave.key"), "This builder's own key pair; made if missing.")
    label: str = setting("", "A name for people; default: the host's.")
    work: Path = setting(Path("/var/tmp/piw-slave"), "Where builds happen; wiped after each.")
    build_timeout: timedelta = setting(
        timedelta(hours=3), "Longest build, in seconds; the master may ask for less.", positive
    )
    busy_timeout: timedelta = setting(
        timedelta(minutes=5), "Silence of the master after which the connection is made anew, in seconds.", positive
    )
    memory_limit: int = setting(0, "Most memory a build may use, in bytes; 0: no limit.", at_least(0))
    sandbox: str = setting(
        "auto", "bubblewrap: required; auto: used where it works; off: never.", one_of("auto", "required", "off")
    )
    poll: timedelta = setting(
        timedelta(seconds=7), "Time between two messages to the master while idle or busy, in seconds.", positive
    )
    min_free: int = setting(256 * 1024**2, "Free bytes below which the builder asks for no job.", at_least(0))


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them."""

    farm: FarmSettings = field(default_factory=FarmSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    feed: FeedSettings = field(default_factory=FeedSettings)
    planning: PlanningSettings = field(default_factory=PlanningSettings)
    recipes: RecipeSettings = field(default_factory=RecipeSettings)
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    publish: PublishSettings = field(default_factory=PublishSettings)
    stats: StatsSettings = field(default_factory=StatsSettings)
    dump: DumpSettings = field(default_factory=DumpSettings)
    slave: SlaveSettings = field(default_factory=SlaveSettings)


def load(
    path: Path | None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> Settings:
    """Build the settings from a file, the environment and ``section.key=value`` flags; the later wins.

    ``environ`` is the environment to look at; None: none. Raises SettingsError with one line that names the file and
    line, the variable or the flag.
    """
    from piwheels.configuration import read  # it needs the classes above

    return read(path, environ or {}, overrides).settings


def show(settings: Settings, origins: Mapping[str, str] | None = None) -> str:
    """The settings as a TOML file with their help as comments; ``origins`` says where values came from."""
    from piwheels.configuration import render

    return render(settings, origins or {})
