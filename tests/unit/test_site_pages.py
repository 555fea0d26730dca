# SPDX-License-Identifier: BSD-3-Clause
"""The pages for people: valid, escaped, reaching for nothing elsewhere, and saying what they should."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piwheels.site import assets, pages, paths, project_page, release_rows, rendering, text
from piwheels.site.facts import ProjectFacts, SiteFacts
from piwheels.site.model import FAILURES, ProjectPage, Status
from piwheels.vocabulary import DependencyTool, FailureReason, ProjectStatus
from tests import site_facts as make

HOSTILE = "<script>alert(1)</script> \"><img src=x onerror=alert(1)> ' ${1+1} &amp; \x1b[31m\x00\ufffe\u202e"


def parse(data: bytes) -> Any:
    """The document, if it is valid HTML and well put together."""
    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(data.decode())
    assert document.get("lang") == "en"
    assert len(list(document.iter("h1"))) == len(list(document.iter("main"))) == len(list(document.iter("title"))) == 1
    ids = [e.get("id") for e in document.iter() if isinstance(e.tag, str) and e.get("id")]
    assert len(ids) == len(set(ids))
    for element in document.iter():
        if isinstance(element.tag, str) and element.get("aria-labelledby"):
            assert set(element.get("aria-labelledby").split()) <= set(ids)
    for header in document.iter("th"):
        assert header.get("scope") in ("col", "row")
    return document


def words(document: Any) -> str:
    return " ".join("".join(document.find("body").itertext()).split())


def project(facts: ProjectFacts | None = None, site: SiteFacts = make.SITE) -> Any:
    return parse(project_page.render(make.page(facts), site)[0])


def many(count: int) -> ProjectPage:
    """A project of many releases, with files of the first."""
    releases = (*make.project().releases, *(make.release(number, f"3.{number}") for number in range(5, count + 1)))
    return make.page(make.project(releases=releases))


def every_page(site: SiteFacts = make.SITE) -> dict[str, bytes]:
    return {
        "project": project_page.render(make.page(), site)[0],
        "a part of a project": project_page.render(many(400), site)[1],
        "bare project": project_page.render(make.page(make.project(releases=(), builds=(), files=())), site)[0],
        "404": pages.not_found(site),
    }


def test_every_page_is_valid_and_the_same_each_time() -> None:
    for name, data in every_page().items():
        parse(data)
        assert data == every_page()[name]


def test_pages_fetch_nothing_from_elsewhere() -> None:
    """What a browser loads by itself is of this site, and exists; nothing is inline that a strict policy forbids."""
    shipped = {str(path) for path in assets.files(make.SITE)}
    for name, data in every_page().items():
        document = parse(data)
        for tag, attribute in (("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("use", "href")):
            for element in document.iter(tag):
                target = element.get(attribute)
                assert target and not re.match(r"[a-z]+:|//", target), f"{name} loads {target}"
                if element.get("rel") != "alternate" and target != "badge.svg":
                    assert target.lstrip("./") in shipped
        assert not list(document.iter("style"))
        assert not [
            e
            for e in document.iter()
            if isinstance(e.tag, str) and any(k.startswith("on") or k == "style" for k in e.keys())  # noqa: SIM118 - iterating an element gives its children
        ]
        assert b"url(" not in data and b"@import" not in data


def test_styles_fetch_nothing() -> None:
    css = assets.files(make.SITE)[paths.STATIC / "site.css"].decode()
    assert "@import" not in css and "url(" not in css and "http" not in css
    assert "prefers-color-scheme: dark" in css


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme: str) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text."""
    css = assets.files(make.SITE)[paths.STATIC / "site.css"].decode()
    light, system, chosen = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root(?:\S*data-theme=\S+)? \{\s+color-scheme: (.*?)\}", css, re.DOTALL)[:3]
    )
    assert system == chosen and system.keys() == light.keys()
    colours = light if scheme == "light" else system
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("paper", "card", "code")]
    pairs += [(one, f"{one}-wash") for one in ("good", "bad", "wait", "calm", "leaf")] + [
        ("accent-ink", "accent"),
        ("accent", "accent-wash"),
    ]
    for ink, ground in pairs:
        light, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"


def test_no_template_inserts_markup() -> None:
    templates = list(rendering.TEMPLATES.glob("*.pt"))
    assert len(templates) >= 11
    for template in templates:
        assert "structure" not in template.read_text("utf-8")


def test_project_says_how_to_install_it() -> None:
    said = words(project())
    assert "pip install --extra-index-url https://wheels.example.org/simple/ foo-bar" in said
    assert "uv pip install --index https://wheels.example.org/simple/ foo-bar" in said
    assert (
        "First, the system packages that the wheels of 1.10 need: on all targets sudo apt install libopenblas0" in said
    )


