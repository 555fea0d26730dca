# SPDX-License-Identifier: BSD-3-Clause
"""Releases as master/bulk.py reads them, a row for each with all that decides about it; and their jobs made so.

The queries are about given releases, or the next so many in the order of their index, and look up the rest by index,
however much there is. They are text, since no part of them is ever left out.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, SmallInteger, delete, update

from piwheels.db import direct, wake
from piwheels.db.arrays import given, rows_of
from piwheels.db.release_facts import FRESH
from piwheels.db.tables import jobs
from piwheels.master.bulk import CANCELLED, Jobs, Row, jobs_of
from piwheels.vocabulary import Priority

POPULARITY = 30  #: days whose downloads order jobs

Key = tuple[int, int]  #: release, target

_COLUMNS = """\
SELECT r.id, r.project_id, r.sort_key, p.name, r.version,
    p.skip_reason <> '' OR r.skip_reason <> '',
    r.sort_key >= '\\x01',
    NOT r.wanted OR r.yanked OR p.status = 'quarantined',
    r.requires_python,
    r.released > now() - CAST(%(fresh)s AS interval),
    CASE WHEN r.looked_at THEN (
        SELECT string_agg(
            CASE u.kind WHEN 'sdist' THEN E'\\x1e*' ELSE
                E'\\x1e' || u.filename || CASE WHEN u.yanked THEN E'\\x1fy\\x1f' ELSE E'\\x1fn\\x1f' END
                || coalesce(u.requires_python, '')
            END, '')
        FROM upstream_files u
        WHERE u.release_id = r.id
        AND ((u.kind = 'wheel' AND octet_length(u.filename) <= 255)
            OR (u.kind = 'sdist' AND u.url IS NOT NULL AND u.sha256 IS NOT NULL))
    ) END,
    CASE WHEN r.looked_at THEN (
        SELECT string_agg(
            E'\\x1e' || b.target_id || E'\\x1f' || coalesce(CAST(b.reason AS text), 'success')
            || CASE WHEN b.superseded THEN E'\\x1fy\\x1f' ELSE E'\\x1fn\\x1f' END
            || coalesce(f.filename, '') || CASE WHEN f.yanked THEN E'\\x1fy\\x1f' ELSE E'\\x1fn\\x1f' END
            || coalesce(f.requires_python, ''), '')
        FROM builds b LEFT JOIN files f ON f.build_id = CASE WHEN b.outcome = 'success' THEN b.id END
        WHERE b.release_id = r.id
    ) END,
    (
        SELECT string_agg(
            E'\\x1e' || j.target_id || E'\\x1f' || j.priority || E'\\x1f'
            || CASE WHEN j.lease_token IS NULL THEN 'w' WHEN j.cancelled THEN 'c' ELSE 'b' END, '')
        FROM jobs j WHERE j.release_id = r.id
    )
FROM {mine} AS r JOIN projects p ON p.id = r.project_id
"""

# Wheels are looked up by CASE, so that nothing is looked up for builds that failed.
_AMONG = direct.among("id", "ids", "bigint")
_GIVEN = _COLUMNS.format(mine=f"(SELECT *, true AS looked_at FROM releases WHERE {_AMONG})")

# Of a release that is not wanted nothing matters but whether its successor, if wanted, can learn from it.
_SOME = """(
    SELECT *, wanted OR coalesce(lead(wanted) OVER (ORDER BY project_id, sort_key, id), true) AS looked_at
    FROM (
        SELECT * FROM releases
        WHERE (project_id, sort_key, id) >= (%(project_id)s, %(sort_key)s, %(release_id)s)
        ORDER BY project_id, sort_key, id LIMIT %(count)s
    ) AS following
)"""
_NEXT = _COLUMNS.format(mine=_SOME) + "ORDER BY r.project_id, r.sort_key, r.id"

_BEFORE = f"""\
SELECT r.id, (
    SELECT older.id FROM releases older
    WHERE older.project_id = r.project_id AND (older.sort_key, older.id) < (r.sort_key, r.id)
    ORDER BY older.sort_key DESC, older.id DESC LIMIT 1)
FROM releases r WHERE {direct.among("r.id", "ids", "bigint")}
"""

_LOCK = f"SELECT FROM releases WHERE {_AMONG} ORDER BY id FOR NO KEY UPDATE"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order in which all releases are planned: a release, whether or not it is there still."""

    project_id: int = 0
    sort_key: bytes = b""
    release_id: int = 0

    @classmethod
    def of(cls, row: Row) -> "Position":
        """The place of a release."""
        return cls(row.project_id, row.sort_key, row.id)


def of(conn: Connection, ids: Collection[int]) -> list[Row]:
    """These releases, those that there are."""
    if not ids:
        return []
    return [Row(*found) for found in direct.fetch(conn, _GIVEN, {"ids": list(ids), "fresh": FRESH})]


def beginning_at(conn: Connection, position: Position, count: int) -> list[Row]:
    """The next releases, in order: those of a project one after the other, by version."""
    place = {"project_id": position.project_id, "sort_key": position.sort_key, "release_id": position.release_id}
    return [Row(*found) for found in direct.fetch(conn, _NEXT, {**place, "count": count, "fresh": FRESH})]


