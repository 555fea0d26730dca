# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.soak``: the long day, on a PostgreSQL of its own."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from piwheels.db import migrate
from piwheels.db.engine import make_engine
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings
from tests.integration.feed_world import World
from tests.simulator import Simulator
from tests.soak.day import Day, live


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(prog="python -m tests.soak", description="A long day at PyPI.")
    add = arguments.add_argument
    add("--seed", type=int, default=1, help="what happens (default: %(default)s)")
    add("--events", type=int, default=10_000, help="of the journal (default: %(default)s)")
    add("--seconds", type=float, default=420.0, help="that they take (default: %(default)s)")
    add("--projects", type=int, default=300, help="that they are of, at most (default: %(default)s)")
    add("--faults", type=float, default=0.05, help="how many answers go wrong, of 1 (default: %(default)s)")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Live through it; 1 if the database is not equal to PyPI's truth in the end."""
    given = parser().parse_args(argv)
    day = Day(given.seed, given.events, given.seconds, faults=given.faults, refusals=14, projects=given.projects)
    begun = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s: {words}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="piw-soak-", dir="/tmp"))  # short: a socket goes inside
    try:
        with Cluster(folder / "pg", fast=True) as cluster, Simulator() as simulator:
            settings = DatabaseSettings(url=cluster.url_of("soak"), pool=5)
            migrate.create_database(settings)
            migrate.upgrade(settings)
            engine = make_engine(settings, name="soak")
            try:
                say(str(live(World(engine, settings, simulator), day, say)))
            finally:
                engine.dispose()
    except AssertionError as error:
        print(f"seed {given.seed}: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
