# SPDX-License-Identifier: BSD-3-Clause
"""Arriving files on disk: preallocated, written and hashed chunk by chunk in a thread of their own.

Owns the part files in the store's ``incoming`` directory; must not know builders, sessions or sockets. The loop hands
it work through a queue and hears back through callbacks, which run in this thread and only post.
"""

import errno
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from piwheels import faults
from piwheels.errors import TransferError
from piwheels.master.store import Store

logger = logging.getLogger(__name__)

STRIDE = 8 * 1024 * 1024  #: bytes that the kernel is told to begin to write at a time
PIECE = 1024 * 1024  #: bytes read at once when hashing what arrived out of order


@dataclass(slots=True)
class ArrivingFile:
    """One part file. Chunks may come in any order and repeatedly; the hash follows as far as they are contiguous."""

    path: Path
    size: int
    descriptor: int
    hashed: int = 0  #: bytes from the start that are in the hash
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    _begun: int = 0  #: bytes from the start whose writing to the disk itself has begun
    _ahead: dict[int, int] = field(default_factory=dict)  #: offset -> end of chunks written but not hashed yet

    @classmethod
    def create(cls, path: Path, size: int) -> "ArrivingFile":
        """Make the part file with all its space; OSError (ENOSPC) when the disk has not that much."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return cls(path, size, descriptor)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write a chunk and hash what is contiguous now. Bytes that are hashed are never written again: what the hash
        is of stays what is on disk, whatever a builder sends twice."""
        if offset < self.hashed:
            data = data[self.hashed - offset :]
            offset = self.hashed
        if not data:
            return
        view = memoryview(data)
        while view:
            written = os.pwrite(self.descriptor, view, offset + len(data) - len(view))
            view = view[written:]
        end = offset + len(data)
        if offset == self.hashed:
            self._hash.update(data)
            self.hashed = end
        else:
            self._ahead[offset] = max(end, self._ahead.get(offset, 0))
        self._catch_up()
        if self.hashed - self._begun >= STRIDE:
            # Or all of it is written when the file is whole, and its builder waits for that.
            os.posix_fadvise(self.descriptor, self._begun, self.hashed - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self.hashed

    def digest(self) -> bytes:
        """The SHA-256 of the whole file; TransferError while bytes are missing."""
        if self.hashed != self.size:
            raise TransferError(f"{self.size - self.hashed} of {self.size} bytes did not arrive")
        return self._hash.digest()

    def close(self) -> None:
        """Let go of the file; it stays where it is."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def discard(self) -> None:
        """Remove it."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _catch_up(self) -> None:
        """Hash written chunks that the hash has reached, from disk (out of the page cache)."""
        while self._ahead and (start := min(self._ahead)) <= self.hashed:
            end = self._ahead.pop(start)
            while self.hashed < end:
                piece = os.pread(self.descriptor, min(PIECE, end - self.hashed), self.hashed)
                if not piece:
                    raise TransferError("a part file became shorter while it arrived")
                self._hash.update(piece)
                self.hashed += len(piece)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file that is whole, with the hash it really has. Its descriptor is closed, its bytes not yet synced."""

    path: Path
    size: int
    sha256: bytes


Trouble = Callable[[str], None]


class DiskThread:
    """Executes the disk's part of transfers in order. Transfers are named by numbers that the caller never reuses."""

    def __init__(self, store: Store, *, min_free: int) -> None:
        self._store = store
        self._min_free = min_free
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._files: dict[int, ArrivingFile] = {}
        self._waiting = 0  # bytes of chunks in the queue
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Finish what is queued, close and remove all part files, end."""
        self._work.put(None)
        self._thread.join(timeout)

    @property
    def waiting(self) -> int:
        """Bytes handed over but not written yet: above some limit the caller reads no more from its socket."""
        return self._waiting

    def open(self, number: int, size: int, *, opened: Callable[[], None], failed: Trouble) -> None:
        """Make room for a file."""
        self._work.put(lambda: self._open(number, size, opened, failed))

    def put(self, number: int, offset: int, data: bytes | memoryview, *, failed: Trouble) -> None:
        """Write a chunk."""
        self._count(len(data))
        self._work.put(lambda: self._put(number, offset, data, failed))

    def finish(self, number: int, *, arrived: Callable[[Arrived], None], failed: Trouble) -> None:
        """Everything was put: say what arrived. The file is the caller's from then on."""
        self._work.put(lambda: self._finish(number, arrived, failed))

    def discard(self, number: int) -> None:
        """Forget a file and remove what there is of it; harmless for one that is finished or unknown."""
        self._work.put(lambda: self._discard(number))

    # In the thread

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            try:
                job()
            except Exception:  # our own fault: one transfer is lost, and its session's deadline ends it
                logger.exception("a fault while handling an arriving file")
        for number in list(self._files):
            self._discard(number)

    def _open(self, number: int, size: int, opened: Callable[[], None], failed: Trouble) -> None:
        try:
            free = self._store.free()
            if free - size < self._min_free:
                raise OSError(errno.ENOSPC, f"{free} bytes are free, of which {self._min_free} are to stay so")
            self._files[number] = ArrivingFile.create(self._store.part(f"{os.getpid()}-{number}"), size)
        except OSError as error:
            failed(f"no room for a file of {size} bytes: {error.strerror or error}")
            return
        opened()

    def _put(self, number: int, offset: int, data: bytes | memoryview, failed: Trouble) -> None:
        self._count(-len(data))
        if (file := self._files.get(number)) is None:
            return
        try:
            faults.point("receiving")
            file.write(offset, data)
        except OSError as error:
            self._discard(number)
            failed(f"the file could not be written: {error.strerror or error}")

    def _finish(self, number: int, arrived: Callable[[Arrived], None], failed: Trouble) -> None:
        file = self._files.pop(number, None)
        if file is None:
            failed("the file is not there any more")
            return
        try:
            digest = file.digest()
            file.close()
        except OSError as error:
            file.discard()
            failed(str(error))
            return
        arrived(Arrived(file.path, file.size, digest))

    def _discard(self, number: int) -> None:
        file = self._files.pop(number, None)
        if file is not None:
            with suppress(OSError):
                file.discard()

    def _count(self, change: int) -> None:
        with self._lock:
            self._waiting += change


class Disk:
    """Several disk threads, each with some of the transfers: hashing takes a core for every few hundred MB/s."""

    def __init__(self, store: Store, *, min_free: int, threads: int = 2) -> None:
        self._threads = [DiskThread(store, min_free=min_free) for _ in range(threads)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """As each thread's."""
        for thread in self._threads:
            thread.stop(timeout)

    @property
    def waiting(self) -> int:
        """Bytes handed over but not written yet, of all."""
        return sum(thread.waiting for thread in self._threads)

    def of(self, number: int) -> DiskThread:
        """Who has this transfer."""
        return self._threads[number % len(self._threads)]
