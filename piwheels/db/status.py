# SPDX-License-Identifier: BSD-3-Clause
"""How the farm does, for people and for ``piw-farm --once``: reads only, and bounded however large the farm is.

Counts of what may be huge stop at CEILING or come from PostgreSQL's own estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, FromClause, Select, column, func, select, table

from piwheels.db import release_facts, roles, targets
from piwheels.db.arrays import among
from piwheels.db.pages import BESIDE
from piwheels.db.tables import (
    builds,
    jobs,
    pages,
    projects,
    published,
    releases,
    slaves,
    watches,
)
from piwheels.db.tables import files as wheels
from piwheels.db.tables import roles as role_rows
from piwheels.db.tables import targets as target_rows
from piwheels.master.planner import Code, Policy, plan
from piwheels.vocabulary import WatchState

CEILING = 10_000  #: where counting rows stops
MAX_NAMES = 100  #: watched names shown one by one
MAX_BUILDING = 100
MAX_RECENT = 20
MAX_SLAVES = 100
MAX_ROLES = 100

_CATALOGUE = table("pg_class", column("oid"), column("reltuples"))


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What is still to be done."""

    watches_pending: int  #: watched names not looked at yet
    jobs: int  #: waiting to be built
    building: int
    pages: int  #: stale, but for those that follow the clock
    undelivered: int  #: projects with a built wheel whose pages were never published

    @property
    def nothing(self) -> bool:
        """Whether all is done."""
        return not (self.watches_pending or self.jobs or self.building or self.pages or self.undelivered)


def outstanding(conn: Connection) -> Outstanding:
    """What is still to be done, as one consistent look (for a farm with few projects: it reads all wheels)."""
    undelivered = (
        select(projects.c.id)
        .join(releases, releases.c.project_id == projects.c.id)
        .join(builds, builds.c.release_id == releases.c.id)
        .join(wheels, wheels.c.build_id == builds.c.id)
        .outerjoin(published, published.c.name == projects.c.name)
        .where(published.c.name.is_(None))
        .distinct()
    )
    parts: list[Select[Any]] = [
        select(watches.c.name).where(watches.c.state == WatchState.PENDING),
        select(jobs.c.release_id).where(jobs.c.lease_slave_id.is_(None)),
        select(jobs.c.release_id).where(jobs.c.lease_slave_id.is_not(None)),
        select(pages.c.key).where(~among(pages.c.kind, sorted(BESIDE))),
        undelivered,
    ]
    row = conn.execute(select(*[_at_most(part).label(f"n{i}") for i, part in enumerate(parts)])).one()
    return Outstanding(*row)


def now(conn: Connection) -> datetime:
    """The database's clock, by which all its rows are dated."""
    moment: datetime = conn.execute(select(func.now())).scalar_one()
    return moment


def snapshot(conn: Connection, *, now: datetime) -> dict[str, Any]:
    """Everything the status stream shows but verdicts, as JSON takes it; keys are listed in docs/monitoring.rst."""
    return {
        "at": now.isoformat(),
        "paused": roles.is_paused(conn),
        "roles": _roles(conn),
        "watches": _watches(conn),
        "queue": _queue(conn),
        "building": _building(conn),
        "recent": _recent(conn),
        "slaves": _slaves(conn),
        "pages": {"stale": conn.scalar(select(_at_most(select(pages.c.key)))) or 0},
        "published": _published(conn),
    }


def verdicts(conn: Connection, *, policy: Policy | None = None) -> list[dict[str, Any]]:
    """What is decided about the newest wanted release of each watched project, for each target (bounded)."""
    place = func.row_number().over(partition_by=releases.c.project_id, order_by=releases.c.sort_key.desc())
    ordered = (
        select(projects.c.name, releases.c.id, releases.c.version, place.label("place"))
        .join(watches, watches.c.name == projects.c.name)
        .join(releases, releases.c.project_id == projects.c.id)
        .where(releases.c.wanted, watches.c.position < MAX_NAMES)
        .subquery()
    )
    newest = select(ordered).where(ordered.c.place == 1).order_by(ordered.c.name)
    rows = conn.execute(newest.limit(MAX_NAMES)).all()
    enabled = targets.every(conn)
    facts = release_facts.load(conn, [row.id for row in rows])
    return [
        {
            "project": row.name,
            "version": row.version,
            "target": verdict.target.name,
            "code": verdict.code.name.lower(),
            "words": verdict.words,
            "final": verdict.code.is_final,
        }
        for row in rows
        if row.id in facts
        for verdict in plan(facts[row.id], enabled, policy or Policy()).verdicts
    ]


def served_upstream(decided: Sequence[dict[str, Any]]) -> list[str]:
    """The projects for which PyPI itself has a wheel for every target, of what :func:`verdicts` returned."""
    codes: dict[str, set[str]] = {}
    for verdict in decided:
        codes.setdefault(verdict["project"], set()).add(verdict["code"])
    return sorted(project for project, found in codes.items() if found == {Code.ON_PYPI.name.lower()})


def _at_most(query: Select[Any]) -> Any:
    """A scalar subquery that counts rows but no further than CEILING."""
    return select(func.count()).select_from(query.limit(CEILING).subquery()).scalar_subquery()


