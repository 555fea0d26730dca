# SPDX-License-Identifier: BSD-3-Clause
"""piw-monitor: see how a running master does, and steer it. No logic: see client and show."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from piwheels.commands import add_common_arguments, run
from piwheels.errors import ExitCode, SettingsError
from piwheels.master.commands import Command, Verb
from piwheels.monitor import show
from piwheels.monitor.client import Client
from piwheels.settings import Settings

FOLLOW = 1.0  #: seconds between two looks at a log


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-monitor",
        description="See how the master on this machine does, and steer it.",
        epilog="Exit status: 0 done; 1 the master refused; 2 wrong arguments or settings; 3 no master answers.",
    )
    add_common_arguments(what)
    actions = what.add_subparsers(dest="action", metavar="ACTION")
    status = actions.add_parser("status", help="show how the farm does (default)")
    status.add_argument("--json", action="store_true", help="as the JSON that the master sends")
    actions.add_parser("watch", help="keep showing it, until Ctrl-C")
    actions.add_parser("pause", help="hand out no more jobs; builds in hand are finished")
    actions.add_parser("resume", help="hand out jobs again")
    skip = actions.add_parser("skip", help="have a running build dropped")
    for word in ("project", "version", "target"):
        skip.add_argument(word, metavar=word.upper())
    slaves = actions.add_parser("slaves", help="list the builders, or steer one")
    slaves.add_argument(
        "wish",
        nargs="?",
        choices=["pause", "resume", "sleep", "wake", "stop", "skip", "kill"],
        help="what BUILDER is to do: take no more jobs (pause or sleep), take them again (resume or wake), "
        "leave (stop), drop its build at its next word (skip); kill ends its build now",
    )
    slaves.add_argument("builder", metavar="BUILDER", nargs="?", help="its number, label, or key; or all")
    slaves.add_argument(
        "--for-good",
        action="store_true",
        help="with kill: the build counts as failed and does not go back to the queue",
    )
    log = actions.add_parser("log", help="show the end of a running build's log")
    log.add_argument(
        "build", metavar="BUILDER|PROJECT", help="a builder's number, label or key, or what is being built"
    )
    log.add_argument("-f", "--follow", action="store_true", help="keep showing it, until the build ends or Ctrl-C")
    return what


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-monitor")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    with Client(settings.paths.run) as client:
        if args.action == "watch":
            return _watch(client)
        if args.action in (None, "status"):
            return _status(client, as_json=getattr(args, "json", False))
        if args.action == "slaves" and args.wish is None:
            snapshot = _snapshot(client)
            _print(show.headline(snapshot), [show.slaves(snapshot)] if not snapshot.get("problem") else [])
            return ExitCode.OK
        if args.action == "log":
            return _log(client, args.build, follow=args.follow)
        if args.action == "slaves" and args.for_good and args.wish != "kill":
            raise SettingsError("--for-good belongs to kill")
        return _steer(client, command_of(args))


def command_of(args: argparse.Namespace) -> Command:
    """The command that the arguments ask for."""
    if args.action == "slaves":
        back = {"back": "no" if args.for_good else "yes"} if args.wish == "kill" else {}
        return Command(Verb(f"slave-{args.wish}"), slave=args.builder or "", **back)
    if args.action == "skip":
        return Command(Verb.SKIP, project=args.project, version=args.version, target=args.target)
    return Command(Verb(args.action))


def _steer(client: Client, command: Command) -> int:
    reply = client.command(command)
    ok = reply.get("ok") is True
    print(reply.get("message", ""), file=sys.stdout if ok else sys.stderr)
    return ExitCode.OK if ok else ExitCode.FAILED


def _snapshot(client: Client) -> dict[str, Any]:
    reply = client.command(Command(Verb.STATUS))
    status = reply.get("status")
    return status if isinstance(status, dict) else {"problem": reply.get("message", "no status")}


def _status(client: Client, *, as_json: bool) -> int:
    snapshot = _snapshot(client)
    if as_json:
        print(json.dumps(snapshot, indent=2))
    else:
        _print(show.headline(snapshot), show.grids(snapshot))
    return ExitCode.FAILED if snapshot.get("problem") else ExitCode.OK


def _log(client: Client, build: str, *, follow: bool) -> int:
    """Show what there is of a log and, if it is to be followed, what comes, until another build has taken its place."""
    token, position = None, 0
    try:
        while True:
            reply = client.command(Command(Verb.LOG, build=build, position=str(position)))
            if reply.get("ok") is not True or (token is not None and reply.get("token") != token):
                return _log_ended(reply, begun=token is not None)
            if token is None:
                print(show.safe_log(str(reply.get("message", ""))), file=sys.stderr)
            token, start, text = reply.get("token"), reply.get("start", 0), reply.get("text", "")
            if start > position:
                print(f"[{start - position} bytes are not kept]")
            sys.stdout.write(show.safe_log(text))
            sys.stdout.flush()
            position = reply.get("position", position)
            if not follow:
                return ExitCode.OK
            time.sleep(FOLLOW)
    except KeyboardInterrupt:
        return ExitCode.OK


def _log_ended(reply: Mapping[str, Any], *, begun: bool) -> int:
    if begun:
        print("the build is over; the site has its whole log", file=sys.stderr)
        return ExitCode.OK
    print(show.safe_log(str(reply.get("message", ""))), file=sys.stderr)
    return ExitCode.FAILED


def _print(head: str, tables: list[show.Grid]) -> None:
    if show.has_rich() and sys.stdout.isatty():
        from rich.console import Console

        Console().print(show.rendering(head, tables))
    else:
        print(show.plain(head, tables))


def _watch(client: Client) -> int:
    try:
        if show.has_rich() and sys.stdout.isatty():
            from rich.live import Live

            with Live(auto_refresh=False, screen=True) as live:
                for snapshot in client.snapshots():
                    live.update(show.rendering(show.headline(snapshot), show.grids(snapshot)), refresh=True)
        else:
            last = ""
            for snapshot in client.snapshots():
                line = show.headline(snapshot)
                if line != last:
                    print(line, flush=True)
                last = line
    except KeyboardInterrupt:
        pass
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
