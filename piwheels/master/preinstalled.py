# SPDX-License-Identifier: BSD-3-Clause
"""Lists of Debian packages that a target's users have anyway, from whatever lists them. Pure.

A list may be names (one or several to a line, # begins a comment), or the output of ``dpkg -l``, ``dpkg-query -W``,
``dpkg --get-selections`` or ``apt list --installed``, or dpkg's own status file. Of a list that says so, only what is
installed counts. Must not know where texts come from.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from piwheels.master.targets import MAX_PREINSTALLED, TargetError

MAX_LIST = 32 * 1024 * 1024  #: bytes; dpkg's status file of a desktop has about 3 MB

_NAME = r"([a-z0-9][a-z0-9+.-]{1,99})(?::[a-z0-9-]+)?"  # libc6:armhf
_ARCHITECTURES = r"(?:all|amd64|i386|armhf|armel|arm64|riscv64|ppc64el|s390x|mips64el|loong64)"


@dataclass(frozen=True, slots=True)
class _Form:
    """One program's way of listing packages."""

    line: re.Pattern[str]  #: the name is its first group
    rest: re.Pattern[str]  #: what else may stand in such a list


_FORMS = (
    _Form(  # dpkg -l: desired, state and error in three letters
        re.compile(rf"[hi][i ]? +{_NAME} +\S+ +{_ARCHITECTURES}(?: .*)?"),
        re.compile(r"[uihrp][ncHUFWti]R? +.*|Desired=.*|\|.*|\+\+\+-.*|\s*"),
    ),
    _Form(  # apt list --installed
        re.compile(rf"{_NAME}/\S* \S+ {_ARCHITECTURES} \[.*(?:installed|upgradable).*\]"),
        re.compile(r"[^ ]+/\S* \S+ \S+(?: \[.*\])?|Listing\.\.\..*|WARNING: .*|\s*"),
    ),
    _Form(  # dpkg --get-selections
        re.compile(rf"{_NAME}\s+(?:install|hold)"), re.compile(r"\S+\s+(?:deinstall|purge|unknown)|\s*")
    ),
    _Form(re.compile(rf"{_NAME}\t[0-9][^\s]*"), re.compile(r"\S+\t|\s*")),  # dpkg-query -W: no version: not installed
)
_STANZA = re.compile(r"^Package: +(\S+)\n(?:(?!\n).+\n)*?Status: +\S+ +ok +installed$", re.MULTILINE)


def packages(text: str, *, name: str) -> tuple[str, ...]:
    """The packages of a list, sorted; ``name`` is the list's. Raises TargetError, with the line that makes no sense."""
    if text.startswith("Package: ") or "\n\nPackage: " in text:
        found = [match.group(1) for match in _STANZA.finditer(text)]
    else:
        found = list(_lines(text, name))
    if not found:
        raise TargetError(f"{name}: no package is listed there")
    if len(set(found)) > MAX_PREINSTALLED:
        raise TargetError(f"{name}: {len(set(found))} packages are more than the {MAX_PREINSTALLED} that are taken")
    return tuple(sorted(set(found)))


def _lines(text: str, name: str) -> Iterator[str]:
    read = _reader(text)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            yield from read(line)
        except ValueError as error:
            raise TargetError(f"{name}:{number}: {error}") from error


def _reader(text: str) -> Callable[[str], list[str]]:
    """What reads a line of this list: that of the first form that every one of its first lines has."""
    head = text.splitlines()[:20]
    for form in _FORMS:
        named = sum(bool(form.line.fullmatch(line)) for line in head)
        if named and all(form.line.fullmatch(line) or form.rest.fullmatch(line) for line in head):
            return lambda line, form=form: _of_form(form, line)  # type: ignore[misc]
    return _plain


def _of_form(form: _Form, line: str) -> list[str]:
    if match := form.line.fullmatch(line):
        return [match.group(1)]
    if not form.rest.fullmatch(line):
        raise ValueError(f"{line.strip()[:60]!r} is not a line of such a list")
    return []


def _plain(line: str) -> list[str]:
    found = []
    for word in line.partition("#")[0].replace(",", " ").split():
        match = re.fullmatch(_NAME, word)
        if match is None:
            raise ValueError(f"{word[:60]!r} is not the name of a Debian package")
        found.append(match.group(1))
    return found
