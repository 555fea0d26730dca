# SPDX-License-Identifier: BSD-3-Clause
"""The search index of 800 000 names: what making it takes, how large its files are, and how soon a slow browser on a
slow line shows the first result.

The browser is Chromium with its processor slowed down six times, on 1 Mbit/s with 40 ms each way. Where there is none,
that part is left out.
"""

import argparse
import gzip
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from piwheels.db.engine import make_engine
from piwheels.master import publish_site
from piwheels.master.publish import site_facts
from piwheels.settings import load
from piwheels.site import assets, paths, writer
from piwheels.vocabulary import PageKind
from tests.bench.harness import MB, Bench, Goal, Result, run
from tests.integration.web_servers import SERVERS, running

PROJECTS = 800_000
WITH_WHEELS = 0.15  #: of them
MEMORY = 300 * MB  #: target
LARGEST = 40_000  #: bytes of a file, compressed
FIRST = 1.0  #: seconds to the first result
SLOWER = 6  #: times, the browser's processor
LINE = 125_000  #: bytes a second
FAMILIES = (
    "django-",
    "python-",
    "odoo14-addon-",
    "aws-cdk-",
    "pytest-",
    "flask-",
    "py",
    "azure-mgmt-",
    "types-",
    "mkdocs-",
)
LETTERS = "etaoinshrdlucmfwypvbgkjxqz"


def bench(at: Bench) -> Result:
    """Run it."""
    count = at.scaled(PROJECTS)
    names = _names(count)
    _fill(at, names)
    cpu = at.database_cpu()
    usage = run(at, "tests.bench.bench_search", "--search", *at.arguments())
    again = run(at, "tests.bench.bench_search", "--search", *at.arguments())
    sitemap = run(at, "tests.bench.bench_search", "--sitemap", *at.arguments())
    cpu = at.database_cpu() - cpu
    folder = at.settings.paths.output / paths.SEARCH_SHARDS
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix == ".json"}
    packed = {name: len(gzip.compress((folder / name).read_bytes())) for name in sizes}
    figures = [
        f"{len(sizes)} files, {sum(sizes.values()) / MB:.1f} MB, {sum(packed.values()) / MB:.1f} MB compressed",
        f"largest {max(packed.values()) / 1000:.1f} kB compressed, their index {packed['_index.json'] / 1000:.1f} kB",
        f"again with nothing new: {again.seconds:.1f} s; sitemap: {sitemap.seconds:.1f} s, {sitemap.peak / MB:.0f} MB",
    ]
    goals = [
        Goal(f"under {MEMORY / MB:.0f} MB", max(usage.peak, sitemap.peak) < MEMORY),
        Goal(f"no file over {LARGEST // 1000} kB compressed", max(packed.values()) < LARGEST),
    ]
    with _site(at) as url:
        seen = look(url, _typed(names)) if url else {}
    if seen:
        said = ", ".join(f"{typed!r} {seconds * 1000:.0f} ms" for typed, seconds in seen.items())
        figures.append(f"to the first result, {SLOWER}x slower on 1 Mbit/s: {said}")
        goals.append(Goal(f"first result under {FIRST:.0f} s", max(seen.values()) < FIRST))
    else:
        figures.append("no Chromium here, or no playwright: not looked at in a browser")
    return Result("search", f"{count} names, {WITH_WHEELS:.0%} with wheels", figures, usage, cpu, goals)


def _names(count: int) -> list[str]:
    """Names like PyPI's: some beginnings very common, most words short, some names of several words."""
    choose = random.Random(4)
    words = ["".join(choose.choices(LETTERS, weights=range(26, 0, -1), k=choose.randint(3, 9))) for _ in range(20_000)]
    found: set[str] = set()
    while len(found) < count:
        family = choose.choice(FAMILIES) if choose.random() < 0.12 else ""
        found.add(family + "-".join(choose.choices(words, k=choose.choices((1, 2, 3), (3, 5, 2))[0])))
    return sorted(found)


