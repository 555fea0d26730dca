# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch's one loop: it reads the channels, feeds what comes to the desk and the dock, executes what they decide.

It never waits for anything but its channels: the database and the disk are worked on by other threads, which answer
through the inbox. So it decides nothing and knows no SQL; and no exception over what a peer sent leaves it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import zmq

from piwheels.db.engine import Stopped
from piwheels.errors import LocalProtocolError, PeerError
from piwheels.logs import RateLimited
from piwheels.master import receiving as r
from piwheels.master import session as s
from piwheels.master.dispatch_channels import Channel, Heard
from piwheels.master.dispatch_desk import Builder, Counts, Desk, Task
from piwheels.master.dispatch_handout import Handout
from piwheels.master.dispatch_offers import Fit
from piwheels.master.dispatch_pool import Group, Inbox, Strands
from piwheels.master.dispatch_pulse import Pulse
from piwheels.master.dispatch_recorder import Recorder
from piwheels.master.dispatch_work import Checked, Clerk
from piwheels.master.needs import Room
from piwheels.master.plain_door import PlainDoor
from piwheels.master.receiving_disk import Arrived, Disk
from piwheels.vocabulary import FailureReason
from piwheels.wire import messages as m
from piwheels.wire.codec import decode_file_from_slave, decode_from_slave, encode, encode_file
from piwheels.wire.gate import Gate
from piwheels.wire.keys import short

logger = logging.getLogger(__name__)

TICK = 0.2  #: seconds between two looks at deadlines
LONG = 4096  #: bytes of a frame that is not copied
BURST = 200  #: messages taken from one socket before the other has its turn
MAX_HELLO = 16 * 1024  #: bytes; all its texts at their longest take 12 000
MAX_UNWRITTEN = 64 * 1024**2  #: bytes of chunks waiting for the disk; above, no more are read from builders
VERIFIERS = 2
ROUND = 32  #: wheels that are put into the store as one


