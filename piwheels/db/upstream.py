# SPDX-License-Identifier: BSD-3-Clause
"""Making our rows of projects equal to what PyPI says of them now, and planning what that changed.

A project is there whole or not at all; several may share a transaction, since a commit costs more than most projects.
Applying the same answer twice writes nothing; applying answers in any order ends at the one with the highest serial.
What PyPI does not say (an operator's skip, our builds) is left alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import news
from piwheels.db.arrays import among, insert_rows, rows_of, update_rows
from piwheels.db.pages import mark_all_stale, mark_stale
from piwheels.db.planning import plan_new, replan
from piwheels.db.tables import builds, feeds, project_names, projects, releases, upstream_files
from piwheels.db.upstream_rows import (
    Added,
    NewRelease,
    add_files,
    add_projects,
    add_releases,
    file_values,
    planned,
    release_values,
)
from piwheels.master.planner import Policy
from piwheels.pypi.model import UpstreamFile, UpstreamProject, UpstreamRelease, best_sdist, latest
from piwheels.vocabulary import NewsKind, PageKind, ProjectStatus

_REWANT = "releases"  #: the row of ``feeds`` that says for which choice of releases all projects were marked


@dataclass(frozen=True, slots=True)
class Sync:
    """What applying an answer came to."""

    project_id: int
    changed: bool  #: something was written
    older: bool = False  #: the answer is older than our rows and was not applied
    serial: int = 0  #: what our rows reflect now
    added: bool = False  #: the project is new to us


@dataclass(slots=True)
class _Work:
    """A project under way."""

    row: Row[Any]
    project: UpstreamProject
    wanted: Collection[str]  #: versions
    is_new: bool  #: added in this transaction, with no releases yet
    stored: dict[str, Row[Any]] = field(default_factory=dict)  #: its releases, by version
    touched: set[int] = field(default_factory=set)  #: ids of those that differ
    added: list[Added] = field(default_factory=list)
    gone: list[Row[Any]] = field(default_factory=list)  #: releases that PyPI has no more
    changed: bool = False
    stamped: bool = False  #: the row says when that was


def sync_project(conn: Connection, project: UpstreamProject, *, every: bool, policy: Policy) -> Sync:
    """As :func:`sync_projects`, for one."""
    return sync_projects(conn, [project], every=every, policy=policy)[project.name]


def sync_projects(
    conn: Connection,
    found: Sequence[UpstreamProject],
    *,
    every: bool,
    policy: Policy,
    forced: Collection[str] = (),
    addresses: bool = False,
) -> dict[str, Sync]:
    """Make our rows equal to these projects as PyPI has them; what that came to, by name.

    ``every``: build all releases, not only the latest. ``forced``: names whose answers are applied though they are
    older than our rows, because PyPI has said so for long enough. ``addresses``: keep where each file is.
    """
    known, new = _rows(conn, found)
    syncs = {}
    works = []
    for project in found:
        row = known.get(project.name)
        if row is not None and project.serial and row.serial > project.serial and project.name not in forced:
            syncs[project.name] = Sync(row.id, changed=False, older=True, serial=row.serial)
        else:
            wanted = project.wanted(every=every)
            works.append(_Work(row or new[project.name], project, wanted, is_new=row is None))
    _sync_heads(conn, works)
    _sync_releases(conn, works, addresses=addresses)
    _plan(conn, works, policy=policy)
    changed = [work for work in works if work.changed]
    mark_all_stale(conn, PageKind.PROJECT, [work.project.name for work in changed], "PyPI's data changed")
    if late := [work.row.id for work in changed if not work.stamped]:
        conn.execute(update(projects).where(among(projects.c.id, late)).values(synced_at=func.now()))
    return syncs | {work.project.name: _sync_of(work) for work in works}


def _sync_of(work: _Work) -> Sync:
    serial = work.project.serial or work.row.serial
    return Sync(work.row.id, changed=work.changed, serial=serial, added=work.is_new)


def set_status(
    conn: Connection, name: str, status: ProjectStatus, reason: str, serial: int, *, policy: Policy
) -> Sync | None:
    """The index page shows a status and no more: note it, and keep what we know of the project's releases. None: we
    do not know the project."""
    row = _lock(conn, name)
    if row is None:
        return None
    serial = max(serial, row.serial)
    if (row.status, row.status_reason, row.serial) == (status, reason, serial):
        return Sync(row.id, changed=False, serial=serial)
    values = {"status": status, "status_reason": reason, "serial": serial, "synced_at": func.now()}
    conn.execute(update(projects).where(projects.c.id == row.id).values(values))
    if row.status != status:
        replan(conn, conn.scalars(select(releases.c.id).where(releases.c.project_id == row.id)).all(), policy=policy)
    _note_status(conn, row, status, reason)
    mark_stale(conn, PageKind.PROJECT, name, "PyPI's data changed")
    return Sync(row.id, changed=True, serial=serial)


def _note_status(conn: Connection, row: Row[Any], status: ProjectStatus, reason: str) -> None:
    """Note that a project's files are listed no longer, or again, if there ever were any."""
    quarantined = ProjectStatus.QUARANTINED
    if (row.status is quarantined) != (status is quarantined) and news.was_built(conn, row.id):
        kind = NewsKind.QUARANTINED if status is quarantined else NewsKind.RESTORED
        news.note(conn, [news.Item(kind, row.name, detail=reason)])