def _typed(names: Sequence[str]) -> list[str]:
    """A letter; a common beginning; one more letter; a whole name; the second word of one with wheels."""
    family = next(name for name in names if name.startswith("django-"))
    last = names[len(names) // 2]
    word = next(name for name, has in _wheels(names).items() if has and name.count("-") == 1 and name[0] == "t")
    return ["d", "py", family[: len("django-") + 2], last, word.partition("-")[2]]


def _wheels(names: Sequence[str]) -> dict[str, bool]:
    choose = random.Random(5)
    return {name: choose.random() < WITH_WHEELS for name in names}


def _fill(at: Bench, names: Sequence[str]) -> None:
    choose, wheels = random.Random(7), _wheels(names)
    summary = "A library that does one thing to another and says so in some words"
    rows = ((name, name, summary[: choose.randint(20, 66)]) for name in names)
    at.fill("projects", ("name", "display_name", "summary"), rows)
    at.fill("published", ("name", "listed", "files"), ((name, has, 4 if has else 0) for name, has in wheels.items()))
    with at.connect() as connection:
        ids = connection.execute("SELECT id FROM projects JOIN published USING (name) WHERE files > 0").fetchall()
    today = datetime.now(UTC).date()
    at.fill("download_days", ("project_id", "day", "count"), _downloads([one[0] for one in ids], today))


def _downloads(ids: Sequence[int], today: date) -> Iterator[tuple[int, date, int]]:
    choose = random.Random(6)
    for number in ids:
        for back in range(1, 40, 4):
            yield number, today - timedelta(days=back), int(choose.paretovariate(0.8))


@contextmanager
def _site(at: Bench) -> Iterator[str]:
    """The tree as piw-web serves it; empty: there is nobody to look at it."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        yield ""
        return
    if shutil.which("chromium") is None:
        yield ""
        return
    settings = at.settings
    for path, data in assets.files(site_facts(settings)).items():
        writer.write_if_changed(settings.paths.output / path, data)
    with running(SERVERS["piw-web"], at.folder / "server", settings.paths.output) as url:
        yield url


#: Resolves to the time from now on until a result is shown that was looked up for what is in the field.
_WAIT = """() => new Promise((resolve) => {
    const list = document.getElementById("results"), field = document.getElementById("q");
    let begun = null;
    field.addEventListener("keydown", () => { begun = performance.now(); });
    const look = () => {
        if (begun !== null && list.getAttribute("aria-busy") === "false")
            resolve(list.querySelector("a") ? (performance.now() - begun) / 1000 : null);
    };
    new MutationObserver(look).observe(list, { childList: true, attributes: true, subtree: true });
})"""


def look(url: str, typed: Sequence[str]) -> dict[str, float]:
    """Seconds from the last keystroke to the first result; each in a browser that knows nothing yet. The median of
    three."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as play:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for words in typed:
            found[words] = median(_look(chromium, url, words) for _ in range(3))
        chromium.close()
    return found


def _look(chromium: Any, url: str, words: str) -> float:
    context = chromium.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    line = {"offline": False, "latency": 80, "downloadThroughput": LINE, "uploadThroughput": LINE}
    session.send("Network.emulateNetworkConditions", line)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    page.goto(f"{url}/search/")
    page.wait_for_load_state("networkidle")
    # All but the last key at once, so that only what the last one asks for is waited for.
    page.evaluate("words => { document.getElementById('q').value = words; }", words[:-1])
    waiting = page.evaluate_handle(f"() => {{ window.shown = ({_WAIT})(); }}")
    page.focus("#q")
    page.keyboard.press(words[-1])
    seconds: float | None = page.evaluate("() => window.shown")
    if seconds is None:
        raise RuntimeError(f"nothing was found for {words!r}: {page.inner_text('#count')}")
    waiting.dispose()
    context.close()
    return seconds


def main(argv: Sequence[str]) -> int:
    """What is measured: one kind of page, made as the publish role makes it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--search", dest="kind", action="store_const", const=PageKind.SEARCH)
    parser.add_argument("--sitemap", dest="kind", action="store_const", const=PageKind.SITEMAP)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args(argv)
    settings = load(None, overrides=options.set)
    engine = make_engine(settings.database, name="bench")
    with engine.begin() as conn:
        publish_site.render(conn, options.kind, site_facts(settings), Path(settings.paths.output))
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
