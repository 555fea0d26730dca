# SPDX-License-Identifier: BSD-3-Clause
"""/changes.json, the pages of older changes and the Atom feeds."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator

from piwheels.site import assets, changes, paths
from piwheels.site.facts import News
from piwheels.vocabulary import NewsKind
from tests import site_facts as make
from tests.unit.test_site_pages import HOSTILE

VALIDATOR = Draft202012Validator(json.loads(assets.files(make.SITE)[paths.CHANGES_SCHEMA]))
ATOM = "{http://www.w3.org/2005/Atom}"


def news(serial: int, kind: NewsKind = NewsKind.BUILT, **values: object) -> News:
    facts = News(serial + 7, serial, make.NOW + timedelta(seconds=serial), kind, "foo-bar", "1.0", "bookworm-armhf", 5)
    return replace(facts, **values)  # type: ignore[arg-type]


SOME = [
    news(1, files=("foo_bar-1.0-py3-none-any.whl",)),
    news(2, NewsKind.FAILED, reason="memory", detail="killed", has_log=True),
    news(3, NewsKind.YANKED, target="", build_id=None, detail="it bites"),
    news(4, NewsKind.REMOVED, version="", target="", build_id=None),
]


def valid(data: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(data)
    VALIDATOR.validate(document)
    return document


def check_atom(data: bytes) -> ElementTree.Element:
    """What RFC 4287 asks of a feed and of its entries."""
    root = ElementTree.fromstring(data)
    assert root.tag == f"{ATOM}feed"
    ids = []
    for element in (root, *root.findall(f"{ATOM}entry")):
        for name in ("id", "title", "updated"):
            assert len(element.findall(f"{ATOM}{name}")) == 1 and element.findtext(f"{ATOM}{name}")
        identity = element.findtext(f"{ATOM}id") or ""
        assert identity.startswith(("https://", "tag:")) and " " not in identity
        ids.append(identity)
        links = [(link.get("rel"), link.get("type")) for link in element.findall(f"{ATOM}link")]
        assert len(links) == len(set(links)) and ("alternate", "text/html") in links
        assert all((link.get("href") or "").startswith("https://") for link in element.findall(f"{ATOM}link"))
    assert len(ids) == len(set(ids))
    assert root.findtext(f"{ATOM}author/{ATOM}name")
    assert ("self", "application/atom+xml") in [(e.get("rel"), e.get("type")) for e in root.findall(f"{ATOM}link")]
    return root


def test_the_latest_and_older_pages_are_valid_and_say_what_happened() -> None:
    latest = valid(changes.latest_json(SOME, serial=4))
    assert (latest["serial"], latest["first"], latest["pages"]) == (4, 1, 0)
    assert [one["change"] for one in latest["changes"]] == ["built", "failed", "yanked", "removed"]
    assert latest["changes"][1]["log"] == "logs/0000/000/5.txt.gz" and latest["changes"][1]["failure"] == "memory"
    assert latest["changes"][3]["version"] is None
    page = valid(changes.page_json(SOME, number=3))
    assert (page["first"], page["last"], page["changes"]) == (2001, 3000, latest["changes"])
    assert valid(changes.latest_json([], serial=0))["first"] == 1


@pytest.mark.parametrize("serial", [0, 1, 99, 100, 101, 999, 1000, 1001, 1099, 1100, 1101, 5000, 123_456])
def test_latest_begins_where_the_pages_end_or_before(serial: int) -> None:
    first = changes.first_of_latest(serial)
    assert 1 <= first <= changes.full_pages(serial) * changes.PAGE + 1
    assert min(serial, changes.LATEST) <= serial - first + 1 < changes.PAGE + changes.LATEST


def follow(latest: dict[str, Any], seen: int) -> list[int]:
    """Serials that a follower gets who had all up to ``seen``, as the manual tells it to do."""
    found = []
    page = seen // latest["page_size"] + 1
    while seen + 1 < latest["first"]:
        found += [n for n in range((page - 1) * 1000 + 1, page * 1000 + 1) if n > seen]
        seen, page = page * 1000, page + 1
        assert page <= latest["pages"] + 1
    return found + [n for n in range(latest["first"], latest["serial"] + 1) if n > seen]


@pytest.mark.parametrize("serial", [1, 150, 1000, 1050, 1100, 4321])
def test_whoever_follows_misses_nothing(serial: int) -> None:
    latest = json.loads(changes.latest_json([], serial=serial))
    for seen in {0, 1, 99, 100, 999, 1000, 1001, serial - 1, serial} & set(range(serial + 1)):
        assert follow(latest, seen) == list(range(seen + 1, serial + 1))


def test_feeds() -> None:
    root = check_atom(changes.farm_atom(SOME[::-1], make.SITE))
    assert root.findtext(f"{ATOM}updated") == "2026-11-20T10:11:16Z"
    entries = root.findall(f"{ATOM}entry")
    assert [entry.findtext(f"{ATOM}title") for entry in entries] == [
        "foo-bar removed",
        "foo-bar 1.0 yanked",
        "foo-bar 1.0 failed to build for bookworm-armhf",
        "foo-bar 1.0 built for bookworm-armhf",
    ]
    links = [[link.get("href") for link in entry.findall(f"{ATOM}link")] for entry in entries]
    own_page, log = "https://wheels.example.org/project/foo-bar/", "https://wheels.example.org/logs/0000/000/5.txt.gz"
    assert links == [[own_page], [own_page], [own_page, log], [own_page]]
    assert entries[3].findtext(f"{ATOM}summary") == "Files: foo_bar-1.0-py3-none-any.whl."
    own = check_atom(changes.project_atom(SOME, make.SITE, "foo-bar", "Foo.Bar") or b"")
    assert own.findtext(f"{ATOM}id") == "https://wheels.example.org/project/foo-bar/changes.atom"
    assert changes.project_atom([], make.SITE, "foo-bar", "Foo.Bar") is None
    check_atom(changes.farm_atom([], make.SITE))


def test_an_entry_keeps_its_id_when_it_is_published() -> None:
    before, after = (check_atom(changes.farm_atom([replace(news(3), serial=n)], make.SITE)) for n in (None, 3))
    assert before.findtext(f"{ATOM}entry/{ATOM}id") == after.findtext(f"{ATOM}entry/{ATOM}id")


def test_hostile_text_stays_text() -> None:
    one = news(1, NewsKind.FAILED, version=HOSTILE, detail=HOSTILE, reason="package")
    root = check_atom(changes.farm_atom([one], make.SITE))
    assert "<script>alert(1)</script>" in (root.findtext(f"{ATOM}entry/{ATOM}title") or "")
    assert "\x1b" not in valid(changes.latest_json([one], serial=1))["changes"][0]["detail"]
