# SPDX-License-Identifier: BSD-3-Clause
"""What a requirements file names, and what a project's Requires-Dist needs on given targets.

Reads files, and nothing else of the world. Sources: pip's requirements file format, PEP 508 requirements and markers,
PEP 685 names of extras. The file is the operator's, so a mistake in it is said with its line; Requires-Dist is a
stranger's, so what cannot be read there is left out.
"""

import logging
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion

from piwheels.errors import SettingsError

logger = logging.getLogger(__name__)

MAX_DEPTH = 20  #: of files that include files
MAX_BYTES = 8 * 1024**2  #: of one file
MAX_REQUIREMENT = 4000  #: characters of one Requires-Dist
LAST_PATCH = 99  #: of a Python; no series had so many

_INCLUDING = ("-r", "--requirement")
_EDITABLE = ("-e", "--editable")
_COMMENT = re.compile(r"(^|\s+)#.*$")  #: a # inside a word belongs to it, as in URLs
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|[a-z]+\+file:|file:", re.IGNORECASE)
_PATH = re.compile(r"[./~\\]|[^\s;]*[/\\]")
_NAMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^\]]*\])?\s*@")  #: PEP 508's ``name @ URL``
_EGG = re.compile(r"(?:^|&)egg=([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[([^\]]*)\])?")


# Requirements files


def read_requirements(path: Path) -> tuple[Requirement, ...]:
    """The requirements of a file and of those it includes with -r, in order, each file read once.

    Constraints, hashes and pip's own options are left out; what cannot be named (a local path) too, with a line in the
    log. Raises SettingsError, which names file and line.
    """
    reader = _Reader()
    reader.read(path, None)
    return tuple(reader.found)


@dataclass(frozen=True, slots=True)
class _Place:
    """A line of a file, for people."""

    path: Path
    line: int
    depth: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(slots=True)
class _Reader:
    """Reads files and the files that they include."""

    found: list[Requirement] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)  #: so that files that include one another come to an end

    def read(self, path: Path, asked: _Place | None) -> None:
        depth = asked.depth + 1 if asked else 0
        if depth > MAX_DEPTH:
            raise SettingsError(f"{asked}: files include one another more than {MAX_DEPTH} deep")
        text = _text(path, asked)
        if (real := path.resolve()) not in self.seen:
            self.seen.add(real)
            for number, line in _logical_lines(text):
                self._line(line, _Place(path, number, depth))

    def _line(self, line: str, place: _Place) -> None:
        if not line.startswith("-"):
            self._requirement(_without_options(line), place)
            return
        for option, value in _options(line, place):
            if option in _INCLUDING:
                self._include(value, place)
            elif option in _EDITABLE:
                self._requirement(value, place)
            else:
                logger.debug("%s: %s is for pip, and ignored", place, option)

    def _include(self, value: str, place: _Place) -> None:
        if not value:
            raise SettingsError(f"{place}: -r names no file")
        if _SCHEME.match(value):
            raise SettingsError(f"{place}: {value} is not a local file; fetch it, and include the copy")
        self.read(place.path.parent / Path(value).expanduser(), place)

    def _requirement(self, text: str, place: _Place) -> None:
        if not _NAMED.match(text) and (_SCHEME.match(text) or _PATH.match(text)):
            self._nameless(text, place)
            return
        try:
            self.found.append(Requirement(text))
        except InvalidRequirement as error:
            why = str(error).splitlines()[0]
            raise SettingsError(f"{place}: {text[:100]!r} is not a requirement: {why}") from error

    def _nameless(self, text: str, place: _Place) -> None:
        """A URL or a path, which is a project's only if it says so."""
        if (requirement := _named_by(text)) is not None:
            self.found.append(requirement)
        else:
            logger.warning("%s: %s does not say which project it is; ignored", place, text[:200])


