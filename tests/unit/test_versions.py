# SPDX-License-Identifier: BSD-3-Clause
"""sort_key orders as packaging does, for every version that PEP 440 can spell."""

import random

from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from piwheels.versions import is_prerelease, parse_or_none, sort_key

numbers = st.one_of(st.integers(0, 3), st.integers(0, 400), st.integers(0, 10**30))
locals_ = st.lists(st.one_of(numbers.map(str), st.text("abz019", min_size=1, max_size=4)), min_size=1, max_size=3)


@st.composite
def versions(draw: st.DrawFn) -> str:
    text = f"{draw(numbers)}!" if draw(st.booleans()) else ""
    text += ".".join(map(str, draw(st.lists(numbers, min_size=1, max_size=4))))
    if draw(st.booleans()):
        text += draw(st.sampled_from(["a", "b", "rc"])) + str(draw(numbers))
    if draw(st.booleans()):
        text += f".post{draw(numbers)}"
    if draw(st.booleans()):
        text += f".dev{draw(numbers)}"
    if draw(st.booleans()):
        text += "+" + ".".join(draw(locals_))
    return text


@given(versions(), versions())
def test_the_order_is_that_of_pep_440(one: str, other: str) -> None:
    assert (sort_key(one) < sort_key(other)) == (Version(one) < Version(other))
    assert (sort_key(one) == sort_key(other)) == (Version(one) == Version(other))


@given(versions(), st.text(max_size=20))
def test_a_version_that_pep_440_rejects_sorts_below_all_others(good: str, text: str) -> None:
    if parse_or_none(text) is None:
        assert sort_key(text) < sort_key(good)


def test_the_order_of_pep_440s_own_example() -> None:
    ordered = [
        "dog",
        "1.dev0",
        "1.0.dev456",
        "1.0a1",
        "1.0a2.dev456",
        "1.0a12.dev456",
        "1.0a12",
        "1.0b1.dev456",
        "1.0b2",
        "1.0b2.post345.dev456",
        "1.0b2.post345",
        "1.0rc1.dev456",
        "1.0rc1",
        "1.0",
        "1.0+abc.5",
        "1.0+abc.7",
        "1.0+5",
        "1.0.post456.dev34",
        "1.0.post456",
        "1.0.15",
        "1.1.dev1",
        "1.10",
        "1!0.1",
    ]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled, key=sort_key) == ordered


def test_numbers_of_any_length() -> None:
    assert sort_key("9" * 190) < sort_key("1" + "0" * 190) < sort_key("1" + "0" * 700)
    assert parse_or_none("1" * 5000) is None  # more digits than int() takes: refused, not raised
    assert sort_key("1" * 5000) < sort_key("0")


def test_prereleases() -> None:
    assert [v for v in ("1.0", "1.0rc1", "1.0.dev1", "1.0.post1", "dog") if is_prerelease(v)] == ["1.0rc1", "1.0.dev1"]
