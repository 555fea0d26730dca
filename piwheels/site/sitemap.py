# SPDX-License-Identifier: BSD-3-Clause
"""The sitemap (sitemaps.org): parts of at most 50 000 addresses each, and the list of them. Pure; one part is in memory
at a time."""

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import chain, islice
from xml.sax.saxutils import escape

from piwheels.site import paths

MOST = (
    50_000  #: addresses of a part (sitemaps.org; it may have 50 MB as well, which names of 200 characters leave free)
)
#: Pages there is one of: directories below the root.
PAGES = ("", "search/", "stats/", "status/", "faq/", "api/")

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SPACE = "http://www.sitemaps.org/schemas/sitemap/0.9"


def parts(
    base_url: str, projects: Iterable[tuple[str, date]], *, most: int = MOST
) -> Iterator[tuple[str, bytes, date]]:
    """Each part's file name and bytes, and the latest day in it: the site's own pages, then each project's with the day
    that it was last written."""
    own: Iterator[tuple[str, date | None]] = ((page, None) for page in PAGES)
    of_projects = ((f"{paths.PROJECT}/{name}/", day) for name, day in projects)
    pages = chain(own, of_projects)
    number = 1
    while found := list(islice(pages, most)):
        entries = "".join(_entry("url", f"{base_url}/{path}", day) for path, day in found)
        data = f'{_HEAD}<urlset xmlns="{_SPACE}">\n{entries}</urlset>\n'.encode()
        yield f"{number:04d}.xml", data, max((day for _, day in found if day), default=date.min)
        number += 1


def index(base_url: str, names: Iterable[tuple[str, date]]) -> bytes:
    """The list of the parts, told their names and the latest day in each."""
    entries = "".join(
        _entry("sitemap", f"{base_url}/{paths.SITEMAPS}/{name}", None if day == date.min else day)
        for name, day in names
    )
    return f'{_HEAD}<sitemapindex xmlns="{_SPACE}">\n{entries}</sitemapindex>\n'.encode()


def _entry(kind: str, url: str, day: date | None) -> str:
    changed = f"<lastmod>{day.isoformat()}</lastmod>" if day else ""
    return f"<{kind}><loc>{escape(url)}</loc>{changed}</{kind}>\n"
