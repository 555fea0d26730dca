# SPDX-License-Identifier: BSD-3-Clause
"""piw-bootstrap: fills a farm with what PyPI has already, and shows how far it is. No logic: see master.bootstrap."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate
from piwheels.db.engine import make_engine
from piwheels.errors import ExitCode, SettingsError
from piwheels.master import feed
from piwheels.master.bootstrap import Bootstrap, Progress
from piwheels.master.progress_bar import ProgressBar
from piwheels.pypi.requirements import read_requirements
from piwheels.settings import Settings


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-bootstrap",
        description="Ask PyPI for the projects that it had before this farm began to follow it. May be stopped and run "
        "again at any time: what was not asked for yet still waits, and the master's feed asks for it, too.",
        epilog="Exit status: 0 all were asked for; 1 some gave no answer that can be used (the feed goes on trying), "
        "or PyPI has none of a name; 2 wrong arguments or settings; 3 the database or PyPI's list of projects is not "
        "to be had; 130 stopped.",
    )
    what.add_argument("project", nargs="*", metavar="PROJECT", help="projects by name")
    what.add_argument(
        "-r", "--requirements", metavar="FILE", type=Path, help="what the file names, and what that depends on"
    )
    what.add_argument("--all", action="store_true", help="everything that PyPI lists and the farm follows")
    add_common_arguments(what)
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-bootstrap")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    if not (args.all or args.requirements or args.project):
        raise SettingsError("nothing to ask for: give names of projects, -r FILE or --all")
    for name in args.project:
        if not feed.is_name(name):
            raise SettingsError(f"{name!r} is not a project name")
    names = [entry.name for entry in feed.entries_of(args.project)]
    requirements = read_requirements(args.requirements) if args.requirements else ()
    migrate.check(settings.database)
    engine = make_engine(settings.database, name="piw-bootstrap")
    try:
        with ProgressBar("asking PyPI") as bar:
            work = Bootstrap(settings, engine, partial(_show, bar))
            ended = asyncio.run(work.run(names=names, requirements=requirements, everything=args.all))
    finally:
        engine.dispose()
    return _told(ended)


def _told(ended: Progress) -> int:
    """Say how it ended; the exit status."""
    left = "nothing left to do"
    if ended.trouble:
        left = f"{ended.trouble} gave no answer that can be used yet: the master's feed goes on trying"
    print(f"{ended.done} projects asked for; {left}")
    if ended.missing:
        some = ", ".join(ended.missing[:10]) + (" …" if len(ended.missing) > 10 else "")
        print(f"piw-bootstrap: PyPI has no project {some}", file=sys.stderr)
    return ExitCode.FAILED if ended.trouble or ended.missing else ExitCode.OK


def _show(bar: ProgressBar, progress: Progress) -> None:
    who = "asking PyPI" if progress.applying else "the master asks PyPI"
    line = f"{who}: {progress.done} of {progress.total} projects"
    bar.show(progress.done, progress.total, line=line, what=who)


if __name__ == "__main__":
    sys.exit(main())
