# SPDX-License-Identifier: BSD-3-Clause
"""From rows to the planner's facts, and from its plan to rows of ``jobs``. What is decided is master/planner's.

Planners of one release take turns: they lock its row first, so that each sees what the one before it committed. Every
query here is about given releases (or one project's), however many there are in the farm.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import targets as target_rows
from piwheels.db import wake
from piwheels.db.arrays import among, insert_rows, rows_of
from piwheels.db.tables import builds, download_days, feeds, files, jobs, projects, releases, upstream_files
from piwheels.master.planner import (
    Attempt,
    OwnWheel,
    Plan,
    Policy,
    ReleaseFacts,
    UpstreamWheel,
    Verdict,
    plan,
)
from piwheels.master.targets import Target
from piwheels.vocabulary import UpstreamKind

FRESH = timedelta(days=7)  #: a release younger than this is new: its jobs come first
POPULARITY = 30  #: days whose downloads order jobs
BATCH = 200  #: releases that catch_up plans in one transaction

_CAUGHT_UP = "planner"  #: the row of ``feeds`` that says how far catch_up is, and for which targets


def replan_release(conn: Connection, release_id: int, *, policy: Policy | None = None) -> Plan:
    """Make the jobs of a release what they should be, in the transaction that changed one of its facts."""
    return replan(conn, [release_id], policy=policy).get(release_id, Plan(()))


def replan(conn: Connection, release_ids: Sequence[int], *, policy: Policy | None = None) -> dict[int, Plan]:
    """As :func:`replan_release`, for several releases, by id; those that do not exist are left out."""
    ids = sorted(set(release_ids))
    mine = select(releases.c.id, releases.c.wanted).where(among(releases.c.id, ids)).order_by(releases.c.id)
    rows = conn.execute(mine.with_for_update(key_share=True)).all()
    enabled = target_rows.enabled(conn)
    facts = load(conn, [row.id for row in rows if row.wanted])
    # What is not wanted has no jobs, whatever else is true of it; most releases of most projects are such.
    plans = {row.id: Plan(()) for row in rows} | {
        id_: plan(one, enabled, policy or Policy()) for id_, one in facts.items()
    }
    _reconcile(conn, plans)
    return plans


def verdicts(conn: Connection, project_id: int, *, policy: Policy | None = None) -> dict[int, dict[str, Verdict]]:
    """What is decided about every release of a project: release id → name of each enabled target, oldest first →
    verdict. For pages; changes nothing."""
    ids = conn.execute(select(releases.c.id).where(releases.c.project_id == project_id)).scalars().all()
    enabled = target_rows.enabled(conn)
    plans = {id_: plan(one, enabled, policy or Policy()) for id_, one in load(conn, ids).items()}
    return {id_: {verdict.target.name: verdict for verdict in one.verdicts} for id_, one in plans.items()}


# Rows → facts


def load(conn: Connection, release_ids: Sequence[int]) -> dict[int, ReleaseFacts]:
    """The planner's facts of these releases, in a handful of queries, by id."""
    ids = list(release_ids)
    heads = conn.execute(_heads().where(among(releases.c.id, ids))).all() if ids else []
    previous = _previous(conn, {head.project_id for head in heads}, ids)
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
            skip_reason=head.project_skip_reason or head.skip_reason,
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


def _previous(conn: Connection, project_ids: set[int], ids: Sequence[int]) -> dict[int, int]:
    """Release → the one before it, by version."""
    before = func.lag(releases.c.id).over(
        partition_by=releases.c.project_id, order_by=(releases.c.sort_key, releases.c.id)
    )
    ordered = select(releases.c.id, before.label("before")).where(among(releases.c.project_id, project_ids)).subquery()
    rows = conn.execute(select(ordered).where(among(ordered.c.id, ids), ordered.c.before.is_not(None)))
    return {row.id: row.before for row in rows}


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


# Plan → rows


