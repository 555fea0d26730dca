# SPDX-License-Identifier: BSD-3-Clause
"""The folder of recipe files: reading it, and noticing that it changed. What files mean is master/recipes' business.

A file is one whose name ends in ``.toml`` and does not begin with a dot. They are few and small, so whether they
changed is told by reading them: no clock and no editor's habits can hide a change.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from piwheels.master.recipes import MAX_FILE, Entry, RecipeError, Source, parse

MAX_FILES = 1000


def read_folder(folder: Path) -> list[Source]:
    """The files' contents, by name. Raises RecipeError."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except OSError as error:
        raise RecipeError([f"cannot read recipes from {folder}: {error.strerror or error}"]) from error
    if len(paths) > MAX_FILES:
        raise RecipeError([f"{folder} has {len(paths)} files; {MAX_FILES} are the most that are read"])
    return [_read(path) for path in paths]


def _read(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            return Source(path.name, file.read(MAX_FILE + 1))
    except OSError as error:
        raise RecipeError([f"{path.name}:1: cannot be read: {error.strerror or error}"]) from error


def entries_of(folder: Path) -> tuple[Entry, ...]:
    """What the folder says now. Raises RecipeError."""
    return parse(read_folder(folder))


class Folder:
    """A folder that is looked at now and then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: object = None

    def news(self) -> tuple[Entry, ...] | None:
        """What the folder says, if that is not what it said at the last look; None: it is.

        Raises RecipeError once for each state in which it makes no sense.
        """
        try:
            sources = read_folder(self.path)
        except RecipeError as error:
            if self._last == error.problems:
                return None
            self._last = error.problems
            raise
        digest = _digest(sources)
        if digest == self._last:
            return None
        self._last = digest
        return parse(sources)


def _digest(sources: Sequence[Source]) -> bytes:
    whole = hashlib.sha256()
    for source in sources:
        whole.update(hashlib.sha256(source.name.encode("utf-8", "surrogateescape")).digest())
        whole.update(hashlib.sha256(source.content).digest())
    return whole.digest()
