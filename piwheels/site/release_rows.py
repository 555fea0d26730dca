# SPDX-License-Identifier: BSD-3-Clause
"""Tables of releases and lists of files, as markup for project pages.

They are written here and not in a template because a project may have thousands of each, for which a template takes ten
times as long. So this module escapes whatever it is given. Pure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from urllib.parse import quote

from piwheels.master.planner import Code
from piwheels.site import paths, text
from piwheels.site.model import Cell, ProjectPage, Release, Status, Wheel

ROWS = 300  #: releases on one page
FILES = 250  #: files on one page, unless a single release has more
SHOWN = 60  #: files on the project's own page, unless all of them go on one page

WORDS = {
    Status.SUCCESS: "built",
    Status.FAILED: "failed",
    Status.PENDING: "waiting",
    Status.ON_PYPI: "PyPI serves it",
    Status.SKIPPED: "not built",
}

_SAID = (Code.FAILED.value, Code.QUEUED.value)  #: words that say no more than the status
_ELSEWHERE = Code.NOT_WANTED.value

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9.+!-]+")


class Markup(str):
    """Text that is markup already: templates insert it as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """What templates ask for instead of escaping."""
        return self


# Which releases are on which page


@dataclass(frozen=True, slots=True)
class Part:
    """Releases that share a page of their own, newest first."""

    number: int  #: from 1; counted from the oldest, so that a new release changes the last one alone
    releases: tuple[Release, ...]

    @property
    def files(self) -> int:
        """How many files they have."""
        return sum(len(release.wheels) for release in self.releases)


@dataclass(frozen=True, slots=True)
class Division:
    """A project's releases, as its pages show them."""

    rows: tuple[Release, ...]  #: of the table on the project's own page, newest first
    with_files: tuple[Release, ...]  #: whose files are listed there
    parts: tuple[Part, ...]  #: oldest first; none if that page shows everything

    def page_of(self) -> dict[str, int]:
        """The part that has a release, by version; for those whose files the project's own page does not list."""
        listed = {release.version for release in self.with_files}
        return {r.version: part.number for part in self.parts for r in part.releases if r.version not in listed}


def divide(releases: Sequence[Release]) -> Division:
    """Spread releases, newest first, over pages none of which is large."""
    parts = _parts(releases)
    if len(parts) <= 1:
        return Division(tuple(releases), tuple(r for r in releases if r.wheels), ())
    listed: list[Release] = []
    for release in releases:
        if listed and sum(len(r.wheels) for r in listed) + len(release.wheels) > SHOWN:
            break
        if release.wheels:
            listed.append(release)
    return Division(tuple(releases[:ROWS]), tuple(listed), parts)


def _parts(releases: Sequence[Release]) -> tuple[Part, ...]:
    groups: list[list[Release]] = []
    files = 0
    for release in reversed(releases):
        files += len(release.wheels)
        if not groups or len(groups[-1]) >= ROWS or files > FILES:
            groups.append([])
            files = len(release.wheels)
        groups[-1].append(release)
    return tuple(Part(number, tuple(reversed(group))) for number, group in enumerate(groups, 1))


def anchors(releases: Sequence[Release]) -> dict[str, str]:
    """Where a page has a release's files, by version."""
    taken: set[str] = set()
    found = {}
    for release in releases:
        name = "v" + _NOT_IN_IDS.sub("-", release.version)
        while name in taken:  # only versions that PEP 440 does not know can be so alike
            name += "-"
        taken.add(name)
        found[release.version] = name
    return found


# The table


def table(releases: Sequence[Release], targets: Sequence[str], links: Mapping[str, str], *, root: str) -> Markup:
    """What became of each release on each target. ``links``: where its files are listed, by version."""
    heads = "".join(f'<th scope="col">{escape(target)}</th>' for target in targets)
    rows = "".join(_row(release, targets, links.get(release.version, ""), root) for release in releases)
    return Markup(
        '<table class="releases">\n<thead><tr><th scope="col">Release</th>'
        f'<th scope="col">Files</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>'
    )


def _row(release: Release, targets: Sequence[str], link: str, root: str) -> str:
    version = escape(release.version)
    notes = f' <time datetime="{text.stamp(release.released)}">{text.day(release.released)}</time>'
    if release.prerelease:
        notes += ' <span class="tag">pre-release</span>'
    if release.yanked:
        notes += ' <span class="tag bad">yanked</span>' + _note(release.yanked_reason)
    if release.skip_reason:
        notes += _note(f"skipped: {release.skip_reason}")
    count = len(release.wheels)
    files = f'<a href="{escape(link)}">{count}<span class="hidden"> files of {version}</span></a>' if link else count
    cells = "".join(_place(place, release, root) for place in row(release, targets))
    return f'<tr><th scope="row"><span class="version">{version}</span>{notes}</th><td>{files}</td>{cells}</tr>\n'


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the table."""

    cell: Cell | None
    columns: int  #: it spans


def row(release: Release, targets: Sequence[str]) -> list[Place]:
    """A release's cells under their columns; what is the same for all targets is said once."""
    cells = {cell.target: cell for cell in release.cells}
    said = {(cell.status, cell.words) for cell in release.cells}
    if len(said) == 1 and len(cells) == len(targets) > 1 and not any(cell.finished for cell in release.cells):
        return [Place(release.cells[0], len(targets))]
    return [Place(cells.get(target), 1) for target in targets]


