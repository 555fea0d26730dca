# SPDX-License-Identifier: BSD-3-Clause
"""A second statement of the planner's rules, by brute force, for tests alone.

It shares nothing with the planner but the vocabulary: which Python takes which wheel is spelled out from the PEPs (425,
384, 600, 703) and not asked of packaging.tags, every patch release of a Python is tried, and the rules are sentences
over sets.
"""

import re

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from piwheels.master.planner import Policy, Rebuild, ReleaseFacts
from piwheels.master.targets import Target
from piwheels.vocabulary import FailureReason, Outcome, ProjectStatus

Tags = list[tuple[str, str, str]]

NAME, VERSION, BUILD = r"[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?", r"[A-Za-z0-9_.!+]+", r"-\d[A-Za-z0-9_.]*"
WHEEL = re.compile(rf"({NAME})-({VERSION})({BUILD})?-([^-]+)-([^-]+)-([^-]+)\.whl")


def oracle(facts: ReleaseFacts, targets: tuple[Target, ...], policy: Policy) -> set[int]:
    """The ids of the targets there should be jobs for."""
    on = sorted((t for t in targets if t.enabled), key=lambda t: t.rank)
    hints = [w.filename for w in facts.upstream] + list(facts.previous)
    hinted = any(platform_bound(name) for name in hints)
    success = facts.wheels != () or any(a.outcome is Outcome.SUCCESS for a in facts.attempts)
    failed_on = {t.id for t in on if has_failed(facts, t, policy)}
    possible = [
        t.id or 0
        for t in on
        if not served(facts, t, targets, policy)
        and not excluded(facts, t, policy)
        and t.id not in failed_on
        and all(a.outcome is Outcome.FAILED for a in facts.attempts if a.target_id == t.id)
    ]
    running = {id_ for id_ in possible if id_ in facts.leased}
    if success or (hinted and not failed_on):
        return set(possible)
    if len(failed_on) > 1:
        return running
    return running or set(possible[:1])


def read(filename: str) -> tuple[str, Version, Tags] | None:
    """Project, version and tags of a wheel; None: it is none."""
    match = WHEEL.fullmatch(filename)
    if match is None or "__" in match[1]:
        return None
    try:
        version = Version(match[2])
    except InvalidVersion:
        return None
    tags = [(i, a, p) for i in match[4].split(".") for a in match[5].split(".") for p in match[6].split(".")]
    return canonicalize_name(match[1]), version, tags


def platform_bound(filename: str) -> bool:
    found = read(filename)
    return found is not None and all(platform != "any" for _, _, platform in found[2])


def takes(target: Target, interpreter: str, abi: str, platform: str) -> bool:
    """Whether an installer for the target's Python takes a wheel with this tag."""
    match = re.fullmatch(r"(cp|py)(\d)(\d*)", interpreter)
    if match is None or (platform != "any" and platform not in target.platforms):
        return False
    minor = int(match[3]) if match[3] else None
    major_fits = int(match[2]) == target.python[0]
    same = major_fits and minor == target.python[1]
    older = major_fits and (minor is None or minor <= target.python[1])
    if match[1] == "py":  # PEP 425: of any implementation, of this version or an older one
        return abi == "none" and older
    if abi == "none":
        return same
    if platform == "any":
        return False
    if abi == "abi3":  # PEP 384; PEP 703: a free-threaded Python has no stable ABI
        return older and minor is not None and minor >= 2 and not target.abi.endswith("t")
    return same and abi == target.abi


def installs(facts: ReleaseFacts, filename: str, requires: str | None, target: Target) -> bool:
    found = read(filename)
    if found is None:
        return False
    project, version, tags = found
    try:
        same = version == Version(facts.version)
    except InvalidVersion:
        return False
    fits = any(takes(target, *tag) for tag in tags)
    return same and project == facts.project and fits and python_fits(requires, target)


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
    if (facts.rebuild or policy.rebuild) is Rebuild.ALL:
        return False
    return any(not w.yanked and installs(facts, w.filename, w.requires_python, target) for w in facts.upstream)


def excluded(facts: ReleaseFacts, target: Target, policy: Policy) -> bool:
    try:
        version = Version(facts.version)
    except InvalidVersion:
        return True
    prereleases = policy.prereleases if facts.prereleases is None else facts.prereleases
    if version.is_prerelease and not prereleases:
        return True
    if facts.limited and target.name not in facts.limited:
        return True
    never = facts.yanked or facts.skip_reason or facts.status is ProjectStatus.QUARANTINED
    return bool(never) or not facts.wanted or not facts.has_sdist or not python_fits(facts.requires_python, target)


def has_failed(facts: ReleaseFacts, target: Target, policy: Policy) -> bool:
    reasons = [a.reason for a in facts.attempts if a.target_id == target.id and a.outcome is Outcome.FAILED]
    return FailureReason.PACKAGE in reasons or len(reasons) >= policy.strikes
