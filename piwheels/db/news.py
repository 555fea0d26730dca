# SPDX-License-Identifier: BSD-3-Clause
"""What happened to what the site has: noted with what it tells of, numbered when it is published, read for the feeds.

A row commits when its transaction does, in no order that ids tell of. So whoever publishes gives serials, one after the
other, to what is committed by then: nothing ever appears behind a serial that somebody has seen. What builds come to is
written by db.builds, in the statement that records them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, func, select, text

from piwheels.db import direct
from piwheels.db.arrays import among, insert_rows
from piwheels.db.tables import builds, files, news, releases
from piwheels.site.facts import News
from piwheels.vocabulary import NewsKind

MAX_DETAIL = 300  #: characters; the schema's limit
AT_ONCE = 5000  #: rows that are numbered in one transaction

_LOCK_SPACE = 0x4E657773  # 'News': one process numbers at a time


@dataclass(frozen=True, slots=True)
class Item:
    """Something to note."""

    kind: NewsKind
    project: str  #: canonical name
    version: str = ""  #: empty: the whole project
    detail: str = ""
    files: Collection[str] = field(default=())


def note(conn: Connection, items: Sequence[Item]) -> None:
    """Note what this transaction does to what the site has."""
    if items:
        rows = [
            {
                "kind": item.kind,
                "project": item.project,
                "version": item.version,
                "detail": item.detail[:MAX_DETAIL],
                "files": sorted(item.files),
            }
            for item in items
        ]
        conn.execute(insert_rows(news, rows))


def known_files(conn: Connection, release_ids: Collection[int]) -> dict[int, list[str]]:
    """Of these releases those that were built here, and the names of their files. The others are no news of ours."""
    names = func.array_agg(files.c.filename.distinct()).filter(files.c.filename.is_not(None))
    query = (
        select(builds.c.release_id, names.label("names"))
        .outerjoin(files, files.c.build_id == builds.c.id)
        .where(among(builds.c.release_id, list(release_ids)))
        .group_by(builds.c.release_id)
    )
    return {row.release_id: sorted(row.names or ()) for row in conn.execute(query)} if release_ids else {}


def was_built(conn: Connection, project_id: int) -> bool:
    """Whether anything of the project was ever built here."""
    mine = select(builds.c.id).join(releases, releases.c.id == builds.c.release_id)
    return conn.scalar(mine.where(releases.c.project_id == project_id).limit(1)) is not None


def number(conn: Connection, *, limit: int = AT_ONCE) -> int:
    """Give serials to what has none; how many got one. None if another process is at it."""
    if not conn.scalar(select(func.pg_try_advisory_xact_lock(_LOCK_SPACE, 0))):
        return 0
    return conn.execute(_NUMBER, {"limit": limit}).rowcount


_NUMBER = text("""
    WITH fresh AS (SELECT id FROM news WHERE serial IS NULL ORDER BY id LIMIT :limit),
        placed AS (SELECT id, row_number() OVER (ORDER BY id) AS place FROM fresh),
        last AS (SELECT coalesce(max(serial), 0) AS serial FROM news)
    UPDATE news SET serial = last.serial + placed.place FROM placed, last WHERE news.id = placed.id
""")


def last_serial(conn: Connection) -> int:
    """The highest serial given so far; 0: none."""
    return conn.scalar(select(func.max(news.c.serial))) or 0


def between(conn: Connection, first: int, last: int) -> list[News]:
    """What has the serials from first to last, in their order."""
    mine = select(news).where(news.c.serial.between(first, last))
    return [_news(row) for row in conn.execute(mine.order_by(news.c.serial))]


def of_projects(conn: Connection, projects: Collection[str], *, limit: int) -> dict[str, list[News]]:
    """The latest of each of these projects, newest first, published or not, by name. Asked for with every rendering."""
    found: dict[str, list[News]] = {project: [] for project in projects}
    for row in direct.fetch(conn, _LATEST, {"projects": list(found), "limit": limit}):
        id_, serial, at, kind, project, version, target, build_id, reason, detail, has_log, names = row
        told = (id_, serial, at, NewsKind(kind), project, version, target, build_id, reason, detail, has_log)
        found[project].append(News(*told, files=tuple(names)))
    return found


_LATEST = """
    SELECT n.id, n.serial, n.at, n.kind, n.project, n.version, n.target, n.build_id, n.reason, n.detail, n.has_log,
        n.files
    FROM unnest(CAST(%(projects)s AS text[])) AS x(project), LATERAL (
        SELECT * FROM news WHERE news.project = x.project ORDER BY news.id DESC LIMIT %(limit)s
    ) AS n
"""


def _news(row: Row[Any]) -> News:
    return News(
        id=row.id,
        serial=row.serial,
        at=row.at,
        kind=row.kind,
        project=row.project,
        version=row.version,
        target=row.target,
        build_id=row.build_id,
        reason=row.reason,
        detail=row.detail,
        has_log=row.has_log,
        files=tuple(row.files),
    )
