# SPDX-License-Identifier: BSD-3-Clause
"""Load on the queue: processes that claim, and processes that record, as fast as they can; and what each call took.

``claims`` and ``records`` are for benchmarks; each process is ``python -m tests.bench.queue_load WORK FACTS`` and
prints its latencies. They do what dispatch does, with its functions.
"""

import hashlib
import json
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from piwheels.db import builds, queue
from piwheels.db.builds import Entry, RetryPolicy
from piwheels.db.claims import Terms
from piwheels.db.engine import in_transaction, make_engine
from piwheels.master.session import Lease, Result, VerifiedFile
from piwheels.settings import DatabaseSettings
from piwheels.wire.messages import BuildReport

ROOT = Path(__file__).resolve().parents[2]
TERMS = Terms(lease=timedelta(minutes=10), build_timeout=timedelta(hours=3), memory_limit=0)
POLICY = RetryPolicy(strikes=3, retry_after=timedelta(minutes=1))


@dataclass(frozen=True, slots=True)
class Timing:
    """What several processes did together."""

    what: str
    done: int  #: jobs claimed, or builds recorded
    seconds: float
    latencies: tuple[float, ...]  #: seconds from when each call was to begin to its end, sorted
    cpu: float  #: seconds that the processes themselves used

    @property
    def rate(self) -> float:
        """A second."""
        return self.done / self.seconds if self.seconds else 0.0

    def quantile(self, part: float) -> float:
        """Seconds within which this part of all calls were done."""
        return self.latencies[min(int(len(self.latencies) * part), len(self.latencies) - 1)] if self.latencies else 0.0

    def __str__(self) -> str:
        p50, p99 = self.quantile(0.5) * 1000, self.quantile(0.99) * 1000
        cpu = self.cpu / max(self.done, 1) * 1e6
        return f"{self.what}: {self.rate:.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {cpu:.0f} µs of CPU each"


def claims(
    database: DatabaseSettings, target_id: int, *, claimers: int, each: int, batch: int = 1, interval: float = 0.0
) -> Timing:
    """So many processes claim this many times each. ``interval``: seconds from one call to the next; 0: at once."""
    facts = {"target": target_id, "each": each, "batch": batch, "interval": interval}
    return _together("claim", database, facts, claimers, f"{claimers} claimers, {batch} at a time")


def records(
    database: DatabaseSettings,
    target_id: int,
    *,
    recorders: int,
    each: int,
    batch: int = 1,
    interval: float = 0.0,
    wheels: int = 2,
    needs: int = 6,
) -> Timing:
    """So many processes record this many batches each, of successful builds that they claimed before, with so many
    wheels, which need so much altogether."""
    facts = {"target": target_id, "each": each, "batch": batch, "interval": interval, "wheels": wheels, "needs": needs}
    return _together("record", database, facts, recorders, f"{recorders} recorders, {batch} at a time")


def _together(work: str, database: DatabaseSettings, facts: dict[str, Any], count: int, what: str) -> Timing:
    command = [sys.executable, "-m", "tests.bench.queue_load", work, json.dumps({"url": database.url, **facts})]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:  # all are ready before any begins
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    reports = [json.loads(process.communicate(timeout=1800)[0]) for process in processes]
    latencies = sorted(latency for report in reports for latency in report["latencies"])
    seconds = max(report["end"] for report in reports) - min(report["begin"] for report in reports)
    done, cpu = (sum(report[name] for report in reports) for name in ("done", "cpu"))
    return Timing(what, done, seconds, tuple(latencies), cpu)


def main(work: str, text: str) -> None:
    """One process."""
    facts = json.loads(text)
    engine = make_engine(DatabaseSettings(url=facts["url"], pool=1), name="bench")
    call = _claimer(engine, facts) if work == "claim" else _recorder(engine, facts)
    print("ready", flush=True)
    sys.stdin.readline()
    done, latencies = 0, []
    begin = time.time()
    cpu = time.process_time()
    for due in moments(begin, facts["interval"], facts["each"]):
        before = time.time() if due is None else due
        if (wait := before - time.time()) > 0:
            time.sleep(wait)
        count = call()
        latencies.append(time.time() - before)
        done += count
        if not count:
            break
    used = time.process_time() - cpu
    print(json.dumps({"done": done, "latencies": latencies, "begin": begin, "end": time.time(), "cpu": used}))


def moments(begin: float, interval: float, number: int) -> Iterator[float | None]:
    """When each call is to begin; None: at once. At a moment of its own in each interval, so that processes that keep
    the same pace do not all come at the same time; and calls are timed from then, whether or not we were in time."""
    for count in range(number):
        yield begin + (count + random.random()) * interval if interval else None


def _claimer(engine: Engine, facts: dict[str, Any]) -> Callable[[], int]:
    def claim() -> int:
        return len(_claim(engine, facts["target"], facts["batch"]))

    _claim(engine, facts["target"], 1)  # the first call prepares the statement
    return claim


def _claim(engine: Engine, target_id: int, count: int) -> list[Lease]:
    return in_transaction(
        engine, lambda conn: queue.claim_many(conn, target_id=target_id, terms=TERMS, limit=count, policy=POLICY)
    )


def _recorder(engine: Engine, facts: dict[str, Any]) -> Callable[[], int]:
    def prepared() -> list[Entry]:  # as dispatch does, with a number that was taken ahead
        leases = _claim(engine, facts["target"], facts["batch"])
        numbers = in_transaction(engine, lambda conn: builds.new_ids(conn, len(leases)))
        return [Entry(_result(lease, facts), number) for lease, number in zip(leases, numbers, strict=True)]

    batches = [prepared() for _ in range(facts["each"] + 1)]

    def record() -> int:
        entries = batches.pop()
        numbers = in_transaction(engine, lambda conn: builds.record_many(conn, entries, policy=POLICY))
        return sum(number is not None for number in numbers)

    record()
    return record


def _result(lease: Lease, facts: dict[str, Any]) -> Result:
    name = f"{lease.project.replace('-', '_')}-{lease.version}"
    tags = ["cp311-cp311-linux_armv7l", "cp311-none-linux_armv7l", "cp311-abi3-linux_armv7l"][: facts["wheels"]]
    wheels = tuple(_wheel(f"{name}-{tag}.whl", facts["needs"] // max(len(tags), 1)) for tag in tags)
    report = BuildReport(
        token=lease.token,
        peak_memory=100_000_000,
        cpu_seconds=3.0,
        built_from="ab" * 32,
        built_with={"pip": "25.0", "setuptools": "80.1"},
    )
    return Result(lease, True, None, "", timedelta(seconds=5), "", wheels, report)


def _wheel(filename: str, needs: int) -> VerifiedFile:
    unique = f"{filename} {uuid.uuid4()}".encode()
    return VerifiedFile(
        filename=filename,
        size=100_000,
        sha256=hashlib.sha256(unique).digest(),
        metadata_sha256=hashlib.sha256(unique + b"m").digest(),
        requires_python=">=3.9",
        top_level=("package",),
        dependencies=tuple(("apt", f"lib{number}") for number in range(needs)),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