def empty_project(
    conn: Connection, name: str, serial: int, status: ProjectStatus, reason: str, *, every: bool, policy: Policy
) -> Sync | None:
    """The project is there and has no releases any more. None: we do not know it."""
    row = _lock(conn, name)
    if row is None:
        return None
    # Its JSON was not there to compare the page with: files may be hidden, so the page is to be read the next time.
    bare = UpstreamProject(name, row.display_name, row.summary, serial, (), status, reason, hides=True)
    return sync_project(conn, bare, every=every, policy=policy)


def delete_project(conn: Connection, name: str) -> bool:
    """PyPI has it no more, so neither have we; whether we had it. Its pages go with the next rendering."""
    if not conn.execute(delete(projects).where(projects.c.name == name)).rowcount:
        return False
    news.note(conn, [news.Item(NewsKind.REMOVED, name)])
    mark_stale(conn, PageKind.PROJECT, name, "deleted from PyPI")
    return True


def rewant(conn: Connection, name: str, *, every: bool, policy: Policy) -> bool:
    """Mark the releases to build anew, from our rows alone: the operator chose between latest and all. Whether the
    project is known."""
    row = _lock(conn, name)
    if row is None:
        return False
    found = conn.execute(select(releases).where(releases.c.project_id == row.id)).all()
    wanted = {latest((r.version, r.yanked) for r in found)} if found else set()
    changed = {r.id for r in found if r.wanted != (every or r.version in wanted)}
    if changed:
        flag = True if every else among(releases.c.version, wanted)
        conn.execute(update(releases).where(among(releases.c.id, changed)).values(wanted=flag))
        replan(conn, sorted(_concerned(found, changed)), policy=policy)
        mark_stale(conn, PageKind.PROJECT, name, "other releases are to be built")
    return True


def rewant_next(conn: Connection, *, every: bool, policy: Policy, batch: int = 50) -> bool:
    """Mark the releases to build anew for the next projects, if the operator chose between latest and all since all
    were marked; whether none are left. Where it is, is in the database; one small query when nothing changed."""
    which = "all" if every else "latest"
    row = conn.execute(select(feeds).where(feeds.c.name == _REWANT).with_for_update()).one_or_none()
    if row is not None and row.detail == f"{which} finished":
        return True
    after = row.serial if row is not None and row.detail == which else 0
    some = select(projects.c.id, projects.c.name).where(projects.c.id > after).order_by(projects.c.id).limit(batch)
    found = conn.execute(some).all()
    for project in found:
        rewant(conn, project.name, every=every, policy=policy)
    finished = len(found) < batch
    stand = {"serial": found[-1].id if found else after, "detail": f"{which} finished" if finished else which}
    row_now = insert(feeds).values(name=_REWANT, **stand)
    conn.execute(row_now.on_conflict_do_update(index_elements=[feeds.c.name], set_=stand))
    return finished


def unknown(conn: Connection, names: Sequence[str]) -> list[str]:
    """Which of these projects we do not know."""
    there = set(conn.scalars(select(projects.c.name).where(among(projects.c.name, names))))
    return [name for name in names if name not in there]


