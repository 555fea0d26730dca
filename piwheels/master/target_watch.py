# SPDX-License-Identifier: BSD-3-Clause
"""How far planning for the targets is, for a person: one line, or followed until it is finished. Changes nothing."""

import sys
import threading
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from sqlalchemy import Engine

from piwheels.db import planning
from piwheels.db import targets as rows
from piwheels.db.engine import in_transaction
from piwheels.db.planning import Progress

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
        with _Screen() as screen:
            since = time.monotonic()
            while True:
                now = self.progress()
                if now is not None and (before is None or now.started != before.started):
                    screen.show(now)
                    if now.finished is not None:
                        return
                elif time.monotonic() - since > PATIENCE:
                    screen.say("nobody plans yet: is the master running? (Ctrl-C ends this; it is planned later)")
                    since = float("inf")
                threading.Event().wait(LOOK)


def words(progress: Progress | None) -> str:
    """How far planning is, in one line."""
    if progress is None:
        return "planning: not begun yet"
    if progress.finished is not None:
        done = f"{progress.planned} releases, finished {progress.finished:%Y-%m-%d %H:%M:%S} UTC"
        return f"planning: {done}"
    part = f"{progress.planned} of about {progress.total} releases ({progress.share:.0%})"
    return f"planning: {part}, {progress.rate:.0f}/s, {progress.changed} have other jobs now"


class _Screen:
    """A bar on a terminal; a line for every tenth elsewhere. On standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("planning"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("planning", total=None, rate="")
        self._said = -1

    def __enter__(self) -> "_Screen":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """How far it is."""
        self._bar.update(self._task, total=progress.total, completed=progress.planned, rate=f"{progress.rate:.0f}/s")
        tenth = 10 if progress.finished else int(progress.share * 10)
        if not self._console.is_terminal and tenth != self._said:
            self._said = tenth
            self.say(words(progress))

    def say(self, line: str) -> None:
        """A line beside the bar."""
        if self._console.is_terminal:
            self._console.print(line)
        else:
            print(line, file=sys.stderr)
