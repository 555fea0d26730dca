# SPDX-License-Identifier: BSD-3-Clause
"""piw-target: what the farm builds for. No logic: see db.targets, master.targets and master.preinstalled."""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.tags import Tag
from sqlalchemy import Engine

from piwheels.commands import add_common_arguments, run
from piwheels.db import migrate, target_change
from piwheels.db import targets as rows
from piwheels.db.engine import in_transaction, make_engine
from piwheels.db.target_change import Changed
from piwheels.errors import ExitCode, SettingsError, UnavailableError, WheelError
from piwheels.master import preinstalled
from piwheels.master.target_watch import Watch, words
from piwheels.master.targets import NATIVE, PRESETS, Target, TargetError, aliases, native
from piwheels.settings import Settings
from piwheels.wheelfile import parse_wheel_name

DEADLINE = 10.0  #: seconds


def parser() -> argparse.ArgumentParser:
    """The command line."""
    what = argparse.ArgumentParser(
        prog="piw-target",
        description="What the farm builds for: each target is a Python, an ABI, a platform and a distribution. Changes "
        "hold at once; what there is to build for a target is planned by the running master, in the background.",
        epilog="Exit status: 0 done; 1 no target takes the wheel (action accepts); 2 wrong arguments or settings, or a "
        "target that contradicts itself; 3 the database or a file cannot be used; 130 stopped.",
    )
    actions = what.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the targets, oldest first, and how far planning for them is")
    add = actions.add_parser("add", help="add a target: a preset by its name, this machine's own, or one by its parts")
    _add_arguments(add)
    enable = actions.add_parser("enable", help="build for a target")
    disable = actions.add_parser("disable", help="build for a target no more; what was built for it stays")
    order = actions.add_parser("order", help="put targets in order, oldest first; a probe build is on the oldest")
    order.add_argument("names", nargs="+", metavar="NAME", help="those not named follow, in the order they have")
    show = actions.add_parser("show", help="show a target, or a preset, with all its parts")
    show.add_argument("--tags", action="store_true", help="list every wheel tag that an installer there accepts")
    accepts = actions.add_parser("accepts", help="show which targets take a wheel")
    accepts.add_argument("wheel", metavar="WHEEL", help="a wheel's file name")
    for action in (enable, disable, show):
        action.add_argument("name", metavar="NAME")
    for action in (add, enable, disable, order):
        action.add_argument("--wait", action="store_true", help="show the planning until it is finished")
    for action in (listing, add, enable, disable, order, show, accepts):
        add_common_arguments(action)
    return what


def _add_arguments(add: argparse.ArgumentParser) -> None:
    add.add_argument("name", metavar="NAME", help=f"{', '.join(PRESETS)}, native, or a name of your own")
    add.add_argument("--like", metavar="NAME", help="begin with what this target, or preset, is")
    add.add_argument("--python", metavar="X.Y", help="Python's version")
    add.add_argument("--abi", metavar="TAG", help="ABI tag (default: the Python's ordinary one, e.g. cp313)")
    add.add_argument("--platform", metavar="TAG", help="what its builders announce, e.g. linux_armv7l")
    add.add_argument("--libc", metavar="NAME-X.Y", help="C library, e.g. glibc-2.36; its platform tags follow from it")
    add.add_argument(
        "--alias", metavar="TAG", action="append", default=[], help="a further platform tag accepted; may be repeated"
    )
    add.add_argument("--distribution", metavar="NAME", help="code name of its distribution, e.g. bookworm")
    add.add_argument("--rank", metavar="NUMBER", type=int, help="its place in the order (default: the last)")
    add.add_argument(
        "--preinstalled",
        metavar="FILE",
        action="append",
        default=[],
        help="apt packages that its users have anyway: names, or the output of dpkg -l, dpkg-query -W or apt list; "
        "- is standard input; may be repeated",
    )
    add.add_argument("--preinstalled-here", action="store_true", help="the apt packages that are installed here")
    add.add_argument("--disabled", action="store_true", help="do not build for it yet")
    add.add_argument("--update", action="store_true", help="change a target that is there already")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), argv, "piw-target")


def _work(args: argparse.Namespace, settings: Settings) -> int:
    migrate.check(settings.database)
    engine = make_engine(settings.database, name="piw-target")
    try:
        watch = Watch(engine)
        targets = in_transaction(engine, rows.every, deadline=DEADLINE)
        if args.action in ("list", "show", "accepts"):
            return _look(args, targets, watch)
        before = watch.progress()
        changed = _change(args, engine, targets)
        print(changed.words)
        if changed.plans and args.wait:
            watch.follow(before)
        elif changed.plans:
            print("the running master plans what there is to build; piw-target list shows how far it is")
    finally:
        engine.dispose()
    return ExitCode.OK


def _change(args: argparse.Namespace, engine: Engine, targets: Sequence[Target]) -> Changed:
    if args.action == "add":
        wanted = _wanted(args, {target.name: target for target in targets})
        return target_change.add(engine, wanted, update=args.update)
    if args.action == "order":
        return target_change.order(engine, args.names)
    return target_change.switch(engine, args.name, enabled=args.action == "enable")


# Looking


