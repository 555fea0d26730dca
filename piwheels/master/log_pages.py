# SPDX-License-Identifier: BSD-3-Clause
"""Pages of the logs of builds that failed, written when their project's page is: what a page links to is there.

Builds that succeed have no such page: few look at their logs, which are there as text. A log's page depends on the log,
the build and the look of the site, none of which changes often; the last is told from the page's own gzip header, so
that a page that is right costs one short read. It is kept compressed only, as the log is.
"""

import gzip
import logging
import zlib
from pathlib import Path

from piwheels.site import build_log, writer
from piwheels.site.build_log import LoggedBuild
from piwheels.site.facts import SiteFacts
from piwheels.site.model import FAILURES, Cell, ProjectPage, Release

logger = logging.getLogger(__name__)

LONGEST = 32 * 1024**2  #: bytes of a log that are read
_LEVEL = 6


def mark_of(look: str) -> int:
    """The site's look (assets.look) as a gzip header can hold it: in the four bytes for a time."""
    return zlib.crc32(look.encode())


def write(output: Path, page: ProjectPage, site: SiteFacts, mark: int) -> int:
    """Write the pages that are missing or look otherwise; how many."""
    written = 0
    for release in page.releases:
        for cell in release.cells:
            if cell.log_page is not None and not _is_right(output / cell.log_page, mark):
                writer.write_plain(output / cell.log_page, _packed(output, page, release, cell, site, mark))
                written += 1
    return written


def _is_right(path: Path, mark: int) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == mark.to_bytes(4, "little")  # RFC 1952, section 2.3.1
    except FileNotFoundError:
        return False


def _packed(output: Path, page: ProjectPage, release: Release, cell: Cell, site: SiteFacts, mark: int) -> bytes:
    build = LoggedBuild(
        project=page.name,
        display_name=page.display_name,
        version=release.version,
        target=cell.target,
        finished=cell.finished,
        duration=cell.duration,
        outcome=FAILURES[cell.failure] if cell.failure else "failed",
        detail=cell.detail,
        raw=(cell.log or "").rpartition("/")[2],
    )
    return gzip.compress(build_log.render(build, _read(output, cell), site), _LEVEL, mtime=mark)


def _read(output: Path, cell: Cell) -> str:
    try:
        with gzip.open(output / str(cell.log)) as file:
            return file.read(LONGEST).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        logger.warning("the log of build %s cannot be read, so its page is empty: %s", cell.build_id, error)
        return ""
