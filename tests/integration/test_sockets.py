# SPDX-License-Identifier: BSD-3-Clause
"""The sockets and the gate with real ZeroMQ over loopback TCP: who gets in, as whom, and what the limits do."""

import socket as plain
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from piwheels.errors import SettingsError, UnavailableError
from piwheels.wire import keys, sockets
from piwheels.wire.cbor import MAX_MESSAGE
from piwheels.wire.gate import Gate
from piwheels.wire.plain import address_key

pytestmark = pytest.mark.integration

SOON, NOT_SOON = 10_000, 700  #: milliseconds: a deadline, and how long nothing must happen
ANYWHERE = "tcp://127.0.0.1:*"


class Net:
    """A master's sockets, and whatever builders a test makes; all closed at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.master = keys.make()
        self.context: zmq.Context[Any] = zmq.Context()
        stack.callback(self.context.term)
        self.gate = Gate(self.context)
        self.gate.start()
        stack.callback(self.gate.stop)
        self.router = self.keep(sockets.builder_router(self.context, ANYWHERE, self.master))
        self.address = address_of(self.router)

    def keep(self, socket: Any) -> Any:
        self.stack.callback(lambda: socket.close(linger=0))
        return socket

    def builder(self, pair: keys.KeyPair, *, server_key: str | None = None) -> Any:
        server_key = server_key or self.master.public
        return self.keep(sockets.builder_req(self.context, self.address, server_key=server_key, keys=pair))

    def hear(self) -> list[zmq.Frame]:
        assert self.router.poll(SOON), "nothing came"
        frames: list[zmq.Frame] = self.router.recv_multipart(zmq.NOBLOCK, copy=False)
        return frames


def knock(socket: Any, data: bytes) -> None:
    """Say something to a master that may have turned us away before it could be said."""
    with suppress(zmq.Again):
        socket.send(data, zmq.NOBLOCK)


def address_of(socket: Any) -> str:
    return str(socket.getsockopt(zmq.LAST_ENDPOINT).decode())


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack)


def test_a_builder_that_is_known_gets_in_under_its_key(net: Net) -> None:
    pairs = [keys.make(), keys.make()]
    net.gate.admit([pair.public for pair in pairs])
    for pair in pairs:
        builder = net.builder(pair)
        builder.send(b"request")
        identity, empty, request = net.hear()
        assert (empty.bytes, request.bytes) == (b"", b"request")
        assert sockets.peer_key(request) == pair.public
        assert sockets.peer_address(request) == "127.0.0.1"
        net.router.send_multipart([identity.bytes, b"", b"reply"], zmq.NOBLOCK)
        assert builder.poll(SOON) and builder.recv(zmq.NOBLOCK) == b"reply"
    assert net.gate.refused == 0 and net.gate.alive


def test_a_stranger_does_not(net: Net) -> None:
    net.gate.admit([keys.make().public])
    knock(net.builder(keys.make()), b"let me in")
    assert not net.router.poll(NOT_SOON)
    assert net.gate.refused


def test_a_key_is_admitted_and_taken_away_at_run_time(net: Net) -> None:
    pair = keys.make()
    early = net.builder(pair)
    knock(early, b"early")
    assert not net.router.poll(NOT_SOON)
    net.gate.admit([pair.public])
    net.builder(pair).send(b"known")
    assert net.hear()[-1].bytes == b"known"
    net.gate.admit([])
    knock(net.builder(pair), b"no more")
    assert not net.router.poll(NOT_SOON)


def test_nor_does_anybody_without_a_key_or_for_another_master(net: Net) -> None:
    pair = keys.make()
    net.gate.admit([pair.public])
    bare = net.keep(sockets.builder_req(net.context, net.address, server_key=None, keys=None))
    knock(bare, b"in the clear")
    knock(net.builder(pair, server_key=keys.make().public), b"for somebody else")
    with closing(plain.create_connection(("127.0.0.1", int(net.address.rpartition(":")[2])), 5)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert not net.router.poll(NOT_SOON)
    net.builder(pair).send(b"still served")
    assert net.hear()[-1].bytes == b"still served"


def test_nobody_gets_in_without_a_gate(net: Net) -> None:
    net.gate.stop()
    pair = keys.make()
    net.gate.admit([pair.public])
    knock(net.builder(pair), b"open?")
    assert not net.router.poll(NOT_SOON)
    assert not net.gate.alive


@pytest.fixture
def plain_router(net: Net) -> Any:
    return net.keep(sockets.builder_router(net.context, ANYWHERE, None))


def plain_builder(net: Net, router: Any, *, source: str = "127.0.0.1") -> Any:
    """One without encryption, from an address of this machine."""
    address = address_of(router).replace("tcp://", f"tcp://{source}:0;")
    return net.keep(sockets.builder_req(net.context, address, server_key=None, keys=None))


def test_without_encryption_the_address_decides(net: Net, plain_router: Any) -> None:
    net.gate.admit(["plain 127.0.0.2", "plain 127.0.0.3 #1"])
    for stranger in ("127.0.0.1", "127.0.0.3", "127.0.0.22"):
        knock(plain_builder(net, plain_router, source=stranger), b"let me in")
    knock(net.builder(keys.make()), b"an address is no key")
    plain_builder(net, plain_router, source="127.0.0.2").send(b"x")
    assert plain_router.poll(SOON)
    sender = plain_router.recv_multipart(zmq.NOBLOCK, copy=False)[-1]
    assert (sender.bytes, sockets.peer_address(sender)) == (b"x", "127.0.0.2")
    assert not plain_router.poll(NOT_SOON) and not net.router.poll(0)
    assert net.gate.refused >= 4  # one that is refused tries again, if the machine leaves it the time


def test_a_stranger_is_cut_off_in_the_handshake(net: Net, plain_router: Any) -> None:
    """It does not get as far as to send a message, which might be large."""
    stranger = plain_builder(net, plain_router)
    monitor = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    assert monitor.poll(SOON)
    assert recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert not monitor.poll(NOT_SOON)
    sockets.unwatch(stranger, monitor, linger=0)


def test_an_address_is_admitted_and_taken_away_at_run_time(net: Net, plain_router: Any) -> None:
    knock(plain_builder(net, plain_router), b"early")
    assert not plain_router.poll(NOT_SOON)
    net.gate.admit(["plain 127.0.0.1"])
    plain_builder(net, plain_router).send(b"known")
    assert plain_router.poll(SOON) and plain_router.recv_multipart(zmq.NOBLOCK)[-1] == b"known"
    net.gate.admit([])
    knock(plain_builder(net, plain_router), b"no more")
    assert not plain_router.poll(NOT_SOON)


ZMTP_1, ZMTP_2 = b"\x01\x00" + b"\x02\x00x", b"\xff" + bytes(8) + b"\x7f\x01\x03" + bytes(2) + b"\x01\x00\x00\x01x"


@pytest.mark.parametrize("data", [ZMTP_1, ZMTP_2], ids=["1", "2"])
def test_the_old_protocols_of_zeromq_do_not_lead_past_the_gate(net: Net, plain_router: Any, data: bytes) -> None:
    """ZMTP 1 and 2 have no handshake in which somebody could be refused, so that they are refused altogether."""
    net.gate.admit(["plain 127.0.0.1"])
    port = int(address_of(plain_router).rpartition(":")[2])
    with closing(plain.create_connection(("127.0.0.1", port), 5)) as raw:
        raw.sendall(data)
        assert not plain_router.poll(NOT_SOON)


def test_nobody_gets_in_without_a_gate_by_address_either(net: Net, plain_router: Any) -> None:
    net.gate.admit(["plain 127.0.0.1"])
    net.gate.stop()
    knock(plain_builder(net, plain_router), b"open?")
    assert not plain_router.poll(NOT_SOON)


def test_one_gate_for_a_context_which_opens_again(net: Net) -> None:
    with pytest.raises(UnavailableError, match="gate"):
        Gate(net.context).start()
    net.gate.stop()
    net.gate.stop()
    pair = keys.make()
    again = Gate(net.context, [pair.public])
    again.start()
    net.stack.callback(again.stop)
    net.builder(pair).send(b"x")
    assert net.hear()[-1].bytes == b"x"


def test_files_cross(net: Net) -> None:
    pair = keys.make()
    net.gate.admit([pair.public])
    router = net.keep(sockets.file_router(net.context, ANYWHERE, net.master))
    dealer = net.keep(sockets.file_dealer(net.context, address_of(router), server_key=net.master.public, keys=pair))
    assert dealer.poll(SOON, zmq.POLLOUT), "IMMEDIATE: writable once connected"
    dealer.send_multipart([b"HELLO", b"1"], zmq.NOBLOCK)
    assert router.poll(SOON)
    identity, hello, number = router.recv_multipart(zmq.NOBLOCK, copy=False)
    assert (hello.bytes, number.bytes, sockets.peer_key(number)) == (b"HELLO", b"1", pair.public)
    router.send_multipart([identity.bytes, b"FETCH", b"0", b"10"], zmq.NOBLOCK)
    assert dealer.poll(SOON) and dealer.recv_multipart(zmq.NOBLOCK) == [b"FETCH", b"0", b"10"]


def test_a_message_that_is_too_long_costs_its_sender_the_connection(net: Net) -> None:
    hog, honest = keys.make(), keys.make()
    net.gate.admit([hog.public, honest.public])
    sender = net.builder(hog)
    monitor = sockets.watch(sender)
    sender.send(b"x" * (MAX_MESSAGE + 100))
    assert monitor.poll(SOON) and sockets.connection_lost(monitor)
    sockets.unwatch(sender, monitor, linger=0)
    assert not net.router.poll(0)
    net.builder(honest).send(b"still served")
    assert net.hear()[-1].bytes == b"still served"


def test_a_builder_sees_that_its_master_went_away(net: Net) -> None:
    pair = keys.make()
    net.gate.admit([pair.public])
    builder = net.builder(pair)
    monitor = sockets.watch(builder)
    builder.send(b"x")
    net.hear()
    assert not sockets.connection_lost(monitor)
    net.router.close(linger=0)
    assert monitor.poll(SOON) and sockets.connection_lost(monitor)
    sockets.unwatch(builder, monitor)


def test_a_reply_to_nobody_is_an_error(net: Net) -> None:
    with pytest.raises(zmq.ZMQError) as caught:
        net.router.send_multipart([b"nobody", b"", b"x"], zmq.NOBLOCK)
    assert caught.value.errno == zmq.EHOSTUNREACH


def test_addresses_that_cannot_be_used(net: Net) -> None:
    pair, server = keys.make(), keys.make().public
    with pytest.raises(UnavailableError, match="cannot listen at"):
        sockets.builder_router(net.context, net.address, net.master)
    for address in ("nonsense", "http://example.org", "tcp://"):
        with pytest.raises(SettingsError, match="is not an address"):
            sockets.builder_router(net.context, address, net.master)
        with pytest.raises(SettingsError, match="is not an address"):
            sockets.file_dealer(net.context, address, server_key=server, keys=pair)
    with pytest.raises(SettingsError, match="needs both"):
        sockets.builder_req(net.context, net.address, server_key=server, keys=None)
    with pytest.raises(SettingsError, match="is not a public key"):
        sockets.builder_req(net.context, net.address, server_key="short", keys=pair)


def test_every_address_of_the_machine(net: Net) -> None:
    net.gate.admit(["plain 127.0.0.1"])
    router = net.keep(sockets.builder_router(net.context, "tcp://*:*", None))
    port = address_of(router).rpartition(":")[2]
    request = net.keep(sockets.builder_req(net.context, f"tcp://127.0.0.1:{port}", server_key=None, keys=None))
    request.send(b"x")
    assert router.poll(SOON)
    sender = router.recv_multipart(zmq.NOBLOCK, copy=False)[-1]
    assert address_key(sockets.peer_address(sender)) == "plain 127.0.0.1", "also on a socket of both families"
