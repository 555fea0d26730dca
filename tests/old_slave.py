# SPDX-License-Identifier: BSD-3-Clause
"""A piwheels 0.2x slave, byte for byte, written from the brief of the protocol. It shares no code with ours: what it
sends is made here with cbor2 alone, and what it is sent is compared with the few forms that it knows.

It refuses, loudly, whatever the table of version 1 does not show. ``pace`` makes its waiting shorter than the real
one's (5 to 10 seconds), so that tests need not wait so long.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import zmq

BUSY_TIMEOUT = timedelta(minutes=5)
BUILD_TIMEOUT = timedelta(hours=3)
HELLO_AGAIN = 5.0  #: seconds without a word on the file channel after which it repeats its HELLO
PAUSE = 5.0  #: seconds; the real one waits between 5 and 10

TAG_SPAN, TAG_NOTHING = 2001, 2002


class Surprise(AssertionError):
    """The master sent what a 0.2x slave does not know."""


class Silence(Exception):
    """The master said nothing for the slave's busy_timeout."""


def encode(name: str, data: Any = None) -> bytes:
    """A message: the bare name, or an array of name and data."""
    return cbor2.dumps(name if data is None else [name, data], default=_extra, timezone=UTC)


def _extra(encoder: Any, value: Any) -> None:
    if isinstance(value, timedelta):
        encoder.encode(cbor2.CBORTag(TAG_SPAN, [value.days, value.seconds, value.microseconds]))
    elif value is NOTHING:
        encoder.encode(cbor2.CBORTag(TAG_NOTHING, None))
    else:
        raise TypeError(f"0.2x cannot encode {value!r}")


class _Nothing:
    """No data, nested in other data."""


NOTHING = _Nothing()


def decode(data: bytes) -> tuple[str, Any]:
    """Name and data; Surprise unless it is exactly a message of the master's in version 1."""
    item = cbor2.loads(data)
    pair = isinstance(item, list) and len(item) == 2
    name, value = item if pair else (item, None)
    good = {
        "ACK": pair and isinstance(value, list) and list(map(type, value)) == [int, str],
        "BUILD": pair and isinstance(value, list) and list(map(type, value)) == [str, str],
        "SLEEP": pair and type(value) is bool,
        "SEND": pair and type(value) is str,
        "CONT": item == "CONT",
        "DONE": item == "DONE",
        "DIE": item == "DIE",
    }
    if not (isinstance(name, str) and good.get(name)):
        raise Surprise(f"a 0.2x slave was sent {item!r}")
    return name, value


@dataclass
class Wheel:
    """What a build makes."""

    filename: str
    data: bytes
    dependencies: dict[str, list[str]] = field(default_factory=lambda: {"apt": ["libc6"]})
    requires_python: Any = None

    def announcement(self) -> list[Any]:
        """The file as BUILT announces it."""
        package, version, python, abi, platform = self.filename.removesuffix(".whl").split("-")
        tags = [package, version, python, abi, platform]
        digest = hashlib.sha256(self.data).hexdigest()
        return [
            self.filename,
            len(self.data),
            digest,
            *tags,
            self.requires_python,
            self.dependencies,
            "/simple",
        ]


@dataclass
class Outcome:
    """What comes of a build: wheels, or none when it failed."""

    wheels: list[Wheel] = field(default_factory=list)
    log: str = "built by 0.2x\n"
    busy: int = 1  #: how often it says BUSY before it is done


