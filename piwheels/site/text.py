# SPDX-License-Identifier: BSD-3-Clause
"""Text for pages: foreign text made fit for HTML, and numbers, times and lengths in words. Pure.

Escaping is the renderers' part. What is removed here no escaping could help: HTML has no way to write it.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

# Control characters, surrogates and noncharacters are parse errors in HTML (13.2.3.5) even as references; the
# directional overrides among the rest let a summary reorder what stands beside it.
_UNFIT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufeff"
    + "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17))
    + "]"
)
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def clean(text: str) -> str:
    """Foreign text as one line that HTML can hold."""
    if text.isascii() and text.isprintable():  # most is
        return " ".join(text.split()) if "  " in text else text.strip(" ")
    return " ".join(clean_lines(text).split())


def clean_lines(text: str) -> str:
    """Foreign text that HTML can hold, with its line ends; terminal escapes are taken out whole."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii() and text.isprintable():  # most is
        return text
    return _UNFIT.sub("", _ANSI.sub("", text))


def size(number: int) -> str:
    """A number of bytes."""
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5 or unit == "GB":
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def length(duration: timedelta) -> str:
    """A length of time, in the two units that matter."""
    seconds = duration.total_seconds()
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def window(duration: timedelta) -> str:
    """A length of time that a window is wide: whole days where it has them."""
    days, rest = divmod(duration, timedelta(days=1))
    if days and not rest:
        return "day" if days == 1 else f"{days} days"
    return length(duration)


def count(number: int) -> str:
    """A number with its thousands apart (a thin space, as ISO 31-0 has it)."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def rounded(number: int) -> str:
    """A number that nobody needs to its last digit."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return count(number)


def day(moment: datetime) -> str:
    """The day in UTC."""
    return _iso(moment)[:10]


def minute(moment: datetime) -> str:
    """The minute in UTC."""
    return _iso(moment)[:16].replace("T", " ") + " UTC"


def stamp(moment: datetime) -> str:
    """RFC 3339, in UTC, to the second."""
    return _iso(moment) + "Z"


def _iso(moment: datetime) -> str:
    # A page may have thousands of times; strftime takes five times as long.
    return moment.astimezone(UTC).isoformat(timespec="seconds")[:19]


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
