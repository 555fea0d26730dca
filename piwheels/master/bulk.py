# SPDX-License-Identifier: BSD-3-Clause
"""The jobs of releases by the thousand: the planner's answer without its words, some fifty times as fast.

What costs time is asking packaging about tags and specifiers; how a wheel's name ends and what Python it requires are
the same for most wheels of all projects, so what follows from them is remembered as a set of targets (master/rules.py).
A test compares with master/planner.py. It must not know the database, but for the shape of the rows it hands out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from piwheels.master.planner import (
    Policy,
    Rebuild,
    in_order,
    is_native,
    is_pure,
    takes_prereleases,
    wheel_name,
)
from piwheels.master.recipes import NOTHING, Recipe
from piwheels.master.rules import Situation, wanted
from piwheels.master.targets import Target
from piwheels.versions import is_prerelease, parse_or_none
from piwheels.vocabulary import FailureReason, Priority

NEXT, FIELD = "\x1e", "\x1f"  #: before each item of a list, and between an item's fields; in no text that we store
SDIST = "*"  #: the item that stands for an sdist that can be fetched and verified
SUCCESS = "success"  #: where a build's reason would be
WAITING, BUILDING, CANCELLED = "w", "b", "c"  #: states of a job

_SAME = "\x1d"  #: stands for the beginning of a wheel's name that says that it is one of this release


class Row(NamedTuple):
    """A release as the database hands it out. Lists are texts, their items and fields separated as above."""

    id: int
    project_id: int
    sort_key: bytes
    project: str  #: canonical name
    version: str
    skipped: bool  #: by the project's row or its own
    valid: bool  #: its version, for PEP 440
    barred: bool  #: not wanted, yanked, or quarantined
    requires_python: str | None
    fresh: bool
    upstream: str | None  #: SDIST, or: file name, y or n (yanked), Requires-Python
    builds: str | None  #: target, reason or SUCCESS, y or n (superseded), and a file's name, y or n, Requires-Python
    jobs: str | None  #: target, priority, state


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is there."""

    priority: int
    state: str


Jobs = tuple[tuple[int, Priority], ...]  #: that there should be: the target's id, and the place in the queue


class Found(NamedTuple):
    """What a row says."""

    situation: Situation
    native: bool  #: it has a wheel for particular platforms, PyPI's or ours


class _Files(NamedTuple):
    has_sdist: bool = False
    serves: int = 0
    native: bool = False


class _Attempts(NamedTuple):
    serves: int = 0  #: where wheels that came of them do
    native: bool = False
    done: int = 0
    failed: int = 0
    tried: int = 0
    any: bool = False
    succeeded: bool = False


_NO_FILES, _NO_ATTEMPTS = _Files(), _Attempts()