def _reconcile(conn: Connection, plans: Mapping[int, Plan]) -> None:
    """Insert missing jobs, delete those nobody works on, and tell builders to stop the rest."""
    wanted = {(id_, verdict.target.id): verdict for id_, one in plans.items() for verdict in one.jobs}
    query = select(jobs.c.release_id, jobs.c.target_id, jobs.c.priority).where(among(jobs.c.release_id, plans))
    there = {(row.release_id, row.target_id): row.priority for row in conn.execute(query)}
    if surplus := [key for key in there if key not in wanted]:
        _withdraw(conn, surplus)
    if missing := {key: verdict for key, verdict in wanted.items() if key not in there}:
        _insert(conn, missing)
    for (release_id, target_id), priority in there.items():  # one that is there keeps its priority, unless for a better
        verdict = wanted.get((release_id, target_id))
        if verdict is not None and verdict.priority is not None and verdict.priority < priority:
            job = and_(jobs.c.release_id == release_id, jobs.c.target_id == target_id)
            conn.execute(update(jobs).where(job).values(priority=verdict.priority.value))


def _withdraw(conn: Connection, keys: Sequence[tuple[int, int]]) -> None:
    given = rows_of(
        jobs, [{"release_id": release_id, "target_id": target_id} for release_id, target_id in sorted(keys)]
    )
    these = (jobs.c.release_id == given.c.release_id, jobs.c.target_id == given.c.target_id)
    conn.execute(delete(jobs).where(*these, jobs.c.lease_token.is_(None)))
    stop = update(jobs).where(*these, jobs.c.lease_token.is_not(None), ~jobs.c.cancelled).values(cancelled=True)
    if conn.execute(stop).rowcount:
        wake.notify(conn, wake.CONTROL)


def _insert(conn: Connection, missing: Mapping[tuple[int, int | None], Verdict]) -> None:
    heads = {row.id: row for row in conn.execute(_popularity({release_id for release_id, _ in missing}))}
    rows = [
        {
            "release_id": release_id,
            "target_id": target_id,
            "priority": int(verdict.priority or 0),
            "released": heads[release_id].released,
            "downloads": int(heads[release_id].downloads),
        }
        for (release_id, target_id), verdict in missing.items()
    ]
    conn.execute(insert_rows(jobs, rows).on_conflict_do_nothing())
    wake.notify(conn, wake.JOBS)


def _popularity(release_ids: set[int]) -> Select[Any]:
    downloads = (
        select(func.coalesce(func.sum(download_days.c.count), 0))
        .where(
            download_days.c.project_id == releases.c.project_id,
            download_days.c.day > func.current_date() - literal(POPULARITY),
        )
        .scalar_subquery()
    )
    return select(releases.c.id, releases.c.released, downloads.label("downloads")).where(
        among(releases.c.id, release_ids)
    )


# Planning everything again, when what is built for has changed


@dataclass(frozen=True, slots=True)
class Progress:
    """How far :func:`catch_up` is."""

    planned: int  #: releases in this batch
    finished: bool  #: nothing is left to plan


def catch_up(conn: Connection, *, policy: Policy | None = None, batch: int = BATCH) -> Progress:
    """Plan the next batch of releases when the enabled targets (or the policy) are not those that all were planned for.

    Call it again until it has finished; where it is, is in the database. Costs one small query when nothing changed.
    """
    mark = _fingerprint(target_rows.enabled(conn), policy or Policy())
    row = conn.execute(select(feeds).where(feeds.c.name == _CAUGHT_UP).with_for_update()).one_or_none()
    if row is not None and row.detail == f"{mark} finished":
        return Progress(planned=0, finished=True)
    after = row.serial if row is not None and row.detail == mark else 0
    ids = conn.execute(
        select(releases.c.id).where(releases.c.id > after).order_by(releases.c.id).limit(batch)
    ).scalars()
    found = list(ids)
    replan(conn, found, policy=policy)
    finished = len(found) < batch
    stand = {
        "serial": found[-1] if found else after,
        "detail": f"{mark} finished" if finished else mark,
        "updated_at": func.now(),
    }
    conn.execute(
        insert(feeds).values(name=_CAUGHT_UP, **stand).on_conflict_do_update(index_elements=[feeds.c.name], set_=stand)
    )
    return Progress(planned=len(found), finished=finished)


def _fingerprint(targets: Sequence[Target], policy: Policy) -> str:
    """Changes whenever a plan might, though no release did."""
    parts = [
        (t.id, t.python_version, t.abi, t.platforms, t.distribution, t.rank)
        for t in sorted(targets, key=lambda target: target.id or 0)
    ]
    return hashlib.sha256(repr((parts, policy)).encode()).hexdigest()[:32]
