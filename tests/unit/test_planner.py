# SPDX-License-Identifier: BSD-3-Clause
"""The planner against a second, brute-force statement of its rules, and a table of situations in words.

The oracle shares nothing with the planner but the vocabulary: it asks packaging about every tag of every wheel, tries
every patch release of Python, and states the rules as sentences over sets.
"""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from piwheels.master.planner import (
    Attempt,
    Code,
    OwnWheel,
    Plan,
    Policy,
    Rebuild,
    ReleaseFacts,
    UpstreamWheel,
    Verdict,
    plan,
)
from piwheels.master.targets import PRESETS, Target
from piwheels.vocabulary import FailureReason, Outcome, Priority, ProjectStatus

ARMHF = replace(PRESETS["bookworm-armhf"], id=1)
ARM64 = replace(PRESETS["bookworm-arm64"], id=2)
TRIXIE = replace(PRESETS["trixie-armhf"], id=3)
TRIXIE64 = replace(PRESETS["trixie-arm64"], id=4)
SIBLING = replace(ARMHF, id=5, name="bookworm-twin", rank=105)  # the same distribution and tags as ARMHF
OFF = replace(ARMHF, id=6, name="off", rank=1, enabled=False)
ALL = (ARMHF, ARM64, TRIXIE, TRIXIE64)

FACTS = ReleaseFacts(project="spam-eggs", version="1.0", has_sdist=True)
SUCCESS = Outcome.SUCCESS, None
FAULT = Outcome.FAILED, FailureReason.PACKAGE


def wheel(tag: str, version: str = "1.0", build: str = "") -> str:
    return f"spam_eggs-{version}{build}-{tag}.whl"


def codes(facts: ReleaseFacts, targets: tuple[Target, ...] = ALL, policy: Policy | None = None) -> dict[str, Code]:
    return {v.target.name: v.code for v in plan(facts, targets, policy or Policy()).verdicts}


def queued(facts: ReleaseFacts, targets: tuple[Target, ...] = ALL, policy: Policy | None = None) -> list[str]:
    return [verdict.target.name for verdict in plan(facts, targets, policy or Policy()).jobs]


# The oracle


def oracle(facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy) -> set[int | None]:
    """The targets there should be jobs for."""
    targets = tuple(t for t in targets if t.enabled)
    wheels_native = {w.filename for w in facts.upstream if tags_of(w.filename) and platform_bound(w.filename)}
    hints = wheels_native | {name for name in facts.previous if tags_of(name) and platform_bound(name)}
    success = facts.wheels != () or SUCCESS in {(a.outcome, a.reason) for a in facts.attempts}
    failed_on = {t.id for t in targets if has_failed(facts, t, policy)}
    possible = [
        t
        for t in sorted(targets, key=lambda t: t.rank)
        if not served(facts, t, targets, policy)
        and not excluded(facts, t)
        and t.id not in failed_on
        and all(a.outcome is Outcome.FAILED for a in facts.attempts if a.target_id == t.id)
    ]
    running = {t.id for t in possible if t.id in facts.leased}
    if success or (hints and not failed_on):
        return {t.id for t in possible}
    if len(failed_on) > 1:
        return running
    return running or {t.id for t in possible[:1]}


def tags_of(filename: str) -> frozenset[object]:
    try:
        return parse_wheel_filename(filename)[3]
    except InvalidWheelFilename:
        return frozenset()


def platform_bound(filename: str) -> bool:
    return all(tag.platform != "any" for tag in parse_wheel_filename(filename)[3])


def installs(facts: ReleaseFacts, filename: str, requires: str | None, target: Target) -> bool:
    try:
        name, version, _, tags = parse_wheel_filename(filename)
        same = version == Version(facts.version)
    except (InvalidWheelFilename, InvalidVersion):
        return False
    return same and name == facts.project and any(t in target.ordered() for t in tags) and python_fits(requires, target)


def python_fits(requires: str | None, target: Target) -> bool:
    try:
        specifiers = SpecifierSet(requires or "")
    except InvalidSpecifier:
        return True
    return any(f"{target.python_version}.{patch}" in specifiers for patch in range(60))


def served(facts: ReleaseFacts, target: Target, targets: tuple[Target, ...], policy: Policy) -> bool:
    home = {t.id: t.distribution for t in targets}
    for w in facts.wheels:
        at_home = w.target_id == target.id or (home.get(w.target_id) == target.distribution and target.distribution)
        fits = installs(facts, w.filename, w.requires_python, target)
        if not w.yanked and fits and (at_home or not platform_bound(w.filename)):
            return True
    if policy.rebuild is Rebuild.ALL:
        return False
    return any(not w.yanked and installs(facts, w.filename, w.requires_python, target) for w in facts.upstream)


