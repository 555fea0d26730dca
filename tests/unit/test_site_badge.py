# SPDX-License-Identifier: BSD-3-Clause
"""Badges: what they say, to eyes and to screen readers, and that they bring nothing with them."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from piwheels.site import badge
from piwheels.site.badge import Badge
from piwheels.site.facts import ProjectFacts
from piwheels.site.text import clean
from tests import site_facts as make
from tests.unit.test_site_pages import HOSTILE, _luminance

FACTS = make.project()
NONE = replace(FACTS, releases=FACTS.releases[:3], builds=(), files=())


@pytest.mark.parametrize(
    ("facts", "right", "good"),
    [
        (FACTS, "1.10 · wheels", True),
        (NONE, "1.10 · no wheel", False),
        (replace(FACTS, releases=(), builds=(), files=()), "no release", False),
    ],
)
def test_what_it_says(facts: ProjectFacts, right: str, good: bool) -> None:
    assert badge.of(make.page(facts), make.SITE) == Badge("Test farm", right, good=good)


def test_pypis_own_wheels_count() -> None:
    page = make.page()
    page = replace(page, releases=tuple(replace(release, wheels=()) for release in page.releases))
    assert badge.of(page, make.SITE) == Badge("Test farm", "1.10 · wheels on PyPI", good=True)


@pytest.mark.parametrize(
    "one", [Badge("Test farm", "1.0 · wheels", good=True), Badge(clean(HOSTILE), "x" * 90, good=False)]
)
def test_the_drawing_is_accessible_and_needs_nothing(one: Badge) -> None:
    data = badge.render(one)
    assert data == badge.render(one)
    root = ElementTree.fromstring(data)
    assert root.get("role") == "img" and root.get("aria-label") == root.findtext("{http://www.w3.org/2000/svg}title")
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {"svg", "title", "rect", "path", "g", "text"}
    names = {name for element in root.iter() for name in element.keys()}  # noqa: SIM118 - iterating an element gives its children
    assert not names & {"style", "href", "onload", "class"}
    assert int(root.get("width") or 0) < 700
    for background in (badge._GOOD, badge._NONE, badge._LEFT):
        assert (_luminance("#ffffff") + 0.05) / (_luminance(background) + 0.05) >= 4.5
    assert badge._GOOD in data.decode() if one.good else badge._NONE in data.decode()
