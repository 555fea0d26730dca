# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong, and when: drawn from a seed. Pure."""

from collections import Counter
from collections.abc import Mapping
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
        "recording": 0.5,
        "recorded": 0.5,
        "committing": 8,
        "committed": 8,
    },
    "publish": {"linked": 1, "published": 2, "committing": 4, "committed": 4},
    "slave": {"building": 1, "reading": 1, "built": 1, "sending": 1, "sent": 1},
}
SLEEPS = (0.2, 4.0)  #: seconds
MOST = 4  #: faults that a process is started with, beside the one that kills it
ENDS = 0.6  #: of processes, how many are started with one that kills them
REACH = 10  #: how far ahead faults lie, in times of the pace: half of all come from outside then

#: What is done to the farm from outside, and how often in comparison.
BLOWS = {
    "kill dispatch": 4,
    "kill publish": 3,
    "kill slave": 5,
    "kill postgres": 2,
    "cut the database": 3,
    "cut the network": 4,
    "cut a transfer": 6,
    "stall dispatch": 1,
    "stall slave": 1,
    "stall the network": 2,
    "clock forward": 2,
    "clock back": 1,
}

#: What is done while a process stands still at a point.
MEETINGS = (
    "kill dispatch",
    "kill publish",
    "kill slave",
    "kill postgres",
    "cut the database",
    "cut the network",
    "clock forward",
    "clock back",
)
STANDS = 4  #: times as often as anything else at a point, a process stands still there


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it."""

    seed: int
    builds: int
    faults: int
    slaves: int = 4
    real: int = 1  #: of the slaves, those that build really
    seconds: float = 3600.0  #: that all may take
    publishers: int = 2
    first: tuple[str, ...] = ()  #: blows that come before those that are drawn, one after each build
    armed: Mapping[str, str] | None = None  #: what the first process of a kind is to meet; None: all, what is drawn

    @property
    def pace(self) -> float:
        """Builds for each fault."""
        return self.builds / max(self.faults, 1)

    def due(self, done: int) -> float:
        """How many faults are to have happened when so many builds are done."""
        return min(self.faults, (done + 1) / self.pace)


def draw(rng: Random, kind: str, *, pace: float, done: Mapping[tuple[str, str], int] | None = None) -> str:
    """The faults of a process that is started, as $PIWHEELS_FAULTS has them: a few that it survives, and perhaps its
    end. What has been ``done`` least, at (point, what), comes most."""
    done = done or Counter()
    passed = PASSED[kind]
    survived = [(point, one) for point in sorted(passed) for one in sorted(POINTS[point] - {Kind.KILL})]
    weights = [_weight(kind, point, one, done) for point, one in survived]
    chosen = rng.choices(survived, weights, k=rng.randint(1, MOST))
    if rng.random() < ENDS:
        chosen.append((rng.choice(sorted(passed)), Kind.KILL))
    return " ".join(_worded(rng, point, what, max(1, round(REACH * pace * passed[point]))) for point, what in chosen)


def _weight(kind: str, point: str, what: Kind, done: Mapping[tuple[str, str], int]) -> float:
    """How often a fault is to be drawn: the less, the more often it happened."""
    if what is Kind.STOP:
        return STANDS / (1 + min(done.get((point, one), 0) for one in meetings(kind)))
    return 1 / (1 + done.get((point, happening(kind, point, what)), 0))


def _worded(rng: Random, point: str, what: Kind, farthest: int) -> str:
    sleep = f":{rng.uniform(*SLEEPS):.1f}" if what is Kind.SLEEP else ""
    return f"{point}={what}{sleep}@{rng.randint(1, farthest)}"


def meetings(kind: str) -> list[str]:
    """What may be done while a process of this kind stands at a point; its own end it meets with without our help."""
    return [what for what in MEETINGS if what != f"kill {kind}"]


def happening(kind: str, point: str, word: str) -> str:
    """In the words of BLOWS: what happened to a process of this kind that said so."""
    match Kind(word):
        case Kind.KILL:
            return f"kill {kind}"
        case Kind.LOST:
            return "cut the database" if point.startswith("commit") else "cut the network"
        case Kind.SLEEP | Kind.STOP:
            return f"stall {kind}"
        case Kind.ENOSPC | Kind.EIO:
            return word


def blow(rng: Random) -> str:
    """What is done to the farm next."""
    return rng.choices(list(BLOWS), weights=list(BLOWS.values()))[0]
