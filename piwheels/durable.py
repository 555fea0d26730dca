# SPDX-License-Identifier: BSD-3-Clause

"""What was written survives a power cut: files, and names in directories, one or many at once.

An fsync costs what it makes the file system's journal write, and that is shared, so many wait together.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

SYNCED_AT_ONCE = 16  #: files and directories; each waits for the disk, and disks do what is asked together at once
FLUSHED_FROM = 32  #: so many at least have their file system flushed, instead of each being synchronised


def sync_directory(path: Path | str) -> None:
    """Make the names in a directory durable."""
    descriptor = _open_directory(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_directory(path: Path | str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_files(paths: Iterable[Path]) -> None:
    """Make the contents of files survive a power cut. The writing of all of them is begun before the first is waited
    for: so it is one write of the file system's journal and not one each."""
    descriptors: list[int] = []
    try:
        for path in paths:
            descriptors.append(os.open(path, os.O_RDONLY))
            os.posix_fadvise(descriptors[-1], 0, 0, os.POSIX_FADV_DONTNEED)  # which begins to write what is dirty
        for descriptor in descriptors:
            os.fsync(descriptor)
    finally:
        close(descriptors)


def synchronise(descriptors: Sequence[int]) -> None:
    """Make files and directories durable: many by one flush of the file systems that they are on, which writes the
    journal once and not for every few of them; few each by itself, as nothing but they has to be waited for then."""
    if len(descriptors) < FLUSHED_FROM or not _can_flush():
        _in_parallel(os.fsync, descriptors)
        return
    for descriptor in {os.fstat(one).st_dev: one for one in descriptors}.values():
        if _libc().syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def synchronise_directories(paths: Iterable[str]) -> None:
    """Make the names in directories durable, in the same way."""
    descriptors: list[int] = []
    try:
        for path in paths:
            descriptors.append(_open_directory(path))
        synchronise(descriptors)
    finally:
        close(descriptors)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _can_flush() -> bool:
    """Whether the system flushes one file system by itself (Linux), and tells what it could not write (since 5.8)."""
    system, release = os.uname().sysname, os.uname().release
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    return system == "Linux" and version >= (5, 8) and hasattr(_libc(), "syncfs")


def close(descriptors: Iterable[int]) -> None:
    """Close files."""
    for descriptor in descriptors:
        os.close(descriptor)


def _in_parallel(sync: Callable[[int], None], given: Sequence[int]) -> None:
    """Synchronise several; the first error is raised once all threads have ended their part."""
    if len(given) < 2:
        _in_turn(sync, given)
        return
    pending = [_syncers().submit(_in_turn, sync, given[n::SYNCED_AT_ONCE]) for n in range(SYNCED_AT_ONCE)]
    wait(pending)
    for done in pending:
        done.result()


def _in_turn(sync: Callable[[int], None], given: Iterable[int]) -> None:
    for one in given:
        sync(one)


@cache
def _syncers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(SYNCED_AT_ONCE, thread_name_prefix="sync")