def test_packages_are_named_by_target_where_they_differ() -> None:
    facts = make.project()
    other = replace(
        facts.files[1], dependencies=((DependencyTool.APT, "libatlas3-base"), (DependencyTool.NONE, "libodd.so.1"))
    )
    page = make.page(replace(facts, files=(facts.files[0], other)))
    found = project_page.install(page, make.SITE)
    assert found is not None
    assert found.apt == (
        project_page.Need(("libatlas3-base",), "bookworm-arm64"),
        project_page.Need(("libopenblas0",), "bookworm-armhf"),
    )
    assert found.unknown == ("libodd.so.1",)
    assert found.pip.endswith("foo-bar==1.0")  # the latest release has no wheel, so an installer must be told


def test_a_project_without_wheels_says_why() -> None:
    facts = make.project(files=(), builds=make.project().builds[4:5])
    said = words(project(facts))
    assert "pip install" not in said
    assert "Why there is no wheel of 1.10" in said
    assert "There are no files of this project here." in said


def test_why_is_said_for_each_target() -> None:
    said = words(project(make.project()))
    assert "Where there is no wheel of 1.10" in said
    assert (
        "bookworm-arm64: The build failed. Read the log from where it went wrong.gcc said no and that was that" in said
    )
    assert "trixie-armhf: PyPI itself has a wheel for it, so none is built here. Installers take that one." in said
    assert "trixie-arm64: It is waiting to be built." in said


def test_table_of_releases() -> None:
    document = project()
    table = next(document.iter("table"))
    rows = ["".join(" ".join(row.itertext()).split()) for row in table.iter("tr")]
    assert rows[0] == "ReleaseFilesbookworm-armhfbookworm-arm64trixie-armhftrixie-arm64"
    assert rows[1].startswith("2.0rc12025-10-20pre-release") and rows[1].endswith(
        "notbuiltonalltargetsanewerreleaseisbuilt"
    )
    assert "1min23s" in rows[2] and "PyPIservesit" in rows[2] and "waiting" in rows[2]
    links = [a.get("href") for a in table.iter("a")]
    assert "../../logs/0000/000/5.html.gz#error" in links and "../../logs/0000/000/1.txt.gz" in links


def test_files_show_size_hash_and_needs() -> None:
    document = project()
    said = words(document)
    assert "3.0 kB" in said and "03" * 32 in said
    assert "../../simple/foo-bar/foo_bar-1.10-cp311-cp311-linux_armv7l.whl" in [
        a.get("href") for a in document.iter("a")
    ]
    assert [d.get("open") for d in document.iter("details") if d.get("class") == "files"] == ["", None, None]


def test_downloads_and_spellings() -> None:
    said = words(project())
    assert "12 downloads in 30 days, 34 567 in all" in said
    assert "Also spelled foo_bar." in said


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"status": ProjectStatus.QUARANTINED, "status_reason": "malware"},
            "Quarantined. PyPI has put this project in quarantine",
        ),
        ({"status": ProjectStatus.ARCHIVED, "status_reason": "use bar"}, "Archived on PyPI. use bar"),
        ({"skip_reason": "too big for us"}, "Not built here. too big for us"),
    ],
)
def test_notices(values: dict[str, Any], expected: str) -> None:
    assert expected in words(project(make.project(**values)))


def test_nobody_is_sent_to_pypi_for_what_is_in_quarantine() -> None:
    facts = make.project(files=(), builds=make.project().builds[4:5])
    assert "installers take the source distribution from PyPI" in words(project(facts))
    held = replace(facts, status=ProjectStatus.QUARANTINED)
    assert "installers take the source distribution from PyPI" not in words(project(held))


def test_downloads_are_drawn() -> None:
    assert not list(project().iter("figure"))
    days = tuple((make.NOW.date() - timedelta(days=day), 10 + day) for day in range(300, -1, -50))
    document = project(make.project(download_days=days, today=make.NOW.date()))
    (figure,) = document.iter("figure")
    assert len(list(figure.iter("{http://www.w3.org/2000/svg}rect"))) == len(days)
    assert "Downloads of Foo.Bar by month, as a table" in words(document)


def test_long_tables_have_a_filter() -> None:
    assert not [form for form in project().iter("form") if form.get("class") == "filter"]
    long = parse(project_page.render(many(13), make.SITE)[0])
    (form,) = (form for form in long.iter("form") if form.get("class") == "filter")
    assert form.get("hidden")  # until there is a script that makes use of it
    assert [option.get("value") for option in form.iter("option")] == [
        "",
        *(target.name for target in make.TARGETS),
        "",
        *Status,
    ]


def test_many_releases_go_on_further_pages() -> None:
    own, *parts = (parse(data) for data in project_page.render(many(700), make.SITE))
    rows = [len(list(document.iter("tr"))) - 1 for document in (own, *parts)]
    assert rows == [300, 300, 300, 100]  # the last of the parts are the newest, so that a new release changes no other
    assert "The newest 300 of 700 releases." in words(own)
    links = [a.get("href") for a in own.iter("a")]
    assert [link for link in links if link.startswith("releases-")] == [f"releases-{n}.html" for n in (3, 2, 1)]
    assert "releases-1.html#v1.10" not in links  # that release is not in the table
    assert "#v1.10" in [a.get("href") for a in parts[0].iter("a")]
    assert "v1.10" in [e.get("id") for e in parts[0].iter("ul")]
    assert [a.get("href") for a in parts[1].iter("a") if a.get("aria-current")] == ["releases-2.html"]


