# SPDX-License-Identifier: BSD-3-Clause
"""``piw-farm``: a whole farm on one machine, for trying it out, and for the tests.

The command line alone; farm_run runs it. ``make farm`` calls this.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from piwheels import commands, farm_home, processes
from piwheels.errors import UnavailableError
from piwheels.farm_home import Home, Wish
from piwheels.farm_run import Farm, Plan, Stop
from piwheels.farm_screen import Screen
from piwheels.master.targets import NATIVE, PRESETS
from piwheels.settings import Settings
from piwheels.slave.tools import missing_tools

#: Raspberry Pi libraries: PyPI has wheels of the last alone that an ordinary PC can use.
PROJECTS = ("spidev", "rpi_ws281x", "RPi.GPIO", "smbus", "RPi.bme280")


def work(options: argparse.Namespace, settings: Settings) -> int:
    """Run a farm until a signal, or until it is done."""
    home = Home(options.dir.absolute())
    wish = Wish(
        projects=tuple(options.projects) or settings.feed.projects or PROJECTS,
        port=options.port,
        releases=options.releases,
        upstream=options.upstream,
    )
    home.make()
    with processes.only_one(home.lock, what="a piw-farm"), Screen() as screen:
        if options.slave:
            _require_tools(screen)
        farm_home.require_free(options.port)
        stop = Stop()
        stop.install(once=options.once)
        plan = Plan(wish=wish, target=options.target, slave=options.slave, once=options.once)
        return Farm(home, settings, plan, screen=screen, stop=stop).run()


def _require_tools(screen: Screen) -> None:
    missing = missing_tools()
    if missing:
        raise UnavailableError(f"nothing can be built on this machine: {'; '.join(missing)}")
    if shutil.which("bwrap") is None:
        screen.say("Note: bubblewrap is not installed, so builds run without a sandbox.")


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(text)
    return port


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(
        prog="piw-farm",
        description="Run a whole farm on this machine: PostgreSQL, the master, a builder and a web server.",
        epilog="Exit status: 0 done, or stopped; 1 with --once: something could not be built, installed or imported; "
        "2 wrong arguments; 3 something needed is missing, in use or does not answer; 130 ended by Ctrl-C.",
    )
    add = result.add_argument
    add("projects", nargs="*", metavar="PROJECT", help=f"what to build (default: {' '.join(PROJECTS)})")
    add("--dir", type=Path, default=Path("farm"), help="where everything is kept (default: ./farm)")
    add("--port", type=_port, default=8080, help="of the web server, on 127.0.0.1 (default: %(default)s)")
    add("--once", action="store_true", help="end when nothing is left to do, after installing what was built")
    add("--releases", choices=("latest", "all"), default="latest", help="of each project (default: %(default)s)")
    add("--upstream", default="", metavar="URL", help="a simple index to follow instead of PyPI's")
    add("--target", choices=(NATIVE, *PRESETS), default=NATIVE, help="what to build for (default: this machine)")
    add("--no-slave", dest="slave", action="store_false", help="run no builder here; others may be enrolled")
    add("--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help="one setting; may be repeated")
    commands.add_common_arguments(result, settings=False)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return commands.run(work, parser(), argv, "piw-farm")


if __name__ == "__main__":
    sys.exit(main())
