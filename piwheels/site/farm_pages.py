# SPDX-License-Identifier: BSD-3-Clause
"""The pages about the farm as a whole: home, search, statistics, status, questions, the manual of the JSON API. Knows
words and links; reads nothing but the schema that it explains. Same facts, same bytes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from piwheels.site import charts, paths, text
from piwheels.site.charts import Chart, Drawing, Point
from piwheels.site.facts import SiteFacts
from piwheels.site.farm_facts import HomeFacts, RecentBuild, StatsFacts, StatusFacts
from piwheels.site.model import FAILURES
from piwheels.site.rendering import render
from piwheels.vocabulary import SlaveWish

SCHEMA = Path(__file__).with_name("static") / "project.schema.json"


# Commands


def index_url(site: SiteFacts) -> str:
    """The index as installers are given it."""
    return f"{site.base_url}/{paths.SIMPLE}/"


def pip_options(site: SiteFacts) -> str:
    """What pip needs to take wheels from here and all else from PyPI."""
    host = urlsplit(site.base_url)
    # pip trusts plain HTTP from this machine alone.
    insecure = host.scheme == "http" and host.hostname not in ("localhost", "127.0.0.1", "::1")
    return f"--extra-index-url {index_url(site)}" + (f" --trusted-host {host.hostname}" if insecure else "")


def pip_command(site: SiteFacts, what: str) -> str:
    """How pip installs something from here."""
    return f"pip install {pip_options(site)} {what}"


def uv_command(site: SiteFacts, what: str) -> str:
    """How uv does."""
    return f"uv pip install --index {index_url(site)} {what}"


@dataclass(frozen=True, slots=True)
class Way:
    """How one installer is told of the farm."""

    name: str
    lasting: str  #: where it is told for good
    command: str
    then: str  #: what the other command is for
    once: str


def ways(site: SiteFacts) -> tuple[Way, ...]:
    """How each installer is told of the farm."""
    permanently = [f"pip config set global.extra-index-url {index_url(site)}"]
    if "--trusted-host" in pip_options(site):
        permanently.append(f"pip config set global.trusted-host {urlsplit(site.base_url).hostname}")
    return (
        Way(
            "pip",
            "For good, for this user:",
            "\n".join(permanently),
            "Or for one package:",
            pip_command(site, "PACKAGE"),
        ),
        Way(
            "uv",
            "For good, in uv.toml:",
            f'[[index]]\nname = "farm"\nurl = "{index_url(site)}"',
            "Or for one package:",
            uv_command(site, "PACKAGE"),
        ),
        Way(
            "Poetry",
            "In a project:",
            # A supplemental source is asked only for what PyPI has nothing of, a source distribution included; of the
            # primary ones the first wins. To name one means to name PyPI too.
            f"poetry source add --priority=primary farm {index_url(site)}\npoetry source add --priority=primary PyPI",
            "Then, as ever:",
            "poetry add PACKAGE",
        ),
    )


# Home, search


def home(facts: HomeFacts, site: SiteFacts) -> bytes:
    """The home page."""
    return render(
        "home",
        site,
        root="",
        home="./",
        section="home",
        title=f"{site.name}: wheels, ready to install",
        description=f"{site.name} builds wheels of packages that PyPI has as source only.",
        facts=facts,
        ways=ways(site),
    )


def search(site: SiteFacts) -> bytes:
    """The search page: a form; static/search.js does the looking up."""
    return render(
        "search",
        site,
        root="../",
        section="search",
        title=f"Search · {site.name}",
        description=f"Find a package among all that {site.name} knows.",
    )


# Status


def status(facts: StatusFacts, site: SiteFacts) -> bytes:
    """The status page."""
    return render(
        "status",
        site,
        root="../",
        section="status",
        title=f"Status · {site.name}",
        description=f"What {site.name} does now: builders, queue, last builds.",
        facts=facts,
        headline=headline(facts),
        at_most=lambda number: f"{text.count(number)}{'+' if number >= facts.ceiling else ''}",
        wishes={SlaveWish.PAUSE: "paused", SlaveWish.STOP: "told to stop", SlaveWish.RUN: ""},
        log_url=lambda build_id: paths.url_path(paths.log_path(build_id)),
        result=result,
    )


@dataclass(frozen=True, slots=True)
class Headline:
    """How the farm does, in a sentence."""

    state: str  #: a class of the style sheet: success, pending, failed
    words: str


def headline(facts: StatusFacts) -> Headline:
    """The worst that there is to say, or that all is well."""
    silent = [process.name for process in facts.processes if process.silent]
    if not facts.processes or len(silent) == len(facts.processes):
        return Headline("failed", "The master is not running. The site is served as it was left.")
    if silent:
        return Headline("failed", f"Not heard of: {text.listed(silent)}. The rest goes on.")
    if facts.paused:
        return Headline("pending", "The farm is paused: builds in hand are finished, none is begun.")
    if not facts.feed.answers:
        return Headline("pending", "PyPI does not answer. News wait; builds go on.")
    building = sum(queue.building for queue in facts.queues)
    if building:
        return Headline(
            "success", f"All is well, and {text.count(building)} {'build runs' if building == 1 else 'builds run'}."
        )
    return Headline(
        "success",
        "All is well. Nothing waits to be built." if not facts.waiting else "All is well. Jobs wait for a builder.",
    )


def result(build: RecentBuild) -> str:
    """How a build ended, in words."""
    return FAILURES[build.reason] if build.reason else "built"


# Statistics

KINDS = {"distro": "Distribution", "arch": "Architecture", "python": "Python", "installer": "Installer"}


@dataclass(frozen=True, slots=True)
class Share:
    """A line of a table of shares."""

    name: str
    count: int
    percent: str
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class Series:
    """A chart with its title and its table."""

    ident: str
    title: str
    words: Sequence[str]  #: of the series
    chart: Chart
    months: Sequence[tuple[str, Sequence[int]]]  #: the table: month → numbers


def stats(facts: StatsFacts, site: SiteFacts) -> bytes:
    """The page of statistics."""
    built, failed = sum(day.built for day in facts.builds), sum(day.failed for day in facts.builds)
    month = [day for day in facts.downloads if (facts.today - day.day).days < 30]
    return render(
        "stats",
        site,
        root="../",
        section="stats",
        title=f"Statistics · {site.name}",
        description=f"Downloads and builds of {site.name}.",
        facts=facts,
        month=sum(day.count for day in month),
        success=_percent(built, built + failed),
        saved=span(facts.saved),
        saved_month=span(sum((day.saved for day in month), timedelta())),
        charts=list(_charts(facts)),
        shares=[(kind, title, shares(facts.told[kind])) for kind, title in KINDS.items() if facts.told.get(kind)],
        top=shares(facts.top),
    )


def _charts(facts: StatsFacts) -> Iterator[Series]:
    fetched = [Point(day.day, (day.count,)) for day in facts.downloads]
    ended = [Point(day.day, (day.built, day.failed)) for day in facts.builds]
    for ident, title, words, points in (
        ("downloads", "Downloads", ("downloads",), fetched),
        ("builds", "Builds", ("built", "failed"), ended),
    ):
        chart = charts.over_time(points, ident=ident, title=title, series=words, today=facts.today)
        if chart is not None:
            yield Series(ident, title, words, chart, months(points))


def months(points: Sequence[Point]) -> list[tuple[str, Sequence[int]]]:
    """The numbers by month, latest first."""
    found: dict[str, list[int]] = {}
    for point in points:
        sums = found.setdefault(f"{point.day:%Y-%m}", [0] * len(point.values))
        for number, value in enumerate(point.values):
            sums[number] += value
    return sorted(found.items(), reverse=True)


def shares(counts: Sequence[tuple[str, int]]) -> list[Share]:
    """Counts as shares of their sum, drawn in relation to the greatest."""
    whole, most = sum(count for _, count in counts), max((count for _, count in counts), default=1)
    return [
        Share(text.clean(name), count, _percent(count, whole), charts.share(count / most)) for name, count in counts
    ]


def _percent(part: int, whole: int) -> str:
    if not whole:
        return ""
    value = 100 * part / whole
    return f"{value:.0f} %" if value >= 10 or not part else f"{value:.1f} %"


def span(duration: timedelta) -> str:
    """A long time, in the unit that it is long in."""
    hours = duration.total_seconds() / 3600
    for size, unit in ((24 * 365.25, "years"), (24, "days"), (1, "hours")):
        if hours >= 2 * size:
            return f"{text.count(round(hours / size))} {unit}"
    return text.length(duration)


# Words


def faq(site: SiteFacts) -> bytes:
    """Questions and answers."""
    return render(
        "faq",
        site,
        root="../",
        section="faq",
        title=f"Questions · {site.name}",
        description=f"What {site.name} is, and what to do when something does not install.",
        index_url=index_url(site),
        ways=ways(site),
    )


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the JSON API."""

    name: str
    kind: str
    words: str


