# SPDX-License-Identifier: BSD-3-Clause
"""The publish role: projects a second by two workers, from nothing, changed and unchanged; one with 5 000 files; the
listing of 800 000 names; and how long a change takes to its page while everything is rendered again.

The measured processes do what the role does (:class:`piwheels.master.publish.Publisher`), until nothing is left.
"""

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg

from piwheels.db import pages
from piwheels.db.engine import in_transaction
from piwheels.master.publish import Publisher, spare_the_collector
from piwheels.master.role import Context
from piwheels.settings import load
from piwheels.vocabulary import PageKind, Role
from tests.bench import publish_rows
from tests.bench.harness import MB, Bench, Goal, Measured, Result, Usage, run
from tests.bench.scale_measures import engine_of

PROJECTS, WORKERS, NAMES, EVENTS = 20_000, 2, 800_000, 100
RENDERED, SKIPPED = 500.0, 5_000.0  #: projects a second; targets, and those that follow
HUGE_SECONDS, HUGE_BYTES = 0.3, 1 * MB
LISTING_MEMORY = 300 * MB
EVENT_P95 = 5.0  #: seconds
GAP = 0.05  #: seconds between two events


@dataclass(slots=True)
class Book:
    """What was found."""

    at: Bench
    figures: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    cpu: float = 0.0
    peak: int = 0


def bench(at: Bench) -> Result:
    """Run it."""
    begun, before = time.monotonic(), at.database_cpu()
    book = Book(at)
    projects = at.scaled(PROJECTS)
    publish_rows.prepare(at)
    publish_rows.add(at, first=1, count=projects, sizes=publish_rows.MIXED)
    _mixed(book, projects)
    _events(book, projects)
    _huge(book, projects + 1)
    _listing(book)
    return Result(
        "publish",
        f"{projects} projects",
        book.figures,
        Usage(time.monotonic() - begun, book.cpu, book.peak),
        at.database_cpu() - before,
        book.goals,
    )


# Many projects


def _mixed(book: Book, projects: int) -> None:
    every = f"name <= '{publish_rows.name(projects)}'"
    _mark(book.at, every)
    _work(book, "from nothing", projects)
    with book.at.connect() as conn:
        conn.execute(f"UPDATE projects SET summary = summary || '!', serial = serial + 1 WHERE {every}".encode())
        conn.execute("VACUUM ANALYZE")
    _mark(book.at, every)
    rate = _work(book, "changed", projects)
    book.goals.append(Goal(f"changed: {RENDERED:g} projects/s", rate >= RENDERED))
    _mark(book.at, every)
    rate = _work(book, "unchanged", projects)
    book.goals.append(Goal(f"unchanged: {SKIPPED:g} projects/s", rate >= SKIPPED))


def _mark(at: Bench, which: str) -> None:
    with at.connect() as conn:
        conn.execute(
            f"INSERT INTO pages (kind, key) SELECT 'project', name FROM projects WHERE {which}"
            " ON CONFLICT (kind, key) DO UPDATE SET seq = pages.seq + 1".encode()
        )
        conn.execute("VACUUM ANALYZE pages")


def _work(book: Book, what: str, projects: int) -> float:
    """Have workers publish what is stale; projects a second."""
    at = book.at
    before, begun = at.database_cpu(), time.monotonic()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Measured(at, __name__, "work", str(index), *at.overrides))
            for index in range(1, WORKERS + 1)
        ]
        told = [worker.usage() for worker in workers]
    database = at.database_cpu() - before
    seconds, cpu = time.monotonic() - begun, sum(one.cpu for one in told)
    work = max(json.loads(one.output)["seconds"] for one in told)
    if failed := sum(json.loads(one.output)["failed"] for one in told):
        raise RuntimeError(f"{failed} pages could not be rendered")
    rate = projects / work
    book.figures.append(
        f"{what}: {rate:.0f} projects/s; CPU each {1e6 * cpu / projects:.0f} µs, "
        f"PostgreSQL {1e6 * database / projects:.0f} µs: on two free cores {2 * projects / (cpu + database):.0f}/s"
    )
    book.cpu, book.peak = book.cpu + cpu, max(book.peak, *(one.peak for one in told))
    if seconds < work:
        raise RuntimeError("a worker's clock is wrong")
    return rate


