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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from piwheels.durable import sync_directory, sync_files
from piwheels.errors import UnavailableError

logger = logging.getLogger(__name__)

INCOMING = "incoming"
_HASH = re.compile(r"[0-9a-f]{64}")


class Store:
    """The wheels and METADATA files of the farm. Threads may share it; only dispatch writes and sweeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = str(root)
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
        return Path(self.place(sha256))

    def place(self, sha256: bytes) -> str:
        """The same as text, for whoever looks at thousands."""
        name = sha256.hex()
        return f"{self._root}/{name[:2]}/{name}"

    def part(self, name: str) -> Path:
        """Where a file is while it arrives; ``name`` is ours, never a peer's."""
        return self.incoming / f"{name}.part"

    def add(self, temporary: Path, sha256: bytes) -> Path:
        """As :meth:`add_all`, for one; where it is."""
        self.add_all([(temporary, sha256)])
        return self.path(sha256)

    def add_all(self, files: Sequence[tuple[Path, bytes]]) -> None:
        """Put complete files of the store's file system in place, by content, durably. Content that is there already is
        kept, as others may have linked it; the temporary files are gone afterwards. After an OSError it may be tried
        again: what is in place already stays so.

        Many at once, because fsyncs cost what they make the file system's journal write, and that is shared.
        """
        files = [(temporary, sha256) for temporary, sha256 in files if temporary.exists() or not self._has(sha256)]
        for temporary, _ in files:
            temporary.chmod(0o644)  # web servers read it through the links that publish makes
        sync_files([temporary for temporary, _ in files])
        for temporary, sha256 in files:
            self._put(temporary, self.path(sha256))
        # Also where the content was there already: whoever put it there a moment ago may not have come so far.
        for directory in {self.path(sha256).parent for _, sha256 in files}:
            sync_directory(directory)

    def _has(self, sha256: bytes) -> bool:
        return self.path(sha256).exists()

    def _put(self, temporary: Path, path: Path) -> None:
        with self._lock:
            if _touch(path):
                temporary.unlink()
                return
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_directory(self.root)
            temporary.rename(path)

    def add_bytes(self, data: bytes) -> bytes:
        """Put a small file in place; its SHA-256."""
        temporary, digest = self.write_part(data)
        try:
            self.add(temporary, digest)
        finally:
            temporary.unlink(missing_ok=True)
        return digest

    def write_part(self, data: bytes) -> tuple[Path, bytes]:
        """A temporary file with this content, not synced, and its SHA-256. Whoever asks for it removes it."""
        descriptor, name = tempfile.mkstemp(dir=self.incoming, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name), hashlib.sha256(data).digest()

    def temporary(self) -> BinaryIO:
        """An empty temporary file to write, on the store's file system; its name is its path. Whoever asks for it
        removes it."""
        return cast(BinaryIO, tempfile.NamedTemporaryFile(dir=self.incoming, suffix=".part", delete=False))

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


def half_written(path: Path) -> Path:
    """What write_file calls a file that it has not written to the end."""
    return path.with_name(f".{path.name}.tmp")


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, durably, making its directories; for others to read. A kill meanwhile leaves
    ``half_written(path)``. Nobody else may be writing the same file."""
    for error in write_files({path: data}).values():
        raise error


def write_files(files: Mapping[Path, bytes]) -> dict[Path, OSError]:
    """As :func:`write_file` for each, as one; those that could not be written, and why."""
    failed: dict[Path, OSError] = {}
    written = []
    for path, data in files.items():
        try:
            _write(path, data)
            written.append(path)
        except OSError as error:
            failed[path] = error
    try:
        sync_files(map(half_written, written))
        for path in written:
            half_written(path).rename(path)
        for directory in {path.parent for path in written}:
            sync_directory(directory)
    except OSError as error:  # which of them it was is not known, and it will not be the only one
        failed |= dict.fromkeys(written, error)
        for path in written:
            half_written(path).unlink(missing_ok=True)
    return failed


def _write(path: Path, data: bytes) -> None:
    """Write what is to become a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = half_written(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
