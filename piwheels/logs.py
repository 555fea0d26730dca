# SPDX-License-Identifier: BSD-3-Clause
"""Logging fit for systemd's journal and for a terminal. Knows no setting and no other module of ours.

Under systemd (JOURNAL_STREAM is set) each line starts with sd-daemon(3)'s ``<N>`` priority and carries no time, since
the journal has its own. A record is always one line, whatever text a peer put in it; a traceback follows on lines of
its own with the same priority.
"""

import logging
import os
import sys
import time
from datetime import timedelta

# syslog(3)'s priorities; sd-daemon(3) takes them as a prefix.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
MAX_LINE = 4000  #: characters of a message; the rest is cut


def configure(name: str, *, verbose: bool = False) -> None:
    """Send all logging to standard error; ``name`` says which process speaks. Call once, from a command."""
    journal = "JOURNAL_STREAM" in os.environ
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(name, journal=journal))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("asyncio", "urllib3", "sqlalchemy", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class LineFormatter(logging.Formatter):
    """One record, one line."""

    converter = staticmethod(time.gmtime)

    def __init__(self, name: str, *, journal: bool) -> None:
        name = name.replace("%", "%%")
        super().__init__(f"{name}: %(message)s" if journal else f"%(asctime)sZ {name}: %(levelname)s: %(message)s")
        self.default_msec_format = "%s.%03d"
        self.journal = journal

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself, with whatever a peer wrote made printable."""
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Prefix every line of the record for the journal."""
        text = super().format(record)
        if not self.journal:
            return text
        prefix = next(f"<{number}>" for level, number in (*_PRIORITIES, (0, 7)) if record.levelno >= level)
        return "\n".join(prefix + line for line in text.splitlines())


def one_line(text: str, limit: int = MAX_LINE) -> str:
    """The text without line ends, control and escape characters, cut to a limit."""
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


class RateLimited:
    """Logs a kind of event at most once in a while, and then says how many were left out.

    For peers' nonsense: a builder that sends rubbish a thousand times a second must not fill the disk.
    """

    MAX_KEYS = 1000  #: kinds remembered; a peer may not make this grow

    def __init__(self, logger: logging.Logger, *, per: timedelta) -> None:
        self._logger = logger
        self._per = per.total_seconds()
        self._last: dict[str, tuple[float, int]] = {}

    def log(self, level: int, key: str, message: str, *, now: float | None = None) -> bool:
        """Log ``message`` unless one with this ``key`` was logged lately; whether it was. ``now`` is monotonic."""
        now = time.monotonic() if now is None else now
        if key not in self._last and len(self._last) >= self.MAX_KEYS:
            self._last = {k: v for k, v in self._last.items() if now - v[0] < self._per}
            if len(self._last) >= self.MAX_KEYS:
                key = ""  # so many kinds at once are one kind
        last, left_out = self._last.get(key, (None, 0))
        if last is not None and now - last < self._per:
            self._last[key] = (last, left_out + 1)
            return False
        self._last[key] = (now, 0)
        more = f" ({left_out} more like it in the last {now - last:.0f} s)" if left_out and last is not None else ""
        self._logger.log(level, "%s%s", message, more)
        return True

    def warning(self, key: str, message: str, *, now: float | None = None) -> bool:
        """As :meth:`log`, as a warning."""
        return self.log(logging.WARNING, key, message, now=now)
