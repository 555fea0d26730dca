# SPDX-License-Identifier: BSD-3-Clause
"""One builder's session as the master sees it: a pure state machine.

``Session.handle(event, now) -> effects``. It owns where a builder stands in the protocol and what it holds; it must not
know sockets, the database, the disk or clocks. The dispatch role feeds it events and executes its effects in order.

Longer than a module should be: what goes in, what comes out and the rules between are read together. The rules are
the table ``DESCRIPTION``, which the machine runs on and which the manual shows.
"""

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from piwheels.errors import LocalProtocolError
from piwheels.master.announcement import Limits, check_announcement
from piwheels.master.needs import NOTHING, Room
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
    need: Room = NOTHING  #: what its builder must have


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
    origin: "VerifiedFile | None" = None  #: what it was before it got a build number


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
    target_id: int | None = None  #: what the builder serves, if that is enabled


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
    target_id: int | None = None  #: what the builder serves, when there was nothing to do


@dataclass(frozen=True, slots=True)
class Verified:
    """Answers Verify: the file is right and in the store."""

    file: VerifiedFile
    twin: VerifiedFile | None = None  #: the same for other machines, made here; in the store too


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
    """The lease is gone (expired, job deleted) or the operator wants the build stopped: say Done at the next request.

    The lease is the database's to end: a session that is told this releases nothing.
    """

    why: str
    token: str | None = (
        None  #: the lease meant; one that the session no longer holds is ignored. None: whatever it holds
    )


@dataclass(frozen=True, slots=True)
class Silent:
    """The shell's clock says that nothing was heard for longer than the builder's busy_timeout."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """The same builder said Hello on another connection. The shell tells every older session of that builder before it
    hands the new one its Registered, so that no two live sessions hold one lease or expect one builder's file."""


@dataclass(frozen=True, slots=True)
class Receiving:
    """Part of the expected file arrived: the builder is alive although it says nothing on the builder channel."""


Event = (
    Received
    | Registered
    | Refused
    | Claimed
    | Verified
    | Rejected
    | Recorded
    | Cancelled
    | Silent
    | Superseded
    | Receiving
)


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
    stats: m.Stats | None  #: None: nothing new is known of the builder but that it is alive (it is sending a file)
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
class Return:
    """Return this lease to the queue as if it had never been: the builder ended in order, which is nobody's fault."""

    token: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The session is over; drop it. Its lease, if any, stays until it expires or the builder resumes it."""

    why: str
    fault: bool = False  #: whether the peer broke the protocol; ``why`` then ends with the session's recent story


Effect = Reply | Register | Claim | Renew | Seen | Expect | Verify | StopReceiving | Record | Release | Return | Forget


class State(StrEnum):
    """Where a session stands."""

    NEW = "new"
    GREETING = "greeting"  #: Hello waits for Registered
    READY = "ready"
    CLAIMING = "claiming"  #: Idle waits for Claimed
    BUILDING = "building"
    SENDING = "sending"  #: the builder was told to Send a file
    VERIFYING = "verifying"  #: Sent waits for Verified
    RECORDING = "recording"  #: Built, or the last Sent, waits for Recorded
    GONE = "gone"


PENDING = frozenset(
    {State.GREETING, State.CLAIMING, State.VERIFYING, State.RECORDING}
)  #: a request waits for its reply
HOLDING = frozenset(
    {State.BUILDING, State.SENDING, State.VERIFYING, State.RECORDING}
)  #: a lease is in the builder's hands
TRIES = 3  #: how often a file may come before its build is taken back


@dataclass(frozen=True, slots=True)
class Move:
    """A row of the table: what may happen in a state."""

    state: State
    event: type[Any]  #: a message of the builder's, or an event
    to: tuple[State, ...]  #: where it may lead
    how: str  #: the method of Session that decides
    effects: str  #: in words, for the manual

    @property
    def name(self) -> str:
        """The event, in the manual's words."""
        return self.event.__name__


def _everywhere(event: type[Any], to: State | None, how: str, effects: str) -> tuple[Move, ...]:
    """The same row for each state in which a session lives; ``to`` None: it stays there."""
    living = [state for state in State if state is not State.GONE]
    return tuple(Move(state, event, (to or state,), how, effects) for state in living)


