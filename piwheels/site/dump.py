# SPDX-License-Identifier: BSD-3-Clause
"""The metadata dump as files of the site: one zstd-compressed JSON array, and what is said of it.

Entries are JSON objects as bytes, and are not looked into. Where they come from is not known here. A dump takes its
name whole, durable and in one step; what a killed one leaves is hidden, and is replaced by the next.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

import zstandard

from piwheels.durable import sync_directory
from piwheels.errors import UnavailableError
from piwheels.site import pages, paths, text, writer
from piwheels.site.facts import DumpFacts, SiteFacts
from piwheels.site.writer import PublishError

logger = logging.getLogger(__name__)

LEVEL = 3  #: zstd's; 6 saves another twentieth at two and a half times the work
MAX_FACTS = 10_000  #: bytes


class Sink(Protocol):
    """What compressed bytes are written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of them."""


@dataclass(slots=True)
class _Measured:
    """Passes bytes on, counted and hashed."""

    sink: Sink
    size: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        self.sink.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def write(sink: Sink, entries: Iterable[bytes], *, made: datetime, since: datetime | None) -> DumpFacts:
    """Write the array of the entries, compressed; a few of them are in memory at a time."""
    out = _Measured(sink)
    packages = unpacked = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    with compressor.stream_writer(out, closefd=False) as packed:  # type: ignore[arg-type]  # it needs write() alone
        for entry in entries:
            unpacked += packed.write(b"".join((b",\n" if packages else b"[\n", entry)))
            packages += 1
        unpacked += packed.write(b"\n]\n" if packages else b"[]\n")
    return DumpFacts(made, since, packages, out.size, unpacked, out.digest.hexdigest())


def write_file(path: Path, entries: Iterable[bytes], *, made: datetime, since: datetime | None) -> DumpFacts:
    """Make ``path`` hold the dump. Raises UnavailableError when another is at it, PublishError when the disk refuses;
    the file then is as it was."""
    try:
        with _replacing(path) as file:
            return write(file, entries, made=made, since=since)
    except UnavailableError:
        raise
    except OSError as error:
        raise PublishError(f"{path} cannot be written: {error.strerror or error}") from error


def publish(
    output: Path, site: SiteFacts, entries: Iterable[bytes], *, made: datetime, since: datetime | None
) -> DumpFacts:
    """Write the dump and what is said of it into the published tree. Raises what :func:`write_file` does."""
    path = output / paths.DUMP
    writer.make_directory(path.parent)
    facts = write_file(path, entries, made=made, since=since)
    describe(output, site, facts)
    return facts


def describe(output: Path, site: SiteFacts, facts: DumpFacts) -> None:
    """Write what is said of the dump, for programs and for people."""
    writer.write_files(output / paths.DUMP_ABOUT, {"index.json": to_json(facts), "index.html": pages.dump(facts, site)})


# What is said of it, for programs


def to_json(facts: DumpFacts) -> bytes:
    """The facts, as the site has them."""
    document = {
        "file": paths.DUMP.name,
        "made": text.stamp(facts.made),
        "changed_since": text.stamp(facts.since) if facts.since else None,
        "packages": facts.packages,
        "size": facts.size,
        "unpacked": facts.unpacked,
        "sha256": facts.sha256,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def last(output: Path) -> DumpFacts | None:
    """The facts of the dump that the site has; None: there is none, or they cannot be read."""
    try:
        with (output / paths.DUMP_ABOUT / "index.json").open("rb") as file:
            found = json.loads(file.read(MAX_FACTS))
        since = found["changed_since"]
        return DumpFacts(
            made=_time(found["made"]),
            since=None if since is None else _time(since),
            packages=int(found["packages"]),
            size=int(found["size"]),
            unpacked=int(found["unpacked"]),
            sha256=str(found["sha256"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp).astimezone(UTC)


# The file


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the path's name at the end, unless something goes wrong."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _claim(temporary, instead_of=path) as file:
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # the web server is another user, whatever our umask
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # while it is locked: afterwards it may be another's
            raise
    sync_directory(path.parent)


def _claim(temporary: Path, *, instead_of: Path) -> IO[bytes]:
    """The temporary file, empty and locked for as long as it is open. The kernel gives back what a killed one held."""
    if instead_of.exists() and not instead_of.is_file():
        raise UnavailableError(f"{instead_of} is not a file that could be replaced (- writes to standard output)")
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        file = os.fdopen(descriptor, "wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(temporary, descriptor):
                file.truncate(0)
                return file
        except BlockingIOError:
            file.close()
            raise UnavailableError(f"another dump to {instead_of} is being written; let it end") from None
        # Its last holder gave it the final name, or removed it, between our two steps.
        file.close()


def _is_still(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False
