# SPDX-License-Identifier: BSD-3-Clause
"""What the simulated PyPI holds: projects, releases, files, serials; and the documents that follow from them.

Knows no HTTP. Every change gives the project the next serial, as PyPI does.
"""

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any

from packaging.utils import canonicalize_name

from tests.simulator import recipes
from tests.simulator.recipes import Recipe

FIRST_UPLOAD = datetime(2026, 1, 1, tzinfo=UTC)  #: then a minute later with each file, unless told otherwise


@dataclass(slots=True)
class File:
    """A file of a release."""

    filename: str
    version: str
    data: bytes
    packagetype: str
    uploaded: datetime
    requires_python: str | None = None
    yanked: bool = False
    yanked_reason: str | None = None
    sha256: str = ""  #: what is said of it; not always the truth

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or hashlib.sha256(self.data).hexdigest()


@dataclass(slots=True)
class Project:
    """A project."""

    name: str  #: as displayed
    summary: str
    serial: int
    files: dict[str, File] = field(default_factory=dict)
    status: str = "active"
    document: object | None = None  #: answered instead of the JSON that follows from the rest

    @property
    def canonical(self) -> str:
        return str(canonicalize_name(self.name))


class History:
    """All of it; every method may be called from any thread."""

    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.serial = 1000
        self.lock = threading.RLock()
        self._clock = FIRST_UPLOAD

    # Changes

    def add_project(self, name: str, *, summary: str = "A package of the simulator's") -> Project:
        """A project without releases; the one that is there, if it is."""
        with self.lock:
            found = self.projects.get(str(canonicalize_name(name)))
            if found is None:
                found = Project(name, summary, self._next())
                self.projects[found.canonical] = found
            return found

    def add_release(
        self,
        name: str,
        version: str = "1.0",
        recipe: Recipe | None = recipes.PURE,
        *,
        wheels: tuple[str, ...] = (),
        requires_python: str | None = None,
        uploaded: datetime | None = None,
        wrong_hash: bool = False,
    ) -> list[File]:
        """A release with an sdist that is built by ``recipe`` (None: without one) and wheels with these tags."""
        added = []
        if recipe is not None:
            filename, data = recipes.sdist(name, version, recipe, requires_python=requires_python)
            lie = hashlib.sha256(b"something else").hexdigest() if wrong_hash else ""
            added.append(self._new_file(filename, version, data, "sdist", requires_python, uploaded, lie))
        for tag in wheels:
            filename, data = recipes.wheel(name, version, tag, requires_python=requires_python)
            added.append(self._new_file(filename, version, data, "bdist_wheel", requires_python, uploaded))
        self.add_files(name, *added)
        return added

    def add_files(self, name: str, *files: File) -> None:
        """Files of any kind."""
        with self.lock:
            project = self.add_project(name)
            project.files.update({file.filename: file for file in files})
            project.serial = self._next()

    def remove_file(self, name: str, filename: str) -> None:
        """What ``remove file`` in PyPI's journal stands for."""
        with self.changing(name) as project:
            del project.files[filename]

    def remove_release(self, name: str, version: str) -> None:
        """All its files."""
        with self.changing(name) as project:
            project.files = {n: file for n, file in project.files.items() if file.version != version}

    def remove_project(self, name: str) -> None:
        """404 from now on."""
        with self.lock:
            del self.projects[str(canonicalize_name(name))]
            self._next()

    def yank(self, name: str, version: str, reason: str | None = None, *, yanked: bool = True) -> None:
        """PEP 592, or its reverse."""
        with self.changing(name) as project:
            for file in project.files.values():
                if file.version == version:
                    file.yanked, file.yanked_reason = yanked, reason

    def rename(self, name: str, spelling: str) -> None:
        """Another spelling of the same name."""
        with self.changing(name) as project:
            project.name = spelling

    def set_status(self, name: str, status: str) -> None:
        """PEP 792."""
        with self.changing(name) as project:
            project.status = status

    def answer_with(self, name: str, document: object) -> None:
        """Answer with this instead of the project's JSON; None: with the right one again."""
        with self.lock:
            project = self.add_project(name)
            project.document = document
            project.serial = self._next()

    def changing(self, name: str) -> "_Changing":
        return _Changing(self, name)

    def next_serial(self) -> int:
        return self._next()

    def _next(self) -> int:
        with self.lock:
            self.serial += 1
            return self.serial

    def _new_file(
        self,
        filename: str,
        version: str,
        data: bytes,
        kind: str,
        requires_python: str | None,
        uploaded: datetime | None,
        sha256: str = "",
    ) -> File:
        with self.lock:
            self._clock += timedelta(minutes=1)
            return File(filename, version, data, kind, uploaded or self._clock, requires_python, sha256=sha256)

    # Documents

    def find(self, name: str) -> Project | None:
        """By any spelling."""
        with self.lock:
            return self.projects.get(str(canonicalize_name(name)))

    def json(self, project: Project, *, files_url: str, urls: str = "absolute") -> Any:
        """The JSON API's document. ``urls``: absolute, relative or absent."""
        with self.lock:
            if project.document is not None:
                return project.document
            releases: dict[str, list[Any]] = {}
            for file in project.files.values():
                releases.setdefault(file.version, []).append(_json_file(file, files_url, urls))
            return {
                "info": {"name": project.name, "summary": project.summary, "yanked": False},
                "last_serial": project.serial,
                "releases": releases,
                "urls": [],
                "vulnerabilities": [],
            }

    def detail(self, project: Project, *, files_url: str) -> Any:
        """PEP 691's project detail."""
        with self.lock:
            files = [
                {
                    "filename": file.filename,
                    "url": files_url + file.filename,
                    "hashes": {"sha256": file.sha256},
                    "size": len(file.data),
                    "upload-time": _time(file.uploaded),
                    "yanked": (file.yanked_reason or True) if file.yanked else False,
                    **({"requires-python": file.requires_python} if file.requires_python else {}),
                }
                for file in project.files.values()
            ]
            return {
                "meta": {"api-version": "1.4", "_last-serial": project.serial},
                "name": project.canonical,
                "versions": sorted({file.version for file in project.files.values()}),
                "project-status": {"status": project.status},
                "files": [] if project.status == "quarantined" else files,
            }

    def page(self, project: Project, *, files_url: str) -> str:
        """PEP 503's page."""
        with self.lock:
            files = [] if project.status == "quarantined" else list(project.files.values())
            metas = {"repository-version": "1.4", "project-status": project.status}
            head = "".join(f'<meta name="pypi:{key}" content="{escape(value)}">' for key, value in metas.items())
            links = "".join(_link(file, files_url) for file in files)
            return f"<!DOCTYPE html>\n<html><head>{head}<title>Links</title></head><body>\n{links}</body></html>\n"


