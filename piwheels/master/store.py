# SPDX-License-Identifier: BSD-3-Clause
"""Files by content on disk: ``<root>/<first two hex digits>/<sha256 hex>``, and what is still arriving.

Owns paths, renames and fsyncs; must not know builders or the database. What is in the store under a hash has that hash:
whoever adds a file has computed it. Every file gets there by one rename after an fsync, so a kill leaves either nothing
or all of it, and at most a stale file in ``incoming``.
"""

import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from piwheels.errors import UnavailableError

logger = logging.getLogger(__name__)

INCOMING = "incoming"
_HASH = re.compile(r"[0-9a-f]{64}")


class Store:
    """The wheels and METADATA files of the farm. Threads may share it; only dispatch writes and sweeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / INCOMING
        # Between "nobody refers to this" and its removal nobody may add the same content again.
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the directories and remove what an earlier process left half received; UnavailableError if it cannot."""
        try:
            self.incoming.mkdir(parents=True, exist_ok=True)
            for part in self.incoming.iterdir():
                part.unlink()
            sync_directory(self.root)
        except OSError as error:
            raise UnavailableError(f"cannot use the store at {self.root}: {error.strerror or error}") from error

    def path(self, sha256: bytes) -> Path:
        """Where the file with this content is, or would be."""
        name = sha256.hex()
        return self.root / name[:2] / name

    def part(self, name: str) -> Path:
        """Where a file is while it arrives; ``name`` is ours, never a peer's."""
        return self.incoming / f"{name}.part"

    def add(self, temporary: Path, sha256: bytes) -> Path:
        """Put a complete, fsynced file of the store's file system in place. Content that is there already is kept, as
        others may have linked it; ``temporary`` is gone afterwards either way."""
        path = self.path(sha256)
        with self._lock:
            if _touch(path):
                temporary.unlink()
                return path
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_directory(self.root)
            temporary.chmod(0o644)  # web servers read it through the links that publish makes
            temporary.rename(path)
        sync_directory(path.parent)
        return path

    def add_bytes(self, data: bytes) -> bytes:
        """Put a small file in place; its SHA-256."""
        digest = hashlib.sha256(data).digest()
        descriptor, name = tempfile.mkstemp(dir=self.incoming, suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.add(temporary, digest)
        finally:
            temporary.unlink(missing_ok=True)
        return digest

    def keep(self, hashes: Iterable[bytes]) -> bool:
        """Say that these are about to be referred to, so that no sweep of the next hour takes them; whether all are
        there."""
        with self._lock:
            touched = [_touch(self.path(sha256)) for sha256 in hashes]  # all of them, whatever the first one says
        return all(touched)

    def free(self) -> int:
        """Bytes that we may still write on the store's file system."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def candidates(self, *, age: float, shard: int) -> list[bytes]:
        """What may be an orphan in one of the 256 directories: older than ``age`` seconds and linked from nowhere.
        What is published has a link in the published tree, so of a farm's millions of files few are to be asked for."""
        before = time.time() - age
        found = []
        for entry in _entries(self.root / f"{shard:02x}"):
            status = entry.stat(follow_symlinks=False)
            if _HASH.fullmatch(entry.name) and status.st_nlink == 1 and status.st_mtime < before:
                found.append(bytes.fromhex(entry.name))
        return found

    def discard(self, sha256: bytes, *, age: float) -> bool:
        """Remove a file that nobody refers to, unless somebody added or kept it in the last ``age`` seconds."""
        path = self.path(sha256)
        with self._lock:
            try:
                if path.stat().st_mtime > time.time() - age:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def half_written(path: Path) -> Path:
    """What write_file calls a file that it has not written to the end."""
    return path.with_name(f".{path.name}.tmp")


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, durably, making its directories; for others to read. A kill meanwhile leaves
    ``half_written(path)``. Nobody else may be writing the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = half_written(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def _touch(path: Path) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _entries(directory: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except FileNotFoundError:  # the directory, or an entry that went meanwhile
        return