def excluded(facts: ReleaseFacts, target: Target) -> bool:
    try:
        Version(facts.version)
    except InvalidVersion:
        return True
    never = facts.yanked or facts.skip_reason or facts.status is ProjectStatus.QUARANTINED
    return bool(never) or not facts.wanted or not facts.has_sdist or not python_fits(facts.requires_python, target)


def has_failed(facts: ReleaseFacts, target: Target, policy: Policy) -> bool:
    reasons = [a.reason for a in facts.attempts if a.target_id == target.id and a.outcome is Outcome.FAILED]
    return FailureReason.PACKAGE in reasons or len(reasons) >= policy.strikes


# Facts of every kind

TAGS = [
    "py3-none-any",
    "py2-none-any",
    "py2.py3-none-any",
    "cp311-none-any",
    "cp311-cp311-linux_armv7l",
    "cp39-abi3-linux_armv7l",
    "cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64",
    "cp313-cp313-linux_aarch64",
    "cp313-cp313t-linux_aarch64",
    "cp39-cp39-win32",
    "py3-none-linux_armv7l",
    "cp38-abi3-manylinux_2_31_armv7l",
    "cp311-cp311-manylinux_2_40_armv7l",
    "cp313-cp313-musllinux_1_2_armv7l",
]
filenames = st.one_of(
    st.builds(wheel, st.sampled_from(TAGS), st.sampled_from(["1.0", "1.0.0", "2.0"]), st.sampled_from(["", "-1x"])),
    st.sampled_from(["other-1.0-py3-none-any.whl", "spam_eggs-1.0.whl", "../x.whl", "spam_eggs-1.0-a-b-c-d-e.whl"]),
)
requirements = st.sampled_from([None, ">=3.8", ">=3.12", "<3.12", ">=3.11.4", "rubbish", "==3.13.*"])
ids = st.sampled_from([1, 1, 2, 3, 4, 5, 77])
attempts = st.one_of(
    st.builds(Attempt, ids, st.just(Outcome.SUCCESS)),
    st.builds(Attempt, ids, st.just(Outcome.FAILED), st.sampled_from(FailureReason)),
)
facts_ = st.builds(
    ReleaseFacts,
    project=st.just("spam-eggs"),
    version=st.sampled_from(["1.0", "1.0", "1.0", "1.0.0", "dog"]),
    has_sdist=st.sampled_from([True, True, True, False]),
    wanted=st.sampled_from([True, True, True, False]),
    skip_reason=st.sampled_from(["", "", "", "too big"]),
    status=st.sampled_from([*[ProjectStatus.ACTIVE] * 3, *ProjectStatus]),
    yanked=st.sampled_from([False, False, False, True]),
    requires_python=requirements,
    upstream=st.lists(st.builds(UpstreamWheel, filenames, requirements, st.booleans()), max_size=3).map(tuple),
    wheels=st.lists(st.builds(OwnWheel, filenames, ids, requirements, st.booleans()), max_size=2).map(tuple),
    attempts=st.one_of(st.lists(attempts, max_size=5), st.lists(attempts, max_size=1)).map(tuple),
    previous=st.lists(filenames, max_size=2).map(tuple),
    leased=st.frozensets(ids, max_size=2),
    fresh=st.booleans(),
)
target_sets = st.lists(st.sampled_from([*ALL, SIBLING, OFF]), unique=True).map(tuple)
policies = st.builds(Policy, st.sampled_from(Rebuild), st.integers(1, 3))


@settings(max_examples=1000)
@given(facts_, target_sets, policies)
@example(replace(FACTS, attempts=(Attempt(1, *FAULT), Attempt(3, *FAULT)), leased=frozenset({2})), ALL, Policy())
def test_the_jobs_are_those_of_the_oracle(facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy) -> None:
    made = plan(facts, targets, policy)
    assert {job.target.id for job in made.jobs} == oracle(facts, targets, policy)
    check_sanity(made, facts, targets)


def check_sanity(made: Plan, facts: ReleaseFacts, targets: tuple[Target, ...]) -> None:
    assert [v.target for v in made.verdicts] == sorted((t for t in targets if t.enabled), key=lambda t: t.rank)
    for verdict in made.verdicts:
        assert verdict.words
        assert verdict.words.isprintable()
        assert verdict.wanted == (verdict.priority is not None)
        assert verdict.wanted == (verdict.code in (Code.QUEUED, Code.RETRYING, Code.BUILDING))
        assert bool(verdict.wheels) == (verdict.code in (Code.BUILT, Code.ON_PYPI))
        assert verdict.code is not Code.BUILDING or verdict.target.id in facts.leased
    if any(v.code is Code.PROBE_FIRST for v in made.verdicts):
        assert made.jobs  # nobody waits for a probe that is not made


