# SPDX-License-Identifier: BSD-3-Clause
"""From rows to the planner's facts of a release, whole, for those who want to know why. How jobs come to be is
db/planning's, which reads the same rows in short."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Select, and_, func, or_, select, tuple_

from piwheels.db import recipes
from piwheels.db.arrays import among
from piwheels.db.tables import builds, files, jobs, projects, releases, upstream_files
from piwheels.master.planner import Attempt, OwnWheel, ReleaseFacts, UpstreamWheel
from piwheels.vocabulary import UpstreamKind

FRESH = timedelta(days=7)  #: a release younger than this is new: its jobs come first


def load(conn: Connection, release_ids: Sequence[int]) -> dict[int, ReleaseFacts]:
    """The planner's facts of these releases, in a handful of queries, by id."""
    ids = list(release_ids)
    if not ids:
        return {}
    heads = conn.execute(_heads().where(among(releases.c.id, ids))).all()
    said = recipes.effective(conn, {head.name for head in heads})
    previous = _previous(conn, ids)
    wheels, sdists = _upstream(conn, ids)
    own = _own_wheels(conn, [*ids, *previous.values()])
    before = _wheel_names(conn, set(previous.values()) - set(ids))
    attempts, leased = _attempts(conn, ids), _leased(conn, ids)

    def names(release_id: int | None) -> tuple[str, ...]:
        if release_id is None:
            return ()
        theirs = before.get(release_id) or tuple(wheel.filename for wheel in wheels.get(release_id, ()))
        return (*theirs, *(wheel.filename for wheel in own.get(release_id, ())))

    return {
        head.id: ReleaseFacts(
            project=head.name,
            version=head.version,
            has_sdist=head.id in sdists,
            wanted=head.wanted,
            skip_reason=said[head.name].skip or head.project_skip_reason or head.skip_reason,
            status=head.status,
            yanked=head.yanked,
            yanked_reason=head.yanked_reason,
            requires_python=head.requires_python,
            upstream=tuple(wheels.get(head.id, ())),
            wheels=tuple(own.get(head.id, ())),
            attempts=tuple(attempts.get(head.id, ())),
            previous=names(previous.get(head.id)),
            leased=frozenset(leased.get(head.id, ())),
            fresh=head.fresh,
            rebuild=said[head.name].rebuild,
            prereleases=said[head.name].prereleases,
            limited=frozenset(said[head.name].targets),
        )
        for head in heads
    }


def _heads() -> Select[Any]:
    return select(
        releases,
        (releases.c.released > func.now() - FRESH).label("fresh"),
        projects.c.name,
        projects.c.status,
        projects.c.skip_reason.label("project_skip_reason"),
    ).join(projects, projects.c.id == releases.c.project_id)


def _previous(conn: Connection, ids: Sequence[int]) -> dict[int, int]:
    """Release → the one before it, by version."""
    older = releases.alias("older")
    before = (
        select(older.c.id)
        .where(
            older.c.project_id == releases.c.project_id,
            tuple_(older.c.sort_key, older.c.id) < tuple_(releases.c.sort_key, releases.c.id),
        )
        .order_by(older.c.sort_key.desc(), older.c.id.desc())
        .limit(1)
        .correlate(releases)
        .scalar_subquery()
    )
    rows = conn.execute(select(releases.c.id, before.label("before")).where(among(releases.c.id, ids)))
    return {row.id: row.before for row in rows if row.before is not None}


def _upstream(conn: Connection, ids: Sequence[int]) -> tuple[dict[int, list[UpstreamWheel]], set[int]]:
    """PyPI's wheels by release, and the releases with an sdist that can be fetched and verified."""
    usable = and_(
        upstream_files.c.kind == UpstreamKind.SDIST,
        upstream_files.c.url.is_not(None),
        upstream_files.c.sha256.is_not(None),
    )
    query = (
        select(upstream_files)
        .where(among(upstream_files.c.release_id, ids), or_(upstream_files.c.kind == UpstreamKind.WHEEL, usable))
        .order_by(upstream_files.c.filename)
    )
    wheels: dict[int, list[UpstreamWheel]] = defaultdict(list)
    sdists = set()
    for row in conn.execute(query):
        if row.kind is UpstreamKind.SDIST:
            sdists.add(row.release_id)
        else:
            wheels[row.release_id].append(UpstreamWheel(row.filename, row.requires_python, row.yanked))
    return wheels, sdists


def _wheel_names(conn: Connection, ids: set[int]) -> dict[int, tuple[str, ...]]:
    query = select(upstream_files.c.release_id, upstream_files.c.filename).where(
        among(upstream_files.c.release_id, ids), upstream_files.c.kind == UpstreamKind.WHEEL
    )
    found: dict[int, list[str]] = defaultdict(list)
    for row in conn.execute(query):
        found[row.release_id].append(row.filename)
    return {id_: tuple(names) for id_, names in found.items()}


def _own_wheels(conn: Connection, ids: Sequence[int]) -> dict[int, list[OwnWheel]]:
    query = (
        select(builds.c.release_id, builds.c.target_id, files.c.filename, files.c.requires_python, files.c.yanked)
        .join(files, files.c.build_id == builds.c.id)
        .where(among(builds.c.release_id, ids))
        .order_by(files.c.id)
    )
    found: dict[int, list[OwnWheel]] = defaultdict(list)
    for row in conn.execute(query):
        found[row.release_id].append(OwnWheel(row.filename, row.target_id, row.requires_python, row.yanked))
    return found


def _attempts(conn: Connection, ids: Sequence[int]) -> dict[int, list[Attempt]]:
    query = (
        select(builds.c.release_id, builds.c.target_id, builds.c.outcome, builds.c.reason)
        .where(among(builds.c.release_id, ids), ~builds.c.superseded)
        .order_by(builds.c.id)
    )
    found: dict[int, list[Attempt]] = defaultdict(list)
    for row in conn.execute(query):
        found[row.release_id].append(Attempt(row.target_id, row.outcome, row.reason))
    return found


def _leased(conn: Connection, ids: Sequence[int]) -> dict[int, set[int]]:
    """The targets for which a release is being built, unless the builder is to stop."""
    query = select(jobs.c.release_id, jobs.c.target_id).where(
        among(jobs.c.release_id, ids), jobs.c.lease_token.is_not(None), ~jobs.c.cancelled
    )
    found: dict[int, set[int]] = defaultdict(set)
    for row in conn.execute(query):
        found[row.release_id].add(row.target_id)
    return found
