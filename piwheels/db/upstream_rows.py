# SPDX-License-Identifier: BSD-3-Clause
"""What the rows of PyPI's projects, releases and files hold, and adding new ones: a project that is new to us needs
nothing compared, looked up or locked. Making known ones equal is db/upstream's.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.postgresql import insert

from piwheels.db.arrays import insert_rows
from piwheels.db.copying import copy_rows, new_ids
from piwheels.db.release_facts import FRESH
from piwheels.db.tables import project_names, projects, releases, upstream_files
from piwheels.master import bulk
from piwheels.pypi.model import UpstreamFile, UpstreamProject, UpstreamRelease
from piwheels.versions import sort_key
from piwheels.vocabulary import ProjectStatus, UpstreamKind

_LONGEST_WHEEL = 255  #: bytes; wheels with longer names serve nobody


class Added(NamedTuple):
    """A release that was added in this transaction."""

    id: int
    project_id: int
    version: str
    sort_key: bytes


class NewRelease(NamedTuple):
    """A release to add."""

    project_id: int
    release: UpstreamRelease
    wanted: bool


def head_values(project: UpstreamProject) -> dict[str, Any]:
    """What the row of a project that is new to us holds."""
    return {
        "name": project.name,
        "display_name": project.display_name,
        "summary": project.summary,
        "serial": project.serial,
        "status": project.status or ProjectStatus.ACTIVE,
        "status_reason": project.status_reason if project.status else "",
        "hides": bool(project.hides),
    }


def release_values(release: UpstreamRelease, *, wanted: bool) -> dict[str, Any]:
    """What a release's row holds, beside its key."""
    return {
        "released": release.released,
        "yanked": release.yanked,
        "yanked_reason": release.yanked_reason,
        "requires_python": release.requires_python,
        "wanted": wanted,
    }


def file_values(file: UpstreamFile, *, addresses: bool) -> dict[str, Any]:
    """What a file's row holds, beside its key. Of what is no sdist only what the planner needs is kept, unless there is
    a merged index to say where it is (``addresses``): for all of PyPI that comes to gigabytes."""
    located = addresses or file.kind is UpstreamKind.SDIST
    return {
        "kind": file.kind,
        "size": file.size,
        "sha256": file.sha256 if located else None,
        "url": file.url if located else None,
        "requires_python": file.requires_python,
        "yanked": file.yanked,
        "uploaded": file.uploaded,
        "yanked_reason": file.yanked_reason if addresses and file.yanked else "",
    }


# Adding


def add_projects(conn: Connection, found: Sequence[UpstreamProject]) -> dict[str, Row[Any]]:
    """Add projects and the spellings of their names; their rows, by name. One that somebody else adds meanwhile is
    missing from the answer."""
    values = [head_values(project) for project in sorted(found, key=lambda project: project.name)]
    added = insert_rows(projects, values).on_conflict_do_nothing().returning(projects).cte("added")
    spelt = select(added.c.id, added.c.display_name)
    names = insert(project_names).from_select(["project_id", "name"], spelt).cte("names")
    return {row.name: row for row in conn.execute(select(added).add_cte(names))}


_RELEASE = ("id", "project_id", "version", "sort_key", "released", "yanked", "yanked_reason", "requires_python")


def add_releases(conn: Connection, new: Sequence[NewRelease], *, addresses: bool = False) -> list[Added]:
    """Add releases with their files, in this order. Their projects are locked, or were added in this transaction."""
    added = [
        Added(id_, one.project_id, one.release.version, sort_key(one.release.version))
        for id_, one in zip(new_ids(conn, releases, len(new)), new, strict=True)
    ]
    if added:
        both = list(zip(added, new, strict=True))
        rows = ((*key, *release_values(one.release, wanted=one.wanted).values()) for key, one in both)
        copy_rows(conn, releases, (*_RELEASE, "wanted"), rows)
        add_files(conn, ((key.id, file) for key, one in both for file in one.release.files), addresses=addresses)
    return added


_FILE = (
    "release_id",
    "filename",
    "kind",
    "size",
    "sha256",
    "url",
    "requires_python",
    "yanked",
    "uploaded",
    "yanked_reason",
)


def add_files(conn: Connection, new: Iterable[tuple[int, UpstreamFile]], *, addresses: bool) -> None:
    """Add files to releases, by the releases' ids; see :func:`add_releases` and :func:`file_values`."""
    rows = (_file_row(release_id, file, addresses=addresses) for release_id, file in new)
    copy_rows(conn, upstream_files, _FILE, rows)


def _file_row(release_id: int, file: UpstreamFile, *, addresses: bool) -> tuple[Any, ...]:
    kind, *rest = file_values(file, addresses=addresses).values()
    return (release_id, file.filename, kind.value, *rest)


def planned(project: Row[Any], found: UpstreamProject, added: Iterable[Added], wanted: Iterable[str]) -> list[bulk.Row]:
    """All releases of a project that was added in this transaction as :func:`piwheels.db.plan_rows.of` would read them
    back, in the order of versions."""
    by_version = {release.version: release for release in found.releases}
    wanted = frozenset(wanted)
    return [
        _planned(project, one, by_version[one.version], wanted=one.version in wanted)
        for one in sorted(added, key=lambda one: (one.sort_key, one.id))
    ]


def _planned(project: Row[Any], added: Added, release: UpstreamRelease, *, wanted: bool) -> bulk.Row:
    now: datetime = project.synced_at
    return bulk.Row(
        id=added.id,
        project_id=added.project_id,
        sort_key=added.sort_key,
        project=project.name,
        version=added.version,
        skipped=False,
        valid=added.sort_key >= b"\x01",
        barred=not wanted or release.yanked or project.status is ProjectStatus.QUARANTINED,
        requires_python=release.requires_python,
        fresh=release.released > now - FRESH,
        upstream="".join(map(_item, release.files)) or None,
        builds=None,
        jobs=None,
    )


def _item(file: UpstreamFile) -> str:
    """A file in master/bulk's terms; nothing for one that decides nothing."""
    if file.kind is UpstreamKind.SDIST:
        return bulk.NEXT + bulk.SDIST if file.url and file.sha256 else ""
    if file.kind is not UpstreamKind.WHEEL or len(file.filename.encode()) > _LONGEST_WHEEL:
        return ""
    parts = (file.filename, "y" if file.yanked else "n", file.requires_python or "")
    return bulk.NEXT + bulk.FIELD.join(parts)
