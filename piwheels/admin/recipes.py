# SPDX-License-Identifier: BSD-3-Clause
"""piw-recipes: checks, applies and shows what is said of particular projects. No logic: see master.recipes and
db.recipes."""

import argparse
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Engine

from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate, recipe_planning, recipes
from piwheels.db import targets as target_rows
from piwheels.db.engine import in_transaction, make_engine
from piwheels.errors import ExitCode, SettingsError
from piwheels.master.policy import policy_of
from piwheels.master.recipe_folder import entries_of
from piwheels.master.recipe_values import Bad, pattern_of
from piwheels.master.recipes import Book, Entry, Recipe, RecipeError, to_plain
from piwheels.settings import Settings

DEADLINE = 30.0  #: seconds
LOOK = 0.2  #: seconds between two looks at what others plan


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-recipes",
        description="What is said of particular projects: why one is not built, or what building it takes. The master "
        "applies the folder of the setting recipes.folder by itself, when it starts and when a file changes.",
        epilog="Exit status: 0 done; 2 something is wrong with a recipe (a line for each mistake, with its file and "
        "line; nothing is applied), or with arguments or settings; 3 the database cannot be used; 130 stopped.",
    )
    actions = what.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="say what is wrong with the files of a folder; needs no database")
    apply = actions.add_parser("apply", help="put a folder's recipes in force, and plan anew what they concern")
    for action in (check, apply):
        action.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="default: setting recipes.folder")
    apply.add_argument("--no-wait", action="store_true", help="leave the planning to the running master")
    listing = actions.add_parser("list", help="list the recipes in force, in the order in which they are merged")
    show = actions.add_parser("show", help="show what holds for a project, and where that is said")
    show.add_argument("name", metavar="PROJECT")
    for action in (check, apply, listing, show):
        add_common_arguments(action)
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-recipes")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    if args.action == "check":
        entries = _entries(_folder(args, settings))
        return ExitCode.USAGE if entries is None else _say(f"{len(entries)} recipes, nothing wrong with them")
    migrate.check(settings.database)
    engine = make_engine(settings.database, name="piw-recipes")
    try:
        if args.action == "apply":
            return _apply(args, settings, engine)
        book = in_transaction(engine, recipes.book, deadline=DEADLINE)
        lines = _listing(book.entries) if args.action == "list" else _shown(book, args.name)
        for line in lines:
            print(line)
    finally:
        engine.dispose()
    return ExitCode.OK


def _say(words: str) -> int:
    print(words)
    return ExitCode.OK


def _folder(args: argparse.Namespace, settings: Settings) -> Path:
    given: Path | None = args.folder
    folder = given or settings.recipes.folder
    if folder is None:
        raise SettingsError("give a FOLDER, or set recipes.folder")
    return folder


def _entries(folder: Path) -> tuple[Entry, ...] | None:
    """What the folder says; None: something is wrong, which has been said."""
    try:
        return entries_of(folder)
    except RecipeError as error:
        for problem in error.problems:
            print(f"piw-recipes: {problem}", file=sys.stderr)
        return None


# Applying


def _apply(args: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    folder, own = _folder(args, settings), settings.recipes.folder
    if own is not None and folder.absolute() != own.absolute():
        raise SettingsError(f"the master applies {own} by itself (recipes.folder); put recipes there, or unset that")
    entries = _entries(folder)
    if entries is None:
        return ExitCode.USAGE
    changed = in_transaction(engine, lambda conn: recipes.apply(conn, entries), deadline=DEADLINE)
    print(f"{len(entries)} recipes in force; changed: {len(changed.names)} names, {len(changed.patterns)} patterns")
    _warn(engine, entries)
    if not args.no_wait:
        _plan(engine, settings)
    return ExitCode.OK


def _warn(engine: Engine, entries: Iterable[Entry]) -> None:
    known = {target.name for target in in_transaction(engine, target_rows.every, deadline=DEADLINE)}
    for entry in entries:
        if unknown := set(entry.recipe.targets) - known:
            print(
                f"piw-recipes: {entry.file}:{entry.line}: there is no target {', '.join(sorted(unknown))} yet",
                file=sys.stderr,
            )


def _plan(engine: Engine, settings: Settings) -> None:
    """Plan anew what the changes concern, together with the master if that does so too."""
    work = partial(recipe_planning.replan_next, policy=policy_of(settings))
    planned = shown = 0
    while not (batch := in_transaction(engine, work, deadline=DEADLINE)).finished:
        planned += batch.projects
        if planned >= shown + 1000:
            shown = planned
            print(f"planned {planned} projects anew, and on", file=sys.stderr)
        if batch.busy:
            threading.Event().wait(LOOK)
    if planned:
        print(f"planned {planned} projects anew")


# Showing


def _listing(entries: Sequence[Entry]) -> Iterator[str]:
    if not entries:
        yield "no recipes are in force"
    for entry in entries:
        yield f"{entry.pattern}  {' '.join(_words(entry.recipe))}  ({entry.file}:{entry.line})"


def _shown(book: Book, word: str) -> Iterator[str]:
    try:
        name = pattern_of(word)
    except Bad as bad:
        raise SettingsError(str(bad)) from bad
    if "*" in name or "?" in name:
        raise SettingsError(f"{word!r} is a pattern; show takes a project's name")
    parts = book.parts(name)
    if not parts:
        yield f"nothing is said of {name}"
        return
    yield f"{name}: {' '.join(_words(book.effective(name)))}"
    for entry in parts:
        yield f"  {entry.file}:{entry.line} of {entry.pattern}: {' '.join(_words(entry.recipe))}"


def _words(recipe: Recipe) -> list[str]:
    """What it says as it may be written in a file, one word a key."""
    said = to_plain(recipe)
    if "environment" in said:
        said["environment"] = dict(said["environment"])
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in said.items()]


if __name__ == "__main__":
    sys.exit(main())
