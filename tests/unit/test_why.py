# SPDX-License-Identifier: BSD-3-Clause
"""Situations, and how they are explained: one table. tests/integration/test_why.py finds the facts in rows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given

from piwheels.master.planner import Attempt, OwnWheel, Policy, Rebuild, ReleaseFacts, UpstreamWheel
from piwheels.master.targets import Target
from piwheels.master.why import COUNTED, Case, JobFacts, Try, why
from piwheels.vocabulary import FailureReason, Outcome, Priority, ProjectStatus
from tests.planner_facts import ALL, ARM64, ARMHF, FREE, OFF, TRIXIE, policies, release_facts, target_sets, wheel

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
FACTS = ReleaseFacts(project="spam-eggs", version="1.0", has_sdist=True)
NATIVE = replace(FACTS, previous=("spam_eggs-0.9-cp39-cp39-win32.whl",))
WAITING = JobFacts(Priority.BACKLOG, ready_at=NOW - timedelta(days=1), ahead=7)
RESET = "a new source distribution, a changed recipe or `piw-queue retry` lets it be tried again"


def theirs(*tags: str, **more: Any) -> ReleaseFacts:
    return replace(FACTS, upstream=tuple(UpstreamWheel(wheel(tag)) for tag in tags), **more)


def ours(tag: str, target: Target) -> ReleaseFacts:
    success = Attempt(target.id or 0, Outcome.SUCCESS)
    return replace(FACTS, wheels=(OwnWheel(wheel(tag), target.id or 0),), attempts=(success,))


def failed(reason: FailureReason, *targets: Target) -> tuple[Attempt, ...]:
    return tuple(Attempt(target.id or 0, Outcome.FAILED, reason) for target in targets)


def tried(reason: FailureReason, target: str, detail: str = "", day: int = 1, **more: Any) -> Try:
    finished = datetime(2026, 3, day, 12, 30, tzinfo=UTC)
    return Try(target, finished, Outcome.FAILED, reason, detail, "builder 5 (attic)", **more)


def case(facts: ReleaseFacts = FACTS, target: Target = TRIXIE, **more: Any) -> Case:
    targets = more.pop("targets", (*ALL, FREE, OFF))
    values = {"policy": Policy(), "now": NOW, "builders": 2, "heard": 1} | more
    return Case(facts=facts, target=target, targets=targets, **values)


PACKAGE, MEMORY = FailureReason.PACKAGE, FailureReason.MEMORY
TABLE: dict[str, tuple[Case, list[str]]] = {
    "waiting": (
        case(NATIVE, job=WAITING),
        ["waiting to be built", "it is of the backlog; 7 jobs come before it"],
    ),
    "first of all": (
        case(NATIVE, job=replace(WAITING, priority=Priority.NEW, ahead=0)),
        ["waiting to be built", "it is a new release; no other job comes before it"],
    ),
    "requested, behind one": (
        case(NATIVE, job=replace(WAITING, priority=Priority.REQUEST, ahead=1)),
        ["waiting to be built", "it is requested by the operator; 1 job comes before it"],
    ),
    "far behind": (
        case(NATIVE, job=replace(WAITING, ahead=COUNTED)),
        ["waiting to be built", "it is of the backlog; 1000 or more jobs come before it"],
    ),
    "nobody to build it": (
        case(NATIVE, job=WAITING, builders=0, heard=0),
        ["waiting to be built", "it is of the backlog; 7 jobs come before it", "no builder serves this target"],
    ),
    "its builders are away": (
        case(NATIVE, job=WAITING, heard=0),
        [
            "waiting to be built",
            "it is of the backlog; 7 jobs come before it",
            "none of this target's builders (2) has been heard of lately",
        ],
    ),
    "the farm is paused": (
        case(NATIVE, job=WAITING, paused=True),
        [
            "waiting to be built",
            "it is of the backlog; 7 jobs come before it",
            "the farm is paused: no jobs are handed out",
        ],
    ),
    "resting after a builder's fault": (
        case(
            replace(NATIVE, attempts=failed(MEMORY, TRIXIE)),
            job=JobFacts(Priority.RETRY, ready_at=NOW + timedelta(minutes=5), strikes=1),
            tries=[tried(MEMORY, "trixie-armhf")],
        ),
        [
            "waiting to be tried again: the build ran out of memory",
            "it is a retry; no other job comes before it",
            "it rests for another 5 minutes",
            "2026-03-01 12:30 trixie-armhf on builder 5 (attic): the build ran out of memory",
        ],
    ),
    "being built": (
        case(
            replace(NATIVE, leased=frozenset({3})),
            job=replace(WAITING, leased=True, builder="builder 7", started=NOW - timedelta(minutes=42)),
        ),
        ["being built", "builder 7 has been building it for 42 minutes"],
    ),
    "kept ahead for the next builder": (
        case(replace(NATIVE, leased=frozenset({3})), job=replace(WAITING, leased=True)),
        ["being built", "it is kept for the next builder that asks"],
    ),
    "told to stop": (
        case(NATIVE, job=replace(WAITING, leased=True, builder="builder 7", cancelled=True)),
        ["waiting to be built", "builder 7 is told to stop building it; what becomes of it is decided then"],
    ),
    "not planned yet": (
        case(NATIVE, planning=0.42),
        ["waiting to be built", "it has no job yet: 42% of all releases are planned for the targets there are now"],
    ),
    "waits for the probe": (
        case(),
        [
            "waiting for the build on bookworm-armhf, which may serve this target too",
            "nothing tells whether it has native code; if it has none, one wheel will do for all targets",
        ],
    ),
    "built here": (
        case(ours("cp313-cp313-linux_armv7l", TRIXIE)),
        ["built here", "spam_eggs-1.0-cp313-cp313-linux_armv7l.whl, built for this target"],
    ),
    "a pure wheel from elsewhere": (
        case(ours("py3-none-any", ARMHF)),
        ["built here", "spam_eggs-1.0-py3-none-any.whl, built for bookworm-armhf, and it runs on any platform"],
    ),
    "an abi3 wheel from the same distribution": (
        case(ours("cp39-abi3-linux_armv7l", replace(OFF, id=9)), ARMHF, targets=(ARMHF, replace(OFF, id=9))),
        ["built here", "spam_eggs-1.0-cp39-abi3-linux_armv7l.whl, built for off, of the same distribution"],
    ),
    "PyPI has it": (
        case(theirs("py3-none-any")),
        [
            "PyPI has a wheel for it",
            "PyPI has spam_eggs-1.0-py3-none-any.whl",
            "the farm's policy is to build what PyPI lacks, and no more",
        ],
    ),
    "PyPI has it, and a recipe heeds that": (
        case(theirs("py3-none-any", rebuild=Rebuild.MISSING), policy=Policy(Rebuild.ALL)),
        [
            "PyPI has a wheel for it",
            "PyPI has spam_eggs-1.0-py3-none-any.whl",
            "its recipe is to build what PyPI lacks, and no more",
        ],
    ),
    "PyPI's wheel is for ordinary Pythons": (
        case(theirs("cp313-cp313-linux_armv7l"), FREE, job=WAITING),
        ["waiting to be built", "it is of the backlog; 7 jobs come before it"],
    ),
    "the package's fault": (
        case(replace(FACTS, attempts=failed(PACKAGE, TRIXIE)), tries=[tried(PACKAGE, "trixie-armhf", "no compiler")]),
        [
            "the build failed",
            "2026-03-01 12:30 trixie-armhf on builder 5 (attic): the build failed: no compiler",
            RESET,
        ],
    ),
    "struck out": (
        case(
            replace(FACTS, attempts=failed(MEMORY, TRIXIE) * 5),
            tries=[
                *[tried(MEMORY, "trixie-armhf", day=9 - n) for n in range(5)],
                tried(PACKAGE, "trixie-armhf", superseded=True),
            ],
        ),
        [
            "the build ran out of memory; tried 5 times",
            *(
                f"2026-03-0{day} 12:30 trixie-armhf on builder 5 (attic): the build ran out of memory"
                for day in (9, 8, 7)
            ),
            "and twice before that",
            RESET,
        ],
    ),
    "given up": (
        case(
            replace(FACTS, attempts=failed(PACKAGE, ARMHF, ARM64)),
            tries=[tried(PACKAGE, "bookworm-arm64", day=2), tried(PACKAGE, "bookworm-armhf")],
        ),
        [
            "not built: it failed elsewhere, on 2 targets",
            "2026-03-02 12:30 bookworm-arm64 on builder 5 (attic): the build failed",
            "2026-03-01 12:30 bookworm-armhf on builder 5 (attic): the build failed",
            RESET,
        ],
    ),
    "a wheel that fits nobody": (
        case(ours("cp39-cp39-win32", TRIXIE)),
        [
            "built, but its wheel does not fit this target",
            "the build made spam_eggs-1.0-cp39-cp39-win32.whl",
            RESET,
        ],
    ),
    "no wheel at all": (
        case(replace(FACTS, attempts=(Attempt(3, Outcome.SUCCESS),))),
        ["built, but its wheel does not fit this target", "the build made no wheel", RESET],
    ),
    "another Python": (
        case(replace(FACTS, requires_python="<3.13")),
        ["not built: needs another Python: <3.13, and this target has 3.13"],
    ),
    "no sdist, no wheel": (
        case(replace(FACTS, has_sdist=False)),
        ["cannot be built: no source distribution", "PyPI has no file of it that can be used"],
    ),
    "no sdist, but wheels": (
        case(theirs("cp39-cp39-win32", has_sdist=False)),
        [
            "cannot be built: no source distribution",
            "PyPI has wheels of it (1), and none that fits this target",
        ],
    ),
    "an old release": (
        case(replace(FACTS, wanted=False)),
        [
            "not built: a newer release is",
            "the feed is set to build the latest release of each project only (feed.releases)",
        ],
    ),
    "skipped": (case(replace(FACTS, skip_reason="too big")), ["not built: skipped by the operator: too big"]),
    "yanked": (case(replace(FACTS, yanked=True, yanked_reason="oops")), ["not built: yanked: oops"]),
    "in quarantine": (
        case(replace(FACTS, status=ProjectStatus.QUARANTINED)),
        ["not built: PyPI has quarantined the project"],
    ),
    "limited by its recipe": (
        case(replace(FACTS, limited=frozenset({"bookworm-armhf"}))),
        ["not built: the operator limits it to other targets: bookworm-armhf"],
    ),
    "the target is disabled": (case(FACTS, OFF), ["not built: the target is disabled"]),
}


@pytest.mark.parametrize("name", TABLE)
def test_why(name: str) -> None:
    given_, lines = TABLE[name]
    first, *rest = why(given_)
    assert first == f"spam-eggs 1.0, {given_.target.name}: {lines[0]}"
    assert rest == lines[1:]


def test_other_versions() -> None:
    facts = replace(FACTS, version="1.0a1")
    assert why(case(facts, policy=Policy(prereleases=False))) == [
        "spam-eggs 1.0a1, trixie-armhf: not built: a pre-release",
        "pre-releases are not built, says the farm's policy",
    ]
    assert why(case(replace(facts, prereleases=False)))[1] == "pre-releases are not built, says its recipe"
    assert "PEP 440" in why(case(replace(FACTS, version="dog")))[0]


@given(release_facts, target_sets, policies)
def test_anything_can_be_explained(facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy) -> None:
    for target in targets:
        for job in (None, WAITING, replace(WAITING, leased=True)):
            lines = why(case(facts, target, targets=targets, policy=policy, job=job))
            assert lines
            assert all(line and line.isprintable() for line in lines)