class Bulk:
    """Plans releases for these targets (also those that are not enabled: wheels were built on them)."""

    def __init__(self, targets: Sequence[Target], policy: Policy) -> None:
        self._policy = policy
        self._ordered = in_order(targets)
        self._all = (1 << len(self._ordered)) - 1
        self._ids = [target.id or 0 for target in self._ordered]
        self._bits = {target.id or 0: 1 << n for n, target in enumerate(self._ordered)}
        self._homes = {target.id or 0: self._home(target) for target in targets}
        # Bounded, as what is in them comes from strangers.
        self._files = lru_cache(maxsize=20_000)(self._look_at_files)
        self._attempts = lru_cache(maxsize=20_000)(self._look_at_attempts)
        self._wheel = lru_cache(maxsize=50_000)(self._look_at_wheel)
        self._allowed = lru_cache(maxsize=20_000)(self._look_at_requirement)
        self._named = lru_cache(maxsize=1_000)(self._look_at_names)

    def look(self, row: Row, recipe: Recipe = NOTHING) -> Found:
        """What a row says by itself, without the release before it."""
        files, attempts = self._upstream(row), self._builds(row)
        closed = attempts.serves | attempts.done | ~self._allowed(row.requires_python)
        if (recipe.rebuild or self._policy.rebuild) is not Rebuild.ALL:
            closed |= files.serves
        if recipe.targets:
            closed |= ~self._named(recipe.targets)
        if row.barred or not row.valid or not files.has_sdist or self._unwanted(row, recipe):
            closed = -1
        now = Situation(
            self._all,
            closed & self._all,
            attempts.failed,
            attempts.tried,
            self._leased(row.jobs) if row.jobs else 0,
            attempts.any,
            attempts.succeeded,
            files.native,
            row.fresh,
        )
        return Found(now, files.native or attempts.native)

    def jobs(self, situation: Situation, *, before: bool) -> Jobs:
        """``before``: the release before it has a wheel for particular platforms."""
        if before and not situation.native:
            situation = situation._replace(native=True)
        return tuple((self._ids[place], priority) for place, priority in wanted(situation))

    def depends(self, situation: Situation) -> bool:
        """Whether the release before it decides anything."""
        return not situation.native and wanted(situation) != wanted(situation._replace(native=True))

    def _unwanted(self, row: Row, recipe: Recipe) -> bool:
        if row.skipped or recipe.skip:
            return True
        return not takes_prereleases(recipe.prereleases, self._policy) and is_prerelease(row.version)

    def _leased(self, jobs: str) -> int:
        return sum(self._bits.get(id_, 0) for id_, job in jobs_of(jobs).items() if job.state == BUILDING)

    # Wheels. The beginning of names, being the same for all of a release, is replaced by a mark: few texts remain.

    def _upstream(self, row: Row) -> _Files:
        """What PyPI's files say."""
        if row.upstream is None or row.upstream == NEXT + SDIST:
            return _NO_FILES if row.upstream is None else _ONLY_SDIST
        text = row.upstream
        items = text.split(NEXT, 3)
        first = items[1] if items[1] != SDIST else items[2]
        if head := _head(first.partition(FIELD)[0], row):
            text = text.replace(NEXT + head, NEXT + _SAME)
            if text.count(_SAME) + text.count(NEXT + SDIST) == text.count(NEXT):
                return self._files(text)
        return self._look_at_files(text, row)

    def _look_at_files(self, text: str, row: Row | None = None) -> _Files:
        items = text.split(NEXT)[1:]
        serves, native = 0, False
        for item in items:
            if item != SDIST:
                filename, yanked, requires = item.split(FIELD, 2)
                where, particular = self._serves(filename, requires, row)
                native = native or particular
                serves |= where if yanked == "n" else 0
        return _Files(SDIST in items, serves, native)

    def _serves(self, filename: str, requires: str, row: Row | None) -> tuple[int, bool]:
        """Where an installer takes the file for this release, and whether it is for particular platforms."""
        if filename.startswith(_SAME):
            return self._wheel(filename[1:], requires)
        parts = filename.split("-", 2)
        if row is not None and len(parts) == 3 and _is_of(parts[0], parts[1], row):
            return self._wheel(parts[2], requires)
        return 0, is_native(filename)

    def _look_at_wheel(self, end: str, requires: str) -> tuple[int, bool]:
        name = wheel_name(f"x-1-{end}")
        if name is None:
            return 0, False
        serves = sum(
            self._bits[target.id or 0]
            for target in self._ordered
            if target.accepts(name.tags) and target.allows(requires or None)
        )
        return serves, not is_pure(name.tags)

    def _look_at_requirement(self, requires: str | None) -> int:
        return sum(self._bits[target.id or 0] for target in self._ordered if target.allows(requires))

    def _look_at_names(self, names: tuple[str, ...]) -> int:
        return sum(self._bits[target.id or 0] for target in self._ordered if target.name in names)

    def _home(self, target: Target) -> int:
        """Where a wheel with native code serves that was built for this target."""
        return sum(
            self._bits[other.id or 0]
            for other in self._ordered
            if other.id == target.id or other.distribution == target.distribution != ""
        )

    # What was tried

    def _builds(self, row: Row) -> _Attempts:
        """Where our wheels serve, whether one is for particular platforms, and what the attempts came to."""
        if row.builds is None:
            return _NO_ATTEMPTS
        text = row.builds
        named = text.find(".whl" + FIELD)
        if named < 0:
            return self._attempts(text)
        if head := _head(text[text.rfind(FIELD, 0, named) + 1 : named], row):
            text = text.replace(FIELD + head, FIELD + _SAME)
            if text.count(_SAME) == text.count(".whl" + FIELD):
                return self._attempts(text)
        return self._look_at_attempts(text, row)

    def _look_at_attempts(self, text: str, row: Row | None = None) -> _Attempts:
        serves = done = failed = tried = 0
        counted = succeeded = native = False
        strikes: Counter[int] = Counter()
        for item in text.split(NEXT)[1:]:
            target, reason, superseded, filename, yanked, requires = item.split(FIELD, 5)
            here = self._bits.get(int(target), 0)
            if superseded == "n":
                counted = True
                succeeded = succeeded or reason == SUCCESS
                done |= here if reason == SUCCESS else 0
                tried |= here if reason != SUCCESS else 0
                strikes[here] += reason != SUCCESS
                if reason == FailureReason.PACKAGE or strikes[here] >= self._policy.strikes:
                    failed |= here
            if filename:
                succeeded = True
                where, particular = self._serves(filename, requires, row)
                native = native or particular
                if yanked == "n":
                    serves |= where & self._homes.get(int(target), 0) if particular else where
        return _Attempts(serves, native, done, failed, tried, counted, succeeded)


_ONLY_SDIST = _Files(has_sdist=True)


@lru_cache(maxsize=4)
def bulk_of(targets: tuple[Target, ...], policy: Policy) -> Bulk:
    """The one for these, with what it remembers; for any thread."""
    return Bulk(targets, policy)


def _head(filename: str, row: Row) -> str:
    """How the names of wheels of this release begin, if this is one; else nothing."""
    name, _, rest = filename.partition("-")
    version = rest.partition("-")[0]
    return f"{name}-{version}-" if _is_of(name, version, row) else ""


def _is_of(name: str, version: str, row: Row) -> bool:
    """Whether a wheel whose name begins with these is one of this release."""
    if project_of(name) != row.project or not SAFE.fullmatch(version):
        return False
    if version == row.version:
        return row.valid
    parsed = parse_or_none(version)
    return parsed is not None and parsed == parse_or_none(row.version)


SAFE = re.compile(r"[A-Za-z0-9_.+!]+")  #: a version as parse_wheel_name takes it


@lru_cache(maxsize=10_000)
def project_of(spelling: str) -> str | None:
    """The project of wheels whose names begin so; None where no wheel's does."""
    name = wheel_name(f"{spelling}-1-py3-none-any.whl")
    return None if name is None else name.project


def jobs_of(text: str) -> dict[int, Job]:
    """The jobs that are there, by the target's id."""
    found = {}
    for item in text.split(NEXT)[1:]:
        target, priority, state = item.split(FIELD)
        found[int(target)] = Job(int(priority), state)
    return found
