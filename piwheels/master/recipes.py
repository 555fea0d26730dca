# SPDX-License-Identifier: BSD-3-Clause
"""Recipes: what an operator says of particular projects, as small TOML files. Pure: texts in, recipes out.

What a file may say is told in docs/recipes.rst. All mistakes of all files are found and named with file and line; one
mistake, and nothing is taken from any file. Which recipe a project gets: what is said of a pattern goes before what is
said of its name, a file before those that sort after it, and in a file the upper before the lower; the later wins, key
by key. (apt packages add up, environments are merged by variable.) It must not know files, the database or builders.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

from piwheels.errors import ExitCode, PiwheelsError
from piwheels.master.planner import Rebuild
from piwheels.master.recipe_values import KEYS, Bad, as_plain, hint, pattern_of
from piwheels.master.toml_places import Block, blocks

MAX_FILE = 1024 * 1024  #: bytes of a file
MAX_ENTRIES = 50_000  #: names and patterns in all
MAX_PROBLEMS = 50  #: that are told at a time

HEAD = "recipe"
_WILD = re.compile(r"[*?]")


class RecipeError(PiwheelsError, ValueError):
    """Something is wrong with recipes; ``problems`` has a line for each, which names file and line."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(problems) - 1} more; piw-recipes check shows all)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is said of a project. None, or empty: nothing is."""

    skip: str | None = None  #: why it is not built; empty: it is, whatever a pattern says
    apt: tuple[str, ...] = ()  #: packages that its builder must have
    environment: tuple[tuple[str, str], ...] = ()  #: variables that its build sees, by name
    timeout: timedelta | None = None  #: longest build
    memory: int | None = None  #: most memory that a build may use, in bytes; 0: what the builder allows
    network: bool | None = None  #: whether its code may reach the network
    rebuild: Rebuild | None = None  #: whether PyPI's own wheels count
    prereleases: bool | None = None  #: whether pre-releases are built
    targets: tuple[str, ...] = ()  #: names of the only targets that it is built for; empty: all

    def then(self, later: "Recipe") -> "Recipe":
        """This and what is said later."""
        said: dict[str, Any] = {key: value for key, value in as_values(later).items() if value not in (None, ())}
        if later.apt:
            said["apt"] = tuple(dict.fromkeys((*self.apt, *later.apt)))
        if later.environment:
            said["environment"] = tuple(sorted({**dict(self.environment), **dict(later.environment)}.items()))
        return replace(self, **said)

    @property
    def making(self) -> tuple[object, ...]:
        """What of it reaches the builder: where that changes, a build that failed may succeed."""
        return (self.apt, self.environment, self.timeout, self.memory, self.network)


NOTHING = Recipe()


@dataclass(frozen=True, slots=True)
class Entry:
    """What one place in the files says of one name or pattern."""

    pattern: str  #: a canonical name, or one with * and ?
    recipe: Recipe
    file: str  #: its name within the folder
    line: int

    @property
    def is_exact(self) -> bool:
        """Whether it names one project."""
        return not _WILD.search(self.pattern)


@dataclass(frozen=True, slots=True)
class Source:
    """A file's content."""

    name: str
    content: bytes


@dataclass(slots=True)
class _Found:
    entries: list[Entry] = field(default_factory=list)
    problems: list[tuple[str, int, str]] = field(default_factory=list)  #: file, line, words

    def wrong(self, file: str, line: int, words: str) -> None:
        self.problems.append((file, line, words))


def as_values(recipe: Recipe) -> dict[str, Any]:
    """Its attributes by name."""
    return {one.name: getattr(recipe, one.name) for one in fields(Recipe)}


# From texts to entries


def parse(sources: Iterable[Source]) -> tuple[Entry, ...]:
    """What the files say, in the order in which it is merged. Raises RecipeError, with everything that is wrong."""
    found = _Found()
    for source in sorted(sources, key=lambda one: one.name):
        _read(source, found)
        if len(found.problems) >= MAX_PROBLEMS:
            break
    if found.problems:
        raise RecipeError([f"{file}:{line}: {words}" for file, line, words in sorted(found.problems)[:MAX_PROBLEMS]])
    if len(found.entries) > MAX_ENTRIES:
        raise RecipeError([f"{len(found.entries)} names and patterns are more than the {MAX_ENTRIES} that are taken"])
    return tuple(sorted(found.entries, key=lambda entry: entry.is_exact))


def _read(source: Source, found: _Found) -> None:
    try:
        text, tree = _toml(source)
    except Bad as bad:
        found.wrong(source.name, bad.number or 1, str(bad))
        return
    places = blocks(text)
    for key in tree:
        if key != HEAD:
            line = _line_of(places, key)
            found.wrong(source.name, line, f"unknown key {key}{hint(key, (HEAD,))}; write [[{HEAD}]]")
    listed = tree.get(HEAD, [])
    heads = [block for block in places if block.head == HEAD]
    if not isinstance(listed, list) or len(heads) != len(listed):
        line = heads[0].line if heads else _line_of(places, HEAD)
        found.wrong(source.name, line, f"each recipe begins with [[{HEAD}]], in a line of its own")
        return
    for table, block in zip(listed, heads, strict=True):
        _read_one(source.name, table, block, found)


