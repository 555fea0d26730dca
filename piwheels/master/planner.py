# SPDX-License-Identifier: BSD-3-Clause
"""Which builds of a release there should be, and why not the others: a pure function of the facts.

``plan(release, targets, policy) -> Plan`` is called in the transaction that changed one of the facts, for that release
only. It must not know the database, the time or the network. The rules, in order, for each enabled target:

1. Nothing is built where a wheel already serves the target: ours, or (policy ``missing``) one of PyPI's.
2. Nothing is built of a release that is not wanted, is skipped, yanked, quarantined, a pre-release (unless the policy
   takes those), has no usable sdist or no PEP 440 version, whose recipe is limited to other targets, or whose
   Requires-Python excludes the target's Python.
3. A target is *done with* when an attempt there succeeded (whatever came of it), was the package's own fault, or met
   a builder's fault as often as the policy allows.
4. As long as nothing succeeded anywhere, it may fail on TRIES targets (master/rules.py); then it is given up.
5. Where native code is known of, or something succeeded, all other targets are built at once. Otherwise one is, the
   oldest: a pure wheel would serve them all.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import lru_cache

from packaging.tags import Tag

from piwheels.errors import WheelError
from piwheels.master.rules import TRIES, Situation, priority, to_build
from piwheels.master.targets import Target
from piwheels.versions import is_prerelease, parse_or_none
from piwheels.vocabulary import FailureReason, Outcome, Priority, ProjectStatus
from piwheels.wheelfile import WheelName, parse_wheel_name


class Rebuild(StrEnum):
    """Whether PyPI's own wheels count."""

    MISSING = "missing"  #: they do: only what PyPI lacks is built
    ALL = "all"  #: they do not


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decides for the whole farm."""

    rebuild: Rebuild = Rebuild.MISSING
    strikes: int = 3  #: builder's faults on one target after which it is given up there
    prereleases: bool = True  #: whether versions that PEP 440 calls pre-releases are built


@dataclass(frozen=True, slots=True)
class UpstreamWheel:
    """A wheel that PyPI has of the release."""

    filename: str
    requires_python: str | None = None
    yanked: bool = False


@dataclass(frozen=True, slots=True)
class OwnWheel:
    """A wheel that we built of the release."""

    filename: str
    target_id: int  #: what it was built for
    requires_python: str | None = None
    yanked: bool = False  #: superseded by another; serves nobody who does not ask for it


@dataclass(frozen=True, slots=True)
class Attempt:
    """A build that ended and still counts (not superseded)."""

    target_id: int
    outcome: Outcome
    reason: FailureReason | None = None  #: of a failure


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """All that planning a release depends on."""

    project: str  #: canonical name
    version: str  #: as PyPI spells it
    has_sdist: bool  #: one that can be fetched and verified
    wanted: bool = True  #: within what the feed was told to build
    skip_reason: str = ""  #: the project's (or its recipe's), or the release's
    status: ProjectStatus = ProjectStatus.ACTIVE
    yanked: bool = False
    yanked_reason: str = ""
    requires_python: str | None = None
    upstream: tuple[UpstreamWheel, ...] = ()
    wheels: tuple[OwnWheel, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    previous: tuple[str, ...] = ()  #: names of the previous release's wheels, PyPI's and ours
    leased: frozenset[int] = frozenset()  #: targets for which a builder is at work
    fresh: bool = False  #: released lately: its jobs come before retries and backlog
    rebuild: Rebuild | None = None  #: its recipe's policy; None: the farm's
    prereleases: bool | None = None  #: the same
    limited: frozenset[str] = frozenset()  #: names of the only targets that its recipe allows; empty: all


class Code(Enum):
    """What a verdict says in short, with the words for it where they need no detail."""

    BUILT = "built here"
    ON_PYPI = "PyPI has a wheel for it"
    BUILDING = "being built"
    QUEUED = "waiting to be built"
    RETRYING = "waiting to be tried again"
    PROBE_FIRST = "waiting for the build on another target, which may serve this one too"
    NOT_WANTED = "not built: a newer release is"
    SKIPPED = "not built: skipped by the operator"
    YANKED = "not built: yanked"
    QUARANTINED = "not built: PyPI has quarantined the project"
    PRERELEASE = "not built: a pre-release"
    NOT_HERE = "not built: the operator limits it to other targets"
    NO_SDIST = "cannot be built: no source distribution"
    BAD_VERSION = "cannot be built: its version is not one that installers accept (PEP 440)"
    REQUIRES_PYTHON = "not built: needs another Python"
    FAILED = "the build failed"
    UNUSABLE = "built, but its wheel does not fit this target"
    GIVEN_UP = "not built: it failed elsewhere"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen unless a fact changes."""
        return self not in (Code.BUILDING, Code.QUEUED, Code.RETRYING, Code.PROBE_FIRST)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is decided about one release and one target, for the queue and for people."""

    target: Target
    code: Code
    words: str  #: for people; plain text
    wanted: bool = False  #: there should be a job
    priority: Priority | None = None  #: the job's, where there should be one
    wheels: tuple[str, ...] = ()  #: the wheels that serve the target (BUILT: ours; ON_PYPI: PyPI's)


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions about one release, in order of targets' rank."""

    verdicts: tuple[Verdict, ...]

    @property
    def jobs(self) -> tuple[Verdict, ...]:
        """Those for which there should be a job."""
        return tuple(verdict for verdict in self.verdicts if verdict.wanted)


