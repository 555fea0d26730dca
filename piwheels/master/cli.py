# SPDX-License-Identifier: BSD-3-Clause
"""piw-master: the master as a whole, or one of its roles. No logic: see supervisor and role."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from piwheels import logs
from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate
from piwheels.errors import SettingsError
from piwheels.master.role import run_role
from piwheels.master.supervisor import Post, Supervisor
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
    add_common_arguments(what)
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-master")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    work = partial(_role, settings=settings, verbose=args.verbose)
    if args.role is None:
        roles = chosen(args.roles)
        migrate.check(settings.database)  # said once and clearly here, rather than by each role for ever
        for role in roles:
            _module(role)  # once, for all that are forked
        return Supervisor(settings, roles, work=work).run()
    role = Role(args.role)
    if args.roles is not None:
        raise SettingsError("give either ROLE or --roles")
    if not 1 <= args.index <= MAX_INDEX or (args.index > 1 and role is not Role.PUBLISH):
        raise SettingsError(f"--index {args.index}: only publish may run several times, up to {MAX_INDEX}")
    return work(Post(role, args.index))


def _role(post: Post, *, settings: Settings, verbose: bool) -> int:
    """Run it in this process; returns the exit status."""
    logs.configure(post.name, verbose=verbose)
    return run_role(post.role, settings, _module(post.role).run, index=post.index)


def _module(role: Role) -> ModuleType:
    return importlib.import_module(f"piwheels.master.{role.value}")


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
