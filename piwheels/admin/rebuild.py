# SPDX-License-Identifier: BSD-3-Clause
"""piw-rebuild: has pages rendered again, and shows how far that is. It marks them; the publish role renders them."""

import argparse
import sys
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from packaging.utils import canonicalize_name
from sqlalchemy import Connection, Engine

from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate, pages, roles, status
from piwheels.db.engine import in_transaction, make_engine
from piwheels.errors import ExitCode, SettingsError, UnavailableError
from piwheels.logs import one_line
from piwheels.master.progress_bar import ProgressBar
from piwheels.settings import Settings
from piwheels.vocabulary import PageKind, Role

T = TypeVar("T")

DEADLINE = 10.0  #: seconds
LOOK = 0.5  #: seconds between two looks at what is left, at least
SHARE = 20  #: a look takes at most one in so many parts of the time: on a big farm it counts many rows
SILENT = timedelta(seconds=30)  #: after which a publish role that says nothing is not there
SHOWN = 20  #: pages in trouble that are listed
REASON = "piw-rebuild"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-rebuild",
        description="Render pages again: a project's index, page and JSON, from what the database says now. Nothing is "
        "built. Pages whose content has changed come first all the while; files that are right already are not "
        "written. May be stopped at any time: what is marked is rendered nevertheless.",
        epilog="Exit status: 0 all are rendered (or, with --no-wait, marked); 1 some cannot be, or there is no such "
        "project; 2 wrong arguments or settings; 3 the database cannot be used, or no publish role runs; 130 stopped.",
    )
    what.add_argument(
        "project", nargs="*", metavar="PROJECT|PATTERN", help="a name, or a pattern such as 'django-*' (in quotes)"
    )
    what.add_argument("--all", action="store_true", help="everything, the list of projects and the home page too")
    what.add_argument("--no-wait", action="store_true", help="mark the pages and leave")
    add_common_arguments(what)
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-rebuild")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    if bool(args.project) == args.all:
        raise SettingsError("give names or patterns of projects, or --all")
    migrate.check(settings.database)
    engine = make_engine(settings.database, name="piw-rebuild")
    try:
        with ProgressBar("marking") as bar:
            marked, unknown = _mark(engine, args.project)
            for name in sorted(unknown):
                print(f"piw-rebuild: there is no project {one_line(name)}", file=sys.stderr)
            if not args.no_wait and marked:
                bar.say(f"{marked} pages are marked")
                _wait(engine, marked, bar)
        if args.no_wait:
            print(f"{marked} pages are marked")
            return ExitCode.FAILED if unknown else ExitCode.OK
        trouble = _do(engine, partial(pages.in_trouble, limit=SHOWN))
    finally:
        engine.dispose()
    print(f"{marked} pages are rendered" + (", but for those in trouble" if trouble else ""))
    for kind, key, why in trouble:
        print(f"piw-rebuild: {kind} {key}: {one_line(why)}; it is tried again by and by", file=sys.stderr)
    return ExitCode.FAILED if trouble or unknown else ExitCode.OK


def _do(engine: Engine, work: Callable[[Connection], T]) -> T:
    return in_transaction(engine, work, deadline=DEADLINE)


def _mark(engine: Engine, wanted: Sequence[str]) -> tuple[int, Collection[str]]:
    """Mark everything, or what is wanted; how many pages, and names that nobody knows."""
    patterns = sorted({word.lower() for word in wanted if any(c in word for c in "*?[")}) if wanted else ["*"]
    names = {str(canonicalize_name(word)) for word in wanted if not any(c in word for c in "*?[")}
    unknown = _do(engine, lambda conn: pages.mark_named(conn, names, REASON)) if names else set()
    marked = len(names) - len(unknown)
    for pattern in patterns:
        found, after = 0, ""
        while True:
            count, after = _do(engine, partial(pages.mark_matching, pattern=pattern, after=after, reason=REASON))
            found += count
            if not after:
                break
        if wanted and not found:
            unknown.add(pattern)
        marked += found
    if not wanted:
        for kind in (PageKind.ROOT, PageKind.HOME, *sorted(pages.BESIDE)):
            _do(engine, partial(pages.mark_all_stale, kind=kind, keys=[""], reason=REASON, background=True))
            marked += 1
    return marked, unknown


def _wait(engine: Engine, marked: int, bar: ProgressBar) -> None:
    """Until no marked page is left but those in trouble; others that wait as long are none of ours, but come first."""
    silent = False
    state = partial(_state, since=_do(engine, status.now))
    while True:
        begun = time.monotonic()
        left, trouble, alive = _do(engine, state)
        bar.show(max(marked - left, 0), marked, line=f"{max(marked - left, 0)} of {marked} rendered", what="rendering")
        if left <= trouble:
            return
        if not alive and silent:
            raise UnavailableError(
                f"no publish role runs; {marked} pages are marked and will be rendered once piw-master runs"
            )
        silent = not alive  # it may be starting
        time.sleep(max(LOOK, SHARE * (time.monotonic() - begun)))


def _state(conn: Connection, *, since: datetime) -> tuple[int, int, bool]:
    """Pages that wait since then or longer; those of them that cannot be rendered for now; whether anybody renders."""
    return *pages.left_of(conn, since), roles.any_alive(conn, Role.PUBLISH, within=SILENT)


if __name__ == "__main__":
    sys.exit(main())
