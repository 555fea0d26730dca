# SPDX-License-Identifier: BSD-3-Clause
"""The master's own processes on a big farm: how soon a new release is a builder's, and how much memory they use.

The processes are those that ``piw-master`` runs; builders are the tests' ones, over real sockets.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import zmq
from sqlalchemy import Connection, Engine, delete, select, update

from piwheels.db import slaves, targets, upstream
from piwheels.db.engine import in_transaction
from piwheels.db.pages import mark_all_stale
from piwheels.db.tables import builds, jobs, pages, projects, releases, upstream_files
from piwheels.db.tables import slaves as slave_rows
from piwheels.db.tables import targets as target_rows
from piwheels.master.planner import Policy
from piwheels.master.targets import Target
from piwheels.pypi.model import UpstreamFile, UpstreamProject, UpstreamRelease
from piwheels.vocabulary import FailureReason, PageKind, UpstreamKind
from piwheels.wire import keys
from piwheels.wire import messages as m
from tests.bench.harness import MB, ROOT, Bench, Goal, Result, Usage, server
from tests.bench.scale_load import Load, Told, loads
from tests.bench.scale_measures import BUSIEST, FIFTH, builders_of, engine_of, remove_fifth, settle
from tests.e2e.running import clean_environ, free_port
from tests.integration.builder import Address, Builder
from tests.waiting import wait_for

OFFER_P99 = 1.0  #: seconds; a target, as are those of scale_measures
#: The target of a builder that has nothing to do: the oldest, so that a new release's probe is its.
WAITING = Target("scale-waiting", "3.11", "cp311", "linux_riscv64", ("linux_riscv64",), "waiting", rank=1)
IDLE_EVERY = 0.02  #: seconds between two questions of the waiting builder; a real one asks every seven
NEW_VERSION = "99.0"
STARTED = 120.0  #: seconds that the master may take to start
STALE = 200  #: pages to render while memory is looked at
CLAIMS_A_SECOND = 20.0  #: meanwhile


@dataclass
class Posed(Builder):
    """A builder of any target."""

    target: Target = WAITING

    def hello_message(self, **values: Any) -> m.Hello:
        return replace(
            super().hello_message(**values),
            py_version=self.target.python_version.replace(".", ""),
            abi=self.target.abi,
            platform=self.target.platform,
            os_name="debian",
            os_version=self.target.distribution,
        )


# The master


@contextmanager
def master(at: Bench, *roles: str, settings: Sequence[str] = ()) -> Iterator[tuple[Address, psutil.Process]]:
    """piw-master with these roles, and where its builders connect."""
    key = keys.load_or_make(at.settings.paths.keys / "master.key")
    address = Address(f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}", key.public)
    given = [*at.overrides, f"dispatch.builders={address.builders}", f"dispatch.files={address.files}", *settings]
    words = [word for one in given for word in ("--set", one)]
    command = [sys.executable, "-m", "piwheels.farm_children", str(os.getpid()), "piwheels.master.cli"]
    before = time.time()
    with (at.folder / "master.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *words, "--roles", ",".join(roles)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environ(),
        )
    try:
        with at.connect() as conn:
            query = "SELECT count(*) FROM roles WHERE started_at > to_timestamp(%s) AND name = ANY (%s)"
            whole = len(roles)
            wait_for(
                lambda: conn.execute(query, [before - 1, list(roles)]).fetchone() == (whole,),
                "the master to start",
                seconds=STARTED,
            )
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


# A new release


def offer(at: Bench, *, count: int) -> Result:
    """New releases of known projects, applied as the feed applies them; until a builder that waits has its order."""
    settle(at)
    with engine_of(at) as engine, ExitStack() as stack:
        key = keys.make()
        in_transaction(engine, lambda conn: _enrol(conn, key.public))
        stack.callback(in_transaction, engine, _forget_waiting)
        names = in_transaction(engine, lambda conn: _some_projects(conn, count))
        stack.callback(in_transaction, engine, lambda conn: _forget_new(conn, names))
        address, process = stack.enter_context(master(at, "dispatch"))
        context: zmq.Context[Any] = zmq.Context()
        stack.callback(context.destroy, linger=0)
        builder = Posed(address, key, context)
        stack.callback(builder.close)
        builder.connect().hello()
        claimers = Load("claim", at.settings.database.url, _pace(at, rate=CLAIMS_A_SECOND))
        before, cpu = at.database_cpu(), _cpu(process)
        begun = time.monotonic()
        with loads(claimers):
            took = sorted(_offered(engine, builder, name) for name in names)
        used = Usage(time.monotonic() - begun, _cpu(process) - cpu, _peak(process))
        cpu = at.database_cpu() - before
    settle(at)
    told = Told(len(took), took, used.seconds, used.cpu, used.peak)
    return Result(
        "new release",
        f"{count} new releases of known projects, {CLAIMS_A_SECOND:.0f} claims/s meanwhile",
        (told.words, f"of that up to {1000 * IDLE_EVERY:.0f} ms are the builder's own rest"),
        used,
        cpu,
        (Goal(f"offered within {OFFER_P99:g} s, p99", told.percentile(99) < OFFER_P99),),
    )


def _pace(at: Bench, *, rate: float) -> list[list[str]]:
    return [[*words, f"--rate={rate}"] for words in builders_of(at, BUSIEST, 1)]


def _enrol(conn: Connection, key: str) -> None:
    targets.add(conn, WAITING)
    slaves.enrol(conn, key, label="scale-waiting")


def _forget_waiting(conn: Connection) -> None:
    """The target and what was built for it; its builder is let in no longer."""
    row = conn.execute(select(target_rows.c.id).where(target_rows.c.name == WAITING.name)).scalar_one_or_none()
    if row is not None:
        conn.execute(delete(jobs).where(jobs.c.target_id == row))
        conn.execute(delete(builds).where(builds.c.target_id == row))
        # Its row stays, disabled: builds that it lost in an earlier run may be of another target.
        mine = update(slave_rows).where(slave_rows.c.label == "scale-waiting")
        conn.execute(mine.values(enabled=False, label="scale-waited"))
        conn.execute(update(slave_rows).where(slave_rows.c.target_id == row).values(target_id=None))
        conn.execute(delete(target_rows).where(target_rows.c.id == row))


def _some_projects(conn: Connection, count: int) -> list[str]:
    """Projects of which PyPI has sdists alone, spread over the whole table."""
    query = "SELECT name FROM scale.projects WHERE kind IN ('pure', 'failing') ORDER BY md5(name) LIMIT %s"
    return [row[0] for row in conn.exec_driver_sql(query, (count,))]


def _forget_new(conn: Connection, names: Sequence[str]) -> None:
    mine = select(projects.c.id).where(projects.c.name.in_(names))
    conn.execute(delete(releases).where(releases.c.project_id.in_(mine), releases.c.version == NEW_VERSION))
    conn.execute(delete(pages).where(pages.c.key.in_(names)))


def _offered(engine: Engine, builder: Posed, name: str) -> float:
    """Seconds from before the transaction that applies a new release, to its order in the builder's hands."""
    project = in_transaction(engine, lambda conn: _as_upstream(conn, name))
    begun = time.monotonic()
    in_transaction(engine, lambda conn: upstream.sync_project(conn, project, every=True, policy=Policy()))
    while not isinstance(answer := builder.idle(), m.Build):
        if time.monotonic() - begun > 60:
            raise RuntimeError(f"the new release of {name} was not offered within a minute")
        time.sleep(IDLE_EVERY)
    took = time.monotonic() - begun
    if answer.version != NEW_VERSION:
        raise RuntimeError(f"{answer.package} {answer.version} was offered, which is not new")
    builder.fail(answer, FailureReason.PACKAGE)
    return took


