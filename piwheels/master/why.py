# SPDX-License-Identifier: BSD-3-Clause
"""Why a release is, or is not, built for a target: the planner's verdict and what stands behind it, in words.

Pure: facts and the time come in, lines for a person go out. It must not know rows; db/why.py finds the facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from piwheels.master.planner import FAULTS, Code, Policy, ReleaseFacts, Verdict, is_native, plan, times
from piwheels.master.targets import Target
from piwheels.vocabulary import FailureReason, Outcome, Priority

SHOWN = 3  #: wheels or attempts that are listed
COUNTED = 1000  #: jobs before one that are counted at most


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A job that is there."""

    priority: Priority
    ready_at: datetime
    strikes: int = 0
    ahead: int = 0  #: jobs of the target that come before it, COUNTED at most
    leased: bool = False
    builder: str = ""  #: who builds it; empty although it is leased: kept for the next who asks
    started: datetime | None = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Try:
    """An attempt that ended."""

    target: str
    finished: datetime
    outcome: Outcome
    reason: FailureReason | None = None
    detail: str = ""
    builder: str = ""
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One release and one target, and all that explains what becomes of it."""

    facts: ReleaseFacts
    target: Target
    targets: Sequence[Target]  #: all that there are
    policy: Policy
    now: datetime
    job: JobFacts | None = None
    tries: Sequence[Try] = ()  #: on any target, the newest first
    builders: int = 0  #: admitted ones that serve the target
    heard: int = 0  #: of these, heard of lately
    paused: bool = False  #: the whole farm is
    planning: float | None = None  #: share of all releases that are planned for the targets there are now; None: all


def why(case: Case) -> list[str]:
    """Lines of text; the first says how it stands."""
    head = f"{case.facts.project} {case.facts.version}, {case.target.name}: "
    if not case.target.enabled:
        return [f"{head}not built: the target is disabled"]
    verdict = next(v for v in plan(case.facts, case.targets, case.policy).verdicts if v.target == case.target)
    return [head + verdict.words, *_details(case, verdict)]


def _details(case: Case, verdict: Verdict) -> list[str]:
    match verdict.code:
        case Code.BUILT:
            return _built(case, verdict)
        case Code.ON_PYPI:
            more = "its recipe" if case.facts.rebuild else "the farm's policy"
            return [f"PyPI has {_some(verdict.wheels)}", f"{more} is to build what PyPI lacks, and no more"]
        case Code.QUEUED | Code.RETRYING | Code.BUILDING:
            return [*_job(case), *_tries(case, own=True)]
        case Code.PROBE_FIRST:
            return ["nothing tells whether it has native code; if it has none, one wheel will do for all targets"]
        case Code.FAILED:
            return [*_tries(case, own=True), _RESET]
        case Code.GIVEN_UP:
            return [*_tries(case, own=False), _RESET]
        case Code.UNUSABLE:
            wheels = [wheel.filename for wheel in case.facts.wheels if wheel.target_id == case.target.id]
            return [f"the build made {_some(wheels)}" if wheels else "the build made no wheel", _RESET]
        case Code.NO_SDIST:
            return [_files(case.facts)]
        case Code.NOT_WANTED:
            return ["the feed is set to build the latest release of each project only (feed.releases)"]
        case Code.PRERELEASE:
            return [f"pre-releases are not built, says {_who(case.facts.prereleases)}"]
        case _:
            return []


_RESET = "a new source distribution, a changed recipe or `piw-queue retry` lets it be tried again"


def _who(said: object) -> str:
    return "the farm's policy" if said is None else "its recipe"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _files(facts: ReleaseFacts) -> str:
    wheels = len(facts.upstream)
    if not wheels:
        return "PyPI has no file of it that can be used"
    return f"PyPI has wheels of it ({wheels}), and none that fits this target"


def _built(case: Case, verdict: Verdict) -> list[str]:
    names = {target.id: target.name for target in case.targets}
    lines = []
    for filename in verdict.wheels[:SHOWN]:
        origins = [wheel.target_id for wheel in case.facts.wheels if wheel.filename == filename and not wheel.yanked]
        if case.target.id in origins:
            lines.append(f"{filename}, built for this target")
        else:
            fits = "of the same distribution" if is_native(filename) else "and it runs on any platform"
            lines.append(f"{filename}, built for {names.get(origins[0], 'another target')}, {fits}")
    return lines


# Jobs


def _job(case: Case) -> list[str]:
    job = case.job
    if job is None:
        if case.planning is not None:
            return [f"it has no job yet: {case.planning:.0%} of all releases are planned for the targets there are now"]
        return ["it has no job yet: it is about to be planned"]
    if job.leased:
        return [_lease(case, job)]
    return [_place(job), *_obstacles(case, job)]


def _lease(case: Case, job: JobFacts) -> str:
    if job.cancelled:
        return f"{job.builder or 'its builder'} is told to stop building it; what becomes of it is decided then"
    if not job.builder:
        return "it is kept for the next builder that asks"
    since = f" for {_duration(case.now - job.started)}" if job.started else ""
    return f"{job.builder} has been building it{since}"


def _place(job: JobFacts) -> str:
    kind = {
        Priority.REQUEST: "requested by the operator",
        Priority.NEW: "a new release",
        Priority.RETRY: "a retry",
        Priority.BACKLOG: "of the backlog",
    }[job.priority]
    count = f"{COUNTED} or more" if job.ahead >= COUNTED else str(job.ahead)
    before = "no other job comes" if not job.ahead else "1 job comes" if job.ahead == 1 else f"{count} jobs come"
    return f"it is {kind}; {before} before it"


def _obstacles(case: Case, job: JobFacts) -> list[str]:
    lines = []
    if job.ready_at > case.now:
        lines.append(f"it rests for another {_duration(job.ready_at - case.now)}")
    if case.paused:
        lines.append("the farm is paused: no jobs are handed out")
    if not case.builders:
        lines.append("no builder serves this target")
    elif not case.heard:
        lines.append(f"none of this target's builders ({case.builders}) has been heard of lately")
    return lines


def _duration(time: timedelta) -> str:
    seconds = max(int(time.total_seconds()), 0)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


# Attempts


def _tries(case: Case, *, own: bool) -> list[str]:
    failed = [t for t in case.tries if t.reason and not t.superseded and (not own or t.target == case.target.name)]
    lines = [_try(one) for one in failed[:SHOWN]]
    if len(failed) > SHOWN:
        lines.append(f"and {times(len(failed) - SHOWN)} before that")
    return lines


def _try(one: Try) -> str:
    assert one.reason is not None
    where = f" on {one.builder}" if one.builder else ""
    detail = f": {one.detail}" if one.detail else ""
    return f"{one.finished:%Y-%m-%d %H:%M} {one.target}{where}: {FAULTS[one.reason]}{detail}"
