# SPDX-License-Identifier: BSD-3-Clause
"""What every benchmark needs: a throw-away database, a measured process, a place in the table of results."""

import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg

from piwheels.db import migrate
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings, Settings, load

ROOT = Path(__file__).resolve().parents[2]
SMALL = 50  #: by how much --small is smaller
MB = 1e6
LONGEST = 1800.0  #: seconds that any measured process may take


@dataclass(frozen=True, slots=True)
class Usage:
    """What a measured process took."""

    seconds: float
    cpu: float  #: seconds, user and system
    peak: int  #: bytes resident
    output: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and what it should be."""

    words: str  #: the target, for people
    met: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the table."""

    name: str
    what: str  #: was done, in numbers
    figures: Sequence[str]
    usage: Usage
    database_cpu: float  #: seconds
    goals: Sequence[Goal] = ()


@dataclass(slots=True)
class Bench:
    """Where one benchmark happens."""

    folder: Path  #: short, since sockets go in it
    cluster: Cluster
    small: bool
    overrides: list[str] = field(default_factory=list)  #: settings, as ``section.key=value``

    def scaled(self, number: int) -> int:
        """How many to take of something."""
        return max(number // SMALL, 1) if self.small else number

    @property
    def settings(self) -> Settings:
        """Of the farm under measurement."""
        return load(None, overrides=self.overrides)

    def arguments(self) -> list[str]:
        """The same, as arguments of a ``piw-*`` command."""
        return [word for one in self.overrides for word in ("--set", one)]

    def connect(self) -> psycopg.Connection:
        """A connection for preparing and looking; every statement is a transaction."""
        return psycopg.connect(self.settings.database.url, autocommit=True)

    def fill(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """COPY rows into a table, and leave it as autovacuum would."""
        with self.connect() as connection:
            names = ", ".join(columns)
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY {table} ({names}) FROM STDIN".encode()) as copy,
            ):
                for row in rows:
                    copy.write_row(row)
            connection.execute(f"VACUUM ANALYZE {table}".encode())
            connection.execute(b"CHECKPOINT")

    def database_cpu(self) -> float:
        """CPU seconds that the database server has used so far, its ended children included."""
        assert self.cluster.pid is not None
        return cpu_of(self.cluster.pid)


def cpu_of(pid: int) -> float:
    """CPU seconds that a process and its children, the ended ones included, have used so far."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # it is counted among the ended ones then, but for this moment
            continue
        total += times.user + times.system
    return float(total)


@contextmanager
def bench(*, small: bool) -> Iterator[Bench]:
    """A folder and a migrated, empty database with a real farm's safety settings; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="piw-bench-", dir="/tmp"))
    try:
        with Cluster(folder / "pg") as cluster:
            database = DatabaseSettings(url=cluster.url)
            migrate.create_database(database)
            migrate.upgrade(database)
            overrides = [f"database.url={cluster.url}"]
            overrides += [f"paths.{name}={folder / name}" for name in ("output", "store", "run", "keys")]
            (folder / "run").mkdir()
            yield Bench(folder, cluster, small, overrides)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Processes


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PIWHEELS_")}


@contextmanager
def server(module: str, *arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """A process that prints its address as its first line, and the address; ended afterwards."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=_environ(), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        if not address:
            raise RuntimeError(f"{module} did not start")
        yield address, psutil.Process(process.pid)
    finally:
        _end(process)


_numbers = itertools.count(1)  #: of measured processes, of which there may be several at a time


class Measured:
    """A process that runs ``module.main(arguments)``; what it took is known once it has ended well."""

    def __init__(self, bench: Bench, module: str, *arguments: str) -> None:
        self._module = module
        number = next(_numbers)
        self._report, self._log = bench.folder / f"report{number}.json", bench.folder / f"said{number}"
        command = [sys.executable, "-m", "tests.bench.child", str(self._report), module, *arguments]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=_environ(), stdout=subprocess.PIPE, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _end(self._process)

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """Tell it to end."""
        self._process.terminate()

    def usage(self) -> Usage:
        """Wait for its end; RuntimeError if it did not end well."""
        output = self._process.communicate(timeout=LONGEST)[0].decode()
        if self._process.returncode:
            raise RuntimeError(f"{self._module} ended with status {self._process.returncode}: {self.said()}")
        return Usage(output=output, **json.loads(self._report.read_text()))


def run(bench: Bench, module: str, *arguments: str) -> Usage:
    """Run ``module.main(arguments)`` to its end, and tell what it took."""
    with Measured(bench, module, *arguments) as process:
        return process.usage()


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


# Results


def machine() -> str:
    """What the figures were measured on, on one line."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    python = platform.python_version()
    return f"{stamp}; {os.cpu_count()} x {model}, {memory:.0f} GiB; Python {python}; load before: {load:.1f}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


HEADINGS = ("benchmark", "what", "figures", "seconds", "CPU s", "PG CPU s", "peak MB", "targets")


def table(results: Sequence[Result], *, judged: bool) -> str:
    """The results as text, each in as many lines as it has figures or targets. ``judged``: say which were met."""
    rows: list[Sequence[str]] = [HEADINGS]
    for result in results:
        goals = [f"{goal.words}{(': met' if goal.met else ': MISSED') if judged else ''}" for goal in result.goals]
        used = result.usage
        first = (result.name, result.what)
        figures = (f"{used.seconds:.2f}", f"{used.cpu:.2f}", f"{result.database_cpu:.2f}", f"{used.peak / MB:.0f}")
        for number in range(max(len(goals), len(result.figures), 1)):
            begin = first if number == 0 else ("", "")
            middle = figures if number == 0 else ("",) * len(figures)
            rows.append((*begin, _item(result.figures, number), *middle, _item(goals, number)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _item(items: Sequence[str], number: int) -> str:
    return items[number] if number < len(items) else ""
