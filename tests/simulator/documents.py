# SPDX-License-Identifier: BSD-3-Clause
"""What the simulated PyPI says of a project: JSON, index page (PEP 503, 691, 658, 714, 792), feeds. Pure; no HTTP."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from html import escape
from typing import Any

from tests.simulator.things import File, JournalEntry, Project, all_yanked

API_VERSION = "1.4"
NEWEST = 40  #: entries of a feed


# The JSON API


def project_json(project: Project, *, files_url: str, urls: str = "absolute") -> Any:
    """``/pypi/<name>/json``. ``urls``: absolute, relative or absent, as mirrors differ in that."""
    if project.document is not None:
        return project.document
    releases: dict[str, list[Any]] = {version: [] for version in project.versions}
    for file in project.files.values():
        releases[file.version].append(_json_file(file, files_url, urls))
    latest = project.latest()
    return {
        "info": info(project, latest),
        "last_serial": project.serial,
        "ownership": {"roles": [{"role": role, "user": user} for role, user in project.roles], "organization": None},
        "releases": releases,
        "urls": releases[latest] if latest is not None else [],
        "vulnerabilities": [],
    }


def release_json(project: Project, version: str, *, files_url: str, urls: str = "absolute") -> Any:
    """``/pypi/<name>/<version>/json``; None for a release that is not there."""
    document = project_json(project, files_url=files_url, urls=urls)
    found = document.get("releases", {}).get(version) if isinstance(document, dict) else None
    if found is None:
        return None
    told = {key: value for key, value in document.items() if key != "releases"}
    return told | {"info": info(project, version), "urls": found}


def info(project: Project, version: str | None) -> dict[str, Any]:
    """The metadata of a release."""
    files = project.files_of(version) if version is not None else []
    yanked = bool(files) and all_yanked(files)
    return {
        "author": "The simulator",
        "author_email": "simulator@example.org",
        "classifiers": list(project.classifiers),
        "description": f"# {project.name}\n\n{project.summary}\n",
        "description_content_type": "text/markdown",
        "docs_url": project.docs_url,
        "download_url": "",
        "downloads": {"last_day": -1, "last_month": -1, "last_week": -1},
        "home_page": "",
        "keywords": "",
        "license": "",
        "maintainer": "",
        "maintainer_email": "",
        "name": project.name,
        "platform": "",
        "project_urls": None,
        "requires_dist": [one for file in files for one in file.requires_dist] or None,
        "requires_python": next((file.requires_python for file in files if file.requires_python), None),
        "summary": project.summary,
        "version": version or "",
        "yanked": yanked,
        "yanked_reason": files[0].yanked_reason if yanked else None,
        **project.info,
    }


def _json_file(file: File, files_url: str, urls: str) -> dict[str, Any]:
    entry = {
        "comment_text": "",
        "digests": {"sha256": file.sha256, "md5": file.md5},
        "downloads": -1,
        "filename": file.filename,
        "has_sig": False,
        "md5_digest": file.md5,
        "packagetype": file.packagetype,
        "python_version": file.python_version,
        "requires_python": file.requires_python,
        "size": len(file.data),
        "upload_time": file.uploaded.strftime("%Y-%m-%dT%H:%M:%S"),
        "upload_time_iso_8601": time_text(file.uploaded),
        "yanked": file.yanked,
        "yanked_reason": file.yanked_reason,
    }
    if urls != "absent":
        entry["url"] = (files_url if urls == "absolute" else "../../files/") + file.filename
    return entry


# The index


def listing_json(rows: Iterable[tuple[Any, int]], *, serial: int) -> Any:
    """``/simple/`` (PEP 691): names and their serials."""
    meta = {"api-version": API_VERSION, "_last-serial": serial}
    return {"meta": meta, "projects": [{"name": name, "_last-serial": its} for name, its in rows]}


def listing_html(rows: Iterable[tuple[Any, str]]) -> str:
    """``/simple/`` (PEP 503): names and the canonical ones."""
    links = "\n".join(f'<a href="/simple/{canonical}/">{escape(str(name))}</a><br>' for name, canonical in rows)
    return f"<!DOCTYPE html><html><head><title>Simple index</title></head><body>\n{links}\n</body></html>"


def detail(project: Project, *, files_url: str) -> Any:
    """PEP 691's project detail."""
    files = project.on_page()
    return {
        "meta": {"api-version": API_VERSION, "_last-serial": project.serial},
        "name": project.canonical,
        "versions": sorted({file.version for file in files}),
        "alternate-locations": [],
        "project-status": {"status": project.status},
        "files": [_detail_file(file, files_url) for file in files],
    }


