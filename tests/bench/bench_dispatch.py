# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch, as a process of its own, under builders that are played: how many, how fast, how soon.

Builders are in another process on the same two cores, as those were with which the existing master was measured. What
the figures are compared with is in ``OLD``: that master, on such a machine.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import zmq

from piwheels.db import targets
from piwheels.db.engine import in_transaction
from piwheels.db.pages import mark_all_stale
from piwheels.vocabulary import PageKind
from piwheels.wire import keys as wire_keys
from piwheels.wire.gate import Gate
from piwheels.wire.plain import MOST, address_key
from piwheels.wire.sockets import file_dealer, file_router
from tests.bench import dispatch_rows
from tests.bench.dispatch_builders import source
from tests.bench.dispatch_site import Load, Site, Told, dispatch, is_noted, role
from tests.bench.harness import MB, Bench, Goal, Result, Usage
from tests.bench.scale_database import say
from tests.bench.scale_load import Load as Plan
from tests.bench.scale_load import loads
from tests.bench.scale_measures import FIFTH, engine_of

MANY = (1, 10, 100, 500, 2000)  #: builders
SECONDS, SHORT = 4.0, 2.5  #: of a closed loop: with builds, and without
PROJECTS = 125_000
WHEEL, BIG = 100_000, 200_000_000  #: bytes
#: What the existing master did on two cores: failed builds' requests a second, wheels a second, by number of builders.
OLD_REQUESTS = {10: 2732, 100: 2506, 500: 2532, 2000: 2532}
OLD_BUILDS = {10: 205, 100: 233, 500: 201, 2000: 201}
OLD_MB = {1: 328, 10: 306}
REQUESTS_BETTER, BUILDS_BETTER, MB_BETTER = 5, 3, 2
KEYED_MB = 250.0
REPLY_P99, MEANWHILE_P99 = 20.0, 50.0  #: milliseconds: at a fleet's rhythm; while big wheels come in
RATE = 20.0  #: builds a second of a fleet
FLEET = 20.0  #: seconds
OTHERS = 100  #: builders that say BUSY while big wheels come in


@dataclass(slots=True)
class Book:
    """What was found."""

    at: Bench
    figures: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def note(self, figure: str) -> None:
        """A line."""
        self.figures.append(figure)
        say(figure)

    def want(self, words: str, met: bool) -> None:
        """A target."""
        self.goals.append(Goal(words, met))


