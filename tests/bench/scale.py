# SPDX-License-Identifier: BSD-3-Clause
"""``make bench-scale``: a farm as big as PyPI, made here, and what its queue, planner and master do on it.

``python -m tests.bench.scale --fraction 0.01`` for a hundredth of it; ``--keep DIR`` makes the farm once and keeps it.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench import scale_master, scale_measures
from tests.bench.harness import Bench, Result, machine, table
from tests.bench.scale_database import database, say

#: Each measure by name, with what it takes of a whole farm's bench.
MEASURES: Mapping[str, Callable[[Bench], Result]] = {
    "claim": lambda at: scale_measures.claim(at, count=16_000),
    "record": lambda at: scale_measures.record(at, count=16_000),
    "offer": lambda at: scale_master.offer(at, count=200),
    "plan": lambda at: scale_measures.plan(at, seconds=120, rate=50),
    "memory": lambda at: scale_master.memory(at, seconds=60),
}
HUNDREDTH = 0.01  #: at which the master's memory is measured too


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(
        prog="python -m tests.bench.scale", description="Measure a farm of PyPI's size."
    )
    arguments.add_argument("measure", nargs="*", help=f"which: {', '.join(MEASURES)} (default: all)")
    arguments.add_argument("--fraction", type=float, default=1.0, help="of PyPI's size (default: %(default)s)")
    arguments.add_argument("--keep", type=Path, metavar="DIR", help="make the farm here unless it is here, and keep it")
    return arguments


@contextmanager
def farm(folder: Path | None, fraction: float) -> Iterator[Bench]:
    """A farm of that size, in that folder, or (None) in one that is removed afterwards."""
    place = folder.absolute() if folder else Path(tempfile.mkdtemp(prefix="piw-scale-", dir="/var/tmp"))
    place.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="piw-bench-", dir="/tmp"))  # short: sockets go in it
    try:
        with database(place, fraction) as cluster:
            overrides = [f"database.url={cluster.url}", "dispatch.min_free=0"]
            overrides += [f"paths.{name}={scratch / name}" for name in ("output", "store", "run", "keys")]
            for name in ("output", "run", "keys"):
                (scratch / name).mkdir(mode=0o700)
            yield Bench(scratch, cluster, small=fraction < 1, overrides=overrides)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def run(at: Bench, names: Sequence[str]) -> list[Result]:
    """These measures, one after the other."""
    results = []
    for name in names:
        say(f"{name} ...")
        results.append(MEASURES[name](at))
        say(f"{name}: {'; '.join(results[-1].figures)}")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run them; 0 whether or not targets are met."""
    arguments = parser()
    given = arguments.parse_args(argv)
    if unknown := sorted(set(given.measure) - set(MEASURES)):
        arguments.error(f"there is no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    if not 0.0001 <= given.fraction <= 2:
        arguments.error("--fraction is between 0.0001 and 2")
    before = machine()
    names = given.measure or list(MEASURES)
    results = []
    if "memory" in names and given.fraction > HUNDREDTH:
        with farm(None, HUNDREDTH) as at:
            results += [replace(one, name="memory, 1 %") for one in run(at, ["memory"])]
    with farm(given.keep, given.fraction) as at:
        size = scale_measures.size(at)
        results = run(at, names) + results
    print(f"{before}\nfraction {given.fraction:g}: {size}\n\n{table(results, judged=given.fraction == 1)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
