# SPDX-License-Identifier: BSD-3-Clause
"""How far long work is, on standard error: a bar with rate and time left on a terminal, elsewhere a line for every
tenth. Knows nothing of what is done."""

import sys
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """A context manager; ``what`` is said before the bar."""

    def __init__(self, what: str) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task(what, total=None, rate="")
        self._tenth = -1

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, done: int, total: int, *, line: str, what: str | None = None, rate: float | None = None) -> None:
        """How far it is. ``line``: the same in words, where there is no bar; ``rate``: a second, if it is known better
        than from these calls."""
        self._bar.update(self._task, description=what, total=total, completed=done)
        speed = self._bar.tasks[0].speed if rate is None else rate
        self._bar.update(self._task, rate=f"{speed:.0f}/s" if speed else "")
        tenth = done * 10 // max(1, total)
        if not self._console.is_terminal and tenth != self._tenth:
            self._tenth = tenth
            self.say(line)

    def say(self, line: str) -> None:
        """A line beside the bar."""
        if self._console.is_terminal:
            self._console.print(line)
        else:
            print(line, file=sys.stderr)