def _roles(conn: Connection) -> list[dict[str, Any]]:
    query = select(role_rows, (func.now() - role_rows.c.seen_at).label("age")).order_by(role_rows.c.name)
    return [
        {
            "name": row.name,
            "pid": row.pid,
            "host": row.host,
            "started_at": row.started_at.isoformat(),
            "seen_at": row.seen_at.isoformat(),
            "age": round(row.age.total_seconds(), 1),
            "state": row.state,
        }
        for row in conn.execute(query.limit(MAX_ROLES))
    ]


def _watches(conn: Connection) -> dict[str, Any]:
    counts = dict.fromkeys((state.value for state in WatchState), 0)
    grouped = select(watches.c.state, func.count()).group_by(watches.c.state)
    counts.update({state.value: count for state, count in conn.execute(grouped)})
    names = select(watches.c.name, watches.c.state, watches.c.detail).order_by(watches.c.position, watches.c.name)
    shown = [
        {"name": row.name, "state": row.state.value, "detail": row.detail}
        for row in conn.execute(names.limit(MAX_NAMES))
    ]
    return {**counts, "names": shown}


def _queue(conn: Connection) -> dict[str, int]:
    waiting = select(jobs.c.release_id).where(jobs.c.lease_slave_id.is_(None))
    building = select(jobs.c.release_id).where(jobs.c.lease_slave_id.is_not(None))
    row = conn.execute(select(_at_most(waiting).label("waiting"), _at_most(building).label("building"))).one()
    return {"waiting": row.waiting, "building": row.building}


def _building(conn: Connection) -> list[dict[str, Any]]:
    query = (
        select(
            projects.c.name.label("project"),
            releases.c.version,
            target_rows.c.name.label("target"),
            slaves.c.label,
            jobs.c.lease_slave_id,
            jobs.c.lease_started,
            jobs.c.lease_token,
            jobs.c.cancelled,
        )
        .select_from(
            _named(jobs, jobs.c.release_id, jobs.c.target_id).join(slaves, slaves.c.id == jobs.c.lease_slave_id)
        )
        .where(jobs.c.lease_expires.is_not(None))
        .order_by(jobs.c.lease_started)
        .limit(MAX_BUILDING)
    )
    return [
        {
            "project": row.project,
            "version": row.version,
            "target": row.target,
            "slave": row.label or str(row.lease_slave_id),
            "slave_id": row.lease_slave_id,
            "started": row.lease_started.isoformat(),
            "token": row.lease_token.hex,
            "cancelled": row.cancelled,
        }
        for row in conn.execute(query)
    ]


def _recent(conn: Connection) -> list[dict[str, Any]]:
    query = (
        select(
            builds,
            projects.c.name.label("project"),
            releases.c.version,
            target_rows.c.name.label("target"),
        )
        .select_from(_named(builds, builds.c.release_id, builds.c.target_id))
        .order_by(builds.c.id.desc())
        .limit(MAX_RECENT)
    )
    return [
        {
            "build_id": row.id,
            "project": row.project,
            "version": row.version,
            "target": row.target,
            "outcome": row.outcome.value,
            "reason": row.reason.value if row.reason else None,
            "detail": row.detail,
            "duration": round(row.duration.total_seconds(), 1),
            "finished": row.finished.isoformat(),
        }
        for row in conn.execute(query)
    ]


def _named(start: Any, release_id: Any, target_id: Any) -> FromClause:
    """A table of attempts joined with what they are of."""
    joined: FromClause = (
        start.join(releases, releases.c.id == release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .join(target_rows, target_rows.c.id == target_id)
    )
    return joined


def _slaves(conn: Connection) -> list[dict[str, Any]]:
    query = (
        select(slaves, target_rows.c.name.label("target"))
        .select_from(slaves.outerjoin(target_rows))
        .where(slaves.c.enabled)
        .order_by(slaves.c.last_seen.desc().nulls_last(), slaves.c.id)
        .limit(MAX_SLAVES)
    )
    return [
        {
            "id": row.id,
            "label": row.label,
            "target": row.target,
            "wish": row.wish.value,
            "last_seen": row.last_seen.isoformat() if row.last_seen else None,
            "stats": row.stats,
        }
        for row in conn.execute(query)
    ]


def _published(conn: Connection) -> dict[str, int]:
    listed = select(published.c.name).where(published.c.listed)
    return {
        "projects": _size(conn, "published", select(published.c.name)),
        "listed": _size(conn, "published", listed),
        "files": _size(conn, "files", select(wheels.c.id)),
    }


def _size(conn: Connection, name: str, query: Select[Any]) -> int:
    """How many rows: counted up to CEILING, and beyond it PostgreSQL's estimate for the whole table."""
    counted = conn.scalar(select(_at_most(query))) or 0
    if counted < CEILING:
        return int(counted)
    estimate = select(_CATALOGUE.c.reltuples).where(_CATALOGUE.c.oid == func.to_regclass(f"public.{name}"))
    return max(int(counted), int(conn.scalar(estimate) or 0))
