# SPDX-License-Identifier: BSD-3-Clause
"""What ``bench-scale`` measures on such a database, one function for each line of its table.

Each leaves the farm as it was, but for what it recorded, so that a database that is kept serves again. What a builder
does is not measured: it is the tests' one, which builds nothing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import psycopg
from sqlalchemy import Connection, Engine, delete, update

from piwheels.db import targets
from piwheels.db.engine import in_transaction, make_engine
from piwheels.db.tables import builds, jobs, slaves
from piwheels.db.tables import targets as target_rows
from piwheels.master.targets import PRESETS
from tests.bench import queue_load
from tests.bench.harness import Bench, Goal, Result, Usage
from tests.bench.scale_load import Load, Told, loads

CLAIMERS, RECORDERS, PACED = 8, 2, 4
AHEAD, GROUP = 16, 32  #: jobs that dispatch takes at a time, and results that it commits at a time, when it is busy
CLAIM_P99, CLAIMS_A_SECOND = 0.005, 1000.0  #: targets, and those of the measures below
RECORD_P99, RECORDS_A_SECOND = 0.010, 1000.0
PLANNED_A_SECOND = 20_000.0  #: of one core
BUSIEST = "bookworm-armhf"  #: where most jobs wait
FIFTH = replace(
    PRESETS["trixie-arm64"],
    name="forky-arm64",
    python_version="3.14",
    abi="cp314",
    distribution="forky",
    rank=310,
)


@contextmanager
def engine_of(at: Bench) -> Iterator[Engine]:
    """For preparing and for clearing up."""
    engine = make_engine(at.settings.database, name="bench-scale")
    yield engine
    engine.dispose()


def builders_of(at: Bench, target: str, number: int) -> list[list[str]]:
    """Arguments that make so many processes builders of a target."""
    with at.connect() as conn:
        rows = conn.execute(
            "SELECT s.id FROM slaves s JOIN targets t ON t.id = s.target_id WHERE t.name = %s ORDER BY s.id LIMIT %s",
            [target, number],
        ).fetchall()
    return [["--target", target, "--slave", str(row[0])] for row in rows]


def id_of(at: Bench, target: str) -> int:
    """A target's."""
    with at.connect() as conn:
        return _count(conn, f"SELECT id FROM targets WHERE name = '{target}'")


def waiting(at: Bench, target_id: int) -> int:
    """How many jobs there are for it."""
    with at.connect() as conn:
        return _count(conn, f"SELECT count(*) FROM jobs WHERE target_id = {target_id}")


def settle(at: Bench) -> None:
    """Give back every lease, and leave the server as calm as it is between two busy hours."""
    with at.connect() as conn:
        conn.execute(
            "UPDATE jobs SET lease_token = NULL, lease_slave_id = NULL, lease_started = NULL, lease_expires = NULL"
            " WHERE lease_token IS NOT NULL"
        )
        conn.execute("VACUUM ANALYZE jobs")
        conn.execute("CHECKPOINT")


def size(at: Bench) -> str:
    """The farm in numbers."""
    with at.connect() as conn:
        found = {
            table: _count(conn, f"SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = '{table}'::regclass")
            for table in ("projects", "releases", "upstream_files", "builds", "files", "dependencies")
        }
        found["jobs"] = _count(conn, "SELECT count(*) FROM jobs")
        stored = _count(conn, "SELECT pg_database_size(current_database())")
    words = ", ".join(f"{_short(number)} {table.replace('_', ' ')}" for table, number in found.items())
    return f"{words}; {stored / 1e9:.2f} GB"


