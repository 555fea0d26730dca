# SPDX-License-Identifier: BSD-3-Clause
"""A project's entry in the metadata dump, from any JSON whatever; and its dependencies."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.pypi import entry
from piwheels.pypi.entry import MAX_REQUIREMENT, MAX_REQUIRES, entry_of, requires_of

FILE = {"filename": "spam-2.0.tar.gz", "yanked": False}
GOOD: dict[str, Any] = {
    "info": {
        "name": "Spam",
        "version": "2.0",
        "description": "long " * 1000,
        "description_content_type": "text/plain",
        "requires_dist": ["ham>=1", 'eggs; extra == "all"'],
    },
    "last_serial": 7,
    "releases": {"1.0": [FILE], "2.0": [FILE, FILE], "3.0rc1": [FILE]},
    "urls": [FILE, FILE],
    "vulnerabilities": [],
}


def read(document: object) -> Any:
    packed = entry_of(document)
    assert packed is not None
    assert packed.isascii()
    return json.loads(packed)


def test_an_entry_is_the_json_without_what_is_long() -> None:
    before = copy.deepcopy(GOOD)
    expected = copy.deepcopy(GOOD)
    del expected["info"]["description"]
    expected["releases"] = {"2.0": [FILE, FILE]}
    assert read(GOOD) == expected
    assert before == GOOD  # others read it, too


@pytest.mark.parametrize("version", [None, 7, "9.9", ["2.0"]])
def test_where_no_version_is_named_the_latest_is_ours(version: Any) -> None:
    document = GOOD | {"info": {"version": version}, "releases": {**GOOD["releases"], "4.0": [FILE | {"yanked": True}]}}
    assert list(read(document)["releases"]) == ["2.0"]
    assert read(GOOD | {"info": {}, "releases": {"1.0": [], "2.0": None}})["releases"] == {}
    assert read({"info": {}}) == {"info": {}}
    assert read({"info": {}, "releases": None}) == {"info": {}, "releases": None}


@pytest.mark.parametrize("document", [None, [], "x", {}, {"info": None}, {"info": []}])
def test_what_has_no_entry(document: object) -> None:
    assert entry_of(document) is None


def test_any_text_is_kept_in_ascii() -> None:
    words = "é\ud800\x00\u2028\n"
    assert read({"info": {"summary": words}})["info"]["summary"] == words


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_cannot_say_has_no_entry(number: float) -> None:
    assert entry_of({"info": {"x": number}}) is None


def test_nesting_without_end_has_no_entry() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert entry_of({"info": {"x": deep}}) is None


def test_what_is_too_long_loses_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(most: int) -> Any:
        monkeypatch.setattr(entry, "MAX_ENTRY", most)
        packed = entry_of({"info": {"version": "1"}, "releases": {"1": ["f" * 300]}, "urls": ["u" * 300]})
        assert packed is None or len(packed) <= most
        return packed and {key: len(value) for key, value in json.loads(packed).items() if key != "info"}

    assert keys(1000) == {"releases": 1, "urls": 1}
    assert keys(500) == {"releases": 1, "urls": 0}
    monkeypatch.undo()
    monkeypatch.setattr(entry, "MAX_ENTRY", 200)
    assert json.loads(entry_of({"info": {}, "releases": {"1": ["f" * 300]}}) or b"")["releases"] == {"1": []}
    assert entry_of({"info": {"summary": "x" * 300}}) is None


def test_dependencies() -> None:
    assert requires_of(GOOD) == ("ham>=1", 'eggs; extra == "all"')


@pytest.mark.parametrize("found", [None, "ham", {"ham": 1}, 7, []])
def test_no_dependencies(found: Any) -> None:
    assert requires_of({"info": {"requires_dist": found}}) == ()
    assert requires_of({"info": found}) == requires_of(found) == requires_of({}) == ()


def test_dependencies_are_bounded() -> None:
    assert requires_of({"info": {"requires_dist": [None, 7, "", "x" * (MAX_REQUIREMENT + 1), "ham"]}}) == ("ham",)
    assert len(requires_of({"info": {"requires_dist": ["ham"] * 10**6}})) == MAX_REQUIRES


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@given(st.sampled_from(["info", "releases", "urls"]), json_values, st.sampled_from(["version", "requires_dist"]))
def test_no_json_does_worse_than_having_none(key: str, value: Any, inner: str) -> None:
    for document in (GOOD | {key: value}, GOOD | {"info": {inner: value}}, GOOD | {"releases": {"1.0": value}}):
        packed = entry_of(document)
        if packed is not None:
            json.loads(packed, parse_constant=lambda name: pytest.fail(name))
        assert all(isinstance(text, str) for text in requires_of(document))
