# SPDX-License-Identifier: BSD-3-Clause
"""The files of the site that depend on no row: styles, script, schema, the 404 page, robots.txt. Pure but for reading
what this package ships."""

import hashlib
from functools import cache
from pathlib import Path, PurePosixPath

from piwheels.site import pages, paths
from piwheels.site.facts import SiteFacts

FILES = Path(__file__).with_name("static")
SCHEMA = FILES / "project.schema.json"
#: Index pages and logs are for programs and for those who follow a link.
ROBOTS_TXT = b"User-agent: *\nDisallow: /simple/\nDisallow: /logs/\n"


def files(site: SiteFacts) -> dict[PurePosixPath, bytes]:
    """All of them by place."""
    shipped = (path for path in sorted(FILES.iterdir()) if path.is_file() and path != SCHEMA)
    return {
        **{paths.STATIC / path.name: path.read_bytes() for path in shipped},
        paths.PROJECT_SCHEMA: SCHEMA.read_bytes(),
        paths.NOT_FOUND_PAGE: pages.not_found(site),
        paths.ROBOTS: ROBOTS_TXT,
    }


def look(site: SiteFacts) -> str:
    """A fingerprint of all that shapes a page beside the database: settings, templates, and the code that renders."""
    return hashlib.sha256(f"{site!r} {_program()}".encode()).hexdigest()


@cache
def _program() -> str:
    digest = hashlib.sha256()
    for path in sorted((*Path(__file__).parent.glob("*.py"), *pages.TEMPLATES.glob("*.pt"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
