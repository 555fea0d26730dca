# SPDX-License-Identifier: BSD-3-Clause
"""piw-slave: a builder. Asks its master for work, builds wheels, hands them over, until it is told to end."""

import argparse
import logging
from collections.abc import Sequence

from piwheels import commands
from piwheels.errors import SettingsError, UnavailableError
from piwheels.settings import Settings
from piwheels.slave.agent import Agent
from piwheels.slave.runner import Runner
from piwheels.slave.sandbox import Confinement
from piwheels.slave.tools import NO_PIP, has_pip, missing_tools
from piwheels.wire import keys

NAME = "piw-slave"

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=NAME,
        description="A builder of a piwheels farm: builds wheels for the machine it runs on.",
        epilog="Exit status: 0 told to end by a signal, 1 sent away by the master, 2 wrong settings, 3 something "
        "needed is missing or in use. Its key pair is made on first start; the master admits it with piw-keys.",
    )
    made.add_argument("--show-key", action="store_true", help="print this builder's public key, and end")
    commands.add_common_arguments(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return commands.run(work, parser(), argv, NAME)


def work(args: argparse.Namespace, settings: Settings) -> int:
    """Be a builder."""
    slave = settings.slave
    if args.show_key:
        print(keys.load_or_make(slave.key).public)
        return 0
    if not slave.master_key:
        raise SettingsError("slave.master_key is not set: the master's public key, or the path of its .pub file")
    if not has_pip():  # every build would fail, and seem to be its package's fault
        raise UnavailableError(NO_PIP)
    for line in missing_tools():
        logger.warning("%s", line)
    master_key = keys.read_public(slave.master_key)
    own = keys.load_or_make(slave.key)
    runner = Runner(slave)
    try:
        if runner.sandbox.warning:
            logger.warning("%s", runner.sandbox.warning)
        if not runner.limited and runner.sandbox.confinement is not Confinement.NONE:
            logger.info("no control group to be had: memory is limited for each process and watched for all of them")
        logger.info("this builder's public key is %s; it works in %s for %s", own.public, runner.work, slave.builders)
        return Agent(slave, runner, master_key=master_key, keys=own).run()
    finally:
        runner.close()