def _count(conn: psycopg.Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _short(number: int) -> str:
    for unit, word in ((1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{word}"
    return str(number)


def _usage(told: Told) -> Usage:
    return Usage(seconds=told.seconds, cpu=told.cpu, peak=told.peak)


def claim(at: Bench, *, count: int, claimers: int = CLAIMERS) -> Result:
    """Eight claimers of one target, so that they meet at the head of the same queue: at the rate that is wanted, and as
    fast as it goes, when they wait for cores."""
    settle(at)
    target_id = id_of(at, BUSIEST)
    each = max(min(count, waiting(at, target_id) // 4) // claimers, 1)
    call = partial(queue_load.claims, at.settings.database, target_id, claimers=claimers, each=each)
    begun, before = time.monotonic(), at.database_cpu()
    steady, fast = call(interval=claimers / CLAIMS_A_SECOND), call()
    ahead = call(each=max(each // AHEAD, 1), batch=AHEAD)
    used, cpu = _together(begun, (steady, fast, ahead)), at.database_cpu() - before
    settle(at)
    best = max(fast.rate, ahead.rate)
    return Result(
        "claim",
        f"{steady.done + fast.done + ahead.done} claims by {claimers} processes of one target",
        (f"at the rate wanted: {_timing(steady)}", f"one by one: {_timing(fast)}", f"{AHEAD} ahead: {_timing(ahead)}"),
        used,
        cpu,
        (
            Goal(f"p99 under {1000 * CLAIM_P99:g} ms at {CLAIMS_A_SECOND:.0f}/s", steady.quantile(0.99) < CLAIM_P99),
            Goal(f"{CLAIMS_A_SECOND:.0f}/s", best >= CLAIMS_A_SECOND),
        ),
    )


def record(at: Bench, *, count: int) -> Result:
    """Builds that succeeded, recorded with all that follows, plan and stale pages too: now and then one, and as fast as
    it goes, when dispatch commits many at a time."""
    settle(at)
    target_id = id_of(at, BUSIEST)
    count = min(count, waiting(at, target_id) // 3)
    call = partial(queue_load.records, at.settings.database, target_id)
    begun, before = time.monotonic(), at.database_cpu()
    single = call(recorders=1, each=max(count // 20, 1), interval=0.01)
    grouped = call(recorders=RECORDERS, each=max(count // RECORDERS // GROUP, 1), batch=GROUP)
    used, cpu = _together(begun, (single, grouped)), at.database_cpu() - before
    settle(at)
    return Result(
        "record",
        f"{single.done + grouped.done} builds of 2 files, 6 dependencies",
        (f"100 a second: {_timing(single)}", f"{RECORDERS} at a time, {GROUP} a commit: {_timing(grouped)}"),
        used,
        cpu,
        (
            Goal(f"p99 under {1000 * RECORD_P99:g} ms", single.quantile(0.99) < RECORD_P99),
            Goal(f"{RECORDS_A_SECOND:.0f}/s", grouped.rate >= RECORDS_A_SECOND),
        ),
    )


def _together(begun: float, timings: Sequence[queue_load.Timing]) -> Usage:
    return Usage(seconds=time.monotonic() - begun, cpu=sum(one.cpu for one in timings), peak=0)


def _timing(one: queue_load.Timing) -> str:
    marks = [f"p{100 * share:g} {1000 * one.quantile(share):.1f}" for share in (0.5, 0.99)]
    return f"{one.rate:.0f}/s, {', '.join(marks)}, most {1000 * one.quantile(1):.0f} ms"


def plan(at: Bench, *, seconds: float, rate: float, claimers: int = PACED) -> Result:
    """A fifth target is enabled; builders go on claiming at an ordinary rate while everything is planned for it."""
    settle(at)
    with engine_of(at) as engine:
        in_transaction(engine, lambda conn: targets.add(conn, FIFTH))
        try:
            alone = Load("claim", at.settings.database.url, _paced(at, claimers, rate, seconds=seconds / 6))
            with loads(alone):
                before_it = alone.end()
            planner = Load("plan", at.settings.database.url, [[f"--seconds={seconds}"]])
            meanwhile = Load("claim", at.settings.database.url, _paced(at, claimers, rate, seconds=seconds))
            before = at.database_cpu()
            with loads(planner, meanwhile):
                told = planner.end()
                meanwhile.stop()
                claimed = meanwhile.end()
            cpu = at.database_cpu() - before
        finally:
            in_transaction(engine, remove_fifth)
    settle(at)
    of_a_core = told.done / max(told.cpu, 1e-9)
    both = told.done / max(told.cpu + cpu, 1e-9)
    return Result(
        "plan",
        f"{told.done} releases for a fifth target, {rate:.0f} claims/s meanwhile",
        (
            f"{told.rate:.0f} releases/s; {of_a_core:.0f} a second of the planner's CPU, {both:.0f} of all CPU",
            f"a batch: {told.words}",
            f"a claim meanwhile: {claimed.words}",
            f"a claim before: {before_it.words}",
        ),
        _usage(told),
        cpu,
        (
            Goal(f"{PLANNED_A_SECOND:.0f}/s of a core", told.rate >= PLANNED_A_SECOND),
            Goal(f"claims' p99 under {1000 * CLAIM_P99:g} ms", claimed.percentile(99) < CLAIM_P99),
        ),
    )


def remove_fifth(conn: Connection) -> None:
    """Undo what enabling it did."""
    row = conn.execute(target_rows.select().where(target_rows.c.name == FIFTH.name)).one_or_none()
    if row is not None:
        conn.execute(delete(jobs).where(jobs.c.target_id == row.id))
        conn.execute(delete(builds).where(builds.c.target_id == row.id))
        conn.execute(update(slaves).where(slaves.c.target_id == row.id).values(target_id=None))
        conn.execute(delete(target_rows).where(target_rows.c.id == row.id))


def _paced(at: Bench, claimers: int, rate: float, *, seconds: float) -> list[list[str]]:
    """Arguments of builders that claim so often together."""
    each = builders_of(at, BUSIEST, claimers)
    return [[*words, f"--seconds={seconds}", f"--rate={rate / claimers}"] for words in each]
