# SPDX-License-Identifier: BSD-3-Clause
"""What is tried on the addresses without encryption: by strangers, and from an address that is admitted."""

import random
from contextlib import closing, suppress
from typing import Any

import zmq

from piwheels.wire import messages as m
from piwheels.wire.cbor import MAX_MESSAGE
from piwheels.wire.codec import encode
from tests import old_slave
from tests import wire_samples as samples
from tests.hostile.attack import MORE, NULL_READY, attack, frame, greeting, say, shake_hands
from tests.hostile.by_builders import BOMBS, RIGHT
from tests.hostile.by_strangers import PIECES
from tests.hostile.ground import CROWD_OLD, HONEST_OLD, MEBI, VILLAIN_OLD, Ground, old_wheel_of
from tests.old_slave import Outcome, Silence

CHANNELS = ("plain builders", "plain files")
STRANGERS = ("127.0.0.1", "127.0.0.22", "127.1.2.3")  #: nobody enrolled them
with closing(old_slave.Slave("", "")) as _double:
    OLD_HELLO = old_slave.encode("HELLO", _double.hello_data())
START = greeting(b"NULL") + NULL_READY


@attack()
def strangers_from_addresses_not_enrolled(ground: Ground) -> None:
    peers = []
    for source in STRANGERS:
        for channel in CHANNELS:
            for kind in (zmq.DEALER, zmq.REQ, zmq.ROUTER, zmq.PUB, zmq.SUB):
                peers.append(ground.peer(channel, kind, source=source))
                with suppress(zmq.ZMQError):
                    peers[-1].send(OLD_HELLO, zmq.NOBLOCK)
    for number in range(200):
        say(ground.tcp(CHANNELS[number % 2], source=STRANGERS[number % 3]), START)
    ground.serve_the_old()
    assert not any(_answered(peer) for peer in peers)


@attack(memory=40 * MEBI)
def strangers_large_messages(ground: Ground) -> None:
    """All but their ends, which would let them be dropped: none of it is to be held, each is cut off before that."""
    begun = frame(b"", flags=MORE) + frame(bytes(3 * MEBI))[:-1]
    for number in range(40):
        connection = ground.tcp(CHANNELS[number % 2], source=STRANGERS[number % 3])
        shake_hands(connection)
        say(connection, begun)
        with suppress(ConnectionError):
            while connection.recv(1000):
                pass
    for channel in CHANNELS:
        for claim in (15 * MEBI, 2**40):
            connection = ground.tcp(channel)
            shake_hands(connection)
            say(connection, frame(b"", claim=claim) + bytes(100_000))


@attack()
def bytes_that_are_no_old_slave(ground: Ground) -> None:
    for source in (STRANGERS[0], VILLAIN_OLD):
        for channel in CHANNELS:
            for piece in PIECES.values():
                say(ground.tcp(channel, source=source), piece)


