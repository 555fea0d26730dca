# SPDX-License-Identifier: BSD-3-Clause
"""Twenty claimers that crash at random: no job is lost, none is built twice, none is stuck.

PIWHEELS_STORM sets the number of jobs of the long test, with claimers as processes that are killed with SIGKILL;
without it that test is left out. ``PIWHEELS_STORM=100000 make test TESTS=tests/integration/test_queue_storm.py``: all.
"""

import os
import random
import threading
import time

import pytest
from sqlalchemy import Engine, func, select

from piwheels.db import queue
from piwheels.db.engine import make_engine
from piwheels.db.tables import jobs
from piwheels.settings import DatabaseSettings
from tests.integration.queue_storm import AHEAD, Storm, check, fill, kill, start

pytestmark = pytest.mark.integration

CLAIMERS = 20
LONG = int(os.environ.get("PIWHEELS_STORM", "100000"))


def test_claimers_that_crash(database_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "AHEAD", AHEAD)
    engine = make_engine(DatabaseSettings(url=database_settings.url, pool=CLAIMERS + 1), name="storm")
    try:
        storm = Storm(engine, *fill(engine, 600))
        threads = [storm.thread(seed, crashes=0.02) for seed in range(CLAIMERS)]
        for thread in threads:
            thread.start()
        storm.wait(seconds=100)
        for thread in threads:
            thread.join(20)
        ends = check(engine, 600)
        assert storm.crashes and min(ends["built"], ends["bad"]) > 0
    finally:
        engine.dispose()


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_claimers_that_are_killed(database: Engine, database_settings: DatabaseSettings) -> None:
    storm = Storm(database, *fill(database, LONG))
    chance = random.Random(1)
    processes = [start(storm, database_settings.url, seed) for seed in range(CLAIMERS)]
    seeds = iter(range(CLAIMERS, 10**9))

    def murder() -> None:
        while not storm.over.wait(chance.uniform(1.0, 8.0)):
            victim = chance.randrange(CLAIMERS)
            kill(processes[victim])
            storm.crashes += 1
            processes[victim] = start(storm, database_settings.url, next(seeds))

    murderer = threading.Thread(target=murder, daemon=True)
    begun = time.monotonic()
    murderer.start()
    try:
        storm.wait(seconds=7000)
    finally:
        storm.over.set()
        murderer.join(20)
        for process in processes:
            kill(process)
    seconds = time.monotonic() - begun
    print(f"{check(database, LONG)}, {storm.crashes} kills, {seconds:.0f} s, {LONG / seconds:.0f} jobs/s")
    with database.begin() as conn:
        assert conn.execute(select(func.count()).select_from(jobs)).scalar_one() == 0
