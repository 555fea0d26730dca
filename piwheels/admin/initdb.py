# SPDX-License-Identifier: BSD-3-Clause
"""piw-initdb: creates or upgrades the schema, after saying what it will do. No logic: see piwheels.db.migrate."""

import argparse
import sys
from collections.abc import Sequence

from piwheels.commands import add_common_arguments, confirm, run
from piwheels.db import migrate
from piwheels.errors import ExitCode
from piwheels.settings import Settings


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-initdb",
        description="Create the farm's schema in the database of the setting database.url, or upgrade it to this "
        "version's. Each step is one transaction: it is done whole or not at all.",
        epilog="Exit status: 0 up to date; 1 not confirmed; 2 wrong arguments or settings; 3 the database "
        "is missing, cannot be reached, refused, or is newer than this piwheels.",
    )
    what.add_argument("-y", "--yes", action="store_true", help="do not ask")
    what.add_argument("--create", action="store_true", help="create the database itself too, if it is missing")
    what.add_argument("--dry-run", action="store_true", help="say what would be done, and end")
    add_common_arguments(what)
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-initdb")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    if args.create and not args.dry_run and migrate.create_database(settings.database):
        print("created the database")
    version, todo = migrate.pending(settings.database)
    if not todo:
        print(f"the schema is up to date (version {version})")
        return ExitCode.OK
    print(f"the schema is at version {version}; to be applied, in order:" if version else "to be created, in order:")
    for migration in todo:
        print(f"  {migration.version:04} {migration.name}")
    if args.dry_run:
        return ExitCode.OK
    if not args.yes:
        confirm("nothing was changed")
    for migration in migrate.upgrade(settings.database):
        print(f"applied {migration.version:04} {migration.name}")
    print(f"the schema is up to date (version {migrate.latest()})")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