def bench(at: Bench) -> Result:
    """Run it."""
    begun, database = time.monotonic(), at.database_cpu()
    (at.folder / "keys").mkdir(mode=0o700)
    at.overrides += ["dispatch.min_free=0"]
    many = (10,) if at.small else MANY
    keys = [wire_keys.make() for _ in range(max(many) + 3 * OTHERS)]
    addresses = {address_key(source(number * MOST)) or "" for number in range(max(many) // MOST + 40)}
    dispatch_rows.prepare(at, projects=at.scaled(PROJECTS), keys=[*(pair.public for pair in keys), *sorted(addresses)])
    book = Book(at)
    cpu, peak = 0.0, 0
    for plain in (True, False):
        with dispatch(at, keys, plain=plain) as site:
            alone = site.resident()
            with site.load() as load:
                for count in many:
                    closed(book, site, load, count, begun_at=alone)
                if not plain:
                    fleet(book, site, load, max(many))
        with dispatch(at, keys, plain=plain) as site:
            big(book, site)
            times = site.process.cpu_times()
            cpu += times.user + times.system
            peak = max(peak, site.resident())
    beside(book)
    return Result(
        "dispatch",
        f"{', '.join(map(str, many))} builders",
        book.figures,
        Usage(time.monotonic() - begun, cpu, peak),
        at.database_cpu() - database,
        book.goals,
    )


# Closed loops


def closed(book: Book, site: Site, load: Load, count: int, *, begun_at: int) -> None:
    """So many builders, each of which asks again as soon as it is answered."""
    how = f"{count} {'plain' if site.plain else 'keyed'}"
    small = book.at.small
    greeted = load.run("greet", count=count)
    book.note(f"{how}: HELLO {greeted.asked_a_second:.0f}/s, {greeted.each(greeted.asked)} each")
    if count == max(MANY):
        each = (site.resident() - begun_at) / count
        book.note(f"{how}: {site.resident() / MB:.0f} MB of memory when all are idle, {each / 1000:.1f} kB each")
    busy = load.run("work", kind="busy", count=count, seconds=0.3 if small else SHORT)
    _line(book, f"{how}, BUSY only", busy, busy.asked)
    if count == 500:
        _line(book, f"{how}, IDLE only", idle := load.run("work", kind="idle", count=count, seconds=SHORT), idle.asked)
    failed = load.run("work", kind="failed", count=count, seconds=0.3 if small else SECONDS)
    _line(book, f"{how}, failed builds", failed, failed.built)
    wheel = load.run("work", kind="wheel", count=count, seconds=0.3 if small else SECONDS, size=WHEEL)
    _line(book, f"{how}, 100 kB wheels", wheel, wheel.built)
    if count in OLD_REQUESTS:
        wanted = REQUESTS_BETTER * OLD_REQUESTS[count]
        book.want(f"{how}, BUSY only: {wanted} requests/s", busy.asked_a_second >= wanted)
        book.want(f"{how}, failed builds: {wanted} requests/s", failed.asked_a_second >= wanted)
        wanted = BUILDS_BETTER * OLD_BUILDS[count]
        book.want(f"{how}, wheels: {wanted} builds/s", wheel.built_a_second >= wanted)


def _line(book: Book, what: str, told: Told, number: int) -> None:
    rate = f"{told.asked_a_second:.0f} requests/s"
    if told.built:
        rate += f", {told.built_a_second:.0f} builds/s"
    book.note(f"{what}: {rate}; ms p50/p99: {told.latencies}")
    book.note(f"    CPU each: {told.each(number)}; {told.cores}")


# A fleet at its own rhythm


def fleet(book: Book, site: Site, load: Load, count: int) -> None:
    """Builders that say BUSY every five to ten seconds; alone, and with the master's other work beside it."""
    small = book.at.small
    facts: dict[str, Any] = {"count": count, "seconds": 1.0 if small else FLEET, "rate": RATE, "size": WHEEL}
    if small:
        facts["every"] = (0.2, 0.4)
    for what in ("alone", "beside pages, statistics and a plan"):
        with ExitStack() as stack:
            if what != "alone":
                stack.enter_context(_other_work(book.at))
            told = load.run("fleet", **facts)
        book.note(
            f"fleet of {count}, {what}: {told.asked_a_second:.0f} requests/s, {told.built_a_second:.1f} builds/s; "
            f"ms p50/p99: {told.latencies}"
        )
        book.note(f"    {told.cores}")
        names = [name for name in told.took if name != "file"]
        book.want(f"fleet of {count}, {what}: p99 under {REPLY_P99:g} ms", told.p99(*names) < REPLY_P99)


@contextmanager
def _other_work(at: Bench) -> Iterator[None]:
    """Pages being written, statistics, and a plan of every release for another target."""
    with engine_of(at) as engine, ExitStack() as stack:
        names = [dispatch_rows.project(number) for number in range(1, 2001)]
        in_transaction(engine, lambda conn: mark_all_stale(conn, PageKind.PROJECT, names, "for the benchmark"))
        for name in ("publish", "stats"):
            words = ("--set", "stats.interval=1") if name == "stats" else ()
            stack.enter_context(role(at, name, *words, ready=lambda pid: is_noted(at, pid)))
        in_transaction(engine, lambda conn: targets.add(conn, FIFTH))
        plan = Plan("plan", at.settings.database.url, [["--seconds=300"]])
        stack.enter_context(loads(plan))
        yield
        plan.stop()
        plan.end()


# Big wheels


def big(book: Book, site: Site) -> None:
    """Wheels of 200 MB, from one builder and from ten, while a hundred others say BUSY."""
    small = book.at.small
    size = BIG // 50 if small else BIG
    # Nobody says BYE here, and an address has room for 16 builders: so others come next time.
    for first, count, each in ((0, 1, 3), (10 * MOST, 10, 1)):
        how = f"{count} {'plain' if site.plain else 'keyed'}"
        with site.load(first=first) as load, site.load(first=first + MOST) as others:
            load.run("greet", count=count)
            others.run("greet", count=OTHERS)
            others.begin("fleet", count=OTHERS, seconds=0.5 if small else 4.0, rate=0, size=0, every=(0.3, 0.6))
            told = load.run("deliver", count=count, each=each, size=size)
            meanwhile = others.end()
        rate = told.bytes / told.seconds / MB
        busy = meanwhile["took"]["BUSY"]
        book.note(
            f"{how}, wheels of {size / MB:.0f} MB: {rate:.0f} MB/s; it took {told.took['file'][1]:.0f} ms, its check "
            f"{told.took['SENT'][1]:.0f} ms; BUSY of others {busy[1]:.1f}/{busy[2]:.1f} ms"
        )
        book.note(f"    CPU for each MB: {told.each(told.bytes // 1_000_000)}; {told.cores}")
        wanted = MB_BETTER * OLD_MB[count] if site.plain else KEYED_MB
        book.want(f"{how}, {size / MB:.0f} MB wheels: {wanted:.0f} MB/s", rate >= wanted)
        book.want(f"{how}, {size / MB:.0f} MB wheels: others' p99 under {MEANWHILE_P99:g} ms", busy[2] < MEANWHILE_P99)
        shutil.rmtree(book.at.settings.paths.store, ignore_errors=True)
        book.at.settings.paths.store.mkdir()
        (book.at.settings.paths.store / "incoming").mkdir()


def beside(book: Book) -> None:
    """What hash, disk and cipher do by themselves here, one thread each."""
    data = os.urandom(1_000_000)
    rates = [
        ("SHA-256", _rate(lambda: hashlib.sha256(data).digest(), len(data))),
        ("disk, written and synced", _disk(book.at, data)),
        ("CurveZMQ over loopback", _cipher()),
    ]
    book.note("by themselves: " + ", ".join(f"{name} {rate:.0f} MB/s" for name, rate in rates))


def _rate(call: Any, size: int, *, seconds: float = 0.5) -> float:
    begun, times = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        call()
        times += 1
    return times * size / (time.perf_counter() - begun) / MB


def _disk(at: Bench, data: bytes) -> float:
    path = at.folder / "disk"
    begun = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(200):
            file.write(data)
        os.fsync(file.fileno())
    took = time.perf_counter() - begun
    path.unlink()
    return 200 * len(data) / took / MB


def _cipher() -> float:
    """A DEALER to a ROUTER, with our own socket options, and nothing else."""
    master, builder = wire_keys.make(), wire_keys.make()
    context: zmq.Context[Any] = zmq.Context(2)
    gate = Gate(context, [builder.public])
    gate.start()
    try:
        router = file_router(context, "tcp://127.0.0.1:*", master)
        address = router.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        dealer = file_dealer(context, address, server_key=master.public, keys=builder)
        chunk = [b"CHUNK", b"0", os.urandom(256 * 1024)]
        for socket in (dealer, router):
            socket.setsockopt(zmq.SNDTIMEO, 5000)
        dealer.send_multipart(chunk)
        router.recv_multipart()

        def once() -> None:
            for _ in range(8):
                dealer.send_multipart(chunk)
            for _ in range(8):
                router.recv_multipart(copy=False)

        return _rate(once, 8 * len(chunk[2]), seconds=1.0)
    finally:
        gate.stop()
        context.destroy(linger=0)
