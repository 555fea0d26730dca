# SPDX-License-Identifier: BSD-3-Clause
"""Drawings for pages: bars over time, and shares. Pure; the same numbers, the same bytes.

Elements are built with the standard library, which escapes whatever text is put in (docs/decisions/0009 says why no
library for charts does). Colours and lines are the style sheet's, by class, so that drawings are dark where the page
is. A drawing stretches to the width it is given, so it holds no words but those for screen readers and pointers: what
is written beside an axis is HTML (templates/chart.pt), as legible on a phone as elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from xml.etree import ElementTree

from piwheels.site import text

DAILY = 62  #: days up to which each has a bar of its own; beyond, each week has one
HEIGHT = 100
GAP = 0.18  #: share of a bar's place that stays free


class Drawing:
    """Markup of ours, which a template inserts as it is."""

    def __init__(self, element: ElementTree.Element) -> None:
        self._element = element

    def __html__(self) -> str:
        # Sorted by nobody: attributes keep the order they are given in, so equal drawings are equal bytes.
        return ElementTree.tostring(self._element, encoding="unicode", short_empty_elements=True)

    __str__ = __html__


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its parts from the bottom up, each in the class of its series, and what a pointer is told."""

    parts: tuple[int, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Point:
    """A day and its numbers, one for each series."""

    day: date
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and what is written around it."""

    drawing: Drawing
    peak: int  #: what the top of the drawing stands for
    ticks: tuple[str, ...]  #: from left to right, evenly apart
    step: str  #: "day" or "week"


def over_time(
    points: Sequence[Point], *, ident: str, title: str, series: Sequence[str], today: date, longest: int = 364
) -> Chart | None:
    """Bars for each day, or for each week where that would be too many, up to today; None: nothing to draw.

    ``ident`` makes the drawing's ids; ``series`` are the words for each value, and the classes of its bars are
    ``one``, ``two`` and so on.
    """
    first = min((point.day for point in points if any(point.values)), default=None)
    if first is None or first > today:
        return None
    first = max(first, today - timedelta(days=longest - 1))
    step = 1 if (today - first).days < DAILY else 7
    if step == 7:  # whole weeks, ending today
        first = today - timedelta(days=7 * (((today - first).days // 7) + 1) - 1)
    else:
        first = min(first, today - timedelta(days=13))  # a farm's first day is not a wall
    places = (today - first).days // step + 1
    sums = [[0] * len(series) for _ in range(places)]
    for point in points:
        place = (point.day - first).days // step
        if 0 <= place < places:
            for number, value in enumerate(point.values):
                sums[place][number] += value
    bars = [
        Bar(tuple(values), _words(first + timedelta(days=step * place), step, series, values))
        for place, values in enumerate(sums)
    ]
    peak = _round_up(max(sum(bar.parts) for bar in bars))
    total = [sum(values[number] for values in sums) for number in range(len(series))]
    said = " and ".join(f"{text.count(value)} {name}" for value, name in zip(total, series, strict=True))
    span = f"from {first.isoformat()} to {today.isoformat()}"
    each, highest = "day" if step == 1 else "week", text.count(max(map(sum, sums)))
    words = f"{said} {span}. A bar is a {each}; the highest is at {highest}."
    days = [first + timedelta(days=round(part * (today - first).days)) for part in (0, 1 / 3, 2 / 3, 1)]
    ticks = tuple(f"{day.day} {day:%b}" if step == 1 else f"{day:%b %Y}" for day in days)
    return Chart(draw(bars, peak=peak, ident=ident, title=title, words=words), peak, ticks, each)


def _words(first: date, step: int, series: Sequence[str], values: Sequence[int]) -> str:
    said = ", ".join(f"{text.count(value)} {name}" for value, name in zip(values, series, strict=True))
    return f"{first.isoformat() if step == 1 else f'Week from {first.isoformat()}'}: {said}"


def _round_up(number: int) -> int:
    """The next number that is easy on the eye: 1, 2, 3, 4, 5, 6 or 8, and zeros."""
    size = 1
    while number > 8 * size:
        size *= 10
    return next(nice * size for nice in (1, 2, 3, 4, 5, 6, 8) if nice * size >= number) if number else 1


def draw(bars: Sequence[Bar], *, peak: int, ident: str, title: str, words: str) -> Drawing:
    """Bars side by side, the highest possible one (``peak``) as high as the drawing."""
    width = 10 * max(len(bars), 1)
    names = f"{ident}-title {ident}-words"
    box = {"viewBox": f"0 0 {width} {HEIGHT}", "preserveAspectRatio": "none", "role": "img", "aria-labelledby": names}
    root = ElementTree.Element("svg", {"class": "bars", **box})
    ElementTree.SubElement(root, "title", {"id": f"{ident}-title"}).text = text.clean(title)
    ElementTree.SubElement(root, "desc", {"id": f"{ident}-words"}).text = text.clean(words)
    for line in (0, HEIGHT // 2, HEIGHT):
        place = {"x1": "0", "x2": str(width), "y1": str(line), "y2": str(line)}
        ElementTree.SubElement(root, "line", {"class": "grid", **place})
    for number, bar in enumerate(bars):
        if any(bar.parts):
            _draw_bar(root, bar, number, peak)
    return Drawing(root)


def _draw_bar(root: ElementTree.Element, bar: Bar, number: int, peak: int) -> None:
    group = ElementTree.SubElement(root, "g")
    ElementTree.SubElement(group, "title").text = text.clean(bar.words)
    below = 0
    for name, value in zip(("one", "two", "three"), bar.parts, strict=False):
        if value:
            bottom, top = (HEIGHT * (1 - height / peak) for height in (below, below + value))
            place = {"x": _number(10 * number + 5 * GAP), "y": _number(top)}
            size = {"width": _number(10 * (1 - GAP)), "height": _number(max(bottom - top, 0.5))}
            ElementTree.SubElement(group, "rect", {"class": name, **place, **size})
            below += value


def share(part: float) -> Drawing:
    """A bar that fills ``part`` (0 to 1) of its width; says nothing, since it stands beside its number."""
    root = ElementTree.Element("svg", {"class": "share", "viewBox": "0 0 100 1", "preserveAspectRatio": "none"})
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    size = {"width": _number(max(100 * min(part, 1.0), 0.5)), "height": "1"}
    ElementTree.SubElement(root, "rect", {"class": "one", "x": "0", "y": "0", **size})
    return Drawing(root)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
