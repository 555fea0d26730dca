# SPDX-License-Identifier: BSD-3-Clause
"""The planner's verdicts with their words, for pages, by the thousand: what is said of a release depends on its name
only where a wheel's name repeats it, so most releases share their answer with others, and it is remembered.

A test compares with :func:`piwheels.master.planner.plan`, which gives the answers. Pure.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from piwheels.master.bulk import SAFE, project_of
from piwheels.master.planner import (
    Attempt,
    OwnWheel,
    Policy,
    ReleaseFacts,
    UpstreamWheel,
    Verdict,
    is_native,
    plan,
    wheel_name,
)
from piwheels.master.recipes import Recipe
from piwheels.master.targets import Target
from piwheels.versions import is_prerelease, parse_or_none
from piwheels.vocabulary import FailureReason, Outcome, ProjectStatus
from piwheels.wheelfile import MAX_NAME

REMEMBERED = 20_000  #: releases; bounded, as what is in them comes from strangers

_NAME, _OTHER = "x-", "other-1-"  #: what stands for the release's own wheels, and for files that are none of them


class Release(NamedTuple):
    """What the verdicts about a release depend on, but for its recipe. ``fresh`` decides nothing that is shown."""

    version: str  #: as PyPI spells it
    has_sdist: bool
    wanted: bool
    skip_reason: str  #: the project's, or its own; the recipe's is added
    status: ProjectStatus
    yanked: bool
    yanked_reason: str
    requires_python: str | None
    upstream: tuple[tuple[str, str | None, bool], ...]  #: PyPI's wheels, by name: name, Requires-Python, yanked
    wheels: tuple[tuple[str, int, str | None, bool], ...]  #: ours, oldest first: name, target, Requires-Python, yanked
    attempts: tuple[tuple[int, FailureReason | None], ...]  #: those that count, oldest first: target, what failed
    native_before: bool  #: the release before it has a wheel for particular platforms
    leased: frozenset[int]  #: targets for which a builder is at work


class Verdicts:
    """For these targets (also those that are not enabled: wheels were built on them)."""

    def __init__(self, targets: Sequence[Target], policy: Policy) -> None:
        self._targets, self._policy = targets, policy
        self._plans = lru_cache(maxsize=REMEMBERED)(self._plan)

    def of(self, project: str, release: Release, recipe: Recipe) -> tuple[Mapping[str, Verdict], bool]:
        """Name of each enabled target, oldest first → verdict; and whether the release has a wheel for particular
        platforms, which the next one is to be told. ``project``: its canonical name."""
        plain, names = _anonymous(project, release)
        found = self._plans(plain, recipe.skip, recipe.rebuild, recipe.prereleases, recipe.targets)
        if not plain.upstream and not plain.wheels:
            return found, False
        native = any(is_native(w[0]) for w in plain.upstream) or any(is_native(w[0]) for w in plain.wheels)
        if not any(verdict.wheels for verdict in found.values()):
            return found, native
        return {target: _renamed(verdict, names) for target, verdict in found.items()}, native

    def _plan(
        self, release: Release, skip: str | None, rebuild: object, prereleases: bool | None, limited: tuple[str, ...]
    ) -> Mapping[str, Verdict]:
        said = Recipe(skip=skip, rebuild=rebuild, prereleases=prereleases, targets=limited)  # type: ignore[arg-type]
        facts = facts_of("x", release, said)
        return {verdict.target.name: verdict for verdict in plan(facts, self._targets, self._policy).verdicts}


@lru_cache(maxsize=4)
def verdicts_of(targets: tuple[Target, ...], policy: Policy) -> Verdicts:
    """The one for these, with what it remembers; for any thread."""
    return Verdicts(targets, policy)


def facts_of(project: str, release: Release, recipe: Recipe) -> ReleaseFacts:
    """The same as the planner takes it."""
    return ReleaseFacts(
        project=project,
        version=release.version,
        has_sdist=release.has_sdist,
        wanted=release.wanted,
        skip_reason=recipe.skip or release.skip_reason,
        status=release.status,
        yanked=release.yanked,
        yanked_reason=release.yanked_reason,
        requires_python=release.requires_python,
        upstream=tuple(UpstreamWheel(*wheel) for wheel in release.upstream),
        wheels=tuple(OwnWheel(*wheel) for wheel in release.wheels),
        attempts=tuple(
            Attempt(target, Outcome.SUCCESS if reason is None else Outcome.FAILED, reason)
            for target, reason in release.attempts
        ),
        previous=(_SOME_NATIVE,) if release.native_before else (),
        leased=release.leased,
        rebuild=recipe.rebuild,
        prereleases=recipe.prereleases,
        limited=frozenset(recipe.targets),
    )


_SOME_NATIVE, _SOME_PURE = f"{_OTHER}py3-none-linux_armv7l.whl", f"{_OTHER}py3-none-any.whl"
assert is_native(_SOME_NATIVE) and not is_native(_SOME_PURE)


def _anonymous(project: str, release: Release) -> tuple[Release, dict[str, str]]:
    """The release under a name that many share, and what its own wheels are called really."""
    version = _version(release.version)
    upstream, wheels = release.upstream, release.wheels
    names: dict[str, str] = {}
    if upstream or wheels:
        own = _Own(project, release.version, f"{_NAME}{version}-", names)
        upstream = tuple([(own.plain(name), requires, yanked) for name, requires, yanked in upstream])
        wheels = tuple([(own.plain(name), on, requires, yanked) for name, on, requires, yanked in wheels])
    # Not by _replace(), which takes as long as all else here.
    return Release(version, *release[1:8], upstream, wheels, *release[10:]), names


@lru_cache(maxsize=100_000)
def _version(version: str) -> str:
    """One of its kind: what is decided depends on no more."""
    if parse_or_none(version) is None:
        return "not a version"
    return "1rc1" if is_prerelease(version) else "1"


class _Own:
    """Renames the wheels of one release, and notes what they were called."""

    def __init__(self, project: str, version: str, head: str, names: dict[str, str]) -> None:
        self._project, self._version, self._head, self._names = project, version, head, names
        self._begin = "-"  #: how the names of its wheels begin, once one was seen

    def plain(self, filename: str) -> str:
        if len(filename.encode()) > MAX_NAME:
            return _SOME_PURE  # no installer takes it for a wheel
        if not filename.startswith(self._begin):
            begin = "-".join(filename.split("-", 2)[:2]) + "-"
            if not self._is_own(filename):
                return _SOME_NATIVE if is_native(filename) else _SOME_PURE
            self._begin = begin
        plain = self._head + filename[len(self._begin) :]
        while self._names.setdefault(plain, filename) != filename:  # another spelling of the same name
            plain = _respelled(plain)
        return plain

    def _is_own(self, filename: str) -> bool:
        parts = filename.split("-", 2)
        if len(parts) == 3 and parts[1] == self._version and SAFE.fullmatch(parts[1]) and parse_or_none(parts[1]):
            return project_of(parts[0]) == self._project  # what follows is judged by its plain name
        name = wheel_name(filename)
        return name is not None and name.project == self._project and name.version == parse_or_none(self._version)


def _respelled(plain: str) -> str:
    """The same wheel under another spelling of its version."""
    head, version, rest = plain.split("-", 2)
    return f"{head}-0{version}-{rest}"


def _renamed(verdict: Verdict, names: Mapping[str, str]) -> Verdict:
    if not verdict.wheels:
        return verdict
    return Verdict(
        verdict.target,
        verdict.code,
        verdict.words,
        verdict.wanted,
        verdict.priority,
        tuple([names[name] for name in verdict.wheels]),
    )
