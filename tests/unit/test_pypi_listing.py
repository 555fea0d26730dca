# SPDX-License-Identifier: BSD-3-Clause
"""The list of all projects, how it differs from ours, and when it must not be believed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.pypi import listing
from piwheels.pypi.listing import Difference, Listing, compare, implausible, read_listing
from piwheels.pypi.model import UpstreamUnusable


def body(*projects: Any, meta: Any = None, **more: Any) -> bytes:
    meta = {"api-version": "1.4", "_last-serial": 100} if meta is None else meta
    return json.dumps({"meta": meta, "projects": projects} | more).encode()


def entry(name: Any, serial: Any = 5) -> dict[str, Any]:
    return {"name": name, "_last-serial": serial}


def of(last: int = 100, **serials: int) -> Listing:
    return Listing(serials, last, "", 0)


def test_a_listing() -> None:
    found = read_listing(body(entry("Spam.Eggs", 7), entry("ham", 9)), etag='"abc"', header_serial=99)
    assert found == Listing({"spam-eggs": 7, "ham": 9}, 100, '"abc"', 0)


def test_spellings_of_one_name_count_with_the_highest_serial() -> None:
    assert read_listing(body(entry("a_b", 7), entry("A.B", 9), entry("a-b", 8))).serials == {"a-b": 9}


def test_where_the_listings_own_serial_comes_from() -> None:
    silent = {"api-version": "1.0"}
    assert read_listing(body(entry("a", 7), meta=silent), header_serial=50).last_serial == 50
    assert read_listing(body(entry("a", 7), meta=silent)).last_serial == 7
    assert read_listing(body(meta={"api-version": "1.0", "_last-serial": "x"}), header_serial=50).last_serial == 50


@pytest.mark.parametrize("name", [None, 7, "", "a b", "x" * 201, "x" * 1_000_000, "a\n", "a\x00", ["a"], {"name": "b"}])
def test_what_is_no_name_is_counted(name: Any) -> None:
    found = read_listing(body(entry("a"), {**entry("b"), "name": name}))
    assert found.serials.keys() - {"b"} == {"a"}
    assert found.refused == 1


@pytest.mark.parametrize("other", [None, 7, "a", [], ["a"], {}, {"_last-serial": 5}])
def test_what_is_no_entry_is_counted(other: Any) -> None:
    found = read_listing(body(other, entry("a")))
    assert (found.serials, found.refused) == ({"a": 5}, 1)


@pytest.mark.parametrize("serial", [None, "5", True, -1, 0, 2**60, 1.5])
def test_a_project_without_a_serial_is_there_all_the_same(serial: Any) -> None:
    found = read_listing(body(entry("a", serial)))
    assert (found.serials, found.refused) == ({"a": 0}, 0)
    assert compare(found, [("a", 7)]) == Difference([], [], [])
    assert compare(found, []).new == [("a", 0)]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"<html></html>",
        b"[]",
        b"null",
        b"{}",
        b'{"projects": {}}',
        b'{"projects": null}',
        b'{"projects": {"name": "a"}}',
        body(entry("a"))[:-3],
        b"\xff\xfe\xff",
        b"[" * 100_000,
        b'{"projects": [' + b'{"a":' * 100_000,
        b'{"projects": [' + b"9" * 5000 + b"]}",
    ],
)
def test_what_is_no_listing(broken: bytes) -> None:
    with pytest.raises(UpstreamUnusable):
        read_listing(broken)


def test_a_listing_of_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PROJECTS", 10)
    assert len(read_listing(body(*(entry(f"a{n}") for n in range(10)))).serials) == 10
    with pytest.raises(UpstreamUnusable, match="more than 10"):
        read_listing(body(*(entry(f"a{n}") for n in range(11))))
    with pytest.raises(UpstreamUnusable, match="too many parts"):
        read_listing(body(*[1] * 100))


def test_differences() -> None:
    found = compare(of(a=5, b=6, c=7, d=8), [("d", 9), ("c", 3), ("a", 5), ("x", 1)])
    assert found == Difference(new=[("b", 6)], moved=[("d", 8), ("c", 7)], gone=["x"])


def test_what_we_know_better_than_a_stale_listing_has_not_moved() -> None:
    stale = of(last=10, a=5, b=5)
    assert compare(stale, [("a", 11), ("b", 10)]).moved == [("b", 5)]


@given(st.dictionaries(st.text("ab", min_size=1), st.integers(1, 20)), st.data())
def test_applying_a_difference_leaves_none(theirs: dict[str, int], data: st.DataObject) -> None:
    ours = data.draw(st.dictionaries(st.text("ab", min_size=1), st.integers(1, 20)))
    upstream = Listing(theirs, 20, "", 0)
    found = compare(upstream, data.draw(st.permutations(list(ours.items()))))
    ours |= dict(found.new) | dict(found.moved)
    for name in found.gone:
        del ours[name]
    assert ours == theirs
    assert compare(upstream, ours.items()) == Difference([], [], [])


@pytest.mark.parametrize(
    ("known", "gone", "words"),
    [
        (0, 0, None),
        (100, 50, None),
        (100, 51, "lacks 51 of the 100"),
        (100_000, 1000, None),
        (100_000, 1001, "lacks 1001"),
        (10, 10, None),
    ],
)
def test_how_much_may_be_gone(known: int, gone: int, words: str | None) -> None:
    found = implausible(of(a=5), known, gone)
    assert found is None if words is None else words in str(found)


def test_an_empty_listing_is_not_believed() -> None:
    assert implausible(of(), 3, 3) == "it is empty"
    assert implausible(of(), 0, 0) is None


@given(st.recursive(st.one_of(st.none(), st.integers(), st.text(max_size=5)), lambda i: st.one_of(
    st.lists(i, max_size=3), st.dictionaries(st.sampled_from(["name", "projects", "meta", "_last-serial", "x"]), i)
)))  # fmt: skip
def test_no_json_does_worse_than_being_refused(document: Any) -> None:
    try:
        found = read_listing(json.dumps(document).encode())
    except UpstreamUnusable:
        return
    assert all(type(serial) is int for serial in found.serials.values())