@lru_cache(maxsize=50_000)
def wheel_name(filename: str) -> WheelName | None:
    """The parsed name; None where it is not a wheel name: installers ignore such a file, and so do we."""
    try:
        return parse_wheel_name(filename)
    except WheelError:
        return None


def is_pure(tags: Collection[Tag]) -> bool:
    """Whether a wheel with these tags runs on any platform."""
    return any(tag.platform == "any" for tag in tags)


def is_native(filename: str) -> bool:
    """Whether a file is a wheel for particular platforms only."""
    name = wheel_name(filename)
    return name is not None and not is_pure(name.tags)


def plan(release: ReleaseFacts, targets: Sequence[Target], policy: Policy) -> Plan:
    """Decide about every enabled target."""
    ordered = in_order(targets)
    standing = [_standing(release, target, targets, policy) for target in ordered]
    now = _situation(release, ordered, standing, policy)
    chosen = to_build(now)
    return Plan(
        tuple(
            verdict or (_job(release, target, now, 1 << n) if chosen >> n & 1 else _no_job(target, ordered, now))
            for n, (target, verdict) in enumerate(zip(ordered, standing, strict=True))
        )
    )


def in_order(targets: Sequence[Target]) -> list[Target]:
    """The enabled ones, oldest first."""
    return sorted((t for t in targets if t.enabled), key=lambda target: (target.rank, target.id or 0))


def _situation(
    release: ReleaseFacts, ordered: Sequence[Target], standing: Sequence[Verdict | None], policy: Policy
) -> Situation:
    def where(verdicts: Iterable[object]) -> int:
        return sum(1 << n for n, found in enumerate(verdicts) if found)

    return Situation(
        targets=(1 << len(ordered)) - 1,
        closed=where(standing),
        failed=where(_failure(release, target, policy) for target in ordered),
        tried=where(_failures(release, target) for target in ordered),
        leased=where(target.id in release.leased for target in ordered),
        attempted=bool(release.attempts),
        succeeded=_succeeded(release),
        native=_native_code_known(release),
        fresh=release.fresh,
    )


def _succeeded(release: ReleaseFacts) -> bool:
    return bool(release.wheels) or any(attempt.outcome is Outcome.SUCCESS for attempt in release.attempts)


def _native_code_known(release: ReleaseFacts) -> bool:
    """A wheel for particular platforms, of this release or the previous one, says that building compiles something."""
    names = (*(wheel.filename for wheel in release.upstream), *release.previous)
    return any(map(is_native, names))


def _standing(release: ReleaseFacts, target: Target, targets: Sequence[Target], policy: Policy) -> Verdict | None:
    """What rules 1 to 3 say of a target by itself; None: it may be built."""
    return (
        _served(release, target, targets, policy)
        or _excluded(release, target, policy)
        or _done_with(release, target, policy)
    )


# Rule 1


def _served(release: ReleaseFacts, target: Target, targets: Sequence[Target], policy: Policy) -> Verdict | None:
    ours = tuple(wheel.filename for wheel in release.wheels if _own_serves(release, wheel, target, targets))
    if ours:
        return Verdict(target, Code.BUILT, Code.BUILT.value, wheels=ours)
    if (release.rebuild or policy.rebuild) is Rebuild.ALL:
        return None
    theirs = tuple(
        wheel.filename
        for wheel in release.upstream
        if not wheel.yanked and _fits(release, wheel.filename, wheel.requires_python, target)
    )
    return Verdict(target, Code.ON_PYPI, Code.ON_PYPI.value, wheels=theirs) if theirs else None


def _fits(release: ReleaseFacts, filename: str, requires_python: str | None, target: Target) -> bool:
    """Whether an installer on the target would take the file for this release."""
    tags = _tags_as(filename, release.project, release.version)
    return tags is not None and target.accepts(tags) and target.allows(requires_python)


@lru_cache(maxsize=10_000)
def _tags_as(filename: str, project: str, version: str) -> frozenset[Tag] | None:
    """The tags of a wheel of this project's version; None where the file is something else, as installers see it."""
    name = wheel_name(filename)
    if name is None or name.project != project or name.version != parse_or_none(version):
        return None
    return name.tags


