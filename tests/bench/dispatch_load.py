# SPDX-License-Identifier: BSD-3-Clause
"""What played builders do in a shift of ``bench-dispatch``, and what was counted of it.

``python -m tests.bench.dispatch_load`` takes its facts and then commands as JSON, one a line, and answers each with
what it came to.
Each shift leaves every builder with its HELLO said and nothing in hand.
"""

import heapq
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench.dispatch_builders import BUSY, IDLE, SENT, Builder, Office, hello
from tests.bench.dispatch_rows import Wheels
from tests.bench.harness import cpu_of

LONGEST = 60.0  #: seconds that anything may take beyond its time
BUSY_EVERY = (5.0, 10.0)  #: seconds between two BUSYs of a real builder


class Shift:
    """The rules that all shifts share. ``over``: begin nothing any more."""

    def __init__(self, office: Office, builders: list[Builder], kind: str, size: int = 0) -> None:
        self.office = office
        self.builders = builders
        self.kind = kind
        self.over = False
        self.built = 0  #: builds that the master has taken, since ``begin``
        self.bytes = 0  #: of wheels in these
        self.asked = 0  #: requests answered, since ``begin``
        self.withdrawn = 0  #: builds that were not wanted any more, since ``begin``
        self.took: dict[str, list[float]] = {}
        self.busy = 0  #: builders that have not come to rest
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}
        self._wheels = Wheels(size) if size else None
        self._begun = 0.0
        self._used: dict[str, float] = {}
        office.answer = self._answer

    def begin(self) -> None:
        """Count from now on."""
        self.built = self.bytes = self.asked = self.withdrawn = 0
        self.took = {}
        self._used = self._cpu()
        self._begun = time.perf_counter()

    def end(self) -> None:
        """Count no more."""
        self.seconds = time.perf_counter() - self._begun
        self.cpu = {name: used - self._used[name] for name, used in self._cpu().items()}
        self.office.answer = self._answer_uncounted

    def _cpu(self) -> dict[str, float]:
        others = {name: cpu_of(pid) for name, pid in self.office.watched.items()}
        return {**others, "builders": time.process_time()}

    def wait(self, enough: Callable[[], bool], what: str, *, until: float | None = None) -> None:
        """Let it go on until enough is done, or until then."""
        last = time.perf_counter() + LONGEST if until is None else until
        while not enough():
            left = last - time.perf_counter()
            if left <= 0:
                if until is not None:
                    return
                raise RuntimeError(f"{what}: not within {LONGEST:.0f} s")
            self.office.board.listen(min(left, 0.05))
            self.due()

    def due(self) -> None:
        """What is to be done because it is time; for those who come after."""

    def told(self) -> dict[str, Any]:
        """What it came to."""
        latencies = {}
        for name, took in self.took.items():
            took.sort()
            latencies[name] = [len(took), *(1000 * took[int((len(took) - 1) * share)] for share in (0.5, 0.99, 1.0))]
        counts = {"built": self.built, "bytes": self.bytes, "asked": self.asked, "withdrawn": self.withdrawn}
        return {**counts, "seconds": self.seconds, "cpu": self.cpu, "took": latencies}

    # One builder's steps

    def start(self, builder: Builder) -> None:
        """Have it begin."""
        self.busy += 1
        builder.ask("IDLE", IDLE)

    def has_job(self, builder: Builder) -> None:
        """It was given one, and says BUSY at least once."""
        if self.kind == "failed" and not self.over:
            builder.ask("BUSY", BUSY)
        else:
            self.finish(builder)

    def goes_on(self, builder: Builder) -> None:
        """Its BUSY was answered CONT."""
        self.finish(builder)

    def finish(self, builder: Builder) -> None:
        """It ends its build."""
        assert builder.build is not None
        name, version, token = builder.build
        if self._wheels is None or self.over:
            builder.ask("BUILT", self.office.words.failed(token))
            return
        builder.wheel = self._wheels.make(name, version)
        builder.ask("BUILT, wheel", self.office.words.built(name, version, token, builder.wheel))

    def is_done(self, builder: Builder) -> None:
        """Its build is recorded."""
        if self.over:
            self.busy -= 1
        else:
            builder.ask("IDLE", IDLE)

    def sleeps(self, builder: Builder) -> None:
        """There is no job for it."""
        raise RuntimeError("there are no jobs left")

    # Answers

    def _answer(self, builder: Builder, name: str, answer: Any, took: float) -> None:
        if name != "file":
            self.asked += 1
        self.took.setdefault(name, []).append(took)
        self._answer_uncounted(builder, name, answer, took)

    def _answer_uncounted(self, builder: Builder, name: str, answer: Any, took: float) -> None:
        word, data = (answer, None) if isinstance(answer, str) else (answer[0], answer[1])
        if name == "file":
            builder.ask("SENT", SENT)
        elif word == "CONT":
            self.goes_on(builder)
        elif word == "BUILD":
            order = data[2] if len(data) > 2 else {}
            builder.build = data[0], data[1], order.get("token", "")
            self.has_job(builder)
        elif word == "SEND" and name == "BUILT, wheel":
            builder.hand_over()
        elif word == "DONE" and name in ("BUILT", "SENT", "BUSY"):
            if name == "BUSY":
                self.withdrawn += 1
            else:
                self.built += 1
                self.bytes += builder.wheel.size if builder.wheel is not None else 0
            builder.build = builder.wheel = None
            self.is_done(builder)
        elif word == "ACK":
            builder.slave_id = data[0]
            self.busy -= 1
        elif word == "SLEEP":
            self.sleeps(builder)
        else:
            raise RuntimeError(f"the master answered {word} to {name}")

    def rest(self) -> None:
        """Let every builder end what it has in hand."""
        self.over = True
        self.wait(lambda: not self.busy, "the builders' coming to rest")


