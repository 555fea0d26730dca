# SPDX-License-Identifier: BSD-3-Clause
"""One builder's session as the master sees it: a pure state machine.

``Session.handle(event, now) -> effects``. It owns where a builder stands in the protocol and what it holds; it must not
know sockets, the database, the disk or clocks. The dispatch role feeds it events and executes its effects in order.
"""

from dataclasses import dataclass
from datetime import timedelta

from piwheels.vocabulary import FailureReason
from piwheels.wire import messages as m


@dataclass(frozen=True, slots=True)
class Lease:
    """A job handed to a builder, as the database recorded it before anybody was told."""

    token: str  #: 32 hex digits
    release_id: int
    target_id: int
    project: str  #: canonical name
    package: str  #: as PyPI displays it; what BUILD says
    version: str
    order: m.Order


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A wheel that arrived whole, whose content agrees with its name and with the build in hand; it is in the store."""

    filename: str
    size: int
    sha256: bytes  #: 32 bytes
    metadata_sha256: bytes  #: of its METADATA, which is in the store too
    requires_python: str | None  #: from METADATA, normalised; None when absent or invalid
    top_level: tuple[str, ...]
    dependencies: tuple[tuple[str, str], ...]  #: (tool, name), bounded and validated


@dataclass(frozen=True, slots=True)
class Result:
    """What a build came to, ready to be recorded once, under its lease token."""

    lease: Lease
    ok: bool
    reason: FailureReason | None
    detail: str
    duration: timedelta
    log: str
    files: tuple[VerifiedFile, ...]
    report: m.BuildReport | None


# Events: what the shell tells a session. ``Slave*`` carry a message off the wire; the rest answer an effect.


@dataclass(frozen=True, slots=True)
class Received:
    """A message came from the builder."""

    message: m.SlaveMessage


@dataclass(frozen=True, slots=True)
class Registered:
    """Answers Register: the builder is known and admitted."""

    slave_id: int
    resumed: Lease | None  #: the live lease it asked to resume, if it still holds
    already_recorded: bool = False  #: it asked to resume a build whose result is recorded (the reply had been lost)


@dataclass(frozen=True, slots=True)
class Refused:
    """Answers Register: it may not join; ``why`` is logged."""

    why: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Answers Claim. ``lease`` None: nothing to do, or ``paused``. ``leave``: the operator wants this slave gone."""

    lease: Lease | None
    paused: bool = False
    leave: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """Answers Verify: the file is right and in the store."""

    file: VerifiedFile


@dataclass(frozen=True, slots=True)
class Rejected:
    """Answers Verify: the file is not what was announced. ``hostile``: sending it again cannot help."""

    why: str
    hostile: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """Answers Record: the result is committed (or had been already, under the same token)."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The lease is gone (expired, job deleted) or the operator wants the build stopped: say Done at the next Busy."""

    why: str


@dataclass(frozen=True, slots=True)
class Silent:
    """The shell's clock says that nothing was heard for longer than the builder's busy_timeout."""


Event = Received | Registered | Refused | Claimed | Verified | Rejected | Recorded | Cancelled | Silent


# Effects: what the shell is to do, in order.


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this; exactly one for each request but Bye."""

    message: m.MasterMessage


@dataclass(frozen=True, slots=True)
class Register:
    """Look the builder up and note that it is here; if it resumes a lease, say whether that still holds; return every
    other lease it held to the queue. Answer Registered or Refused."""

    hello: m.Hello


@dataclass(frozen=True, slots=True)
class Claim:
    """Lease a job for this builder. Answer Claimed."""

    slave_id: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Prolong this lease (batched); answer nothing unless it no longer holds (then Cancelled)."""

    token: str
    stats: m.Stats
    log: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Note that the builder is alive, with its figures (batched)."""

    slave_id: int
    stats: m.Stats


@dataclass(frozen=True, slots=True)
class Expect:
    """Be ready to receive this file on the file channel from this builder."""

    slave_id: int
    file: m.FileInfo
    lease: Lease


@dataclass(frozen=True, slots=True)
class Verify:
    """The builder says it sent the expected file: check it. Answer Verified or Rejected."""

    slave_id: int
    file: m.FileInfo
    lease: Lease


@dataclass(frozen=True, slots=True)
class StopReceiving:
    """Forget the expected file and whatever arrived of it."""

    slave_id: int


@dataclass(frozen=True, slots=True)
class Record:
    """Commit this result, once. Answer Recorded."""

    result: Result


@dataclass(frozen=True, slots=True)
class Release:
    """Return this lease to the queue as a builder's fault, with a strike."""

    token: str
    reason: FailureReason
    why: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The session is over; drop it. Its lease, if any, stays until it expires or the builder resumes it."""

    why: str


Effect = Reply | Register | Claim | Renew | Seen | Expect | Verify | StopReceiving | Record | Release | Forget
