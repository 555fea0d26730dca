# SPDX-License-Identifier: BSD-3-Clause
"""Making our rows of a project equal to what PyPI says of it now, and planning what that changed.

One transaction a project. Applying the same answer twice writes nothing; applying answers in any order ends at the one
with the highest serial. What PyPI does not say (an operator's skip, our builds) is left alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db.pages import mark_stale
from piwheels.db.planning import replan
from piwheels.db.tables import builds, project_names, projects, releases, upstream_files
from piwheels.master.planner import Policy
from piwheels.pypi.model import UpstreamFile, UpstreamProject, UpstreamRelease, best_sdist, latest
from piwheels.versions import sort_key
from piwheels.vocabulary import PageKind, UpstreamKind

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sync:
    """What applying an answer came to."""

    project_id: int
    changed: bool  #: something was written
    older: bool = False  #: the answer is older than our rows and was not applied
    serial: int = 0  #: what our rows reflect now


@dataclass(slots=True)
class _Changes:
    """What became of a project's releases."""

    touched: set[int] = field(default_factory=set)  #: ids of those that are new or differ
    removed: int = 0

    def __bool__(self) -> bool:
        return bool(self.touched or self.removed)


def sync_project(conn: Connection, project: UpstreamProject, *, every: bool, policy: Policy) -> Sync:
    """Make our rows equal to the project as PyPI has it. ``every``: build all releases, not only the latest."""
    row = _lock(conn, project.name) or _add(conn, project)
    if project.serial and row.serial > project.serial:
        return Sync(row.id, changed=False, older=True, serial=row.serial)
    renamed = _update_project(conn, row, project)
    changes = _sync_releases(conn, row.id, project, project.wanted(every=every))
    changed = bool(changes) or renamed or row.serial == _NEW
    if changed:
        status_changed = project.status is not None and project.status != row.status
        _replan(conn, row.id, changes, everything=status_changed, policy=policy)
        mark_stale(conn, PageKind.PROJECT, project.name, "PyPI's data changed")
        conn.execute(update(projects).where(projects.c.id == row.id).values(synced_at=func.now()))
    return Sync(row.id, changed=changed, serial=project.serial or row.serial)


def rewant(conn: Connection, name: str, *, every: bool, policy: Policy) -> bool:
    """Mark the releases to build anew, from our rows alone: the operator chose between latest and all. Whether the
    project is known."""
    row = _lock(conn, name)
    if row is None:
        return False
    found = conn.execute(select(releases).where(releases.c.project_id == row.id)).all()
    wanted = {latest((r.version, r.yanked) for r in found)} if found else set()
    changes = _Changes({r.id for r in found if r.wanted != (every or r.version in wanted)})
    if changes:
        flag = True if every else releases.c.version.in_(wanted)
        conn.execute(update(releases).where(releases.c.id.in_(changes.touched)).values(wanted=flag))
        _replan(conn, row.id, changes, everything=False, policy=policy)
        mark_stale(conn, PageKind.PROJECT, name, "other releases are to be built")
    return True