class Reporting(Shift):
    """Nothing but BUSY, as fast as it goes."""

    ready = 0

    def has_job(self, builder: Builder) -> None:
        self.ready += 1

    def goes_on(self, builder: Builder) -> None:
        if self.over:
            self.finish(builder)
        else:
            builder.ask("BUSY", BUSY)


class Asking(Shift):
    """Nothing but IDLE, when there is nothing to do."""

    def sleeps(self, builder: Builder) -> None:
        if self.over:
            self.busy -= 1
        else:
            builder.ask("IDLE", IDLE)


class Fleet(Shift):
    """Everybody builds for a while and says BUSY now and then; so many builds end a second."""

    def __init__(self, office: Office, builders: list[Builder], rate: float, size: int, every: tuple[float, float]):
        super().__init__(office, builders, "wheel" if size else "failed", size)
        self._random = random.Random(1)
        self._rate = rate
        self._every = every
        self._calendar: list[tuple[float, int]] = []
        self._next_end = 0.0
        self._turn = 0
        self.building = 0

    def has_job(self, builder: Builder) -> None:
        self.building += 1
        self._later(builder, self._random.uniform(*self._every))

    def goes_on(self, builder: Builder) -> None:
        if self.over:
            self.finish(builder)
        else:
            self._later(builder, self._random.uniform(*self._every))

    def due(self) -> None:
        now = time.perf_counter()
        while self._calendar and self._calendar[0][0] <= now:
            builder = self.builders[heapq.heappop(self._calendar)[1]]
            if builder.build is not None and not builder.waits:
                builder.ask("BUSY", BUSY)
        if self._next_end and now >= self._next_end and not self.over:
            self._next_end = max(self._next_end + 1 / self._rate, now - 1)
            self._end_one()

    def start_ending(self) -> None:
        """From now on builds end."""
        self._next_end = time.perf_counter() if self._rate else 0.0

    def wake_all(self) -> None:
        """At the end of it, nobody waits for its time."""
        self.over = True
        self._calendar.clear()
        for builder in self.builders:
            if builder.build is not None and not builder.waits:
                self.finish(builder)

    def _end_one(self) -> None:
        for _ in self.builders:
            builder = self.builders[self._turn]
            self._turn = (self._turn + 1) % len(self.builders)
            if builder.build is not None and not builder.waits:
                self.finish(builder)
                return

    def _later(self, builder: Builder, seconds: float) -> None:
        heapq.heappush(self._calendar, (time.perf_counter() + seconds, builder.place))


