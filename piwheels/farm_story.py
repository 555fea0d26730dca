# SPDX-License-Identifier: BSD-3-Clause
"""What a person who watches a farm is told: pure functions from looks at the farm to lines, and to when it is done.

Knows words; must not know terminals, processes or the database.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from piwheels.db.farm_facts import Attempt, Project, Release, Running
from piwheels.db.status import Outstanding
from piwheels.master.planner import Code, Verdict
from piwheels.site.paths import log_path
from piwheels.vocabulary import Outcome, WatchState

MANY = 8  #: releases of one project above which they are counted, not listed
PATIENCE = 12.0  #: seconds without an answer of PyPI's after which --once gives up

#: Reasons that concern old releases only by the way; for a single release that was asked for they are failures.
_UNBUILDABLE = frozenset(
    (Code.SKIPPED, Code.YANKED, Code.QUARANTINED, Code.NO_SDIST, Code.BAD_VERSION, Code.REQUIRES_PYTHON)
)
_FAILURES = frozenset((Code.FAILED, Code.UNUSABLE, Code.GIVEN_UP))


@dataclass(frozen=True, slots=True)
class Look:
    """The farm at one moment."""

    at: float  #: monotonic
    projects: tuple[Project, ...]
    attempts: tuple[Attempt, ...]  #: that ended since the farm was started, in order
    running: tuple[Running, ...]
    outstanding: Outstanding
    away: bool  #: PyPI does not answer
    expected: frozenset[str]  #: canonical names of the projects asked for

    @property
    def listed(self) -> bool:
        """Whether the feed has taken over the list that was asked for."""
        return {project.name for project in self.projects} == self.expected

    @property
    def settled(self) -> bool:
        """Whether PyPI was asked about every project since the farm was started, and said something."""
        return self.listed and all(p.fresh and p.state is not WatchState.PENDING for p in self.projects)


@dataclass(slots=True)
class Story:
    """Tells what is new, each thing once."""

    base_url: str
    several: bool = False  #: there are several targets, so each is named
    _told: set[object] = field(default_factory=set)
    _listed: set[str] = field(default_factory=set)
    _away: bool = False
    _first: bool = True

    def tell(self, look: Look) -> list[str]:
        """The lines that this look adds to the story."""
        lines = list(self._new(look))
        self._first = False
        return lines

    def _new(self, look: Look) -> Iterator[str]:
        if look.away != self._away:
            self._away = look.away
            yield _weather(look) if look.away else "PyPI answers again."
        for project in look.projects:
            yield from self._found(project)
        yield from self._builds(look)
        for project in look.projects:
            if project.listed and project.name not in self._listed:
                self._listed.add(project.name)
                if not self._first:
                    yield f"published {self.base_url}/simple/{project.name}/"

    def _once(self, *key: object) -> bool:
        new = key not in self._told
        self._told.add(key)
        return new

    def _found(self, project: Project) -> Iterator[str]:
        if not project.fresh:
            return
        if project.state is WatchState.FOUND:
            if project.releases and self._once("found", project.name, tuple(r.version for r in project.releases)):
                yield from self._releases(project)
            elif not project.releases and self._once("empty", project.name):
                yield f"{project.spelling}: {project.detail or 'PyPI has no release of it with files'}"
        elif project.state is not WatchState.PENDING and self._once(project.name, project.state, project.detail):
            yield f"{project.spelling}: {project.detail}"

    def _releases(self, project: Project) -> Iterator[str]:
        if len(project.releases) > MANY:
            counts = Counter(_prospect(v) for release in project.releases for v in release.verdicts)
            summary = ", ".join(f"{count} {words}" for words, count in counts.most_common())
            yield f"{project.spelling}: {len(project.releases)} releases: {summary}"
            return
        for release in project.releases:
            for verdict in release.verdicts:
                where = f" ({verdict.target.name})" if self.several else ""
                yield f"{project.spelling} {release.version}{where}: {_prospect(verdict)}"

    def _builds(self, look: Look) -> Iterator[str]:
        ended = {attempt.id for attempt in look.attempts if self._once("attempt", attempt.id)}
        for attempt in look.attempts:
            if attempt.id in ended:
                yield ending(attempt, self.base_url)
        for build in look.running:
            if self._once("running", build.release_id, build.started):
                more = f"; {look.outstanding.jobs} waiting" if look.outstanding.jobs else ""
                yield f"building {build.project} {build.version}{more}"


def _weather(look: Look) -> str:
    details = [p.detail for p in look.projects if p.detail and p.state in (WatchState.PENDING, WatchState.ERROR)]
    return f"{details[0] if details else 'PyPI does not answer'}; trying again until it does"


def _prospect(verdict: Verdict) -> str:
    """What a verdict means for somebody who has just started a farm."""
    match verdict.code:
        case Code.ON_PYPI:
            wheel = f" ({verdict.wheels[0]})" if verdict.wheels else ""
            return f"served by PyPI{wheel}, nothing to build"
        case Code.BUILT:
            return "built before"
        case Code.QUEUED | Code.BUILDING:
            return f"will be built for {verdict.target.name}"
        case _:
            return verdict.words


def ending(attempt: Attempt, base_url: str) -> str:
    """How a build ended, in one line."""
    name, took = f"{attempt.project} {attempt.version}", span(attempt.duration)
    if attempt.outcome is Outcome.SUCCESS:
        return f"built {name} in {took}: {', '.join(attempt.filenames) or 'no wheel came out'}"
    log = f"{base_url}/{log_path(attempt.id)}"
    return f"failed {name} after {took} ({attempt.reason}): {attempt.detail}; log: {log}"


def span(time: timedelta) -> str:
    """A time as a person says it."""
    seconds = int(time.total_seconds())
    if seconds < 60:
        return f"{max(seconds, 0)} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class End(Enum):
    """Whether ``--once`` can end."""

    NOT_YET = "not yet"
    DONE = "nothing is left to do"
    AWAY = "PyPI cannot be asked"


@dataclass(slots=True)
class Ending:
    """Decides when ``--once`` ends, from one look after the other."""

    _away_since: float | None = None

    def judge(self, look: Look) -> End:
        """Whether it can end now."""
        if not look.away:
            self._away_since = None
            return End.DONE if look.settled and look.outstanding.nothing else End.NOT_YET
        if self._away_since is None:
            self._away_since = look.at
        busy = look.outstanding.jobs or look.outstanding.building or look.outstanding.pages
        if busy or look.at - self._away_since < PATIENCE:
            return End.NOT_YET
        # What was known before is no reason to fail: the next start will ask again.
        known = look.listed and all(p.state is WatchState.FOUND for p in look.projects)
        return End.DONE if known else End.AWAY


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was asked for and did not work."""

    line: str
    release_id: int | None = None


