# SPDX-License-Identifier: BSD-3-Clause
"""The logs of builds in hand, as builders send them with BUSY: the last of each, in a file of the run directory.

Dispatch writes them (:class:`LiveLogs`), the control role reads them (:func:`read`); they are not in the database.
A file is named after its lease's token. Its first line says how many bytes were cut off before what follows, so that
a reader can go on where it was. What is written is a stranger's text: whoever shows it makes it safe.

Nothing here matters to a build: what cannot be kept is dropped. All of it is bounded: a file, what waits to be written,
and all files together, since a run directory is memory as a rule.
"""

import logging
import os
import re
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from piwheels.logs import RateLimited

logger = logging.getLogger(__name__)

FOLDER = "live"  #: in the run directory
KEEP = 64 * 1024  #: bytes of a log that can be read
MOST = KEEP * 3 // 2  #: bytes of a file before it is cut down to those
MAX_WAITING = 16 * 1024**2  #: bytes that wait to be written, of all builds
MAX_ALL = 128 * 1024**2  #: bytes of all files
QUIET = 120.0  #: seconds without a word of its builder after which a log goes; a build that says BUSY does so every 10

_TOKEN = re.compile(r"[0-9a-f]{32}")
_HEAD = re.compile(rb"([0-9]{20})\n")
_HEAD_SIZE = 21


@dataclass(slots=True)
class _File:
    """A file as we left it."""

    size: int = 0
    start: int = 0  #: bytes of the log that were cut off


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of a log."""

    start: int  #: where it begins in the whole log, in bytes; beyond what was asked for if that is gone
    end: int  #: where to go on from
    text: str


class LiveLogs:
    """Keeps the logs. ``note`` and ``end`` take no time and are for any thread; ``write`` is for one."""

    def __init__(self, run: Path) -> None:
        """``run``: the run directory."""
        self._folder = run / FOLDER
        self._lock = threading.Lock()
        self._waiting: dict[str, bytearray] = {}
        self._amount = 0
        self._heard: dict[str, float] = {}  # monotonic
        self._ended: set[str] = set()
        self._files: dict[str, _File] = {}
        self._quiet = RateLimited(logger, per=timedelta(minutes=10))
        self._begun = False
        self._all = 0

    def note(self, token: str, text: str, *, now: float | None = None) -> None:
        """A build's log has grown by this; the empty text says that it goes on."""
        data = text.encode("utf-8", "replace")[-KEEP:]
        with self._lock:
            self._heard[token] = time.monotonic() if now is None else now
            self._ended.discard(token)
            if data and self._amount + len(data) <= MAX_WAITING:
                waiting = self._waiting.setdefault(token, bytearray())
                self._amount += len(data)
                waiting += data
                if len(waiting) > 2 * KEEP:
                    self._amount -= len(waiting) - KEEP
                    del waiting[:-KEEP]

    def end(self, token: str) -> None:
        """The build is over."""
        with self._lock:
            self._amount -= len(self._waiting.pop(token, b""))
            self._heard.pop(token, None)
            self._ended.add(token)

    def write(self, *, now: float | None = None) -> None:
        """Write what came, and remove what is over."""
        now = time.monotonic() if now is None else now
        with self._lock:
            quiet = [token for token, heard in self._heard.items() if now - heard > QUIET]
            for token in quiet:
                del self._heard[token]
            ended, self._ended = self._ended.union(quiet), set()
            waiting, self._waiting, self._amount = self._waiting, {}, 0
        try:
            self._begin()
            for token in ended:
                self._files.pop(token, None)
                (self._folder / token).unlink(missing_ok=True)
            self._all = sum(file.size for file in self._files.values())
            for token, data in waiting.items():
                if token not in ended:
                    self._append(token, bytes(data))
        except OSError as error:
            self._quiet.warning("disk", f"cannot keep the logs of running builds in {self._folder}: {error}")

    def _begin(self) -> None:
        """Take over what an earlier process left: builds outlive it."""
        if self._begun:
            return
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        with self._lock:
            for path in self._folder.iterdir():
                if _TOKEN.fullmatch(path.name) and (found := _look(path)) is not None:
                    self._files[path.name] = found
                    self._heard.setdefault(path.name, time.monotonic())
                else:
                    path.unlink()
        self._begun = True

    def _append(self, token: str, data: bytes) -> None:
        if not _TOKEN.fullmatch(token):
            return
        self._all += len(data)
        if self._all > MAX_ALL:
            self._quiet.warning("full", f"the logs of running builds have more than {MAX_ALL} bytes; some are not kept")
            return
        path, file = self._folder / token, self._files.get(token)
        if file is None or not path.exists():
            file = self._files[token] = _File()
            self._replace(path, file, data)
            return
        with path.open("ab") as opened:
            opened.write(data)
        file.size += len(data)
        if file.size > MOST:
            old = path.read_bytes()[_HEAD_SIZE:]
            file.start += len(old) - KEEP
            self._replace(path, file, old[-KEEP:])

    def _replace(self, path: Path, file: _File, data: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(b"%020d\n%s" % (file.start, data))
            temporary.chmod(0o640)
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        file.size = len(data)


def read(run: Path, token: str, position: int = 0) -> Excerpt | None:
    """What is kept of a build's log, from a position on; None: nothing is."""
    if not _TOKEN.fullmatch(token):
        return None
    try:
        with (run / FOLDER / token).open("rb") as file:
            data = file.read(_HEAD_SIZE + 2 * MOST)
    except OSError:
        return None
    match = _HEAD.match(data)
    if match is None:
        return None
    start, log = int(match.group(1)), data[_HEAD_SIZE:]
    if len(log) > KEEP:
        start, log = start + len(log) - KEEP, log[-KEEP:]
    end = start + len(log)
    begin = min(max(start, position), end)
    part = log[begin - start :]
    whole = len(part) - _unfinished(part)
    return Excerpt(begin, begin + whole, part[:whole].decode("utf-8", "replace"))


def _unfinished(data: bytes) -> int:
    """How many bytes at the end begin a character that is not whole yet."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            return back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else 0
        if byte < 0x80:
            return 0
    return 0


def _look(path: Path) -> _File | None:
    with suppress(OSError):
        with path.open("rb") as file:
            match = _HEAD.match(file.read(_HEAD_SIZE))
        if match is not None:
            return _File(size=path.stat().st_size - _HEAD_SIZE, start=int(match.group(1)))
    return None
