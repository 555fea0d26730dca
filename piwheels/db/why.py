# SPDX-License-Identifier: BSD-3-Clause
"""The facts behind one verdict, for `piw-queue why`; the words are master/why's. Changes nothing."""

from datetime import timedelta
from typing import Any

from packaging.utils import canonicalize_name
from sqlalchemy import Connection, Row, func, select

from piwheels.db import planning, release_facts, roles
from piwheels.db import targets as target_rows
from piwheels.db.tables import builds, jobs, projects, releases, slaves
from piwheels.db.tables import targets as target_table
from piwheels.master.planner import Policy
from piwheels.master.targets import Target
from piwheels.master.why import COUNTED, Case, JobFacts, Try, why
from piwheels.versions import parse_or_none
from piwheels.vocabulary import Priority

LATELY = timedelta(minutes=10)  #: a builder that was not heard of for longer is away
TRIES = 20  #: attempts that are looked at
VERSIONS = 20_000  #: releases of a project among which an equal version is looked for


def explain(conn: Connection, project: str, version: str, target: str, *, policy: Policy | None = None) -> list[str]:
    """Why this release is, or is not, built for this target: lines of text, the first of which says how it stands.

    Names are taken as people write them: ``Django``, ``2.0`` for ``2.0.0``. What is not known is said in the one line.
    """
    targets = target_rows.every(conn)
    chosen = next((one for one in targets if one.name == target), None)
    if chosen is None:
        return [f"there is no target {target}; there are: {', '.join(one.name for one in targets) or 'none'}"]
    name = str(canonicalize_name(project))
    project_id = conn.execute(select(projects.c.id).where(projects.c.name == name)).scalar_one_or_none()
    if project_id is None:
        return [f"{name}: no such project is known here"]
    release_id = _release(conn, project_id, version)
    facts = release_facts.load(conn, [release_id]).get(release_id) if release_id else None
    if release_id is None or facts is None:
        return [f"{name} {version}: no such release is known here"]
    now = conn.execute(select(func.now())).scalar_one()
    heard = slaves.c.last_seen > func.now() - LATELY
    serving = select(func.count(), func.count().filter(heard)).where(slaves.c.target_id == chosen.id, slaves.c.enabled)
    builders, lately = conn.execute(serving).one()
    progress = planning.progress(conn)
    return why(
        Case(
            facts=facts,
            target=chosen,
            targets=targets,
            policy=policy or Policy(),
            now=now,
            job=_job(conn, release_id, chosen),
            tries=_tries(conn, release_id),
            builders=builders,
            heard=lately,
            paused=roles.is_paused(conn),
            planning=progress.share if progress is not None and progress.finished is None else None,
        )
    )


def _release(conn: Connection, project_id: int, version: str) -> int | None:
    exact = select(releases.c.id).where(releases.c.project_id == project_id, releases.c.version == version)
    found: int | None = conn.execute(exact).scalar_one_or_none()
    wanted = parse_or_none(version)
    if found is not None or wanted is None:
        return found
    all_ = select(releases.c.id, releases.c.version).where(releases.c.project_id == project_id).limit(VERSIONS)
    return next((row.id for row in conn.execute(all_) if parse_or_none(row.version) == wanted), None)


def _job(conn: Connection, release_id: int, target: Target) -> JobFacts | None:
    query = (
        select(jobs, slaves.c.label, jobs.c.lease_slave_id.label("builder"))
        .outerjoin(slaves, slaves.c.id == jobs.c.lease_slave_id)
        .where(jobs.c.release_id == release_id, jobs.c.target_id == target.id)
    )
    row = conn.execute(query).one_or_none()
    if row is None:
        return None
    leased = row.lease_token is not None
    return JobFacts(
        priority=Priority(row.priority),
        ready_at=row.ready_at,
        strikes=row.strikes,
        ahead=0 if leased else _ahead(conn, row),
        leased=leased,
        builder=_builder(row),
        started=row.lease_started,
        cancelled=row.cancelled,
    )


def _builder(row: Row[Any]) -> str:
    return "" if row.builder is None else f"builder {row.builder}{f' ({row.label})' if row.label else ''}"


def _ahead(conn: Connection, row: Row[Any]) -> int:
    """How many jobs come before it, of those of the target that need the same of a builder. Reads no more than COUNTED,
    in the order of the index that jobs are claimed by."""
    first = (
        select(jobs.c.release_id)
        .where(
            jobs.c.target_id == row.target_id,
            jobs.c.room == row.room,
            jobs.c.lease_token.is_(None),
            ~jobs.c.resting,
        )
        .order_by(jobs.c.priority, jobs.c.downloads.desc(), jobs.c.released.desc(), jobs.c.release_id)
        .limit(COUNTED)
    )
    found = conn.execute(first).scalars().all()
    return found.index(row.release_id) if row.release_id in found else len(found)


def _tries(conn: Connection, release_id: int) -> list[Try]:
    query = (
        select(builds, target_table.c.name.label("target"), slaves.c.label, builds.c.slave_id.label("builder"))
        .join(target_table, target_table.c.id == builds.c.target_id)
        .outerjoin(slaves, slaves.c.id == builds.c.slave_id)
        .where(builds.c.release_id == release_id)
        .order_by(builds.c.id.desc())
        .limit(TRIES)
    )
    return [
        Try(row.target, row.finished, row.outcome, row.reason, row.detail, _builder(row), row.superseded)
        for row in conn.execute(query)
    ]
