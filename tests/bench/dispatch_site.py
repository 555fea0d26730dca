# SPDX-License-Identifier: BSD-3-Clause
"""Where ``bench-dispatch`` happens: the dispatch role as a process of its own, and processes of played builders."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from piwheels.wire.keys import KeyPair, load_or_make
from tests.bench.harness import ROOT, Bench
from tests.e2e.running import clean_environ, free_port
from tests.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Told:
    """What a shift came to, and what it cost."""

    built: int
    bytes: int
    asked: int  #: requests answered
    withdrawn: int  #: builds that were not wanted any more
    seconds: float
    took: dict[str, tuple[int, float, float, float]]  #: request -> how many, p50, p99 and longest in milliseconds
    cpu: dict[str, float]  #: seconds of dispatch, database and builders

    @property
    def asked_a_second(self) -> float:
        """Requests."""
        return self.asked / self.seconds

    @property
    def built_a_second(self) -> float:
        """Builds that were recorded."""
        return self.built / self.seconds

    def p99(self, *names: str) -> float:
        """Milliseconds; of the slowest of these, or of all."""
        return max((one[2] for name, one in self.took.items() if not names or name in names), default=0.0)

    @property
    def latencies(self) -> str:
        """In words."""
        return ", ".join(f"{name} {one[1]:.1f}/{one[2]:.1f}" for name, one in self.took.items())

    @property
    def cores(self) -> str:
        """How busy everybody was."""
        return ", ".join(f"{name} {100 * used / self.seconds:.0f} %" for name, used in self.cpu.items())

    def each(self, number: int) -> str:
        """CPU for each of so many."""
        return ", ".join(f"{name} {1e6 * used / max(number, 1):.0f}" for name, used in self.cpu.items()) + " µs"


@dataclass(slots=True)
class Site:
    """Dispatch, and where its builders connect."""

    at: Bench
    plain: bool
    address: dict[str, str]
    process: psutil.Process
    keys: Sequence[KeyPair]

    def resident(self) -> int:
        """Its memory, in bytes."""
        return int(self.process.memory_info().rss)

    @contextmanager
    def load(self, *, first: int = 0) -> Iterator["Load"]:
        """A process of played builders, whose first one is this among all of them."""
        keys = [] if self.plain else [(pair.public, pair.secret) for pair in self.keys]
        watched = {"dispatch": self.process.pid, "PostgreSQL": self.at.cluster.pid}
        facts = {"plain": self.plain, "first": first, "address": self.address, "keys": keys, "watched": watched}
        with Load(self, facts) as load:
            yield load


class Load:
    """A process of played builders."""

    def __init__(self, site: Site, facts: dict[str, Any]) -> None:
        self._site = site
        command = [sys.executable, "-m", "tests.bench.dispatch_load"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self._say(facts)

    def __enter__(self) -> "Load":
        if self._read() != "ready\n":
            raise RuntimeError("the played builders did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def begin(self, do: str, **facts: Any) -> None:
        """Have them do something."""
        self._say({"do": do, **facts})

    def end(self) -> dict[str, Any]:
        """Wait until it is done."""
        line = self._read()
        if not line:
            raise RuntimeError("the played builders failed; why is above")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, do: str, **facts: Any) -> Told:
        """Have them do something, and see what it came to; RuntimeError if not all of that is in the database."""
        before = _builds(self._site.at)
        self.begin(do, **facts)
        told = self.end()
        recorded = _builds(self._site.at) - before
        if recorded < told["built"]:
            raise RuntimeError(f"builders were told that {told['built']} builds are recorded; {recorded} are")
        took = {name: (one[0], one[1], one[2], one[3]) for name, one in told["took"].items()}
        return Told(**{**told, "took": took})

    def _say(self, facts: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(facts) + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _builds(at: Bench) -> int:
    with at.connect() as conn:
        row = conn.execute("SELECT count(*) FROM builds").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def dispatch(at: Bench, keys: Sequence[KeyPair], *, plain: bool) -> Iterator[Site]:
    """The role, as ``piw-master dispatch`` runs it, and listening."""
    ports = [free_port() for _ in range(4)]
    names = ("builders", "files", "plain_builders", "plain_files")
    found = {name: f"tcp://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    given = found if plain else {name: found[name] for name in names[:2]}
    address = {name: found[f"plain_{name}" if plain else name] for name in ("builders", "files")}
    address["key"] = load_or_make(at.settings.paths.keys / "master.key").public
    words = [word for name, one in given.items() for word in ("--set", f"dispatch.{name}={one}")]
    last = ports[3] if plain else ports[1]  # it binds them in this order, once everything else is ready
    with role(at, "dispatch", *words, ready=lambda pid: _listens(last)) as process:
        yield Site(at, plain, address, process, keys)


@contextmanager
def role(at: Bench, name: str, *words: str, ready: Callable[[int], bool]) -> Iterator[psutil.Process]:
    """One of the master's roles, once it is ready (asked with its process's number)."""
    command = [sys.executable, "-m", "piwheels.master.cli", name, *at.arguments(), *words]
    with (at.folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log, env=clean_environ())
    try:
        wait_for(lambda: process.poll() is not None or ready(process.pid), f"{name} to start", seconds=30)
        if process.poll() is not None:
            raise RuntimeError(f"{name} did not start: {_end_of(at.folder / f'{name}.log')}")
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_noted(at: Bench, pid: int) -> bool:
    """Whether a role has said that it is there."""
    with at.connect() as conn:
        return conn.execute("SELECT EXISTS (SELECT FROM roles WHERE pid = %s)", [pid]).fetchone() == (True,)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-1000:]
