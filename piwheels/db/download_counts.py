# SPDX-License-Identifier: BSD-3-Clause
"""Downloads of the whole farm by day and by what was told of the machine: few rows, whoever fetches what.

Written with each batch of downloads, in its transaction (db.downloads), so that what pages show of years is a sum of
some hundred rows. What agents tell is strangers' text: of each kind so many values a day have names, others are counted
with what was not told. One stats role writes here, so nobody else adds a value meanwhile.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, LargeBinary, Text, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from piwheels.db.arrays import among, given
from piwheels.db.tables import builds, download_counts, files, releases
from piwheels.versions import sort_key
from piwheels.vocabulary import Outcome
from piwheels.wheelfile import parse_wheel_name

ALL = "all"
TOLD = ("arch", "distro", "python", "installer")  #: kinds of detail, as Fetched calls them
MAX_VALUES = 40  #: that have names, of each kind and day


@dataclass(frozen=True, slots=True)
class Fetched:
    """A download, as far as it is counted here."""

    day: date
    project_id: int
    filename: str
    arch: str
    distro: str
    python: str
    installer: str


def add(conn: Connection, fetched: Sequence[Fetched]) -> None:
    """Count these downloads."""
    counts: Counter[tuple[date, str, str]] = Counter()
    saved: defaultdict[tuple[date, str, str], timedelta] = defaultdict(timedelta)
    named = _names(conn, {one.day for one in fetched})
    took = _durations(conn, fetched)
    for one in fetched:
        everything = (one.day, ALL, "")
        counts[everything] += 1
        saved[everything] += took.get((one.project_id, one.filename), timedelta(0))
        for kind in TOLD:
            counts[one.day, kind, _value(named[one.day, kind], getattr(one, kind))] += 1
    row = insert(download_counts)
    old, new = download_counts.c, row.excluded
    statement = row.on_conflict_do_update(
        index_elements=[old.day, old.kind, old.value],
        set_={"count": old.count + new.count, "saved": old.saved + new.saved},
    )
    values = [
        {"day": key[0], "kind": key[1], "value": key[2], "count": count, "saved": saved.get(key, timedelta(0))}
        for key, count in sorted(counts.items())
    ]
    conn.execute(statement, values)


def _names(conn: Connection, days: set[date]) -> Mapping[tuple[date, str], set[str]]:
    """The values that have names already."""
    counts = download_counts.c
    query = select(counts.day, counts.kind, counts.value).where(among(counts.day, days), counts.value != "")
    found: defaultdict[tuple[date, str], set[str]] = defaultdict(set)
    for row in conn.execute(query):
        found[row.day, row.kind].add(row.value)
    return found


def _value(named: set[str], value: str) -> str:
    if value and value not in named:
        if len(named) >= MAX_VALUES:
            return ""
        named.add(value)
    return value


def _durations(conn: Connection, fetched: Sequence[Fetched]) -> dict[tuple[int, str], timedelta]:
    """How long the builds of these wheels took: found by project and version, as both have an index."""
    wanted = {(one.project_id, one.filename) for one in fetched}
    rows = [
        {"project_id": project_id, "filename": name, "sort_key": sort_key(str(parse_wheel_name(name).version))}
        for project_id, name in sorted(wanted)
    ]
    types: Mapping[str, TypeEngine[Any]] = {"project_id": BigInteger(), "filename": Text(), "sort_key": LargeBinary()}
    wheel = given(types, rows)
    query = (
        select(wheel.c.project_id, wheel.c.filename, func.max(builds.c.duration).label("took"))
        .join(releases, (releases.c.project_id == wheel.c.project_id) & (releases.c.sort_key == wheel.c.sort_key))
        .join(builds, (builds.c.release_id == releases.c.id) & (builds.c.outcome == Outcome.SUCCESS))
        .join(files, (files.c.build_id == builds.c.id) & (files.c.filename == wheel.c.filename))
        .group_by(wheel.c.project_id, wheel.c.filename)
    )
    return {(row.project_id, row.filename): row.took for row in conn.execute(query)}
