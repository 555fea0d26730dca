# SPDX-License-Identifier: BSD-3-Clause
"""The master as processes: supervisor, a role's frame, the control role, and piw-monitor, with a real database."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import zmq
from sqlalchemy import Engine, select, update

from piwheels.db import roles, slaves, tables
from piwheels.db.engine import in_transaction
from piwheels.errors import UnavailableError
from piwheels.master import control
from piwheels.master.commands import Command, Verb
from piwheels.master.role import BEAT, Context, run_role
from piwheels.monitor import cli as monitor
from piwheels.monitor.client import Client
from piwheels.settings import DatabaseSettings, Settings
from piwheels.vocabulary import Role, SlaveWish

pytestmark = pytest.mark.integration


def until(condition: Callable[[], Any], *, seconds: float = 30) -> Any:
    """Wait for a condition, with a deadline; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        threading.Event().wait(0.02)
    return value


@pytest.fixture
def settings(database_settings: DatabaseSettings) -> Iterator[Settings]:
    """Settings of a farm of this test's own; paths short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="piw-run-", dir="/tmp") as folder:
        root = Path(folder)
        paths = replace(
            Settings().paths, run=root / "run", output=root / "www", store=root / "store", keys=root / "keys"
        )
        yield replace(Settings(), database=database_settings, paths=paths)


def arguments(settings: Settings) -> list[str]:
    return ["--set", f"database.url={settings.database.url}", "--set", f"paths.run={settings.paths.run}"]


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts piw-master; whatever still runs at the end is killed (and takes its roles with it)."""
    with ExitStack() as stack:

        def run(*words: str, **environ: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "piwheels.master.cli", *words, *arguments(settings)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **environ},
                )
            )
            stack.callback(process.kill)
            return process

        yield run


def heartbeats(engine: Engine) -> dict[str, int]:
    with engine.begin() as conn:
        return {row.name: row.pid for row in conn.execute(select(tables.roles))}


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# The supervisor.


