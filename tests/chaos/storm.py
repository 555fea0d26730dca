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
from tests.chaos.auditor import Tree
from tests.chaos.plan import Plan, blow, draw
from tests.chaos.unit import Unit
from tests.chaos.world import World

TURN = 0.1  #: seconds between two looks at the processes
LOOK = 0.5  #: seconds between two looks at the rows
CALM = 150.0  #: seconds in which everything has to come to rest once nothing goes wrong any more
SAID = 20  #: builds between two words of progress
HOPELESS = 20  #: ends of processes by themselves, after which nothing is to be learnt any more
BREATH = 0.4  #: seconds at least between two blows from outside

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What happened."""

    plan: Plan
    happened: Counter[str] = field(default_factory=Counter)  #: faults, by name
    attempts: dict[str, int] = field(default_factory=dict)
    starts: int = 0  #: of processes
    orphans: int = 0  #: swept in the end
    seconds: float = 0.0  #: until everything was built
    calm: float = 0.0  #: seconds from the last fault to rest
    problems: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """All of them."""
        return self.happened.total()

    def __str__(self) -> str:
        plan = self.plan
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.happened.items()))
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.attempts.items()))
        return (
            f"seed {plan.seed}: {plan.builds} builds and {self.faults} faults in {self.seconds:.0f} s, at rest "
            f"{self.calm:.1f} s later; {self.starts} processes started, {self.orphans} orphans swept\n"
            f"attempts: {ends}\nfaults: {kinds}\nproblems: {len(self.problems)}"
        )


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
        self.stalled: list[tuple[float, Unit]] = []

    @property
    def faults(self) -> int:
        """That have happened so far."""
        return self.report.faults + sum(unit.happened.total() for unit in self.world.units)

    def ride(self) -> Report:
        plan, report = self.world.plan, self.report
        for unit in self.world.units:
            self._start(unit)
        until = self.begun + plan.seconds
        looked = hit = 0.0
        while self.done < plan.builds or self.faults < plan.faults:
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
            if now - hit >= BREATH and self.faults < plan.due(self.done):
                hit = now
                self._hit(blow(self.rng))
            time.sleep(TURN)
        report.seconds = time.monotonic() - self.begun
        self._calm()
        self._end()
        return report

    # While it lasts

    def _start(self, unit: Unit) -> None:
        plan = self.world.plan
        over = self.faults >= plan.faults
        unit.start("" if over else draw(self.rng, unit.kind, pace=plan.pace))

    def _keep_up(self) -> None:
        for unit in self.world.units:
            if unit.died():
                self._start(unit)
            unit.listen()

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

    def _hit(self, what: str) -> None:
        """Strike from outside."""
        verb, _, whom = what.partition(" ")
        match verb, whom:
            case "kill", "postgres":
                self.world.cluster.kill()
                self.world.cluster.start()
            case "kill", _:
                self._one(whom).kill()
            case "stall", _:
                unit = self._one(whom)
                unit.stall(stop=True)
                self.stalled.append((time.monotonic() + self.rng.uniform(0.5, 6.0), unit))
            case "cut", _:
                self._ask(_cut)
            case "clock", _:
                jump = self.rng.uniform(5, 3600) if whom == "forward" else -self.rng.uniform(0.5, 5)
                self._ask(lambda conn: self.world.turn_clock(conn, jump))
        self.report.happened[what] += 1

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
        for unit in self.world.units:
            unit.stall(stop=False)
            if unit.armed or not unit.running:
                self.report.happened[f"kill {unit.kind}"] += unit.running
                unit.kill()
                unit.died()
                unit.start()
        self._rest(begun + CALM)
        self.report.calm = time.monotonic() - begun
        before = self._rendered()
        self._ask(lambda conn: self.world.mark_all_stale(conn))
        self._rest(time.monotonic() + CALM)
        after = self._rendered()
        for path in sorted(before.www.keys() | after.www.keys()):
            if before.www.get(path) != after.www.get(path):
                self.report.problems.append(f"{path} was not what it is when rendered again")

    def _rest(self, until: float) -> None:
        """Wait until no job and no page is left."""
        while (left := self._ask(self.world.waiting)) != (0, 0):
            self._keep_up()
            if time.monotonic() > until:
                self.report.problems.append(f"{CALM:g} s after the last fault (jobs, pages) are still {left}")
                return
            time.sleep(LOOK)

    def _rendered(self) -> Tree:
        """The tree without what says when it was made."""
        return self.world.tree()

    def _end(self) -> None:
        report, world = self.report, self.world
        for unit in world.units:
            unit.end()
        for left in sorted(world.folder.glob("work-*/job*")):
            report.problems.append(f"a builder left {left.name} in {left.parent.name}")
        report.orphans = world.sweep()
        report.problems += world.audit()
        report.attempts = world.attempts()
        for unit in world.units:
            unit.listen()
            report.happened += unit.happened
            report.starts += unit.starts
            report.problems += unit.problems


def _cut(conn: Connection) -> None:
    """Have PostgreSQL end every connection but this one."""
    others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
    conn.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