def _text(path: Path, asked: _Place | None) -> str:
    by = f"{asked}: " if asked else ""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a NUL byte is a ValueError
        raise SettingsError(f"{by}{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{by}{path} is longer than {MAX_BYTES} bytes; is it a requirements file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: not UTF-8 text") from error


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with content: continued ones joined under the number of their first, comments taken off."""
    parts: list[str] = []
    first = 1
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        first = first if parts else number
        # A comment ends what it continues, even if it ends with a backslash itself (as pip has it).
        if line.endswith("\\") and not _COMMENT.match(line):
            parts.append(line[:-1])
            continue
        whole = _COMMENT.sub("", "".join((*parts, " " + line if _COMMENT.match(line) else line))).strip()
        parts = []
        if whole:
            yield first, whole
    if rest := _COMMENT.sub("", "".join(parts)).strip():
        yield first, rest


def _without_options(line: str) -> str:
    """A requirement without the options that follow it, such as --hash."""
    return re.split(r"\s+-(?=-?[A-Za-z])", line, maxsplit=1)[0].strip()


def _options(line: str, place: _Place) -> Iterator[tuple[str, str]]:
    """The options of a line, and the values of those that concern us: ``--name value``, ``--name=value``, ``-n value``
    or ``-nvalue``, quoted as for a shell."""
    try:
        words = iter(shlex.split(line))
    except ValueError as error:
        raise SettingsError(f"{place}: {line[:100]!r} cannot be read: {str(error).lower()}") from error
    for word in words:
        if word.startswith("--"):
            name, _, value = word.partition("=")
        elif word.startswith("-"):
            name, value = word[:2], word[2:]
        else:  # the value of an option that we do not know
            continue
        yield name, value or (next(words, "") if name in (*_INCLUDING, *_EDITABLE) else "")


def _named_by(text: str) -> Requirement | None:
    """The project that a URL or a path names: in its fragment (``#egg=``), or as the name of a wheel or an sdist."""
    url, _, fragment = text.partition("#")
    if match := _EGG.search(unquote(fragment)):
        return _requirement_or_none(f"{match[1]}[{match[2] or ''}]")
    try:
        filename = unquote(urlsplit(url.split(";")[0].strip()).path).rpartition("/")[2]
        name = parse_wheel_filename(filename)[0] if filename.endswith(".whl") else parse_sdist_filename(filename)[0]
    except (InvalidWheelFilename, InvalidSdistFilename, ValueError):
        return None
    return _requirement_or_none(name)


# Requires-Dist


class HasPython(Protocol):
    """What markers depend on; a Target has it."""

    @property
    def python_version(self) -> str:
        """Such as 3.11."""

    @property
    def platform(self) -> str:
        """Such as linux_armv7l."""


def environment(target: HasPython, *, patch: int = 0) -> dict[str, str]:
    """The marker environment (PEP 508) of CPython on a target, at a patch release of its Python.

    What a target does not say (the kernel's release) is empty.
    """
    full = f"{target.python_version}.{patch}"
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix",
        "platform_machine": target.platform.removeprefix("linux_"),
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": full,
        "python_version": target.python_version,
        "sys_platform": "linux",
    }


def environments(targets: Iterable[HasPython]) -> tuple[dict[str, str], ...]:
    """All that may matter: a target names a minor version of Python, so its first and its last patch release."""
    return tuple(environment(target, patch=patch) for target in targets for patch in (0, LAST_PATCH))


def needed(
    requires_dist: Sequence[str], *, extras: Iterable[str] = (), environments: Sequence[Mapping[str, str]]
) -> dict[str, frozenset[str]]:
    """The projects needed in any of the environments: canonical name → extras asked of it (canonical, PEP 685).

    ``extras``: those of the project itself that are wanted. A requirement or marker that no installer could read
    needs nothing.
    """
    wanted = ("", *(str(canonicalize_name(extra)) for extra in extras))
    contexts = [{**one, "extra": extra} for one in environments for extra in wanted]
    found: dict[str, frozenset[str]] = {}
    for text in requires_dist:
        requirement = _requirement_or_none(text)
        if requirement is not None and applies(requirement, contexts):
            name = str(canonicalize_name(requirement.name))
            more = frozenset(str(canonicalize_name(extra)) for extra in requirement.extras)
            found[name] = found.get(name, frozenset()) | more
    return found


def applies(requirement: Requirement, environments: Iterable[Mapping[str, str]]) -> bool:
    """Whether a requirement's marker is true in any of the environments; one without a marker always applies."""
    marker = requirement.marker
    return marker is None or any(_is_true(marker, one) for one in environments)


def _is_true(marker: Marker, environment: Mapping[str, str]) -> bool:
    try:
        return marker.evaluate({"extra": "", **environment})
    except (UndefinedComparison, UndefinedEnvironmentName, InvalidVersion):
        return False


@lru_cache(maxsize=4096)  # the same few thousand are most of what projects say, and reading one takes long
def _requirement_or_none(text: str) -> Requirement | None:
    if len(text) > MAX_REQUIREMENT:
        return None
    try:
        return Requirement(text)
    except (InvalidRequirement, RecursionError):
        return None