class Loop:
    """One per process. Made with bound sockets; ``run`` works until ``clerk.stop`` is set."""

    def __init__(
        self, *, builders: Channel, files: Channel, gate: Gate, clerk: Clerk, desk: Desk, dock: r.Dock
    ) -> None:
        self.counts = Counts()
        self.desk = desk
        self.dock = dock
        self._door = PlainDoor(desk)
        self._builders = builders
        self._files = files
        self._gate = gate
        self._clerk = clerk
        self._inbox = Inbox()
        self._pulse = Pulse(clerk, lost=self._post_lost, admit=self._post_admit, news=self._post_news)
        dispatch = clerk.settings.dispatch
        self._disk = Disk(clerk.store, min_free=dispatch.min_free)
        # The pulse, the sweeper and the verifiers need connections of the pool too.
        self._work = Strands(max(1, min(4, clerk.settings.database.pool - 3)), name="clerk")
        self._verifiers = Strands(VERIFIERS, name="verify")
        self._keeper = Group(clerk.keep, most=ROUND, ends=Stopped, name="keeper")
        self._recorder = Recorder(clerk, self._pulse, self._work)
        self._handout = Handout(clerk, desk, self._work, post=self._post, lost=self._post_lost)
        self._quiet = RateLimited(logger, per=timedelta(minutes=1))

    def run(self) -> None:
        """Serve until told to stop."""
        self._pulse.start()
        self._disk.start()
        self._work.start()
        self._verifiers.start()
        self._keeper.start()
        self._recorder.start()
        self._handout.start()
        try:
            self._serve()
        finally:
            self._stop()

    def state(self) -> dict[str, Any]:
        """How it does, for status."""
        return {
            "builders": len(self.desk),
            "admitted": self.desk.admitted,
            "transfers": self.dock.active,
            "waiting": self._work.waiting + self._verifiers.waiting + self._keeper.waiting,
            "ahead": self._handout.ahead,
            "messages": self.counts.messages,
            "nonsense": self.counts.nonsense,
            "refused": self._gate.refused,
        }

    def _stop(self) -> None:
        self._clerk.stop.set()
        self._disk.stop(2.0)
        for pool in (self._work, self._verifiers, self._keeper, self._recorder, self._handout):
            pool.stop(2.0)
        self._pulse.join(2.0)
        self._inbox.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        self._builders.register(poller, zmq.POLLIN)
        poller.register(self._inbox.fileno(), zmq.POLLIN)
        next_tick = time.monotonic()
        while not self._clerk.stop.is_set():
            full = self._disk.waiting > MAX_UNWRITTEN
            self._files.register(poller, 0 if full else zmq.POLLIN)
            ready = dict(poller.poll(int(TICK * 1000)))
            self._inbox.drain(BURST)
            for which in self._builders.ready(ready):
                self._read(self._builders, which, self._on_builder)
            for which in self._files.ready(ready):
                self._read(self._files, which, self._on_file)
            if time.monotonic() >= next_tick:
                self._guard(self._tick)
                next_tick = time.monotonic() + TICK

    def _tick(self) -> None:
        now = time.monotonic()
        self._do(self.desk.tick(now))
        self._do_files(self.dock.tick(now))

    # What comes in

    def _read(self, channel: Channel, which: bytes, handle: Callable[[Heard], None]) -> None:
        for _ in range(BURST):
            heard = channel.receive(which)
            if heard is None:
                return
            self.counts.messages += 1
            try:
                handle(heard)
            except PeerError as error:
                self.counts.nonsense += 1
                name = short(heard.who) or "(no key)"
                # Strangers are one kind, however many addresses they have.
                kind = heard.who if self.desk.is_admitted(heard.who) else "stranger"
                self._quiet.warning(kind, f"dropped a message: builder {name} {error}")
            except Exception:
                self._fault("a message", heard.who)

    def _on_builder(self, heard: Heard) -> None:
        if not self.desk.is_admitted(heard.who):
            raise PeerError("is not admitted")
        if len(heard.frames) != 2 or len(heard.frames[0]):
            raise PeerError(f"sent {len(heard.frames)} frames that are not a request")
        # Reading a large message takes long, and a key may have many connections, but a session or two.
        if len(heard.frames[1]) > MAX_HELLO and self.desk.at(heard.identity) is None:
            raise PeerError("has not said hello")
        message = decode_from_slave(heard.frames[1].bytes)
        key, now = heard.who, time.monotonic()
        if heard.plain:
            key = self._door.builder(heard.identity, heard.who, message, now)
        self._do(self.desk.message(heard.identity, key, message, now))

    def _on_file(self, heard: Heard) -> None:
        if not self.desk.is_admitted(heard.who):
            raise PeerError("is not admitted")
        if not 1 <= len(heard.frames) <= 3:
            raise PeerError(f"sent {len(heard.frames)} frames over the file channel")
        # What is long is not copied: it is on its way to the disk, and this thread has more to do.
        frames = [frame.bytes if len(frame) < LONG else frame.buffer for frame in heard.frames]
        message = decode_file_from_slave(frames)
        key = self._door.file(heard.identity, heard.who, message) if heard.plain else heard.who
        self._do_files(self.dock.message(heard.identity, key, message, time.monotonic()))

    # What sessions want done

    def _do(self, tasks: Iterable[Task]) -> None:
        for builder, effect in tasks:
            self._effect(builder, effect)

    def _effect(self, builder: Builder, effect: s.Effect) -> None:
        match effect:
            case s.Reply(message):
                self._reply(builder, message)
            case s.Renew(token, stats, log):
                self._pulse.renew(token, log)
                builder.stats = stats or builder.stats
                if builder.slave_id is not None:
                    self._pulse.seen(builder.slave_id, stats)
            case s.Seen(slave_id, stats):
                builder.stats = stats
                self._pulse.seen(slave_id, stats)
            case s.Register(hello):
                self._ask(builder, partial(self._clerk.register, builder.key, hello))
            case s.Claim(slave_id):
                self._claim(builder, slave_id)
            case s.Record(result):
                self._record(builder, result)
            case s.Release(token, reason, why):
                self._log(builder, f"its build goes back to the queue: {why}")
                self._submit(builder, partial(self._clerk.release, token, reason, why))
            case s.Return(token):
                self._log(builder, "its build goes back to the queue: it ends")
                self._submit(builder, partial(self._clerk.unclaim, token))
            case s.Expect(slave_id, file, _):
                self._do_files(self.dock.expect(builder.key, slave_id, file))
            case s.Verify():
                self._verify(builder, effect)
            case s.StopReceiving():
                self._do_files(self.dock.stop(builder.key))
            case s.Forget(why, fault):
                self.counts.nonsense += fault
                self._log(builder, f"is gone: {why}", level=logging.WARNING if fault else logging.INFO)
                self.desk.forget(builder)

    def _reply(self, builder: Builder, message: m.MasterMessage) -> None:
        try:
            data = encode(message)
        except LocalProtocolError as error:  # what we know of a release cannot be said on the wire
            logger.error("cannot answer %s: %s", builder, error)
            self.desk.forget(builder)
            if isinstance(message, m.Build) and builder.token is not None:
                why = f"the order could not be worded: {error}"
                self._submit(builder, partial(self._clerk.release, builder.token, FailureReason.BUILDER, why))
            return
        sent = self._send(self._builders, builder.identity, [b"", data])
        if not sent and isinstance(message, m.Build) and builder.token is not None:
            # It left while its job was being leased; nobody has the job now.
            self._submit(builder, partial(self._clerk.unclaim, builder.token))

    def _ask(self, builder: Builder, work: "Callable[[], s.Event]") -> None:
        """Have something done whose answer the session waits for, unless it is gone when its turn comes."""

        def job() -> None:
            if builder.gone:
                return
            try:
                event = work()
            except Stopped:
                return
            except Exception:
                # Its builder will give up waiting and say hello again.
                self._inbox.post(partial(self._guard, partial(self.desk.forget, builder)))
                raise
            self._inbox.post(partial(self._answer, builder, event))

        self._submit(builder, job)

    def _answer(self, builder: Builder, event: s.Event) -> None:
        if not self.desk.holds(builder.number) and isinstance(event, s.Claimed) and event.lease is not None:
            self._submit(builder, partial(self._clerk.unclaim, event.lease.token))
            return
        if isinstance(event, s.Registered) and self.desk.holds(builder.number):
            self._log(builder, f"is here as slave {event.slave_id}" + (", with its build" if event.resumed else ""))
        if isinstance(event, s.Claimed) and self.desk.holds(builder.number):
            better = self._handout.instead(builder, event, lambda _: self._answer(builder, event))
            if isinstance(better, s.Lease) and builder.slave_id is not None:
                self._assign_and_tell(builder, better, builder.slave_id)
            if not isinstance(better, s.Claimed):
                return
            event = better
        self._guard(lambda: self._do(self.desk.answer(builder.number, event, time.monotonic())))

    def _claim(self, builder: Builder, slave_id: int, since: float | None = None) -> None:
        """Answer at once if there is a job that was leased ahead, or as soon as those are there that are just being
        leased; otherwise the database is asked."""
        now = time.monotonic()
        room, lease = self._handout.room(builder, now), self._handout.take(builder, now, again=since is not None)
        if lease is None:
            asked = now if since is None else since
            if self._handout.wait(builder, asked, now, partial(self._claim_again, builder, asked)):
                return
        if lease is None:
            self._ask(builder, partial(self._clerk.claim, builder.key, slave_id, builder.hello, room))
            return
        if since is not None:
            self._assign_and_tell(builder, lease, slave_id)
            return
        self._do(self.desk.answer(builder.number, s.Claimed(lease), now))
        self._handout.handed_out(builder, lease, slave_id)

    def _assign_and_tell(self, builder: Builder, lease: s.Lease, slave_id: int) -> None:
        """A builder that waited for the database waits until the lease is its own there, too: should we be killed now,
        it keeps its build."""

        def then(held: bool) -> None:  # in another thread
            if held:
                self._inbox.post(partial(self._answer, builder, s.Claimed(lease)))
            else:  # it was withdrawn at that moment
                claim = partial(self._clerk.claim, builder.key, slave_id, builder.hello, room)
                self._post(partial(self._ask, builder, claim))

        room = self._handout.room(builder, time.monotonic())
        self._handout.assign(builder, lease, slave_id, then)

    def _claim_again(self, builder: Builder, since: float, nothing_for: Room | None) -> None:
        """What it waited for is over: there are more jobs now, or there was none for a builder with so much room."""
        if builder.gone or builder.slave_id is None:
            return
        now = time.monotonic()
        if nothing_for is not None and nothing_for.holds(self._handout.room(builder, now)):
            nothing = s.Claimed(None, target_id=builder.target_id)
            self._guard(lambda: self._do(self.desk.answer(builder.number, nothing, now)))
            return
        slave_id = builder.slave_id
        self._guard(lambda: self._claim(builder, slave_id, since))

    def _record(self, builder: Builder, result: s.Result) -> None:
        builder.token = None  # from here on the lease is the recorder's: nobody is told that it is over
        self._recorder.hold(result)
        job = self._recorder.job(
            builder.key, result, lambda event: self._inbox.post(partial(self._answer, builder, event))
        )
        if not self._submit(builder, job):
            self._recorder.let_go(result)

    def _submit(self, builder: Builder, job: Callable[[], object]) -> bool:
        """Have something done after whatever else is being done for this builder."""

        def run() -> object:
            with suppress(Stopped):
                return job()
            return None

        if self._work.submit(builder.key, run):
            return True
        self.counts.nonsense += 1
        self._quiet.warning(builder.key, f"{builder} asks for too much at once; it is not answered")
        return False

    # Files

    def _do_files(self, effects: Iterable[r.Effect]) -> None:
        for effect in effects:
            self._file_effect(effect)

    def _file_effect(self, effect: r.Effect) -> None:
        match effect:
            case r.Tell(identity, message):
                self._send(self._files, identity, encode_file(message))
            case r.Open(number, size):
                opened = self._later(lambda: self._do_files(self.dock.opened(number, time.monotonic())))
                self._disk.of(number).open(number, size, opened=opened, failed=self._failed(number))
            case r.Put(number, offset, data):
                self._disk.of(number).put(number, offset, data, failed=self._failed(number))
            case r.Discard(number):
                self._disk.of(number).discard(number)
            case r.Alive(key):
                self._do(self.desk.file_event(key, s.Receiving(), time.monotonic()))
            case r.Close() | r.Refuse():
                raise AssertionError("only Verify leads to these")

    def _verify(self, builder: Builder, effect: s.Verify) -> None:
        for answer in self.dock.verify(builder.key):
            match answer:
                case r.Close(number):
                    self._finish(builder, effect, number)
                case r.Refuse(_, why):
                    self._inbox.post(partial(self._answer, builder, s.Rejected(why)))
                case _:
                    self._file_effect(answer)

    def _finish(self, builder: Builder, effect: s.Verify, number: int) -> None:
        def answer(event: s.Event | None) -> None:
            if event is None:
                event = s.Rejected("the wheel could not be checked", hostile=True)
            self._inbox.post(partial(self._answer, builder, event))

        def check(arrived: Arrived) -> None:
            try:
                found = self._clerk.check(arrived, effect.file, effect.lease)
            except Stopped:
                return
            except Exception:
                logger.exception("a fault in piwheels itself while checking %r", effect.file.filename)
                answer(None)
                return
            if isinstance(found, Checked):
                self._keeper.put(found, answer)
            else:
                answer(found)

        def arrived(file: Arrived) -> None:  # in the disk's thread
            if not self._verifiers.submit(builder.key, partial(check, file)):
                file.path.unlink(missing_ok=True)

        def failed(why: str) -> None:
            self._inbox.post(partial(self._answer, builder, s.Rejected(why)))

        self._disk.of(number).finish(number, arrived=arrived, failed=failed)

    def _failed(self, number: int) -> Callable[[str], None]:
        def failed(why: str) -> None:  # in the disk's thread
            self._quiet.warning("disk", f"a wheel cannot be received: {why}")
            self._inbox.post(lambda: self._guard(lambda: self._do_files(self.dock.failed(number, why))))

        return failed

    # What other threads have to say

    def _post(self, call: Callable[[], None]) -> None:
        self._inbox.post(partial(self._guard, call))

    def _later(self, call: Callable[[], None]) -> Callable[[], None]:
        return partial(self._post, call)

    def _post_lost(self, token: str, why: str) -> None:
        self._inbox.post(partial(self._guard, lambda: self._do(self.desk.cancel(token, why, time.monotonic()))))

    def _post_news(self, fit: Fit, nudged: bool) -> None:
        self._post(partial(self._handout.news, fit, nudged))

    def _post_admit(self, keys: frozenset[str]) -> None:
        self._gate.admit(keys)
        self._inbox.post(partial(self._guard, partial(self._admit, keys)))

    def _admit(self, keys: frozenset[str]) -> None:
        for builder in self.desk.admit(keys):
            self._log(builder, "is not admitted any more")
            self._do_files(self.dock.stop(builder.key))
            if builder.slave_id is not None:
                why = "the operator does not admit the builder any more"
                self._submit(builder, partial(self._clerk.release_all_of, builder.slave_id, why))

    # Small things

    def _send(self, channel: Channel, identity: bytes, frames: list[bytes]) -> bool:
        sent = channel.send(identity, frames)
        self.counts.unsent += not sent
        return sent

    def _guard(self, call: Callable[[], None]) -> None:
        """Whatever one builder's affairs lead to, the others are served on."""
        try:
            call()
        except PeerError as error:
            self.counts.nonsense += 1
            self._quiet.warning("peer", f"a builder {error}")
        except Exception:
            self._fault("an answer", "")

    def _fault(self, what: str, key: str) -> None:
        self.counts.faults += 1
        if self._quiet.warning(f"fault {key}", f"a fault in piwheels itself while handling {what}"):
            logger.exception("the fault")

    def _log(self, builder: Builder, what: str, *, level: int = logging.INFO) -> None:
        self._quiet.log(level, f"{builder.key} {what[:20]}", f"builder {builder} {what}")
