# SPDX-License-Identifier: BSD-3-Clause
"""A project's badge: its latest version, and whether there are wheels of it. Pure; the same project, the same bytes.

An image of its own, so it fetches nothing and brings its colours with it. What it says is told by words and a sign,
never by colour alone; the colours, blue and orange, are told apart by people who see red and green alike.
"""

from dataclasses import dataclass
from functools import lru_cache
from xml.etree import ElementTree

from piwheels.site.facts import SiteFacts
from piwheels.site.model import ProjectPage, Status
from piwheels.site.text import clean

HEIGHT = 20
LONGEST = 40  #: characters of each half

# Characters narrower and wider than most. A width is a guess, which textLength has whatever face there is comply with.
_NARROW, _WIDE = "!'(),-./:;I[]`fijlrt|·", "MWmw@%—"

_GOOD, _NONE, _LEFT = "#00578a", "#a14600", "#404040"
_TICK = "M3 8.5 6.5 12 13 4.5"
_DASH = "M3 8H13"


@dataclass(frozen=True, slots=True)
class Badge:
    """What a badge says."""

    left: str
    right: str
    good: bool  #: an installer finds a wheel


def of(page: ProjectPage, site: SiteFacts) -> Badge:
    """A project's. What counts is the release that an installer takes unless told otherwise."""
    main = page.main
    left = clean(site.name)
    if main is None:
        return Badge(left, "no release", good=False)
    if any(not wheel.yanked for wheel in main.wheels):
        return Badge(left, f"{main.version} · wheels", good=True)
    if any(cell.status is Status.ON_PYPI for cell in main.cells):
        return Badge(left, f"{main.version} · wheels on PyPI", good=True)
    return Badge(left, f"{main.version} · no wheel", good=False)


@lru_cache(maxsize=1000)
def render(badge: Badge) -> bytes:
    """The drawing. Most change less often than their project's page."""
    left, right = _cut(badge.left), _cut(badge.right)
    label = f"{left}: {right}"
    widths = _width(left) + 14, _width(right) + 30
    total = sum(widths)
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": str(total),
            "height": str(HEIGHT),
            "viewBox": f"0 0 {total} {HEIGHT}",
            "role": "img",
            "aria-label": label,
        },
    )
    ElementTree.SubElement(root, "title").text = label
    colour = _GOOD if badge.good else _NONE
    ElementTree.SubElement(root, "rect", {"width": str(total), "height": str(HEIGHT), "rx": "4", "fill": colour})
    outline = f"M4 0H{widths[0]}V{HEIGHT}H4A4 4 0 0 1 0 {HEIGHT - 4}V4A4 4 0 0 1 4 0Z"
    ElementTree.SubElement(root, "path", {"d": outline, "fill": _LEFT})
    line = {"fill": "none", "stroke": "#ffffff", "stroke-width": "2", "stroke-linecap": "round"}
    sign = ElementTree.SubElement(root, "g", {"transform": f"translate({widths[0] + 5} 2)", "aria-hidden": "true"})
    ElementTree.SubElement(sign, "path", {"d": _TICK if badge.good else _DASH, **line})
    face = {"font-family": "Verdana,DejaVu Sans,Geneva,sans-serif", "font-size": "11", "fill": "#ffffff"}
    group = ElementTree.SubElement(root, "g", {**face, "aria-hidden": "true"})
    for text, start in ((left, 7), (right, widths[0] + 23)):
        place = {"x": str(start), "y": "14", "textLength": str(_width(text)), "lengthAdjust": "spacingAndGlyphs"}
        ElementTree.SubElement(group, "text", place).text = text
    drawn: bytes = ElementTree.tostring(root, encoding="utf-8")
    return drawn + b"\n"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _width(text: str) -> int:
    """About how wide the text is, in pixels."""
    return round(sum(4.2 if c in _NARROW else 10.5 if c in _WIDE or ord(c) > 0x2E80 else 7.1 for c in text))
