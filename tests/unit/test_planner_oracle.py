# SPDX-License-Identifier: BSD-3-Clause
"""The planner, alone and in bulk, against a second statement of its rules (tests/planner_oracle.py)."""

from dataclasses import replace
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from piwheels.master.bulk import BUILDING, FIELD, NEXT, SDIST, SUCCESS, Bulk, Row
from piwheels.master.planner import Attempt, Code, Plan, Policy, ReleaseFacts, UpstreamWheel, is_native, plan
from piwheels.master.recipes import Recipe
from piwheels.master.targets import Target
from piwheels.versions import parse_or_none, sort_key
from piwheels.vocabulary import FailureReason, Outcome, ProjectStatus
from tests.planner_facts import ALL, ARMHF, EVERY, TAGS, policies, release_facts, target_sets, wheel
from tests.planner_oracle import oracle, platform_bound, read, takes

FACTS = ReleaseFacts(project="spam-eggs", version="1.0", has_sdist=True)
FAULT = Outcome.FAILED, FailureReason.PACKAGE


@settings(max_examples=1000)
@given(release_facts, target_sets, policies)
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


def test_every_wheel_on_every_target() -> None:
    """The oracle's own statement of who takes what is packaging's, for each tag that is drawn from."""
    for tag in TAGS:
        for target in EVERY:
            found = read(wheel(tag))
            assert found is not None
            theirs = replace(FACTS, upstream=(UpstreamWheel(wheel(tag)),))
            code = plan(theirs, (replace(target, enabled=True),), Policy()).verdicts[0].code
            assert (code is Code.ON_PYPI) == any(takes(target, *one) for one in found[2]), (tag, target.name)


@given(release_facts, target_sets, policies, st.sampled_from(["wheels", "attempts", "upstream"]))
def test_the_order_in_which_facts_are_listed_decides_nothing(
    facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy, field: str
) -> None:
    turned = replace(facts, **{field: tuple(reversed(getattr(facts, field)))})
    one = {(v.target.id, v.code) for v in plan(facts, targets, policy).verdicts}
    assert one == {(v.target.id, v.code) for v in plan(turned, targets[::-1], policy).verdicts}


@given(release_facts, policies)
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


# In bulk


@settings(max_examples=1000)
@given(release_facts, target_sets, policies, st.randoms(use_true_random=False))
def test_in_bulk_the_jobs_are_the_same(
    facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy, random: Random
) -> None:
    bulk = Bulk(targets, policy)
    recipe = Recipe(rebuild=facts.rebuild, prereleases=facts.prereleases, targets=tuple(sorted(facts.limited)))
    row, before = row_of(facts, random), any(map(is_native, facts.previous))
    expected = {(job.target.id, job.priority) for job in plan(facts, targets, policy).jobs}
    for _ in range(2):  # the second time it remembers
        found = bulk.look(row, recipe)
        assert set(bulk.jobs(found.situation, before=before)) == expected
        if not bulk.depends(found.situation):
            assert set(bulk.jobs(found.situation, before=not before)) == expected
    names = [*(one.filename for one in facts.upstream), *(one.filename for one in facts.wheels)]
    assert found.native == any(map(platform_bound, names))


def row_of(facts: ReleaseFacts, random: Random) -> Row:
    """The facts as the database hands them out, in any order."""
    upstream = [FIELD.join((w.filename, "yn"[not w.yanked], w.requires_python or "")) for w in facts.upstream]
    upstream += [SDIST] * random.choice((1, 1, 2)) if facts.has_sdist else []
    builds = [f"{a.target_id}{FIELD}{a.reason or SUCCESS}{FIELD}n{FIELD}{FIELD}n{FIELD}" for a in facts.attempts]
    builds += [
        FIELD.join((str(w.target_id), SUCCESS, "y", w.filename, "yn"[not w.yanked], w.requires_python or ""))
        for w in facts.wheels
    ]
    jobs = [f"{target}{FIELD}3{FIELD}{BUILDING}" for target in facts.leased]
    lists = []
    for items in (upstream, builds, jobs):
        random.shuffle(items)
        lists.append("".join(NEXT + item for item in items) or None)
    return Row(
        1,
        1,
        sort_key(facts.version),
        facts.project,
        facts.version,
        bool(facts.skip_reason),
        parse_or_none(facts.version) is not None,
        not facts.wanted or facts.yanked or facts.status is ProjectStatus.QUARANTINED,
        facts.requires_python,
        facts.fresh,
        *lists,
    )


def test_a_target_that_does_not_exist_any_more_harms_nobody() -> None:
    row = row_of(replace(FACTS, attempts=(Attempt(99, *FAULT),), leased=frozenset({99})), Random(1))
    assert Bulk([ARMHF], Policy()).look(row).situation.attempted