def _as_upstream(conn: Connection, name: str) -> UpstreamProject:
    """A project as PyPI has it, with one release more."""
    row = conn.execute(select(projects).where(projects.c.name == name)).one()
    query = (
        select(upstream_files, releases.c.version)
        .join(releases, releases.c.id == upstream_files.c.release_id)
        .where(releases.c.project_id == row.id)
    )
    files: dict[str, list[UpstreamFile]] = {}
    for file in conn.execute(query):
        files.setdefault(file.version, []).append(
            UpstreamFile(
                filename=file.filename,
                kind=file.kind,
                size=file.size,
                sha256=file.sha256,
                url=file.url,
                requires_python=file.requires_python,
                yanked=file.yanked,
                yanked_reason="",
                uploaded=file.uploaded,
            )
        )
    files[NEW_VERSION] = [_new_sdist(name)]
    found = tuple(UpstreamRelease(version, tuple(those)) for version, those in files.items())
    return UpstreamProject(name, row.display_name, row.summary, row.serial + 1, found)


def _new_sdist(name: str) -> UpstreamFile:
    filename = f"{name.replace('-', '_')}-{NEW_VERSION}.tar.gz"
    digest = sha256(filename.encode()).digest()
    url = f"https://files.example/packages/{filename}"
    return UpstreamFile(filename, UpstreamKind.SDIST, 1000, digest, url, None, False, "", datetime.now(UTC))


