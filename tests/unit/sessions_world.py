# SPDX-License-Identifier: BSD-3-Clause
"""Master's and builders' machines against each other, without sockets, in a world where everything goes wrong.

Messages pass through the codec, the master's sessions are kept by the dispatcher's own ``Desk``, and a few dictionaries
stand for the database. After each step the machines' own checks and the rules of the protocol are looked at; at the
end the faults stop, and every job must come to a result.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from piwheels.errors import PeerError
from piwheels.master import session as master
from piwheels.master.dispatch_desk import Builder, Desk
from piwheels.slave import session as slave
from piwheels.vocabulary import FailureReason
from piwheels.wire import codec
from piwheels.wire import messages as m
from tests.wire_samples import HELLO, ORDER, STATS, built, file_info

KEYS = ("a" * 40, "b" * 40)  # two builders
RHYTHM = slave.Rhythm(poll=7, busy_timeout=300, hello_timeout=30)


@dataclass(slots=True)
class Job:
    """A row of the queue; ``token`` and ``holder`` while it is leased."""

    project: str
    token: str | None = None
    holder: str | None = None


@dataclass(slots=True)
class Database:
    """What outlives every process."""

    jobs: list[Job]
    recorded: dict[str, master.Result] = field(default_factory=dict)  #: by token
    handed_out: int = 0
    paused: bool = False

    def live(self, token: str | None) -> Job | None:
        return next((job for job in self.jobs if token is not None and job.token == token), None)

    def lease(self, job: Job) -> master.Lease:
        assert job.token is not None
        order = replace(ORDER, token=job.token)
        return master.Lease(job.token, 1, 1, job.project, job.project, "1.0", order)

    def claim(self, key: str) -> master.Claimed:
        free = [job for job in self.jobs if job.token is None]
        if self.paused or not free:
            return master.Claimed(None, paused=self.paused)
        self.handed_out += 1
        free[0].token, free[0].holder = f"{self.handed_out:032x}", key
        return master.Claimed(self.lease(free[0]))

    def release(self, token: str) -> None:
        job = self.live(token)
        if job is not None:
            job.token = job.holder = None

    def register(self, key: str, hello: m.Hello) -> master.Registered:
        resume = hello.capabilities.resume if hello.capabilities else None
        for job in self.jobs:
            if job.holder == key and job.token != resume:
                job.token = job.holder = None
        job = self.live(resume)
        mine = job is not None and job.holder == key
        return master.Registered(
            KEYS.index(key) + 1,
            self.lease(job) if job is not None and mine else None,
            already_recorded=resume in self.recorded,
        )

    def record(self, result: master.Result) -> None:
        job = self.live(result.lease.token)
        if job is None:
            return
        assert result.lease.token not in self.recorded, "recorded twice"
        self.recorded[result.lease.token] = result
        job.token = job.holder = None
        if result.ok or result.reason is FailureReason.PACKAGE:
            self.jobs.remove(job)


class BuilderProcess:
    """A builder and its shell."""

    def __init__(self, key: str, number: int) -> None:
        self.key = key
        self.identity = f"{number}".encode()
        self.session = slave.Session(HELLO, rhythm=RHYTHM)
        self.connections = 0
        self.connection: bytes | None = None
        self.outgoing: deque[bytes] = deque()  #: requests not yet with the master
        self.incoming: deque[bytes] = deque()  #: replies not yet with the builder
        self.waiting = False  #: a request was sent, its answer has not come
        self.building: m.Build | None = None
        self.offering: m.FileInfo | None = None
        self.exited: slave.Exit | None = None

    def feed(self, event: slave.Event, now: float) -> None:
        for effect in self.session.handle(event, now):
            self.obey(effect)
        self.session.validate()

    def obey(self, effect: slave.Effect) -> None:
        match effect:
            case slave.Connect():
                self.connections += 1
                self.disconnect()
                self.connection = self.identity + b"/%d" % self.connections
            case slave.Disconnect():
                self.disconnect()
            case slave.Send(message):
                assert self.connection is not None and not self.waiting, "a REQ socket cannot send now"
                self.outgoing.append(codec.encode(message))
                self.waiting = not isinstance(message, m.Bye)
            case slave.StartBuild(build):
                assert self.building is None, "two builds at once"
                self.building = build
            case slave.StopBuild() | slave.Wipe():
                self.building = None
            case slave.OfferFile(_, file):
                assert self.offering is None
                self.offering = file
            case slave.WithdrawFile():
                self.offering = None
            case slave.Exit():
                self.exited = effect

    def disconnect(self) -> None:
        self.connection, self.waiting = None, False
        self.outgoing.clear()
        self.incoming.clear()

    def result(self, reason: FailureReason | None, count: int) -> m.Built:
        assert self.building is not None and self.building.order is not None
        name = self.building.package
        files = [file_info(f"{name}-1.0-{build}-py3-none-any.whl") for build in range(1, count + 1)]
        return built(*files if reason is None else (), token=self.building.order.token, reason=reason)


class World:
    """The master's shell, and all that may happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self.database = Database([Job(f"project{n}") for n in range(10)])
        self.processes = 0
        self.builders: dict[str, BuilderProcess] = {}
        self.start_master()
        for key in KEYS:
            self.start_builder(key)

    def start_master(self) -> None:
        self.desk = Desk(lambda: master.Session(index_url="https://example.org"))
        self.desk.admit(KEYS)
        self.work: dict[str, deque[Callable[[], None]]] = {key: deque() for key in KEYS}  #: by builder, in order
        self.expected: dict[str, m.FileInfo] = {}
        self.arrived: dict[str, str] = {}  #: by builder: name of the expected file, once it has come
        self.unanswered: dict[bytes, int] = {}  #: by connection: requests without their reply

    def start_builder(self, key: str) -> None:
        self.processes += 1
        self.builders[key] = BuilderProcess(key, self.processes)
        self.builders[key].feed(slave.Start(), self.now)

    # Messages

    def request_arrives(self, key: str) -> None:
        builder = self.builders[key]
        if not builder.outgoing:
            return
        data, identity = builder.outgoing.popleft(), builder.connection
        message = codec.decode_from_slave(data)
        assert identity is not None
        if not isinstance(message, m.Bye):
            self.unanswered[identity] = self.unanswered.get(identity, 0) + 1
        try:
            self.obey(self.desk.message(identity, key, message, self.now))
        except PeerError as error:
            assert str(error) == "has not said hello"  # of a master that was restarted
            self.unanswered.pop(identity, None)

    def reply_arrives(self, key: str) -> None:
        builder = self.builders[key]
        if builder.incoming:
            builder.waiting = False
            builder.feed(slave.Received(codec.decode_from_master(builder.incoming.popleft())), self.now)

    def do_work(self, key: str) -> None:
        if self.work[key]:
            self.work[key].popleft()()

    def obey(self, tasks: list[tuple[Builder, master.Effect]]) -> None:
        for builder, effect in tasks:
            self.effect(builder, effect)
            builder.session.validate()

    def effect(self, builder: Builder, effect: master.Effect) -> None:
        key, database = builder.key, self.database
        match effect:
            case master.Reply(message):
                self.unanswered[builder.identity] -= 1
                assert self.unanswered[builder.identity] == 0, "one reply for each request"
                process = self.builders[key]
                if process.connection == builder.identity:
                    process.incoming.append(codec.encode(message))
            case master.Register(hello):
                self.later(builder, lambda: database.register(key, hello))
            case master.Claim():
                self.later(builder, lambda: database.claim(key))
            case master.Record(result):
                self.check_result(builder, result)
                builder.token = None
                self.later(builder, lambda: self.record(result), wanted=False)
            case master.Renew(token):
                if database.live(token) is None:
                    self.obey(self.desk.cancel(token, "the lease is gone", self.now))
            case master.Release(token) | master.Return(token):
                self.work[key].append(lambda: database.release(token))
            case master.Expect(_, file, _):
                self.expected[key] = file
                self.arrived.pop(key, None)
            case master.Verify(_, file, _):
                came = self.arrived.pop(key, None) == file.filename
                self.later(builder, lambda: self.verify(file, came))
            case master.StopReceiving():
                self.expected.pop(key, None)
                self.arrived.pop(key, None)
            case master.Forget(why, fault):
                assert not fault, f"an honest builder is never at fault: {why}"
                self.desk.forget(builder)

    def later(self, builder: Builder, ask: Callable[[], master.Event], *, wanted: bool = True) -> None:
        """Work whose answer is fed in a step of its own; not begun for a session that is gone by then."""

        def work() -> None:
            if wanted and builder.gone:
                return
            event = ask()
            self.work[builder.key].appendleft(lambda: self.answer(builder, event))

        self.work[builder.key].append(work)

    def answer(self, builder: Builder, event: master.Event) -> None:
        if isinstance(event, master.Claimed) and event.lease and not self.desk.holds(builder.number):
            self.database.release(event.lease.token)
        self.obey(self.desk.answer(builder.number, event, self.now))

    def record(self, result: master.Result) -> master.Event:
        self.database.record(result)
        return master.Recorded()

    verdict = "right"  #: of the next file that came

    def verify(self, file: m.FileInfo, came: bool) -> master.Event:
        if came and self.verdict == "right":
            return master.Verified(master.VerifiedFile(file.filename, file.size, bytes(32), bytes(32), None, (), ()))
        return master.Rejected("not what was announced", hostile=came and self.verdict == "hostile")

    def check_result(self, builder: Builder, result: master.Result) -> None:
        """A success has all its files, each verified."""
        process = self.builders[builder.key]
        work = process.session.work
        if result.ok and work is not None and work.token == result.lease.token and work.built is not None:
            assert [file.filename for file in result.files] == [file.filename for file in work.built.files]
        assert bool(result.files) == result.ok

    # What happens at a builder

    def tick(self, key: str, *, impatient: bool = False) -> None:
        """Wait for the builder's next word; ``impatient``: also when it waits for an answer, until it gives that up."""
        builder = self.builders[key]
        deadline = builder.session.deadline
        if deadline is not None and (impatient or not builder.waiting):
            self.now = max(self.now, deadline)
            builder.feed(slave.Tick(STATS, "log"), self.now)

    def build_ends(self, key: str, reason: FailureReason | None, count: int) -> None:
        builder = self.builders[key]
        work = builder.session.work
        if work is not None and work.built is None:
            builder.feed(slave.BuildEnded(builder.result(reason, count)), self.now)

    def file_ends(self, key: str, *, ok: bool) -> None:
        builder = self.builders[key]
        file, builder.offering = builder.offering, None
        if file is None:
            return
        ok = ok and self.expected.get(key) == file
        if ok:
            self.arrived[key] = file.filename
            self.obey(self.desk.file_event(key, master.Receiving(), self.now))
        builder.feed(slave.FileEnded(ok=ok), self.now)

    def turn(self, key: str) -> None:
        """One request and its answer, without a fault."""
        self.tick(key)
        self.request_arrives(key)
        while self.work[key]:
            self.do_work(key)
        self.reply_arrives(key)

    def bury(self, key: str) -> None:
        """Whoever ended is started again, as systemd would."""
        if self.builders[key].exited is not None:
            self.start_builder(key)

    # The end

    def run_fairly(self) -> None:
        """Without any fault, every job comes to a result."""
        self.database.paused = False
        self.verdict = "right"
        for _ in range(300):
            if not self.database.jobs:
                return
            for key in KEYS:
                builder = self.builders[key]
                self.turn(key)
                if builder.waiting and not builder.outgoing and not builder.incoming:  # an answer lost before
                    self.tick(key, impatient=True)
                self.build_ends(key, None, 1)
                self.file_ends(key, ok=True)
                self.bury(key)
        raise AssertionError(f"not built in the end: {self.database.jobs}")
