# SPDX-License-Identifier: BSD-3-Clause
"""What happened on the farm, for those who follow it: ``/changes.json`` with the latest, ``/changes/<n>.json`` with a
thousand of older ones each, and Atom feeds (RFC 4287). Pure; same news, same bytes.

A program that has all up to a serial reads /changes.json; if its first entry is not beyond the next serial, the rest is
there. Otherwise it reads the pages from that serial's on: a page, once there, never changes.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from piwheels.site import paths
from piwheels.site.facts import News, SiteFacts
from piwheels.site.text import clean, clean_lines, listed, stamp
from piwheels.vocabulary import NewsKind

PAGE = 1000  #: entries of each page of older ones
LATEST = 100  #: entries that /changes.json has at least, as far as there are so many
ENTRIES = 50  #: of an Atom feed

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # a feed without entries needs a time too
_ATOM = "http://www.w3.org/2005/Atom"
_WORDS = {
    NewsKind.BUILT: "{what} built",
    NewsKind.FAILED: "{what} failed to build",
    NewsKind.WITHDRAWN: "{what} withdrawn",
    NewsKind.YANKED: "{what} yanked",
    NewsKind.RESTORED: "{what} is back",
    NewsKind.REMOVED: "{what} removed",
    NewsKind.QUARANTINED: "{what} quarantined by PyPI",
}


def full_pages(serial: int) -> int:
    """How many pages of older entries there are when this is the latest serial."""
    return serial // PAGE


def first_of_latest(serial: int) -> int:
    """The serial with which /changes.json begins: after the last full page at the latest."""
    return min(full_pages(serial) * PAGE, max(serial - LATEST, 0)) + 1


def latest_json(news: Sequence[News], *, serial: int) -> bytes:
    """/changes.json: ``news`` are those from :func:`first_of_latest` to ``serial``."""
    return _dump(
        {
            "serial": serial,
            "first": first_of_latest(serial),
            "page_size": PAGE,
            "pages": full_pages(serial),
            "changes": [_entry(one) for one in news],
        }
    )


def page_json(news: Sequence[News], *, number: int) -> bytes:
    """/changes/<number>.json: the ``number``-th thousand."""
    return _dump(
        {
            "page": number,
            "first": (number - 1) * PAGE + 1,
            "last": number * PAGE,
            "changes": [_entry(one) for one in news],
        }
    )


def _entry(one: News) -> dict[str, Any]:
    return {
        "serial": one.serial,
        "at": stamp(one.at),
        "change": one.kind.value,
        "package": one.project,
        "version": one.version or None,
        "target": one.target or None,
        "build": one.build_id,
        "failure": one.reason or None,
        "detail": clean(one.detail),
        "files": list(one.files),
        # From the site's root, so that a page does not change when the farm moves.
        "log": str(paths.log_path(one.build_id)) if one.has_log and one.build_id else None,
    }


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def words(one: News) -> str:
    """What happened, in a line."""
    what = clean(f"{one.project} {one.version}".strip())
    return _WORDS[one.kind].format(what=what) + (f" for {clean(one.target)}" if one.target else "")


def farm_atom(news: Sequence[News], site: SiteFacts) -> bytes:
    """The farm's feed, newest first."""
    return _atom(news, site, title=f"Changes · {site.name}", page="", feed=str(paths.CHANGES_ATOM))


def project_atom(news: Sequence[News], site: SiteFacts, project: str, display_name: str) -> bytes | None:
    """A project's; None: there is nothing to tell yet."""
    if not news:
        return None
    page = paths.url_path(paths.project_dir(project)) + "/"
    feed = paths.url_path(paths.project_feed(project))
    return _atom(news, site, title=f"{display_name} · {site.name}", page=page, feed=feed)


def _atom(news: Sequence[News], site: SiteFacts, *, title: str, page: str, feed: str) -> bytes:
    root = ElementTree.Element("feed", {"xmlns": _ATOM, "xml:lang": "en"})
    _add(root, "id", f"{site.base_url}/{feed}")
    _add(root, "title", title)
    _add(root, "updated", stamp(max((one.at for one in news), default=_NEVER)))
    _link(root, "self", f"{site.base_url}/{feed}", "application/atom+xml")
    _link(root, "alternate", f"{site.base_url}/{page}", "text/html")
    _add(ElementTree.SubElement(root, "author"), "name", site.name)
    for one in news:
        root.append(_atom_entry(one, site))
    ElementTree.indent(root, "")
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _atom_entry(one: News, site: SiteFacts) -> ElementTree.Element:
    entry = ElementTree.Element("entry")
    # RFC 4151; by the row's number, which it keeps whatever becomes of the rest.
    _add(entry, "id", f"tag:{urlsplit(site.base_url).hostname or 'localhost'},2026:news/{one.id}")
    _add(entry, "title", words(one))
    _add(entry, "updated", stamp(one.at))
    _link(entry, "alternate", f"{site.base_url}/{paths.url_path(paths.project_dir(one.project))}/", "text/html")
    if one.has_log and one.build_id:
        _link(entry, "related", f"{site.base_url}/{paths.url_path(paths.log_path(one.build_id))}", "text/plain")
    ElementTree.SubElement(entry, "category", {"term": one.kind.value})
    said = [clean_lines(one.detail), f"Files: {listed(one.files)}." if one.files else ""]
    _add(entry, "summary", clean(" ".join(filter(None, said))) or words(one))
    return entry


def _add(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text


def _link(parent: ElementTree.Element, rel: str, href: str, media_type: str) -> None:
    ElementTree.SubElement(parent, "link", {"rel": rel, "type": media_type, "href": href})
