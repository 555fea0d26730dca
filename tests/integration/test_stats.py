# SPDX-License-Identifier: BSD-3-Clause
"""piw-logger and the stats role as real processes, and what happens when either is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from sqlalchemy import Engine, text

from piwheels.settings import DatabaseSettings
from tests.integration.test_downloads import add_projects, assert_rolled_up, scalar
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short name, since sockets go in it."""
    path = Path(tempfile.mkdtemp(prefix="piw-stats-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(folder: Path, database: Engine, database_settings: DatabaseSettings) -> Iterator[Start]:
    """Starts our commands against a database with two projects; all are ended after the test."""
    with database.begin() as conn:
        add_projects(conn, "spidev", "smbus")
    started: list[subprocess.Popen[bytes]] = []
    options = {
        "database.url": database_settings.url,
        "paths.run": str(folder / "run"),
        "paths.output": str(folder / "www"),
        "stats.interval": "0.2",
    }
    settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]

    def run(module: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *settings, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def lines(count: int, project: str = "spidev") -> bytes:
    return b"".join(
        b'192.0.2.7 - - [21/Nov/2026:05:03:01 +0000] "GET /simple/%b/%b-%d-py3-none-any.whl HTTP/1.1"'
        b' 200 5 "-" "pip/24"\n' % (project.encode(), project.encode(), number)
        for number in range(count)
    )


def counted(engine: Engine) -> int:
    return scalar(engine, "SELECT count(*) FROM downloads")


def feed(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def end(process: "subprocess.Popen[bytes]") -> str:
    """Close its input and wait for it; what it said."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return out.decode()


def test_from_log_line_to_packages_json(start: Start, folder: Path, database: Engine) -> None:
    start("piwheels.master.cli", "stats")
    logger = start("piwheels.logger.cli")
    feed(logger, lines(3) + b"rubbish\n" + lines(2, "smbus") + lines(1, "unknown"))
    packages = folder / "www" / "packages.json"

    def shown() -> object:
        return packages.exists() and json.loads(packages.read_text()) == [["smbus", 2, 2], ["spidev", 3, 3]]

    wait_for(shown, "packages.json to show the downloads", seconds=30)
    said = end(logger)
    assert "7 lines read (1 not in combined format)" in said and "6 counted" in said
    assert_rolled_up(database)
    mode = (folder / "run" / "stats").stat().st_mode & 0o777
    assert mode == 0o660


def test_a_second_one_is_refused_in_one_line(start: Start, folder: Path) -> None:
    """It would take the first one's socket, and the log lines with it."""
    first = start("piwheels.master.cli", "stats")
    wait_for((folder / "run" / "stats").exists, "the socket", seconds=30)
    second = start("piwheels.master.cli", "stats")
    out, _ = second.communicate(timeout=30)
    assert second.returncode == 3
    assert f"the stats role already runs with {folder}/run (process {first.pid})" in out.decode()
    assert "Traceback" not in out.decode()


def test_stats_killed_and_back(start: Start, database: Engine) -> None:
    stats = start("piwheels.master.cli", "stats")
    logger = start("piwheels.logger.cli", "--patience", "30")
    feed(logger, lines(10))
    wait_for(lambda: counted(database) == 10, "the first downloads", seconds=30)
    stats.kill()
    stats.wait(10)
    feed(logger, lines(1500))
    start("piwheels.master.cli", "stats")
    assert "1510 counted" in end(logger)
    assert counted(database) == 1510
    assert_rolled_up(database)


def test_an_answer_that_is_lost(start: Start, folder: Path, database: Engine) -> None:
    """The stats role commits, and dies before it answers: the logger sends again, and it counts once."""
    logger = start("piwheels.logger.cli", "--patience", "30")
    context = zmq.Context()
    with context.socket(zmq.REP) as eavesdropper:
        eavesdropper.setsockopt(zmq.LINGER, 0)
        (folder / "run").mkdir()
        eavesdropper.bind(f"ipc://{folder}/run/stats")
        feed(logger, lines(4))
        assert eavesdropper.poll(20_000)
        batch = eavesdropper.recv()
    context.term()
    stats = start("piwheels.master.cli", "stats")
    context = zmq.Context()
    with context.socket(zmq.REQ) as replay:
        replay.setsockopt(zmq.LINGER, 0)
        replay.connect(f"ipc://{folder}/run/stats")
        replay.send(batch)
        assert replay.poll(30_000)
        assert json.loads(replay.recv()) == {"batch": 1, "counted": 4}
    context.term()
    assert "4 counted" in end(logger)
    assert counted(database) == 4
    assert stats.poll() is None


def test_nonsense_is_refused_and_the_role_goes_on(start: Start, folder: Path) -> None:
    stats = start("piwheels.master.cli", "stats")
    context = zmq.Context()
    with context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{folder}/run/stats")
        for nonsense in (b"", b"\x00\xff", b"[[[[", b'{"logger":"x"}'):
            socket.send(nonsense)
            assert socket.poll(30_000)
            assert json.loads(socket.recv())["error"].startswith("refused")
    context.term()
    assert stats.poll() is None


def test_files_and_nobody_who_answers(start: Start, folder: Path) -> None:
    log = folder / "access.log"
    log.write_bytes(lines(5))
    logger = start("piwheels.logger.cli", "--patience", "0.5", str(log))
    out, _ = logger.communicate(timeout=30)
    assert logger.returncode == 3
    assert b"5 downloads are not counted" in out.splitlines()[-1]


def test_term_hands_over_what_was_read(start: Start, database: Engine) -> None:
    start("piwheels.master.cli", "stats")
    logger = start("piwheels.logger.cli")
    feed(logger, lines(7))
    wait_for(lambda: counted(database) == 7, "the downloads", seconds=30)
    feed(logger, lines(1))
    os.set_blocking(logger.stdin.fileno(), False)  # type: ignore[union-attr]
    logger.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        logger.wait(20)
    assert logger.returncode == 0


def test_missing_log(start: Start, folder: Path) -> None:
    logger = start("piwheels.logger.cli", str(folder / "no.log"))
    out, _ = logger.communicate(timeout=30)
    assert logger.returncode == 3
    assert b"no.log cannot be read" in out


def test_database_restarts_lose_nothing(start: Start, database: Engine) -> None:
    start("piwheels.master.cli", "stats")
    logger = start("piwheels.logger.cli", "--patience", "30")
    feed(logger, lines(10))
    wait_for(lambda: counted(database) == 10, "the first downloads", seconds=30)
    with database.connect() as conn:
        conn.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
    feed(logger, lines(10))
    assert "20 counted" in end(logger)
    assert counted(database) == 20
