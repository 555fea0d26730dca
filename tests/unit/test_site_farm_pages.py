# SPDX-License-Identifier: BSD-3-Clause
"""The pages about the farm as a whole: valid, escaped, and saying what they should."""

import json
import re
import struct
import zlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from piwheels.site import assets, charts, farm_pages, icon, pages, paths, rendering
from piwheels.site.facts import SiteFacts
from piwheels.vocabulary import FailureReason
from tests import site_facts as make
from tests.unit.test_site_pages import HOSTILE, check_harmless, parse, words

SVG = "{http://www.w3.org/2000/svg}"


def every_page(site: SiteFacts = make.SITE) -> dict[str, bytes]:
    return {
        "home": farm_pages.home(make.home(), site),
        "empty home": farm_pages.home(
            make.home(projects=0, files=0, targets=(), distributions=(), running=(), latest=()), site
        ),
        "search": farm_pages.search(site),
        "status": farm_pages.status(make.status(), site),
        "empty status": farm_pages.status(
            make.status(processes=(), builders=(), queues=(), recent=(), stale=0, stale_since=None), site
        ),
        "stats": farm_pages.stats(make.stats(), site),
        "empty stats": farm_pages.stats(
            make.stats(downloads=(), builds=(), told={}, top=(), saved=timedelta(0), fetched=0), site
        ),
        "faq": farm_pages.faq(site),
        "api": farm_pages.api(site),
    }


def test_every_page_is_valid_and_the_same_each_time() -> None:
    again = every_page()
    for name, data in every_page().items():
        document = parse(data)
        assert data == again[name]
        assert document.find("head/title").text.strip()
        for tag, attribute in (("script", "src"), ("link", "href")):
            assert all("//" not in element.get(attribute) for element in document.iter(tag)), name
        assert not list(document.iter("style")) and b" style=" not in data
        for figure in document.iter(SVG + "svg"):
            assert figure.get("aria-hidden") == "true" or figure.get("role") == "img"


def test_links_between_pages_lead_somewhere() -> None:
    there = {str(path) for path in assets.files(make.SITE)}
    there |= {
        "index.html",
        "stats/index.html",
        "status/index.html",
        "packages.json",
        "changes.json",
        "changes.atom",
        "simple/index.html",
    }
    for name, path in {"home": "", "search": "search/", "stats": "stats/", "faq": "faq/", "api": "api/"}.items():
        for link in parse(every_page()[name]).iter("a"):
            href = link.get("href").partition("#")[0]
            if href.startswith(("https:", "mailto:")) or "/project/" in f"/{href}" or not href:
                continue
            place = Path("/" + path + href).resolve().relative_to("/")
            assert str(place / "index.html" if href.endswith("/") else place) in there, f"{name} links to {href}"


def test_home() -> None:
    document = parse(farm_pages.home(make.home(), make.SITE))
    said = words(document)
    assert "pip config set global.extra-index-url https://wheels.example.org/simple/" in said
    assert 'url = "https://wheels.example.org/simple/"' in said
    assert "poetry source add --priority=primary farm https://wheels.example.org/simple/" in said
    assert "poetry source add --priority=primary PyPI" in said
    assert "Wheels are built for bookworm-armhf, bookworm-arm64, trixie-armhf and trixie-arm64." in said
    assert "Foo.Bar 2.0for bookworm-armhf, on pi-7, begun" in said
    assert "1.23 million" in said
    assert "project/foo-bar/" in [a.get("href") for a in document.iter("a")]
    nothing = words(parse(farm_pages.home(make.home(running=(), latest=()), make.SITE)))
    assert "Nothing was built yet." in nothing and "No build runs at the moment." in nothing


