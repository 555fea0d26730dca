# SPDX-License-Identifier: BSD-3-Clause
"""piw-web's access log: Apache's combined format, one line a write, never holding up the server.

What clients send is escaped as Apache does it, so that no header can end a line or a field. A reader that stops
reading (piw-logger restarting) must not stop the site: lines wait in a bounded queue behind a thread; what does not
fit is dropped and counted.
"""

import contextlib
import logging
import os
import queue
import sys
import threading
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

log = logging.getLogger(__name__)

QUEUE_LINES = 10_000
LONGEST_FIELD = 2000  #: characters of a client's text, once escaped; pip describes itself in 500 to 1000
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\b": "\\b", '"': '\\"', "\\": "\\\\"}


def escape(text: str) -> str:
    """Text of a client's as Apache writes it into its log: quotes, backslashes, and all that is not plain ASCII."""
    parts: list[str] = []
    room = LONGEST_FIELD
    for character in text[:LONGEST_FIELD]:
        part = _escaped(character)
        room -= len(part)
        if room < 0:  # cut between escapes, never inside one: half of one would swallow the closing quote
            break
        parts.append(part)
    return "".join(parts)


def _escaped(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if " " <= character <= "~":
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def combined(request: web.BaseRequest, response: web.StreamResponse, now: datetime) -> str:
    """One line of the combined log format, without its line end."""
    when = f"{now.day:02d}/{_MONTHS[now.month - 1]}/{now:%Y:%H:%M:%S %z}"
    version = f"HTTP/{request.version.major}.{request.version.minor}"
    asked = (
        f"{escape(request.method)} {escape(request.path_qs if request.rel_url.raw_path == '' else _target(request))}"
    )
    referer, agent = (escape(request.headers.get(name, "-")) for name in ("Referer", "User-Agent"))
    client = escape(request.remote or "-").replace(" ", "_")
    size = response.body_length or "-"
    return f'{client} - - [{when}] "{asked} {version}" {response.status} {size} "{referer}" "{agent}"'


def _target(request: web.BaseRequest) -> str:
    query = request.rel_url.raw_query_string
    return request.rel_url.raw_path + (f"?{query}" if query else "")


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] = queue.Queue(QUEUE_LINES)
        self.dropped = 0  #: lines that nobody was there to read
        self._thread = threading.Thread(target=self._write_all, name="access log", daemon=True)
        self._thread.start()

    @classmethod
    def standard_output(cls) -> "LineWriter":
        """A writer to standard output."""
        return cls(sys.stdout.fileno())

    def write(self, line: str) -> None:
        """Queue one line; never waits."""
        try:
            self._lines.put_nowait(line.encode("ascii", "backslashreplace") + b"\n")
        except queue.Full:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8 ...: enough to be seen, too rare to matter
                log.warning("nobody reads the access log: %d lines dropped so far", self.dropped)

    def close(self, *, timeout: float) -> None:
        """Write what is queued, for at most timeout seconds."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=timeout)
        self._thread.join(timeout)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                _write_whole(self._descriptor, line)
            except OSError as error:
                log.warning("the access log can no longer be written: %s", error.strerror)
                return


def _write_whole(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def access_log_class(writer: LineWriter) -> type[AbstractAccessLogger]:
    """A class as aiohttp wants it, tied to this writer."""

    class CombinedLogger(AbstractAccessLogger):
        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            writer.write(combined(request, response, datetime.now(UTC)))

    return CombinedLogger
