# SPDX-License-Identifier: BSD-3-Clause
"""piw-dump: writes the metadata dump now. No logic: see piwheels.master.dump."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate
from piwheels.db.engine import make_engine
from piwheels.errors import ExitCode, SettingsError
from piwheels.master import dump
from piwheels.settings import Settings
from piwheels.site.facts import DumpFacts

logger = logging.getLogger(__name__)

MOST_DAYS = 36_500


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-dump",
        description="Write PyPI's JSON of every project that changed lately, as one JSON array compressed with zstd: "
        "into the published tree, with the page that says what it is, or elsewhere.",
        epilog="Exit status: 0 written; 1 the file cannot be written; 2 wrong arguments or settings; 3 database not to "
        "be had, or another dump is being written; 70 a fault in piwheels itself.",
    )
    which = what.add_mutually_exclusive_group()
    which.add_argument(
        "--window", metavar="DAYS", type=days, help="projects that changed within so many days (default: dump.window)"
    )
    which.add_argument("--all", action="store_true", help="all projects that are known")
    what.add_argument(
        "--output",
        metavar="FILE",
        help="write there, without a page; - is standard output (default: the published tree)",
    )
    add_common_arguments(what)
    return what


def days(word: str) -> timedelta:
    """A number of days; fractions are allowed."""
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of days above 0, up to {MOST_DAYS}")
    return timedelta(days=number)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-dump")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    window = timedelta(0) if args.all else args.window or settings.dump.window
    if args.output == "-" and sys.stdout.isatty():
        raise SettingsError("--output -: compressed data is not for a terminal; use a pipe or a file")
    migrate.check(settings.database)
    begun = time.monotonic()
    facts = _write(args.output, settings, window)
    logger.info("%s", dump.words(facts, seconds=time.monotonic() - begun))
    return int(ExitCode.OK)


def _write(output: str | None, settings: Settings, window: timedelta) -> DumpFacts:
    engine = make_engine(settings.database, name="piw-dump")
    try:
        if output is None:
            return dump.to_site(settings, engine, window=window)
        if output != "-":
            return dump.to_file(engine, Path(output).absolute(), window=window)
        return _to_stdout(engine, window)
    finally:
        engine.dispose()


def _to_stdout(engine: Engine, window: timedelta) -> DumpFacts:
    try:
        return dump.to_stream(engine, sys.stdout.buffer, window=window)
    except BaseException:  # what is left in the buffer must not fail once more, and differently, when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


if __name__ == "__main__":
    sys.exit(main())