def test_pip_is_told_to_trust_plain_http_elsewhere_only() -> None:
    local = replace(make.SITE, base_url="http://127.0.0.1:8080")
    remote = replace(make.SITE, base_url="http://pi.example.org:8080")
    assert "--trusted-host" not in farm_pages.pip_options(make.SITE) + farm_pages.pip_options(local)
    assert farm_pages.pip_options(remote).endswith("/simple/ --trusted-host pi.example.org")
    assert "pip config set global.trusted-host pi.example.org" in words(parse(farm_pages.home(make.home(), remote)))


def test_navigation_says_where_one_is() -> None:
    for name, entry in {"search": "Packages", "stats": "Stats", "status": "Status", "faq": "FAQ", "api": "API"}.items():
        here = [a.text for a in parse(every_page()[name]).iter("a") if a.get("aria-current") == "page"]
        assert here == [entry]


def test_the_footer_has_contact_and_links() -> None:
    document = parse(farm_pages.faq(make.SITE))
    assert "Source code" in words(document)
    assert {"mailto:ops@example.org", "https://example.org/source"} <= {a.get("href") for a in document.iter("a")}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "running All is well, and 1 build runs."),
        ({"paused": True}, "paused The farm is paused: builds in hand are finished, none is begun."),
        ({"processes": ()}, "trouble The master is not running."),
        (
            {"processes": tuple(replace(p, silent=p.name == "feed") for p in make.status().processes)},
            "trouble Not heard of: feed.",
        ),
        ({"feed": replace(make.status().feed, answers=False)}, "waiting PyPI does not answer."),
        ({"queues": ()}, "running All is well. Nothing waits to be built."),
    ],
)
def test_status_begins_with_the_worst(values: dict[str, object], expected: str) -> None:
    assert expected in words(parse(farm_pages.status(make.status(**values), make.SITE)))


def rows(document: Any) -> list[list[str]]:
    """Every row of every table, as the words in its cells."""
    return [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in document.iter("tr")]


def test_status() -> None:
    found = rows(parse(farm_pages.status(make.status(), make.SITE)))
    seen = "2026-11-20 10:11 UTC"
    assert ["pi-7", "bookworm-armhf", f"builds Foo.Bar 2.0 since {seen}", seen] in found
    assert ["pi-8", "none yet", "paused", "never"] in found
    assert ["bookworm-armhf", "10 000+", "1", seen] in found  # counting stops somewhere, and says so
    assert ["bookworm-arm64", "0", "0", "nothing waits"] in found
    log = "log of Foo.Bar 1.0 on bookworm-armhf"
    assert ["Foo.Bar 1.0", f"out of memory {log}", "bookworm-armhf", "1 min 23 s", seen] in found


def test_times_on_the_status_page_do_not_move_by_the_second() -> None:
    """Builders are heard of every few seconds, and that is no reason to write the page again."""
    later = tuple(
        replace(b, seen_at=b.seen_at + timedelta(seconds=5) if b.seen_at else None) for b in make.status().builders
    )
    assert farm_pages.status(make.status(builders=later), make.SITE) == farm_pages.status(make.status(), make.SITE)


def test_stats() -> None:
    document = parse(farm_pages.stats(make.stats(), make.SITE))
    said, found = words(document), rows(document)
    assert "2 years of compiling that nobody had to wait for" in said
    assert "builds that succeeded, of a year" in said and "90 %" in said
    assert ["armv7l", "70 %", "700"] in found and ["others, or not said", "5.0 %", "50"] in found
    assert ["Debian <12>", "100 %", "1 000"] in found
    assert ["foo-bar", "990"] in found
    assert len([svg for svg in document.iter(SVG + "svg") if svg.get("role") == "img"]) == 2
    months = [row for row in found if re.fullmatch("20[0-9]{2}-[0-9]{2}", row[0])]
    assert ["2026-11", "1 800", "200"] in months  # 20 days of 90 and 10
    assert len(months) == 14 + 1  # downloads of 400 days, builds of 20


