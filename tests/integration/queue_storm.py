# SPDX-License-Identifier: BSD-3-Clause
"""Many claimers at one queue that crash at random, and what must be true when nothing is left to be done.

``python -m tests.integration.queue_storm URL TARGET SLAVE SEED`` is one claimer as a process, to be killed. In a test,
claimers are threads whose crashes are exceptions: whatever transaction is open is rolled back, what is leased stays so.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection, Engine, func, select, text

from piwheels.db import builds, queue
from piwheels.db.builds import Entry, RetryPolicy
from piwheels.db.claims import Terms
from piwheels.db.engine import in_transaction, make_engine
from piwheels.db.tables import builds as build_table
from piwheels.db.tables import jobs
from piwheels.master.session import Lease, Result
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Outcome
from tests.integration import dispatch_world as world

TERMS = Terms(lease=timedelta(seconds=2), build_timeout=timedelta(hours=1), memory_limit=0)
AHEAD = timedelta(seconds=2)  #: in place of queue's, so that what a crash leaves behind is not waited for
POLICY = RetryPolicy(strikes=4, retry_after=timedelta(milliseconds=50))


class Crash(Exception):
    """The claimer is gone, in the middle of what it did."""


@dataclass
class Claimer:
    """One claimer; ``crashes``: how likely each step is to be its last."""

    engine: Engine
    target_id: int
    slave_id: int
    chance: random.Random
    crashes: float = 0.0
    spare: list[Lease] = field(default_factory=list)  #: taken ahead

    def round(self) -> bool:
        """Take some jobs, build them, record them; whether there were any."""
        leases = self._claim()
        entries = [entry for lease in leases if (entry := self._build(lease)) is not None]
        self._step()
        if entries:
            self._record(entries)
        return bool(leases)

    def _claim(self) -> list[Lease]:
        self._step()
        count = self.chance.choice((1, 1, 2, 5))
        found = in_transaction(
            self.engine,
            lambda conn: queue.claim_many(conn, target_id=self.target_id, terms=TERMS, limit=count, policy=POLICY),
        )
        self._step()
        holders = {lease.token: self.slave_id for lease in found}
        held = in_transaction(self.engine, lambda conn: queue.assign(conn, holders, lease=TERMS.lease))
        return [lease for lease in found if lease.token in held]

    def _build(self, lease: Lease) -> Entry | None:
        what = self.chance.random()
        if what < 0.05:  # ends in order
            in_transaction(self.engine, lambda conn: queue.unclaim(conn, lease.token, policy=POLICY))
            return None
        if what < 0.10:  # forgets it
            return None
        if what < 0.15:
            reason = FailureReason.NETWORK
            in_transaction(self.engine, lambda conn: queue.release(conn, lease.token, reason, "gone", policy=POLICY))
            return None
        return Entry(self._result(lease, what))

    def _result(self, lease: Lease, what: float) -> Result:
        if what < 0.25:
            return world.failed(lease, self.chance.choice((FailureReason.MEMORY, FailureReason.BUILDER)))
        if what < 0.35:
            return world.failed(lease, FailureReason.PACKAGE)
        return world.success(lease, world.verified(f"{lease.project}-{lease.version}-cp311-cp311-linux_armv7l.whl"))

    def _record(self, entries: list[Entry]) -> None:
        def work(conn: Connection) -> None:
            builds.record_many(conn, entries, policy=POLICY)
            self._step()  # before it is committed

        in_transaction(self.engine, work)
        self._step()
        if self.chance.random() < 0.2:  # the confirmation was lost: once more
            in_transaction(self.engine, lambda conn: builds.record_many(conn, entries, policy=POLICY))

    def _step(self) -> None:
        if self.chance.random() < self.crashes:
            raise Crash


ROWS = (
    "INSERT INTO projects (name, display_name) SELECT 'p' || n, 'P' || n FROM generate_series(1, :count) n",
    "INSERT INTO releases (project_id, version, sort_key, released)"
    " SELECT id, '1.0', CAST('1.0' AS bytea), now() FROM projects",
    "INSERT INTO upstream_files (release_id, filename, kind, size, sha256, url, uploaded)"
    " SELECT r.id, p.name || '-1.0.tar.gz', 'sdist', 10, sha256(CAST(p.name AS bytea)), 'x', now()"
    " FROM releases r JOIN projects p ON p.id = r.project_id",
    "INSERT INTO jobs (release_id, target_id, priority, downloads, released)"
    " SELECT id, :target, 1 + id % 3, id % 7, released FROM releases",
)


def fill(engine: Engine, count: int) -> tuple[int, int]:
    """So many jobs for one target; the target and a slave."""
    with engine.begin() as conn:
        target_id = world.add_target(conn)
        slave_id = world.add_slave(conn, target_id=target_id)
        for statement in ROWS:
            conn.execute(text(statement), {"count": count, "target": target_id} if ":" in statement else {})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("ANALYZE"))
    return target_id, slave_id


class Storm:
    """Claimers at work until no job is left, and what the master does meanwhile."""

    def __init__(self, engine: Engine, target_id: int, slave_id: int) -> None:
        self.engine = engine
        self.target_id = target_id
        self.slave_id = slave_id
        self.over = threading.Event()
        self.crashes = 0
        self.faults: list[BaseException] = []

    def mind(self) -> int:
        """What dispatch's pulse does; how many jobs there are."""
        in_transaction(self.engine, queue.wake)
        in_transaction(self.engine, lambda conn: queue.expire(conn, policy=POLICY))
        with self.engine.begin() as conn:
            return conn.execute(select(func.count()).select_from(jobs)).scalar_one()

    def wait(self, *, seconds: float) -> None:
        """Until nothing is left; AssertionError when that takes too long."""
        until = time.monotonic() + seconds
        try:
            while left := self.mind():
                assert time.monotonic() < until, f"{left} jobs are stuck"
                assert not self.faults, self.faults
                self.over.wait(0.1)
        finally:
            self.over.set()

    def thread(self, seed: int, *, crashes: float) -> threading.Thread:
        """A claimer that crashes and comes back."""
        chance = random.Random(seed)

        def run() -> None:
            while not self.over.is_set():
                claimer = Claimer(self.engine, self.target_id, self.slave_id, chance, crashes)
                try:
                    while not self.over.is_set():
                        if not claimer.round():
                            self.over.wait(0.5)
                except Crash:
                    self.crashes += 1
                except BaseException as error:
                    self.faults.append(error)
                    raise

        return threading.Thread(target=run, daemon=True)


