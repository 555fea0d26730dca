# SPDX-License-Identifier: BSD-3-Clause
"""The load of ``bench-scale``: processes that plan, and that claim meanwhile, with the farm's own functions, timed.

``python -m tests.bench.scale_load KIND ...`` prints ``ready``, begins when a line comes in, and prints a JSON object at
its end. The parent's side of that is :class:`Load`.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from piwheels.db import planning, queue, targets
from piwheels.db.engine import in_transaction, make_engine
from piwheels.master.session import Lease
from piwheels.processes import set_from_handler
from piwheels.settings import DatabaseSettings
from tests.bench.child import cpu_seconds, peak_memory
from tests.bench.harness import ROOT
from tests.bench.queue_load import POLICY, TERMS

FOREVER = 600.0


# The measured process


@dataclass(slots=True)
class Work:
    """What a process is told."""

    engine: Engine
    target_id: int
    slave_id: int
    seconds: float  #: at most
    rate: float  #: calls a second; 0: as fast as it goes


def claims(work: Work) -> Iterator[int]:
    """Lease jobs, a transaction each."""
    while in_transaction(work.engine, lambda conn: _claim(conn, work)) is not None:
        yield 1


def _claim(conn: Connection, work: Work) -> Lease | None:
    return queue.claim(conn, slave_id=work.slave_id, target_id=work.target_id, terms=TERMS, policy=POLICY)


def plans(work: Work) -> Iterator[int]:
    """Plan batch after batch, as the feed role does when a target was enabled."""
    while True:
        done = in_transaction(work.engine, lambda conn: planning.catch_up(conn))
        yield done.planned
        if done.finished:
            return


KINDS: dict[str, Callable[[Work], Iterator[int]]] = {"claim": claims, "plan": plans}


def measure(kind: str, work: Work) -> dict[str, Any]:
    """Call again and again, and time each call."""
    calls = KINDS[kind](work)
    enough = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: set_from_handler(enough))
    print("ready", flush=True)
    sys.stdin.readline()
    took: list[int] = []
    done = 0
    begun, cpu = time.monotonic(), cpu_seconds()
    while time.monotonic() - begun < work.seconds and not enough.is_set():
        before = time.monotonic()
        if work.rate:  # timed from the moment that it is to begin, which is any in its interval
            before = begun + (len(took) + random.random()) / work.rate
            if enough.wait(before - time.monotonic()):
                break
        number = next(calls, None)
        if number is None:
            break
        took.append(round(1e6 * (time.monotonic() - before)))
        done += number
    used = {"seconds": time.monotonic() - begun, "cpu": cpu_seconds() - cpu, "peak": peak_memory()}
    return {"done": done, "took": took, **used}


def main(argv: Sequence[str]) -> int:
    """Entry point."""
    arguments = argparse.ArgumentParser()
    add = arguments.add_argument
    add("kind", choices=list(KINDS))
    add("--url", required=True)
    add("--target", default="bookworm-armhf")
    add("--slave", type=int, default=1)
    add("--seconds", type=float, default=FOREVER)
    add("--rate", type=float, default=0.0)
    given = arguments.parse_args(argv)
    engine = make_engine(DatabaseSettings(url=given.url, pool=1), name=f"bench {given.kind}")
    ids = in_transaction(engine, lambda conn: {target.name: target.id for target in targets.every(conn)})
    target_id = ids[given.target]
    assert target_id is not None
    work = Work(engine, target_id, given.slave, given.seconds, given.rate)
    print(json.dumps(measure(given.kind, work)))
    return 0


# The parent's side


@dataclass(frozen=True, slots=True)
class Told:
    """What processes of one kind did."""

    done: int
    took: Sequence[float]  #: seconds of each call, in ascending order
    seconds: float  #: the longest
    cpu: float  #: of all
    peak: int  #: bytes, of the biggest

    @property
    def rate(self) -> float:
        """Of what was done, a second."""
        return self.done / max(self.seconds, 1e-9)

    def percentile(self, share: float) -> float:
        """Seconds in which so many of a hundred calls were answered."""
        return self.took[min(int(len(self.took) * share / 100), len(self.took) - 1)] if self.took else 0.0

    @property
    def words(self) -> str:
        """How long calls took, in milliseconds."""
        marks = [f"p{share:g} {1000 * self.percentile(share):.2f}" for share in (50, 99, 99.9)]
        return f"{', '.join(marks)}, most {1000 * self.percentile(100):.1f} ms"


class Load:
    """Some processes of one kind, which begin together."""

    def __init__(self, kind: str, url: str, each: Sequence[Sequence[str]]) -> None:
        command = [sys.executable, "-m", "tests.bench.scale_load", kind, "--url", url]
        pipe = subprocess.PIPE
        self._kind = kind
        self._processes = [
            subprocess.Popen([*command, *words], cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for words in each
        ]

    def ready(self) -> None:
        """Wait until all of them could begin."""
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"a process that was to {self._kind} did not start")

    def begin(self) -> None:
        """Tell them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def stop(self) -> None:
        """Tell them that it is enough."""
        for process in self._processes:
            process.terminate()

    def end(self) -> Told:
        """Wait for their end, and add up."""
        said = [process.communicate(timeout=4 * 3600)[0] for process in self._processes]
        if any(process.returncode for process in self._processes):
            raise RuntimeError(f"a process that was to {self._kind} failed")
        found = [json.loads(text) for text in said]
        return Told(
            done=sum(one["done"] for one in found),
            took=sorted(took / 1e6 for one in found for took in one["took"]),
            seconds=max(one["seconds"] for one in found),
            cpu=sum(one["cpu"] for one in found),
            peak=max(one["peak"] for one in found),
        )

    def kill(self) -> None:
        """Leave none behind."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@contextmanager
def loads(*all_: Load) -> Iterator[None]:
    """Begin all of these together, once each is ready; none outlives this."""
    with ExitStack() as stack:
        for load in all_:
            stack.callback(load.kill)
        for load in all_:
            load.ready()
        for load in all_:
            load.begin()
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