@pytest.mark.parametrize(("hours", "words_"), [(1, "1 h 0 min"), (2, "2 hours"), (49, "2 days"), (24 * 731, "2 years")])
def test_long_times(hours: int, words_: str) -> None:
    assert farm_pages.span(timedelta(hours=hours)) == words_


def test_the_manual_of_the_api_has_every_field_of_the_schema() -> None:
    schema = json.loads(assets.SCHEMA.read_text("utf-8"))
    document = parse(farm_pages.api(make.SITE))
    shown = {code.text for code in document.iter("code")}
    objects = [schema, *(schema["$defs"][name] for name in ("release", "file", "build"))]
    wanted = {name for one in objects for name in one["properties"]}
    assert len(wanted) > 30 and wanted <= shown
    assert "curl -fsSL https://wheels.example.org/project/numpy/json" in words(document)


def test_examples_of_the_manual_are_programs() -> None:
    for code in parse(farm_pages.api(make.SITE)).iter("code"):
        if code.text and code.text.startswith("import json"):
            compile(code.text, "example", "exec")


def test_hostile_text_stays_text() -> None:
    running = (replace(make.RUNNING, display_name=HOSTILE, version=HOSTILE, builder=HOSTILE),)
    latest = tuple(replace(one, display_name=HOSTILE, summary=HOSTILE, version=HOSTILE) for one in make.home().latest)
    builders = tuple(replace(one, name=HOSTILE) for one in make.status().builders)
    recent = tuple(
        replace(one, display_name=HOSTILE, version=HOSTILE, reason=FailureReason.DISK) for one in make.status().recent
    )
    site = replace(make.SITE, name="<b>farm</b>", contact="<i>@me</i>")
    check_harmless(farm_pages.home(make.home(running=running, latest=latest), site))
    check_harmless(farm_pages.status(make.status(builders=builders, recent=recent), site))
    check_harmless(farm_pages.stats(make.stats(told={"arch": ((HOSTILE, 5),)}, top=((HOSTILE, 5),)), site))


# Drawings


def test_a_chart_has_words_and_stays_in_its_box() -> None:
    today = make.NOW.date()
    points = [charts.Point(today - timedelta(days=n), (n, 2 * n)) for n in range(30)]
    chart = charts.over_time(points, ident="x", title="<Builds>", series=("built", "failed"), today=today)
    assert chart is not None and chart.step == "day" and chart.peak == 100
    svg = str(chart.drawing)
    assert '<title id="x-title">&lt;Builds&gt;</title>' in svg
    assert "435 built and 870 failed from 2026-10-22 to 2026-11-20" in svg
    drawn = parse(f'<!DOCTYPE html><html lang="en"><title>x</title><main><h1>x</h1>{svg}</main></html>'.encode())
    bars = [rect for rect in drawn.iter(SVG + "rect") if rect.get("class") == "one"]
    assert len(bars) == 29  # of nothing there is no bar
    assert all(
        0 <= float(r.get("y")) <= float(r.get("y")) + float(r.get("height")) <= 100.01 for r in drawn.iter(SVG + "rect")
    )


def test_charts_of_long_times_go_by_weeks_and_lose_nothing_of_the_year() -> None:
    today = make.NOW.date()
    points = [charts.Point(today - timedelta(days=n), (1,)) for n in range(500)]
    chart = charts.over_time(points, ident="x", title="x", series=("downloads",), today=today)
    assert chart is not None and chart.step == "week"
    assert chart.peak == 8 and "364 downloads" in str(chart.drawing)
    assert charts.over_time([], ident="x", title="x", series=("a",), today=today) is None


# Files


