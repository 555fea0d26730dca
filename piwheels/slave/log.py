# SPDX-License-Identifier: BSD-3-Clause
"""A build's log: kept in constant memory however much is written, and cleaned of what is not text.

Owns what of a log is kept and shown; must not know who writes it or what it means (:mod:`piwheels.slave.failure` does).
"""

import re
from collections import deque

from piwheels.wire.messages import MAX_LIVE_LOG

HEAD = 1024**2  #: bytes kept of the beginning
TAIL = 2 * 1024**2  #: bytes kept of the end, where the error usually is
MAX_LINE = 4000  #: characters; what follows in a line is cut

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # ECMA-48 control sequences: colours, cursor
    r"|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # operating system commands (titles, links) and other strings
    r"|[ -/]*[0-~])?"  # the shorter ones, or a lone escape
)
# Controls but for line feed and tab; marks that turn the direction of text, which can make a line read otherwise.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(data: bytes) -> str:
    """Log bytes as text that is safe to store and show: UTF-8, lines, tabs, nothing else unprintable.

    Takes time in proportion to the data, whatever is in it: a regular expression for whole lines would not.
    """
    text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
    return "\n".join(map(_clean_line, text.split("\n")))


def _clean_line(line: str) -> str:
    """A line as it ends up on a terminal (progress bars redraw it), and not longer than is of use."""
    if "\r" in line:
        line = line.rstrip("\r").rpartition("\r")[2]
    line = _UNPRINTABLE.sub("", line)
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} [...]"


class BoundedLog:
    """Takes what a build writes; gives the log with the middle cut out, and what is new since it was last asked."""

    def __init__(self, *, head: int = HEAD, tail: int = TAIL, live: int = MAX_LIVE_LOG) -> None:
        self._head_size, self._tail_size, self._live_size = head, tail, live
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_length = 0
        self._live = bytearray()
        self.length = 0  #: bytes written in all

    def write(self, data: bytes) -> None:
        """Take note of what was written."""
        self.length += len(data)
        room = self._head_size - len(self._head)
        self._head += data[:room]
        if len(data) > room:
            self._append(data[room:])
        self._live += data[-2 * self._live_size :]
        if len(self._live) > 16 * self._live_size:  # not each time: moving the rest costs
            del self._live[: -2 * self._live_size]

    def _append(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_length += len(data)
        while self._tail_length - len(self._tail[0]) >= self._tail_size:
            self._tail_length -= len(self._tail.popleft())
        if len(self._tail) > 4096:  # many small writes: keep them as one
            self._tail = deque([b"".join(self._tail)])

    def news(self) -> str:
        """The whole lines written since the last call; of very many, the last."""
        end = max(self._live.rfind(b"\n"), len(self._live) - self._live_size) + 1
        data = bytes(self._live[max(end - 2 * self._live_size, 0) : end])
        del self._live[:end]
        return clean(data)[-self._live_size :]

    def text(self) -> str:
        """The log as it is kept."""
        tail = b"".join(self._tail)[-self._tail_size :] if self._tail else b""
        cut = self.length - len(self._head) - len(tail)
        if not cut:
            return clean(bytes(self._head) + tail)
        return f"{clean(bytes(self._head))}\n[... {cut} bytes of the log are left out here ...]\n{clean(tail)}"