def _toml(source: Source) -> tuple[str, Mapping[str, Any]]:
    if len(source.content) > MAX_FILE:
        raise Bad(f"longer than {MAX_FILE} bytes: not a file of recipes")
    try:
        text = source.content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = source.content.count(b"\n", 0, error.start) + 1
        raise Bad("not UTF-8 text, as TOML must be", number=line) from error
    try:
        return text, tomllib.loads(text)
    except RecursionError as error:
        raise Bad("nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, and numbers that are too long for Python
        message = str(error)
        match = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$", message)
        line = int(match.group(1)) if match and match.group(1) else text.count("\n") + 1
        raise Bad(f"not TOML: {message[: match.start()] if match else message}"[:300], number=line) from error


def _line_of(places: Sequence[Block], key: str) -> int:
    heads = (block.line for block in places if block.head.split(".")[0] == key)
    return next(heads, places[0].where(key))


def _read_one(file: str, table: Mapping[str, Any], block: Block, found: _Found) -> None:
    said: dict[str, Any] = {}
    before = len(found.problems)
    for key, value in table.items():
        if key == "projects":
            continue
        if key not in KEYS:
            found.wrong(file, block.where(key), f"unknown key {key}{hint(key, ('projects', *KEYS))}")
            continue
        try:
            said[key] = KEYS[key](value)
        except Bad as bad:
            found.wrong(file, block.where(bad.key or key, bad.number), f"{key} {bad}")
    patterns = list(_patterns(file, table, block, found))
    if not said and len(found.problems) == before:
        found.wrong(file, block.line, f"says nothing of its projects{hint('', KEYS)}")
    found.entries += [Entry(pattern, Recipe(**said), file, line) for pattern, line in patterns]


def _patterns(file: str, table: Mapping[str, Any], block: Block, found: _Found) -> Iterator[tuple[str, int]]:
    given = table.get("projects")
    if not isinstance(given, list) or not given:
        what = "is missing: a list of names and patterns" if given is None else "must be a list of names and patterns"
        found.wrong(file, block.where("projects"), f"projects {what}")
        return
    for number, word in enumerate(given):
        line = block.where("projects", number)
        try:
            yield pattern_of(word), line
        except Bad as bad:
            found.wrong(file, line, str(bad))


# To JSON and back, for the database


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """What it says, in JSON's types."""
    return {key: as_plain(value) for key, value in as_values(recipe).items() if value not in (None, ())}


def from_plain(data: Mapping[str, Any]) -> Recipe:
    """Back again; what a newer piwheels may have added is left out."""
    makers: dict[str, Callable[[Any], Any]] = {
        "apt": tuple,
        "environment": lambda pairs: tuple((name, value) for name, value in pairs),
        "timeout": lambda seconds: timedelta(seconds=seconds),
        "rebuild": Rebuild,
        "targets": tuple,
    }
    return Recipe(**{key: makers.get(key, lambda one: one)(value) for key, value in data.items() if key in KEYS})


# Which recipe a project gets


class Book:
    """A set of recipes, for asking which one a project gets."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._exact: dict[str, list[Entry]] = {}
        self._wild = [(matcher(entry.pattern), entry) for entry in entries if not entry.is_exact]
        some = "|".join(f"(?:{_expression(entry.pattern)})" for _, entry in self._wild)
        self._fits_some = re.compile(some, re.DOTALL).fullmatch if some else None  # tells most names at once
        for entry in entries:
            if entry.is_exact:
                self._exact.setdefault(entry.pattern, []).append(entry)

    def parts(self, name: str) -> list[Entry]:
        """All that is said of a project (canonical name), in the order in which it is merged."""
        wild = self._wild if self._fits_some is not None and self._fits_some(name) else []
        return [entry for matches, entry in wild if matches(name)] + self._exact.get(name, [])

    def effective(self, name: str) -> Recipe:
        """What holds for a project."""
        recipe = NOTHING
        for entry in self.parts(name):
            recipe = recipe.then(entry.recipe)
        return recipe


@lru_cache(maxsize=MAX_ENTRIES)
def matcher(pattern: str) -> Callable[[str], object]:
    """Whether a canonical name fits a pattern: ``*`` is any number of characters, ``?`` is one."""
    return re.compile(_expression(pattern), re.DOTALL).fullmatch


def _expression(pattern: str) -> str:
    runs = re.sub(r"\*+", "*", pattern)
    # Possessive: where a star took as little as it could, no other way of sharing out the name can help.
    head, *rest = [re.escape(part).replace(r"\?", ".") for part in runs.split("*")]
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return f"{head}{middle}.*{rest[-1]}" if rest else head


# What a new set changes


def changed(before: Sequence[Entry], after: Sequence[Entry]) -> dict[str, bool]:
    """The names and patterns of which something else is said now, and whether builds that failed may succeed by it.

    Where patterns change places, all that moved count: they may overlap.
    """
    old, new = _keyed(before), _keyed(after)
    touched = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    kept_before = [key for key in old if key in new and _WILD.search(key[0])]
    kept_after = [key for key in new if key in old and _WILD.search(key[0])]
    touched |= {one for one, other in zip(kept_before, kept_after, strict=True) if one != other}
    resets: dict[str, bool] = {}
    for key in sorted(touched):
        making = old.get(key, NOTHING).making != new.get(key, NOTHING).making
        moved = old.get(key) == new.get(key) and old[key].making != NOTHING.making
        resets[key[0]] = resets.get(key[0], False) or making or moved
    return resets


def _keyed(entries: Sequence[Entry]) -> dict[tuple[str, int], Recipe]:
    """Entries by pattern and how many there were of it before, in order."""
    seen: dict[str, int] = {}
    keyed = {}
    for entry in entries:
        seen[entry.pattern] = number = seen.get(entry.pattern, -1) + 1
        keyed[entry.pattern, number] = entry.recipe
    return keyed