def test_the_master_without_a_database_says_so_in_one_line(settings: Settings) -> None:
    nowhere = replace(settings, database=DatabaseSettings(url="postgresql:///x?host=/nonexistent"))
    done = subprocess.run(
        [sys.executable, "-m", "piwheels.master.cli", *arguments(nowhere)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 3
    assert done.stderr.startswith("piw-master: cannot connect to the database: ") and done.stderr.count("\n") == 1
    assert not settings.paths.run.exists()


def test_the_master_without_a_schema_says_what_to_do(settings: Settings, empty_database: DatabaseSettings) -> None:
    bare = replace(settings, database=empty_database)
    done = subprocess.run(
        [sys.executable, "-m", "piwheels.master.cli", *arguments(bare)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (
        3,
        "piw-master: the database has no piwheels schema yet: run piw-initdb\n",
    )


def test_a_role_that_dies_is_started_again_and_all_end_when_asked(
    start: Callable[..., subprocess.Popen[str]], database: Engine
) -> None:
    master = start("--roles", "control")
    first = until(lambda: heartbeats(database).get("control"))
    os.kill(first, signal.SIGKILL)
    second = until(lambda: (pid := heartbeats(database).get("control")) != first and pid)
    assert lives(second)
    master.terminate()
    before = time.monotonic()
    _, errors = master.communicate(timeout=20)
    assert master.returncode == 0 and time.monotonic() - before < 8
    assert "control was ended by SIGKILL; it is started again in 0.5 s" in errors
    assert not lives(second)
    assert heartbeats(database) == {}


def test_roles_do_not_outlive_a_killed_master(start: Callable[..., subprocess.Popen[str]], database: Engine) -> None:
    master = start("--roles", "control")
    role = until(lambda: heartbeats(database).get("control"))
    process = psutil.Process(role)
    assert not [file for file in process.open_files() if Path(file.path).name == "master.lock"]
    assert " ".join(process.cmdline()).split() == ["piw-master", "control"]
    master.kill()
    until(lambda: not lives(role))
    again = start("--roles", "control")  # nothing is left that would keep it from starting
    until(lambda: heartbeats(database)["control"] != role)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=20)
    assert again.returncode == 0


def test_a_second_master_is_refused(
    start: Callable[..., subprocess.Popen[str]], database: Engine, settings: Settings
) -> None:
    first = start("--roles", "control")
    until(lambda: heartbeats(database))
    second = start("--roles", "control")
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 3
    assert errors == f"piw-master: piw-master already runs with {settings.paths.run} (process {first.pid})\n"


def test_systemd_is_told(start: Callable[..., subprocess.Popen[str]], settings: Settings) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"{folder}/notify")
        ear.settimeout(30)
        master = start("--roles", "control", NOTIFY_SOCKET=f"{folder}/notify")
        assert ear.recv(1000) == b"READY=1\nSTATUS=running 1 processes"
        assert ear.recv(1000) == b"WATCHDOG=1"
        master.terminate()
        while (word := ear.recv(1000)) == b"WATCHDOG=1":
            pass
        assert word == b"STOPPING=1"
        master.communicate(timeout=20)


# The frame around a role, in this process.


def run_briefly(settings: Settings, body: Callable[[Settings, Context], None]) -> int:
    return run_role(Role.STATS, settings, body, index=1)


def test_a_role_beats_reports_and_leaves(settings: Settings, database: Engine) -> None:
    seen: list[Any] = []

    def body(settings: Settings, context: Context) -> None:
        context.report(done=1)
        context.report(left=2)
        row = until(lambda: state_of(database, "stats", "left"))
        seen.append((row.pid, row.state))
        os.kill(os.getpid(), signal.SIGTERM)
        assert context.stop.wait(10)

    before = signal.getsignal(signal.SIGTERM)
    assert run_briefly(settings, body) == 0
    assert seen == [(os.getpid(), {"done": 1, "left": 2})]
    assert heartbeats(database) == {}
    assert signal.getsignal(signal.SIGTERM) is before


def state_of(engine: Engine, name: str, key: str) -> Any:
    with engine.begin() as conn:
        row = conn.execute(select(tables.roles).where(tables.roles.c.name == name)).one_or_none()
    return row if row is not None and key in row.state else None


def test_the_heartbeat_outlives_lost_connections(settings: Settings, database: Engine) -> None:
    def body(settings: Settings, context: Context) -> None:
        until(lambda: heartbeats(database))
        with psycopg.connect(settings.database.url, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%heartbeat%'"
            )
            now = conn.execute("SELECT now()").fetchone()
        assert now
        until(lambda: last_beat(database) > now[0], seconds=BEAT * 5)
        context.stop.set()

    assert run_briefly(settings, body) == 0


def last_beat(engine: Engine) -> datetime:
    with engine.begin() as conn:
        seen_at: datetime = conn.execute(select(tables.roles.c.seen_at)).scalar_one()
        return seen_at


def test_how_a_role_may_end(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    def raising(error: Exception) -> Callable[[Settings, Context], None]:
        def body(settings: Settings, context: Context) -> None:
            raise error

        return body

    assert run_briefly(settings, raising(ZeroDivisionError("oh"))) == 70
    assert caplog.records[-1].exc_info is not None
    assert run_briefly(settings, raising(UnavailableError("the port is taken"))) == 3
    assert caplog.messages[-1] == "the port is taken"
    assert run_briefly(settings, lambda settings, context: None) == 70  # it should have gone on


def test_a_role_waits_for_the_schema(settings: Settings, empty_database: DatabaseSettings) -> None:
    bare = replace(settings, database=empty_database)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert run_role(Role.STATS, bare, lambda settings, context: pytest.fail("began without a schema")) == 0
    timer.join()


def test_a_role_waits_for_the_server(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = replace(settings, database=DatabaseSettings(url="postgresql:///x?host=/nonexistent"))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert run_role(Role.STATS, nowhere, lambda settings, context: pytest.fail("began without a database")) == 0
    timer.join()
    assert any(message.startswith("waiting for the database: connection to server") for message in caplog.messages)


def test_a_state_that_is_too_long_is_our_fault(settings: Settings) -> None:
    with pytest.raises(ValueError, match="longer than"):
        Context(Role.FEED, settings).report(x="y" * 30_000)


# The control role and the monitor.


@pytest.fixture
def client(settings: Settings, database: Engine) -> Iterator[Client]:
    """A client of a control role that runs in a thread."""
    context = Context(Role.CONTROL, settings)
    thread = threading.Thread(target=control.run, args=(settings, context))
    thread.start()
    try:
        until(lambda: (settings.paths.run / "status").is_socket())
        with Client(settings.paths.run) as one:
            yield one
    finally:
        context.stop.set()
        thread.join(20)
        context.close()


@pytest.fixture
def building(database: Engine) -> str:
    """A build in hand; returns its token."""
    token = "0" * 31 + "1"
    now = datetime.now(UTC)
    with database.begin() as conn:
        project = insert(conn, tables.projects, name="spidev", display_name="spidev")
        release = insert(conn, tables.releases, project_id=project, version="3.6", sort_key=b"", released=now)
        target = insert(
            conn,
            tables.targets,
            name="native",
            python_version="3.11",
            abi="cp311",
            platform="linux_x86_64",
            platforms=["linux_x86_64"],
            rank=1,
        )
        slave = slaves.enrol(conn, "k" * 40, label="pi")
        lease = {
            "lease_slave_id": slave,
            "lease_token": "0" * 31 + "1",
            "lease_started": now,
            "lease_expires": now + timedelta(hours=1),
        }
        job = {"release_id": release, "target_id": target, "priority": 1, "released": now}
        conn.execute(tables.jobs.insert().values(**job, **lease))
        conn.execute(tables.watches.insert().values(name="spidev", spelling="spidev", position=0, state="found"))
    return token


def insert(conn: Any, table: Any, **values: Any) -> int:
    return int(conn.execute(table.insert().values(**values).returning(table.c.id)).scalar_one())


def test_sockets_are_for_owner_and_group(client: Client, settings: Settings) -> None:
    for name in ("control", "status"):
        assert (settings.paths.run / name).stat().st_mode & 0o777 == 0o660


def test_snapshots_are_published_and_say_what_happens(client: Client, building: str) -> None:
    snapshot = next(s for s in client.snapshots() if s["building"] and s["verdicts"])
    assert snapshot["problem"] is None and snapshot["paused"] is False
    assert snapshot["queue"] == {"waiting": 0, "building": 1}
    assert snapshot["building"][0]["token"] == building and snapshot["building"][0]["slave"] == "pi"
    assert snapshot["watches"]["found"] == 1 and snapshot["watches"]["names"][0]["name"] == "spidev"
    assert snapshot["published"] == {"projects": 0, "listed": 0, "files": 0}
    assert client.command(Command(Verb.STATUS))["status"].keys() == snapshot.keys()


def test_pausing_and_resuming(client: Client, database: Engine) -> None:
    assert client.command(Command(Verb.PAUSE))["message"].startswith("the farm is paused")
    assert client.command(Command(Verb.PAUSE))["message"].startswith("the farm is already paused")
    with database.begin() as conn:
        assert roles.is_paused(conn)
    assert next(s for s in client.snapshots() if s["paused"])
    assert client.command(Command(Verb.RESUME)) == {"ok": True, "message": "the farm is running"}
    with database.begin() as conn:
        assert not roles.is_paused(conn)


@pytest.mark.parametrize(
    ("verb", "wish"),
    [(Verb.SLAVE_PAUSE, SlaveWish.PAUSE), (Verb.SLAVE_STOP, SlaveWish.STOP), (Verb.SLAVE_RESUME, SlaveWish.RUN)],
)
@pytest.mark.parametrize("who", ["1", "pi", "k" * 8])
def test_steering_a_builder(
    client: Client, database: Engine, building: str, verb: Verb, wish: SlaveWish, who: str
) -> None:
    assert client.command(Command(verb, slave=who))["ok"]
    with database.begin() as conn:
        assert slaves.every(conn)[0].wish is wish
    reply = client.command(Command(verb, slave="nobody"))
    assert reply == {"ok": False, "message": "no builder is called nobody; piw-monitor slaves lists them"}


def test_dropping_a_build(client: Client, database: Engine, building: str) -> None:
    reply = client.command(Command(Verb.SKIP, project="Spidev", version="3.6", target="native"))
    assert reply == {"ok": True, "message": "the builder of spidev 3.6 for native is told to drop it"}
    with database.begin() as conn:
        assert conn.execute(select(tables.jobs.c.cancelled)).scalar_one() is True
        conn.execute(update(tables.jobs).values(**dict.fromkeys(LEASE)))
    for version in ("3.6", "4.0"):
        reply = client.command(Command(Verb.SKIP, project="spidev", version=version, target="native"))
        assert reply == {"ok": False, "message": f"spidev {version} for native is not being built"}


LEASE = ("lease_slave_id", "lease_token", "lease_started", "lease_expires")


def test_nonsense_is_answered_and_harmless(client: Client, settings: Settings) -> None:
    with zmq.Context() as context:
        for frames in ([b"\xff\x00"], [b"{}"], [b"{}", b"{}"], [b"[" * 3000], [b'{"command":"pause","x":1}']):
            with context.socket(zmq.REQ) as ask:
                ask.setsockopt(zmq.RCVTIMEO, 10_000)
                ask.connect(f"ipc://{settings.paths.run}/control")
                ask.send_multipart(frames)
                reply = json.loads(ask.recv())
                assert reply["ok"] is False and reply["message"]
        with context.socket(zmq.REQ) as ask:
            ask.setsockopt(zmq.LINGER, 0)
            ask.connect(f"ipc://{settings.paths.run}/control")
            ask.send(b"x" * 1_000_000)  # the socket drops whoever sends more than a command
    assert client.command(Command(Verb.RESUME))["ok"]


def test_a_database_that_is_away_is_reported(settings: Settings) -> None:
    away = replace(settings, database=DatabaseSettings(url="postgresql:///x?host=/nonexistent"))
    context = Context(Role.CONTROL, away)
    thread = threading.Thread(target=control.run, args=(away, context))
    thread.start()
    try:
        until(lambda: (away.paths.run / "control").is_socket())
        with Client(away.paths.run, timeout=20) as client:
            assert "cannot be used" in next(client.snapshots())["problem"]
            assert "cannot be used" in client.command(Command(Verb.PAUSE))["message"]
    finally:
        context.stop.set()
        thread.join(20)
        context.close()


def test_the_monitor(client: Client, settings: Settings, building: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        status = monitor.main([*arguments(settings), *words])
        return status, *capsys.readouterr()

    status, said, _ = run()
    assert status == 0 and said.startswith("running, 1 building") and "spidev" in said
    assert json.loads(run("status", "--json")[1])["queue"] == {"waiting": 0, "building": 1}
    assert run("pause")[:2] == (0, "the farm is paused: builds in hand are finished, none begins\n")
    assert run("slaves", "pause", "pi")[:2] == (0, "builder 1 pi takes no more jobs\n")
    assert "pause" in run("slaves")[1]
    status, _, refused = run("skip", "other", "1", "native")
    assert status == 1 and refused.endswith("other 1 for native is not being built\n")
    assert run("slaves", "stop")[0] == 1


def test_the_monitor_without_a_master(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert monitor.main([*arguments(settings), "status"]) == 3
    assert capsys.readouterr().err.startswith("piw-monitor: the master does not run: ")
    settings.paths.run.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:  # what a killed master leaves
        dead.bind(str(settings.paths.run / "control"))
    with pytest.raises(UnavailableError, match="does not answer"), Client(settings.paths.run, timeout=0.2) as client:
        client.command(Command(Verb.STATUS))


def test_only_one_control_role(client: Client, settings: Settings) -> None:
    with pytest.raises(UnavailableError, match="the control role already runs"):
        control.run(settings, Context(Role.CONTROL, settings))


def test_a_run_directory_too_long_for_sockets(settings: Settings) -> None:
    long = replace(settings, paths=replace(settings.paths, run=settings.paths.run / ("x" * 100)))
    with pytest.raises(UnavailableError, match=r"paths\.run too long"):
        control.run(long, Context(Role.CONTROL, long))


def test_in_transaction_is_what_the_role_offers(settings: Settings, database: Engine) -> None:
    context = Context(Role.PUBLISH, settings, index=2)
    assert context.name == "publish-2" and context.engine is context.engine
    assert in_transaction(context.engine, roles.is_paused) is False
    context.close()