class Slave:
    """One slave. Its messages one by one, or all of it with :meth:`run`."""

    def __init__(
        self,
        builders: str,
        files: str,
        *,
        build: Callable[[str, str], Outcome] = lambda package, version: Outcome(),
        platform: str = "linux_armv7l",
        label: str = "old-pi",
        serial: str = "00000000deadbeef",
        busy_timeout: timedelta = BUSY_TIMEOUT,
        pace: float = 1.0,
        source: str = "",
    ) -> None:
        """``build`` stands in for pip; ``source``: an address of this machine's to come from."""
        self.builders, self.files = builders, files
        if source:  # tcp://source:0;destination
            self.builders, self.files = (a.replace("tcp://", f"tcp://{source}:0;") for a in (builders, files))
        self.build = build
        self.platform, self.label, self.serial = platform, label, serial
        self.busy_timeout = busy_timeout
        self.pace = pace
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket: Any = None
        self.slave_id = 0
        self.lives = 0  #: how often it connected
        self.hellos = 0  #: said on the file channel
        self.heard: list[str] = []  #: names of the answers, in order
        self.stopped = threading.Event()

    # One by one

    def connect(self) -> None:
        """A new socket, which has a new identity."""
        self.drop()
        self.socket = self.context.socket(zmq.REQ)
        self.socket.connect(self.builders)
        self.lives += 1

    def drop(self) -> None:
        """Away with the connection."""
        if self.socket is not None:
            self.socket.close(linger=0)
            self.socket = None

    def close(self) -> None:
        """End for good."""
        self.stopped.set()
        self.drop()
        self.context.destroy(linger=0)

    def ask(self, name: str, data: Any = None) -> tuple[str, Any]:
        """Say something and wait for the answer; Silence when none comes within busy_timeout."""
        self.socket.send(encode(name, data))
        return self.answer()

    def answer(self) -> tuple[str, Any]:
        """Wait for an answer."""
        if not self.socket.poll(int(self.busy_timeout.total_seconds() * 1000)):
            raise Silence
        name, value = decode(self.socket.recv())
        self.heard.append(name)
        return name, value

    def hello_data(self) -> list[Any]:
        """HELLO's ten elements."""
        what = ["311", "cp311", self.platform, self.label, "Raspbian GNU/Linux", "12 (bookworm)", "a02082", self.serial]
        return [BUILD_TIMEOUT, self.busy_timeout, *what]

    def hello(self) -> tuple[str, Any]:
        """Introduce itself."""
        name, value = self.ask("HELLO", self.hello_data())
        if name == "ACK":
            self.slave_id = value[0]
        return name, value

    def stats(self) -> list[Any]:
        """How it is."""
        return [datetime.now(UTC), 32_000_000_000, 16_000_000_000, 4 << 30, 2 << 30, 100 << 20, 100 << 20, 0.5, 48.3]

    def idle(self) -> tuple[str, Any]:
        return self.ask("IDLE", self.stats())

    def busy(self) -> tuple[str, Any]:
        return self.ask("BUSY", self.stats())

    def built(self, outcome: Outcome) -> tuple[str, Any]:
        files = [wheel.announcement() for wheel in outcome.wheels]
        return self.ask("BUILT", [bool(files), timedelta(seconds=12, microseconds=345), outcome.log, files])

    def bye(self) -> None:
        self.socket.send(encode("BYE"))

    def transfer(self, data: bytes) -> None:
        """Serve one file, on a connection of its own, until the master says DONE."""
        channel = self.context.socket(zmq.DEALER)
        channel.setsockopt(zmq.SNDHWM, 10)
        channel.setsockopt(zmq.RCVHWM, 10)
        channel.connect(self.files)
        until = self.busy_timeout.total_seconds() / HELLO_AGAIN
        try:
            silences = 0
            self._file_hello(channel)
            while not self.stopped.is_set():
                if not channel.poll(int(HELLO_AGAIN * 1000)):
                    silences += 1
                    if silences > until:
                        raise Silence
                    self._file_hello(channel)
                    continue
                silences = 0
                match channel.recv_multipart():
                    case [b"FETCH", offset, length]:
                        begin = int(offset)
                        channel.send_multipart([b"CHUNK", offset, data[begin : begin + int(length)]])
                    case [b"DONE"]:
                        return
                    case frames:
                        raise Surprise(f"a 0.2x slave was sent {frames!r} on the file channel")
        finally:
            channel.close(linger=0)

    def _file_hello(self, channel: Any) -> None:
        self.hellos += 1
        channel.send_multipart([b"HELLO", str(self.slave_id).encode("ascii")])

    # All of it

    def run(self) -> None:
        """Live until told to die, or until ``stopped``. After a silence: a new connection, and the build is gone."""
        while not self.stopped.is_set():
            self.connect()
            try:
                self._live()
                return
            except Silence:
                continue
            finally:
                self.drop()

    def _live(self) -> None:
        if self.hello()[0] != "ACK":
            return
        while not self.stopped.is_set():
            match self.idle():
                case ("SLEEP", _):
                    self._rest()
                case ("BUILD", [package, version]):
                    if not self._work(package, version):
                        return
                case ("DIE", _):
                    return
                case answer:
                    raise Surprise(f"IDLE was answered {answer!r}")
        self.bye()

    def _work(self, package: str, version: str) -> bool:
        """Build and deliver; False when told to die."""
        outcome = self.build(package, version)
        for _ in range(outcome.busy):
            self._rest()
            match self.busy()[0]:
                case "CONT":
                    pass
                case "DONE":
                    return True
                case "DIE":
                    return False
                case name:
                    raise Surprise(f"BUSY was answered {name}")
        wheels = {wheel.filename: wheel for wheel in outcome.wheels}
        name, filename = self.built(outcome)
        while name == "SEND":
            self.transfer(wheels[filename].data)
            name, filename = self.ask("SENT")
        if name not in ("DONE", "DIE"):
            raise Surprise(f"BUILT or SENT was answered {name}")
        return name == "DONE"

    def _rest(self) -> None:
        self.stopped.wait(PAUSE * self.pace)