# Memory


def memory(at: Bench, *, seconds: float) -> Result:
    """All roles at their ordinary work, with a fifth target to plan for: the most memory that each had."""
    settle(at)
    roles = ("feed", "dispatch", "publish", "stats", "control")
    with engine_of(at) as engine, ExitStack() as stack:
        in_transaction(engine, lambda conn: targets.add(conn, FIFTH))
        stack.callback(in_transaction, engine, remove_fifth)
        in_transaction(engine, _mark_pages)
        stack.callback(in_transaction, engine, lambda conn: conn.execute(delete(pages)))
        url, _ = stack.enter_context(server("tests.simulator.bulk", "--projects", "10", "--events", "10"))
        in_transaction(engine, _stand_at_the_end)
        settings = ("feed.source=journal", "feed.releases=all", "feed.reconcile=0", f"upstream.simple_url={url}")
        before = at.database_cpu()
        address, process = stack.enter_context(master(at, *roles, settings=settings))
        begun, cpu = time.monotonic(), _cpu(process)
        stop = threading.Event()
        builder = threading.Thread(target=_work, args=(at, engine, address, stop))
        builder.start()
        stop.wait(seconds)
        found = {name: _resident(one) for name, one in _roles(process).items()}
        stop.set()
        builder.join(60)
        used = Usage(time.monotonic() - begun, _cpu(process) - cpu, max(found.values()))
        cpu = at.database_cpu() - before
    settle(at)
    whole = sum(found.values()) / MB
    each = ", ".join(f"{name} {size / MB:.0f}" for name, size in sorted(found.items()))
    figures = (f"{whole:.0f} MB: {each}",)
    return Result("memory", f"the master at work for {seconds:.0f} s: most resident of each role", figures, used, cpu)


def _mark_pages(conn: Connection) -> None:
    names = [row[0] for row in conn.exec_driver_sql("SELECT name FROM scale.projects ORDER BY md5(name) LIMIT 200")]
    mark_all_stale(conn, PageKind.PROJECT, names[:STALE], "for the benchmark")


def _stand_at_the_end(conn: Connection) -> None:
    """The feed has followed the journal so far that there are only a few events more."""
    from tests.simulator.bulk_pages import BASE

    conn.exec_driver_sql(
        "INSERT INTO feeds (name, serial) VALUES ('upstream', %s) ON CONFLICT (name) DO UPDATE SET serial = %s",
        (BASE, BASE),
    )


def _work(at: Bench, engine: Engine, address: Address, stop: threading.Event) -> None:
    """A builder that fails what it gets, at an ordinary rate."""
    key = keys.make()
    in_transaction(engine, lambda conn: slaves.enrol(conn, key.public, label="scale-waiting"))
    context: zmq.Context[Any] = zmq.Context()
    with at.connect() as conn:
        wait_for(lambda: conn.execute("SELECT 1").fetchone(), "the database", seconds=10)
    builder = Posed(address, key, context, target=targets_by_name(engine)[BUSIEST])
    try:
        stop.wait(2)  # until its key is admitted: a connection that comes before is turned away for good
        builder.connect().hello()
        while not stop.wait(1 / CLAIMS_A_SECOND):
            answer = builder.idle()
            if isinstance(answer, m.Build):
                builder.fail(answer, FailureReason.NETWORK)
    finally:
        builder.close()
        context.destroy(linger=0)


def targets_by_name(engine: Engine) -> Mapping[str, Target]:
    """The farm's."""
    return {target.name: target for target in in_transaction(engine, targets.every)}


def _roles(process: psutil.Process) -> dict[str, psutil.Process]:
    """The master's processes by what they do."""
    found = {"supervisor": process}
    for child in process.children(recursive=True):
        with suppress(psutil.Error, ValueError):
            words = " ".join(child.cmdline()).split()
            found[words[words.index("piw-master") + 1]] = child
    return found


def _resident(process: psutil.Process) -> int:
    """The most that a process had resident, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _peak(process: psutil.Process) -> int:
    return max(_resident(one) for one in _family(process))


def _cpu(process: psutil.Process) -> float:
    return float(sum(times.user + times.system for one in _family(process) for times in [one.cpu_times()]))
