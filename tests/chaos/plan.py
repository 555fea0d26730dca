# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong, and when: drawn from a seed. Pure."""

from dataclasses import dataclass
from random import Random

from piwheels.faults import POINTS, Kind

#: The points that processes of each kind pass, and how much more often than once a build.
PASSED = {
    "dispatch": {
        "leased": 1,
        "receiving": 2,
        "verified": 1,
        "kept": 1,
        "logging": 1,
        "recording": 1,
        "recorded": 1,
        "committing": 8,
        "committed": 8,
    },
    "publish": {"linked": 1, "published": 2, "committing": 4, "committed": 4},
    "slave": {"building": 1, "built": 1, "sending": 1, "sent": 1},
}
SLEEPS = (0.2, 4.0)  #: seconds
MOST = 3  #: faults that a process is started with, beside the one that kills it
REACH = 10  #: how far ahead faults lie, in times of the pace: half of all come from outside then

#: What is done to the farm from outside, and how often in comparison.
BLOWS = {
    "kill dispatch": 4,
    "kill publish": 3,
    "kill slave": 5,
    "kill postgres": 2,
    "cut the database": 4,
    "stall dispatch": 2,
    "stall slave": 2,
    "clock forward": 2,
    "clock back": 1,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it."""

    seed: int
    builds: int
    faults: int
    slaves: int = 4
    real: int = 1  #: of the slaves, those that build really
    seconds: float = 3600.0  #: that all may take

    @property
    def pace(self) -> float:
        """Builds for each fault."""
        return self.builds / max(self.faults, 1)

    def due(self, done: int) -> float:
        """How many faults are to have happened when so many builds are done."""
        return min(self.faults, (done + 1) / self.pace)


def draw(rng: Random, kind: str, *, pace: float) -> str:
    """The faults of a process that is started, as $PIWHEELS_FAULTS has them: a few that it survives, and its end."""
    passed = PASSED[kind]
    chosen = []
    for number in range(rng.randint(0, MOST) + 1):
        point = rng.choice(sorted(passed))
        kinds = [Kind.KILL] if number == 0 else sorted(POINTS[point] - {Kind.KILL})
        what = rng.choice(kinds)
        turn = rng.randint(1, max(1, round(REACH * pace * passed[point])))
        sleep = f":{rng.uniform(*SLEEPS):.1f}" if what is Kind.SLEEP else ""
        chosen.append(f"{point}={what}{sleep}@{turn}")
    return " ".join(chosen)


def blow(rng: Random) -> str:
    """What is done to the farm next."""
    return rng.choices(list(BLOWS), weights=list(BLOWS.values()))[0]
