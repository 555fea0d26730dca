# SPDX-License-Identifier: BSD-3-Clause
"""A project's pages for people: how to install it, what became of each release on each target, and why.

Decides nothing. A project with more releases or files than go on one page has further ones, ``releases-1.html`` and so
on. Same model, same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from piwheels.site import badge, charts, paths, text
from piwheels.site.charts import Point
from piwheels.site.facts import SiteFacts
from piwheels.site.farm_pages import Series, months, pip_command, uv_command
from piwheels.site.model import ProjectPage, Reason, Status, Wheel, reasons
from piwheels.site.release_rows import WORDS, Division, Part, anchors, divide, file_lists, table
from piwheels.site.rendering import render as fill
from piwheels.vocabulary import ProjectStatus

LONG = 12  #: releases beyond which the table gets a filter and scrolls by itself


@dataclass(frozen=True, slots=True)
class Need:
    """Packages to install with apt, and where."""

    packages: tuple[str, ...]
    targets: str  #: empty: everywhere that the release runs


@dataclass(frozen=True, slots=True)
class Install:
    """How to install a project from here."""

    version: str
    pip: str
    uv: str
    apt: tuple[Need, ...]
    unknown: tuple[str, ...]  #: libraries that nobody is known to provide


@dataclass(frozen=True, slots=True)
class Why:
    """A sentence about targets without a wheel."""

    targets: str
    status: Status
    sentence: str
    detail: str
    log: str  #: relative to the site's root; empty: none


@dataclass(frozen=True, slots=True)
class More:
    """A further page of the project's."""

    href: str
    oldest: str
    newest: str
    releases: int
    files: int
    here: bool  #: it is the one that is being rendered


def render(page: ProjectPage, site: SiteFacts, *, has_feed: bool = False) -> list[bytes]:
    """A project's own page, then the further ones by number."""
    division = divide(page.releases)
    return [
        _main(page, site, division, has_feed=has_feed),
        *(_part(page, site, division, part) for part in division.parts),
    ]


def _main(page: ProjectPage, site: SiteFacts, division: Division, *, has_feed: bool) -> bytes:
    ids = anchors(page.releases)
    elsewhere = division.page_of()
    links = {
        release.version: f"releases-{elsewhere[release.version]}.html#{ids[release.version]}"
        if release.version in elsewhere
        else f"#{ids[release.version]}"
        for release in division.rows
        if release.wheels
    }
    whys = reasons(page.main) if page.main else ()
    return fill(
        "project",
        site,
        root="../../",
        title=f"{page.display_name} · {site.name}",
        description=page.summary,
        page=page,
        words=WORDS,
        downloads=_downloads(page),
        has_feed=has_feed,
        badge=badge.of(page, site),
        badge_markdown=_badge_markdown(page, site),
        pypi_url=f"{site.pypi_project_url}{page.name}/",
        install=install(page, site),
        whys=[_why(reason) for reason in whys],
        compiles=page.status is not ProjectStatus.QUARANTINED
        and any(reason.status is not Status.ON_PYPI for reason in whys),
        table=table(division.rows, page.targets, links, root="../../") if page.releases else "",
        shown=len(division.rows),
        long=len(division.rows) > LONG,
        files=file_lists(page, division.with_files, ids, root="../../"),
        files_elsewhere=bool(elsewhere),
        wheels=any(release.wheels for release in page.releases),
        more=list(_more(division)),
    )


def _downloads(page: ProjectPage) -> Series | None:
    """Downloads of the last year as a drawing and as a table."""
    points = [Point(day, (count,)) for day, count in page.download_days]
    if not points or page.today is None:
        return None
    title, words = f"Downloads of {page.display_name}", ("downloads",)
    chart = charts.over_time(points, ident="downloads", title=title, series=words, today=page.today)
    return None if chart is None else Series("downloads", title, words, chart, months(points))


def _badge_markdown(page: ProjectPage, site: SiteFacts) -> str:
    image = f"{site.base_url}/{paths.url_path(paths.project_badge(page.name))}"
    return f"[![{page.name} wheels]({image})]({site.base_url}/{paths.url_path(paths.project_dir(page.name))}/)"


def _part(page: ProjectPage, site: SiteFacts, division: Division, part: Part) -> bytes:
    ids = anchors(page.releases)
    with_files = [release for release in part.releases if release.wheels]
    links = {release.version: f"#{ids[release.version]}" for release in with_files}
    span = f"{part.releases[-1].version} to {part.releases[0].version}"
    return fill(
        "releases",
        site,
        root="../../",
        title=f"{page.display_name} {span} · {site.name}",
        description=f"Releases {span} of {page.display_name}, and what became of them.",
        page=page,
        words=WORDS,
        span=span,
        table=table(part.releases, page.targets, links, root="../../"),
        shown=len(part.releases),
        long=len(part.releases) > LONG,
        files=file_lists(page, with_files, ids, root="../../"),
        wheels=bool(with_files),
        more=list(_more(division, part)),
    )


def _more(division: Division, here: Part | None = None) -> Iterator[More]:
    for part in reversed(division.parts):
        yield More(
            href=paths.releases_page("x", part.number).name,
            oldest=part.releases[-1].version,
            newest=part.releases[0].version,
            releases=len(part.releases),
            files=part.files,
            here=part is here,
        )


def install(page: ProjectPage, site: SiteFacts) -> Install | None:
    """How to install it: the newest release with a wheel that is not yanked, stable ones first; None: there is none."""
    usable = [release for release in page.releases if any(not wheel.yanked for wheel in release.wheels)]
    stable = [release for release in usable if not release.prerelease]
    if not usable:
        return None
    release = (stable or usable)[0]
    wheels = [wheel for wheel in release.wheels if not wheel.yanked]
    what = page.name if release == page.main else f"{page.name}=={release.version}"
    return Install(
        version=release.version,
        pip=pip_command(site, what),
        uv=uv_command(site, what),
        apt=_needs(wheels),
        unknown=tuple(sorted({library for wheel in wheels for library in wheel.unknown})),
    )


def _needs(wheels: Sequence[Wheel]) -> tuple[Need, ...]:
    """Packages by target; one entry where all targets need the same."""
    by_target: dict[str, set[str]] = {}
    for wheel in wheels:
        for target in wheel.targets:
            by_target.setdefault(target, set()).update(wheel.apt)
    groups: dict[tuple[str, ...], list[str]] = {}
    for target, packages in by_target.items():
        groups.setdefault(tuple(sorted(packages)), []).append(target)
    same = len(groups) == 1
    return tuple(Need(names, "" if same else text.listed(on)) for names, on in groups.items() if names)


def _why(reason: Reason) -> Why:
    match reason.status:
        case Status.ON_PYPI:
            sentence = "PyPI itself has a wheel for it, so none is built here. Installers take that one"
        case Status.PENDING:
            sentence = f"It is {reason.words}" if reason.words.startswith("waiting") else reason.words
        case _:
            sentence = reason.words[:1].upper() + reason.words[1:]
    log = f"{reason.log}#error" if reason.log else ""
    return Why(reason.targets, reason.status, (sentence or WORDS[reason.status]).rstrip("."), reason.detail, log)
