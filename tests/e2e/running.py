# SPDX-License-Identifier: BSD-3-Clause
"""A farm under test: the real command in a process of its own, in a directory of its own, against the simulator."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg

from piwheels import settings
from tests.waiting import wait_for

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environ() -> dict[str, str]:
    """The environment without what would change pip's, uv's or our commands' ways."""
    foreign = ("PIP_", "UV_", "PIWHEELS_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


class FarmFolder:
    """A farm's directory, with a short name because sockets are in it, and the runs of piw-farm in it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="piw-e2e-", dir="/tmp"))
        self.path.chmod(0o755)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def start(self, *arguments: str, upstream: str = "") -> "RunningFarm":
        """Start piw-farm here."""
        return RunningFarm(self, [*arguments, *(["--upstream", upstream] if upstream else [])])

    def once(self, *arguments: str, upstream: str = "", seconds: float = 120) -> "RunningFarm":
        """Run ``piw-farm --once`` to its end."""
        with self.start("--once", *arguments, upstream=upstream) as farm:
            farm.process.wait(seconds)
        return farm

    # What is published, as clients see it

    def get(self, path: str, accept: str = "*/*") -> tuple[int, bytes]:
        """Status and body of a page, following redirects."""
        request = urllib.request.Request(self.url + path, headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def json(self, path: str) -> Any:
        """A JSON page."""
        status, body = self.get(path, SIMPLE_JSON)
        assert status == 200, f"{path}: {status}"
        return json.loads(body)

    def published(self, path: str) -> Any:
        """A JSON page, read from the published tree (when no farm runs)."""
        return json.loads((self.path / "www" / path).read_text())

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows from the farm's database."""
        url = settings.load(self.path / "farm.toml").database.url
        with psycopg.connect(url, connect_timeout=5) as conn:
            return conn.execute(statement.encode()).fetchall()


class RunningFarm:
    """One run of piw-farm. As a context manager it is ended, and nothing of it is left."""

    def __init__(self, folder: FarmFolder, arguments: Sequence[str]) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "piwheels.farm", "--dir", str(folder.path), "--port", str(folder.port)]
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environ(),
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend([])
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def said(self) -> str:
        """What it said so far."""
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, *, seconds: float = 60) -> str:
        """The first line that matches."""

        def found() -> str:
            ended = self.process.poll() is not None
            for line in list(self.lines):
                if re.search(pattern, line):
                    return line
            assert not ended, (
                f"piw-farm ended with {self.process.returncode} before {pattern!r}:\n{self.said}\n{self.logs()}"
            )
            return ""

        return wait_for(found, f"{pattern!r} in:\n{self.said}", seconds=seconds)

    def logs(self) -> str:
        """The last lines of its processes' logs, for a failed test's report."""
        parts = []
        for path in sorted((self.folder.path / "log").glob("*.log")):
            parts.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(parts)

    def descendants(self) -> list[psutil.Process]:
        """Its processes."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def find(self, *words: str) -> psutil.Process | None:
        """The oldest process of its whose command line has these words."""
        found = [p for p in self.descendants() if set(words) <= set(_command(p))]
        return min(found, key=lambda process: process.create_time(), default=None)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self, number: signal.Signals, status: int) -> None:
        """End it by a signal; see that it ends so, soon, and with all that it started."""
        processes = self.descendants()
        assert len(processes) > 8  # PostgreSQL's, the master's roles, web, logger, slave
        begin = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(30) == status
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert not alive, [process.cmdline() for process in alive]
        assert time.monotonic() - begin < 15
        folder = str(self.folder.path)
        left = [p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or ())]
        assert not left, left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        left = self.descendants()
        if self.process.poll() is None:
            self.interrupt()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if error is not None:
            print(f"piw-farm said:\n{self.said}\n{self.logs()}")
        _, alive = psutil.wait_procs(left, timeout=20)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _command(process: psutil.Process) -> list[str]:
    """Its words; one that has given itself a title has them all in one."""
    try:
        return [word for part in process.cmdline() for word in part.split()]
    except psutil.Error:
        return []
