# SPDX-License-Identifier: BSD-3-Clause
"""Downloads: counting batches of them once, and the totals that packages.json shows.

Invariant: ``download_days`` is the aggregate of ``downloads``, since both change in one transaction and nowhere else.
Rows are locked and written in sorted order, so that this never deadlocks with whoever else marks pages.
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from piwheels.db import download_counts, tables
from piwheels.db.pages import mark_stale
from piwheels.vocabulary import PageKind

MONTH = timedelta(days=30)  #: what packages.json calls a month
OLDEST = datetime(2015, 1, 1, tzinfo=UTC)  #: a download before is a mistake, and would make a partition of its own
LATEST = timedelta(days=1)  #: how far in the future a web server's clock may be
LOGGER_MEMORY = timedelta(days=90)  #: how long a logger that is not heard of is remembered
STREAM_ROWS = 5000


@dataclass(frozen=True, slots=True)
class Row:
    """One download, as it is kept."""

    at: datetime
    project: str
    filename: str
    arch: str
    distro: str
    python: str
    installer: str


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a batch."""

    counted: int = 0
    ignored: int = 0  #: of projects that we do not know, or at impossible times
    repeated: bool = False  #: it had been counted before


def count_batch(conn: Connection, logger: uuid.UUID, number: int, *, rows: Iterable[Row], now: datetime) -> Counted:
    """Count a logger's batch, unless it was counted before; the caller commits."""
    if not _is_new(conn, logger, number, now=now):
        return Counted(repeated=True)
    all_rows = list(rows)
    ids = _project_ids(conn, {row.project for row in all_rows})
    good = [row for row in all_rows if row.project in ids and OLDEST <= row.at <= now + LATEST]
    if good:
        for month in sorted({(row.at.year, row.at.month) for row in good}):
            _ensure_partition(conn, *month)
        _insert(conn, good, ids)
        download_counts.add(conn, [_fetched(row, ids) for row in good])
        for project in sorted({row.project for row in good}):
            mark_stale(conn, PageKind.PROJECT, project, "downloads")
    return Counted(counted=len(good), ignored=len(all_rows) - len(good))


def _fetched(row: Row, ids: Mapping[str, int]) -> download_counts.Fetched:
    return download_counts.Fetched(
        day=row.at.astimezone(UTC).date(),
        project_id=ids[row.project],
        filename=row.filename,
        arch=row.arch,
        distro=row.distro,
        python=row.python,
        installer=row.installer,
    )


def _is_new(conn: Connection, logger: uuid.UUID, number: int, *, now: datetime) -> bool:
    loggers = tables.loggers
    conn.execute(upsert(loggers).values(id=logger, last_batch=0, seen_at=now).on_conflict_do_nothing())
    last = conn.execute(select(loggers.c.last_batch).where(loggers.c.id == logger).with_for_update()).scalar_one()
    if number <= last:
        return False
    conn.execute(update(loggers).where(loggers.c.id == logger).values(last_batch=number, seen_at=now))
    return True


def _project_ids(conn: Connection, names: set[str]) -> dict[str, int]:
    """Ids of the projects that we know, kept from being deleted until this transaction ends."""
    projects = tables.projects
    query = (
        select(projects.c.name, projects.c.id)
        .where(projects.c.name.in_(sorted(names)))
        .order_by(projects.c.id)
        .with_for_update(read=True, key_share=True)
    )
    return {row.name: row.id for row in conn.execute(query)} if names else {}


def _ensure_partition(conn: Connection, year: int, month: int) -> None:
    """Make the month's partition if it is missing. Years are bounded by OLDEST and LATEST."""
    name = f"downloads_{year:04d}_{month:02d}"
    if conn.execute(select(func.to_regclass(name))).scalar_one() is not None:
        return
    first = date(year, month, 1)
    after = date(year + month // 12, month % 12 + 1, 1)
    # Names and bounds of partitions cannot be parameters; these are made of two integers.
    statement = (
        f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF downloads"
        f" FOR VALUES FROM ('{first} 00:00+00') TO ('{after} 00:00+00')"
    )
    conn.execute(text(statement))


def _insert(conn: Connection, rows: list[Row], ids: Mapping[str, int]) -> None:
    conn.execute(
        insert(tables.downloads),
        [
            {
                "at": row.at,
                "project_id": ids[row.project],
                "filename": row.filename,
                "arch": row.arch,
                "distro": row.distro,
                "python": row.python,
                "installer": row.installer,
            }
            for row in rows
        ],
    )
    keys = ("project_id", "day", "arch", "distro", "python", "installer")
    counts = Counter(
        (ids[row.project], row.at.astimezone(UTC).date(), row.arch, row.distro, row.python, row.installer)
        for row in rows
    )
    days = tables.download_days
    statement = upsert(days)
    statement = statement.on_conflict_do_update(
        index_elements=list(keys), set_={"count": days.c.count + statement.excluded.count}
    )
    conn.execute(
        statement, [dict(zip(keys, key, strict=True)) | {"count": count} for key, count in sorted(counts.items())]
    )


def forget_loggers(conn: Connection, *, now: datetime) -> int:
    """Forget loggers that have been silent for long: theirs are processes that ended. Returns how many."""
    return conn.execute(tables.loggers.delete().where(tables.loggers.c.seen_at < now - LOGGER_MEMORY)).rowcount


def totals(conn: Connection, *, today: date) -> Iterator[tuple[str, int, int]]:
    """Every project with its downloads of the last 30 days (today is one) and of all time, by name; streamed."""
    projects, days = tables.projects, tables.download_days
    counts = (
        select(
            days.c.project_id,
            func.sum(days.c.count).label("all"),
            func.sum(days.c.count).filter(days.c.day > today - MONTH).label("month"),
        )
        .group_by(days.c.project_id)
        .subquery()
    )
    query = (
        select(projects.c.name, func.coalesce(counts.c.month, 0), func.coalesce(counts.c.all, 0))
        .select_from(projects.outerjoin(counts, counts.c.project_id == projects.c.id))
        .order_by(projects.c.name)
    )
    streaming = {"stream_results": True, "yield_per": STREAM_ROWS}
    for name, month, total in conn.execute(query, execution_options=streaming):
        yield name, int(month), int(total)


def newest_project(conn: Connection) -> tuple[int, int]:
    """Something that changes when projects come or go, and costs little: the highest id and roughly how many."""
    row = conn.execute(text("SELECT coalesce(max(id), 0), (SELECT count(*) FROM projects) FROM projects")).one()
    return int(row[0]), int(row[1])
