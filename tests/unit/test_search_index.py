# SPDX-License-Identifier: BSD-3-Clause
"""The search index: whatever is typed is answered by one file of bounded size, and nothing is lost on the way."""

import json
import re
import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from piwheels.site import search_index, sitemap
from piwheels.site.search_index import BEST, INDEX, ROOM, Entry

Files = dict[str, object]


def entry(name: str, downloads: int = 0, *, key: str = "", wheels: bool = False, summary: str = "") -> Entry:
    return Entry(key or name, name, downloads, wheels, summary)


def made(entries: Iterable[Entry]) -> Files:
    return {name: json.loads(data) for name, data in search_index.files(sorted(entries, key=lambda e: (e.key, e.name)))}


def place(files: Files, query: str) -> str | None:
    """The file that answers, found as static/search.js does."""
    index = files[INDEX]
    assert isinstance(index, dict)
    everything, best = (["" if word == "_" else word for word in index[kind].split(" ")] for kind in ("all", "best"))
    for length in range(len(query) + 1):
        if query[:length] in everything:
            return search_index.file_name(query[:length])
        if query[:length] not in best:
            return None
    return search_index.file_name(query)


def names(found: object) -> list[str]:
    assert isinstance(found, list)
    return [one if isinstance(one, str) else one[0] for one in found]


def test_a_small_farm_is_one_file() -> None:
    files = made([entry("numpy", 1234, wheels=True, summary="Arrays"), entry("six")])
    assert files == {"_.json": [["numpy", 1200, "Arrays"], "six"], INDEX: {"all": "_", "best": ""}}


def test_no_project_at_all() -> None:
    assert made([]) == {"_.json": [], INDEX: {"all": "_", "best": ""}}


def test_many_names_are_spread_and_each_is_found_by_its_beginning() -> None:
    every = [f"{a}{b}-thing-{n}" for a in "abp" for b in "xyz" for n in range(2600)]
    files = made(entry(name, len(name)) for name in every)
    assert len(files) > 9
    for name in every[::97]:
        assert name in names(files[place(files, name) or ""])
    assert place(files, "qq") is None
    index = files[INDEX]
    assert isinstance(index, dict)
    listed = [name for word in index["all"].split(" ") for name in names(files[search_index.file_name(word)])]
    assert sorted(listed) == sorted(every)  # each once


def test_a_beginning_that_is_too_common_lists_the_best_of_it() -> None:
    every = [entry(f"django-{n:05d}", n) for n in range(6000)]
    every += [entry("django", 3), entry("django-wheels", 1, wheels=True, summary="x")]
    files = made(every)
    for query in ("", "d", "django", "django-"):
        found = names(files[place(files, query) or ""])
        assert len(found) == BEST and {"django-05999", "django-wheels"} <= set(found)
        assert "django-00001" not in found
    assert "django" in names(files["django.json"])  # not the best, but exactly that


def test_the_one_of_that_very_name_is_there_however_many_share_the_word() -> None:
    """A word at the end of ten thousand names has no longer beginning to spread them by."""
    every = [entry(f"a{n}-client", n, key="client", wheels=True) for n in range(9000)] + [entry("client")]
    files = made(every)
    found = names(files["client.json"])
    assert "client" in found and "a8999-client" in found and len(found) == BEST


def test_a_project_is_listed_once_whatever_it_is_found_by() -> None:
    files = made([entry("yaml-yaml", wheels=True), entry("yaml-yaml", key="yaml", wheels=True)])
    assert names(files["_.json"]) == ["yaml-yaml"]


_NAMES = st.lists(
    st.tuples(
        st.from_regex(r"[a-c][a-c-]{0,6}[a-c]", fullmatch=True),
        st.integers(0, 10**6),
        st.booleans(),
        st.text(max_size=90),
    ),
    max_size=60,
    unique_by=lambda one: one[0],
)


@settings(max_examples=60)
@given(_NAMES)
def test_nothing_is_lost_and_no_file_is_large(rows: list[tuple[str, int, bool, str]]) -> None:
    room, search_index.ROOM = search_index.ROOM, 100
    try:
        files = made(Entry(name, name, n, wheels, words) for name, n, wheels, words in rows)
    finally:
        search_index.ROOM = room
    for name, *_ in rows:
        assert name in names(files[place(files, name) or ""])


def stream(count: int) -> Iterator[Entry]:
    """Names as they come from PostgreSQL, sorted."""
    for n in range(count):
        yield Entry(f"n{n:07d}", f"n{n:07d}", n % 100, n % 7 == 0, "words " * 5)


def test_memory_does_not_grow_with_the_number_of_names() -> None:
    tracemalloc.start()
    try:
        biggest = max(len(data) for name, data in search_index.files(stream(60_000)) if name != INDEX)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
    assert biggest < 1.5 * ROOM


def test_downloads_are_rounded_so_that_files_keep_still() -> None:
    assert [search_index.rounded(n) for n in (0, 7, 99, 100, 129, 98_765, 1_234_567)] == [
        0,
        7,
        99,
        100,
        120,
        98_000,
        1_200_000,
    ]


def test_summaries_are_cut_at_a_word() -> None:
    assert search_index.summary("Short \n and plain") == "Short and plain"
    cut = search_index.summary("The toolkit, " * 20)
    assert len(cut) <= search_index.LONGEST_SUMMARY and cut.endswith("The toolkit, The…")


# The sitemap


def test_the_sitemap_has_every_page_and_no_part_is_too_long() -> None:
    today = date(2026, 11, 21)
    projects = [(f"p{n:03d}", today - timedelta(days=n % 5)) for n in range(94)]
    parts = list(sitemap.parts("https://example.org/a&b", projects, most=50))
    assert [name for name, *_ in parts] == ["0001.xml", "0002.xml"]
    pages = [re.findall("<loc>(.*?)</loc>", data.decode()) for _, data, _ in parts]
    assert [len(found) for found in pages] == [50, 50]  # the last page is full, and there is no empty one after it
    assert pages[0][0] == "https://example.org/a&amp;b/" and pages[1][-1] == "https://example.org/a&amp;b/project/p093/"
    assert b"<lastmod>2026-11-20</lastmod>" in parts[0][1] and parts[0][2] == today
    index = sitemap.index("https://example.org", [(name, day) for name, _, day in parts]).decode()
    assert "<loc>https://example.org/sitemap/0002.xml</loc><lastmod>2026-11-21</lastmod>" in index
    for data in (*(data for _, data, _ in parts), index.encode()):
        ElementTree.fromstring(data)  # well-formed