_S = State
DESCRIPTION: tuple[Move, ...] = (
    Move(_S.NEW, m.Hello, (_S.GREETING,), "_hello", "Register"),
    Move(
        _S.GREETING, Registered, (_S.READY, _S.BUILDING), "_registered", "Reply(Ack); building when a lease is resumed"
    ),
    Move(_S.GREETING, Refused, (_S.GONE,), "_refused", "Reply(Die), Forget"),
    Move(_S.READY, m.Hello, (_S.GREETING,), "_hello", "Register"),
    Move(_S.READY, m.Idle, (_S.CLAIMING,), "_idle", "Seen, Claim"),
    Move(_S.READY, m.Busy, (_S.READY,), "_stale", "Seen, Reply(Done): its lease is gone"),
    Move(_S.READY, m.Built, (_S.READY,), "_stale", "Reply(Done): its lease is gone, or the result is recorded already"),
    Move(
        _S.CLAIMING,
        Claimed,
        (_S.BUILDING, _S.READY, _S.GONE),
        "_claimed",
        "Reply(Build), or Reply(Sleep), or Reply(Die), Forget",
    ),
    Move(_S.BUILDING, m.Hello, (_S.GREETING,), "_hello", "Register, which resumes or returns the lease"),
    Move(_S.BUILDING, m.Idle, (_S.CLAIMING,), "_idle", "Release (it lost its build), Seen, Claim"),
    Move(_S.BUILDING, m.Busy, (_S.BUILDING, _S.READY), "_busy", "Renew, Reply(Cont); when cancelled Seen, Reply(Done)"),
    Move(
        _S.BUILDING,
        m.Built,
        (_S.SENDING, _S.RECORDING, _S.READY, _S.BUILDING),
        "_on_built",
        "files: Expect, Reply(Send); failed or wrongly announced: Record; cancelled or of another lease: Reply(Done)",
    ),
    Move(_S.SENDING, m.Hello, (_S.GREETING,), "_hello", "StopReceiving, Register, which resumes or returns the lease"),
    Move(_S.SENDING, m.Idle, (_S.CLAIMING,), "_idle", "StopReceiving, Release (it lost its build), Seen, Claim"),
    Move(_S.SENDING, m.Sent, (_S.VERIFYING, _S.READY), "_sent", "Verify; when cancelled StopReceiving, Reply(Done)"),
    Move(_S.SENDING, Receiving, (_S.SENDING,), "_receiving", "Renew"),
    Move(
        _S.VERIFYING,
        Verified,
        (_S.SENDING, _S.RECORDING, _S.READY),
        "_on_verified",
        "Expect, Reply(Send) for the next file; after the last Record; when cancelled Reply(Done)",
    ),
    Move(
        _S.VERIFYING,
        Rejected,
        (_S.SENDING, _S.RECORDING, _S.READY),
        "_rejected",
        "Expect, Reply(Send); no tries left: StopReceiving, Release, Reply(Done); hostile: StopReceiving, Record",
    ),
    Move(_S.RECORDING, Recorded, (_S.READY,), "_recorded", "Reply(Done)"),
    *_everywhere(m.Bye, _S.GONE, "_bye", "StopReceiving if sending, Return of a lease, Forget"),
    *_everywhere(Cancelled, None, "_cancel", "none; the next request is answered Done"),
    *_everywhere(Silent, _S.GONE, "_lapse", "StopReceiving if sending, Forget; the lease stays"),
    *_everywhere(Superseded, _S.GONE, "_lapse", "StopReceiving if sending, Forget; the lease stays"),
)
_MOVES = {(move.state, move.event): move for move in DESCRIPTION}


