# SPDX-License-Identifier: BSD-3-Clause
"""Played builders, up to thousands in one process, that speak the real protocol and build nothing.

What they do is said by whoever has them work (dispatch_load); their connections are of zmtp.
"""

import json
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import zmq

from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wire import messages as m
from piwheels.wire.codec import encode
from piwheels.wire.keys import KeyPair
from piwheels.wire.plain import MOST
from piwheels.wire.sockets import builder_req, file_dealer
from tests.bench.dispatch_rows import QUIET, TAG, TARGET, Wheel, project
from tests.bench.zmtp import Data, Heard, KeyedLine, Line, PlainLine, Switchboard

LOG = "".join(f"  Running setup.py bdist_wheel: step {number} of the build, done\n" for number in range(40))
_TOKEN, _SHA256 = "1" * 32, "f" * 64

# Messages, made once


def _stats() -> m.Stats:
    return m.Stats(datetime.now(UTC), 32 * 10**9, 20 * 10**9, 10**9, 5 * 10**8, 10**8, 10**8, 1.5, 55.0)


BUSY, IDLE, SENT, BYE = encode(m.Busy(_stats())), encode(m.Idle(_stats())), encode(m.Sent()), encode(m.Bye())


def hello(*, plain: bool, quiet: bool = False) -> bytes:
    """What a builder says first; ``quiet``: as one for whose target there is nothing to do."""
    target = QUIET if quiet else TARGET
    message = m.Hello(
        timedelta(hours=3),
        timedelta(minutes=5),
        target.python_version.replace(".", ""),
        target.abi,
        target.platform,
        "bench",
        "debian",
        target.distribution,
        "d03114",
        "0001",
        None if plain else m.Capabilities(agent="bench"),
    )
    return encode(message)


class Words:
    """BUILT, for each build: a pattern in which names are replaced."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        took = timedelta(seconds=3)
        report = m.BuildReport(_TOKEN, FailureReason.PACKAGE, "it failed")
        failed = m.Built(False, took, LOG, (), report)
        info = m.FileInfo(
            filename=f"{project(0)}-0.0-{TAG}.whl",
            size=0,
            sha256=_SHA256,
            package_tag=project(0),
            version_tag="0.0",
            py_tag="cp311",
            abi_tag="cp311",
            platform_tag="linux_armv7l",
            requires_python=">=3.8",
            dependencies={DependencyTool.APT: ("libc6", "libstdc++6")},
        )
        self._info = info
        built = m.Built(True, took, LOG, (info,), m.BuildReport(_TOKEN, built_from="ab" * 32))
        self._built = built
        self._failed = encode(self._fit(failed))
        self._patterns: dict[int, bytes] = {}

    def failed(self, token: str) -> bytes:
        """The build failed."""
        return self._failed.replace(_TOKEN.encode(), token.encode()) if token else self._failed

    def built(self, name: str, version: str, token: str, wheel: Wheel) -> bytes:
        """The build made a wheel."""
        pattern = self._patterns.get(wheel.size)
        if pattern is None:
            whole = replace(self._built, files=(replace(self._info, size=wheel.size),))
            pattern = self._patterns[wheel.size] = encode(self._fit(whole))
        pattern = pattern.replace(project(0).encode(), name.encode()).replace(_SHA256.encode(), wheel.sha256.encode())
        # As a field by itself, with the byte before it that CBOR gives to a text of three; and in the file's name.
        pattern = pattern.replace(b"c0.0", b"c" + version.encode()).replace(b"-0.0-", f"-{version}-".encode())
        return pattern.replace(_TOKEN.encode(), token.encode()) if token else pattern

    def _fit(self, message: m.Built) -> m.Built:
        return replace(message, report=None) if self._plain else message


class Builder:
    """One of them: a connection, and what it holds."""

    def __init__(self, office: "Office", number: int) -> None:
        self.number = number
        self.slave_id = 0
        self.build: tuple[str, str, str] | None = None  #: project, version, token
        self.wheel: Wheel | None = None
        self.waits = ""  #: the name of the request under way
        self.steps = 0  #: for the shift to count
        self.place = 0  #: among the builders of the shift
        self._office = office
        self._since = 0.0
        self._line = office.line(number, "builders", self._heard)
        self._file: Line | None = None

    def ask(self, name: str, data: bytes) -> None:
        """Say something; the shift hears what the master answers."""
        self.waits = name
        self._since = time.perf_counter()
        self._line.send([data])

    def hand_over(self) -> None:
        """Send the wheel, over a connection of its own."""
        self._since = time.perf_counter()
        self.waits = "file"
        self._file = self._office.line(self.number, "files", self._heard_of_file)
        self._file.send([b"HELLO", b"%d" % self.slave_id])

    def close(self) -> None:
        """Go."""
        self._line.send([BYE])

    def _heard(self, frames: list[bytes]) -> None:
        now = time.perf_counter()
        name, self.waits = self.waits, ""
        self._office.take(self, name, cbor2.loads(frames[-1]), now - self._since)

    def _heard_of_file(self, frames: list[bytes]) -> None:
        assert self._file is not None and self.wheel is not None
        if frames[0] == b"FETCH":
            offset, length = int(frames[1]), int(frames[2])
            part: Data = self.wheel.part(offset, length)
            self._file.send([b"CHUNK", frames[1], part])
            return
        self._file.close()
        self._file = None
        now = time.perf_counter()
        self.waits = ""
        self._office.take(self, "file", "", now - self._since)


Answer = Callable[[Builder, str, Any, float], None]


class Office:
    """All builders of a process, and who hears what they are answered."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.plain: bool = facts["plain"]
        self.words = Words(plain=self.plain)
        self.board = Switchboard()
        self.builders: list[Builder] = []
        self.answer: Answer = lambda builder, name, answer, took: None
        self.watched: dict[str, int] = facts["watched"]  #: processes whose CPU is looked at, by number
        self._first: int = facts["first"]  #: the number of its first builder, among those of all processes
        self._address: dict[str, str] = facts["address"]
        self._keys = [KeyPair(*pair) for pair in facts["keys"]]
        self._context: zmq.Context[Any] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 15_000)

    def grow(self, count: int) -> list[Builder]:
        """Have so many; the new ones, who have said nothing yet."""
        new = [Builder(self, number) for number in range(len(self.builders), count)]
        self.builders += new
        return new

    def line(self, number: int, channel: str, heard: Heard) -> Line:
        """A connection of a builder's."""
        address = self._address[channel]
        if self.plain:
            port = int(address.rpartition(":")[2])
            kind = "REQ" if channel == "builders" else "DEALER"
            return PlainLine(self.board, source(self._first + number), port, kind, heard)
        make = builder_req if channel == "builders" else file_dealer
        keys = self._keys[self._first + number]
        return KeyedLine(self.board, make(self._context, address, server_key=self._address["key"], keys=keys), heard)

    def take(self, builder: Builder, name: str, answer: Any, took: float) -> None:
        """An answer came."""
        self.answer(builder, name, answer, took)

    def commands(self) -> Iterator[dict[str, Any]]:
        """What the parent wants; connections are kept alive meanwhile."""
        while True:
            if select.select([sys.stdin], [], [], 0)[0]:
                line = sys.stdin.readline()
                if not line:
                    return
                yield json.loads(line)
            self.board.listen(0.02)


def source(number: int) -> str:
    """The address from which a builder without encryption comes."""
    host = number // MOST
    return f"127.1.{host // 250}.{host % 250 + 1}"