def _detail_file(file: File, files_url: str) -> dict[str, Any]:
    metadata = {"sha256": file.metadata_sha256} if file.metadata_sha256 else False
    return {
        "filename": file.filename,
        "url": files_url + file.filename,
        "hashes": {"sha256": file.sha256},
        "requires-python": file.requires_python,
        "size": len(file.data),
        "upload-time": time_text(file.uploaded),
        "yanked": (file.yanked_reason or True) if file.yanked else False,
        "core-metadata": metadata,
        "data-dist-info-metadata": metadata,  # PEP 714: the older name, for older clients
    }


def page(project: Project, *, files_url: str) -> str:
    """PEP 503's page."""
    metas = {"repository-version": API_VERSION, "project-status": project.status}
    head = "".join(f'<meta name="pypi:{key}" content="{escape(value)}">' for key, value in metas.items())
    links = "".join(_link(file, files_url) for file in project.on_page())
    end = f"<!--SERIAL {project.serial}-->"  # as PyPI's own pages end
    return f"<!DOCTYPE html>\n<html><head>{head}<title>Links</title></head><body>\n{links}</body></html>\n{end}"


def _link(file: File, files_url: str) -> str:
    name = escape(file.filename)
    return f'<a href="{escape(files_url)}{name}#sha256={file.sha256}"{_attributes(file)}>{name}</a><br>\n'


def _attributes(file: File) -> str:
    attributes = {
        "data-requires-python": file.requires_python,
        "data-dist-info-metadata": f"sha256={file.metadata_sha256}" if file.metadata_sha256 else None,
        "data-core-metadata": f"sha256={file.metadata_sha256}" if file.metadata_sha256 else None,
        "data-yanked": (file.yanked_reason or "") if file.yanked else None,
    }
    return "".join(f' {key}="{escape(value)}"' for key, value in attributes.items() if value is not None)


# Feeds


def updates_rss(projects: Iterable[Project], events: Sequence[JournalEntry], *, root: str) -> str:
    """``/rss/updates.xml``: the newest releases."""
    known = {(project.name, version): project for project in projects for version in project.versions}
    items = []
    for event in reversed(events):
        project = known.pop((event.name, event.version or ""), None) if event.action == "new release" else None
        if project is not None:
            address = f"{root}project/{project.canonical}/{event.version}/"
            items.append(_item(f"{event.name} {event.version}", address, project.summary, event.time))
        if len(items) == NEWEST:
            break
    return _rss("Recent updates", items, root)


def packages_rss(projects: Iterable[Project], *, root: str) -> str:
    """``/rss/packages.xml``: the newest projects."""
    newest = sorted(projects, key=lambda project: project.created, reverse=True)[:NEWEST]
    items = [
        _item(f"{one.name} added", f"{root}project/{one.canonical}/", one.summary, one.created, guid=True)
        for one in newest
    ]
    return _rss("Newest packages", items, root)


def _rss(title: str, items: list[str], root: str) -> str:
    inside = "".join(items)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0"><channel>'
        f"<title>{title}</title><link>{escape(root)}</link><description>{title} of the simulator</description>"
        f"<language>en</language>{inside}</channel></rss>\n"
    )


def _item(title: str, address: str, summary: str, time: int, *, guid: bool = False) -> str:
    named = f"<guid>{escape(address)}</guid>" if guid else ""
    date = format_datetime(datetime.fromtimestamp(time, UTC), usegmt=True)
    return (
        f"<item><title>{escape(title)}</title><link>{escape(address)}</link>{named}"
        f"<description>{escape(summary)}</description><pubDate>{date}</pubDate></item>"
    )


def project_html(project: Project) -> str:
    """``/project/<name>/``, which people see."""
    title = escape(f"{project.name} {project.latest() or ''}".strip())
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"


def time_text(moment: datetime) -> str:
    """As PEP 700 and the JSON give times."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
