# SPDX-License-Identifier: BSD-3-Clause
"""The page of a build's log."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from piwheels.site import build_log
from piwheels.site.build_log import LoggedBuild, render, shown
from piwheels.site.log_errors import Region
from piwheels.site.text import clean_lines
from tests import site_facts as make
from tests.unit.test_site_pages import HOSTILE, check_harmless, parse, words

BUILD = LoggedBuild(
    "foo-bar", "Foo.Bar", "1.0", "bookworm-armhf", make.NOW, timedelta(seconds=83), "failed", "no", "5.txt.gz"
)


def page(log: str, **values: object) -> Any:
    return parse(render(replace(BUILD, **values), log, make.SITE))  # type: ignore[arg-type]


def lines(document: Any) -> list[Any]:
    return [item for item in document.iter("li") if (item.get("id") or "").startswith("L")]


def test_lines_have_numbers_and_addresses_and_the_error_is_marked() -> None:
    document = page("one\na.c:1:2: error: two\n   | ^\nthree\n")
    found = lines(document)
    assert [item.get("id") for item in found] == ["L1", "L2", "L3", "L4"]
    assert [item.get("class") for item in found] == [None, "bad first", "bad", None]
    assert [e.tag for e in document.iter() if e.get("id") == "error"] == ["a"]
    assert "".join(found[1].itertext()).strip() == "2a.c:1:2: error: two"
    said = words(document)
    assert "It seems to have gone wrong in line 2 of 4." in said
    assert "Foo.Bar 1.0 on bookworm-armhf failed after 1 min 23 s" in said
    assert {"#error", "#L4", "5.txt.gz", "../../../project/foo-bar/"} <= {a.get("href") for a in document.iter("a")}


def test_a_log_without_an_error() -> None:
    document = page("fine\n", finished=None, duration=None)
    assert "None of its 1 lines looks like an error." in words(document)
    assert not [e for e in document.iter() if e.get("id") == "error"]


def test_colours_and_hostile_text_stay_text() -> None:
    build = replace(BUILD, detail=clean_lines(HOSTILE), display_name="<b>x</b>")
    data = render(build, f"\x1b[31m{HOSTILE}\x1b[0m\r\nnext", make.SITE)
    check_harmless(data)
    assert "\x1b" not in data.decode() and len(lines(parse(data))) == 2


def test_a_long_log_is_shown_in_part() -> None:
    log = [f"line {number}" for number in range(1, 200_001)]
    log[99_999] = "a.c:1:2: error: here " + 10_000 * "x"
    data = render(BUILD, "\n".join(log), make.SITE)
    assert len(data) < 200_000
    document = parse(data)
    numbers = [int(item.get("id")[1:]) for item in lines(document)]
    assert numbers[0] == 1 and 100_000 in numbers and numbers[-1] == 200_000
    assert len(numbers) == build_log.HEAD + build_log.BEFORE + build_log.AFTER + build_log.TAIL
    cuts = [item for item in document.iter("li") if item.get("class") == "cut"]
    left_out = [int("".join(cut.itertext()).split()[0]) for cut in cuts]
    assert len(left_out) == 2 and sum(left_out) == 200_000 - len(numbers)


@pytest.mark.parametrize("total", [0, 1, 1200, 1201, 1500, 5000])
@pytest.mark.parametrize("start", [None, 0, 500, 1199])
def test_what_is_shown_is_in_order_and_within_the_log(total: int, start: int | None) -> None:
    error = None if start is None or start >= total else Region(start, start + 1)
    numbers = [number for span in shown(total, error) for number in span]
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(total))
    assert error is None or error.start in numbers
    assert not total or {0, total - 1} <= set(numbers)
