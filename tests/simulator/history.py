# SPDX-License-Identifier: BSD-3-Clause
"""The history of the simulated PyPI: every way in which it changes, told to its journal in PyPI's own words.

Knows no HTTP, nor how the documents look (documents.py). Every event of a change takes the next serial, and the
project's serial is its last event's, as PyPI does.
"""

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from packaging.utils import canonicalize_name

from tests.simulator import documents, recipes
from tests.simulator.recipes import Recipe
from tests.simulator.things import File, JournalEntry, Project, all_yanked
from tests.simulator.truth import TruthProject, truth

__all__ = ["File", "History", "JournalEntry", "Project"]

FIRST_UPLOAD = datetime(2026, 1, 1, tzinfo=UTC)  #: then a minute later with each file, unless told otherwise
OWNER = "sim-owner"  #: whose projects these are
_STATUS_WORDS = {
    ("quarantined", "active"): "project quarantine cleared",
    ("archived", "active"): "project unarchived",
}


class History:
    """All of it; every method may be called from any thread."""

    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.gone: dict[str, Project] = {}  #: what removed projects were
        self.events: list[JournalEntry] = []
        self.serial = 1000
        self.lock = threading.RLock()
        self.last_change: tuple[str, int] = ("", 1000)  #: the canonical name it was of, the serial before it
        self._held: dict[str, File] = {}  # by file name
        self._clock = FIRST_UPLOAD
        self._gap = 0  # serials to leave out before the next event
        self._changing = 0  # changes under way, one within the other

    # Projects

    def add_project(
        self,
        name: str,
        *,
        summary: str = "A package of the simulator's",
        owner: str = OWNER,
        classifiers: Iterable[str] = (),
        info: dict[str, Any] | None = None,
    ) -> Project:
        """A project without releases; the one that is there, if it is."""
        with self._change(name) as found:
            if found is not None:
                return found
            project = Project(name, summary, self.serial, classifiers=tuple(classifiers), info=info or {})
            project.created = int(self._clock.timestamp())
            self.projects[project.canonical] = project
            self._record(project, None, "create")
            project.roles.append(("Owner", owner))
            self._record(project, None, f"add Owner {owner}")
            return project

    def remove_project(self, name: str) -> None:
        """404 from now on."""
        with self.changing(name) as project:
            for file in project.files.values():
                self._held.pop(file.filename, None)
            self._record(project, None, "remove project")
            del self.projects[project.canonical]

    def recreate(self, name: str, version: str = "1.0", recipe: Recipe | None = recipes.PURE) -> list[File]:
        """Deleted, and registered anew with one release, which has other bytes than any before it."""
        with self.lock:
            self.remove_project(name)
            salt = f"recreated at {self.serial}"
            other = replace(recipe, salt=salt) if recipe is not None else None
            return self.add_release(name, version, other, wheels=() if other else ("py3-none-any",))

    def rename(self, name: str, spelling: str) -> None:
        """Another spelling of the same name."""
        with self.changing(name) as project:
            old, project.name = project.name, spelling
            self._record(project, None, f"rename from {old}")

    def change_owner(self, name: str, who: str, *, role: str = "Owner", remove: bool = False) -> None:
        """``add Owner x``, ``remove Owner x``; the same for a Maintainer. A change of people, not of files."""
        with self.changing(name) as project:
            project.roles = [one for one in project.roles if one != (role, who)] + ([] if remove else [(role, who)])
            self._record(project, None, f"{'remove' if remove else 'add'} {role} {who}")

    def docupdate(self, name: str) -> None:
        """Documentation was uploaded, as one could once."""
        with self.changing(name) as project:
            project.docs_url = f"https://docs.invalid/{project.canonical}/"
            self._record(project, None, "docupdate")

    def unknown_event(self, name: str, action: str = "polish the brass", version: str | None = None) -> None:
        """An action that nobody has heard of; nothing but the serial changes."""
        with self.changing(name) as project:
            self._record(project, version, action)

    def set_status(self, name: str, status: str) -> None:
        """PEP 792."""
        with self.changing(name) as project:
            old, project.status = project.status, status
            self._record(project, None, _STATUS_WORDS.get((old, status), f"project {status}"))

    def quarantine(self, name: str) -> None:
        """The whole project: out of the listing, its index page empty, its JSON gone (or kept: Simulator's option)."""
        self.set_status(name, "quarantined")

    def clear_quarantine(self, name: str) -> None:
        """It is back as it was."""
        self.set_status(name, "active")

    def quarantine_release(self, name: str, version: str, *, clear: bool = False) -> None:
        """The JSON still lists the release's files, the index page does not, and the page is right."""
        with self.changing(name) as project:
            (project.hidden.discard if clear else project.hidden.add)(version)
            self._record(project, version, f"release {'quarantine cleared' if clear else 'quarantined'}")

    def clear_release_quarantine(self, name: str, version: str) -> None:
        """The release is back."""
        self.quarantine_release(name, version, clear=True)

    def answer_with(self, name: str, document: object) -> None:
        """Answer with this instead of the project's JSON; None: with the right one again."""
        self.add_project(name)
        with self.changing(name) as project:
            project.document = document
            self._record(project, None, "update description")

    # Releases and files

    def add_release(
        self,
        name: str,
        version: str = "1.0",
        recipe: Recipe | None = recipes.PURE,
        *,
        wheels: Iterable[str] = (),
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
            added[0].requires_dist = recipe.requires_dist
        for tag in wheels:
            filename, data = recipes.wheel(name, version, tag, requires_python=requires_python)
            added.append(self._new_file(filename, version, data, "bdist_wheel", requires_python, uploaded))
        with self._change(name):
            self._register(self.add_project(name), version)
            self.add_files(name, *added)
        return added

    def add_files(self, name: str, *files: File) -> None:
        """Files of any kind; those of a yanked release are yanked."""
        with self._change(name):
            project = self.add_project(name)
            for file in files:
                self._register(project, file.version)
                others = project.files_of(file.version)
                if others and all_yanked(others):
                    file.yanked, file.yanked_reason = True, others[0].yanked_reason
                project.files[file.filename] = self._held[file.filename] = file
                self._record(project, file.version, f"add {file.python_version} file {file.filename}")

    def remove_file(self, name: str, filename: str) -> None:
        """One file; its release stays, be it empty."""
        with self.changing(name) as project:
            file = project.files.pop(filename)
            self._held.pop(filename, None)
            self._record(project, file.version, f"remove file {filename}")

    def remove_release(self, name: str, version: str) -> None:
        """All its files."""
        with self.changing(name) as project:
            for file in project.files_of(version):
                del project.files[file.filename]
                self._held.pop(file.filename, None)
            project.versions = [one for one in project.versions if one != version]
            project.hidden.discard(version)
            self._record(project, version, "remove release")

    def yank(self, name: str, version: str, reason: str | None = None, *, yanked: bool = True) -> None:
        """PEP 592, or its reverse."""
        with self.changing(name) as project:
            for file in project.files_of(version):
                new = replace(file, yanked=yanked, yanked_reason=reason)
                project.files[file.filename] = self._held[file.filename] = new
            self._record(project, version, f"{'yank' if yanked else 'unyank'} release")

    def skip(self, serials: int) -> None:
        """Leave serials unused, as a database's sequence does when a transaction fails."""
        with self.lock:
            self._gap += serials

    # The journal

    def _record(self, project: Project, version: str | None, action: str) -> None:
        self.serial += 1 + self._gap
        self._gap = 0
        self._clock += timedelta(seconds=1)
        time = int(self._clock.timestamp())
        self.events.append(JournalEntry(project.name, version, time, action, self.serial))
        project.serial = self.serial

    def events_since(self, serial: int, *, limit: int = 50_000) -> list[JournalEntry]:
        """The oldest ``limit`` of the events after this serial."""
        with self.lock:
            start = bisect_right(self.events, serial, key=lambda event: event.serial)
            return self.events[start : start + limit]

    @contextmanager
    def _change(self, name: str) -> Iterator[Project | None]:
        """Remember how things are, unless this is a part of a change under way."""
        with self.lock:
            found, key, serial = self.find(name), str(canonicalize_name(name)), self.serial
            outermost = not self._changing
            before = found.snapshot() if found is not None and outermost else None
            self._changing += 1
            try:
                yield found
            finally:
                self._changing -= 1
                if outermost and self.serial != serial:
                    self.last_change = (key, serial)
                    self._remember(key, before)

    def _remember(self, key: str, before: Project | None) -> None:
        now = self.projects.get(key)
        if now is not None:
            now.before = before
        if before is not None:
            self.gone[key] = before

    @contextmanager
    def changing(self, name: str) -> Iterator[Project]:
        """A change to a project that is there."""
        with self._change(name) as found:
            if found is None:
                raise KeyError(name)
            yield found

    def _register(self, project: Project, version: str) -> None:
        if version not in project.versions:
            project.versions.append(version)
            self._record(project, version, "new release")

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

    # What it looks like

    def find(self, name: str) -> Project | None:
        """By any spelling."""
        with self.lock:
            return self.projects.get(str(canonicalize_name(name)))

    def find_file(self, filename: str) -> File | None:
        """Of any project."""
        with self.lock:
            return self._held.get(filename)

    def json(self, project: Project, *, files_url: str, urls: str = "absolute") -> Any:
        """The JSON API's document. ``urls``: absolute, relative or absent."""
        with self.lock:
            return documents.project_json(project, files_url=files_url, urls=urls)

    def truth(self) -> dict[str, TruthProject]:
        """What a follower of this history should end up with, by canonical name."""
        with self.lock:
            return truth(self.projects.values())
