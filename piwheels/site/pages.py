# SPDX-License-Identifier: BSD-3-Clause
"""The pages for people: Chameleon templates filled from the models. Knows words and links; decides nothing.

Chameleon escapes whatever a template inserts; no template inserts structure (a test looks). Same model, same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from chameleon import PageTemplateLoader

from piwheels.master.planner import Code
from piwheels.site import paths, text
from piwheels.site.facts import DumpFacts, HomeFacts, RecentBuild, SiteFacts
from piwheels.site.model import FAILURES, Cell, ProjectPage, Reason, Release, Status, Wheel, reasons

TEMPLATES = Path(__file__).with_name("templates")
SHOWN = 12  #: releases shown before the rest is folded away

WORDS = {
    Status.SUCCESS: "built",
    Status.FAILED: "failed",
    Status.PENDING: "waiting",
    Status.ON_PYPI: "PyPI serves it",
    Status.SKIPPED: "not built",
}


@cache
def _template(name: str) -> Any:
    # Not reloaded when the file changes: looking at every rendering costs more than rendering a small page.
    loader = PageTemplateLoader(str(TEMPLATES), default_extension=".pt", auto_reload=False, trim_attribute_space=True)
    return loader[name]


def _render(name: str, site: SiteFacts, *, root: str, home: str, title: str, **names: Any) -> bytes:
    common = {
        "site": site,
        "root": root,
        "home": home,
        "title": title,
        "contact_href": contact_href(site.contact),
        "indexed": True,
        "description": "",
        **{function.__name__: function for function in (text.count, text.length, text.listed, text.size, text.clean)},
        **{function.__name__: function for function in (text.stamp, text.minute, text.day)},
        "url_path": paths.url_path,
        "wheel_path": paths.wheel_path,
    }
    return cast(str, _template(name)(**{**common, **names})).encode()


def contact_href(contact: str) -> str:
    """What the operator's contact links to; empty for one that is neither a web nor a mail address."""
    if contact.startswith(("https://", "http://")):
        return contact
    return f"mailto:{contact}" if "@" in contact and ":" not in contact and " " not in contact else ""


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


# Home, 404


@dataclass(frozen=True, slots=True)
class Setup:
    """What to type to use the farm."""

    pip: str
    pip_once: str
    uv: str
    uv_once: str


def setup(site: SiteFacts) -> Setup:
    """The commands of the home page."""
    permanently = [f"pip config set global.extra-index-url {index_url(site)}"]
    if "--trusted-host" in pip_options(site):
        permanently.append(f"pip config set global.trusted-host {urlsplit(site.base_url).hostname}")
    return Setup(
        pip="\n".join(permanently),
        pip_once=pip_command(site, "PACKAGE"),
        uv=f'[[index]]\nname = "farm"\nurl = "{index_url(site)}"',
        uv_once=uv_command(site, "PACKAGE"),
    )


def home(facts: HomeFacts, site: SiteFacts) -> bytes:
    """The home page."""
    return _render(
        "home",
        site,
        root="",
        home="./",
        title=f"{site.name}: wheels, ready to install",
        description=f"{site.name} builds wheels of packages that PyPI has as source only.",
        home_facts=facts,
        setup=setup(site),
        log_url=lambda build_id: paths.url_path(paths.log_path(build_id)),
        result=_result,
    )


def _result(build: RecentBuild) -> str:
    return FAILURES[build.reason] if build.reason else "built"


def not_found(site: SiteFacts) -> bytes:
    """The page for addresses that have none; served under any of them, so its links start at the site's root."""
    root = urlsplit(site.base_url).path.rstrip("/") + "/"
    return _render("not_found", site, root=root, home=root, title=f"Nothing here · {site.name}", indexed=False)


def dump(facts: DumpFacts, site: SiteFacts) -> bytes:
    """The page that says what the metadata dump is."""
    url = f"{site.base_url}/{paths.DUMP}"
    return _render(
        "dump",
        site,
        root="../",
        home="../",
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
    return _render(
        "project",
        site,
        root="../../",
        home="../../",
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
