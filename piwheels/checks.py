# SPDX-License-Identifier: BSD-3-Clause
"""What a setting's value must be, said in words: each check returns None, or what is wrong, to follow the value.

Pure; knows no setting by name. Used by the declarations in piwheels.settings.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

LONGEST = timedelta(days=3650)  #: a duration above this is a slip of the keyboard

_ADDRESS = re.compile(r"tcp://(\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\*|[0-9]{1,5})")


def positive(value: timedelta) -> str | None:
    """A duration that can be waited for."""
    if timedelta(0) < value <= LONGEST:
        return None
    return "must be more than 0 seconds" if value <= timedelta(0) else "is longer than ten years"


def natural(value: timedelta) -> str | None:
    """A duration, or none."""
    return None if value == timedelta(0) else positive(value)


def at_least(least: int) -> Callable[[int], str | None]:
    """A number with a floor."""
    return lambda value: None if least <= value < 2**63 else f"must be at least {least} (and fit 64 bits)"


def between(least: int, most: int) -> Callable[[int], str | None]:
    """A number with a floor and a ceiling."""
    return lambda value: None if least <= value <= most else f"must be between {least} and {most}"


def one_of(*words: str) -> Callable[[str], str | None]:
    """A word of a closed set."""
    return lambda value: None if value in words else f"must be one of: {', '.join(words)}"


def links(value: tuple[str, ...]) -> str | None:
    """Links of the form NAME=URL."""
    for link in value:
        name, equals, url = link.partition("=")
        if not equals or not 0 < len(name.strip()) <= 60 or not name.isprintable():
            return "must be of the form NAME=URL each, with a name of up to 60 characters"
        if not url.startswith("mailto:") and (wrong := web_address(slash=True)(url)):
            return f"has a link, {name.strip()}, that {wrong}"
    return None if len(value) <= 12 else "has more than 12 links"


def address(value: str) -> str | None:
    """A ZeroMQ TCP address, e.g. tcp://*:5555 or tcp://farm.example.org:5555."""
    match = _ADDRESS.fullmatch(value)
    if match is None:
        return "must look like tcp://HOST:PORT"
    port = match.group(2)
    return None if port == "*" or 0 < int(port) < 65536 else "has a port that is not between 1 and 65535"


def address_or_none(value: str) -> str | None:
    """As address; empty: none."""
    return address(value) if value else None


def database_url(value: str) -> str | None:
    """A libpq URL; what is in it is libpq's to judge."""
    return None if value.startswith(("postgresql://", "postgres://")) else "must start with postgresql://"


def web_address(*, empty: bool = False, slash: bool = False) -> Callable[[str], str | None]:
    """An http(s) URL; ``slash``: may end in one; ``empty``: may be missing."""

    def check(value: str) -> str | None:
        if empty and not value:
            return None
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good or re.search(r"[\s\x00-\x1f\x7f<>\"]", value):
            return "must be a web address such as https://www.example.org"
        return "must not end with a slash" if value.endswith("/") and not slash else None

    return check