class Session:
    """One builder's session, over one connection.

    Messages that are not in their state's row end the session: Reply(Die), with what it holds returned; only a peer
    that did not say Hello gets no answer, because it is an old slave that outlived a restart of ours and will come
    again. An answer that no effect asked for raises LocalProtocolError and changes nothing: a fault of the shell's.
    A session that is gone takes any answer still under way, and returns a lease that comes too late.
    """

    def __init__(self, *, index_url: str = "", limits: Limits | None = None) -> None:
        """``index_url`` is what Ack says: where build requirements may be had."""
        self.state = State.NEW
        self.hello: m.Hello | None = None
        self.slave_id: int | None = None
        self.lease: Lease | None = None
        self._index_url = index_url
        self._limits = limits or Limits()
        self._cancelled = False  #: the lease is gone, and the builder does not know yet
        self._built: m.Built | None = None  #: while its files are received
        self._verified: list[Verified] = []
        self._tries = 0  #: how often the present file has come in vain
        self._story: deque[tuple[str, float]] = deque(maxlen=10)
        self._last: Move | None = None

    @property
    def capable(self) -> bool:
        """Whether the builder reads extensions."""
        return self.hello is not None and self.hello.capabilities is not None

    @property
    def story(self) -> str:
        """The last events, oldest first, for a log."""
        return ", ".join(f"{name} at {now:.1f}" for name, now in self._story)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of an event; return what is to be done, in order."""
        what = event.message if isinstance(event, Received) else event
        if self.state is State.GONE:
            return self._too_late(event)
        move = _MOVES.get((self.state, type(what)))
        if move is None:
            return self._not_in_table(event)
        self._story.append((move.name, now))
        effects: list[Effect] = getattr(self, move.how)(what)
        self._last = move  # only now: a move that raised changed nothing
        return effects

    def validate(self) -> None:
        """Raise AssertionError if the session is in a state that its rules exclude (for tests)."""
        state = self.state
        assert self._last is None or state in self._last.to or state is State.GONE, (self._last, state)
        assert (self.lease is not None) == (state in HOLDING), (state, self.lease)
        assert not self._cancelled or self.lease is not None
        if state in (State.READY, State.CLAIMING) or state in HOLDING:
            assert self.hello is not None and self.slave_id is not None, state
        if state in (State.SENDING, State.VERIFYING):
            assert self._built is not None and len(self._verified) < len(self._built.files), state
            assert 0 <= self._tries < TRIES
        else:
            assert self._built is None and not self._verified and self._tries == 0, state

    # What is not in the table.

    def _too_late(self, event: Event) -> list[Effect]:
        if isinstance(event, Received):
            raise LocalProtocolError("a message was fed to a session that is gone; a new one begins with HELLO")
        if isinstance(event, Claimed) and event.lease is not None:
            return [Release(event.lease.token, FailureReason.LOST, "the builder left while its job was being chosen")]
        return []

    def _not_in_table(self, event: Event) -> list[Effect]:
        if isinstance(event, Receiving):
            return []  # the file channel is not in step with this one
        if not isinstance(event, Received):
            raise LocalProtocolError(f"{type(event).__name__} was fed to a session that is {self.state}")
        why = f"said {type(event.message).__name__} while {self.state} (before: {self.story or 'nothing'})"
        if self.state is State.NEW:
            return [*self._end(), Forget(why, fault=True)]
        return [*self._end(FailureReason.BUILDER, f"the builder {why}"), Reply(m.Die()), Forget(why, fault=True)]

    # Coming and going.

    def _hello(self, hello: m.Hello) -> list[Effect]:
        effects = self._end()  # nothing is released: Register knows whether the builder still has its build
        self.state, self.hello = State.GREETING, hello
        return [*effects, Register(hello)]

    def _registered(self, answer: Registered) -> list[Effect]:
        self.slave_id = answer.slave_id
        if answer.resumed is not None and not answer.already_recorded:
            self.state, self.lease = State.BUILDING, answer.resumed
        else:
            self.state = State.READY
        return [Reply(m.Ack(answer.slave_id, self._index_url))]

    def _refused(self, answer: Refused) -> list[Effect]:
        self._end()
        return [Reply(m.Die()), Forget(f"refused: {answer.why}")]

    def _bye(self, bye: m.Bye) -> list[Effect]:
        held = self.lease if not self._cancelled and self.state is not State.RECORDING else None
        returned: list[Effect] = [Return(held.token)] if held else []
        return [*self._end(), *returned, Forget("said good-bye")]

    def _lapse(self, event: Silent | Superseded) -> list[Effect]:
        why = "was silent for too long" if isinstance(event, Silent) else "came back on another connection"
        return [*self._end(), Forget(why)]

    def _cancel(self, event: Cancelled) -> list[Effect]:
        if self.lease is not None and event.token in (None, self.lease.token):
            self._cancelled = True
        return []

    # Jobs.

    def _idle(self, idle: m.Idle) -> list[Effect]:
        effects = self._end(FailureReason.LOST, "the builder came back without its build")
        self.state = State.CLAIMING
        return [*effects, Seen(self._id, idle.stats), Claim(self._id)]

    def _claimed(self, answer: Claimed) -> list[Effect]:
        if answer.leave:
            unused: list[Effect] = []
            if answer.lease is not None:
                unused = [Release(answer.lease.token, FailureReason.LOST, "the operator wants the builder gone")]
            self._end()
            return [*unused, Reply(m.Die()), Forget("told to leave by the operator")]
        if answer.lease is None:
            self.state = State.READY
            return [Reply(m.Sleep(answer.paused))]
        self.state, self.lease = State.BUILDING, answer.lease
        order = answer.lease.order if self.capable else None  # a 0.2x slave's BUILD has two elements
        return [Reply(m.Build(answer.lease.package, answer.lease.version, order))]

    def _busy(self, busy: m.Busy) -> list[Effect]:
        if self._cancelled:
            return [Seen(self._id, busy.stats), *self._done()]
        return [Renew(self._held.token, busy.stats, busy.log), Reply(m.Cont())]

    def _stale(self, message: m.Busy | m.Built) -> list[Effect]:
        seen: list[Effect] = [Seen(self._id, message.stats)] if isinstance(message, m.Busy) else []
        return [*seen, Reply(m.Done())]

    def _built_elsewhere(self, built: m.Built) -> bool:
        return built.report is not None and built.report.token != self._held.token

    # Results.

    def _on_built(self, built: m.Built) -> list[Effect]:
        if self._cancelled:
            return self._done()
        if self._built_elsewhere(built):
            return [
                Reply(m.Done())
            ]  # a result of an earlier lease; the build in hand it has lost, as its Idle will say
        if not built.ok:
            reason = (built.report.reason if built.report else None) or FailureReason.PACKAGE
            return self._fail(built, reason, (built.report.detail if built.report else "") or "the build failed")
        held = self._held
        fault = check_announcement(built.files, project=held.project, version=held.version, limits=self._limits)
        if fault is not None:
            return self._fail(built, FailureReason.BUILDER, fault)
        self._built = built
        return self._expect()

    def _expect(self) -> list[Effect]:
        """Ask for the first file that is not verified yet."""
        self.state = State.SENDING
        file = self._file
        return [Expect(self._id, file, self._held), Reply(m.Send(file.filename))]

    def _sent(self, sent: m.Sent) -> list[Effect]:
        if self._cancelled:
            return [StopReceiving(self._id), *self._done()]
        self.state = State.VERIFYING
        return [Verify(self._id, self._file, self._held)]

    def _receiving(self, event: Receiving) -> list[Effect]:
        return [] if self._cancelled else [Renew(self._held.token, None, "")]

    def _on_verified(self, answer: Verified) -> list[Effect]:
        if answer.file.filename != self._file.filename:
            raise LocalProtocolError(f"{answer.file.filename!r} was verified, not {self._file.filename!r}")
        if self._cancelled:
            return self._done()
        self._verified.append(answer)
        self._tries = 0
        built = self._announced
        if len(self._verified) < len(built.files):
            return self._expect()
        files = [file for one in self._verified for file in (one.file, one.twin) if file is not None]
        return self._record(Result(self._held, True, None, "", built.duration, built.log, tuple(files), built.report))

    def _rejected(self, answer: Rejected) -> list[Effect]:
        stop = StopReceiving(self._id)
        self._tries += 1
        if self._cancelled:
            return [stop, *self._done()]
        if answer.hostile:
            return [stop, *self._fail(self._announced, FailureReason.BUILDER, answer.why)]
        if self._tries < TRIES:
            return self._expect()
        why = f"{self._file.filename} did not arrive whole in {TRIES} tries: {answer.why}"
        return [stop, Release(self._held.token, FailureReason.NETWORK, why), *self._done()]

    def _fail(self, built: m.Built, reason: FailureReason, detail: str) -> list[Effect]:
        return self._record(Result(self._held, False, reason, detail, built.duration, built.log, (), built.report))

    def _record(self, result: Result) -> list[Effect]:
        self._clear()
        self.state = State.RECORDING
        return [Record(result)]

    def _recorded(self, answer: Recorded) -> list[Effect]:
        return self._done()

    # Small things.

    def _done(self) -> list[Effect]:
        """The build is over for this builder, however it came out."""
        self._clear()
        self._drop_lease()
        self.state = State.READY
        return [Reply(m.Done())]

    def _end(self, reason: FailureReason | None = None, why: str = "") -> list[Effect]:
        """Let go of everything; with a reason, return the lease (unless it is gone already, or being recorded)."""
        effects: list[Effect] = []
        if self.state in (State.SENDING, State.VERIFYING):
            effects.append(StopReceiving(self._id))
        if reason and self.lease and not self._cancelled and self.state is not State.RECORDING:
            effects.append(Release(self.lease.token, reason, why))
        self._clear()
        self._drop_lease()
        self.state = State.GONE
        return effects

    def _clear(self) -> None:
        self._built, self._verified, self._tries = None, [], 0

    def _drop_lease(self) -> None:
        self.lease, self._cancelled = None, False

    @property
    def _id(self) -> int:
        assert self.slave_id is not None
        return self.slave_id

    @property
    def _held(self) -> Lease:
        assert self.lease is not None
        return self.lease

    @property
    def _announced(self) -> m.Built:
        assert self._built is not None
        return self._built

    @property
    def _file(self) -> m.FileInfo:
        """The file that is expected or being verified."""
        return self._announced.files[len(self._verified)]
