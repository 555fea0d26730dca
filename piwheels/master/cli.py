# SPDX-License-Identifier: BSD-3-Clause
"""piw-master: the master as a whole, or one of its roles. No logic: see supervisor and role."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from piwheels import logs
from piwheels.commands import add_common_arguments, config_arguments, run
from piwheels.db import migrate
from piwheels.errors import SettingsError
from piwheels.master.role import run_role
from piwheels.master.supervisor import Post, Supervisor
from piwheels.processes import die_with_parent
from piwheels.settings import Settings
from piwheels.vocabulary import Role

MAX_INDEX = 64


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-master",
        description="Run the master: without ROLE all of it, supervised; with ROLE that one process alone.",
        epilog="Exit status: 0 stopped as asked; 2 wrong arguments or settings; 3 database, lock or address not to be "
        "had; 70 a fault in piwheels itself.",
    )
    what.add_argument("role", metavar="ROLE", nargs="?", choices=[role.value for role in Role], help=", ".join(Role))
    what.add_argument("--roles", metavar="ROLE,...", help="supervise only these (default: all)")
    what.add_argument(
        "--index", metavar="N", type=int, default=1, help="which of several processes of the role this is"
    )
    what.add_argument("--parent", metavar="PID", type=int, help=argparse.SUPPRESS)  # set by the supervisor
    add_common_arguments(what)
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-master")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    if args.parent is not None:
        die_with_parent(args.parent)
    if args.role is None:
        roles = chosen(args.roles)
        migrate.check(settings.database)  # said once and clearly here, rather than by each role for ever
        return Supervisor(settings, roles, arguments=config_arguments(args)).run()
    role = Role(args.role)
    if args.roles is not None:
        raise SettingsError("give either ROLE or --roles")
    if not 1 <= args.index <= MAX_INDEX or (args.index > 1 and role is not Role.PUBLISH):
        raise SettingsError(f"--index {args.index}: only publish may run several times, up to {MAX_INDEX}")
    logs.configure(Post(role, args.index).name, verbose=args.verbose)
    module = importlib.import_module(f"piwheels.master.{role.value}")
    return run_role(role, settings, module.run, index=args.index)


def chosen(words: str | None) -> list[Role]:
    """The roles that --roles names, each once."""
    if words is None:
        return list(Role)
    try:
        named = {Role(word.strip()) for word in words.split(",")}
    except ValueError:
        raise SettingsError(f"--roles {words}: there are: {', '.join(Role)}") from None
    return [role for role in Role if role in named]


if __name__ == "__main__":
    sys.exit(main())
