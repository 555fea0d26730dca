# SPDX-License-Identifier: BSD-3-Clause
"""What pages show, read from the database: a project's rows in a fixed number of indexed queries, and the farm's.

Each statement sees what is committed when it runs, so the rows of one project may be of two moments. That does no harm:
whatever was committed between has marked the page again (db.pages), and the model ignores rows whose parents it lacks.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta

from sqlalchemy import Connection, Row, case, func, select

from piwheels.db import names, recipes
from piwheels.db.tables import (
    builds,
    dependencies,
    download_days,
    files,
    project_names,
    projects,
    published,
    releases,
    targets,
)
from piwheels.site.facts import BuildFacts, FileFacts, ProjectFacts, ReleaseFacts
from piwheels.vocabulary import DependencyTool

MONTH = timedelta(days=30)
YEAR = timedelta(days=364)  #: whole weeks


def load_project(conn: Connection, name: str, *, today: date) -> ProjectFacts | None:
    """Everything that the project's pages are made of; None: no such project. ``today`` is UTC's."""
    project = conn.execute(select(projects).where(projects.c.name == name)).one_or_none()
    if project is None:
        return None
    aliases = conn.scalars(select(project_names.c.name).where(project_names.c.project_id == project.id))
    days, ever = _downloads(conn, project.id, today=today)
    wheels = _files(conn, project.id)
    return ProjectFacts(
        id=project.id,
        name=project.name,
        display_name=project.display_name,
        summary=project.summary,
        status=project.status,
        status_reason=project.status_reason,
        skip_reason=project.skip_reason or recipes.effective(conn, [name])[name].skip or "",
        serial=project.serial,
        aliases=tuple(sorted(aliases)),
        releases=_releases(conn, project.id),
        builds=_builds(conn, project.id),
        files=wheels,
        downloads_month=sum(count for day, count in days.items() if day > today - MONTH),
        downloads_all=ever,
        bound=names.of_files(conn, {wheel.filename for wheel in wheels}),
        download_days=tuple(days.items()),
        today=today,
    )


def _downloads(conn: Connection, project_id: int, *, today: date) -> tuple[dict[date, int], int]:
    """Downloads by day of the last year, and of all time."""
    days = download_days.c
    recent = case((days.day > today - YEAR, days.day))
    query = select(recent.label("day"), func.sum(days.count).label("count")).where(days.project_id == project_id)
    counts = [(row[0], int(row[1])) for row in conn.execute(query.group_by(recent))]
    return dict(sorted((day, count) for day, count in counts if day)), sum(count for _, count in counts)


def _releases(conn: Connection, project_id: int) -> tuple[ReleaseFacts, ...]:
    rows = conn.execute(select(releases).where(releases.c.project_id == project_id).order_by(releases.c.id))
    return tuple(
        ReleaseFacts(
            id=row.id,
            version=row.version,
            sort_key=row.sort_key,
            released=row.released,
            yanked=row.yanked,
            yanked_reason=row.yanked_reason,
            skip_reason=row.skip_reason,
            wanted=row.wanted,
        )
        for row in rows
    )


def _builds(conn: Connection, project_id: int) -> tuple[BuildFacts, ...]:
    b = builds.c
    rows = conn.execute(
        select(b.id, b.release_id, b.finished, b.duration, b.reason, b.detail, b.superseded, b.has_log, targets.c.name)
        .join(releases, releases.c.id == b.release_id)
        .join(targets, targets.c.id == b.target_id)
        .where(releases.c.project_id == project_id)
        .order_by(b.id)
    )
    return tuple(
        BuildFacts(
            id=row.id,
            release_id=row.release_id,
            target=row.name,
            finished=row.finished,
            duration=row.duration,
            reason=row.reason,
            detail=row.detail,
            superseded=row.superseded,
            has_log=row.has_log,
        )
        for row in rows
    )


def _files(conn: Connection, project_id: int) -> tuple[FileFacts, ...]:
    of_project = (
        select(files, targets.c.distribution)
        .join(builds, builds.c.id == files.c.build_id)
        .join(targets, targets.c.id == builds.c.target_id)
        .join(releases, releases.c.id == builds.c.release_id)
        .where(releases.c.project_id == project_id)
        .order_by(files.c.id)
    )
    rows = conn.execute(of_project).all()
    needs = _dependencies(conn, [row.id for row in rows])
    return tuple(_file(row, needs.get(row.id, ())) for row in rows)


def _file(row: Row[tuple[object, ...]], needs: Sequence[tuple[DependencyTool, str]]) -> FileFacts:
    return FileFacts(
        id=row.id,
        build_id=row.build_id,
        filename=row.filename,
        size=row.size,
        sha256=bytes(row.sha256),
        metadata_sha256=bytes(row.metadata_sha256),
        requires_python=row.requires_python,
        yanked=row.yanked,
        yanked_reason=row.yanked_reason,
        uploaded=row.uploaded,
        distribution=row.distribution,
        dependencies=tuple(needs),
    )


def _dependencies(conn: Connection, file_ids: Sequence[int]) -> dict[int, list[tuple[DependencyTool, str]]]:
    found: dict[int, list[tuple[DependencyTool, str]]] = defaultdict(list)
    if file_ids:
        d = dependencies.c
        wanted = func.unnest(list(file_ids)).table_valued("id").render_derived()
        rows = conn.execute(select(d.file_id, d.tool, d.name).join(wanted, wanted.c.id == d.file_id))
        for row in sorted(rows, key=lambda r: (r.file_id, r.tool, r.name)):
            found[row.file_id].append((row.tool, row.name))
    return found


def load_root(conn: Connection) -> tuple[list[str], int]:
    """The projects that /simple/ lists, sorted bytewise, and the newest of PyPI's serials that our rows reflect."""
    serial = conn.scalar(select(func.max(projects.c.serial))) or 0
    names = conn.scalars(select(published.c.name).where(published.c.listed))
    return sorted(names), int(serial)
