# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch as a process of its own, killed with SIGKILL at the worst moments; and what its successor sweeps up."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zmq
from sqlalchemy import Engine, select

from piwheels.db import builds as attempts
from piwheels.db import queue, slaves
from piwheels.db.tables import builds, files, jobs, names
from piwheels.errors import UnavailableError
from piwheels.faults import VARIABLE
from piwheels.master import dispatch
from piwheels.master.dispatch_sweep import Sweeper
from piwheels.master.dispatch_work import Clerk
from piwheels.master.store import Store, half_written, write_file
from piwheels.settings import DatabaseSettings, DispatchSettings, PathSettings, Settings
from piwheels.site.paths import log_path
from piwheels.vocabulary import FailureReason, Outcome
from piwheels.wire import messages as m
from piwheels.wire.keys import load_or_make, make
from tests.integration import dispatch_world as world
from tests.integration.builder import Address, Builder, announce

pytestmark = pytest.mark.integration

WHEEL = "spidev-3.6-cp311-cp311-linux_armv7l.whl"
NUMBERED = "spidev-3.6-1-cp311-cp311-linux_armv7l.whl"
MAIN = "import sys; from piwheels.master.cli import main; sys.exit(main())"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Process:
    """`piw-master dispatch`, and how to end it."""

    command: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None

    def start(self, faults: str = "") -> None:
        environment = {**os.environ, VARIABLE: faults}
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def kill(self) -> None:
        if self.running is not None:
            os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait(10)
            self.running = None


@pytest.fixture
def process(database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[tuple[Process, Address]]:
    builders, files_port = free_port(), free_port()
    options = {
        "database.url": database_settings.url,
        "paths.output": tmp_path / "www",
        "paths.store": tmp_path / "store",
        "paths.run": tmp_path / "run",
        "paths.keys": tmp_path / "keys",
        "dispatch.builders": f"tcp://127.0.0.1:{builders}",
        "dispatch.files": f"tcp://127.0.0.1:{files_port}",
        "dispatch.min_free": 0,
    }
    sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    keys = load_or_make(tmp_path / "keys" / "master.key")
    address = Address(f"tcp://127.0.0.1:{builders}", f"tcp://127.0.0.1:{files_port}", keys.public)
    made = Process([sys.executable, "-c", MAIN, "dispatch", *sets], tmp_path / "log")
    made.start()
    yield made, address
    made.kill()


@pytest.fixture
def builder(process: tuple[Process, Address], database: Engine) -> Iterator[Builder]:
    context: zmq.Context[Any] = zmq.Context()
    keys = make()
    with database.begin() as conn:
        target_id = world.add_target(conn)
        slaves.enrol(conn, keys.public)
        world.add_job(conn, world.add_release(conn), target_id)
    made = Builder(process[1], keys, context)
    yield made
    made.close()
    context.destroy(linger=0)


def join(builder: Builder, *, resume: str | None = None) -> None:
    """Say hello until the master is there, on a new connection each time, as slaves do."""
    until = time.monotonic() + 30
    while True:
        builder.connect()
        builder.send(builder.hello_message(resume=resume))
        if builder.socket.poll(1000):
            answer = builder.receive()
            assert isinstance(answer, m.Ack)
            builder.slave_id = answer.slave_id
            return
        assert time.monotonic() < until, "the master does not come up"


def deliver(builder: Builder, build: m.Build, data: bytes) -> None:
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
    builder.deliver(data)
    assert builder.ask(m.Sent()) == m.Done()


def assert_built_once(engine: Engine, folder: Path) -> None:
    with engine.begin() as conn:
        build = conn.execute(select(builds)).one()
        assert build.outcome is Outcome.SUCCESS
        assert conn.execute(select(jobs)).all() == []
        file = conn.execute(select(files)).one()
    store = [path.name for path in (folder / "store").rglob("*") if path.is_file()]
    assert sorted(store) == sorted([bytes(file.sha256).hex(), bytes(file.metadata_sha256).hex()])
    logs = [path for path in (folder / "www" / "logs").rglob("*") if path.is_file()]
    assert logs == [folder / "www" / log_path(build.id)]


def test_killed_in_mid_build(
    process: tuple[Process, Address], builder: Builder, database: Engine, tmp_path: Path
) -> None:
    join(builder)
    build = builder.job()
    assert build.order is not None
    process[0].kill()
    process[0].start()
    join(builder, resume=build.order.token)
    assert builder.busy() == m.Cont()
    deliver(builder, build, world.wheel_bytes())
    assert_built_once(database, tmp_path)


def test_killed_in_mid_transfer(
    process: tuple[Process, Address], builder: Builder, database: Engine, tmp_path: Path
) -> None:
    join(builder)
    build = builder.job()
    assert build.order is not None
    data = world.wheel_bytes(padding=4_000_000)
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)

    class Killed(Exception):
        pass

    def kill_after_five(offset: int, chunk: bytes) -> list[tuple[int, bytes]]:
        if len(builder.sent_chunks) == 5:
            world.wait_for(lambda: list((tmp_path / "store" / "incoming").iterdir()), "something to be left behind")
            process[0].kill()
            raise Killed
        return [(offset, chunk)]

    with pytest.raises(Killed):
        builder.deliver(data, tamper=kill_after_five)
    process[0].start()
    join(builder, resume=build.order.token)
    deliver(builder, build, data)
    assert_built_once(database, tmp_path)


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.05])
def test_killed_while_the_result_is_recorded(
    process: tuple[Process, Address], builder: Builder, database: Engine, tmp_path: Path, delay: float
) -> None:
    """Whichever side of the commit the kill falls on: one build, one log, and the builder may forget it."""
    join(builder)
    build = builder.job()
    assert build.order is not None
    data = world.wheel_bytes()
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
    builder.deliver(data)
    builder.send(m.Sent())
    threading.Event().wait(delay)
    process[0].kill()
    process[0].start()
    join(builder, resume=build.order.token)
    answer = builder.built(build, announce(WHEEL, data))
    if isinstance(answer, m.Send):
        builder.deliver(data)
        answer = builder.ask(m.Sent())
    assert answer == m.Done()
    assert_built_once(database, tmp_path)


