# SPDX-License-Identifier: BSD-3-Clause
"""The storm: builds go on while faults of a plan happen; then calm, and the auditor."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from sqlalchemy import Connection, text

from piwheels.db.engine import in_transaction
from piwheels.errors import DatabaseError
from piwheels.faults import POINTS
from tests.chaos.auditor import OnDisk
from tests.chaos.plan import Plan, blow, draw, meetings
from tests.chaos.proxy import Line
from tests.chaos.unit import Unit
from tests.chaos.world import World

TURN = 0.1  #: seconds between two looks at the processes
LOOK = 0.5  #: seconds between two looks at the rows
#: How paths begin of pages that nobody marks: they are rendered anew when their rest is over, and some tell the time.
BY_CLOCK = ("index.html", "search/", "stats/", "status/", "sitemap")
CALM = 150.0  #: seconds in which everything has to come to rest once nothing goes wrong any more
SAID = 20  #: builds between two words of progress
HOPELESS = 20  #: ends of processes by themselves, after which nothing is to be learnt any more
BREATH = 0.4  #: seconds at least between two blows from outside
AMID = (1_000, 900_000)  #: bytes after which a file channel is cut: in the first message, in the middle, in the next
ANY = "any time"  #: the "point" of what is done from outside, whatever processes are at
#: What can happen, and the head of its column.
COLUMNS = {
    "kill dispatch": "kill dispatch",
    "kill publish": "kill publish",
    "kill slave": "kill slave",
    "kill postgres": "kill PG",
    "cut the database": "cut PG",
    "cut the network": "cut net",
    "cut a transfer": "cut amid",
    "enospc": "ENOSPC",
    "eio": "EIO",
    "clock forward": "clock +",
    "clock back": "clock -",
    "stall": "stall",
}

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What happened."""

    plan: Plan
    happened: Counter[tuple[str, str]] = field(default_factory=Counter)  #: (point, what) → how often
    attempts: dict[str, int] = field(default_factory=dict)
    starts: int = 0  #: of processes
    orphans: int = 0  #: swept in the end
    passed: int = 0  #: bytes over file channels
    seconds: float = 0.0  #: until everything was built
    calm: float = 0.0  #: seconds from the last fault to rest
    problems: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """All of them."""
        return self.happened.total()

    def __str__(self) -> str:
        plan = self.plan
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.attempts.items()))
        return (
            f"seed {plan.seed}: {plan.builds} builds and {self.faults} faults in {self.seconds:.0f} s, at rest "
            f"{self.calm:.1f} s later; {self.starts} processes started, {self.orphans} orphans swept, "
            f"{self.passed / 1e6:.1f} MB delivered\nattempts: {ends}\n{self.table()}\nproblems: {len(self.problems)}"
        )

    def table(self) -> str:
        """What happened where, a row for each point."""
        rows = [["", *COLUMNS.values()]]
        for point in (*POINTS, ANY):
            counts = [sum(self._counts(point, what)) for what in COLUMNS]
            rows.append([point, *(str(count or ".") for count in counts)])
        widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(r, widths, strict=True)) for r in rows)

    def _counts(self, point: str, what: str) -> list[int]:
        return [count for (at, name), count in self.happened.items() if at == point and name.startswith(what)]


def ride(world: World, say: Say = lambda _: None) -> Report:
    """Live through it. Never raises for what it finds: see the report's problems."""
    return _Storm(world, say).ride()