def test_every_link_within_a_project_leads_somewhere() -> None:
    for page in (make.page(), many(350)):
        documents = [parse(data) for data in project_page.render(page, make.SITE)]
        names = ["", *(f"releases-{number}.html" for number in range(1, len(documents)))]
        ids = {
            name: {e.get("id") for e in document.iter() if isinstance(e.tag, str)}
            for name, document in zip(names, documents, strict=True)
        }
        for name, document in zip(names, documents, strict=True):
            for link in (a.get("href") for a in document.iter("a")):
                place, _, anchor = link.partition("#")
                if place.startswith("releases-") or not place:
                    assert not anchor or anchor in ids[place or name], link


def test_links_of_the_404_page_start_at_the_root_that_the_site_has() -> None:
    for base, root in (("https://wheels.example.org", "/"), ("https://example.org/farm", "/farm/")):
        document = parse(pages.not_found(replace(make.SITE, base_url=base)))
        assert {e.get("href") for e in document.iter("link")} == {f"{root}static/mark.svg", f"{root}static/site.css"}


@pytest.mark.parametrize(
    ("contact", "href"),
    [
        ("ops@example.org", "mailto:ops@example.org"),
        ("https://example.org/ops", "https://example.org/ops"),
        ("javascript:alert(1)", ""),
        ("javascript:alert('a@b')", ""),
        ("room 5", ""),
        ("", ""),
    ],
)
def test_contact(contact: str, href: str) -> None:
    assert rendering.contact_href(contact) == href
    document = parse(pages.not_found(replace(make.SITE, contact=contact)))
    assert (href in [a.get("href") for a in document.iter("a")]) is bool(href)


def check_harmless(data: bytes) -> None:
    document = parse(data)
    scripts = [e.get("src").rpartition("/")[2] for e in document.iter("script")]
    assert scripts in (["theme.js", "site.js"], ["theme.js", "site.js", "project.js"])
    assert {image.get("src") for image in document.iter("img")} <= {"badge.svg"}
    for element in document.iter("a"):
        assert not element.get("href").lower().startswith(("javascript:", "data:"))


def test_hostile_text_stays_text() -> None:
    facts = make.project()
    releases = (make.release(1, HOSTILE, yanked=True, yanked_reason=HOSTILE, skip_reason=HOSTILE), *facts.releases[1:])
    builds = (*facts.builds[:4], make.build(5, 3, make.ARM64, FailureReason.PACKAGE, detail=HOSTILE), facts.builds[5])
    files = (
        replace(facts.files[0], yanked=True, yanked_reason=HOSTILE, dependencies=((DependencyTool.PIP, HOSTILE),)),
        *facts.files[1:],
    )
    hostile = replace(
        facts,
        display_name=HOSTILE,
        summary=HOSTILE,
        status=ProjectStatus.DEPRECATED,
        status_reason=HOSTILE,
        skip_reason=HOSTILE,
        aliases=(HOSTILE,),
        releases=releases,
        builds=builds,
        files=files,
    )
    site = replace(make.SITE, name=text.clean(HOSTILE), contact=text.clean(HOSTILE))
    data = project_page.render(make.page(hostile), site)[0]
    check_harmless(data)
    assert "${1+1}" in words(parse(data))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_text_makes_valid_pages(anything: str) -> None:
    facts = make.project(
        summary=anything, display_name=anything, aliases=(anything,), status_reason=anything, skip_reason=anything
    )
    builds = tuple(replace(build, detail=anything) for build in facts.builds)
    check_harmless(project_page.render(make.page(replace(facts, builds=builds)), make.SITE)[0])


# Words


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (123_456, "123 kB"),
        (999_600, "1.0 MB"),
        (5 * 10**12, "5000 GB"),
    ],
)
def test_sizes(number: int, expected: str) -> None:
    assert text.size(number) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0.0 s"),
        (0.25, "0.2 s"),
        (59.9, "59.9 s"),
        (59.99, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3725, "1 h 2 min"),
    ],
)
def test_lengths(seconds: float, expected: str) -> None:
    assert text.length(timedelta(seconds=seconds)) == expected


def test_lists_of_names() -> None:
    assert [text.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_terminal_escapes_are_removed_whole() -> None:
    assert text.clean_lines("\x1b[1;31merror\x1b[0m: no\r\n\x1b]0;title\x07next\x00") == "error: no\nnext"


def test_statuses_all_have_words() -> None:
    assert list(release_rows.WORDS) == list(Status)
    assert set(FAILURES) == set(FailureReason)