def _own_serves(release: ReleaseFacts, wheel: OwnWheel, target: Target, targets: Sequence[Target]) -> bool:
    """A wheel of ours with native code links to the libraries of the distribution it was built on (abi3 differs only in
    the Python it needs), so it serves only targets of that distribution; PyPI's carry their libraries with them."""
    if wheel.yanked or not _fits(release, wheel.filename, wheel.requires_python, target):
        return False
    if wheel.target_id == target.id or not is_native(wheel.filename):
        return True
    origin = next((other for other in targets if other.id == wheel.target_id), None)
    return origin is not None and origin.distribution == target.distribution != ""


# Rule 2


def _excluded(release: ReleaseFacts, target: Target, policy: Policy) -> Verdict | None:
    code, detail = _exclusion(release, target, policy)
    if code is None:
        return None
    return Verdict(target, code, f"{code.value}: {detail}" if detail else code.value)


def _exclusion(release: ReleaseFacts, target: Target, policy: Policy) -> tuple[Code | None, str]:
    if release.status is ProjectStatus.QUARANTINED:
        return Code.QUARANTINED, ""
    if release.skip_reason:
        return Code.SKIPPED, release.skip_reason
    if release.yanked:
        return Code.YANKED, release.yanked_reason
    if parse_or_none(release.version) is None:
        return Code.BAD_VERSION, ""
    if not release.wanted:
        return Code.NOT_WANTED, ""
    if not release.has_sdist:
        return Code.NO_SDIST, ""
    if not takes_prereleases(release.prereleases, policy) and is_prerelease(release.version):
        return Code.PRERELEASE, ""
    if release.limited and target.name not in release.limited:
        return Code.NOT_HERE, ", ".join(sorted(release.limited))
    if not target.allows(release.requires_python):
        return Code.REQUIRES_PYTHON, f"{release.requires_python}, and this target has {target.python_version}"
    return None, ""


def takes_prereleases(said: bool | None, policy: Policy) -> bool:
    """Whether pre-releases are built of a project of which its recipe says this."""
    return policy.prereleases if said is None else said


# Rule 3


def _done_with(release: ReleaseFacts, target: Target, policy: Policy) -> Verdict | None:
    if any(a.outcome is Outcome.SUCCESS for a in release.attempts if a.target_id == target.id):
        return Verdict(target, Code.UNUSABLE, Code.UNUSABLE.value)
    failure = _failure(release, target, policy)
    return Verdict(target, Code.FAILED, failure) if failure else None


def _failure(release: ReleaseFacts, target: Target, policy: Policy) -> str | None:
    """Why no more is tried on the target, in words; None: more is."""
    reasons = _failures(release, target)
    if reasons[FailureReason.PACKAGE]:
        return FAULTS[FailureReason.PACKAGE]
    if reasons.total() < policy.strikes:
        return None
    commonest, _ = max(sorted(reasons.items()), key=lambda item: item[1])
    return f"{FAULTS[commonest]}; tried {times(reasons.total())}"


def _failures(release: ReleaseFacts, target: Target) -> Counter[FailureReason]:
    return Counter(a.reason for a in release.attempts if a.target_id == target.id and a.reason is not None)


FAULTS = {
    FailureReason.PACKAGE: "the build failed",
    FailureReason.TIMEOUT: "the build took too long",
    FailureReason.MEMORY: "the build ran out of memory",
    FailureReason.DISK: "the build ran out of disk space",
    FailureReason.NETWORK: "the build could not reach the network",
    FailureReason.BUILDER: "the builder had a fault",
    FailureReason.LOST: "the builder vanished during the build",
}


def times(count: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


# Rules 4 and 5 in words


def _no_job(target: Target, ordered: Sequence[Target], now: Situation) -> Verdict:
    failed = now.failed.bit_count()
    if failed >= TRIES:
        return Verdict(target, Code.GIVEN_UP, f"{Code.GIVEN_UP.value}, on {failed} targets")
    chosen = to_build(now)
    probe = ordered[(chosen & -chosen).bit_length() - 1].name
    return Verdict(target, Code.PROBE_FIRST, f"waiting for the build on {probe}, which may serve this target too")


def _job(release: ReleaseFacts, target: Target, now: Situation, place: int) -> Verdict:
    here = [attempt.reason for attempt in release.attempts if attempt.target_id == target.id and attempt.reason]
    if now.leased & place:
        code, words = Code.BUILDING, Code.BUILDING.value
    elif here:
        code, words = Code.RETRYING, f"{Code.RETRYING.value}: {FAULTS[here[-1]]}"
    else:
        code, words = Code.QUEUED, Code.QUEUED.value
    return Verdict(target, code, words, wanted=True, priority=priority(now, place))