def _look(args: argparse.Namespace, targets: list[Target], watch: Watch) -> int:
    if args.action == "list":
        for line in _table(targets):
            print(line)
        print(words(watch.progress()))
        return ExitCode.OK
    if args.action == "accepts":
        return _accepts(args.wheel, targets)
    known = {**PRESETS, **{target.name: target for target in targets}}
    if args.name not in known:
        raise TargetError(f"there is no target or preset {args.name!r}; there are: {', '.join(known)}")
    for line in _all_of(known[args.name], watch, tags=args.tags):
        print(line)
    return ExitCode.OK


def _table(targets: Sequence[Target]) -> Iterator[str]:
    if not targets:
        yield "no targets yet: piw-target add NAME"
    cells = [
        (str(t.rank), t.name, "enabled" if t.enabled else "disabled", t.abi, t.platform, t.distribution, t.libc)
        for t in targets
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()


def _all_of(target: Target, watch: Watch, *, tags: bool) -> Iterator[str]:
    stored = target.id is not None
    yield f"target         {target.name}{'' if stored else ' (a preset; not added)'}"
    if stored:
        yield f"state          {'enabled' if target.enabled else 'disabled'}, rank {target.rank}"
    yield f"Python         {target.python_version}, ABI {target.abi}"
    yield f"distribution   {target.distribution or 'not known'}, {target.libc or 'C library not known'}"
    yield f"builders say   {target.platform}"
    yield f"platform tags  {' '.join(target.platforms)}"
    yield f"preinstalled   {len(target.preinstalled)} apt packages"
    if target.id is not None:
        work = watch.work(target.id)
        yield f"queue          {work.waiting} waiting, {work.building} being built; {work.builders} builders"
    accepted = target.ordered()
    yield f"wheel tags     {len(accepted)}, from {accepted[0]} to {accepted[-1]}"
    if tags:
        yield from map(str, accepted)


def _accepts(wheel: str, targets: Sequence[Target]) -> int:
    try:
        found: frozenset[Tag] = parse_wheel_name(Path(wheel).name).tags
    except WheelError as error:
        raise SettingsError(f"{Path(wheel).name!r} is not a wheel's file name: {error}") from error
    taking = [target for target in targets if target.accepts(found)]
    for target in targets:
        print(f"{target.name}: {'takes it' if target in taking else 'does not take it'}")
    if not taking:
        print("no target takes it")
    return ExitCode.OK if taking else ExitCode.FAILED


# Adding


def _wanted(args: argparse.Namespace, there: dict[str, Target]) -> Target:
    """The target that the arguments describe."""
    base = _base(args, there)
    if base is None and not (args.python and args.platform):
        known = ", ".join((*PRESETS, NATIVE))
        raise TargetError(
            f"{args.name!r} is no preset (there are: {known}): give --python and --platform, or --like one that is"
        )
    python = args.python or (base.python_version if base else "")
    ordinary = "cp" + python.replace(".", "")
    platform, platforms, libc = _platforms(args, base)
    return Target(
        name=args.name,
        python_version=python,
        abi=args.abi or (base.abi if base and not args.python else ordinary),
        platform=platform,
        platforms=platforms,
        distribution=(base.distribution if base else "") if args.distribution is None else args.distribution.lower(),
        rank=args.rank if args.rank is not None else base.rank if base and args.name == base.name else 0,
        enabled=not args.disabled,
        preinstalled=_preinstalled(args) or (base.preinstalled if base else ()),
        libc=libc,
    ).check()


def _base(args: argparse.Namespace, there: dict[str, Target]) -> Target | None:
    name = args.like or args.name
    if name in there and (args.like or args.update):
        return there[name]
    if name == NATIVE:
        return native()
    if args.like and name not in PRESETS:
        raise TargetError(f"there is no target or preset {name!r}; there are: {', '.join((*PRESETS, NATIVE, *there))}")
    return PRESETS.get(name)


def _platforms(args: argparse.Namespace, base: Target | None) -> tuple[str, tuple[str, ...], str]:
    """Platform, all platforms and C library."""
    platform = args.platform or (base.platform if base else "")
    libc = (base.libc if base else "") if args.libc is None else args.libc
    if base is not None and not (args.platform or args.libc is not None):
        platforms = base.platforms
    elif libc and platform.startswith("linux_"):
        platforms = aliases(platform.removeprefix("linux_"), libc)
    else:
        platforms = (platform,)
    return platform, tuple(dict.fromkeys((*platforms, *args.alias))), libc


def _preinstalled(args: argparse.Namespace) -> tuple[str, ...]:
    found: set[str] = set()
    for name in args.preinstalled:
        found |= set(preinstalled.packages(_text(name), name="standard input" if name == "-" else name))
    if args.preinstalled_here:
        found |= set(preinstalled.packages(_dpkg(), name="dpkg"))
    return tuple(sorted(found))


def _text(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(preinstalled.MAX_LIST + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(preinstalled.MAX_LIST + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read {name}: {error.strerror or error}") from error
    if len(data) > preinstalled.MAX_LIST:
        raise TargetError(f"{name} is longer than {preinstalled.MAX_LIST} bytes: not a list of packages")
    return data.decode("utf-8", "replace")


def _dpkg() -> str:
    command = ["dpkg-query", "--show"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"cannot ask dpkg which packages are installed: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
