# SPDX-License-Identifier: BSD-3-Clause
"""What happened on the farm, put on the site: numbered first, in a transaction of its own, and written once that is
committed. So a serial that somebody read stands for the same for ever, wherever the process is killed.
"""

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from piwheels.db import news, pages
from piwheels.site import changes, paths, writer
from piwheels.site.facts import SiteFacts
from piwheels.vocabulary import PageKind

EVERY = 2.0  #: seconds between two looks for something new
PAGES_AT_ONCE = 100  #: pages of older changes that are written in one transaction

Transact = Callable[[Callable[[Connection], bool]], bool]


class NewsDesk:
    """One publishing process's part in it."""

    def __init__(self, output: Path, site: SiteFacts) -> None:
        self._output = output
        self._site = site
        self._next_look = 0.0
        self._checked = -1  # older pages that are known to be right, all up to this number; none were looked at yet

    def look(self, transact: Transact) -> bool:
        """Number what is new, if it is time for a look; whether there is more."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        more = transact(_number)
        self._next_look = now if more else now + EVERY
        return more

    def write(self, conn: Connection) -> None:
        """Bring the files in line. The older pages come first, so that none is missing of what the latest one leaves to
        them."""
        serial = news.last_serial(conn)
        if not self._write_pages(conn, changes.full_pages(serial)):
            pages.mark_stale(conn, PageKind.CHANGES, "", "more pages of changes")
            return
        latest = news.between(conn, changes.first_of_latest(serial), serial)
        writer.write_if_changed(self._output / paths.CHANGES_JSON, changes.latest_json(latest, serial=serial))
        newest = news.between(conn, serial - changes.ENTRIES + 1, serial)[::-1]
        writer.write_if_changed(self._output / paths.CHANGES_ATOM, changes.farm_atom(newest, self._site))

    def _write_pages(self, conn: Connection, full: int) -> bool:
        """Write the next of the older pages; whether all are there."""
        wanted = range(max(self._checked, 0) + 1, full + 1)
        if self._checked < 0:  # what this process finds is right; but a database from a backup may count on otherwise
            wanted_now = [number for number in wanted if not self._path(number).exists()]
        else:
            wanted_now = list(wanted)
        for number in wanted_now[:PAGES_AT_ONCE]:
            found = news.between(conn, (number - 1) * changes.PAGE + 1, number * changes.PAGE)
            writer.write_if_changed(self._path(number), changes.page_json(found, number=number))
        if len(wanted_now) > PAGES_AT_ONCE:
            return False
        self._checked = full
        return True

    def _path(self, number: int) -> Path:
        return self._output / paths.changes_page(number)


def _number(conn: Connection) -> bool:
    numbered = news.number(conn)
    if numbered:
        pages.mark_stale(conn, PageKind.CHANGES, "", f"{numbered} changes")
    return numbered == news.AT_ONCE