def failures(projects: Sequence[Project], *, every: bool) -> list[Failure]:
    """What did not come of the projects that were asked for. ``every``: all releases were, so odd old ones may fail."""
    return [failure for project in projects for failure in _failures_of(project, every=every)]


def _failures_of(project: Project, *, every: bool) -> Iterator[Failure]:
    if project.state is not WatchState.FOUND:
        yield Failure(f"{project.spelling}: {project.detail or 'PyPI was not asked'}")
    elif not project.releases:
        yield Failure(f"{project.spelling}: {project.detail or 'PyPI has no release of it with files'}")
    for release in project.releases:
        for verdict in release.verdicts:
            if verdict.code in _FAILURES or (verdict.code in _UNBUILDABLE and not every):
                yield Failure(f"{project.spelling} {release.version}: {verdict.words}", release.id)


def served_by_pypi(projects: Sequence[Project]) -> list[tuple[Project, Release]]:
    """The releases for which PyPI's own wheels are enough."""
    return [
        (project, release)
        for project in projects
        for release in project.releases
        if release.verdicts and all(verdict.code is Code.ON_PYPI for verdict in release.verdicts)
    ]


def usage(base_url: str, example: str, *, runs: bool) -> list[str]:
    """How to use the index; ``runs``: the farm goes on running."""
    index = f"{base_url}/simple/"
    when = "The farm's site is" if runs else "While a farm runs here (the same without --once), its site is"
    return [
        f"{when} {base_url}/ and its index {index}",
        f"  pip install --index-url {index} --no-deps {example}",
        f"  uv pip install --index-url {index} --no-deps {example}",
        "or with PyPI for everything that is not built here:",
        f"  pip install --extra-index-url {index} {example}",
        f"  uv pip install --index {index} {example}",
    ]
