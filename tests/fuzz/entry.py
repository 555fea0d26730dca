# SPDX-License-Identifier: BSD-3-Clause
"""What is fuzzed: functions of any bytes that return, or raise when something is wrong with piwheels.

The machines read their bytes as a story: each byte chooses what happens next. Whatever the peer says in it may lead to
PeerError only; what the shell would feed is fed only where the machine asked for it.
"""

from contextlib import suppress
from dataclasses import replace

from piwheels.errors import PeerError
from piwheels.master import session as master
from piwheels.master.dispatch_desk import Desk, Task
from piwheels.slave import session as slave
from piwheels.vocabulary import FailureReason
from piwheels.wire import codec
from piwheels.wire import messages as m
from tests import wire_samples as samples

RESULT = samples.built(samples.file_info())
FROM_SLAVE: tuple[m.SlaveMessage, ...] = (
    samples.HELLO,
    replace(samples.HELLO, capabilities=None),
    replace(samples.HELLO, capabilities=m.Capabilities(resume=samples.TOKEN)),
    m.Idle(samples.STATS),
    m.Busy(samples.STATS, "log\n"),
    RESULT,
    samples.built(samples.file_info(), samples.file_info("foo-1.0-cp311-abi3-linux_armv7l.whl")),
    samples.built(samples.file_info("../../x")),
    samples.built(samples.file_info(), token=None),
    samples.built(samples.file_info(), token=samples.OTHER_TOKEN),
    samples.built(reason=FailureReason.PACKAGE),
    m.Sent(),
    m.Bye(),
)
FROM_MASTER: tuple[m.MasterMessage, ...] = (
    m.Ack(5, "https://example.org/simple"),
    m.Build("foo", "1.0", samples.ORDER),
    m.Build("foo", "1.0"),
    m.Sleep(False),
    m.Sleep(True),
    m.Cont(),
    m.Send(RESULT.files[0].filename),
    m.Send("other.whl"),
    m.Done(),
    m.Die(),
)
CORPUS = tuple(codec.encode(message) for message in (*FROM_SLAVE, *FROM_MASTER))
KEYS = ("a" * 40, "b" * 40, "stranger")


def fuzz_codec(data: bytes) -> None:
    """Bytes are refused, or a message that can be said again and means the same."""
    with suppress(PeerError):
        said = codec.decode_from_slave(data)
        assert codec.decode_from_slave(codec.encode(said)) == said
    with suppress(PeerError):
        told = codec.decode_from_master(data)
        assert codec.decode_from_master(codec.encode(told)) == told
    frames = data.split(b"\0")
    with suppress(PeerError):
        brought = codec.decode_file_from_slave(frames)
        assert codec.decode_file_from_slave(codec.encode_file(brought)) == brought
    with suppress(PeerError):
        asked = codec.decode_file_from_master(frames)
        assert codec.decode_file_from_master(codec.encode_file(asked)) == asked


def fuzz_master(data: bytes) -> None:
    """Two builders and a stranger, over a few connections, say anything in any order; the database and the disk answer
    late, in any order, in any way."""
    desk = Desk(lambda: master.Session(index_url="https://example.org/simple"))
    desk.admit(KEYS[:2])
    open_: list[Task] = []  # what was asked for and is not answered
    now = 0.0
    for one, two in zip(data[::2], data[1::2], strict=False):
        tasks: list[Task] = []
        with suppress(PeerError):
            if one < 160:
                tasks = desk.message(b"%d" % (one % 5), KEYS[one % 7 % 3], FROM_SLAVE[two % len(FROM_SLAVE)], now)
            elif one < 230 and open_:
                builder, effect = open_.pop(two % len(open_))
                if (event := _answer(effect, two)) is not None:
                    tasks = desk.answer(builder.number, event, now)
            elif one < 240:
                tasks = desk.cancel((samples.TOKEN, samples.OTHER_TOKEN)[two % 2], "cancelled", now)
            elif one < 248:
                tasks = desk.file_event(KEYS[two % 3], master.Receiving(), now)
            elif one < 250:
                desk.admit(KEYS[: two % 3])
            else:
                now += two
                tasks = desk.tick(now)
        for builder, effect in tasks:
            if isinstance(effect, master.Forget):
                desk.forget(builder)
            elif isinstance(effect, master.Register | master.Claim | master.Verify | master.Record):
                open_.append((builder, effect))
        for builder in desk.builders():
            builder.session.validate()
        assert len(desk) <= 4, "a registered session of each key, and one that is not yet"


def _answer(effect: master.Effect, choice: int) -> master.Event | None:
    lease = master.Lease(samples.TOKEN, 1, 1, "foo", "foo", "1.0", samples.ORDER)
    match effect:
        case master.Register():
            resumed = lease if choice % 3 == 1 else None
            return master.Refused("not now") if choice % 5 == 4 else master.Registered(1 + choice % 2, resumed)
        case master.Claim():
            leave = choice % 5 == 4
            return master.Claimed(None if choice % 3 == 2 else lease, paused=choice % 2 == 1, leave=leave)
        case master.Verify(_, file):
            verified = master.VerifiedFile(file.filename, file.size, b"0" * 32, b"1" * 32, None, ("foo",), ())
            return master.Verified(verified) if choice % 2 else master.Rejected("it is not", hostile=choice % 3 == 0)
        case master.Record():
            return master.Recorded()
    return None


def fuzz_slave(data: bytes) -> None:
    """A master, or somebody in its place, says anything in any order; builds and deliveries end whenever they like."""
    session = slave.Session(samples.HELLO)
    now, building, offering, connected = 0.0, False, False, False
    effects = session.handle(slave.Start(), now)
    for one, two in zip(data[::2], data[1::2], strict=False):
        for effect in effects:
            connected = isinstance(effect, slave.Connect) or (connected and not isinstance(effect, slave.Disconnect))
            building = isinstance(effect, slave.StartBuild) or (building and not isinstance(effect, slave.StopBuild))
            offering = isinstance(effect, slave.OfferFile) or (
                offering and not isinstance(effect, slave.WithdrawFile | slave.Wipe)
            )
        event: slave.Event | None = None
        if one < 130:
            event = slave.Received(FROM_MASTER[two % len(FROM_MASTER)]) if connected else None
        elif one < 210:
            now = max(now, session.deadline or now) + two % 2
            event = slave.Tick(samples.STATS, "log\n" if two % 2 else "", two % 5 > 0)
        elif one < 225 and building:
            building = False
            event = slave.BuildEnded((RESULT, samples.built(reason=FailureReason.TIMEOUT))[two % 2])
        elif one < 245 and offering:
            offering = False
            event = slave.FileEnded(ok=two % 2 > 0)
        elif one < 254:
            event = slave.Lost("cut") if connected else None
        elif two > 250:
            event = slave.Shutdown()
        effects = []
        if event is not None:
            with suppress(PeerError):
                effects = session.handle(event, now)
        session.validate()


ENTRIES = {"codec": fuzz_codec, "master": fuzz_master, "slave": fuzz_slave}
