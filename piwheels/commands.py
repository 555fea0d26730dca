# SPDX-License-Identifier: BSD-3-Clause
"""What every ``piw-*`` command does alike: common arguments, settings, logging, errors as one line, exit codes.

A command module has ``parser() -> ArgumentParser`` and ``main(argv=None) -> int``, and ends in
:func:`run`. Knows no area.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from piwheels import __version__, configuration, faults, logs
from piwheels.errors import ExitCode, PiwheelsError
from piwheels.settings import Settings

DEFAULT_FILE = Path("/etc/piwheels/piwheels.toml")  #: read when it exists and --config is not given

logger = logging.getLogger(__name__)


def add_common_arguments(parser: argparse.ArgumentParser, *, settings: bool = True) -> None:
    """Add --version and -v, and for commands with settings --config, --set and --show-config."""
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more in the log")
    if not settings:
        return
    group = parser.add_argument_group("settings", "file < environment (PIWHEELS_SECTION_KEY) < --set; the later wins")
    group.add_argument(
        "--config", metavar="FILE", type=Path, help=f"TOML file with settings (default: {DEFAULT_FILE} if it exists)"
    )
    group.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help="one setting; may be repeated"
    )
    group.add_argument("--show-config", action="store_true", help="print all settings in force, and end")


def run(
    main_work: Callable[[argparse.Namespace, Settings], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    name: str,
) -> int:
    """Run a command: settings, logs, work, errors. Returns its exit status (see ExitCode)."""
    try:
        args = parser.parse_args(argv)
    except SystemExit as end:  # argparse has said what is wrong, or has printed help
        return end.code if isinstance(end.code, int) else int(ExitCode.USAGE)
    try:
        reading = configuration.read(config_file(args), os.environ, getattr(args, "set", []))
        if getattr(args, "show_config", False):
            sys.stdout.write(configuration.render(reading.settings, reading.origins))
            return int(ExitCode.OK)
        logs.configure(name, verbose=args.verbose)
        faults.arm(os.environ)
        return int(main_work(args, reading.settings))
    except PiwheelsError as error:
        return complain(name, error)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # whoever read our output left (| head); the interpreter's own flush must not fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILED)
    except Exception:
        logger.exception("a fault in piwheels itself")
        return int(ExitCode.INTERNAL)


class NotConfirmed(PiwheelsError, RuntimeError):
    """Nobody said yes."""


def confirm(otherwise: str) -> None:
    """Ask whether to go ahead with what was said; NotConfirmed, with what that means, if nobody says yes."""
    if not sys.stdin.isatty():
        raise NotConfirmed(f"{otherwise}: there is nobody to ask; give --yes to go ahead")
    if input("Go ahead? [y/N] ").strip().lower() not in ("y", "yes"):
        raise NotConfirmed(otherwise)


def complain(name: str, error: PiwheelsError) -> int:
    """Print an error as one line and return its exit status."""
    logger.debug("because of", exc_info=error)
    print(f"{name}: {logs.one_line(str(error))}", file=sys.stderr)
    return int(error.exit_code)


def config_file(args: argparse.Namespace) -> Path | None:
    """The settings file in force."""
    given: Path | None = getattr(args, "config", None)
    return given or (DEFAULT_FILE if hasattr(args, "config") and DEFAULT_FILE.exists() else None)