class _Storm:
    def __init__(self, world: World, say: Say) -> None:
        self.world, self.say = world, say
        self.rng = Random(world.plan.seed)
        self.report = Report(world.plan)
        self.done = 0
        self.begun = time.monotonic()
        self.stalled: list[tuple[float, Unit | Line]] = []
        self.calm = False
        self.first = list(world.plan.first)

    @property
    def happened(self) -> Counter[tuple[str, str]]:
        """All that has, so far."""
        return sum((unit.happened for unit in self.world.units), self.report.happened)

    @property
    def faults(self) -> int:
        """That have happened so far."""
        here = sum(unit.happened.total() for unit in self.world.units)
        return self.report.faults + here + self.world.lines.happened.total()

    def ride(self) -> Report:
        plan, report = self.world.plan, self.report
        for unit in self.world.units:
            self._start(unit)
        until = self.begun + plan.seconds
        looked = hit = 0.0
        while self.done < plan.builds or self.faults < plan.faults or self.first:
            now = time.monotonic()
            if now > until:
                report.problems.append(f"only {self.done} of {plan.builds} builds were done in {plan.seconds:g} s")
                break
            self._keep_up()
            if sum(len(unit.problems) for unit in self.world.units) > HOPELESS:
                break
            self._release_stalled(now)
            if now - looked >= LOOK:
                looked = now
                self._look()
            if now - hit >= BREATH and self._is_due():
                hit = now
                self._hit(self.first.pop(0) if self.first else blow(self.rng))
            time.sleep(TURN)
        report.seconds = time.monotonic() - self.begun
        self._calm()
        self._end()
        return report

    # While it lasts

    def _is_due(self) -> bool:
        plan = self.world.plan
        if self.first:
            return self.done > len(plan.first) - len(self.first)
        return self.faults < plan.due(self.done)

    def _start(self, unit: Unit) -> None:
        plan = self.world.plan
        if self.calm or self.faults >= plan.faults:
            armed = ""
        elif plan.armed is not None:
            first = not any(other.starts for other in self.world.units if other.kind == unit.kind)
            armed = plan.armed.get(unit.kind, "") if first else ""
        else:
            armed = draw(self.rng, unit.kind, pace=plan.pace, done=self.happened)
        unit.start(armed)

    def _keep_up(self) -> None:
        for unit in self.world.units:
            if unit.died():
                self._start(unit)
            unit.listen()
            if unit.stands:
                self._meet(unit)

    def _look(self) -> None:
        done = self._ask(self.world.done)
        if done is None:
            return
        if self.done // SAID != done // SAID:
            self.say(f"{done} builds, {self.faults} faults, {len(self.report.problems)} problems")
        self.done = done

    def _ask(self, question: Callable[[Connection], T]) -> T | None:
        try:
            return in_transaction(self.world.engine, question, deadline=5.0)
        except DatabaseError:
            return None

    def _meet(self, unit: Unit) -> None:
        """A process stands at a point: do to the farm what was done there least so far, and let it go on."""
        if unit.still():
            done = self.report.happened
            what = min(meetings(unit.kind), key=lambda one: (done[unit.stands, one], self.rng.random()))
            self._hit(what, at=unit)
        unit.go_on()

    def _hit(self, what: str, *, at: Unit | None = None) -> None:
        """Strike from outside; ``at``: while this one stands at a point."""
        point = at.stands if at else ANY
        verb, _, whom = what.partition(" ")
        match verb, whom:
            case "kill", "postgres":
                self.world.cluster.kill()
                self.world.cluster.start()
            case "kill", _:
                (at if at and at.kind == whom else self._one(whom)).kill()
            case "stall", _:
                one = self._line() if whom == "the network" else self._one(whom)
                one.stall(stop=True)
                self.stalled.append((time.monotonic() + self.rng.uniform(0.5, 6.0), one))
            case "cut", "the database":
                if not self._ask(_cut):
                    return  # it is away already
            case "cut", "the network":
                seconds = self.rng.choice((0.0, self.rng.uniform(0.0, 3.0)))
                self._line(at).cut(seconds=seconds, files_alone=self.rng.random() < 0.3)
            case "cut", "a transfer":
                self._line().cut_amid(self.rng.randint(*AMID))
                return  # counts once it happens
            case "clock", _:
                jump = self.rng.uniform(5, 3600) if whom == "forward" else -self.rng.uniform(0.5, 5)
                if not self._ask(lambda conn: self.world.turn_clock(conn, jump)):
                    return
        self.report.happened[point, what] += 1

    def _line(self, at: Unit | None = None) -> Line:
        """The line of this builder, or of any."""
        lines = self.world.lines.lines
        return lines[at.name] if at and at.name in lines else self.rng.choice(list(lines.values()))

    def _one(self, kind: str) -> Unit:
        return self.rng.choice([unit for unit in self.world.units if unit.kind == kind])

    def _release_stalled(self, now: float) -> None:
        for when, unit in list(self.stalled):
            if now >= when:
                unit.stall(stop=False)
                self.stalled.remove((when, unit))

    # Afterwards

    def _calm(self) -> None:
        """Nothing goes wrong any more: processes that still have faults before them give way to ones that have none."""
        begun = time.monotonic()
        self.calm = True
        for line in self.world.lines.lines.values():
            line.stall(stop=False)
        for unit in self.world.units:
            unit.stall(stop=False)
            if unit.left or not unit.running:
                self.report.happened[ANY, f"kill {unit.kind}"] += unit.running
                unit.kill()
                unit.died()
                unit.start()
        self._rest(begun + CALM)
        self.report.calm = time.monotonic() - begun
        before = self._rendered()
        self._ask(lambda conn: self.world.mark_all_stale(conn))
        self._rest(time.monotonic() + CALM)
        after = self._rendered()
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) != after.get(path):
                self.report.problems.append(f"{path} was not what it is when rendered again")

    def _rest(self, until: float) -> None:
        """Wait until no job and no page is left."""
        while (left := self._ask(self.world.waiting)) != (0, 0):
            self._keep_up()
            if time.monotonic() > until:
                self.report.problems.append(f"{CALM:g} s after the last fault (jobs, pages) are still {left}")
                return
            time.sleep(LOOK)

    def _rendered(self) -> dict[str, OnDisk]:
        """What is published, but for what follows the clock."""
        return {path: entry for path, entry in self.world.tree().www.items() if not path.startswith(BY_CLOCK)}

    def _end(self) -> None:
        report, world = self.report, self.world
        for unit in world.units:
            unit.ask_to_end()
        for unit in world.units:
            unit.end()
        for left in sorted(world.folder.glob("work-*/job*")):
            report.problems.append(f"a builder left {left.name} in {left.parent.name}")
        report.orphans = world.sweep()
        report.problems += world.audit()
        report.attempts = world.attempts()
        report.passed = world.lines.passed
        report.happened += Counter({(ANY, what): count for what, count in world.lines.happened.items()})
        for unit in world.units:
            unit.listen()
            report.happened += unit.happened
            report.starts += unit.starts
            report.problems += unit.problems


def _cut(conn: Connection) -> bool:
    """Have PostgreSQL end every connection but this one; True."""
    others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
    conn.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
    return True
