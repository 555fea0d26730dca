# SPDX-License-Identifier: BSD-3-Clause
"""piw-queue: what is to be built, and why or why not. No logic: see db.requests and master.why."""

import argparse
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine

from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate, requests, status, why
from piwheels.db.engine import in_transaction, make_engine
from piwheels.db.requests import Listed, Requested
from piwheels.errors import ExitCode
from piwheels.master.planner import Policy
from piwheels.master.policy import policy_of
from piwheels.master.targets import Target
from piwheels.settings import Settings

DEADLINE = 10.0  #: seconds
LINES = 20
MOST_LINES = 10_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-queue",
        description="What is to be built, in which order, and why or why not. Each target has its own queue, since "
        "a builder serves one target: operator's requests, then new releases, then retries, then the backlog; inside "
        "each, projects with more downloads first, then newer releases.",
        epilog="Exit status: 0 done; 1 no such project, release or target, or nothing of what was requested can be "
        "built; 2 wrong arguments or settings; 3 the database cannot be used; 70 a fault in piwheels itself.",
    )
    actions = what.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show what is queued for a target, the next first")
    listing.add_argument("target", metavar="TARGET")
    listing.add_argument(
        "--lines", metavar="NUMBER", type=number, default=LINES, help="how many (default: %(default)s)"
    )
    kind = listing.add_mutually_exclusive_group()
    kind.add_argument("--resting", action="store_true", help="those that wait for their next try")
    kind.add_argument("--building", action="store_true", help="those that are being built")
    because = actions.add_parser("why", help="say why a release is, or is not, built for a target")
    because.add_argument("project", metavar="PROJECT")
    because.add_argument("version", metavar="VERSION")
    because.add_argument("target", metavar="TARGET")
    request = actions.add_parser("request", help="build a release before everything else, whatever failed before")
    retry = actions.add_parser("retry", help="try a release again that failed, in its turn")
    for action in (request, retry):
        action.add_argument("project", metavar="PROJECT")
        action.add_argument("version", metavar="VERSION", nargs="?", help="default: the newest that is built here")
        action.add_argument("target", metavar="TARGET", nargs="?", help="default: all that are enabled")
    for action in (listing, because, request, retry):
        add_common_arguments(action)
    return what


def number(word: str) -> int:
    """A number of lines."""
    if not word.isdecimal() or not 0 < int(word[:9]) <= MOST_LINES:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from 1 to {MOST_LINES}")
    return int(word)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-queue")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    migrate.check(settings.database)
    engine = make_engine(settings.database, name="piw-queue")
    policy = policy_of(settings)
    try:
        if args.action == "list":
            return _list(args, engine)
        if args.action == "why":
            return _why(args, engine, policy)
        return _request(args, engine, policy)
    finally:
        engine.dispose()


def _list(args: argparse.Namespace, engine: Engine) -> int:
    def work(conn: Connection) -> tuple[Target, requests.Counts, list[Listed], datetime]:
        target = requests.target_named(conn, args.target)
        which = requests.resting if args.resting else requests.leased if args.building else requests.first
        return target, requests.counts(conn, target), which(conn, target, limit=args.lines), status.now(conn)

    target, counts, jobs, now = in_transaction(engine, work, deadline=DEADLINE)
    disabled = "" if target.enabled else " (disabled)"
    print(f"{target.name}{disabled}: {counts.waiting} waiting, {counts.resting} resting, {counts.leased} being built")
    for job in jobs:
        print(_line(job, now))
    return int(ExitCode.OK)


def _line(job: Listed, now: datetime) -> str:
    words = [f"{job.project} {job.version}", job.priority.name.lower(), f"{job.downloads} downloads"]
    if job.strikes:
        words.append(f"{job.strikes} strike{'s' if job.strikes > 1 else ''}")
    for kind, value in (("memory", job.need.memory), ("disk", job.need.disk), ("time", job.need.time)):
        if value:
            words.append(f"{kind} class {value}")
    if job.started is not None:
        words.append(f"with {job.builder} for {requests.in_words(now - job.started)}")
    elif job.ready_at > now:
        words.append(f"in {requests.in_words(job.ready_at - now)}")
    return "  " + ", ".join(words)


def _why(args: argparse.Namespace, engine: Engine, policy: Policy) -> int:
    def work(conn: Connection) -> list[str]:
        requests.target_named(conn, args.target)
        return why.explain(conn, args.project, args.version, args.target, policy=policy)

    for line in in_transaction(engine, work, deadline=DEADLINE):
        print(line)
    return int(ExitCode.OK)


def _request(args: argparse.Namespace, engine: Engine, policy: Policy) -> int:
    urgent = args.action == "request"

    def work(conn: Connection) -> tuple[Requested, list[str]]:
        target = requests.target_named(conn, args.target) if args.target else None
        done = requests.request(conn, args.project, args.version, target, policy=policy, urgent=urgent)
        reasons = [why.explain(conn, done.project, done.version, name, policy=policy)[0] for name in done.left]
        return done, reasons

    done, reasons = in_transaction(engine, work, deadline=DEADLINE)
    if done.forgotten:
        print(f"{done.project} {done.version}: {done.forgotten} failed build{'s'[: done.forgotten != 1]} forgotten")
    for name in done.queued:
        print(f"{done.project} {done.version}, {name}: in the queue{', before everything else' if urgent else ''}")
    for name in done.building:
        print(f"{done.project} {done.version}, {name}: being built already")
    for line in reasons:
        print(line)
    return int(ExitCode.OK if done.queued or done.building else ExitCode.FAILED)
