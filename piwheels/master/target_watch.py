# SPDX-License-Identifier: BSD-3-Clause
"""How far planning for the targets is, for a person: one line, or followed until it is finished. Changes nothing."""

import threading
import time

from sqlalchemy import Engine

from piwheels.db import planning
from piwheels.db import targets as rows
from piwheels.db.engine import in_transaction
from piwheels.db.planning import Progress
from piwheels.master.progress_bar import ProgressBar

DEADLINE = 30.0  #: seconds
LOOK = 0.5  #: seconds between two looks
PATIENCE = 15.0  #: seconds after which a person is told that nobody has begun


class Watch:
    """Looks at the planning."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def work(self, target_id: int) -> rows.Work:
        """What there is to do for a target."""
        return in_transaction(self._engine, lambda conn: rows.work(conn, target_id), deadline=DEADLINE)

    def progress(self) -> Progress | None:
        """How far it is."""
        return in_transaction(self._engine, planning.progress, deadline=DEADLINE)

    def follow(self, before: Progress | None) -> None:
        """Show the planning that comes after ``before`` until it has finished."""
        with ProgressBar("planning") as bar:
            since = time.monotonic()
            while True:
                now = self.progress()
                if now is not None and (before is None or now.started != before.started):
                    _show(bar, now)
                    if now.finished is not None:
                        return
                elif time.monotonic() - since > PATIENCE:
                    bar.say("nobody plans yet: is the master running? (Ctrl-C ends this; it is planned later)")
                    since = float("inf")
                threading.Event().wait(LOOK)


def _show(bar: ProgressBar, now: Progress) -> None:
    total = now.planned if now.finished is not None else now.total  # the total is an estimate until then
    bar.show(now.planned, total, line=words(now), rate=now.rate)


def words(progress: Progress | None) -> str:
    """How far planning is, in one line."""
    if progress is None:
        return "planning: not begun yet"
    if progress.finished is not None:
        done = f"{progress.planned} releases, finished {progress.finished:%Y-%m-%d %H:%M:%S} UTC"
        return f"planning: {done}"
    part = f"{progress.planned} of about {progress.total} releases ({progress.share:.0%})"
    return f"planning: {part}, {progress.rate:.0f}/s, {progress.changed} have other jobs now"
