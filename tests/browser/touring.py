# SPDX-License-Identifier: BSD-3-Clause
"""A tour of a site with a real browser: what each page does when it is opened, and what it looks like.

Whatever a page asks of any host but the site's is refused and noted.
"""

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, Route

SCREENSHOTS = os.environ.get("TEST_SCREENSHOTS")  #: directory for pictures of all pages; none are made without
TALLEST = 4000  #: pixels of a page that a picture shows
WIDE, PHONE, SMALL = (1280, 900), (390, 844), (320, 568)
CONTRAST = "color-contrast"  #: the rule that depends on colours
MILLISECONDS = 10_000.0  #: longest wait for anything

#: Notes violations of the Content-Security-Policy; runs before the page's own scripts, whatever the policy says.
_WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.refused.push(`${event.violatedDirective} forbids ${event.blockedURI}`);
});
"""


@dataclass
class Seen:
    """What there was to see of one page."""

    path: str
    faults: list[str] = field(default_factory=list)  #: errors, refusals by policy, what could not be loaded
    elsewhere: list[str] = field(default_factory=list)  #: addresses of other hosts that were asked for
    widths: dict[int, int] = field(default_factory=dict)  #: window → content, in pixels
    violations: list[str] = field(default_factory=list)  #: what axe says
    background: dict[str, str] = field(default_factory=dict)  #: colours → of the page


class Visits:
    """Visits to a site by people who have been nowhere yet.

    Their browser's window is kept, emptied of all that a site can leave in it: opening one costs the browser more than
    most visits do. (Nothing is in its HTTP cache: Playwright switches that off where requests are routed.)
    """

    def __init__(self, browser: Browser, site: str) -> None:
        self._browser, self._site = browser, site
        self._windows: dict[bool, BrowserContext] = {}

    @contextmanager
    def visit(
        self,
        faults: list[str],
        elsewhere: list[str],
        *,
        color_scheme: Literal["light", "dark"] = "light",
        permissions: Sequence[str] = (),
        java_script_enabled: bool = True,
    ) -> Iterator[Page]:
        """An empty page, from which to go to the site; what goes wrong on the way is added to the lists."""
        window = self._window(java_script_enabled)
        page = window.new_page()
        try:
            window.new_cdp_session(page).send(
                "Storage.clearDataForOrigin", {"origin": self._site, "storageTypes": "all"}
            )
            window.grant_permissions(permissions, origin=self._site)
            page.emulate_media(color_scheme=color_scheme, reduced_motion="reduce")
            self._watch(page, faults, elsewhere)
            yield page
        finally:
            window.clear_permissions()
            page.close()

    def _window(self, scripts: bool) -> BrowserContext:
        if scripts not in self._windows:
            width, height = WIDE
            made = self._browser.new_context(
                viewport={"width": width, "height": height}, base_url=self._site, java_script_enabled=scripts
            )
            made.set_default_timeout(MILLISECONDS)
            made.new_page()  # with its last page the window would go
            self._windows[scripts] = made
        return self._windows[scripts]

    def _watch(self, page: Page, faults: list[str], elsewhere: list[str]) -> None:
        def at_the_door(route: Route) -> None:
            if route.request.url.startswith((f"{self._site}/", "data:", "blob:")):
                route.continue_()
            else:
                elsewhere.append(route.request.url)
                route.abort()

        def answered(response: Response) -> None:
            if response.status >= 400 and not response.request.is_navigation_request():
                faults.append(f"{response.status} for {response.url}")

        def said(message: ConsoleMessage) -> None:
            navigation = message.location.get("url") == page.url and "status of 404" in message.text
            if message.type in ("error", "warning") and not navigation:
                faults.append(f"{message.type}: {message.text}")

        page.add_init_script(_WATCH)
        page.route("**/*", at_the_door)
        page.on("console", said)
        page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
        page.on("response", answered)


def tour(visits: Visits, paths: Iterable[str]) -> dict[str, Seen]:
    """See pages in both colours and on three sizes of screen."""
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
    seen = {path: Seen(path) for path in paths}
    colours: Literal["light", "dark"]
    for colours in ("light", "dark"):
        faults: list[str] = []
        elsewhere: list[str] = []
        with visits.visit(faults, elsewhere, color_scheme=colours) as page:
            for path, one in seen.items():
                _see(page, path, colours, one)
                one.faults += faults
                one.elsewhere += elsewhere
                faults.clear()
                elsewhere.clear()
    return seen


def _see(page: Page, path: str, colours: str, seen: Seen) -> None:
    name = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-") or "home"
    _resize(page, WIDE)
    page.goto(path, wait_until="load")
    seen.background[colours] = str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    # What is wrong but for the colours was found already.
    seen.violations += [f"{colours}: {one}" for one in axe(page, only=CONTRAST if colours == "dark" else "")]
    _photograph(page, f"{name}-1280-{colours}")
    _resize(page, PHONE)
    _photograph(page, f"{name}-390-{colours}")
    seen.widths[PHONE[0]] = _content_width(page)
    _resize(page, SMALL)
    seen.widths[SMALL[0]] = _content_width(page)
    seen.faults += [f"policy: {one}" for one in page.evaluate("window.refused")]


def axe(page: Page, *, only: str = "") -> list[str]:
    """What axe finds wrong; by one of its rules alone, if one is named."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_axe_script())
    options = {"resultTypes": ["violations"], **({"runOnly": [only]} if only else {})}
    found = page.evaluate("(options) => axe.run(options)", options)
    return [
        f"{one['impact']}: {one['help']}: {node['html'][:200]} ({node['failureSummary']})"
        for one in found["violations"]
        for node in one["nodes"][:3]
    ]


def _axe_script() -> str:
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


def _resize(page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})


def _content_width(page: Page) -> int:
    return int(page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"))


def _photograph(page: Page, name: str) -> None:
    if not SCREENSHOTS:
        return
    size = page.viewport_size
    assert size is not None
    height = min(int(page.evaluate("document.documentElement.scrollHeight")), TALLEST)
    clip = {"x": 0, "y": 0, "width": size["width"], "height": height}
    page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"), full_page=True, clip=clip)
