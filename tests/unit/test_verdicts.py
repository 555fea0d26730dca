# SPDX-License-Identifier: BSD-3-Clause
"""Verdicts by the thousand are the planner's own, wheel by wheel and word by word."""

from dataclasses import replace

from hypothesis import given, settings

from piwheels.master.planner import Policy, ReleaseFacts, is_native, plan
from piwheels.master.recipes import Recipe
from piwheels.master.targets import Target
from piwheels.master.verdicts import Release, verdicts_of
from tests.planner_facts import ALL, policies, release_facts, target_sets, wheel


def asked(facts: ReleaseFacts) -> tuple[Release, Recipe]:
    release = Release(
        version=facts.version,
        has_sdist=facts.has_sdist,
        wanted=facts.wanted,
        skip_reason=facts.skip_reason,
        status=facts.status,
        yanked=facts.yanked,
        yanked_reason=facts.yanked_reason,
        requires_python=facts.requires_python,
        upstream=tuple((one.filename, one.requires_python, one.yanked) for one in facts.upstream),
        wheels=tuple((one.filename, one.target_id, one.requires_python, one.yanked) for one in facts.wheels),
        attempts=tuple((one.target_id, one.reason) for one in facts.attempts),
        native_before=any(map(is_native, facts.previous)),
        leased=facts.leased,
    )
    limited = tuple(sorted(facts.limited))
    return release, Recipe(rebuild=facts.rebuild, prereleases=facts.prereleases, targets=limited)


@given(release_facts, target_sets, policies)
@settings(max_examples=400)
def test_they_are_the_planners(facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy) -> None:
    release, recipe = asked(facts)
    for _ in range(2):  # the second time it is remembered
        found, native = verdicts_of(targets, policy).of(facts.project, release, recipe)
        expected = plan(replace(facts, fresh=False), targets, policy).verdicts
        assert list(found.values()) == list(expected)
        assert list(found) == [verdict.target.name for verdict in expected]
        assert native == any(is_native(one.filename) for one in (*facts.upstream, *facts.wheels))


def test_wheels_are_called_what_they_are_called() -> None:
    """Though two differ in the spelling of the version alone, and others are not wheels, or another release's."""
    names = [wheel("py3-none-any", version) for version in ("1.0", "1.0.0", "01.0", "2.0", "1.0-1")]
    names += ["spam_eggs-1.0.whl", f"spam_eggs-1.0-{'x' * 250}-none-any.whl"]
    facts = ReleaseFacts("spam-eggs", "1.0", has_sdist=True)
    release = asked(facts)[0]._replace(upstream=tuple((name, None, False) for name in names))
    found, _ = verdicts_of(ALL, Policy()).of("spam-eggs", release, Recipe())
    assert {verdict.wheels for verdict in found.values()} == {(*names[:3], names[4])}


def test_releases_that_differ_in_nothing_else_share_their_answer() -> None:
    verdicts = verdicts_of(ALL, Policy())
    one, other = (
        asked(ReleaseFacts("x", version, has_sdist=True, wanted=False))[0] for version in ("1.0", "2.5.post1")
    )
    assert verdicts.of("one", one, Recipe())[0] is verdicts.of("other", other, Recipe())[0]