def test_killed_while_a_rebuild_gets_its_number(
    process: tuple[Process, Address], builder: Builder, database: Engine, tmp_path: Path
) -> None:
    join(builder)
    deliver(builder, builder.job(), world.wheel_bytes(padding=1))
    process[0].kill()
    with database.begin() as conn:
        job = conn.execute(select(builds.c.release_id, builds.c.target_id)).one()
        conn.execute(builds.update().values(superseded=True))
        world.add_job(conn, job.release_id, job.target_id)
    process[0].start(faults="renamed=kill")
    join(builder)
    build, data = builder.job(), world.wheel_bytes(padding=2)
    assert build.order is not None and process[0].running is not None
    assert builder.built(build, announce(WHEEL, data)) == m.Send(WHEEL)
    builder.deliver(data)
    builder.send(m.Sent())
    assert process[0].running.wait(30) == -signal.SIGKILL
    with database.begin() as conn:
        assert len(conn.execute(select(files)).all()) == 1
    process[0].start()
    join(builder, resume=build.order.token)
    deliver(builder, build, data)
    with database.begin() as conn:
        made = conn.execute(select(files.c.filename).order_by(files.c.id)).scalars().all()
        bound = {(row.space, row.filename) for row in conn.execute(select(names))}
    assert made == [WHEEL, NUMBERED]
    assert bound == {(space, name) for space in ("", "bookworm") for name in made}
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


