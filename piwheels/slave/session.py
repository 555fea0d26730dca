# SPDX-License-Identifier: BSD-3-Clause
"""The builder's side of the slave protocol: a pure state machine.

``Session.handle(event, now) -> effects``. It owns what the builder says to the master and when, what it still has to
deliver, and how it finds its way back to a master that went away; it must not know sockets, processes, files or clocks.
The agent (``piwheels.slave.agent``) feeds it events, executes the effects in order, and polls its sockets no longer
than until ``Session.deadline``; when that has passed, it feeds ``Tick``. ``now`` is monotonic, in seconds.

Nothing that a master sends makes this machine raise: an answer that is out of place costs the connection, which is
made anew after a back-off. It raises LocalProtocolError only where the agent itself breaks the rules above.

A little longer than our modules are: events, effects, the table and the machine belong together.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from piwheels.errors import LocalProtocolError
from piwheels.wire import messages as m

# Events: what the agent tells the session.


@dataclass(frozen=True, slots=True)
class Start:
    """The agent is ready. Once, and first."""

    left: m.Built | None = None  #: a finished build that a former life of this builder did not deliver: with a report


@dataclass(frozen=True, slots=True)
class Received:
    """A message came from the master on the present connection (never one from a connection already dropped)."""

    message: m.MasterMessage


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is of no use any more: the transport says that it dropped, or what came could not be decoded."""

    why: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. To be fed when ``Session.deadline`` has come; earlier ones are harmless."""

    stats: m.Stats
    log: str = ""  #: what the build wrote since the last Tick; kept for the next Busy, its end at least
    can_work: bool = True  #: False (disk nearly full): ask for no job for now; a build in hand goes on


@dataclass(frozen=True, slots=True)
class BuildEnded:
    """The build that StartBuild asked for is over, well or badly. One of a build stopped meanwhile is ignored."""

    built: m.Built


@dataclass(frozen=True, slots=True)
class FileEnded:
    """OfferFile is over: the master has it all, or (``ok`` False) it did not ask any more. Always follows OfferFile
    within a time the agent bounds, unless WithdrawFile came in between; one too late is ignored."""

    ok: bool
    why: str = ""  #: for the log, when it is not ok


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The operator wants the builder to end."""


Event = Start | Received | Lost | Tick | BuildEnded | FileEnded | Shutdown


# Effects: what the agent is to do, in order.


@dataclass(frozen=True, slots=True)
class Connect:
    """Close any socket of the builder channel and make a new one, with a new ZeroMQ identity."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the socket of the builder channel; whatever is still in it is of no interest."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this on the builder channel. It never waits: the REQ socket is free whenever this effect is given."""

    message: m.SlaveMessage


@dataclass(frozen=True, slots=True)
class StartBuild:
    """Build this (``build.order`` is never None) beside the loop; answer BuildEnded. At most one build at a time."""

    build: m.Build


@dataclass(frozen=True, slots=True)
class StopBuild:
    """End the build's whole process tree, now; answer nothing."""


@dataclass(frozen=True, slots=True)
class OfferFile:
    """Hand this file of the build over on the file channel, as builder ``slave_id``. Answer FileEnded."""

    slave_id: int
    file: m.FileInfo


@dataclass(frozen=True, slots=True)
class WithdrawFile:
    """Close the file channel; answer nothing."""


@dataclass(frozen=True, slots=True)
class Wipe:
    """Delete everything of the build: it is delivered, or nobody wants it."""


@dataclass(frozen=True, slots=True)
class Note:
    """Log this for the operator."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The session is over; flush what was sent and end the process. ``asked``: by Shutdown; else the master said Die
    or cannot be worked for."""

    asked: bool
    why: str


Effect = Connect | Disconnect | Send | StartBuild | StopBuild | OfferFile | WithdrawFile | Wipe | Note | Exit


