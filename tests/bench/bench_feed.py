# SPDX-License-Identifier: BSD-3-Clause
"""The feed role over a journal backlog of 200 000 events of 50 000 projects, from a PyPI that answers at once.

Nothing of the feed is replaced: it is the role as ``piw-master feed`` runs it, told of the simulator's address.
"""

import time
from contextlib import closing

import psycopg
from sqlalchemy import Connection

from piwheels.db import targets
from piwheels.db.engine import in_transaction, make_engine
from piwheels.master.targets import PRESETS
from tests.bench.harness import LONGEST, MB, Bench, Goal, Measured, Result, Usage, server
from tests.simulator.bulk_pages import BASE
from tests.waiting import wait_for

PROJECTS, EVENTS = 50_000, 200_000
PROJECTS_A_SECOND, MEMORY = 1000.0, 300 * MB  #: targets


def bench(at: Bench) -> Result:
    """Run it."""
    projects, events = at.scaled(PROJECTS), at.scaled(EVENTS)
    _prepare(at)
    flags = ("--projects", str(projects), "--events", str(events))
    with server("tests.simulator.bulk", *flags) as (address, upstream):
        feed = ("feed.source=journal", "feed.poll=1", "feed.reconcile=0", f"upstream.simple_url={address}")
        at.overrides += feed
        database_cpu = at.database_cpu()
        seconds, usage = _follow(at, BASE + events)
        database_cpu = at.database_cpu() - database_cpu
        times = upstream.cpu_times()
    with at.connect() as connection:
        _check(connection, projects)
    return Result(
        "feed",
        f"{events} events of {projects} projects",
        (
            f"{events / seconds:.0f} events/s, {projects / seconds:.0f} projects/s, in {seconds:.1f} s",
            f"{usage.cpu / projects * 1e6:.0f} µs of the feed's CPU a project",
            f"the simulator used {times.user + times.system:.1f} s",
        ),
        usage,
        database_cpu,
        (
            Goal(f"{PROJECTS_A_SECOND:.0f} projects/s", projects / seconds >= PROJECTS_A_SECOND),
            Goal(f"under {MEMORY / MB:.0f} MB", usage.peak < MEMORY),
        ),
    )


def _prepare(at: Bench) -> None:
    """A farm that has followed the journal up to its backlog, and builds for the usual targets."""

    def add_targets(conn: Connection) -> None:
        for target in PRESETS.values():
            targets.add(conn, target)

    engine = make_engine(at.settings.database, name="bench")
    in_transaction(engine, add_targets)
    engine.dispose()
    at.fill("feeds", ("name", "serial"), [("upstream", BASE)])


def _follow(at: Bench, last: int) -> tuple[float, Usage]:
    """Run the role until everything up to the serial is applied; seconds from its start, and what it took."""
    begun = time.monotonic()
    with Measured(at, "piwheels.master.cli", "feed", *at.arguments()) as feed, closing(at.connect()) as connection:
        wait_for(lambda: not feed.running or _is_done(connection, last), "the backlog to be applied", seconds=LONGEST)
        seconds = time.monotonic() - begun
        if not feed.running:
            raise RuntimeError(f"the feed role ended by itself: {feed.said()}")
        feed.stop()
        return seconds, feed.usage()


def _is_done(connection: psycopg.Connection, last: int) -> bool:
    """Cheap, since it is asked twenty times a second."""
    query = "SELECT serial >= %s AND NOT EXISTS (SELECT FROM changes) FROM feeds WHERE name = 'upstream'"
    return connection.execute(query, [last]).fetchone() == (True,)


def _check(connection: psycopg.Connection, projects: int) -> None:
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE serial > %s), (SELECT count(*) FROM documents),"
        " (SELECT count(*) FROM jobs) FROM projects",
        [BASE],
    ).fetchone()
    assert row is not None
    if row[:3] != (projects,) * 3 or not row[3]:
        raise RuntimeError(f"of {projects} projects these are applied, up to date, kept, and have jobs: {row}")