@pytest.fixture
def clerk(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Clerk:
    paths = PathSettings(output=tmp_path / "www", store=tmp_path / "store", run=tmp_path, keys=tmp_path)
    made = Clerk(
        database, Store(tmp_path / "store"), Settings(database=database_settings, paths=paths), threading.Event()
    )
    made.store.prepare()
    return made


def test_orphans_are_swept_and_nothing_else(clerk: Clerk, database: Engine) -> None:
    listed, orphan, young = (clerk.store.add_bytes(name) for name in (b"listed", b"orphan", b"young"))
    with database.begin() as conn:
        target_id = world.add_target(conn)
        slave_id = world.add_slave(conn)
        world.add_job(conn, world.add_release(conn), target_id)
        lease = queue.claim(conn, slave_id=slave_id, target_id=target_id, terms=world.TERMS)
        assert lease is not None
        wheel = world.verified(sha256=listed, metadata_sha256=listed)
        attempts.record(conn, world.success(lease, wheel), policy=world.POLICY)
    for digest in (listed, orphan):
        os.utime(clerk.store.path(digest), (1, 1))
    assert sum(Sweeper(clerk).sweep(shard) for shard in range(256)) == 1
    assert clerk.store.path(listed).exists() and clerk.store.path(young).exists()
    assert not clerk.store.path(orphan).exists()


def test_what_a_killed_dispatch_had_taken_ahead_goes_back_at_once(clerk: Clerk, database: Engine) -> None:
    with database.begin() as conn:
        target_id = world.add_target(conn)
        slave_id = world.add_slave(conn)
        for version in ("3.5", "3.6"):
            world.add_job(conn, world.add_release(conn, version=version), target_id)
        held = queue.claim(conn, slave_id=slave_id, target_id=target_id, terms=world.TERMS)
        assert held is not None
        assert len(queue.claim_many(conn, target_id=target_id, terms=world.TERMS, limit=5)) == 1
    clerk.unclaim_ahead()
    with database.begin() as conn:
        left = {row.lease_slave_id for row in conn.execute(select(jobs).where(jobs.c.lease_token.is_not(None)))}
        again = queue.claim_many(conn, target_id=target_id, terms=world.TERMS, limit=5)
    assert left == {slave_id} and len(again) == 1
    assert world.count(database, jobs, jobs.c.strikes > 0) == 0


def test_logs_of_builds_never_recorded_are_swept(clerk: Clerk, database: Engine) -> None:
    clerk.sweep_logs()
    with database.begin() as conn:
        target_id = world.add_target(conn)
        slave_id = world.add_slave(conn)
        world.add_job(conn, world.add_release(conn), target_id)
        lease = queue.claim(conn, slave_id=slave_id, target_id=target_id, terms=world.TERMS)
        assert lease is not None
        number = attempts.next_id(conn)
        result = world.failed(lease, FailureReason.PACKAGE, duration=timedelta(0))
        attempts.record(conn, result, policy=world.POLICY, build_id=number, has_log=True)
        burnt = attempts.next_id(conn)
    output = clerk.settings.paths.output
    for build_id in (number, burnt):
        write_file(output / log_path(build_id), b"x")
    half_written(output / log_path(burnt)).write_bytes(b"killed while it was written")
    clerk.sweep_logs()
    assert (output / log_path(number)).exists() and not (output / log_path(burnt)).exists()
    assert [path.name for path in (output / "logs").rglob(".*")] == []


def test_a_wheel_that_vanished_is_not_recorded(clerk: Clerk, database: Engine) -> None:
    with database.begin() as conn:
        target_id = world.add_target(conn)
        slave_id = world.add_slave(conn)
        world.add_job(conn, world.add_release(conn), target_id)
        lease = queue.claim(conn, slave_id=slave_id, target_id=target_id, terms=world.TERMS)
        assert lease is not None
    clerk.record(world.success(lease, world.verified()))
    assert world.count(database, files) == 0
    assert world.count(database, jobs, jobs.c.strikes == 1, jobs.c.lease_token.is_(None)) == 1
    logs = [path for path in clerk.settings.paths.output.rglob("*") if path.is_file()]
    assert logs == [], "the log of an attempt without a log is not kept"


def test_asked_to_end_it_ends_soon_and_well(process: tuple[Process, Address], builder: Builder) -> None:
    join(builder)
    builder.job()
    running = process[0].running
    assert running is not None
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 0
    process[0].running = None


def test_an_address_in_use_is_one_clear_line(clerk: Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE", 0.2)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        settings = replace(clerk.settings, dispatch=DispatchSettings(builders=address, files="tcp://127.0.0.1:*"))
        half = clerk.store.part("1")
        half.write_bytes(b"somebody else is receiving this")
        with pytest.raises(UnavailableError, match=rf"cannot listen at {address}"):
            dispatch.serve(settings, make(), engine=clerk.engine, stop=threading.Event(), report=lambda **state: None)
        assert half.exists()
