# SPDX-License-Identifier: BSD-3-Clause
"""``/project/<p>/json``: all that is known of a project, for programs. Fields are only ever added.

Pure. The JSON Schema that is published at /schema/project.json is ``static/project.schema.json`` beside this module.
Times in fields that other farms have are ``YYYY-MM-DD HH:MM:SS`` in UTC; in fields of our own they are RFC 3339.
"""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from piwheels.site import paths
from piwheels.site.facts import SiteFacts
from piwheels.site.model import Cell, ProjectPage, Release, Wheel
from piwheels.site.text import stamp


def render(page: ProjectPage, site: SiteFacts) -> bytes:
    """The document."""
    return json.dumps(document(page, site), ensure_ascii=False, separators=(",", ":")).encode()


def document(page: ProjectPage, site: SiteFacts) -> dict[str, Any]:
    """The document before it is bytes."""
    return {
        "package": page.name,
        "summary": page.summary,
        "pypi_url": f"{site.pypi_project_url}{page.name}/",
        "piwheels_url": f"{site.base_url}/{paths.url_path(paths.project_dir(page.name))}/",
        "releases": {release.version: _release(page, release, site) for release in page.releases},
        "display_name": page.display_name,
        "status": page.status.value,
        "status_reason": page.status_reason,
        "skip_reason": page.skip_reason,
        "aliases": list(page.aliases),
        "downloads": {"month": page.downloads_month, "all": page.downloads_all},
        "badge_url": f"{site.base_url}/{paths.url_path(paths.project_badge(page.name))}",
    }


def _release(page: ProjectPage, release: Release, site: SiteFacts) -> dict[str, Any]:
    base = f"{site.base_url}/{paths.simple_dir(page.name)}"
    return {
        "released": _seed_time(release.released),
        "prerelease": release.prerelease,
        "yanked": release.yanked,
        "skip_reason": release.skip_reason or page.skip_reason,
        "files": {wheel.filename: _file(wheel, base) for wheel in release.wheels},
        "yanked_reason": release.yanked_reason,
        "builds": {cell.target: _build(cell, site) for cell in release.cells},
        "on_pypi": list(release.on_pypi),
    }


def _file(wheel: Wheel, base: str) -> dict[str, Any]:
    return {
        "filesize": wheel.size,
        "filehash": wheel.sha256.hex(),
        "platform": wheel.platform_tag,
        "builder_abi": wheel.builder_abi,
        "file_abi_tag": wheel.abi_tag,
        "file_url": f"{base}/{quote(wheel.filename)}",
        "requires_python": wheel.requires_python,
        "apt_dependencies": list(wheel.apt),
        "pip_dependencies": list(wheel.pip),
        "unknown_dependencies": list(wheel.unknown),
        "yanked": wheel.yanked,
        "yanked_reason": wheel.yanked_reason,
        "uploaded": stamp(wheel.uploaded),
        "metadata_hash": wheel.metadata_sha256.hex(),
        "targets": list(wheel.targets),
        "build": wheel.build_id,
        "build_duration": round(wheel.build_duration.total_seconds(), 3),
    }


def _build(cell: Cell, site: SiteFacts) -> dict[str, Any]:
    if cell.build_id is None:
        return _untried(cell.status.value, cell.words)
    return {
        "status": cell.status.value,
        "reason": cell.words,
        "failure": cell.failure.value if cell.failure else None,
        "detail": cell.detail,
        "duration": None if cell.duration is None else round(cell.duration.total_seconds(), 3),
        "finished": None if cell.finished is None else stamp(cell.finished),
        "log_url": None if cell.log is None else f"{site.base_url}/{cell.log}",
        "log_page_url": None if cell.log_page is None else f"{site.base_url}/{cell.log_page}",
        "build": cell.build_id,
    }


@lru_cache(maxsize=10_000)
def _untried(status: str, words: str) -> dict[str, Any]:
    """A target for which nothing was built, as most are; not to be changed."""
    nothing = dict.fromkeys(("duration", "finished", "log_url", "log_page_url", "build"))
    return {"status": status, "reason": words, "failure": None, "detail": "", **nothing}


def _seed_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(" ", "seconds")[:19]
