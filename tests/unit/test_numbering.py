# SPDX-License-Identifier: BSD-3-Clause
"""Build numbers: which name a wheel gets."""

from hypothesis import given
from hypothesis import strategies as st

from piwheels.master.numbering import Bound, candidates, start
from piwheels.wheelfile import parse_wheel_name

TAG = "cp311-cp311-linux_armv7l"
NAME = parse_wheel_name(f"foo-1.0-{TAG}.whl")


def sha(number: int) -> bytes:
    return bytes([number]) * 32


def bound(build: str, content: int, made_of: int | None = None, tag: str = TAG) -> Bound:
    middle = f"-{build}" if build else ""
    return Bound(f"foo-1.0{middle}-{tag}.whl", sha(content), sha(content if made_of is None else made_of))


def test_the_first_has_its_own_name() -> None:
    assert candidates(NAME, sha(1), []) == [(NAME.filename, None)]
    assert start(NAME) == "foo-1.0"


def test_rebuilds_are_numbered() -> None:
    assert candidates(NAME, sha(2), [bound("", 1)]) == [(f"foo-1.0-1-{TAG}.whl", None)]
    assert candidates(NAME, sha(4), [bound("", 1), bound("1", 2)]) == [(f"foo-1.0-2-{TAG}.whl", None)]
    assert candidates(NAME, sha(4), [bound("", 1), bound("9", 2), bound("10", 3)]) == [(f"foo-1.0-11-{TAG}.whl", None)]


def test_the_same_wheel_has_the_same_name() -> None:
    taken = [bound("", 1), bound("1", 20, made_of=2), bound("2", 30, made_of=3)]
    assert candidates(NAME, sha(1), taken)[0] == (NAME.filename, sha(1))
    assert candidates(NAME, sha(2), taken) == [(f"foo-1.0-1-{TAG}.whl", sha(20)), (f"foo-1.0-3-{TAG}.whl", None)]


def test_a_builders_own_number_counts() -> None:
    named = parse_wheel_name(f"foo-1.0-4abc-{TAG}.whl")
    assert candidates(named, sha(2), [bound("", 1)]) == [(named.filename, None)]
    assert candidates(named, sha(2), [bound("4abc", 1)]) == [(f"foo-1.0-5-{TAG}.whl", None)]
    assert candidates(NAME, sha(3), [bound("", 1), bound("4abc", 2)]) == [(f"foo-1.0-5-{TAG}.whl", None)]


def test_other_tags_are_other_wheels() -> None:
    others = [bound("3", 1, tag="cp311-cp311-linux_aarch64"), bound("7", 2, tag="py3-none-any")]
    assert candidates(NAME, sha(3), [*others, bound("", 4)]) == [(f"foo-1.0-1-{TAG}.whl", None)]


@given(st.lists(st.integers(1, 5), max_size=12))
def test_names_never_change_their_content(contents: list[int]) -> None:
    """Whatever is built, in whatever order: what a name stood for once, it stands for always, and each content has one
    name."""
    names: dict[str, tuple[int, int]] = {}  # → what it stands for, what that was made of
    for content in contents:
        taken = [Bound(name, sha(new), sha(old)) for name, (new, old) in names.items()]
        filename, there = candidates(NAME, sha(content), taken)[0]
        made = content if filename == NAME.filename else content * 10  # numbering changes the bytes
        assert there in (None, sha(made))
        assert names.setdefault(filename, (made, content)) == (made, content)
    assert sorted(old for _, old in names.values()) == sorted(set(contents))
