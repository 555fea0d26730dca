# SPDX-License-Identifier: BSD-3-Clause
"""What a project's pages say: one model from the database's facts and the planner's verdicts, for every rendering.

Pure. It decides which wheels are listed, under which bytes, and what is said of each release and target; it knows no
format. Leases are not looked at: they come and go without a page being marked, so a job in the queue and one in a
builder's hands read the same.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from piwheels.master.planner import Code, Verdict, wheel_name
from piwheels.master.targets import Target
from piwheels.site import paths
from piwheels.site.facts import MAIN, Bound, BuildFacts, FileFacts, ProjectFacts, ReleaseFacts
from piwheels.site.text import clean, clean_lines, listed
from piwheels.versions import is_prerelease
from piwheels.vocabulary import DependencyTool, FailureReason, ProjectStatus
from piwheels.wheelfile import WheelName, valid_requires_python

Verdicts = Mapping[int, Mapping[str, Verdict]]  #: release id → target's name → verdict


class Status(StrEnum):
    """What became of a release on a target, for programs; the words beside it are for people."""

    SUCCESS = "success"  #: a wheel of ours serves the target
    FAILED = "failed"
    PENDING = "pending"  #: it will be built, or built again
    ON_PYPI = "on_pypi"  #: PyPI's own wheel serves the target, so nothing is built
    SKIPPED = "skipped"  #: it is not to be built


_STATUS = {
    Code.BUILT: Status.SUCCESS,
    Code.ON_PYPI: Status.ON_PYPI,
    Code.BUILDING: Status.PENDING,
    Code.QUEUED: Status.PENDING,
    Code.RETRYING: Status.PENDING,
    Code.PROBE_FIRST: Status.PENDING,
    Code.FAILED: Status.FAILED,
    Code.UNUSABLE: Status.FAILED,
}

#: What an attempt failed for, in as few words as a table has room for.
FAILURES = {
    FailureReason.PACKAGE: "failed",
    FailureReason.TIMEOUT: "took too long",
    FailureReason.MEMORY: "out of memory",
    FailureReason.DISK: "out of disk space",
    FailureReason.NETWORK: "no network",
    FailureReason.BUILDER: "builder's fault",
    FailureReason.LOST: "builder lost",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One release on one target."""

    target: str
    status: Status
    words: str  #: why it is so; empty where the status says it all
    failure: FailureReason | None = None  #: of the latest attempt
    detail: str = ""  #: what the builder said of it; may have several lines
    duration: timedelta | None = None
    finished: datetime | None = None
    build_id: int | None = None  #: of the latest attempt
    has_log: bool = False

    @property
    def log(self) -> str | None:
        """Where its log is in the published tree."""
        return paths.log_place(self.build_id) + ".txt.gz" if self.has_log and self.build_id else None

    @property
    def log_page(self) -> str | None:
        """The same for people; of an attempt that failed."""
        return paths.log_place(self.build_id) + ".html.gz" if self.has_log and self.build_id and self.failure else None


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file that we list."""

    filename: str
    version: str
    size: int
    sha256: bytes
    metadata_sha256: bytes
    requires_python: str | None  #: valid, normalised
    yanked: bool
    yanked_reason: str
    uploaded: datetime
    platform_tag: str
    abi_tag: str
    builder_abi: str
    build_id: int
    build_duration: timedelta
    targets: tuple[str, ...]  #: that it serves, oldest first
    apt: tuple[str, ...]
    pip: tuple[str, ...]
    unknown: tuple[str, ...]  #: shared libraries that no package of the builder's system had


@dataclass(frozen=True, slots=True)
class Release:
    """A release and what became of it."""

    version: str
    released: datetime
    prerelease: bool
    yanked: bool
    yanked_reason: str
    skip_reason: str
    cells: tuple[Cell, ...]  #: one for each of the page's targets of which there is something to say
    wheels: tuple[Wheel, ...]

    @property
    def on_pypi(self) -> tuple[str, ...]:
        """Targets that PyPI itself serves."""
        return tuple(cell.target for cell in self.cells if cell.status is Status.ON_PYPI)


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """A project."""

    name: str
    display_name: str
    summary: str
    status: ProjectStatus
    status_reason: str
    skip_reason: str
    serial: int
    aliases: tuple[str, ...]
    targets: tuple[str, ...]  #: columns, oldest first
    releases: tuple[Release, ...]  #: newest first
    downloads_month: int
    downloads_all: int
    download_days: tuple[tuple[date, int], ...]  #: of the last year, those that have any, oldest first
    today: date | None  #: UTC's, when they were counted

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """Every file that the index lists, oldest release first."""
        return tuple(wheel for release in reversed(self.releases) for wheel in release.wheels)

    @property
    def main(self) -> Release | None:
        """The release that an installer takes unless told otherwise: the newest that is neither yanked nor a
        pre-release, or the newest of all."""
        for release in self.releases:
            if not release.yanked and not release.prerelease:
                return release
        return self.releases[0] if self.releases else None


def project_page(
    facts: ProjectFacts,
    verdicts: Verdicts,
    targets: Sequence[Target],
    *,
    unavailable: Collection[str] = (),
    space: str = MAIN,
) -> ProjectPage:
    """Make the model, with the wheels of one space of names. ``targets``: all of them, oldest first. ``unavailable``:
    names that cannot be published."""
    builds = {build.id: build for build in facts.builds}
    quarantined = facts.status is ProjectStatus.QUARANTINED
    listable = {} if quarantined else choose_files(facts.files, facts.bound, space)
    by_release = defaultdict(list)
    for file in replaced([file for file in listable.values() if file.filename not in unavailable]):
        if file.build_id in builds:
            by_release[builds[file.build_id].release_id].append(file)
    columns = _columns(facts, targets)
    attempts = latest_attempts(facts.builds)
    ordered = sorted(facts.releases, key=lambda r: (r.sort_key, r.version), reverse=True)
    return ProjectPage(
        name=facts.name,
        display_name=clean(facts.display_name),
        summary=clean(facts.summary),
        status=facts.status,
        status_reason=clean(facts.status_reason),
        skip_reason=clean(facts.skip_reason),
        serial=facts.serial,
        aliases=tuple(sorted({clean(name) for name in facts.aliases} - {clean(facts.display_name)})),
        targets=tuple(target.name for target in columns),
        releases=tuple(
            _release(
                release,
                verdicts.get(release.id, {}),
                {t.name: attempts.get((release.id, t.name)) for t in columns},
                _wheels(release, by_release[release.id], builds, verdicts.get(release.id, {}), columns),
            )
            for release in ordered
        ),
        downloads_month=facts.downloads_month,
        downloads_all=facts.downloads_all,
        download_days=facts.download_days,
        today=facts.today,
    )


def space_page(
    page: ProjectPage, facts: ProjectFacts, targets: Sequence[Target], chosen: Collection[FileFacts]
) -> ProjectPage:
    """The page of a project in a distribution's index: of what ``page`` says only what an index does, and of its
    releases those of these files."""
    builds = {build.id: build for build in facts.builds}
    by_name = {target.name: target for target in targets}
    known = {(wheel.build_id, wheel.filename, wheel.yanked): wheel for wheel in page.wheels}
    by_release = defaultdict(list)
    for file in sorted(replaced(chosen), key=lambda f: f.filename):
        build, name = builds.get(file.build_id), fit_name(file.filename)
        if build is not None and name is not None:
            by_release[build.release_id].append((file, name, by_name[build.target]))
    releases = []
    for release in sorted(facts.releases, key=lambda r: (r.sort_key, r.version), reverse=True):
        wheels = []
        for file, name, target in by_release.get(release.id, ()):
            same = known.get((file.build_id, file.filename, file.yanked or release.yanked))
            wheels.append(same or _wheel(release, file, name, target, ()))
        if wheels:
            releases.append(_release(release, {}, {}, tuple(wheels)))
    return replace(page, releases=tuple(releases))


def _columns(facts: ProjectFacts, targets: Sequence[Target]) -> list[Target]:
    """The enabled targets, and those of old for which something was built."""
    built_for = {build.target for build in facts.builds}
    return [target for target in targets if target.enabled or target.name in built_for]


def latest_attempts(builds: Iterable[BuildFacts]) -> dict[tuple[int, str], BuildFacts]:
    """The attempt that stands for each release and target: the latest that counts, else the latest."""
    best: dict[tuple[int, str], BuildFacts] = {}
    for build in sorted(builds, key=lambda b: (not b.superseded, b.id)):
        best[build.release_id, build.target] = build
    return best


# Which wheels are listed


def fit_name(filename: str) -> WheelName | None:
    """The parsed name of a file that can be published under it, with its metadata beside it; None: it cannot."""
    try:
        return wheel_name(paths.check_wheel(filename))
    except ValueError:
        return None


def choose_files(files: Iterable[FileFacts], bound: Bound, space: str) -> dict[str, FileFacts]:
    """For each name of a space the row that is listed under it. A distribution's space has that one's own wheels only.

    A name stands for the content that it is bound to; rows with other content are not listed under it. Of several rows
    with that content (a build repeated, or the same wheel built for two targets) the newest that is not yanked speaks
    for it. A name that nobody bound is the first row's.
    """
    groups: dict[str, list[FileFacts]] = defaultdict(list)
    for file in sorted(files, key=lambda f: f.id):
        if space in (MAIN, file.distribution):
            groups[file.filename].append(file)
    chosen = {}
    for name, rows in groups.items():
        content = bound.get((space, name))
        if content is None:  # bound elsewhere only, it is of a distribution that may not have it here
            content = next((row.sha256 for row in rows if (row.distribution, name) not in bound), None)
        same = [row for row in rows if row.sha256 == content]
        if same:
            chosen[name] = max(same, key=lambda row: (not row.yanked, row.id))
    return chosen


def replaced(files: Iterable[FileFacts]) -> list[FileFacts]:
    """The files of one space; yanked, those of which there is a newer build. Installers prefer the higher build number
    (PEP 427) and would do without this; people who look at the page, and tools that compare names only, would not."""
    groups: dict[Hashable, list[FileFacts]] = defaultdict(list)
    for file in files:
        name = fit_name(file.filename)
        groups[(name.version, name.tags, file.distribution) if name else file.id].append(file)
    return [one for group in groups.values() for one in (group if len(group) == 1 else _all_but_newest_yanked(group))]


def _all_but_newest_yanked(files: Sequence[FileFacts]) -> Iterator[FileFacts]:
    def order(file: FileFacts) -> tuple[object, ...]:
        name = fit_name(file.filename)
        return (not file.yanked, name.build_order if name else (), file.id)

    newest = max(files, key=order)
    name = fit_name(newest.filename)
    reason = f"replaced by build {name.build}" if name and name.build else "replaced by a newer build"
    for file in files:
        yield file if file is newest or file.yanked else replace(file, yanked=True, yanked_reason=reason)


def _wheels(
    release: ReleaseFacts,
    files: Iterable[FileFacts],
    builds: Mapping[int, BuildFacts],
    verdicts: Mapping[str, Verdict],
    columns: Sequence[Target],
) -> tuple[Wheel, ...]:
    by_name = {target.name: target for target in columns}
    wheels = []
    for file in sorted(files, key=lambda f: f.filename):
        build, name = builds[file.build_id], fit_name(file.filename)
        built_for = by_name.get(build.target)
        if built_for is not None and name is not None:
            serves = _served(file.filename, verdicts, columns)
            wheels.append(_wheel(release, file, name, built_for, serves, build.duration))
    return tuple(wheels)


def _served(filename: str, verdicts: Mapping[str, Verdict], columns: Sequence[Target]) -> tuple[str, ...]:
    """The targets for which the planner says that this wheel of ours serves them."""
    ours = {name for name, verdict in verdicts.items() if verdict.code is Code.BUILT and filename in verdict.wheels}
    return tuple(target.name for target in columns if target.name in ours)


def _wheel(
    release: ReleaseFacts,
    file: FileFacts,
    name: WheelName,
    built_for: Target,
    serves: tuple[str, ...],
    took: timedelta = timedelta(0),
) -> Wheel:
    needs = _needs(file.dependencies)
    return Wheel(
        filename=file.filename,
        version=release.version,
        size=file.size,
        sha256=file.sha256,
        metadata_sha256=file.metadata_sha256,
        requires_python=_requires_python(file.requires_python or ""),
        yanked=file.yanked or release.yanked,
        yanked_reason=clean(file.yanked_reason if file.yanked else release.yanked_reason if release.yanked else ""),
        uploaded=file.uploaded,
        platform_tag=name.platform_tag,
        abi_tag=name.abi_tag,
        builder_abi=built_for.abi,
        build_id=file.build_id,
        build_duration=took,
        targets=serves or (built_for.name,),
        apt=tuple(name for name in needs[DependencyTool.APT] if name not in built_for.preinstalled),
        pip=needs[DependencyTool.PIP],
        unknown=needs[DependencyTool.NONE],
    )


# Wheels of a project are much alike, so these are asked for the same again and again.


@lru_cache(maxsize=2000)
def _needs(dependencies: tuple[tuple[DependencyTool, str], ...]) -> dict[DependencyTool, tuple[str, ...]]:
    return {
        tool: tuple(sorted({clean(name) for t, name in dependencies if t is tool} - {""})) for tool in DependencyTool
    }


_requires_python = lru_cache(maxsize=2000)(valid_requires_python)


# What is said of a release and a target


def _release(
    facts: ReleaseFacts,
    verdicts: Mapping[str, Verdict],
    attempts: Mapping[str, BuildFacts | None],
    wheels: tuple[Wheel, ...],
) -> Release:
    cells = (_cell(name, verdicts.get(name), attempt, wheels) for name, attempt in attempts.items())
    return Release(
        version=clean(facts.version),
        released=facts.released,
        prerelease=is_prerelease(facts.version),
        yanked=facts.yanked,
        yanked_reason=clean(facts.yanked_reason),
        skip_reason=clean(facts.skip_reason),
        cells=tuple(cell for cell in cells if cell is not None),
        wheels=wheels,
    )


def _cell(target: str, verdict: Verdict | None, attempt: BuildFacts | None, wheels: Sequence[Wheel]) -> Cell | None:
    if verdict is not None:
        if attempt is None and verdict.code is not Code.BUILT:
            return _untried(target, verdict.code, verdict.words)
        status, words = _STATUS.get(verdict.code, Status.SKIPPED), _words(verdict, attempt, wheels)
    elif attempt is not None:  # a target that is not built for any more
        status, words = (Status.FAILED, "the build failed") if attempt.reason else (Status.SUCCESS, "")
    else:
        return None
    if attempt is None:
        return Cell(target, status, clean(words))
    return Cell(
        target,
        status,
        clean(words),
        failure=attempt.reason,
        detail=clean_lines(attempt.detail).strip(),
        duration=attempt.duration,
        finished=attempt.finished,
        build_id=attempt.id,
        has_log=attempt.has_log,
    )


@lru_cache(maxsize=10_000)
def _untried(target: str, code: Code, words: str) -> Cell:
    """What most of the places of most tables say."""
    waiting = code in (Code.QUEUED, Code.BUILDING, Code.RETRYING)
    return Cell(target, _STATUS.get(code, Status.SKIPPED), clean(Code.QUEUED.value if waiting else words))


def _words(verdict: Verdict, attempt: BuildFacts | None, wheels: Sequence[Wheel]) -> str:
    match verdict.code:
        case Code.BUILT if attempt is None:
            serving = [wheel for wheel in wheels if wheel.filename in verdict.wheels]
            others = [name for wheel in serving for name in wheel.targets if name != verdict.target.name]
            return f"the wheel built for {others[0]} serves it too" if others else ""
        case Code.BUILT:
            return ""
        case Code.QUEUED | Code.BUILDING | Code.RETRYING:
            if attempt is None or attempt.reason is None:
                return Code.QUEUED.value
            return f"{Code.RETRYING.value} ({FAILURES[attempt.reason]})"
        case _:
            return verdict.words


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some targets have no wheel of ours of a release; the same for all of them."""

    targets: str
    status: Status
    words: str
    detail: str
    log: str | None  #: where its page is in the published tree, if it has one


def reasons(release: Release) -> tuple[Reason, ...]:
    """Why there is no wheel of ours, where there is none, in as few sentences as it takes."""
    groups: dict[tuple[Status, str, str], list[Cell]] = defaultdict(list)
    for cell in release.cells:
        if cell.status is not Status.SUCCESS:
            groups[cell.status, cell.words, cell.detail if cell.status is Status.FAILED else ""].append(cell)
    return tuple(
        Reason(listed([cell.target for cell in cells]), status, words, detail, cells[0].log_page)
        for (status, words, detail), cells in groups.items()
    )
