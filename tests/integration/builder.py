# SPDX-License-Identifier: BSD-3-Clause
"""A builder for tests of dispatch: real sockets, real bytes, no build. It can be told to misbehave."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import zmq

from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wire import messages as m
from piwheels.wire.codec import decode_file_from_master, decode_from_master, encode, encode_file
from piwheels.wire.keys import KeyPair
from piwheels.wire.sockets import builder_req, file_dealer
from tests.waiting import wait_for

PATIENCE = 15_000  #: milliseconds that any answer may take


def stats() -> m.Stats:
    return m.Stats(datetime.now(UTC), 1000, 500, 100, 50, 10, 10, 0.5, 40.0)


@dataclass(frozen=True)
class Address:
    """Where the master is."""

    builders: str
    files: str
    key: str


@dataclass
class Builder:
    """One builder; ``connect`` before anything else."""

    address: Address
    keys: KeyPair
    context: "zmq.Context[Any]"
    platform: str = "linux_armv7l"
    socket: Any = None
    slave_id: int = 0
    sent_chunks: list[int] = field(default_factory=list)

    def connect(self) -> "Builder":
        """Drop any connection and make a new one, with a new ZeroMQ identity."""
        self.close()
        self.socket = builder_req(self.context, self.address.builders, server_key=self.address.key, keys=self.keys)
        return self

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close(linger=0)
            self.socket = None

    def send(self, message: m.SlaveMessage) -> None:
        self.socket.send(encode(message))

    def receive(self) -> m.MasterMessage:
        assert self.socket.poll(PATIENCE), "the master did not answer"
        return decode_from_master(self.socket.recv())

    def ask(self, message: m.SlaveMessage) -> m.MasterMessage:
        self.send(message)
        return self.receive()

    def hello_message(self, *, resume: str | None = None, busy_timeout: timedelta = timedelta(minutes=5)) -> m.Hello:
        return m.Hello(
            timedelta(hours=3),
            busy_timeout,
            "311",
            "cp311",
            self.platform,
            "tester",
            "Debian",
            "12",
            "d03114",
            "0001",
            m.Capabilities(agent="tests", resume=resume),
        )

    def hello(self, *, resume: str | None = None) -> m.MasterMessage:
        answer = self.ask(self.hello_message(resume=resume))
        if isinstance(answer, m.Ack):
            self.slave_id = answer.slave_id
        return answer

    def idle(self) -> m.MasterMessage:
        return self.ask(m.Idle(stats()))

    def busy(self) -> m.MasterMessage:
        return self.ask(m.Busy(stats()))

    def job(self) -> m.Build:
        """Ask until there is something to build."""

        def offered() -> m.Build | None:
            answer = self.idle()
            assert isinstance(answer, (m.Build, m.Sleep)), answer
            return answer if isinstance(answer, m.Build) else None  # the master may have looked a moment too soon

        return cast(m.Build, wait_for(offered, "something to build", seconds=10))

    def fail(self, build: m.Build, reason: FailureReason, log: str = "it broke\n") -> m.MasterMessage:
        assert build.order is not None
        report = m.BuildReport(build.order.token, reason, "it broke")
        return self.ask(m.Built(False, timedelta(seconds=1), log, (), report))

    def built(self, build: m.Build, *files: m.FileInfo, log: str = "fine\n") -> m.MasterMessage:
        assert build.order is not None
        report = m.BuildReport(build.order.token, built_from=build.order.sdist_sha256)
        return self.ask(m.Built(True, timedelta(seconds=1), log, files, report))

    def deliver(self, data: bytes, *, tamper: Callable[[int, bytes], list[tuple[int, bytes]]] | None = None) -> None:
        """Hand over a file until the master says that it has it. ``tamper`` turns each chunk into what is sent."""
        with self.file_channel() as channel:
            channel.send_multipart(encode_file(m.FileHello(self.slave_id)))
            while True:
                assert channel.poll(PATIENCE), "the master asks for nothing"
                message = decode_file_from_master(channel.recv_multipart())
                if isinstance(message, m.FileDone):
                    return
                chunk = data[message.offset : message.offset + message.length]
                for offset, piece in tamper(message.offset, chunk) if tamper else [(message.offset, chunk)]:
                    self.sent_chunks.append(len(piece))
                    channel.send_multipart(encode_file(m.Chunk(offset, piece)))

    @contextmanager
    def file_channel(self, address: str = "") -> Iterator[Any]:
        """The file channel, or something like it to another address."""
        channel = file_dealer(self.context, address or self.address.files, server_key=self.address.key, keys=self.keys)
        # IMMEDIATE holds a message back until the connection is there.
        channel.setsockopt(zmq.SNDTIMEO, PATIENCE)
        try:
            yield channel
        finally:
            channel.close(linger=0)


def announce(filename: str, data: bytes, **values: Any) -> m.FileInfo:
    """A wheel as a builder announces it."""
    parts = filename.removesuffix(".whl").split("-")
    if len(parts) == 6:
        del parts[2]  # the build number, which is announced in the name alone
    parts = [*parts, "", "", "", "", ""][:5]
    facts: dict[str, Any] = {
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **dict(zip(("package_tag", "version_tag", "py_tag", "abi_tag", "platform_tag"), parts, strict=True)),
        "requires_python": None,
        "dependencies": {DependencyTool.APT: ("libc6",)},
    }
    return m.FileInfo(filename=filename, **{**facts, **values})
