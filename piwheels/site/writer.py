# SPDX-License-Identifier: BSD-3-Clause
"""Files of the published tree: written whole or not at all, only when their bytes change, and durable before what
depends on them. Knows no page and no table.

A file's temporary name is its own with a dot and ``.tmp``, so a writer that was killed leaves one file at most, which
the next one replaces. Two writers of one path at the same time are for the caller to prevent (db.pages.lock).
"""

import errno
import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from piwheels import faults
from piwheels.errors import PiwheelsError

GZIP_FROM = 4096  #: bytes; below, what compression saves is less than a packet
GZIP_LEVEL = 6


class PublishError(PiwheelsError, OSError):
    """The published tree cannot be written."""

    def __str__(self) -> str:  # OSError would show its own
        return str(self.args[0]) if self.args else ""


class NameTakenError(PublishError, FileExistsError):
    """A published name stands for other bytes already. It keeps them: lock files and caches out there rely on it."""


class NotInStoreError(PublishError, FileNotFoundError):
    """The store lacks bytes that the database says it has."""


def write_if_changed(path: Path, data: bytes) -> bool:
    """Make ``path`` hold ``data``, durably; whether it did not before. Its directory is made if missing."""
    return bool(write_files(path.parent, {path.name: data}))


def write_files(directory: Path, files: Mapping[str, bytes]) -> list[str]:
    """Make each name in ``directory`` hold its bytes, in the order given; the names that had to be written.

    All are on disk before the first takes its name, and the directory is synchronised once, at the end. Text that is
    worth it gets a ``.gz`` twin first, so that a twin is never missing beside a page of that size.
    """
    changed = [name for name, data in files.items() if not _holds(directory / name, data)]
    if not changed:
        return []
    make_directory(directory)
    plan: dict[str, bytes] = {}
    for name in changed:
        data = files[name]
        if len(data) >= GZIP_FROM:
            plan[name + ".gz"] = gzip.compress(data, GZIP_LEVEL, mtime=0)
        plan[name] = data
    for name, data in plan.items():
        _write_temporary(directory / f".{name}.tmp", data)
    for name in plan:
        (directory / f".{name}.tmp").replace(directory / name)
        if f"{name}.gz" not in plan and not name.endswith(".gz"):
            (directory / f"{name}.gz").unlink(missing_ok=True)  # it has become small
    sync_directory(directory)
    return changed


def write_plain(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data`` as it is, without a twin, durably."""
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    _write_temporary(temporary, data)
    temporary.replace(path)
    sync_directory(path.parent)


def _holds(path: Path, data: bytes) -> bool:
    """Whether a file and its twin are as write_files would leave them."""
    try:
        if path.stat().st_size != len(data) or path.read_bytes() != data:
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        # A gzip file ends with the CRC-32 and length of what is in it (RFC 1952, section 2.3.1).
        with path.with_name(path.name + ".gz").open("rb") as twin:
            twin.seek(-8, os.SEEK_END)
            end = twin.read(8)
    except FileNotFoundError:
        return len(data) < GZIP_FROM
    except OSError:  # shorter than eight bytes
        return False
    expected = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return len(data) >= GZIP_FROM and end == expected


def _write_temporary(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)  # the web server is another user, whatever our umask
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def make_directory(directory: Path) -> None:
    """Make a directory and what is missing above it, durably, open for all to read."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_into(source: Path, destination: Path, sha256: bytes) -> bool:
    """Give bytes of the store a published name; whether the name is new. The caller synchronises the directory.

    Raises NameTakenError when the name stands for other bytes (it keeps them), NotInStoreError when the store lacks
    them and the name does not have them either.
    """
    try:
        status = source.stat()
        if status.st_mode & 0o444 != 0o444:
            source.chmod(0o644)
        os.link(source, destination)
    except FileNotFoundError:
        if destination.exists() and digest(destination) == sha256:
            return False
        raise NotInStoreError(f"the store lacks {source.name}, which {destination.name} should be") from None
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise PublishError(
                "paths.output and paths.store must be on one file system, as hard links join them"
            ) from None
        if error.errno != errno.EEXIST:
            raise
        if not os.path.samestat(status, destination.stat()) and digest(destination) != sha256:
            text = f"{destination.name} is published with other bytes than {sha256.hex()}, and keeps them"
            raise NameTakenError(text) from None
        return False
    return True


def digest(path: Path) -> bytes:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def remove_files(directory: Path, unwanted: Callable[[str], bool]) -> list[str]:
    """Remove the files of a directory whose names are unwanted, durably; their names. A missing directory is fine."""
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if unwanted(entry.name))
    except FileNotFoundError:
        return []
    for name in names:
        (directory / name).unlink(missing_ok=True)
    if names:
        sync_directory(directory)
    return names


def remove_directory(directory: Path, *, first: Iterable[str] = ()) -> bool:
    """Remove a directory of files: those in ``first`` durably before the others. Whether it is gone.

    Something in it that we would not put there (a directory) keeps it; it is then for a person to look at.
    """
    if not directory.is_dir():
        return True
    leading = frozenset(first)
    remove_files(directory, leading.__contains__)
    if leading:
        faults.point("unlisted")
    directories = {entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)}
    remove_files(directory, lambda name: name not in directories)
    if directories:
        return False
    directory.rmdir()
    sync_directory(directory.parent)
    return True
