# SPDX-License-Identifier: BSD-3-Clause
"""Whether what a builder announces may be received at all: a pure function of the build in hand, BUILT and the limits.

Owns the first look at untrusted file names and sizes, before a byte of a file is asked for; what is inside the files
is judged when they have come (``verify``). It must not know sessions, disks or the database.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from piwheels.errors import WheelError
from piwheels.versions import parse_or_none
from piwheels.wheelfile import parse_wheel_name
from piwheels.wire import messages as m

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one build may deliver."""

    max_file: int = 2 * 1024**3  #: bytes
    max_files: int = 20


def check_announcement(files: Sequence[m.FileInfo], *, project: str, version: str, limits: Limits) -> str | None:
    """The first thing that is wrong with the files announced, in words for the build's record; None: receive them.

    ``project`` (canonical) and ``version`` (as PyPI spells it) are those of the build's lease.
    """
    if not files:
        return "the build succeeded but left no wheel"
    if len(files) > limits.max_files:
        return f"{len(files)} wheels announced, at most {limits.max_files} are taken from one build"
    seen: set[str] = set()
    for file in files:
        fault = _check_name(file.filename, project, version) or _check_content(file, limits)
        if fault is None and file.filename in seen:
            fault = f"{file.filename} is announced twice"
        if fault is not None:
            return fault[:300]
        seen.add(file.filename)
    return None


def _check_name(filename: str, project: str, version: str) -> str | None:
    try:
        name = parse_wheel_name(filename)
    except WheelError as error:
        return str(error)
    if name.project != project:
        return f"{filename} is a wheel of {name.project}, not of {project}, which was to be built"
    expected = parse_or_none(version)
    if expected is None or name.version != expected:
        return f"{filename} is a wheel of version {name.version}, not of {version}, which was to be built"
    return None


def _check_content(file: m.FileInfo, limits: Limits) -> str | None:
    if not 0 < file.size <= limits.max_file:
        return f"{file.filename} has {file.size} bytes; between 1 and {limits.max_file} are taken"
    if not _SHA256.fullmatch(file.sha256):
        return f"{file.filename} is announced without a SHA-256"
    return None