@given(facts_, target_sets, policies, st.sampled_from(["wheels", "attempts", "upstream"]))
def test_the_order_in_which_facts_are_listed_decides_nothing(
    facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy, field: str
) -> None:
    turned = replace(facts, **{field: tuple(reversed(getattr(facts, field)))})
    one = {(v.target.id, v.code) for v in plan(facts, targets, policy).verdicts}
    assert one == {(v.target.id, v.code) for v in plan(turned, targets[::-1], policy).verdicts}


@given(facts_, policies)
def test_planning_ends(facts: ReleaseFacts, policy: Policy) -> None:
    """Whatever is built fails, again and again: at some point nothing is left to do."""
    facts = replace(facts, leased=frozenset())
    for _ in range(len(ALL) * policy.strikes + 1):
        jobs = plan(facts, ALL, policy).jobs
        if not jobs:
            return
        attempt = Attempt(jobs[0].target.id or 0, Outcome.FAILED, FailureReason.LOST)
        facts = replace(facts, attempts=(*facts.attempts, attempt))
    raise AssertionError("the planner never gives up")


# Situations


def test_a_release_of_which_nothing_is_known_is_probed_on_the_oldest_target() -> None:
    assert queued(FACTS) == ["bookworm-armhf"]
    assert set(list(codes(FACTS).values())[1:]) == {Code.PROBE_FIRST}


def test_a_build_under_way_is_as_good_a_probe() -> None:
    assert queued(replace(FACTS, leased=frozenset({3}))) == ["trixie-armhf"]


def test_a_wheel_that_names_any_platform_among_others_is_pure() -> None:
    built = replace(FACTS, wheels=(OwnWheel(wheel("py3-none-any.linux_armv7l"), 1),), attempts=(Attempt(1, *SUCCESS),))
    assert set(codes(built).values()) == {Code.BUILT}


def test_a_pure_probe_serves_all() -> None:
    built = replace(FACTS, wheels=(OwnWheel(wheel("py3-none-any"), 1),), attempts=(Attempt(1, *SUCCESS),))
    assert set(codes(built).values()) == {Code.BUILT}


def test_a_native_probe_fans_out() -> None:
    built = replace(FACTS, wheels=(OwnWheel(wheel("cp311-cp311-linux_armv7l"), 1),), attempts=(Attempt(1, *SUCCESS),))
    assert queued(built) == ["bookworm-arm64", "trixie-armhf", "trixie-arm64"]


def test_an_abi3_wheel_of_ours_stays_in_its_distribution() -> None:
    built = replace(FACTS, wheels=(OwnWheel(wheel("cp39-abi3-linux_armv7l"), 1),), attempts=(Attempt(1, *SUCCESS),))
    assert codes(built, (ARMHF, SIBLING, TRIXIE)) == {
        "bookworm-armhf": Code.BUILT,
        "bookworm-twin": Code.BUILT,
        "trixie-armhf": Code.QUEUED,
    }


def test_an_unknown_distribution_is_nobodys_sibling() -> None:
    here, there = replace(ARMHF, distribution=""), replace(SIBLING, distribution="")
    built = replace(FACTS, wheels=(OwnWheel(wheel("cp39-abi3-linux_armv7l"), 1),), attempts=(Attempt(1, *SUCCESS),))
    assert codes(built, (here, there)) == {"bookworm-armhf": Code.BUILT, "bookworm-twin": Code.QUEUED}


def test_pypis_abi3_wheel_serves_every_distribution() -> None:
    served_ = replace(FACTS, upstream=(UpstreamWheel(wheel("cp39-abi3-manylinux_2_17_armv7l")),))
    assert codes(served_, (ARMHF, TRIXIE)) == {"bookworm-armhf": Code.ON_PYPI, "trixie-armhf": Code.ON_PYPI}


def test_pypis_wheels_for_others_predict_native_code() -> None:
    assert len(queued(replace(FACTS, upstream=(UpstreamWheel(wheel("cp39-cp39-win32")),)))) == len(ALL)
    assert len(queued(replace(FACTS, previous=("spam_eggs-0.9-cp39-cp39-win32.whl",)))) == len(ALL)
    assert len(queued(replace(FACTS, upstream=(UpstreamWheel(wheel("py2-none-any")),)))) == 1


def test_a_yanked_wheel_of_pypis_serves_nobody() -> None:
    assert queued(replace(FACTS, upstream=(UpstreamWheel(wheel("py3-none-any"), yanked=True),)))


def test_a_wheel_of_pypis_for_another_python_serves_nobody_else() -> None:
    served_ = replace(FACTS, upstream=(UpstreamWheel(wheel("py3-none-any"), requires_python=">=3.12"),))
    assert codes(served_, (ARMHF, TRIXIE)) == {"bookworm-armhf": Code.QUEUED, "trixie-armhf": Code.ON_PYPI}


