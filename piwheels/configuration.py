# SPDX-License-Identifier: BSD-3-Clause
"""Reading and showing settings: file < environment < flags, every complaint with the place it is about.

Owns texts and their meaning; what settings there are is piwheels.settings' business. Standard library only.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from piwheels import faults
from piwheels.errors import SettingsError
from piwheels.settings import Settings

PREFIX = "PIWHEELS_"
MAX_FILE = 1024 * 1024  #: bytes; a longer settings file is some other file

SECTIONS: dict[str, dict[str, Field[Any]]] = {
    section.name: {key.name: key for key in fields(section.type)}  # type: ignore[arg-type]
    for section in fields(Settings)
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings, and for each that was given: where (``section.key`` -> "file.toml:3", "$NAME" or "--set")."""

    settings: Settings
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Given:
    """One value as it was written, and where."""

    section: str
    key: str
    value: object  #: text from environment and flags, TOML's own types from a file
    place: str
    folder: Path  #: what relative paths are relative to


def read(path: Path | None, environ: Mapping[str, str], overrides: Sequence[str]) -> Reading:
    """See :func:`piwheels.settings.load`."""
    values: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    origins: dict[str, str] = {}
    for given in [*_from_file(path), *_from_environment(environ), *_from_flags(overrides)]:
        values[given.section][given.key] = _understand(given)
        origins[f"{given.section}.{given.key}"] = given.place
    sections = {section.name: section.type(**values[section.name]) for section in fields(Settings)}  # type: ignore[operator]
    return Reading(Settings(**sections), origins)


# Where values come from.


def _from_file(path: Path | None) -> Iterator[_Given]:
    if path is None:
        return
    text = _text_of(path)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_toml_complaint(path, text, error)) from error
    for section, content in tree.items():
        if section not in SECTIONS:
            raise SettingsError(
                f"{path}:{_line(text, section, None)}: unknown section [{section}]{_hint(section, SECTIONS)}"
            )
        if not isinstance(content, dict):
            raise SettingsError(f"{path}:{_line(text, section, None)}: {section} is a section: write [{section}]")
        for key, value in content.items():
            place = f"{path}:{_line(text, section, key)}"
            _known(section, key, place)
            yield _Given(section, key, value, place, path.absolute().parent)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise SettingsError(f"cannot read settings from {path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE:
        raise SettingsError(f"{path} is longer than {MAX_FILE} bytes: not a settings file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: not UTF-8 text, as TOML must be") from error


def _toml_complaint(path: Path, text: str, error: tomllib.TOMLDecodeError) -> str:
    # tomllib before Python 3.14 tells the place only in its message.
    message = str(error)
    match = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$", message)
    line = match.group(1) if match and match.group(1) else str(text.count("\n") + 1)
    return f"{path}:{line}: not TOML: {message[: match.start()] if match else message}"


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == faults.VARIABLE:
            continue
        section, _, key = name.removeprefix(PREFIX).lower().partition("_")
        place = f"${name}"
        if section not in SECTIONS:
            every = [f"{PREFIX}{s}_{k}".upper() for s, keys in SECTIONS.items() for k in keys]
            raise SettingsError(f"{place}: no setting has that name{_hint(name, every)}")
        _known(section, key, place)
        yield _Given(section, key, environ[name], place, Path.cwd())


def _from_flags(overrides: Sequence[str]) -> Iterator[_Given]:
    for flag in overrides:
        name, equals, value = flag.partition("=")
        section, dot, key = name.strip().partition(".")
        place = f"--set {flag}"
        if not equals or not dot:
            raise SettingsError(f"{place}: write --set section.key=value")
        if section not in SECTIONS:
            raise SettingsError(f"{place}: unknown section {section}{_hint(section, SECTIONS)}")
        _known(section, key, place)
        yield _Given(section, key, value, place, Path.cwd())


def _known(section: str, key: str, place: str) -> None:
    if key not in SECTIONS[section]:
        raise SettingsError(f"{place}: unknown key {key} in section {section}{_hint(key, SECTIONS[section])}")


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(list(known)[:30])}"


def _line(text: str, section: str, key: str | None) -> int:
    """The line that holds a key (or a section's head): TOML's own reader forgets it. Good enough for plain files."""
    here = ""
    found = 1
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if head:
            here = head.group(1).strip("\"'")
            if here == section:
                found = number
                if key is None:
                    return number
            continue
        name = re.match(r"\s*([\w.\"'-]+?)\s*=", line)
        dotted = name and (f"{here}." if here else "") + name.group(1).replace('"', "").replace("'", "")
        if dotted and (dotted == f"{section}.{key}" or (key is None and dotted.split(".")[0] == section)):
            return number
        if dotted == section:  # section = { key = ... }
            found = number
    return found


# What values mean.


def _understand(given: _Given) -> object:
    """The value in its setting's type, checked."""
    declared = SECTIONS[given.section][given.key]
    name = f"{given.section}.{given.key}"
    try:
        value = _convert(given.value, declared.type, given.folder)
    except ValueError as error:
        raise SettingsError(f"{given.place}: {name} {error}, not {_quoted(given.value)}") from error
    check = declared.metadata["check"]
    wrong = check(value) if check else None
    if wrong:
        raise SettingsError(f"{given.place}: {name} = {_quoted(given.value)} {wrong}")
    return value


def _quoted(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= 120 else text[:117] + "..."


def _convert(value: object, kind: object, folder: Path) -> object:
    """Into str, int, bool, Path (or None), timedelta or tuple of str; ValueError says what it must be."""
    if kind is bool:
        return _boolean(value)
    if kind is int:
        return _integer(value)
    if kind is timedelta:
        return _duration(value)
    if kind == Path | None:
        return None if value == "" else _convert(value, Path, folder)
    if kind is Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("must be a path")
        return folder.absolute() / value
    if kind is str:
        if not isinstance(value, str) or any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise ValueError("must be one line of text")
        return value
    return _words(value)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return value.lower() in ("true", "yes", "on", "1")
    raise ValueError("must be true or false")


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9][0-9_]{0,30}\s*", value):
        return int(value)
    raise ValueError("must be a whole number")


def _duration(value: object) -> timedelta:
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        if math.isfinite(seconds):
            return timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a number of seconds")


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(re.split(r"[\s,]+", value.strip(", \t\r\n"))) if value.strip(", \t\r\n") else ()
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    raise ValueError("must be a list of words")


# Showing.


def render(settings: Settings, origins: Mapping[str, str]) -> str:
    """See :func:`piwheels.settings.show`."""
    return "\n".join(_render_lines(settings, origins)) + "\n"


def _render_lines(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    for number, (section, keys) in enumerate(SECTIONS.items()):
        part = getattr(settings, section)
        yield from [""] if number else []
        yield f"# {(type(part).__doc__ or '').strip()}"
        yield f"[{section}]"
        for key, declared in keys.items():
            origin = origins.get(f"{section}.{key}")
            yield f"# {declared.metadata['help']}" + (f" (from {origin})" if origin else "")
            yield f"{key} = {_toml(getattr(part, key))}"


def _toml(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.15g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(word) for word in value) + "]"
    if isinstance(value, Path) or value is None:
        value = str(value or "")
    return json.dumps(value, ensure_ascii=False)  # for these types JSON's spelling is TOML's
