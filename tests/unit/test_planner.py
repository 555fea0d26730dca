# SPDX-License-Identifier: BSD-3-Clause
"""The planner's rules, situation by situation. test_planner_oracle.py has them all at once."""

from dataclasses import replace

import pytest

from piwheels.master.planner import (
    Attempt,
    Code,
    OwnWheel,
    Policy,
    Rebuild,
    ReleaseFacts,
    UpstreamWheel,
    Verdict,
    plan,
)
from piwheels.master.targets import Target
from piwheels.vocabulary import FailureReason, Outcome, Priority, ProjectStatus
from tests.planner_facts import ALL, ARM64, ARMHF, FREE, OFF, SIBLING, TRIXIE, wheel

FACTS = ReleaseFacts(project="spam-eggs", version="1.0", has_sdist=True)
SUCCESS = Outcome.SUCCESS, None
FAULT = Outcome.FAILED, FailureReason.PACKAGE


def codes(facts: ReleaseFacts, targets: tuple[Target, ...] = ALL, policy: Policy | None = None) -> dict[str, Code]:
    return {v.target.name: v.code for v in plan(facts, targets, policy or Policy()).verdicts}


def queued(facts: ReleaseFacts, targets: tuple[Target, ...] = ALL, policy: Policy | None = None) -> list[str]:
    return [verdict.target.name for verdict in plan(facts, targets, policy or Policy()).jobs]


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


def test_a_rebuild_serves_as_the_build_before_it_and_a_twin_nobody_here() -> None:
    first, second = wheel("cp311-cp311-linux_armv7l"), wheel("cp311-cp311-linux_armv7l", build="-1")
    twin = wheel("cp311-cp311-linux_armv6l")
    built = replace(FACTS, attempts=(Attempt(1, *SUCCESS),))
    for names in ((first, twin), (second,), (first, second, twin)):
        release = replace(built, wheels=tuple(OwnWheel(name, 1) for name in names))
        (verdict,) = plan(release, (ARMHF,), Policy()).verdicts
        assert verdict.code is Code.BUILT and set(verdict.wheels) == set(names) - {twin}


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


def test_free_threaded_pythons_are_others() -> None:
    ordinary = replace(FACTS, upstream=(UpstreamWheel(wheel("cp313-cp313-linux_armv7l")),))
    assert codes(ordinary, (TRIXIE, FREE)) == {"trixie-armhf": Code.ON_PYPI, "trixie-free": Code.QUEUED}
    threaded = replace(FACTS, upstream=(UpstreamWheel(wheel("cp313-cp313t-linux_armv7l")),))
    assert codes(threaded, (TRIXIE, FREE)) == {"trixie-armhf": Code.QUEUED, "trixie-free": Code.ON_PYPI}
    stable = replace(FACTS, upstream=(UpstreamWheel(wheel("cp38-abi3-linux_armv7l")),))  # PEP 703: not for these
    assert codes(stable, (TRIXIE, FREE)) == {"trixie-armhf": Code.ON_PYPI, "trixie-free": Code.QUEUED}


def test_a_wheel_for_any_python_of_a_platform() -> None:
    theirs = replace(FACTS, upstream=(UpstreamWheel(wheel("py3-none-manylinux_2_17_armv7l")),))
    assert codes(theirs) == {
        "bookworm-armhf": Code.ON_PYPI,
        "bookworm-arm64": Code.QUEUED,
        "trixie-armhf": Code.ON_PYPI,
        "trixie-arm64": Code.QUEUED,
    }
    ours = replace(FACTS, wheels=(OwnWheel(wheel("py3-none-linux_armv7l"), 1),), attempts=(Attempt(1, *SUCCESS),))
    assert codes(ours, (ARMHF, SIBLING, TRIXIE)) == {
        "bookworm-armhf": Code.BUILT,
        "bookworm-twin": Code.BUILT,
        "trixie-armhf": Code.QUEUED,
    }


def test_a_wheel_built_for_a_target_that_is_disabled_serves_its_distribution() -> None:
    built = replace(FACTS, wheels=(OwnWheel(wheel("cp39-abi3-linux_armv7l"), OFF.id or 0),))
    assert codes(built, (OFF, SIBLING, TRIXIE)) == {"bookworm-twin": Code.BUILT, "trixie-armhf": Code.QUEUED}


@pytest.mark.parametrize("version", ["1.0a1", "1.0.dev3", "1.0rc1", "2.0b2.post1"])
def test_prereleases_are_built_as_the_policy_and_the_recipe_say(version: str) -> None:
    facts, never = replace(FACTS, version=version), Policy(prereleases=False)
    assert queued(facts)
    assert set(codes(facts, policy=never).values()) == {Code.PRERELEASE}
    assert queued(replace(facts, prereleases=True), policy=never)
    assert not queued(replace(facts, prereleases=False))
    assert queued(replace(FACTS, version="1.0.post1"), policy=never)


def test_a_recipe_has_its_own_policy_about_pypis_wheels() -> None:
    facts = replace(FACTS, upstream=(UpstreamWheel(wheel("py3-none-any")),))
    assert queued(replace(facts, rebuild=Rebuild.ALL)) == ["bookworm-armhf"]
    assert not queued(replace(facts, rebuild=Rebuild.MISSING), policy=Policy(rebuild=Rebuild.ALL))


def test_a_recipe_limits_targets() -> None:
    facts = replace(FACTS, limited=frozenset({"bookworm-arm64", "trixie-armhf"}))
    assert codes(facts) == {
        "bookworm-armhf": Code.NOT_HERE,
        "bookworm-arm64": Code.QUEUED,
        "trixie-armhf": Code.PROBE_FIRST,
        "trixie-arm64": Code.NOT_HERE,
    }
    words = plan(facts, (ARMHF, ARM64), Policy()).verdicts[0].words
    assert words == "not built: the operator limits it to other targets: bookworm-arm64, trixie-armhf"