def _place(place: Place, release: Release, root: str) -> str:
    cell = place.cell
    if cell is None:
        return '<td><span class="none" aria-hidden="true">&ndash;</span><span class="hidden">nothing known</span></td>'
    said = f'<span class="state {cell.status}">{WORDS[cell.status]}</span>'
    if place.columns > 1:
        said += ' <span class="took">on all targets</span>'
    attempt = ""
    if cell.duration is not None:
        attempt = f'<span class="took">{text.length(cell.duration)}</span>'
    if cell.has_log:
        hidden = f'<span class="hidden"> of {escape(release.version)} on {escape(cell.target)}</span>'
        attempt += f' <a class="log" href="{root}{log_link(cell)}">log{hidden}</a>'
    if attempt:
        said += f' <span class="line">{attempt}</span>'
    span = f' colspan="{place.columns}"' if place.columns > 1 else ""
    return f"<td{span}>{said}{_note(aside(cell))}</td>"


def _note(words: str) -> str:
    return f' <span class="reason">{escape(words)}</span>' if words else ""


def log_link(cell: Cell) -> str:
    """Where to read a cell's log, from the site's root: at the error, if it failed."""
    return f"{cell.log_page}#error" if cell.failure else str(cell.log)


def aside(cell: Cell) -> str:
    """What is said below a cell's status: only what the status does not say already."""
    if cell.status is Status.ON_PYPI or cell.words in _SAID:
        return ""
    if cell.words == _ELSEWHERE:
        return "a newer release is built"
    return cell.words.removeprefix("not built: ").removeprefix("waiting ")


# The files


def file_lists(page: ProjectPage, releases: Sequence[Release], ids: Mapping[str, str], *, root: str) -> Markup:
    """The files of each of these releases, the first one's unfolded. ``ids``: of the lists, by version."""
    return Markup(
        "".join(
            _release_files(page, release, ids[release.version], root, unfolded=number == 0)
            for number, release in enumerate(releases)
        )
    )


def _release_files(page: ProjectPage, release: Release, anchor: str, root: str, *, unfolded: bool) -> str:
    count = len(release.wheels)
    base = f"{root}{paths.simple_dir(page.name)}/"
    items = "".join(_file(wheel, base) for wheel in release.wheels)
    return (
        f'<details class="files"{" open" if unfolded else ""}><summary><span class="version">{escape(release.version)}'
        f'</span> <span class="took">{text.count(count)} {"file" if count == 1 else "files"}, '
        f"{text.size(sum(wheel.size for wheel in release.wheels))}</span></summary>\n"
        f'<ul class="wheels" id="{anchor}">\n{items}</ul></details>\n'
    )


def _file(wheel: Wheel, base: str) -> str:
    yanked = ' <span class="tag bad">yanked</span>' + _note(wheel.yanked_reason) if wheel.yanked else ""
    filename = escape(wheel.filename)
    needs = _needs(wheel.requires_python or "", wheel.apt, wheel.pip, wheel.unknown)
    return (
        f'<li data-for="{_escaped(" ", wheel.targets)}"><p class="filename"><a href="{base}{quote(wheel.filename)}">'
        f'{filename}</a> <span class="took">{text.size(wheel.size)}</span>{yanked}</p>\n<dl>'
        f"<div><dt>For</dt><dd>{_escaped(', ', wheel.targets)}</dd></div>{needs}"
        f'<div><dt>Built</dt><dd><time datetime="{text.stamp(wheel.uploaded)}">{text.minute(wheel.uploaded)}</time>'
        f'</dd></div><div class="hash"><dt>SHA-256</dt><dd><code>{wheel.sha256.hex()}</code></dd></div></dl></li>\n'
    )


# Files of a project are much alike, so these are asked for the same again and again.


@lru_cache(maxsize=2000)
def _needs(python: str, *lists: tuple[str, ...]) -> str:
    facts = [("Python", (python,) if python else ()), *zip(("apt", "pip", "Also needs"), lists, strict=True)]
    return "".join(f"<div><dt>{name}</dt><dd>{_escaped(', ', words)}</dd></div>" for name, words in facts if words)


@lru_cache(maxsize=2000)
def _escaped(between: str, names: tuple[str, ...]) -> str:
    return escape(between.join(names))
