# SPDX-License-Identifier: BSD-3-Clause
"""Targets and releases of every kind, for tests of the planner."""

from dataclasses import replace

from hypothesis import strategies as st

from piwheels.master.planner import Attempt, OwnWheel, Policy, Rebuild, ReleaseFacts, UpstreamWheel
from piwheels.master.targets import PRESETS
from piwheels.vocabulary import FailureReason, Outcome, ProjectStatus

ARMHF = replace(PRESETS["bookworm-armhf"], id=1)
ARM64 = replace(PRESETS["bookworm-arm64"], id=2)
TRIXIE = replace(PRESETS["trixie-armhf"], id=3)
TRIXIE64 = replace(PRESETS["trixie-arm64"], id=4)
SIBLING = replace(ARMHF, id=5, name="bookworm-twin", rank=105)  # the same distribution and tags as ARMHF
OFF = replace(ARMHF, id=6, name="off", rank=1, enabled=False)
FREE = replace(TRIXIE, id=7, name="trixie-free", abi="cp313t", rank=205)
NEWER = replace(ARMHF, id=8, name="bookworm-312", python_version="3.12", abi="cp312", rank=106)
ALL = (ARMHF, ARM64, TRIXIE, TRIXIE64)
EVERY = (*ALL, SIBLING, OFF, FREE, NEWER)

TAGS = [
    "py3-none-any",
    "py2-none-any",
    "py2.py3-none-any",
    "py311-none-any",
    "py312-none-any",
    "cp311-none-any",
    "cp312-none-linux_armv7l",
    "cp311-cp311-linux_armv7l",
    "cp312-cp312-linux_armv7l",
    "cp39-abi3-linux_armv7l",
    "cp312-abi3-linux_armv7l",
    "cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64",
    "cp313-cp313-linux_aarch64",
    "cp313-cp313t-linux_aarch64",
    "cp313-cp313t-linux_armv7l",
    "cp313-abi3-linux_armv7l",
    "cp39-cp39-win32",
    "py3-none-linux_armv7l",
    "py3-none-manylinux_2_17_armv7l.win32",
    "py3-none-any.linux_armv7l",
    "cp38-abi3-manylinux_2_31_armv7l",
    "cp311-cp311-manylinux_2_40_armv7l",
    "cp313-cp313-musllinux_1_2_armv7l",
]


def wheel(tag: str, version: str = "1.0", build: str = "", name: str = "spam_eggs") -> str:
    """The name of a wheel."""
    return f"{name}-{version}{build}-{tag}.whl"


filenames = st.one_of(
    st.builds(wheel, st.sampled_from(TAGS)),
    st.builds(
        wheel,
        st.sampled_from(TAGS),
        st.sampled_from(["1.0", "1.0", "1.0.0", "2.0", "1.0a1", "01.0", "dog"]),
        st.sampled_from(["", "", "-1x", "-x"]),
        st.sampled_from(["spam_eggs", "spam_eggs", "Spam.Eggs", "spam", "spam__eggs", "eggs-spam_eggs"]),
    ),
    st.sampled_from(
        ["other-1.0-py3-none-any.whl", "spam_eggs-1.0.whl", "../x.whl", "spam_eggs-1.0-a-b-c-d-e.whl", "spam eggs-1.0"]
    ),
)
requirements = st.sampled_from([None, ">=3.8", ">=3.12", "<3.12", ">=3.11.4", "rubbish", "==3.13.*", "!=3.11.*"])
ids = st.sampled_from([1, 1, 2, 3, 4, 5, 6, 7, 8, 77])
attempts = st.one_of(
    st.builds(Attempt, ids, st.just(Outcome.SUCCESS)),
    st.builds(Attempt, ids, st.just(Outcome.FAILED), st.sampled_from(FailureReason)),
)
release_facts = st.builds(
    ReleaseFacts,
    project=st.just("spam-eggs"),
    version=st.sampled_from(["1.0", "1.0", "1.0", "1.0.0", "1.0-1", "1.0a1", "dog"]),
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
    rebuild=st.sampled_from([None, None, *Rebuild]),
    prereleases=st.sampled_from([None, None, True, False]),
    limited=st.sampled_from([frozenset(), frozenset(), frozenset({"trixie-armhf", "bookworm-312"})]),
)
target_sets = st.lists(st.sampled_from(EVERY), unique=True).map(tuple)
policies = st.builds(Policy, st.sampled_from(Rebuild), st.integers(1, 3), st.booleans())