def known_links(conn: Connection, name: str) -> dict[str, tuple[str, str]]:
    """Where the project's sdists are, as far as we know: file name → (URL, SHA-256 in hex)."""
    query = (
        select(upstream_files.c.filename, upstream_files.c.url, upstream_files.c.sha256)
        .join(releases, releases.c.id == upstream_files.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .where(projects.c.name == name, upstream_files.c.url.is_not(None), upstream_files.c.sha256.is_not(None))
    )
    return {row.filename: (row.url, row.sha256.hex()) for row in conn.execute(query)}


# The projects themselves


def _lock(conn: Connection, name: str) -> Row[Any] | None:
    return conn.execute(select(projects).where(projects.c.name == name).with_for_update(key_share=True)).one_or_none()


def _rows(conn: Connection, found: Sequence[UpstreamProject]) -> tuple[dict[str, Row[Any]], dict[str, Row[Any]]]:
    """The projects' rows by name, locked: those that we have, and those that had to be added."""
    names = sorted({project.name for project in found})
    mine = select(projects).where(among(projects.c.name, names)).order_by(projects.c.name)
    known = {row.name: row for row in conn.execute(mine.with_for_update(key_share=True))}
    missing = [project for project in found if project.name not in known]
    new = add_projects(conn, missing) if missing else {}
    if len(known) + len(new) < len(names):  # somebody added one between the two statements; whoever called tries again
        raise RuntimeError("projects appeared while they were added")
    return known, new


def _sync_heads(conn: Connection, works: Sequence[_Work]) -> None:
    for work in works:
        work.changed = work.stamped = work.is_new
    changed = [(work, values) for work in works if not work.is_new and (values := _head_changes(work))]
    if not changed:
        return
    rows = update_rows(projects, [values for _, values in changed], key="id")
    conn.execute(rows.values(synced_at=func.now()))
    spellings = []
    for work, values in changed:
        work.changed = work.stamped = True
        _note_status(conn, work.row, values["status"], values["status_reason"])
        if values["display_name"] != work.row.display_name:
            spellings.append({"project_id": work.row.id, "name": values["display_name"]})
    if spellings:
        conn.execute(insert_rows(project_names, spellings).on_conflict_do_nothing())


def _head_changes(work: _Work) -> dict[str, Any] | None:
    """The values that a project's row is to have; None: it has them."""
    row, project = work.row, work.project
    told = project.status is not None
    values = {
        "id": row.id,
        "display_name": project.display_name,
        "summary": project.summary,
        "serial": project.serial or row.serial,
        "status": project.status if told else row.status,
        "status_reason": project.status_reason if told else row.status_reason,
        "hides": row.hides if project.hides is None else project.hides,
    }
    return values if any(getattr(row, key) != value for key, value in values.items()) else None


# Their releases


def _sync_releases(conn: Connection, works: Sequence[_Work], *, addresses: bool) -> None:
    known = {work.row.id: work for work in works if not work.is_new}
    if known:
        for row in conn.execute(select(releases).where(among(releases.c.project_id, known))):
            known[row.project_id].stored[row.version] = row
    _delete_releases(conn, works)
    _update_releases(conn, works)
    _update_files(conn, works, addresses=addresses)
    _add_releases(conn, works, addresses=addresses)


def _delete_releases(conn: Connection, works: Sequence[_Work]) -> None:
    gone: dict[int, tuple[str, str]] = {}  # release → project and version
    for work in works:
        there = {release.version for release in work.project.releases}
        work.gone = [work.stored.pop(version) for version in list(work.stored) if version not in there]
        work.changed |= bool(work.gone)
        gone |= {row.id: (work.project.name, row.version) for row in work.gone}
    if gone:
        built = news.known_files(conn, gone)
        news.note(conn, [news.Item(NewsKind.REMOVED, *gone[id_], files=names) for id_, names in built.items()])
        conn.execute(delete(releases).where(among(releases.c.id, gone)))


def _update_releases(conn: Connection, works: Sequence[_Work]) -> None:
    rows = []
    yanked: dict[int, tuple[str, UpstreamRelease]] = {}  # or not any more
    for work, row, release in _kept(works):
        values = release_values(release, wanted=release.version in work.wanted)
        if any(getattr(row, key) != value for key, value in values.items()):
            rows.append({"id": row.id, **values})
            work.touched.add(row.id)
        if row.yanked != release.yanked:
            yanked[row.id] = (work.project.name, release)
    if rows:
        conn.execute(update_rows(releases, rows, key="id"))
    if yanked:
        _note_yanks(conn, yanked)


def _note_yanks(conn: Connection, yanked: Mapping[int, tuple[str, UpstreamRelease]]) -> None:
    items = []
    for id_, names in sorted(news.known_files(conn, yanked).items()):
        project, release = yanked[id_]
        kind = NewsKind.YANKED if release.yanked else NewsKind.RESTORED
        items.append(news.Item(kind, project, release.version, release.yanked_reason, names))
    news.note(conn, items)


def _kept(works: Sequence[_Work]) -> list[tuple[_Work, Row[Any], UpstreamRelease]]:
    """The releases that we knew before."""
    return [(w, row, r) for w in works for r in w.project.releases if (row := w.stored.get(r.version)) is not None]


def _add_releases(conn: Connection, works: Sequence[_Work], *, addresses: bool) -> None:
    new = [(work, r) for work in works for r in work.project.releases if r.version not in work.stored]
    rows = [NewRelease(work.row.id, release, release.version in work.wanted) for work, release in new]
    for (work, _), added in zip(new, add_releases(conn, rows, addresses=addresses), strict=True):
        work.added.append(added)
        work.changed = True


# Their files


def _update_files(conn: Connection, works: Sequence[_Work], *, addresses: bool) -> None:
    """Files of the releases that we knew before."""
    kept = _kept(works)
    stored = _stored_files(conn, [row.id for _, row, _ in kept])
    gone: list[int] = []
    new: list[tuple[int, UpstreamFile]] = []
    differing: list[dict[str, Any]] = []
    for work, row, release in kept:
        before = len(gone) + len(new) + len(differing)
        values = {file.filename: file_values(file, addresses=addresses) for file in release.files}
        _compare_files(row.id, stored.get(row.id, {}), release, values, gone, new, differing)
        if len(gone) + len(new) + len(differing) > before:
            work.touched.add(row.id)
    if gone:
        conn.execute(delete(upstream_files).where(among(upstream_files.c.id, gone)))
    if new:
        add_files(conn, new, addresses=addresses)
    if differing:
        conn.execute(update_rows(upstream_files, differing, key="id"))
    if gone or new or differing:
        _supersede(conn, [(row.id, release) for work, row, release in kept if row.id in work.touched])


def _stored_files(conn: Connection, ids: Sequence[int]) -> dict[int, dict[str, Row[Any]]]:
    found: dict[int, dict[str, Row[Any]]] = {}
    if ids:
        for row in conn.execute(select(upstream_files).where(among(upstream_files.c.release_id, ids))):
            found.setdefault(row.release_id, {})[row.filename] = row
    return found


def _compare_files(
    release_id: int,
    stored: Mapping[str, Row[Any]],
    release: UpstreamRelease,
    wanted: Mapping[str, Mapping[str, Any]],
    gone: list[int],
    new: list[tuple[int, UpstreamFile]],
    differing: list[dict[str, Any]],
) -> None:
    gone += [row.id for name, row in stored.items() if name not in wanted]
    for file in release.files:
        values, row = wanted[file.filename], stored.get(file.filename)
        if row is None:
            new.append((release_id, file))
        elif any(getattr(row, key) != value for key, value in values.items()):
            differing.append({"id": row.id, **values})


def _supersede(conn: Connection, found: Sequence[tuple[int, UpstreamRelease]]) -> None:
    """A new sdist resets the attempts made with another one; wheels that came of them stay."""
    best = [(id_, sdist) for id_, release in found if (sdist := best_sdist(release.files, version=release.version))]
    if not best:
        return
    given = rows_of(builds, [{"release_id": id_, "built_from": sdist.sha256} for id_, sdist in best])
    other = and_(builds.c.built_from.is_not(None), builds.c.built_from != given.c.built_from)
    attempts = (builds.c.release_id == given.c.release_id, ~builds.c.superseded, other)
    conn.execute(update(builds).where(*attempts).values(superseded=True))


# What follows


def _plan(conn: Connection, works: Sequence[_Work], *, policy: Policy) -> None:
    """Plan what changed."""
    concerned: set[int] = set()
    for work in works:
        if work.is_new:
            continue
        work.changed = work.changed or bool(work.touched)
        if work.project.status not in (None, work.row.status):
            work.touched = {row.id for row in work.stored.values()}
        gone = {row.id for row in work.gone}
        unwanted = {one.id for one in work.added if one.version not in work.wanted}  # they have no jobs to withdraw
        touched = work.touched | gone | {one.id for one in work.added}
        concerned |= _concerned([*work.stored.values(), *work.gone, *work.added], touched) - gone - unwanted
    if concerned:
        replan(conn, sorted(concerned), policy=policy)
    new = [row for work in works if work.is_new for row in planned(work.row, work.project, work.added, work.wanted)]
    if new:
        plan_new(conn, new, policy=policy)


def _concerned(found: Sequence[Row[Any] | Added], touched: Collection[int]) -> set[int]:
    """These releases of a project, and the one after each of them: it takes a hint from the one before it."""
    if not touched:
        return set()
    ids = [row.id for row in sorted(found, key=lambda row: (row.sort_key, row.id))]
    return set(touched) | {after for before, after in pairwise(ids) if before in touched}
