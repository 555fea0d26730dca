# SPDX-License-Identifier: BSD-3-Clause
"""Locks of pages that a process holds for as long as it lives or writes them, whatever becomes of its database session.

A lock in the database (db.pages.lock) is gone with its session: a process that stood still for a minute, or whose
connection was cut, would go on writing over what another has written meanwhile, and remove wheels that it has not heard
of. These are POSIX record locks (fcntl(2)), each of one byte of a file that nobody reads, at a place that follows from
the page. The kernel gives them up when the process dies. They keep processes apart, not threads of one.
"""

import errno
import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from piwheels.errors import UnavailableError
from piwheels.vocabulary import PageKind

FILE = "publish.lock"  #: in the store, which no web server shows, and which is the same for all who write the tree
_TAKEN = frozenset({errno.EACCES, errno.EAGAIN})  #: either, POSIX says


class PageLocks:
    """The locks of one process. Raises UnavailableError where there can be none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Kept open to the end: to close it would give up all that this process holds.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._useless(error) from error

    @contextmanager
    def hold(self, kind: PageKind, keys: Collection[str]) -> Iterator[frozenset[str]]:
        """Those of these pages that no other process writes, locked for the time."""
        places = {key: _place(kind, key) for key in keys}
        taken = {place for place in places.values() if self._take(place)}
        try:
            yield frozenset(key for key, place in places.items() if place in taken)
        finally:
            for place in taken:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)

    def _take(self, place: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise self._useless(error) from error
        return True

    def _useless(self, error: OSError) -> UnavailableError:
        return UnavailableError(f"cannot lock pages with {self._path}: {error.strerror or error}")


def _place(kind: PageKind, key: str) -> int:
    """Two pages that share one, which hardly happens, wait for each other."""
    return int.from_bytes(blake2b(f"{kind.value}/{key}".encode(), digest_size=6).digest(), "big")
