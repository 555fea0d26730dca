# SPDX-License-Identifier: BSD-3-Clause
"""What pages show, from the database: projects' facts and verdicts, made of their rows, and the farm's."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from sqlalchemy import Connection, func, select

from piwheels.db import direct, page_rows, recipes
from piwheels.db import targets as target_rows
from piwheels.db.page_rows import ProjectRows, Row, grouped
from piwheels.db.tables import projects
from piwheels.master.planner import Verdict
from piwheels.master.recipes import Recipe
from piwheels.master.targets import Target
from piwheels.master.verdicts import Release, Verdicts
from piwheels.site.facts import (
    BuildFacts,
    FileFacts,
    ProjectFacts,
    ReleaseFacts,
    UpstreamFile,
)
from piwheels.vocabulary import DependencyTool, FailureReason, ProjectStatus

NAMES = 10_000  #: of an index's list, read at a time


def load_project(conn: Connection, name: str, *, today: date) -> ProjectFacts | None:
    """Everything that the project's pages are made of; None: no such project. ``today`` is UTC's."""
    rows = page_rows.read(conn, [name], today=today).get(name)
    if rows is None:
        return None
    page_rows.read_rest(conn, [rows])
    return project_facts(rows, target_rows.every(conn), recipes.effective(conn, [name])[name])


def project_facts(rows: ProjectRows, every: Sequence[Target], recipe: Recipe) -> ProjectFacts:
    """A project's rows as facts. ``every``: all targets; ``recipe``: the project's."""
    id_, name, display_name, summary, status, status_reason, skip_reason, serial, aliases, downloads = rows.head
    counts = dict(line.split() for line in downloads.split("\n")) if downloads else {}
    days = {date.fromisoformat(day): int(count) for day, count in counts.items() if day != page_rows.OLDER}
    built_for = {target.id: target for target in every}
    origin = {row[0]: built_for[row[2]].distribution for row in rows.builds}
    needs = grouped(rows.needs)
    return ProjectFacts(
        id=id_,
        name=name,
        display_name=display_name,
        summary=summary,
        status=ProjectStatus(status),
        status_reason=status_reason,
        skip_reason=skip_reason or recipe.skip or "",
        serial=serial,
        aliases=tuple(sorted(aliases.split("\n"))) if aliases else (),
        releases=tuple([ReleaseFacts(*row[1:9]) for row in rows.releases]),
        builds=tuple([_build(row, built_for[row[2]].name) for row in rows.builds]),
        files=tuple([_file(row, origin[row[1]], needs.get(row[0], ())) for row in rows.files]),
        downloads_month=sum(count for day, count in days.items() if day > rows.today - page_rows.MONTH),
        downloads_all=sum(map(int, counts.values())),
        bound={(space, filename): sha256 for filename, space, sha256 in rows.bound},
        download_days=tuple(sorted(days.items())),
        today=rows.today,
    )


def _build(row: Row, target: str) -> BuildFacts:
    id_, release_id, _, finished, duration, reason, detail, superseded, has_log = row
    why = None if reason is None else FailureReason(reason)
    return BuildFacts(id_, release_id, target, finished, duration, why, detail, superseded, has_log)


def _file(row: Row, distribution: str, needs: Sequence[Row]) -> FileFacts:
    id_, build_id, filename, size, sha256, metadata_sha256, requires_python, yanked, yanked_reason, uploaded = row
    return FileFacts(
        id_,
        build_id,
        filename,
        size,
        sha256,
        metadata_sha256,
        requires_python,
        yanked,
        yanked_reason,
        uploaded,
        distribution=distribution,
        dependencies=tuple([(DependencyTool(tool), name) for _, tool, name in needs]),
    )


def project_upstream(rows: ProjectRows) -> tuple[list[UpstreamFile], dict[int, str]]:
    """PyPI's files of a project, for a merged index, and the versions of its releases, oldest first."""
    ordered = sorted(rows.releases, key=lambda row: (row[3], row[2]))
    return [UpstreamFile(*row) for row in rows.addresses], {row[1]: row[2] for row in ordered}


def project_verdicts(rows: ProjectRows, recipe: Recipe, verdicts: Verdicts) -> dict[int, Mapping[str, Verdict]]:
    """What is decided about every release of a project: release id → name of each enabled target, oldest first →
    verdict."""
    name, status, skip_reason = rows.head[1], ProjectStatus(rows.head[4]), rows.head[6]
    upstream, attempts, leased = grouped(rows.upstream), grouped(rows.builds, 1), grouped(rows.leased)
    files = grouped(rows.files, 1)
    found = {}
    before = False
    for row in sorted(rows.releases, key=lambda row: (row[3], row[1])):
        id_, version, own_skip = row[1], row[2], row[7]
        theirs = upstream.get(id_, ())
        tried = attempts.get(id_, ())
        wheels = tuple([tuple(one[1:]) for one in theirs if one[1] is not None])
        built = [(one, build[2]) for build in tried for one in files.get(build[0], ())]
        release = Release(
            version=version,
            has_sdist=len(wheels) < len(theirs),
            wanted=row[8],
            skip_reason=skip_reason or own_skip,
            status=status,
            yanked=row[5],
            yanked_reason=row[6],
            requires_python=row[9],
            upstream=wheels,
            wheels=tuple([(file[2], target, file[6], file[7]) for file, target in sorted(built)]),
            attempts=tuple([_attempt(build) for build in tried if not build[7]]),
            native_before=before,
            leased=frozenset([one[1] for one in leased[id_]]) if id_ in leased else _NOBODY,
        )
        found[id_], before = verdicts.of(name, release, recipe)
    return found


_NOBODY: frozenset[int] = frozenset()


def _attempt(build: Row) -> tuple[int, FailureReason | None]:
    return build[2], None if build[5] is None else FailureReason(build[5])


def newest_serial(conn: Connection) -> int:
    """The newest of PyPI's serials that our rows reflect."""
    return int(conn.scalar(select(func.max(projects.c.serial))) or 0)


def listed_names(conn: Connection, space: str) -> Iterator[list[str]]:
    """The projects that an index lists, sorted bytewise, some thousands at a time."""
    after = ""
    while names := [name for (name,) in direct.fetch(conn, _LISTED, {"space": space, "after": after, "limit": NAMES})]:
        yield names
        after = names[-1]


_LISTED = """\
SELECT name FROM listed WHERE space = %(space)s AND name COLLATE "C" > %(after)s
ORDER BY name COLLATE "C" LIMIT %(limit)s
"""
