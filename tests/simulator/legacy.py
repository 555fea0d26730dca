# SPDX-License-Identifier: BSD-3-Clause
"""The XML-RPC methods that PyPI once had, answered from the simulator's own data for clients of private indexes.

Source: seeds/pypi-xmlrpc-legacy.txt. Each takes the history, which is locked, the address of the site's root, and what
the caller gave.
"""

import xmlrpc.client
from collections.abc import Callable, Mapping
from typing import Any

from packaging.utils import canonicalize_name

from piwheels.versions import sort_key
from tests.simulator import documents
from tests.simulator.history import History
from tests.simulator.things import File, Project

#: What ``search`` may look at.
FIELDS = (
    *("name", "version", "author", "author_email", "maintainer", "maintainer_email", "home_page", "license"),
    *("summary", "description", "keywords", "platform", "download_url"),
)
_LISTS = ("requires", "provides", "provides_dist", "requires_external", "obsoletes", "obsoletes_dist", "project_url")
_TEXTS = tuple(field for field in FIELDS if field not in ("name", "version"))


def list_packages(history: History, root: str) -> list[str]:
    """All names."""
    return sorted(project.name for project in _projects(history))


def package_releases(history: History, root: str, name: str, show_hidden: bool = False) -> list[str]:
    """All versions, the newest first; the flag is ignored, as the seed says."""
    project = _find(history, name)
    return sorted(project.versions, key=sort_key, reverse=True) if project is not None else []


def package_roles(history: History, root: str, name: str) -> list[list[str]]:
    """``[role, user]``."""
    project = _find(history, name)
    return [list(role) for role in project.roles] if project is not None else []


def release_downloads(history: History, root: str, name: str, version: str) -> list[list[Any]]:
    """``[file name, downloads]``; nobody counts here."""
    return [[file.filename, 0] for file in _files(history, name, version)]


def release_urls(history: History, root: str, name: str, version: str) -> list[dict[str, Any]]:
    """What there is to download."""
    return [_url(file, root) for file in _files(history, name, version)]


def release_data(history: History, root: str, name: str, version: str) -> dict[str, Any]:
    """A release's metadata; empty for one that is not there."""
    project = _find(history, name)
    if project is None or version not in project.versions:
        return {}
    info = documents.info(project, version)
    told: dict[str, Any] = {field: info.get(field) or "" for field in _TEXTS}
    told |= {field: [] for field in _LISTS}
    told |= {"requires_dist": info["requires_dist"] or [], "requires_python": info["requires_python"] or ""}
    told |= {"classifiers": info["classifiers"], "docs_url": info["docs_url"] or ""}
    return told | {"name": project.name, "version": version, "stable_version": ""}


def search(history: History, root: str, spec: Mapping[str, Any], operator: str = "and") -> list[dict[str, str]]:
    """Releases whose fields contain the words, as capital or small letters. Raises ValueError for another operator."""
    if operator not in ("and", "or"):
        raise ValueError("operator must be 'and' or 'or'")
    wanted = {key: [value] if isinstance(value, str) else value for key, value in spec.items() if key in FIELDS}
    meets = all if operator == "and" else any
    found = []
    for project in _projects(history):
        for version in project.versions:
            info = documents.info(project, version)
            if meets(_contains(info.get(key), words) for key, words in wanted.items()):
                found.append({"name": project.name, "version": version, "summary": project.summary})
    return found


def top_packages(history: History, root: str, number: int | None = None) -> list[list[Any]]:
    """``[name, downloads]``; nobody counts here."""
    return [[name, 0] for name in list_packages(history, root)][:number]


def updated_releases(history: History, root: str, since: int) -> list[list[str | None]]:
    """``[name, version]`` of releases since a time (seconds since 1970), the newest first."""
    new = [event for event in reversed(history.events) if event.time > since and event.action == "new release"]
    return [[event.name, event.version] for event in new]


def changed_packages(history: History, root: str, since: int) -> list[str]:
    """The names of what changed since a time, the latest change first."""
    return list(dict.fromkeys(event.name for event in reversed(history.events) if event.time > since))


def changelog(history: History, root: str, since: int, with_ids: bool = False) -> list[list[Any]]:
    """The events since a time."""
    rows = [event.row() for event in history.events if event.time > since]
    return rows if with_ids else [row[:4] for row in rows]


METHODS: dict[str, Callable[..., Any]] = {
    method.__name__: method
    for method in (
        *(list_packages, package_releases, package_roles, release_downloads, release_urls, release_data),
        *(search, top_packages, updated_releases, changed_packages, changelog),
    )
}  #: by their name in XML-RPC; parameters are given by position


def _projects(history: History) -> list[Project]:
    return list(history.projects.values())


def _find(history: History, name: str) -> Project | None:
    return history.projects.get(str(canonicalize_name(name)))


def _files(history: History, name: str, version: str) -> list[File]:
    project = _find(history, name)
    return project.files_of(version) if project is not None else []


def _url(file: File, root: str) -> dict[str, Any]:
    return {
        "url": f"{root}files/{file.filename}",
        "packagetype": file.packagetype,
        "filename": file.filename,
        "size": len(file.data),
        "md5_digest": file.md5,
        "downloads": 0,
        "has_sig": False,
        "python_version": file.python_version,
        "comment_text": "",
        "upload_time": xmlrpc.client.DateTime(file.uploaded.timetuple()),
    }


def _contains(value: object, words: list[str]) -> bool:
    return isinstance(value, str) and any(word.lower() in value.lower() for word in words)
