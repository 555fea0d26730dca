# SPDX-License-Identifier: BSD-3-Clause
"""What a follower of the simulated PyPI should have in the end: the judge of tests, which knows nothing of serving."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.simulator.things import Project, all_yanked


@dataclass(frozen=True, slots=True)
class TruthRelease:
    """A release that has at least one file."""

    yanked: bool
    yanked_reason: str  #: empty: none, or not yanked
    files: tuple[str, ...]  #: names, sorted
    sdists: dict[str, str]  #: file name → SHA-256 in hex, as PyPI gives it


@dataclass(frozen=True, slots=True)
class TruthProject:
    """A project that has not been removed.

    Files that a release's quarantine hides are not there, nor are releases that have no (other) file. A project in
    quarantine has status ``quarantined``, and here the releases it had; PyPI shows none of them, so a follower that
    did not see them before cannot have them: compare such a project's releases as an upper bound.
    A document given by ``answer_with`` is not considered.
    """

    display_name: str
    serial: int
    status: str
    releases: dict[str, TruthRelease]


def truth(projects: Iterable[Project]) -> dict[str, TruthProject]:
    """All of it, by canonical name."""
    return {project.canonical: _project(project) for project in projects}


def _project(project: Project) -> TruthProject:
    releases = {version: release for version in project.versions if (release := _release(project, version))}
    return TruthProject(project.name, project.serial, project.status, releases)


def _release(project: Project, version: str) -> TruthRelease | None:
    files = [] if version in project.hidden else project.files_of(version)
    if not files:
        return None
    yanked = all_yanked(files)
    reason = next((file.yanked_reason for file in files if file.yanked_reason), "") if yanked else ""
    sdists = {file.filename: file.sha256 for file in files if file.packagetype == "sdist"}
    return TruthRelease(yanked, reason or "", tuple(sorted(file.filename for file in files)), sdists)