class _Changing:
    """A change to a project, which gets a new serial by it."""

    def __init__(self, history: History, name: str) -> None:
        self.history, self.name = history, name

    def __enter__(self) -> Project:
        self.history.lock.acquire()
        return self.history.projects[str(canonicalize_name(self.name))]

    def __exit__(self, *error: object) -> None:
        found = self.history.find(self.name)
        if found is not None:
            found.serial = self.history.next_serial()
        self.history.lock.release()


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _link(file: File, files_url: str) -> str:
    name = escape(file.filename)
    return f'<a href="{escape(files_url)}{name}#sha256={file.sha256}"{_attributes(file)}>{name}</a><br>\n'


def _attributes(file: File) -> str:
    python = f' data-requires-python="{escape(file.requires_python)}"' if file.requires_python else ""
    return python + (f' data-yanked="{escape(file.yanked_reason or "")}"' if file.yanked else "")


def _json_file(file: File, files_url: str, urls: str) -> dict[str, Any]:
    entry = {
        "filename": file.filename,
        "packagetype": file.packagetype,
        "python_version": "source" if file.packagetype == "sdist" else "py3",
        "digests": {"sha256": file.sha256, "md5": hashlib.md5(file.data, usedforsecurity=False).hexdigest()},
        "size": len(file.data),
        "requires_python": file.requires_python,
        "upload_time": file.uploaded.strftime("%Y-%m-%dT%H:%M:%S"),
        "upload_time_iso_8601": _time(file.uploaded),
        "yanked": file.yanked,
        "yanked_reason": file.yanked_reason,
    }
    if urls != "absent":
        entry["url"] = (files_url if urls == "absolute" else "../../files/") + file.filename
    return entry
