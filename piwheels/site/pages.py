# SPDX-License-Identifier: BSD-3-Clause
"""The pages for people: Chameleon templates filled from the models. Knows words and links; decides nothing.

How templates are found and filled is piwheels.site.rendering's part. Same model, same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from piwheels.master.planner import Code
from piwheels.site import paths, text
from piwheels.site.facts import DumpFacts, SiteFacts
from piwheels.site.farm_pages import pip_command, uv_command
from piwheels.site.model import Cell, ProjectPage, Reason, Release, Status, Wheel, reasons
from piwheels.site.rendering import render

SHOWN = 12  #: releases shown before the rest is folded away

WORDS = {
    Status.SUCCESS: "built",
    Status.FAILED: "failed",
    Status.PENDING: "waiting",
    Status.ON_PYPI: "PyPI serves it",
    Status.SKIPPED: "not built",
}


# 404


def not_found(site: SiteFacts) -> bytes:
    """The page for addresses that have none; served under any of them, so its links start at the site's root."""
    root = urlsplit(site.base_url).path.rstrip("/") + "/"
    return render("not_found", site, root=root, title=f"Nothing here · {site.name}", indexed=False)


def dump(facts: DumpFacts, site: SiteFacts) -> bytes:
    """The page that says what the metadata dump is."""
    url = f"{site.base_url}/{paths.DUMP}"
    return render(
        "dump",
        site,
        root="../",
        title=f"PyPI metadata · {site.name}",
        description="Metadata of packages on PyPI as a single file.",
        dump=facts,
        filename=paths.DUMP.name,
        command=f"curl -fsS {url} | zstd -dc | python3 -m json.tool",
        window=None if facts.since is None else text.window(facts.made - facts.since),
    )


# Project


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
class Group:
    """Releases shown together."""

    first: bool
    releases: tuple[Release, ...]


def project(page: ProjectPage, site: SiteFacts) -> bytes:
    """A project's page."""
    with_files = [release for release in page.releases if release.wheels]
    main = page.main
    return render(
        "project",
        site,
        root="../../",
        title=f"{page.display_name} · {site.name}",
        description=page.summary,
        page=page,
        words=WORDS,
        pypi_url=f"{site.pypi_project_url}{page.name}/",
        install=install(page, site),
        whys=[_why(reason) for reason in reasons(main)] if main else [],
        groups=_groups(page.releases),
        with_files=with_files,
        wheels=bool(with_files),
        row=lambda release: row(release, page.targets),
        aside=aside,
    )


def _groups(releases: Sequence[Release]) -> list[Group]:
    # One that would be folded away alone is shown.
    shown = SHOWN if len(releases) > SHOWN + 1 else len(releases)
    groups = (Group(True, tuple(releases[:shown])), Group(False, tuple(releases[shown:])))
    return [group for group in groups if group.releases]


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the table of releases."""

    cell: Cell | None
    columns: int  #: it spans


def row(release: Release, targets: Sequence[str]) -> list[Place]:
    """A release's cells under their columns; what is the same for all targets is said once."""
    cells = {cell.target: cell for cell in release.cells}
    said = {(cell.status, cell.words) for cell in release.cells}
    if len(said) == 1 and len(cells) == len(targets) > 1 and not any(cell.finished for cell in release.cells):
        return [Place(release.cells[0], len(targets))]
    return [Place(cells.get(target), 1) for target in targets]


def aside(cell: Cell) -> str:
    """What is said below a cell's status: only what the status does not say already."""
    if cell.status is Status.ON_PYPI or cell.words in (Code.FAILED.value, Code.QUEUED.value):
        return ""
    if cell.words == Code.NOT_WANTED.value:
        return "a newer release is built"
    return cell.words.removeprefix("not built: ").removeprefix("waiting ")


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
    log = paths.url_path(reason.log) if reason.log else ""
    return Why(reason.targets, reason.status, (sentence or WORDS[reason.status]).rstrip("."), reason.detail, log)