class State(StrEnum):
    """Where the builder stands."""

    NEW = "new"
    APART = "apart"  #: no connection; Hello when the deadline comes
    GREETING = "greeting"  #: Hello said
    RESTING = "resting"  #: nothing to do; Idle when the deadline comes
    ASKING = "asking"  #: Idle said
    BUILDING = "building"  #: Busy when the deadline comes, Built when the build ends
    REPORTING = "reporting"  #: Busy said
    OFFERING = "offering"  #: Built said
    SENDING = "sending"  #: a file is being handed over on the file channel
    SENT = "sent"  #: Sent said
    GONE = "gone"


#: What each message the master may answer means, by state: message -> name of the Session's method. Everything else
#: is out of place. (The protocol is strict request and reply, so only states that wait for an answer have a row.)
REPLIES: dict[State, dict[type[m.MasterMessage], str]] = {
    State.GREETING: {m.Ack: "_welcomed", m.Die: "_die"},
    State.ASKING: {m.Build: "_build", m.Sleep: "_sleep", m.Die: "_die"},
    State.REPORTING: {m.Cont: "_carry_on", m.Done: "_drop", m.Die: "_die"},
    State.OFFERING: {m.Send: "_offer", m.Done: "_drop", m.Die: "_die"},
    State.SENT: {m.Send: "_offer", m.Done: "_drop", m.Die: "_die"},
}


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When things happen; seconds."""

    poll: float = 7.0  #: between an answer and the next Idle or Busy; give or take 30 %
    busy_timeout: float = 300.0  #: silence of the master after which the connection is made anew
    hello_timeout: float = 30.0  #: the same while greeting, where nothing on the master's side takes long
    backoff_first: float = 1.0  #: wait before the second attempt to connect; doubles
    backoff_cap: float = 60.0


@dataclass(slots=True)
class Work:
    """The build in hand."""

    token: str
    built: m.Built | None = None  #: None while it runs
    log: str = ""  #: written since the last Busy

    def add_log(self, text: str) -> None:
        """Keep the end of the log when the master does not come for it: the whole of it travels in Built."""
        self.log = (self.log + text)[-m.MAX_LIVE_LOG :]


class Session:
    """A builder's conversation with its master, over any number of connections."""

    def __init__(self, hello: m.Hello, *, rhythm: Rhythm | None = None, jitter: Callable[[], float] = lambda: 0.5):
        """``hello`` is what this builder says of itself, with capabilities; the session adds the lease to resume.
        ``jitter`` gives numbers in [0, 1): random.random, so that a thousand builders do not come back at once."""
        if hello.capabilities is None:
            raise LocalProtocolError("this builder's HELLO must announce its capabilities")
        self.state = State.NEW
        self.deadline: float | None = None  #: when a Tick is wanted; None: never (another event will come)
        self.work: Work | None = None
        self.slave_id: int | None = None  #: as the last Ack said
        self._hello = hello
        self._capabilities = hello.capabilities
        self._rhythm = rhythm or Rhythm()
        self._jitter = jitter
        self._attempts = 0  #: connections made since the master last answered anything but Hello
        self._heard = 0.0  #: when the master last answered
        self._withheld = False  #: whether the operator was told that no job is asked for
        self._story: deque[str] = deque(maxlen=10)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of an event; return what is to be done, in order."""
        if self.state is State.GONE:
            return []  # an agent that is ending may still have events in its queues
        if (self.state is State.NEW) != isinstance(event, Start) and not isinstance(event, Shutdown):
            raise LocalProtocolError(f"the slave's session was fed {event!r} while {self.state}")
        self._story.append(_name(event))
        match event:
            case Start(left):
                if left is not None and left.report is not None:
                    self.work = Work(left.report.token, left)
                return self._connect(now)
            case Received(message):
                return self._received(message, now)
            case Lost(why):
                return [] if self.state is State.APART else self._part(f"lost the master: {why}", now)
            case Tick():
                return self._tick(event, now)
            case BuildEnded(built):
                return self._build_ended(built, now)
            case FileEnded():
                return self._file_ended(event, now)
            case Shutdown():
                return self._shutdown()

    @property
    def story(self) -> str:
        """The last events, oldest first, for a log."""
        return ", ".join(self._story)

    def validate(self) -> None:
        """Raise AssertionError if the machine is in a state that its rules exclude (for tests)."""
        state, work = self.state, self.work
        timeless = (State.NEW, State.SENDING, State.GONE)
        assert (self.deadline is None) == (state in timeless), (state, self.deadline)
        if state in (State.NEW, State.RESTING, State.ASKING, State.GONE):
            assert work is None, state
        if state in (State.BUILDING, State.REPORTING, State.OFFERING, State.SENDING, State.SENT):
            assert work is not None and self.slave_id is not None, state
        if state in (State.OFFERING, State.SENDING, State.SENT):
            assert work is not None and work.built is not None, state
        if state is State.BUILDING:
            assert work is not None and work.built is None, "a finished build is offered, not sat upon"

    # Connections.

    def _connect(self, now: float) -> list[Effect]:
        token = self.work.token if self.work else None
        hello = replace(self._hello, capabilities=replace(self._capabilities, resume=token))
        self._attempts += 1
        self._move(State.GREETING, now + min(self._rhythm.hello_timeout, self._rhythm.busy_timeout))
        return [Connect(), Send(hello)]

    def _part(self, why: str, now: float) -> list[Effect]:
        """Drop the connection, keep the build, and come back after a while."""
        withdraw: list[Effect] = [WithdrawFile()] if self.state is State.SENDING else []
        doublings = min(max(self._attempts - 1, 0), 16)
        wait = min(self._rhythm.backoff_cap, self._rhythm.backoff_first * 2.0**doublings) * (0.5 + self._jitter())
        self._move(State.APART, now + wait)
        return [*withdraw, Disconnect(), Note(f"{why}; connecting again in {wait:.1f} s")]

    def _received(self, message: m.MasterMessage, now: float) -> list[Effect]:
        if self.state is State.APART:
            return []  # was in the agent's hands when the connection was given up
        self._heard = now
        method = REPLIES.get(self.state, {}).get(type(message))
        if method is None:
            return self._out_of_place(message, now)
        effects: list[Effect] = getattr(self, method)(message, now)
        return effects

    def _out_of_place(self, message: m.MasterMessage, now: float) -> list[Effect]:
        return self._part(f"the master answered {_name(message)} while {self.state} (before: {self.story})", now)

    def _tick(self, tick: Tick, now: float) -> list[Effect]:
        if self.work is not None and self.work.built is None:
            self.work.add_log(tick.log)
        if self.deadline is None or now < self.deadline:
            return []
        if self.state is State.APART:
            return self._connect(now)
        if self.state is State.RESTING:
            return self._ask(tick, now)
        if self.state is State.BUILDING:
            return self._report(tick, now)
        return self._part(f"the master did not answer while {self.state}", now)

    # Replies; each has a row in REPLIES.

    def _welcomed(self, ack: m.Ack, now: float) -> list[Effect]:
        self.slave_id = ack.slave_id
        if self.work is None:
            self._move(State.RESTING, now)
            return []
        if self.work.built is None:
            self._move(State.BUILDING, now)
            return [Note("the master is back; the build goes on")]
        return self._deliver(now)

    def _build(self, build: m.Build, now: float) -> list[Effect]:
        self._attempts = 0
        if build.order is None:
            # Nothing says which sdist is meant or which hash it has; guessing would build something else.
            self._move(State.GONE, None)
            return [
                Send(m.Bye()),
                Exit(asked=False, why="the master is too old for this builder: its BUILD names no sdist"),
            ]
        self.work = Work(build.order.token)
        self._move(State.BUILDING, now + self._pause())
        return [StartBuild(build)]

    def _sleep(self, sleep: m.Sleep, now: float) -> list[Effect]:
        self._attempts = 0
        self._move(State.RESTING, now + self._pause())
        return []

    def _carry_on(self, cont: m.Cont, now: float) -> list[Effect]:
        self._attempts = 0
        if self.work is not None and self.work.built is not None:
            return self._deliver(now)
        self._move(State.BUILDING, now + self._pause())
        return []

    def _offer(self, send: m.Send, now: float) -> list[Effect]:
        assert self.work is not None and self.work.built is not None and self.slave_id is not None
        files = {file.filename: file for file in self.work.built.files}
        if send.filename not in files:
            return self._out_of_place(send, now)
        self._attempts = 0
        self._move(State.SENDING, None)
        return [OfferFile(self.slave_id, files[send.filename])]

    def _drop(self, done: m.Done, now: float) -> list[Effect]:
        self._attempts = 0
        effects = self._discard()
        self._move(State.RESTING, now)
        return effects

    def _die(self, die: m.Die, now: float) -> list[Effect]:
        effects = [*self._discard(), Disconnect(), Exit(asked=False, why="the master said DIE")]
        self._move(State.GONE, None)
        return effects

    # What the builder says of its own accord.

    def _ask(self, tick: Tick, now: float) -> list[Effect]:
        if not tick.can_work:
            self._move(State.RESTING, now + self._pause())
            said, self._withheld = self._withheld, True
            return [] if said else [Note("asking for no job: this builder is short of something (disk)")]
        self._withheld = False
        if now - self._heard > self._rhythm.busy_timeout / 2:
            return self._connect(now)  # we said nothing for so long that the master may have forgotten us
        self._move(State.ASKING, now + self._rhythm.busy_timeout)
        return [Send(m.Idle(tick.stats))]

    def _report(self, tick: Tick, now: float) -> list[Effect]:
        assert self.work is not None
        log, self.work.log = self.work.log, ""
        self._move(State.REPORTING, now + self._rhythm.busy_timeout)
        return [Send(m.Busy(tick.stats, log))]

    def _deliver(self, now: float) -> list[Effect]:
        assert self.work is not None and self.work.built is not None
        self._move(State.OFFERING, now + self._rhythm.busy_timeout)
        return [Send(self.work.built)]

    def _build_ended(self, built: m.Built, now: float) -> list[Effect]:
        if self.work is None or self.work.built is not None:
            return []
        if built.report is None:
            raise LocalProtocolError("BuildEnded needs a report: the master gave a lease token")
        if built.report.token != self.work.token:
            return []
        self.work.built = built
        return self._deliver(now) if self.state is State.BUILDING else []

    def _file_ended(self, ended: FileEnded, now: float) -> list[Effect]:
        if self.state is not State.SENDING:
            return []
        # Sent even after a transfer that broke off: the master then sees that the file is not whole, and asks again.
        self._move(State.SENT, now + self._rhythm.busy_timeout)
        note: list[Effect] = [] if ended.ok else [Note(f"handing over a file broke off: {ended.why}")]
        return [*note, Send(m.Sent())]

    def _shutdown(self) -> list[Effect]:
        # A REQ socket that waits for an answer cannot send; then the master learns from our next HELLO or from silence.
        free = self.state in (State.RESTING, State.BUILDING, State.SENDING)
        withdraw: list[Effect] = [WithdrawFile()] if self.state is State.SENDING else []
        bye: list[Effect] = [Send(m.Bye())] if free else []
        effects = [*withdraw, *bye, *self._discard(), Exit(asked=True, why="asked to end")]
        self._move(State.GONE, None)
        return effects

    # Small things.

    def _discard(self) -> list[Effect]:
        work, self.work = self.work, None
        if work is None:
            return []
        return [Wipe()] if work.built is not None else [StopBuild(), Wipe()]

    def _pause(self) -> float:
        return self._rhythm.poll * (0.7 + 0.6 * self._jitter())

    def _move(self, state: State, deadline: float | None) -> None:
        self.state = state
        self.deadline = deadline


def _name(thing: Event | m.MasterMessage) -> str:
    """The word for a story: the message's where there is one."""
    return _name(thing.message) if isinstance(thing, Received) else type(thing).__name__