def api(site: SiteFacts) -> bytes:
    """The manual of the JSON API, its tables from the schema."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    tables = [("The project", fields(schema, schema))]
    for name, title in (("release", "A release"), ("file", "A file"), ("build", "A build")):
        tables.append((title, fields(schema["$defs"][name], schema)))
    return render(
        "api",
        site,
        root="../",
        section="api",
        title=f"JSON API · {site.name}",
        description=f"What {site.name} tells programs.",
        tables=tables,
        base=site.base_url,
    )


def fields(of: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Field]:
    """The fields of an object of the schema's, as a person reads them."""
    return [Field(name, _kind(what, schema), _said(what, schema)) for name, what in of.get("properties", {}).items()]


def _target(what: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference is to, with what stands beside it."""
    if "$ref" not in what:
        return what
    found: Any = schema
    for step in what["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return {**found, **{key: value for key, value in what.items() if key != "$ref"}}


def _kind(what: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    what = _target(what, schema)
    if "enum" in what:
        return text.listed(["null" if value is None else f"“{value}”" for value in what["enum"]]).replace(
            " and ", " or "
        )
    if "oneOf" in what or "anyOf" in what:
        return " or ".join(_kind(one, schema) for one in what.get("oneOf", what.get("anyOf", ())))
    kind = what.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array" and "items" in what:
        return f"array of {_kind(what['items'], schema)}s"
    return str(kind)


def _said(what: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    what = _target(what, schema)
    words = [str(what.get("description", ""))]
    for one in what.get("oneOf", ()):
        words.append(str(_target(one, schema).get("description", "")))
    inner = what.get("properties")
    if inner:
        words.append(
            " ".join(f"{name}: {_target(value, schema).get('description', '')}" for name, value in inner.items())
        )
    return " ".join(word for word in words if word)
