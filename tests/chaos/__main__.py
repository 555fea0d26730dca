# SPDX-License-Identifier: BSD-3-Clause
"""``make chaos``: thousands of builds through hundreds of faults, and what the auditor finds afterwards."""

import argparse
import sys
import time
from collections.abc import Sequence

from tests.chaos.plan import Plan
from tests.chaos.storm import ride
from tests.chaos.world import World


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    add = made.add_argument
    add("--builds", type=int, default=2000, help="releases that are to be built (default: %(default)s)")
    add("--faults", type=int, default=500, help="that happen meanwhile, about (default: %(default)s)")
    add("--seed", type=int, default=1, help="what goes wrong where (default: %(default)s)")
    add("--slaves", type=int, default=9, help="builders (default: %(default)s)")
    add("--real", type=int, default=1, help="of them, those that really build (default: %(default)s)")
    add("--seconds", type=float, default=10_800.0, help="that it may take (default: %(default)s)")
    add("--keep", action="store_true", help="keep the farm's directory if something is wrong")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Live through it; 1 if anything was wrong in the end."""
    given = parser().parse_args(argv)
    plan = Plan(given.seed, given.builds, given.faults, given.slaves, given.real, given.seconds)
    begun = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s: {words}", flush=True)

    with World(plan, keep=given.keep) as world:
        say(f"{plan.builds} releases are to be built by {plan.slaves} builders, in {world.folder}")
        report = ride(world, say)
        world.failed = bool(report.problems)
    say(str(report))
    for problem in report.problems[:100]:
        print(problem, file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