# From an event to the page


def _events(book: Book, projects: int) -> None:
    at = book.at
    events = max(at.scaled(EVENTS), 5)
    # Something is to be done meanwhile: everybody's page changes, with the farm's name.
    other = [*at.overrides, "farm.name=Another name"]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Measured(at, __name__, "serve", str(index), *other)) for index in range(1, WORKERS + 1)
        ]
        _wait_for_start(at)
        took = [_event(at, publish_rows.name(1 + number * 7 % projects), number) for number in range(events)]
        with at.connect() as conn:
            row = conn.execute("SELECT count(*) FROM pages WHERE background").fetchone()
        for worker in workers:
            worker.stop()
        for worker in workers:
            book.cpu += worker.usage().cpu
    with at.connect() as conn:
        conn.execute("DELETE FROM pages")
    took.sort()
    p95 = took[int(len(took) * 0.95)]
    left = row[0] if row else 0
    book.figures.append(
        f"event to page, {left} others waiting at the end: p50 {statistics.median(took) * 1000:.0f} ms, "
        f"p95 {p95 * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms"
    )
    book.goals.append(Goal(f"event to page: p95 under {EVENT_P95:g} s", p95 < EVENT_P95))


def _wait_for_start(at: Bench) -> None:
    """Wait until the workers have marked everything for its new look, and write."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with at.connect() as conn:
            if conn.execute("SELECT 1 FROM pages WHERE background AND claimed_by IS NOT NULL").fetchone():
                return
        time.sleep(0.01)
    raise RuntimeError("the workers did not begin")


def _event(at: Bench, name: str, number: int) -> float:
    """Change a project as the feed does, and wait for its page; seconds."""
    serial = 10_000_000 + number
    begun = time.monotonic()
    with engine_of(at) as engine, at.connect() as conn:
        conn.execute("UPDATE projects SET serial = %s WHERE name = %s", [serial, name])
        in_transaction(engine, lambda c: pages.mark_stale(c, PageKind.PROJECT, name, "for the benchmark"))
    page = at.settings.paths.output / "simple" / name / "index.v1_json"
    wanted = f'"_last-serial":{serial}'.encode()
    while wanted not in page.read_bytes():
        if time.monotonic() > begun + 60:
            raise RuntimeError(f"{name} was not published within a minute")
        time.sleep(0.005)
    took = time.monotonic() - begun
    time.sleep(GAP)
    return took


# One large project


def _huge(book: Book, number: int) -> None:
    at = book.at
    size = publish_rows.HUGE[0]
    if at.small:
        size = publish_rows.Size(100, size.releases // 25, size.files // 25)
    publish_rows.add(at, first=number, count=1, sizes=[size], everywhere=True)
    usage = run(at, __name__, "huge", publish_rows.name(number), *at.overrides)
    told = json.loads(usage.output)
    book.cpu, book.peak = book.cpu + usage.cpu, max(book.peak, usage.peak)
    page = at.settings.paths.output / "project" / publish_rows.name(number) / "index.html"
    length = page.stat().st_size
    book.figures.append(
        f"a project of {size.files * 4} files: first {told['first'] * 1000:.0f} ms, "
        f"changed {told['changed'] * 1000:.0f} ms (CPU {told['changed cpu'] * 1000:.0f} ms), "
        f"unchanged {told['unchanged'] * 1000:.0f} ms; its page {length / 1000:.0f} kB; {usage.peak / MB:.0f} MB"
    )
    book.goals.append(Goal(f"5 000 files: under {HUGE_SECONDS * 1000:g} ms", told["changed"] < HUGE_SECONDS))
    book.goals.append(Goal(f"5 000 files: page under {HUGE_BYTES / MB:g} MB", length < HUGE_BYTES))


# The listing


def _listing(book: Book) -> None:
    at = book.at
    names = at.scaled(NAMES)
    with at.connect() as conn:
        conn.execute("DELETE FROM listed")
    at.fill("listed", ("name", "space"), ((f"project-{n:06d}-{n * 7919 % 100003}", "") for n in range(names)))
    before = at.database_cpu()
    usage = run(at, __name__, "root", *at.overrides)
    told = json.loads(usage.output)
    book.cpu, book.peak = book.cpu + usage.cpu, max(book.peak, usage.peak)
    folder = at.settings.paths.output / "simple"
    found = {path.name: path.stat().st_size for path in sorted(folder.glob("index.*"))}
    if len(json.loads((folder / "index.v1_json").read_bytes())["projects"]) != names:
        raise RuntimeError("the listing is not whole")
    book.figures.append(
        f"listing of {names} names: {told['first']:.2f} s, again unchanged {told['unchanged']:.2f} s; CPU "
        f"{usage.cpu:.2f} s, PostgreSQL {at.database_cpu() - before:.2f} s; {usage.peak / MB:.0f} MB of memory"
    )
    book.figures.append("    " + ", ".join(f"{name} {size / MB:.2f} MB" for name, size in found.items()))
    book.goals.append(Goal(f"listing: under {LISTING_MEMORY / MB:g} MB", usage.peak < LISTING_MEMORY))


# The measured processes


def main(arguments: Sequence[str]) -> int:
    """``work`` or ``serve`` and a worker's number, ``huge`` and a name, or ``root``; then settings."""
    what, *rest = arguments
    print(json.dumps({"work": _until_done, "serve": _until_stopped, "huge": _one_page, "root": _root}[what](rest)))
    return 0


