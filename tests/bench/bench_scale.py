# SPDX-License-Identifier: BSD-3-Clause
"""A hundredth of ``make bench-scale``: the same rows, processes and functions, in less than a minute."""

import time

from tests.bench import scale_master, scale_measures
from tests.bench.harness import Bench, Goal, Result, Usage
from tests.bench.scale_database import fill

FRACTION = 0.01
CLAIMS, RECORDS, OFFERS = 2_000, 2_000, 30


def bench(at: Bench) -> Result:
    """Run it. What is wanted of the whole farm is wanted here too."""
    for name in ("output", "keys"):
        (at.folder / name).mkdir(mode=0o700)
    at.overrides.append("dispatch.min_free=0")
    few = {"claimers": 2} if at.small else {}  # starting processes is what takes the time then
    begun = time.monotonic()
    fill(at.settings.database, FRACTION / 20 if at.small else FRACTION, lambda line: None)
    filled = time.monotonic() - begun
    results = (
        scale_measures.claim(at, count=CLAIMS, **few),
        scale_measures.record(at, count=RECORDS),
        scale_master.offer(at, count=at.scaled(OFFERS)),
        scale_measures.plan(at, seconds=at.scaled(10), rate=50, **few),
    )
    return Result(
        "scale",
        f"{FRACTION:.0%} of PyPI",
        (
            f"{scale_measures.size(at)}; made in {filled:.1f} s",
            *(f"{one.name}: {figure}" for one in results for figure in one.figures),
        ),
        Usage(
            seconds=sum(one.usage.seconds for one in results),
            cpu=sum(one.usage.cpu for one in results),
            peak=max(one.usage.peak for one in results),
        ),
        sum(one.database_cpu for one in results),
        tuple(Goal(f"{one.name}: {goal.words}", goal.met) for one in results for goal in one.goals),
    )
