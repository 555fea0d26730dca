# SPDX-License-Identifier: BSD-3-Clause
"""The rows that projects' pages are made of, read for many projects at once: as many small statements for one project
as for a hundred, each by an index.

Each statement sees what is committed when it runs, so the rows of one project may be of two moments. That does no harm:
whatever was committed between has marked the page again (db.pages), and the model ignores rows whose parents it lacks.
"""

import hashlib
import pickle
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection

from piwheels.db import direct

MONTH = timedelta(days=30)
YEAR = timedelta(days=364)  #: whole weeks, whose downloads are told day by day
OLDER = "before"  #: stands for the days of all downloads before that

Row = tuple[Any, ...]

_HEADS = f"""\
SELECT p.id, p.name, p.display_name, p.summary, p.status, p.status_reason, p.skip_reason, p.serial,
    (SELECT string_agg(n.name, E'\\n') FROM project_names n WHERE n.project_id = p.id),
    (SELECT string_agg(coalesce(CAST(x.day AS text), '{OLDER}') || ' ' || x.count, E'\\n' ORDER BY x.day) FROM (
        SELECT CASE WHEN d.day > %(since)s THEN d.day END AS day, sum(d.count) AS count
        FROM download_days d WHERE d.project_id = p.id GROUP BY 1) AS x)
FROM projects p WHERE {direct.among("p.name", "names", "text")}
"""

_RELEASES = f"""\
SELECT r.project_id, r.id, r.version, r.sort_key, r.released, r.yanked, r.yanked_reason, r.skip_reason, r.wanted,
    r.requires_python
FROM releases r WHERE {direct.among("r.project_id", "ids", "bigint")} ORDER BY r.id
"""

# Of sdists it matters that there is one to build from.
_UPSTREAM = f"""\
SELECT u.release_id, CASE u.kind WHEN 'wheel' THEN u.filename END, u.requires_python, u.yanked
FROM upstream_files u WHERE {direct.among("u.release_id", "ids", "bigint")}
    AND (u.kind = 'wheel' OR (u.kind = 'sdist' AND u.url IS NOT NULL AND u.sha256 IS NOT NULL))
ORDER BY u.release_id, u.filename
"""

_ALL_UPSTREAM = f"""\
SELECT u.release_id, u.filename, u.size, u.sha256, u.url, u.requires_python, u.yanked, u.yanked_reason, u.uploaded
FROM upstream_files u WHERE {direct.among("u.release_id", "ids", "bigint")} ORDER BY u.release_id, u.filename
"""

_BUILDS = f"""\
SELECT b.id, b.release_id, b.target_id, b.finished, b.duration, b.reason, b.detail, b.superseded, b.has_log
FROM builds b WHERE {direct.among("b.release_id", "ids", "bigint")} ORDER BY b.id
"""

_FILES = f"""\
SELECT f.id, f.build_id, f.filename, f.size, f.sha256, f.metadata_sha256, f.requires_python, f.yanked, f.yanked_reason,
    f.uploaded
FROM files f WHERE {direct.among("f.build_id", "ids", "bigint")} ORDER BY f.id
"""

_NEEDS = f"""\
SELECT d.file_id, d.tool, d.name FROM dependencies d WHERE {direct.among("d.file_id", "ids", "bigint")}
ORDER BY d.file_id, d.tool, d.name
"""

_BOUND = f"""\
SELECT n.filename, n.space, n.sha256 FROM names n WHERE {direct.among("n.filename", "names", "text")}
ORDER BY n.filename, n.space
"""

_LEASED = f"""\
SELECT j.release_id, j.target_id FROM jobs j WHERE {direct.among("j.release_id", "ids", "bigint")}
    AND j.lease_token IS NOT NULL AND NOT j.cancelled
ORDER BY j.release_id, j.target_id
"""


@dataclass(slots=True)
class ProjectRows:
    """One project's."""

    head: Row
    today: date  #: UTC's
    releases: list[Row] = field(default_factory=list)  #: by id
    upstream: list[Row] = field(default_factory=list)  #: by release
    builds: list[Row] = field(default_factory=list)  #: by id
    files: list[Row] = field(default_factory=list)  #: by id
    needs: list[Row] = field(default_factory=list)  #: by file
    bound: list[Row] = field(default_factory=list)  #: what its files' names stand for, by name
    leased: list[Row] = field(default_factory=list)  #: by release
    addresses: list[Row] = field(default_factory=list)  #: all files of PyPI's with what an index says of them

    def fingerprint(self, *others: object) -> bytes:
        """Changes whenever a row does that :func:`read` reads; ``others``: whatever else the pages depend on, of plain
        types."""
        own = (self.head, self.today, self.releases, self.upstream, self.builds, self.files, self.addresses)
        # Pickle writes equal values in the same way unless one of them is there twice as one object, which at worst
        # has pages rendered that need not be.
        return hashlib.blake2b(pickle.dumps((own, others), 5), digest_size=16).digest()


def read(conn: Connection, names: Collection[str], *, today: date, addresses: bool = False) -> dict[str, ProjectRows]:
    """The rows of those of these projects that there are, by name. ``today`` is UTC's; ``addresses``: with what a
    merged index says of PyPI's files."""
    heads = direct.fetch(conn, _HEADS, {"names": list(names), "since": today - YEAR})
    found: dict[int, ProjectRows] = {row[0]: ProjectRows(row, today) for row in heads}
    if not found:
        return {}
    of_release = {}
    for row in _fetch(conn, _RELEASES, found):
        found[row[0]].releases.append(row)
        of_release[row[1]] = found[row[0]]
    for row in _fetch(conn, _UPSTREAM, of_release):
        of_release[row[0]].upstream.append(row)
    for row in _fetch(conn, _ALL_UPSTREAM, of_release if addresses else ()):
        of_release[row[0]].addresses.append(row)
    of_build = {}
    for row in _fetch(conn, _BUILDS, of_release):
        of_release[row[1]].builds.append(row)
        of_build[row[0]] = of_release[row[1]]
    for row in _fetch(conn, _FILES, of_build):
        of_build[row[1]].files.append(row)
    return {one.head[1]: one for one in found.values()}


def read_rest(conn: Connection, found: Collection[ProjectRows]) -> None:
    """The rows that are read only of projects that are to be rendered. What a wheel needs and what its name stands for
    is written with it and never changed; leases come and go without a page being marked."""
    of_file = {row[0]: one for one in found for row in one.files}
    of_name = defaultdict(list)
    for one in found:
        for filename in {row[2] for row in one.files}:
            of_name[filename].append(one)
    if of_name:
        for row in direct.fetch(conn, _BOUND, {"names": list(of_name)}):
            for one in of_name[row[0]]:
                one.bound.append(row)
    for row in _fetch(conn, _NEEDS, of_file):
        of_file[row[0]].needs.append(row)
    wanted = {row[1]: one for one in found for row in one.releases if row[8]}
    for row in _fetch(conn, _LEASED, wanted):
        wanted[row[0]].leased.append(row)


def _fetch(conn: Connection, statement: str, ids: Iterable[int]) -> Sequence[Row]:
    given = list(ids)
    return direct.fetch(conn, statement, {"ids": given}) if given else ()


def grouped(rows: Iterable[Row], place: int = 0) -> Mapping[Any, list[Row]]:
    """Rows by one of their columns."""
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[place]].append(row)
    return found
