# SPDX-License-Identifier: BSD-3-Clause
"""The files of the site that depend on no row: styles, scripts, schemas, icons, pages of words, robots.txt. Pure but
for reading what this package ships and what the operator put beside it."""

import hashlib
import logging
import re
from functools import cache
from pathlib import Path, PurePosixPath

from piwheels.site import farm_pages, icon, pages, paths, rendering
from piwheels.site.facts import SiteFacts

log = logging.getLogger(__name__)

FILES = Path(__file__).with_name("static")
SCHEMA = FILES / "project.schema.json"
CHANGES_SCHEMA = FILES / "changes.schema.json"
LARGEST = 5 * 1024**2  #: bytes of a file of the operator's

_FIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def files(site: SiteFacts) -> dict[PurePosixPath, bytes]:
    """All of them by place."""
    elsewhere = (SCHEMA, CHANGES_SCHEMA)
    found = (path for path in sorted(FILES.iterdir()) if path.is_file() and path not in elsewhere)
    shipped = {path.name: path.read_bytes() for path in found}
    return {
        **{paths.STATIC / name: data for name, data in {**shipped, **own_files(site.overrides)}.items()},
        paths.PROJECT_SCHEMA: SCHEMA.read_bytes(),
        paths.CHANGES_SCHEMA: CHANGES_SCHEMA.read_bytes(),
        paths.NOT_FOUND_PAGE: pages.not_found(site),
        paths.SEARCH_PAGE: farm_pages.search(site),
        paths.FAQ_PAGE: farm_pages.faq(site),
        paths.API_PAGE: farm_pages.api(site),
        paths.ROBOTS: robots(site),
        paths.FAVICON: icon.favicon(),
    }


def robots(site: SiteFacts) -> bytes:
    """What crawlers are asked: index pages and logs are for programs and for those who follow a link."""
    return (
        f"User-agent: *\nDisallow: /simple/\nDisallow: /logs/\nDisallow: /{paths.SEARCH_SHARDS}/\n"
        f"\nSitemap: {site.base_url}/{paths.SITEMAP}\n"
    ).encode()


def own_files(overrides: Path | None) -> dict[str, bytes]:
    """The operator's own static files by name. One that cannot be used is told of, and left out."""
    found: dict[str, bytes] = {}
    folder = overrides / "static" if overrides else None
    if folder is None:
        return found
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        log.error("%s cannot be read: %s; pages are made without it", folder, error.strerror)
        return found
    for path in entries:
        try:
            if path.name.startswith(".") or not path.is_file():
                continue
            if not _FIT.fullmatch(path.name) or path.stat().st_size > LARGEST:
                log.error("%s is not published: its name has odd characters, or it is larger than 5 MB", path)
                continue
            found[path.name] = path.read_bytes()
        except OSError as error:
            log.error("%s is not published: %s", path, error.strerror)
    return found


def own_styles(overrides: Path | None) -> tuple[str, ...]:
    """Style sheets that the operator adds to ours, for after ours."""
    return tuple(name for name in own_files(overrides) if name.endswith(".css") and not (FILES / name).exists())


def look(site: SiteFacts) -> str:
    """A fingerprint of all that shapes a page beside the database: settings, templates, and the code that renders."""
    return hashlib.sha256(f"{site!r} {_program()} {_own_templates(site.overrides)}".encode()).hexdigest()


@cache
def _program() -> str:
    return _digest([*Path(__file__).parent.glob("*.py"), *rendering.TEMPLATES.glob("*.pt")])


def _own_templates(overrides: Path | None) -> str:
    return _digest([*(overrides / "templates").glob("*.pt")]) if overrides else ""


def _digest(found: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(found):
        try:
            data = path.read_bytes()
        except OSError:  # the operator's; rendering says what is wrong with it
            continue
        digest.update(path.name.encode() + b"\0" + data)
    return digest.hexdigest()