def known_links(conn: Connection, name: str) -> dict[str, tuple[str, str]]:
    """Where the project's sdists are, as far as we know: file name → (URL, SHA-256 in hex)."""
    query = (
        select(upstream_files.c.filename, upstream_files.c.url, upstream_files.c.sha256)
        .join(releases, releases.c.id == upstream_files.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .where(projects.c.name == name, upstream_files.c.url.is_not(None), upstream_files.c.sha256.is_not(None))
    )
    return {row.filename: (row.url, row.sha256.hex()) for row in conn.execute(query)}


# The project


_NEW = -1  #: serial of a row that was inserted in this transaction; below any of PyPI's


def _lock(conn: Connection, name: str) -> Row[Any] | None:
    return conn.execute(select(projects).where(projects.c.name == name).with_for_update(key_share=True)).one_or_none()


def _add(conn: Connection, project: UpstreamProject) -> Row[Any]:
    row = insert(projects).values(name=project.name, display_name=project.display_name, serial=_NEW)
    conn.execute(row.on_conflict_do_nothing())
    added = _lock(conn, project.name)
    if added is None:  # deleted between the two statements; whoever called tries again later
        raise RuntimeError(f"project {project.name} vanished while it was added")
    return added


def _update_project(conn: Connection, row: Row[Any], project: UpstreamProject) -> bool:
    """Whether anything about the project itself changed, and was written."""
    wanted: dict[str, Any] = {"display_name": project.display_name, "summary": project.summary}
    if project.serial or row.serial == _NEW:
        wanted["serial"] = project.serial
    if project.status is not None:
        wanted |= {"status": project.status, "status_reason": project.status_reason}
    changed = {key: value for key, value in wanted.items() if getattr(row, key) != value}
    if not changed:
        return False
    conn.execute(update(projects).where(projects.c.id == row.id).values(changed))
    if "display_name" in changed or row.serial == _NEW:
        name = insert(project_names).values(project_id=row.id, name=project.display_name)
        conn.execute(name.on_conflict_do_nothing())
    return True


# Its releases


def _sync_releases(conn: Connection, project_id: int, project: UpstreamProject, wanted: Collection[str]) -> _Changes:
    stored = {r.version: r for r in conn.execute(select(releases).where(releases.c.project_id == project_id))}
    changes = _Changes()
    gone = [row.id for version, row in stored.items() if version not in {r.version for r in project.releases}]
    if gone:
        conn.execute(delete(releases).where(releases.c.id.in_(gone)))
        changes.removed = len(gone)
    files = _stored_files(conn, [row.id for row in stored.values()])
    new = [release for release in project.releases if release.version not in stored]
    for release in project.releases:
        if (row := stored.get(release.version)) is not None:
            _sync_release(conn, row, files.get(row.id, {}), release, wanted=release.version in wanted, changes=changes)
    if new:
        _add_releases(conn, project_id, new, wanted, changes)
    return changes


def _stored_files(conn: Connection, ids: Sequence[int]) -> dict[int, dict[str, Row[Any]]]:
    found: dict[int, dict[str, Row[Any]]] = {}
    for row in conn.execute(select(upstream_files).where(upstream_files.c.release_id.in_(ids))):
        found.setdefault(row.release_id, {})[row.filename] = row
    return found


def _release_values(release: UpstreamRelease, *, wanted: bool) -> dict[str, Any]:
    return {
        "sort_key": sort_key(release.version),
        "released": release.released,
        "yanked": release.yanked,
        "yanked_reason": release.yanked_reason,
        "requires_python": release.requires_python,
        "wanted": wanted,
    }


def _add_releases(
    conn: Connection, project_id: int, new: Sequence[UpstreamRelease], wanted: Collection[str], changes: _Changes
) -> None:
    rows = [
        {"project_id": project_id, "version": r.version, **_release_values(r, wanted=r.version in wanted)} for r in new
    ]
    added = conn.execute(insert(releases).returning(releases.c.id, releases.c.version), rows)
    ids = {row.version: row.id for row in added}
    conn.execute(
        insert(upstream_files),
        [{"release_id": ids[r.version], "filename": f.filename, **_file_values(f)} for r in new for f in r.files],
    )
    changes.touched |= set(ids.values())


def _sync_release(
    conn: Connection,
    row: Row[Any],
    stored: Mapping[str, Row[Any]],
    release: UpstreamRelease,
    *,
    wanted: bool,
    changes: _Changes,
) -> None:
    values = _release_values(release, wanted=wanted)
    differing = {key: value for key, value in values.items() if getattr(row, key) != value}
    if differing:
        conn.execute(update(releases).where(releases.c.id == row.id).values(differing))
    if _sync_files(conn, row.id, stored, release.files):
        _supersede(conn, row.id, release)
        differing["files"] = True
    if differing:
        changes.touched.add(row.id)


# Their files


def _file_values(file: UpstreamFile) -> dict[str, Any]:
    """Of wheels only what the planner needs is kept: where they are matters to those who install them."""
    sdist = file.kind is UpstreamKind.SDIST
    return {
        "kind": file.kind,
        "size": file.size,
        "sha256": file.sha256 if sdist else None,
        "url": file.url if sdist else None,
        "requires_python": file.requires_python,
        "yanked": file.yanked,
        "uploaded": file.uploaded,
    }


def _sync_files(
    conn: Connection, release_id: int, stored: Mapping[str, Row[Any]], files: Sequence[UpstreamFile]
) -> bool:
    """Whether anything differed."""
    names = {file.filename for file in files}
    gone = [row.id for name, row in stored.items() if name not in names]
    if gone:
        conn.execute(delete(upstream_files).where(upstream_files.c.id.in_(gone)))
    new = [file for file in files if file.filename not in stored]
    if new:
        rows = [{"release_id": release_id, "filename": file.filename, **_file_values(file)} for file in new]
        conn.execute(insert(upstream_files), rows)
    differing = 0
    for file in files:
        if (row := stored.get(file.filename)) is not None and (values := _differences(row, file)):
            conn.execute(update(upstream_files).where(upstream_files.c.id == row.id).values(values))
            differing += 1
    return bool(gone or new or differing)


def _differences(row: Row[Any], file: UpstreamFile) -> dict[str, Any]:
    return {key: value for key, value in _file_values(file).items() if getattr(row, key) != value}


def _supersede(conn: Connection, release_id: int, release: UpstreamRelease) -> None:
    """A new sdist resets the attempts made with another one; wheels that came of them stay."""
    best = best_sdist(release.files, version=release.version)
    if best is None:
        return
    other = builds.c.built_from.is_not(None) & (builds.c.built_from != best.sha256)
    attempts = (builds.c.release_id == release_id, ~builds.c.superseded, other)
    conn.execute(update(builds).where(*attempts).values(superseded=True))


def _replan(conn: Connection, project_id: int, changes: _Changes, *, everything: bool, policy: Policy) -> None:
    """Plan what changed, and the release after each of them: it takes a hint from the one before it."""
    ordered = conn.execute(
        select(releases.c.id).where(releases.c.project_id == project_id).order_by(releases.c.sort_key, releases.c.id)
    ).scalars()
    ids = list(ordered)
    concerned = set(ids) if everything else changes.touched & set(ids)
    concerned |= {after for before, after in pairwise(ids) if before in changes.touched}
    if concerned:
        replan(conn, sorted(concerned), policy=policy)