def test_the_policy_all_builds_what_pypi_has() -> None:
    served_ = replace(FACTS, upstream=(UpstreamWheel(wheel("py3-none-any")),))
    assert queued(served_) == []
    assert queued(served_, policy=Policy(rebuild=Rebuild.ALL)) == ["bookworm-armhf"]


def test_the_packages_fault_is_tried_on_one_more_target_only() -> None:
    once = replace(FACTS, attempts=(Attempt(1, *FAULT),))
    assert queued(once) == ["bookworm-arm64"]
    native = replace(once, upstream=(UpstreamWheel(wheel("cp39-cp39-win32")),))  # the others leave the queue again
    assert queued(native) == ["bookworm-arm64"]
    twice = replace(FACTS, attempts=(Attempt(1, *FAULT), Attempt(2, *FAULT)))
    assert codes(twice) == {
        "bookworm-armhf": Code.FAILED,
        "bookworm-arm64": Code.FAILED,
        "trixie-armhf": Code.GIVEN_UP,
        "trixie-arm64": Code.GIVEN_UP,
    }


def test_a_build_under_way_is_let_finish_when_others_failed() -> None:
    facts = replace(FACTS, attempts=(Attempt(1, *FAULT), Attempt(2, *FAULT)), leased=frozenset({4}))
    assert queued(facts) == ["trixie-arm64"]
    assert codes(facts)["trixie-arm64"] is Code.BUILDING


def test_failures_after_a_success_concern_their_target_alone() -> None:
    facts = replace(
        FACTS,
        wheels=(OwnWheel(wheel("cp311-cp311-linux_armv7l"), 1),),
        attempts=(Attempt(1, *SUCCESS), Attempt(2, *FAULT), Attempt(3, *FAULT)),
    )
    assert queued(facts) == ["trixie-arm64"]


def test_the_builders_fault_is_tried_again_and_strikes_count() -> None:
    lost = Attempt(1, Outcome.FAILED, FailureReason.LOST)
    memory = Attempt(1, Outcome.FAILED, FailureReason.MEMORY)
    assert queued(replace(FACTS, attempts=(lost, memory))) == ["bookworm-armhf"]
    struck_out = plan(replace(FACTS, attempts=(lost, memory, memory)), ALL, Policy()).verdicts[0]
    assert (struck_out.code, struck_out.words) == (Code.FAILED, "the build ran out of memory; tried 3 times")


def test_a_success_without_a_wheel_that_fits_is_not_repeated() -> None:
    facts = replace(FACTS, attempts=(Attempt(1, *SUCCESS),), wheels=(OwnWheel(wheel("cp39-cp39-win32"), 1),))
    assert codes(facts)["bookworm-armhf"] is Code.UNUSABLE


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"wanted": False}, Code.NOT_WANTED, "not built: a newer release is"),
        ({"yanked": True, "yanked_reason": "broken"}, Code.YANKED, "not built: yanked: broken"),
        ({"yanked": True}, Code.YANKED, "not built: yanked"),
        ({"skip_reason": "too big"}, Code.SKIPPED, "not built: skipped by the operator: too big"),
        ({"has_sdist": False}, Code.NO_SDIST, "cannot be built: no source distribution"),
        ({"version": "dog"}, Code.BAD_VERSION, "(PEP 440)"),
        ({"status": ProjectStatus.QUARANTINED}, Code.QUARANTINED, "quarantined"),
        ({"requires_python": ">=3.12"}, Code.REQUIRES_PYTHON, "not built: needs another Python: >=3.12, and"),
    ],
)
def test_why_nothing_is_built(changes: dict[str, object], code: Code, words: str) -> None:
    verdict = plan(replace(FACTS, **changes), ALL, Policy()).verdicts[0]  # type: ignore[arg-type]
    assert verdict.code is code
    assert words in verdict.words
    assert not verdict.wanted


def test_archived_and_deprecated_projects_are_built() -> None:
    assert queued(replace(FACTS, status=ProjectStatus.ARCHIVED))
    assert queued(replace(FACTS, status=ProjectStatus.DEPRECATED))


def test_priorities() -> None:
    def priority(facts: ReleaseFacts) -> Priority | None:
        job: Verdict = plan(facts, ALL, Policy()).jobs[0]
        return job.priority

    fresh = replace(FACTS, fresh=True)
    native = (OwnWheel(wheel("cp311-cp311-linux_armv7l"), 1),)
    assert priority(FACTS) is Priority.BACKLOG
    assert priority(fresh) is Priority.NEW
    assert priority(replace(fresh, attempts=(Attempt(1, Outcome.FAILED, FailureReason.DISK),))) is Priority.RETRY
    assert priority(replace(fresh, attempts=(Attempt(1, *FAULT),))) is Priority.RETRY
    assert priority(replace(fresh, attempts=(Attempt(1, *SUCCESS),), wheels=native)) is Priority.NEW