@attack()
def silence_without_encryption(ground: Ground) -> None:
    for number in range(200):
        source = (STRANGERS[0], VILLAIN_OLD)[number // 2 % 2]
        say(ground.tcp(CHANNELS[number % 2], source=source), START[: number % len(START)])
    ground.serve_the_old()


@attack()
def forged_claims_of_oneself(ground: Ground) -> None:
    """What a peer says of itself in the handshake is no proof: neither of a key nor of an address."""
    request = frame(b"", flags=MORE) + frame(OLD_HELLO)
    key = ground.victim.keys.public.encode()
    claims = {"Identity": b"victim", "User_Id": key, "Peer_Address": HONEST_OLD.encode()}
    for source in (*STRANGERS, VILLAIN_OLD):
        connection = ground.tcp("plain builders", source=source)
        shake_hands(connection, **claims)
        say(connection, request + frame(b"", flags=MORE) + frame(RIGHT["BYE"]))
    for source in (STRANGERS[0], VILLAIN_OLD):
        hello = frame(b"HELLO", flags=MORE) + frame(b"%d" % ground.victim.slave_id)
        chunk = frame(b"CHUNK", flags=MORE) + frame(b"0", flags=MORE) + frame(b"x" * 100)
        connection = ground.tcp("plain files", source=source)
        shake_hands(connection, **claims)
        say(connection, hello + chunk)
    ground.serve_the_old()


@attack()
def rubbish_from_an_admitted_address(ground: Ground) -> None:
    chance = random.Random(6)
    channel = ground.peer("plain builders", source=VILLAIN_OLD)
    for data in BOMBS.values():
        channel.send_multipart([b"", data])
    for data in (OLD_HELLO, *RIGHT.values()):
        for _ in range(30):
            spoiled = bytearray(data)
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
            channel.send_multipart([b"", bytes(spoiled)])
    files = ground.peer("plain files", source=VILLAIN_OLD)
    for _ in range(300):
        files.send_multipart([chance.randbytes(chance.randrange(30)) for _ in range(chance.randrange(1, 6))])


@attack()
def extensions_without_encryption(ground: Ground) -> None:
    """A hello of version 2, a token that resumes somebody's build, a live log, a report: none is heard."""
    token = ground.token_of(ground.victim.slave_id)
    slave = ground.old_slave(VILLAIN_OLD)
    report = m.BuildReport(token)
    later: list[m.SlaveMessage] = [
        m.Busy(samples.STATS, "log"),
        m.Built(True, samples.HELLO.build_timeout, "", (), report),
    ]
    for message in [ground.honest.hello_message(resume=token), *later]:
        slave.connect()
        _unheard(slave, encode(message))
    for message in later:
        slave.connect()
        assert slave.hello()[0] == "ACK"
        _unheard(slave, encode(message))
    assert ground.victim.busy() == m.Cont()


@attack()
def one_address_poses_as_anothers_builder(ground: Ground) -> None:
    """By its slave id on the file channel, while it delivers; by its result; by the identity of its connection."""
    victim = ground.old_slave(HONEST_OLD)
    victim.drop()
    victim.socket = victim.context.socket(zmq.REQ)
    victim.socket.setsockopt(zmq.ROUTING_ID, b"old victim")
    victim.socket.connect(victim.builders)
    assert victim.hello()[0] == "ACK"
    package, version = ground.old_job(victim)
    wheel = old_wheel_of(package, version, padding=300_000)
    assert victim.built(Outcome([wheel])) == ("SEND", wheel.filename)
    thieves = [ground.peer("plain files", source=source) for source in (VILLAIN_OLD, STRANGERS[0])]
    thieves.append(ground.peer("files"))
    for thief in thieves:
        for data in ([b"HELLO", b"%d" % victim.slave_id], [b"CHUNK", b"0", b"\xff" * 100_000]):
            with suppress(zmq.Again):  # it was turned away
                thief.send_multipart(data, zmq.NOBLOCK)
    same = ground.peer("plain builders", source=VILLAIN_OLD, routing_id=b"old victim")
    for data in (RIGHT["BYE"], OLD_HELLO, RIGHT["SENT"]):
        same.send_multipart([b"", data], zmq.NOBLOCK)
    assert not any(thief.poll(100) for thief in (*thieves, same)), "they are asked for nothing"
    victim.transfer(wheel.data)
    assert victim.ask("SENT") == ("DONE", None)
    victim.bye()
    assert ground.builds_of(package.lower()) == 1


@attack()
def a_crowd_from_one_address(ground: Ground) -> None:
    """More builders than an address may have, with clashing identities; others have theirs all the same."""
    peers = [ground.peer("plain builders", source=CROWD_OLD, routing_id=b"%d" % (n % 30)) for n in range(60)]
    for peer in peers:
        for _ in range(3):
            peer.send_multipart([b"", OLD_HELLO])
    ground.serve_the_old()
    assert sum(_answered(peer) for peer in peers) <= 16


@attack(memory=200 * MEBI)
def large_messages_from_an_admitted_address(ground: Ground) -> None:
    """As many as libzmq takes in for us before the first is read: some, of each connection."""
    for number in range(8):
        peer = ground.peer("plain builders", source=VILLAIN_OLD)
        peer.send_multipart([b"", bytes(MAX_MESSAGE - 100)])
        connection = ground.tcp(CHANNELS[number % 2], source=VILLAIN_OLD)
        shake_hands(connection)
        say(connection, frame(b"", claim=(15, 3)[number % 2] * MEBI))
    ground.serve_the_old()


def _unheard(slave: Any, data: bytes) -> None:
    slave.socket.send(data)
    before, slave.busy_timeout = slave.busy_timeout, slave.busy_timeout * 0.02
    with suppress(Silence):
        raise AssertionError(f"it was answered: {slave.answer()}")
    slave.busy_timeout = before


def _answered(peer: Any) -> bool:
    return bool(peer.type in (zmq.DEALER, zmq.REQ, zmq.ROUTER, zmq.SUB) and peer.poll(0))