def test_the_icon_is_an_icon() -> None:
    data = assets.files(make.SITE)[paths.FAVICON]
    assert data == icon.favicon()
    _, kind, count = struct.unpack_from("<HHH", data)
    assert (kind, count) == (1, 3)
    for number, size in enumerate(icon.SIZES):
        width, _, _, _, _, depth, length, offset = struct.unpack_from("<BBBBHHII", data, 6 + 16 * number)
        assert (width, depth) == (size, 32)
        image = data[offset : offset + length]
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
        rows = zlib.decompress(image[image.index(b"IDAT") + 4 : image.index(b"IEND") - 8])
        assert len(rows) == size * (4 * size + 1)
        middle = rows[(size // 2) * (4 * size + 1) + 1 :][4 * (size // 2) : 4 * (size // 2) + 4]
        assert middle[3] < 255 and rows[1:5] == bytes((*icon.BERRY, 0))  # the hub is a ring; the corner is clear


def test_robots_are_told_of_the_sitemap() -> None:
    told = assets.files(make.SITE)[paths.ROBOTS].decode()
    assert "Sitemap: https://wheels.example.org/sitemap.xml\n" in told
    assert "Disallow: /search/names/\n" in told


# The operator's own


def own(tmp_path: Path, **templates: str) -> SiteFacts:
    (tmp_path / "templates").mkdir()
    (tmp_path / "static").mkdir()
    for name, content in templates.items():
        (tmp_path / "templates" / f"{name}.pt").write_text(content)
    return replace(make.SITE, overrides=tmp_path, styles=assets.own_styles(tmp_path))


def test_templates_of_the_operators_win(tmp_path: Path) -> None:
    site = own(tmp_path, not_found="<p>Gone fishing at ${site.name}.</p>")
    assert pages.not_found(site) == b"<p>Gone fishing at Test farm.</p>"
    assert farm_pages.faq(site) == farm_pages.faq(make.SITE)


def test_a_layout_of_the_operators_is_everybodys(tmp_path: Path) -> None:
    layout = (rendering.TEMPLATES / "layout.pt").read_text().replace("<body>", '<body class="ours">')
    for page in every_page(own(tmp_path, layout=layout)).values():
        assert b'<body class="ours">' in page


@pytest.mark.parametrize("wrong", ["<p>${nonsense}</p>", "<p tal:condition='x y'></p>", "<a></b>"])
def test_a_template_that_cannot_be_used_is_told_of_once_and_ours_stands_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    site = own(tmp_path, not_found=wrong)
    assert pages.not_found(site) == pages.not_found(make.SITE) == pages.not_found(site)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"page 'not_found' is made without the templates of {tmp_path}: ") and "\n" not in line


def test_static_files_of_the_operators_win_and_are_added(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own(tmp_path)
    (tmp_path / "static" / "mark.svg").write_text("<svg/>")
    (tmp_path / "static" / "ours.css").write_text("body { color: red }")
    (tmp_path / "static" / "odd name.css").write_text("x")
    (tmp_path / "static" / ".hidden").write_text("x")
    (tmp_path / "static" / "folder").mkdir()
    site = replace(make.SITE, overrides=tmp_path, styles=assets.own_styles(tmp_path))
    caplog.clear()
    files = assets.files(site)
    assert files[paths.STATIC / "mark.svg"] == b"<svg/>"
    assert files[paths.STATIC / "ours.css"] == b"body { color: red }"
    assert files.keys() - assets.files(make.SITE).keys() == {paths.STATIC / "ours.css"}
    assert [record.getMessage().partition(" is not")[0] for record in caplog.records] == [
        str(tmp_path / "static" / "odd name.css")
    ]
    sheets = [e.get("href") for e in parse(farm_pages.faq(site)).iter("link") if e.get("rel") == "stylesheet"]
    assert sheets == ["../static/site.css", "../static/ours.css"]


def test_the_look_changes_with_what_is_the_operators(tmp_path: Path) -> None:
    looks = {assets.look(make.SITE), assets.look(own(tmp_path, faq="<p>1</p>"))}
    (tmp_path / "templates" / "faq.pt").write_text("<p>2</p>")
    looks.add(assets.look(replace(make.SITE, overrides=tmp_path)))
    assert len(looks) == 3
