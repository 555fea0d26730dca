# SPDX-License-Identifier: BSD-3-Clause
"""Removes what a killed process left in the store: files that no build has.

Slow on purpose: one of the store's 256 directories at a time, in batches, so that nothing else notices.
"""

import logging
from itertools import cycle

from sqlalchemy import Connection

from piwheels.db import builds
from piwheels.db.engine import Stopped
from piwheels.master.dispatch_work import Clerk

logger = logging.getLogger(__name__)

AGE = 3600.0  #: seconds that a file may be in the store without a build: longer than recording takes after it came
PAUSE = 10.0  #: seconds between two directories: all of them in three quarters of an hour
BATCH = 500  #: files asked for in one query
SHARDS = 256


class Sweeper:
    """The sweeping thread's work."""

    def __init__(self, clerk: Clerk, *, age: float = AGE) -> None:
        self._clerk = clerk
        self._age = age

    def run(self) -> None:
        """Sweep until told to stop."""
        try:
            for shard in cycle(range(SHARDS)):
                if self._clerk.stop.wait(PAUSE):
                    return
                self._try(shard)
        except Stopped:
            return

    def sweep(self, shard: int) -> int:
        """Remove one directory's orphans; how many there were."""
        store = self._clerk.store
        candidates = store.candidates(age=self._age, shard=shard)
        removed = 0
        for start in range(0, len(candidates), BATCH):
            orphans = self._orphans(candidates[start : start + BATCH])
            removed += sum(store.discard(sha256, age=self._age) for sha256 in sorted(orphans))
        if removed:
            logger.info("removed %d files from the store that belong to no build", removed)
        return removed

    def _orphans(self, hashes: list[bytes]) -> set[bytes]:
        def work(conn: Connection) -> set[bytes]:
            return builds.unreferenced(conn, hashes)

        return self._clerk.transaction(work)

    def _try(self, shard: int) -> None:
        try:
            self.sweep(shard)
        except OSError as error:
            logger.warning("cannot sweep the store: %s", error)
        except Stopped:
            raise
        except Exception:
            logger.exception("a fault while sweeping the store")
