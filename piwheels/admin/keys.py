# SPDX-License-Identifier: BSD-3-Clause
"""piw-keys: the master's key pair, which builders are admitted, and what they made. No logic: see wire.keys,
db.slaves and db.withdrawal."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from piwheels.commands import add_common_arguments, confirm, run
from piwheels.db import migrate, slaves, withdrawal
from piwheels.db.engine import in_transaction, make_engine
from piwheels.db.withdrawal import Reach
from piwheels.errors import ExitCode, SettingsError
from piwheels.logs import one_line
from piwheels.master.planner import Policy
from piwheels.master.policy import policy_of
from piwheels.master.progress_bar import ProgressBar
from piwheels.settings import DatabaseSettings, Settings
from piwheels.wire import keys
from piwheels.wire.plain import address_key

T = TypeVar("T")

DEADLINE = 10.0  #: seconds
ENROL = (
    "40 characters, or the builder's .pub file; or the IP address from which 0.2x builders may come without encryption "
    "(dispatch.plain_builders)"
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-keys",
        description="The keys by which master and builders know each other (CurveZMQ).",
        epilog="Exit status: 0 done; 1 not confirmed; 2 wrong arguments, settings or key; 3 the database or a file "
        "cannot be used; 70 a fault in piwheels itself.",
    )
    actions = what.add_subparsers(dest="action", metavar="ACTION", required=True)
    master = actions.add_parser("master", help="show the master's public key, making the pair first if there is none")
    enrol = actions.add_parser("enrol", help="admit a builder")
    enrol.add_argument("key", metavar="PUBLICKEY|FILE|ADDRESS", type=str.strip, help=ENROL)
    enrol.add_argument("--label", metavar="NAME", default="", help="a name for people")
    listing = actions.add_parser("list", help="list the builders")
    disable = actions.add_parser("disable", help="admit a builder no longer; what it built stays")
    enable = actions.add_parser("enable", help="admit a builder again")
    rotate = actions.add_parser("rotate", help="admit a builder by a new key, and no longer by the one it had")
    made = actions.add_parser("builds", help="list everything a builder made")
    withdraw = actions.add_parser("withdraw", help="disable a builder and take back everything it made")
    for action in (disable, enable, rotate, made, withdraw):
        words = "number, key, 8 or more characters of it, or label"
        action.add_argument("builder", metavar="BUILDER", type=str.strip, help=words)
    words = "40 characters, or the builder's new .pub file"
    rotate.add_argument("key", metavar="PUBLICKEY|FILE", type=str.strip, help=words)
    for action in (made, withdraw):
        action.add_argument(
            "--since",
            metavar="TIME",
            type=moment,
            help="only builds that ended then or later: 2026-11-21, or 2026-11-21T14:30 (UTC unless it says otherwise)",
        )
    withdraw.add_argument("--yes", action="store_true", help="do not ask")
    for action in (master, enrol, listing, disable, enable, rotate, made, withdraw):
        add_common_arguments(action)
    return what


def moment(word: str) -> datetime:
    """A point in time, ISO 8601."""
    try:
        found = datetime.fromisoformat(word)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{word!r} is not a time such as 2026-11-21T14:30") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), _shielded(sys.argv[1:] if argv is None else argv), "piw-keys")


def _shielded(words: Sequence[str]) -> list[str]:
    """One key in 85 begins with a hyphen, and argparse would take it for an option: a space before it prevents that."""
    return [f" {word}" if word[:1] == "-" != word[1:2] and keys.is_key(word) else word for word in words]


def _work(args: argparse.Namespace, settings: Settings) -> int:
    if args.action == "master":
        print(keys.load_or_make(settings.paths.keys / "master.key").public)
        return ExitCode.OK
    if args.action == "enrol":
        public = address_key(args.key) or keys.read_public(args.key)
        if len(args.label) > slaves.MAX_LABEL or not args.label.isprintable():
            raise SettingsError(f"--label: up to {slaves.MAX_LABEL} printable characters")
        number = _transaction(settings.database, lambda conn: slaves.enrol(conn, public, label=args.label))
        print(f"builder {number} is admitted: {public}")
        return ExitCode.OK
    if args.action == "list":
        for slave in _transaction(settings.database, slaves.every):
            print(_line(slave))
        return ExitCode.OK
    if args.action == "rotate":
        return _rotate(settings, args.builder, args.key)
    if args.action == "builds":
        return _builds(settings, args.builder, args.since)
    if args.action == "withdraw":
        return _withdraw(settings, args.builder, args.since, yes=args.yes)
    _transaction(settings.database, lambda conn: _set_enabled(conn, args.builder, args.action == "enable"))
    print(f"builder {args.builder} is {args.action}d")
    return ExitCode.OK


def _set_enabled(conn: Connection, who: str, enabled: bool) -> None:
    slaves.set_enabled(conn, _one(conn, who).id, enabled)


def _one(conn: Connection, who: str) -> slaves.Slave:
    found = slaves.find(conn, who)
    if len(found) != 1:
        raise SettingsError(
            f"{len(found) or 'no'} builder{'s are' if found else ' is'} called {who}; see piw-keys list"
        )
    return found[0]


# Another key


def _rotate(settings: Settings, who: str, given: str) -> int:
    public = keys.read_public(given)

    def work(conn: Connection) -> slaves.Slave:
        slave = _one(conn, who)
        slaves.rotate(conn, slave.id, public)
        return slave

    slave = _transaction(settings.database, work)
    print(f"builder {slave.id} has the key {public} now; {slave.key} is admitted no longer")
    if not slave.enabled:
        print(f"builder {slave.id} is disabled still")
    return ExitCode.OK


# What a builder made


def _reach(conn: Connection, who: str, since: datetime | None) -> tuple[slaves.Slave, Reach]:
    slave = _one(conn, who)
    return slave, Reach(withdrawal.builders_of(conn, slave.id, slave.key), since)


def _builds(settings: Settings, who: str, since: datetime | None) -> int:
    with _database(settings.database) as do:
        _, reach = do(lambda conn: _reach(conn, who, since))
        after = 0
        while page := do(partial(withdrawal.made, reach=reach, after=after)):
            for build in page:
                print(_made(build))
                for wheel in build.wheels:
                    gone = "  withdrawn" if wheel.withdrawn else ""
                    print(f"    {one_line(wheel.filename)}  {wheel.size}  {wheel.sha256.hex()}{gone}")
            after = page[-1].id
    return ExitCode.OK


def _made(build: withdrawal.Made) -> str:
    result = f"failed: {build.reason}" if build.reason else "success"
    words = [str(build.id), f"{build.finished.astimezone(UTC):%Y-%m-%d %H:%M:%S}", build.project, build.version]
    return one_line("  ".join([*words, build.target, result, *(["superseded"] if build.superseded else [])]))


def _withdraw(settings: Settings, who: str, since: datetime | None, *, yes: bool) -> int:
    with _database(settings.database) as do:
        slave, reach = do(lambda conn: _reach(conn, who, since))
        scope = do(lambda conn: withdrawal.scope(conn, reach))
        print(_intention(slave, since, scope))
        if not yes:
            confirm("nothing was withdrawn")
        # First, so that what it made cannot grow meanwhile; and a result on its way is not recorded any more.
        do(lambda conn: _cut_off(conn, slave, reach))
        done = _withdraw_all(do, reach, total=scope.builds, policy=policy_of(settings))
    print(f"withdrawn: {done.wheels} wheels of {done.builds} builds; builder {slave.id} is disabled")
    return ExitCode.OK


def _intention(slave: slaves.Slave, since: datetime | None, scope: withdrawal.Scope) -> str:
    when = f" since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
    lines = [
        f"builder {slave.id} {slave.label}".rstrip() + f" made {scope.wheels} wheels in {scope.builds} builds of "
        f"{scope.projects} projects{when} that are not withdrawn yet; to be done, in order:",
        "  it is disabled, and nothing comes of what it is building",
        "  its wheels are removed from the index and from the published tree; they cannot be brought back",
        "  its builds count no more: what is still wanted is queued again, for others",
    ]
    return "\n".join(lines)


def _cut_off(conn: Connection, slave: slaves.Slave, reach: Reach) -> None:
    slaves.set_enabled(conn, slave.id, False)
    withdrawal.stop_builds(conn, reach.slave_ids)


def _withdraw_all(do: "Do", reach: Reach, *, total: int, policy: Policy) -> withdrawal.Step:
    builds = wheels = after = 0
    with ProgressBar("withdrawing") as bar:
        while True:
            step = do(partial(withdrawal.withdraw_next, reach=reach, policy=policy, after=after))
            builds, wheels, after = builds + step.builds, wheels + step.wheels, step.after
            bar.show(builds, max(total, builds), line=f"{builds} of {max(total, builds)} builds are withdrawn")
            if step.finished:
                return withdrawal.Step(builds, wheels, after, finished=True)


def _line(slave: slaves.Slave) -> str:
    seen = f"seen {slave.last_seen:%Y-%m-%d %H:%M:%S}" if slave.last_seen else "never seen"
    words = [str(slave.id), slave.key, "enabled" if slave.enabled else "disabled", seen, slave.label]
    return "  ".join(words).rstrip()


class Do(Protocol):
    """Does something in a transaction of its own."""

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        """What the work returns."""


def _transaction(settings: DatabaseSettings, work: Callable[[Connection], T]) -> T:
    with _database(settings) as do:
        return do(work)


@contextmanager
def _database(settings: DatabaseSettings) -> Iterator[Do]:
    migrate.check(settings)
    engine = make_engine(settings, name="piw-keys")

    def do(work: Callable[[Connection], T], /) -> T:
        return in_transaction(engine, work, deadline=DEADLINE)

    try:
        yield do
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
