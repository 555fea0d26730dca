# SPDX-License-Identifier: BSD-3-Clause
"""What each key of a recipe may hold, and what is said when it holds something else. Pure; knows no files.

Each reader takes a value as TOML gives it and returns it as :class:`piwheels.master.recipes.Recipe` keeps it, or raises
:class:`Bad` with words that follow the key.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from packaging.utils import canonicalize_name

from piwheels.master.planner import Rebuild

MAX_TEXT = 500  #: characters of a reason
MAX_APT = 100  #: packages of a recipe
MAX_VARIABLES = 50
MAX_VALUE = 4000  #: characters of a variable's value
LONGEST = timedelta(days=7)  #: of a build
MOST_MEMORY = 2**50  #: bytes

#: What the builder decides for itself (piwheels.slave.environment), so that saying it here would have no effect.
RESERVED = frozenset(
    {
        *("PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "SHELL", "LANG", "_PYTHON_HOST_PLATFORM"),
        *("PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE", "PIP_CONFIG_FILE", "PIP_DISABLE_PIP_VERSION_CHECK"),
        *("PIP_NO_INPUT", "PIP_USE_PEP517", "PIP_PREFER_BINARY", "PIP_NO_CACHE_DIR", "PIP_ROOT_USER_ACTION"),
    }
)

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_TARGET = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,198}[a-z0-9])?")
_PATTERN = re.compile(r"[a-z0-9*?-]{1,200}")
_TIME = re.compile(r"([0-9]{1,9})\s*(s|min|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_SIZE = re.compile(r"([0-9]{1,15})\s*([KMGT])i?B?")


class Bad(Exception):
    """A value is not what it should be."""

    def __init__(self, words: str, *, key: str = "", number: int | None = None) -> None:
        super().__init__(words)
        self.key = key  #: the dotted key that it is about, where that is another than the one that is read
        self.number = number  #: the item of the array, or the line of the file, that it is about


def hint(word: str, known: Iterable[str]) -> str:
    """What was meant, perhaps."""
    near = difflib.get_close_matches(word[:100], list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"


def pattern_of(word: object) -> str:
    """A project's name, canonical, or a pattern of names, its letters and signs as canonical names have them."""
    if not isinstance(word, str):
        raise Bad(f"{shown(word)} is not a project's name")
    plain = re.sub(r"[-_.]+", "-", word.strip().lower())
    if "*" in plain or "?" in plain:
        if not _PATTERN.fullmatch(plain):
            raise Bad(f"{shown(word)} is not a pattern of names: letters, digits and -_. with * and ?")
        return plain
    name = str(canonicalize_name(word.strip()))
    if not _NAME.fullmatch(name):
        raise Bad(f"{shown(word)} is not a project's name")
    return name


def shown(value: object) -> str:
    """A value as complaints quote it."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def reason(value: object) -> str:
    """One line of text; empty is allowed."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT:
        raise Bad(f"must be why, in one line of at most {MAX_TEXT} characters")
    return value.strip()


def packages(value: object) -> tuple[str, ...]:
    """Names of Debian packages."""
    return _words(value, _PACKAGE, "Debian package", most=MAX_APT)


def target_names(value: object) -> tuple[str, ...]:
    """Names of targets."""
    return _words(value, _TARGET, "target", most=100)


def _words(value: object, form: re.Pattern[str], what: str, *, most: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= most:
        raise Bad(f"must be a list of 1 to {most} names")
    for number, word in enumerate(value):
        if not isinstance(word, str) or not form.fullmatch(word):
            raise Bad(f"has {shown(word)}, which is no name of a {what}", number=number)
    return tuple(dict.fromkeys(value))


def variables(value: object) -> tuple[tuple[str, str], ...]:
    """A table of variables."""
    if not isinstance(value, Mapping) or not 0 < len(value) <= MAX_VARIABLES:
        raise Bad(f"must be a table of 1 to {MAX_VARIABLES} variables, each a text")
    for name, text in value.items():
        place = f"environment.{name}"
        if not _VARIABLE.fullmatch(name):
            raise Bad(f"has {shown(name)}, which is no variable's name", key=place)
        if name in RESERVED:
            raise Bad(f"cannot have {name}: builders set it themselves", key=place)
        if not isinstance(text, str) or "\0" in text or len(text) > MAX_VALUE:
            raise Bad(f"has a {name} that is not a text of at most {MAX_VALUE} characters", key=place)
    return tuple(sorted(value.items()))


def duration(value: object) -> timedelta:
    """Seconds, or a text such as ``90 min``."""
    seconds = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (match := _TIME.fullmatch(value.strip())):
        seconds = int(match.group(1)) * _SECONDS[match.group(2)]
    if seconds is None or not 0 < seconds <= LONGEST.total_seconds():
        raise Bad(f"must be seconds, or a text such as '90 min' or '6h', and at most 7 days; not {shown(value)}")
    return timedelta(seconds=seconds)


def size(value: object) -> int:
    """Bytes, or a text such as ``2 GiB``."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number = int(match.group(1)) * 1024 ** ("KMGT".index(match.group(2)) + 1)
    if number is None or not 0 <= number <= MOST_MEMORY:
        raise Bad(f"must be bytes, or a text such as '2 GiB' or '900M'; not {shown(value)}")
    return number


def flag(value: object) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise Bad(f"must be true or false, not {shown(value)}")
    return value


def rebuild(value: object) -> Rebuild:
    """missing or all."""
    if value not in tuple(Rebuild):
        raise Bad(f"must be 'missing' or 'all', not {shown(value)}")
    return Rebuild(str(value))


#: Every key but ``projects``, and what reads it.
KEYS: Mapping[str, Callable[[Any], Any]] = {
    "skip": reason,
    "apt": packages,
    "environment": variables,
    "timeout": duration,
    "memory": size,
    "network": flag,
    "rebuild": rebuild,
    "prereleases": flag,
    "targets": target_names,
}


def as_plain(value: Any) -> Any:
    """A value in JSON's types."""
    if isinstance(value, timedelta):
        return int(value.total_seconds())
    if isinstance(value, Rebuild):
        return value.value
    return [list(one) if isinstance(one, tuple) else one for one in value] if isinstance(value, tuple) else value
