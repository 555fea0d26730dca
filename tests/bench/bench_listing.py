# SPDX-License-Identifier: BSD-3-Clause
"""Index API: what 1 000 changes among 800 000 listed projects cost to find and to note.

The measured process does what the feed role does with a listing: fetches and reads it, compares it with the rows of
``projects``, and records the differences in ``changes``.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import Sequence

from piwheels.db import survey
from piwheels.db.engine import make_engine
from piwheels.pypi.client import PyPI
from piwheels.settings import Settings, load
from tests.bench.harness import MB, Bench, Goal, Result, run, server
from tests.simulator.bulk_pages import BASE, base_serial, name_of

PROJECTS, CHANGED = 800_000, 1_000
SECONDS, MEMORY = 5.0, 400 * MB  #: targets


def bench(at: Bench) -> Result:
    """Run it."""
    projects, changed = at.scaled(PROJECTS), at.scaled(CHANGED)
    names = (name_of(number) for number in range(projects))
    at.fill(
        "projects",
        ("name", "display_name", "serial"),
        ((name, name, base_serial(number)) for number, name in enumerate(names)),
    )
    at.fill("feeds", ("name", "serial"), [("upstream", BASE)])
    with server("tests.simulator.bulk", "--listing", str(projects), "--changed", str(changed)) as (address, _):
        _warm(address)
        cpu = at.database_cpu()
        usage = run(at, __name__, *at.overrides, f"upstream.simple_url={address}")
        cpu = at.database_cpu() - cpu
    found = json.loads(usage.output)
    with at.connect() as connection:
        noted = connection.execute("SELECT count(*) FROM changes").fetchone()
    if found["news"] != changed or found["findings"] or noted != (changed,):
        raise RuntimeError(f"{changed} changes were made, and these found: {found}, {noted} noted")
    return Result(
        "listing",
        f"{changed} changes among {projects} projects",
        (f"fetch and read {found['read']:.2f} s", f"compare and note {found['compare']:.2f} s"),
        usage,
        cpu,
        (
            Goal(f"under {SECONDS:g} s", usage.seconds < SECONDS),
            Goal(f"under {MEMORY / MB:.0f} MB", usage.peak < MEMORY),
        ),
    )


def _warm(address: str) -> None:
    """Have the listing made, which the server does once."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(address, headers=accept), timeout=120) as answer:
        while answer.read(1 << 20):
            pass


def main(overrides: Sequence[str]) -> int:
    """The measured process."""
    print(json.dumps(asyncio.run(_find(load(None, overrides=overrides)))))
    return 0


async def _find(settings: Settings) -> dict[str, float]:
    begun = time.monotonic()
    async with PyPI(settings.upstream, farm=settings.farm) as pypi:
        listing = await pypi.listing()
    assert listing is not None
    read = time.monotonic()
    engine = make_engine(settings.database, name="bench")
    with engine.begin() as conn:
        found = survey.note(conn, listing, restricted=False, live=True)
    engine.dispose()
    return {
        "read": read - begun,
        "compare": time.monotonic() - read,
        "news": found.news,
        "findings": found.findings,
    }
