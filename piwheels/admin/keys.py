# SPDX-License-Identifier: BSD-3-Clause
"""piw-keys: the master's key pair, and which builders' keys are admitted. No logic: see wire.keys and db.slaves."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate, slaves
from piwheels.db.engine import in_transaction, make_engine
from piwheels.errors import ExitCode, SettingsError
from piwheels.settings import DatabaseSettings, Settings
from piwheels.wire import keys

T = TypeVar("T")

DEADLINE = 10.0  #: seconds


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-keys",
        description="The keys by which master and builders know each other (CurveZMQ).",
        epilog="Exit status: 0 done; 2 wrong arguments, settings or key; 3 the database or a file cannot be used.",
    )
    actions = what.add_subparsers(dest="action", metavar="ACTION", required=True)
    master = actions.add_parser("master", help="show the master's public key, making the pair first if there is none")
    enrol = actions.add_parser("enrol", help="admit a builder")
    enrol.add_argument("key", metavar="PUBLICKEY|FILE", help="40 characters, or the builder's .pub file")
    enrol.add_argument("--label", metavar="NAME", default="", help="a name for people")
    listing = actions.add_parser("list", help="list the builders")
    disable = actions.add_parser("disable", help="admit a builder no longer; what it built stays")
    enable = actions.add_parser("enable", help="admit a builder again")
    for action in (disable, enable):
        action.add_argument("builder", metavar="BUILDER", help="number, key, 8 or more characters of it, or label")
    for action in (master, enrol, listing, disable, enable):
        add_common_arguments(action)
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-keys")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    if args.action == "master":
        print(keys.load_or_make(settings.paths.keys / "master.key").public)
        return ExitCode.OK
    if args.action == "enrol":
        public = keys.read_public(args.key)
        if len(args.label) > slaves.MAX_LABEL or not args.label.isprintable():
            raise SettingsError(f"--label: up to {slaves.MAX_LABEL} printable characters")
        number = _transaction(settings.database, lambda conn: slaves.enrol(conn, public, label=args.label))
        print(f"builder {number} is admitted: {public}")
        return ExitCode.OK
    if args.action == "list":
        for slave in _transaction(settings.database, slaves.every):
            print(_line(slave))
        return ExitCode.OK
    _transaction(settings.database, lambda conn: _set_enabled(conn, args.builder, args.action == "enable"))
    print(f"builder {args.builder} is {args.action}d")
    return ExitCode.OK


def _set_enabled(conn: Connection, who: str, enabled: bool) -> None:
    found = slaves.find(conn, who)
    if len(found) != 1:
        raise SettingsError(
            f"{len(found) or 'no'} builder{'s are' if found else ' is'} called {who}; see piw-keys list"
        )
    slaves.set_enabled(conn, found[0].id, enabled)


def _line(slave: slaves.Slave) -> str:
    seen = f"seen {slave.last_seen:%Y-%m-%d %H:%M:%S}" if slave.last_seen else "never seen"
    words = [str(slave.id), slave.key, "enabled" if slave.enabled else "disabled", seen, slave.label]
    return "  ".join(words).rstrip()


def _transaction(settings: DatabaseSettings, work: Callable[[Connection], T]) -> T:
    migrate.check(settings)
    engine = make_engine(settings, name="piw-keys")
    try:
        return in_transaction(engine, work, deadline=DEADLINE)
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