def check(engine: Engine, count: int) -> Counter[str]:
    """Every release came to an end, exactly one; how many to which."""
    facts = select(
        build_table.c.release_id,
        func.count().filter(build_table.c.outcome == Outcome.SUCCESS).label("built"),
        func.count().filter(build_table.c.reason == FailureReason.PACKAGE).label("bad"),
        func.count().filter(build_table.c.outcome == Outcome.FAILED).label("failed"),
        func.count(build_table.c.token.distinct()).label("tokens"),
    ).group_by(build_table.c.release_id)
    ends: Counter[str] = Counter()
    with engine.begin() as conn:
        rows = conn.execute(facts).all()
    for row in rows:
        assert row.built + row.bad <= 1, f"release {row.release_id} was built twice"
        assert row.tokens == row.built + row.failed
        final = "built" if row.built else "bad" if row.bad else "given up"
        assert final != "given up" or row.failed == POLICY.strikes, f"release {row.release_id} was lost"
        ends[final] += 1
    assert len(rows) == count, "releases were lost"
    return ends


def main(url: str, target_id: str, slave_id: str, seed: str) -> None:
    """One claimer as a process."""
    queue.AHEAD = AHEAD
    engine = make_engine(DatabaseSettings(url=url, pool=1), name="claimer")
    claimer = Claimer(engine, int(target_id), int(slave_id), random.Random(int(seed)))
    while os.getppid() != 1:
        if not claimer.round():
            time.sleep(0.5)


def start(storm: Storm, url: str, seed: int) -> "subprocess.Popen[bytes]":
    """A claimer as a process."""
    words = [url, str(storm.target_id), str(storm.slave_id), str(seed)]
    return subprocess.Popen([sys.executable, "-m", "tests.integration.queue_storm", *words])


def kill(process: "subprocess.Popen[bytes]") -> None:
    """In the middle of whatever it does."""
    process.send_signal(signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