def _publisher(index: int, overrides: Sequence[str]) -> Publisher:
    settings = load(None, overrides=overrides)
    kinds = frozenset((PageKind.PROJECT, PageKind.ROOT))
    return Publisher(settings, Context(Role.PUBLISH, settings, index=index), kinds=kinds)


def _until_done(arguments: Sequence[str]) -> dict[str, Any]:
    publisher = _publisher(int(arguments[0]), arguments[1:])
    publisher.start()
    spare_the_collector()
    begun = time.monotonic()
    last = begun
    with psycopg.connect(publisher.context.settings.database.url, autocommit=True) as conn:
        while publisher.step() or conn.execute("SELECT 1 FROM pages WHERE kind = 'project' LIMIT 1").fetchone():
            last = time.monotonic()
    return {"seconds": last - begun, "rendered": publisher.counts.rendered, "failed": publisher.counts.failed}


def _until_stopped(arguments: Sequence[str]) -> dict[str, Any]:
    from piwheels.master import publish
    from piwheels.master.role import run_role

    settings = load(None, overrides=arguments[1:])
    run_role(Role.PUBLISH, settings, publish.run, index=int(arguments[0]))
    return {}


def _one_page(arguments: Sequence[str]) -> dict[str, Any]:
    name, overrides = arguments[0], arguments[1:]
    publisher = _publisher(1, overrides)
    found: dict[str, Any] = {}
    change = "UPDATE projects SET summary = summary || '!', serial = serial + 1 WHERE name = %s"
    for what in ("first", "changed", "unchanged"):
        with psycopg.connect(publisher.context.settings.database.url) as conn:
            if what == "changed":
                conn.execute(change, [name])
            conn.execute("DELETE FROM pages")
            conn.execute("INSERT INTO pages (kind, key) VALUES ('project', %s)", [name])
        begun, cpu = time.perf_counter(), time.process_time()
        while not publisher.step():
            pass
        found[what], found[f"{what} cpu"] = time.perf_counter() - begun, time.process_time() - cpu
    return found


def _root(arguments: Sequence[str]) -> dict[str, Any]:
    publisher = _publisher(1, arguments)
    engine = publisher.context.engine
    found = {}
    for what in ("first", "unchanged"):
        in_transaction(engine, lambda conn: pages.mark_stale(conn, PageKind.ROOT, "", "for the benchmark"))
        in_transaction(engine, lambda conn: pages.rest(conn, "", seconds=-1.0))
        begun = time.perf_counter()
        while not publisher.step():
            pass
        found[what] = time.perf_counter() - begun
    return found
