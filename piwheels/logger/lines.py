# SPDX-License-Identifier: BSD-3-Clause
"""One line of an access log in Apache's combined format, as a download or as none.

Pure. Every field of a line is a stranger's text. What counts as a download: a GET of a wheel below ``/simple/`` or
``/<distribution>/simple/`` that was answered 200. A 206 is not counted: a client that fetches a wheel in ranges, or
reads METADATA from its end, would otherwise count many times. Nothing about the client's address is kept.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

from piwheels.errors import WheelError
from piwheels.logger.agents import Agent, parse_agent
from piwheels.wheelfile import parse_wheel_name

LONGEST_LINE = 65_536  #: bytes; longer ones are skipped unread

# Alternatives inside the quotes exclude each other, so matching is linear however hostile the line.
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(rf"\S+ \S+ \S.* \[([^\]]{{1,40}})\] {_QUOTED} (\d{{3}}) (?:\d+|-)(?: {_QUOTED} {_QUOTED})?")
_REQUEST = re.compile(r"([A-Z]{1,10}) (\S+) HTTP/\d(?:\.\d)?")
_WHEEL = re.compile(r"(?:/[a-z0-9][a-z0-9._-]{0,59})?/simple/([^/]{1,200})/([^/]{1,255}\.whl)")
_TIME = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d{4})")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "v": "\v", "b": "\b"}


@dataclass(frozen=True, slots=True)
class Download:
    """One wheel fetched."""

    at: datetime  #: UTC
    project: str  #: canonical name
    filename: str
    agent: Agent


class LineError(ValueError):
    """A line is not in combined format."""


def parse_line(line: str) -> Download | None:
    """The download that a line tells of, or None when it tells of something else.

    Raises LineError for a line that is not in combined format (or its older sibling without referer and agent).
    """
    found = _LINE.fullmatch(line) if len(line) <= LONGEST_LINE else None
    if found is None:
        raise LineError("not a line in combined format")
    when, request, status, _referer, agent = found.groups()
    wheel = _wheel(request) if status == "200" else None
    if wheel is None:
        return None
    return Download(at=_time(when), project=wheel[0], filename=wheel[1], agent=parse_agent(unescape(agent or "")))


def _wheel(request: str) -> tuple[str, str] | None:
    """Project and file name of the wheel that a request line asks for."""
    asked = _REQUEST.fullmatch(unescape(request))
    if asked is None or asked[1] != "GET":
        return None
    path = _WHEEL.fullmatch(unquote(asked[2].split("?", 1)[0], errors="replace"))
    if path is None:
        return None
    try:
        name = parse_wheel_name(path[2])
    except WheelError:
        return None
    return (name.project, name.filename) if name.project == path[1] else None


def _time(text: str) -> datetime:
    found = _TIME.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        raise LineError("no time in it")
    day, _, year, hour, minute, second = found.groups()[:6]
    iso = f"{year}-{_MONTHS[found[2]]:02d}-{day}T{hour}:{minute}:{second}{found[7][:3]}:{found[7][3:]}"
    try:
        return datetime.fromisoformat(iso).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise LineError("an impossible time in it") from error


def unescape(text: str) -> str:
    r"""Undo what Apache (``\"``, ``\n``) and nginx (``\x22``) do to quoted fields."""
    return _ESCAPE.sub(_unescaped, text) if "\\" in text else text


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else _NAMED.get(found[2], found[2])