def before(conn: Connection, ids: Collection[int]) -> dict[int, int]:
    """Release → the one before it, by version."""
    if not ids:
        return {}
    return {id_: older for id_, older in direct.fetch(conn, _BEFORE, {"ids": list(ids)}) if older is not None}


def lock(conn: Connection, ids: Collection[int]) -> None:
    """Wait until nobody else plans these releases, and let nobody until the transaction ends."""
    direct.fetch(conn, _LOCK, {"ids": sorted(ids)})


# Making jobs what they should be


@dataclass(slots=True)
class Difference:
    """What is to be done so that there are the jobs that there should be."""

    missing: dict[Key, tuple[int, Priority]] = field(default_factory=dict)  #: project and priority
    surplus: list[Key] = field(default_factory=list)
    better: dict[Key, Priority] = field(default_factory=dict)  #: jobs that are to come earlier than they would

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.better)

    @property
    def release_ids(self) -> set[int]:
        """The releases concerned."""
        return {key[0] for keys in (self.missing, self.surplus, self.better) for key in keys}

    def add(self, row: Row, wanted: Jobs) -> None:
        """Compare the jobs that there are of a release with those that there should be."""
        if not row.jobs and not wanted:
            return
        there = jobs_of(row.jobs) if row.jobs else {}
        for target, priority in wanted:
            job = there.pop(target, None)
            if job is None:
                self.missing[row.id, target] = row.project_id, priority
            elif priority < job.priority:  # one that is there keeps its place, unless for a better
                self.better[row.id, target] = priority
        self.surplus += [(row.id, target) for target, job in there.items() if job.state != CANCELLED]


def carry_out(conn: Connection, difference: Difference) -> None:
    """Insert missing jobs, delete those nobody works on, and tell builders to stop the rest. The releases are locked
    by the caller."""
    if difference.surplus:
        _withdraw(conn, difference.surplus)
    if difference.missing:
        _insert(conn, difference.missing)
    if difference.better:
        _move_up(conn, difference.better)


def _keys(keys: Iterable[Key]) -> list[dict[str, Any]]:
    return [{"release_id": release_id, "target_id": target_id} for release_id, target_id in sorted(keys)]


def _withdraw(conn: Connection, keys: Sequence[Key]) -> None:
    these = rows_of(jobs, _keys(keys))
    mine = (jobs.c.release_id == these.c.release_id, jobs.c.target_id == these.c.target_id)
    conn.execute(delete(jobs).where(*mine, jobs.c.lease_token.is_(None)))
    stop = update(jobs).where(*mine, jobs.c.lease_token.is_not(None), ~jobs.c.cancelled).values(cancelled=True)
    if conn.execute(stop).rowcount:
        wake.notify(conn, wake.CONTROL)


def _insert(conn: Connection, missing: Mapping[Key, tuple[int, Priority]]) -> None:
    new = [
        {"release_id": release_id, "target_id": target_id, "project_id": project_id, "priority": priority.value}
        for (release_id, target_id), (project_id, priority) in missing.items()
    ]
    direct.fetch(conn, _INSERT, {"jobs": json.dumps(new), "days": POPULARITY})


# With the downloads of their projects and with what these are known to need; and a nudge to whoever hands jobs out.
_INSERT = f"""\
WITH new AS (
    SELECT * FROM json_to_recordset(CAST(%(jobs)s AS json))
        AS x(release_id bigint, target_id integer, project_id bigint, priority smallint)
), popularity AS MATERIALIZED (
    SELECT project_id, (
        SELECT sum(d.count) FROM download_days d
        WHERE d.project_id = one.project_id AND d.day > current_date - CAST(%(days)s AS integer)) AS downloads
    FROM (SELECT DISTINCT project_id FROM new) AS one
), made AS (
    INSERT INTO jobs (release_id, target_id, priority, downloads, released, memory_class, disk_class, time_class)
    SELECT new.release_id, new.target_id, new.priority, coalesce(popularity.downloads, 0), r.released,
        coalesce(n.memory_class, 0), coalesce(n.disk_class, 0), coalesce(n.time_class, 0)
    FROM new JOIN popularity USING (project_id) JOIN releases r ON r.id = new.release_id
        LEFT JOIN needs n ON n.project_id = new.project_id AND n.target_id = new.target_id
    ON CONFLICT DO NOTHING
)
SELECT pg_notify('{wake.JOBS}', '')
"""


def _move_up(conn: Connection, better: Mapping[Key, Priority]) -> None:
    types = {"release_id": BigInteger(), "target_id": Integer(), "priority": SmallInteger()}
    rows = [{**key, "priority": better[key["release_id"], key["target_id"]].value} for key in _keys(better)]
    new = given(types, rows)
    mine = (jobs.c.release_id == new.c.release_id, jobs.c.target_id == new.c.target_id)
    conn.execute(update(jobs).where(*mine, jobs.c.priority > new.c.priority).values(priority=new.c.priority))
