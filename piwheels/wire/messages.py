# SPDX-License-Identifier: BSD-3-Clause
"""The messages of the slave protocol as frozen values; no I/O and no bytes here (that is the codec's).

Sources: docs/protocol.rst. What a 0.2x slave sends and reads is the plain part of each message; the fields named
under "extension" travel only between peers that both announced protocol 2 in the eleventh element of ``HELLO``.
Everything that a peer announces is untrusted until the master has verified it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from piwheels.vocabulary import DependencyTool, FailureReason

PROTOCOL = 2  #: the version this code speaks in HELLO's eleventh element; a ten-element HELLO is version 1
MAX_LIVE_LOG = 64 * 1024  #: characters of log that one Busy carries at most; more would make a request slow


@dataclass(frozen=True, slots=True)
class Capabilities:
    """HELLO's eleventh element (extension)."""

    protocol: int = PROTOCOL
    agent: str = ""  #: "piwheels 1.0.0", for display
    resume: str | None = None  #: lease token (32 hex digits) of the build the slave still has
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """A slave introduces itself. Answered Ack or Die."""

    build_timeout: timedelta
    busy_timeout: timedelta
    py_version: str  #: "311"
    abi: str  #: "cp311"
    platform: str  #: "linux_armv7l"
    label: str
    os_name: str
    os_version: str
    board_revision: str
    board_serial: str
    capabilities: Capabilities | None = None  #: None: a 0.2x slave


@dataclass(frozen=True, slots=True)
class Stats:
    """How a builder is; sizes in bytes, temperature in degrees Celsius."""

    now: datetime  #: the builder's clock, UTC-aware
    disk_size: int
    disk_free: int
    mem_size: int
    mem_free: int
    swap_size: int
    swap_free: int
    load_average: float
    cpu_temperature: float


@dataclass(frozen=True, slots=True)
class Idle:
    """The slave has nothing to do. Answered Build, Sleep or Die."""

    stats: Stats


@dataclass(frozen=True, slots=True)
class Busy:
    """The slave is building. Answered Cont, Done or Die."""

    stats: Stats
    log: str = ""  #: extension: what the build wrote since the last Busy, at most MAX_LIVE_LOG characters


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A wheel as its builder announces it: untrusted."""

    filename: str
    size: int  #: bytes
    sha256: str  #: 64 hex digits
    package_tag: str  #: as spelled in the file name
    version_tag: str
    py_tag: str
    abi_tag: str
    platform_tag: str
    requires_python: str | None
    dependencies: Mapping[DependencyTool, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    location: str = "/simple"


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Why and how a build ended (extension; BUILT's fifth element)."""

    token: str  #: the lease it was built under
    reason: FailureReason | None = None  #: None exactly when the build succeeded
    detail: str = ""  #: one line for a person
    peak_memory: int | None = None  #: bytes
    cpu_seconds: float | None = None
    built_from: str | None = None  #: SHA-256 of the sdist, hex
    built_with: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  #: name -> version


@dataclass(frozen=True, slots=True)
class Built:
    """A build ended. Answered Send (files wanted), Done or Die."""

    ok: bool
    duration: timedelta
    log: str
    files: tuple[FileInfo, ...]
    report: BuildReport | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """The file named by the last Send has been handed over on the file channel. Answered Send or Done."""


@dataclass(frozen=True, slots=True)
class Bye:
    """The slave leaves. Not answered."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Welcome; ``index_url`` is where build requirements may be had."""

    slave_id: int
    index_url: str


@dataclass(frozen=True, slots=True)
class Order:
    """What a capable slave is told beyond package and version (extension; BUILD's third element)."""

    token: str  #: lease token, 32 hex digits
    target: str
    sdist_name: str
    sdist_url: str
    sdist_sha256: str  #: hex; to be verified before any of the sdist's code runs
    sdist_size: int | None  #: bytes
    time_limit: timedelta
    memory_limit: int  #: bytes; 0: no limit
    apt: tuple[str, ...] = ()  #: Debian packages that must be installed where it is built
    environment: tuple[tuple[str, str], ...] = ()  #: variables for the build, beside those of the builder's own
    network: bool = True  #: whether the sdist's code may reach the network


@dataclass(frozen=True, slots=True)
class Build:
    """Build this release."""

    package: str
    version: str
    order: Order | None = None  #: None only towards a 0.2x slave


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing to do (or paused by the operator); ask again in a while."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Cont:
    """Carry on building."""


@dataclass(frozen=True, slots=True)
class Send:
    """Hand over this file on the file channel, then say Sent."""

    filename: str


@dataclass(frozen=True, slots=True)
class Done:
    """Drop the build and its files, and say Idle."""


@dataclass(frozen=True, slots=True)
class Die:
    """Go away: end without answering."""


SlaveMessage = Hello | Idle | Busy | Built | Sent | Bye
MasterMessage = Ack | Build | Sleep | Cont | Send | Done | Die

# The file channel: raw multipart frames, no CBOR.


@dataclass(frozen=True, slots=True)
class FileHello:
    """Slave to master: I am here to hand over what you asked me for."""

    slave_id: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Master to slave: give me this range (bytes)."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Slave to master: (part of) a range asked for."""

    offset: int
    data: bytes | memoryview  #: a view, where the receiver does not copy it


@dataclass(frozen=True, slots=True)
class FileDone:
    """Master to slave: I have it all; close."""


FileMessage = FileHello | Fetch | Chunk | FileDone