# What the parent may ask for


def greet(office: Office, *, count: int, at_once: int = 50) -> dict[str, Any]:
    """Have so many builders, who have said HELLO."""
    new = office.grow(count)
    shift = Shift(office, new, "greet")
    shift.begin()
    waiting = iter(new)
    said = hello(plain=office.plain)

    def done() -> bool:
        while shift.busy < at_once and (builder := next(waiting, None)) is not None:
            shift.busy += 1
            builder.ask("HELLO", said)
        return not shift.busy

    shift.wait(done, "saying hello")
    shift.end()
    return shift.told()


def work(office: Office, *, kind: str, count: int, seconds: float, size: int = 0) -> dict[str, Any]:
    """So many builders ask, build nothing and report, in a closed loop. ``kind``: failed, wheel, busy or idle."""
    builders = office.builders[:count]
    if kind == "idle":
        _become(office, builders, quiet=True)
    shift = {"busy": Reporting, "idle": Asking}.get(kind, Shift)(office, builders, kind, size)
    for builder in builders:
        shift.start(builder)
    if isinstance(shift, Reporting):
        shift.wait(lambda: shift.ready == count, "a job for each builder")
        for builder in builders:
            builder.ask("BUSY", BUSY)
    shift.wait(lambda: False, "", until=time.perf_counter() + min(seconds / 4, 1.0))  # until it runs evenly
    if kind in ("failed", "wheel"):
        shift.wait(
            lambda: shift.built >= count, "", until=time.perf_counter() + 2 * seconds
        )  # thousands begin together
    shift.begin()
    shift.wait(lambda: False, "", until=time.perf_counter() + seconds)
    shift.end()
    told = shift.told()
    shift.rest()
    if kind == "idle":
        _become(office, builders, quiet=False)
    return told


def _become(office: Office, builders: list[Builder], *, quiet: bool) -> None:
    shift = Shift(office, builders, "greet")
    for builder in builders:
        shift.busy += 1
        builder.ask("HELLO", hello(plain=office.plain, quiet=quiet))
    shift.wait(lambda: not shift.busy, "saying hello again")


def fleet(
    office: Office, *, count: int, seconds: float, rate: float, size: int, every: tuple[float, float] = BUSY_EVERY
) -> dict[str, Any]:
    """A fleet at its real rhythm."""
    builders = office.builders[:count]
    shift = Fleet(office, builders, rate, size, every)
    for place, builder in enumerate(builders):
        builder.place = place
        shift.start(builder)
    shift.wait(lambda: shift.building >= count, "a job for each builder")
    shift.start_ending()
    shift.wait(lambda: False, "", until=time.perf_counter() + min(every[1], seconds / 3))
    shift.begin()
    shift.wait(lambda: False, "", until=time.perf_counter() + seconds)
    shift.end()
    told = shift.told()
    shift.wake_all()
    shift.rest()
    return told


class Delivering(Shift):
    """Each builder delivers so many wheels."""

    each = 1

    def is_done(self, builder: Builder) -> None:
        builder.steps += 1
        if builder.steps >= self.each:
            self.busy -= 1
        else:
            builder.ask("IDLE", IDLE)


def deliver(office: Office, *, count: int, each: int, size: int) -> dict[str, Any]:
    """So many builders deliver so many wheels each, of this size."""
    builders = office.builders[:count]
    shift = Delivering(office, builders, "wheel", size)
    shift.each = each
    shift.begin()
    for builder in builders:
        builder.steps = 0
        shift.start(builder)
    shift.wait(lambda: not shift.busy, "the delivery")
    shift.end()
    return shift.told()


SHIFTS: dict[str, Callable[..., dict[str, Any]]] = {"greet": greet, "work": work, "fleet": fleet, "deliver": deliver}


def main() -> int:
    """Entry point."""
    office = Office(json.loads(sys.stdin.readline()))
    print("ready", flush=True)
    for command in office.commands():
        print(json.dumps(SHIFTS[command.pop("do")](office, **command)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
