# SPDX-License-Identifier: BSD-3-Clause
"""The directory of a farm on one machine: what is where in it, and its settings file.

Knows names and settings; starts nothing.
"""

import errno
import hashlib
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from piwheels import settings as declarations
from piwheels.errors import SettingsError, UnavailableError
from piwheels.settings import Settings

LOCAL = "127.0.0.1"
LONGEST_RUN = 90  #: bytes; a socket's path holds 107 (unix(7)), names of up to 15 follow
HEADER = (
    "# SPDX-License-Identifier: BSD-3-Clause\n"
    "# The settings of this farm. Written by piw-farm at each start: give it --set SECTION.KEY=VALUE to change one.\n"
    "# Commands take it with --config, e.g. piw-monitor --config {path}\n\n"
)


@dataclass(frozen=True, slots=True)
class Home:
    """A farm's directory. Nothing outside it is written, but a directory for sockets where its own path is too long."""

    folder: Path

    @property
    def config(self) -> Path:
        """The settings of all its commands."""
        return self.folder / "farm.toml"

    @property
    def lock(self) -> Path:
        """Held while a farm runs here."""
        return self.folder / "lock"

    @property
    def postgres(self) -> Path:
        """The database."""
        return self.folder / "postgres"

    @property
    def output(self) -> Path:
        """The published tree."""
        return self.folder / "www"

    @property
    def check(self) -> Path:
        """Where --once installs what was built."""
        return self.folder / "check"

    @property
    def logs(self) -> Path:
        """What the processes say."""
        return self.folder / "log"

    @property
    def run(self) -> Path:
        """Local sockets."""
        inside = self.folder / "run"
        if len(os.fsencode(inside)) <= LONGEST_RUN:
            return inside
        return Path("/tmp") / f"piw-run-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}"

    def make(self) -> None:
        """Make the directories. Raises UnavailableError."""
        try:
            for folder in (self.folder, self.output, self.logs, self.folder / "keys", self.folder / "build"):
                folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "keys").chmod(0o700)
            self._make_run()
        except OSError as error:
            raise UnavailableError(f"cannot use {self.folder} for a farm: {error.strerror or error}") from error

    def _make_run(self) -> None:
        with suppress(FileExistsError):
            self.run.mkdir(mode=0o700)
        facts = self.run.lstat()  # one in /tmp may be somebody else's trap
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise UnavailableError(f"{self.run} belongs to somebody else: remove it, or give another --dir")
        self.run.chmod(0o700)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

    projects: Sequence[str]
    port: int
    releases: str  #: "latest" or "all"
    upstream: str  #: PyPI's simple index or what stands in for it; empty: PyPI


def compose(home: Home, given: Settings, wish: Wish, *, database: str, master_key: str) -> Settings:
    """The farm's settings: what was given, with what has to be so for a farm in this directory.

    Some defaults suit a farm that somebody is watching: it asks more often than one of a thousand builders.
    """
    builders, files = _addresses(previous(home))
    slave = given.slave
    return replace(
        given,
        farm=replace(given.farm, base_url=f"http://{LOCAL}:{wish.port}"),
        database=replace(given.database, url=database),
        paths=replace(
            given.paths,
            output=home.output,
            store=home.folder / "store",
            run=home.run,
            keys=home.folder / "keys",
        ),
        upstream=replace(given.upstream, simple_url=wish.upstream or given.upstream.simple_url),
        feed=replace(given.feed, projects=tuple(wish.projects), releases=wish.releases),
        dispatch=replace(given.dispatch, builders=builders, files=files),
        stats=replace(given.stats, interval=_unless_given(given.stats.interval, "stats", seconds=5)),
        slave=replace(
            slave,
            builders=builders,
            files=files,
            master_key=master_key,
            key=home.folder / "keys" / "slave.key",
            label=slave.label or "farm",
            work=home.folder / "build",
            poll=_unless_given(slave.poll, "slave", seconds=1, key="poll"),
            busy_timeout=_unless_given(slave.busy_timeout, "slave", seconds=15, key="busy_timeout"),
        ),
    )


def _unless_given(value: timedelta, section: str, *, seconds: float, key: str = "interval") -> timedelta:
    default = getattr(getattr(Settings(), section), key)
    return timedelta(seconds=seconds) if value == default else value


def previous(home: Home) -> Settings | None:
    """The settings of the last start here, if they can be read."""
    try:
        return declarations.load(home.config) if home.config.exists() else None
    except SettingsError:
        return None


def _addresses(before: Settings | None) -> tuple[str, str]:
    """Addresses of the two channels: those of the last start, so that other builders find us again, or free ones."""
    if before is not None:
        known = (before.dispatch.builders, before.dispatch.files)
        if all(_is_free(LOCAL, int(address.rpartition(":")[2])) for address in known):
            return known
    with socket.socket() as one, socket.socket() as other:  # both open at once, so that they differ
        one.bind((LOCAL, 0))
        other.bind((LOCAL, 0))
        return tuple(f"tcp://{LOCAL}:{taken.getsockname()[1]}" for taken in (one, other))  # type: ignore[return-value]


def _is_free(host: str, port: int) -> bool:
    try:
        _try_listening(host, port)
    except OSError:
        return False
    return True


def _try_listening(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen()


def require_free(port: int) -> None:
    """Raise UnavailableError when the web server's port is not to be had."""
    try:
        _try_listening(LOCAL, port)
    except OSError as error:
        why = "in use by another program" if error.errno == errno.EADDRINUSE else f"not to be had ({error.strerror})"
        raise UnavailableError(f"port {port} is {why}; choose another with --port") from error


def write(home: Home, settings: Settings) -> None:
    """Write the settings file, whole or not at all."""
    new = home.config.with_name(".farm.toml.new")
    new.write_text(HEADER.format(path=home.config) + declarations.show(settings), encoding="utf-8")
    new.replace(home.config)
