# SPDX-License-Identifier: BSD-3-Clause
"""Rendering the pages about the farm as a whole: reads the facts, makes the pages, writes what changed, notes how long
it took. The publish role calls it, in a transaction that may be repeated."""

import logging
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection

from piwheels.db import farm_pages, search_rows
from piwheels.site import farm_pages as html
from piwheels.site import paths, search_index, sitemap, writer
from piwheels.site.facts import SiteFacts
from piwheels.vocabulary import PageKind

logger = logging.getLogger(__name__)

AT_ONCE = 32  #: files of an index that are written, and synchronised, together
TWINS = (".gz", ".zst")


def render(conn: Connection, kind: PageKind, site: SiteFacts, output: Path) -> None:
    """Bring one kind of page in line with the rows."""
    begun = time.monotonic()
    today = datetime.now(UTC).date()
    match kind:
        case PageKind.HOME:
            page = html.home(farm_pages.load_home(conn, today=today), site)
            writer.write_if_changed(output / paths.HOME_PAGE, page)
        case PageKind.STATUS:
            writer.write_if_changed(output / paths.STATUS_PAGE, html.status(farm_pages.load_status(conn), site))
        case PageKind.STATS:
            page = html.stats(farm_pages.load_stats(conn, today=today), site)
            writer.write_if_changed(output / paths.STATS_PAGE, page)
        case PageKind.SEARCH:
            _search(conn, output / paths.SEARCH_SHARDS, today=today)
        case PageKind.SITEMAP:
            _sitemap(conn, site, output)
        case PageKind.PROJECT | PageKind.ROOT:
            raise AssertionError(f"{kind} is not a page about the farm")
    took = time.monotonic() - begun
    farm_pages.note_rendered(conn, kind, took=timedelta(seconds=took))
    logger.debug("%s in %.0f ms", kind, took * 1000)


def _search(conn: Connection, directory: Path, *, today: date) -> None:
    keep = write_all(directory, search_index.files(search_rows.stream(conn, today=today)))
    _sweep(directory, keep)


def _sitemap(conn: Connection, site: SiteFacts, output: Path) -> None:
    directory = output / paths.SITEMAPS
    listed: list[tuple[str, date]] = []

    def parts() -> Iterator[tuple[str, bytes]]:
        for name, data, latest in sitemap.parts(site.base_url, search_rows.pages(conn)):
            listed.append((name, latest))
            yield name, data

    write_all(directory, parts(), at_once=1)
    writer.write_if_changed(output / paths.SITEMAP, sitemap.index(site.base_url, listed))
    _sweep(directory, {name for name, _ in listed})


def write_all(directory: Path, files: Iterable[tuple[str, bytes]], *, at_once: int = AT_ONCE) -> set[str]:
    """Write many files of a directory in the order given, few at a time, those that changed; their names."""
    names: set[str] = set()
    iterator = iter(files)
    while batch := dict(islice(iterator, at_once)):
        writer.write_files(directory, batch)
        names |= batch.keys()
    return names


def _sweep(directory: Path, keep: set[str]) -> None:
    """Remove what is not to be there any more, with its twins, and what a killed writer left."""

    def unwanted(name: str) -> bool:
        for twin in TWINS:
            name = name.removesuffix(twin)
        return name not in keep

    writer.remove_files(directory, unwanted)
