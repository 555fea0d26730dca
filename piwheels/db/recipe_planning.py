# SPDX-License-Identifier: BSD-3-Clause
"""Planning anew what a changed recipe concerns, in batches; where it is, is in the database.

Any number of processes may do it at the same time, each with other rows, and be killed at any moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Text, and_, cast, delete, func, select, update

from piwheels.db import recipes as recipe_rows
from piwheels.db.arrays import among
from piwheels.db.pages import mark_all_stale
from piwheels.db.planning import replan
from piwheels.db.tables import builds, jobs, projects, recipe_changes, releases
from piwheels.master.planner import Policy
from piwheels.master.recipes import matcher
from piwheels.vocabulary import Outcome, PageKind

NAMES = 200  #: names whose projects are planned in one transaction
WINDOW = 5000  #: projects that one transaction compares with a pattern
RELEASES = 1000  #: releases after which a transaction takes no more projects; a single one may have more


PATIENCE = timedelta(seconds=60)  #: for transactions that may plan by earlier recipes; none of ours lasts that long


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch came to."""

    projects: int = 0
    finished: bool = False  #: nothing is left to do, as far as could be seen
    busy: bool = False  #: what is left has to wait a little, or others are at it


def replan_next(conn: Connection, *, policy: Policy) -> Batch:
    """Plan the next projects that a changed recipe concerns. Call it again until it has finished."""
    if _notice(conn):
        return Batch()
    noticed = recipe_rows.in_order().where(recipe_changes.c.noticed.is_not(None)).limit(NAMES)
    rows = conn.execute(noticed.with_for_update(skip_locked=True)).all()
    if not rows:
        left = conn.execute(select(func.count()).select_from(recipe_changes)).scalar_one()
        return Batch(finished=not left, busy=bool(left))
    safe = _safe(conn, rows)
    if not safe:
        return Batch(busy=True)
    exact = [row for row in safe if not _is_wild(row.pattern)]
    return Batch(projects=_names(conn, exact, policy) if exact else _pattern(conn, safe[0], policy))


def _notice(conn: Connection) -> bool:
    """Note which transaction is the first to see new rows; whether there were some."""
    new = update(recipe_changes).where(recipe_changes.c.noticed.is_(None))
    return conn.execute(new.values(noticed=cast(cast(func.pg_current_xact_id(), Text), BigInteger))).rowcount > 0


def _safe(conn: Connection, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Those of which all transactions have ended that may have read what recipes there were before.

    Such a one has written, so it has a number, and one below that of the transaction that noticed the change. Without
    this, a release that it adds, unseen by us as it has not committed, would keep the jobs of the earlier recipe.
    """
    oldest = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
    known, now = conn.execute(select(oldest, func.now())).one()
    return [row for row in rows if row.noticed <= known or now - row.since > PATIENCE]


def _is_wild(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _names(conn: Connection, rows: Sequence[Row[Any]], policy: Policy) -> int:
    named = among(projects.c.name, [row.pattern for row in rows])
    query = select(projects.c.id, projects.c.name).where(named).order_by(projects.c.name)
    found: list[Row[Any]] = list(conn.execute(query))
    taken = _affordable(conn, found)
    left = {row.name for row in found} - {row.name for row in taken}
    resets = {row.pattern for row in rows if row.resets}
    _plan(conn, {row.id: row.name for row in taken if row.name in resets}, policy, resets=True)
    _plan(conn, {row.id: row.name for row in taken if row.name not in resets}, policy, resets=False)
    done = [row.pattern for row in rows if row.pattern not in left]
    conn.execute(delete(recipe_changes).where(among(recipe_changes.c.pattern, done)))
    return len(taken)


def _pattern(conn: Connection, row: Row[Any], policy: Policy) -> int:
    matches = matcher(row.pattern)
    start = row.pattern.replace("?", "*").partition("*")[0]  # what every name that fits begins with
    beyond = and_(projects.c.name > row.after, projects.c.name >= start)
    window = select(projects.c.id, projects.c.name).where(beyond).order_by(projects.c.name).limit(WINDOW)
    seen: list[Row[Any]] = list(conn.execute(window))
    fitting = [one for one in seen if matches(one.name)]
    taken = _affordable(conn, fitting)
    _plan(conn, {one.id: one.name for one in taken}, policy, resets=row.resets)
    this = recipe_changes.c.pattern == row.pattern
    if len(taken) < len(fitting):
        conn.execute(update(recipe_changes).where(this).values(after=taken[-1].name))
    elif len(seen) == WINDOW:
        conn.execute(update(recipe_changes).where(this).values(after=seen[-1].name))
    else:
        conn.execute(delete(recipe_changes).where(this))
    return len(taken)


def _affordable(conn: Connection, found: Sequence[Row[Any]]) -> list[Row[Any]]:
    """As many of these projects, from the first, as one transaction is to plan; at least one."""
    some = found[:RELEASES]
    mine = among(releases.c.project_id, [row.id for row in some])
    counted = select(releases.c.project_id, func.count()).where(mine).group_by(releases.c.project_id)
    counts = {row[0]: row[1] for row in conn.execute(counted)}
    taken: list[Row[Any]] = []
    total = 0
    for row in some:
        total += counts.get(row.id, 0)
        if taken and total > RELEASES:
            break
        taken.append(row)
    return taken


def _plan(conn: Connection, found: Mapping[int, str], policy: Policy, *, resets: bool) -> None:
    if not found:
        return
    mine = among(releases.c.project_id, list(found))
    ids = list(conn.scalars(select(releases.c.id).where(mine).order_by(releases.c.id)))
    if resets:
        _forget_failures(conn, ids)
    replan(conn, ids, policy=policy)
    mark_all_stale(conn, PageKind.PROJECT, list(found.values()), "a recipe changed")


def _forget_failures(conn: Connection, ids: Sequence[int]) -> None:
    """Attempts that failed were made in another way than the next will be."""
    failed = and_(builds.c.outcome == Outcome.FAILED, ~builds.c.superseded)
    conn.execute(update(builds).where(among(builds.c.release_id, ids), failed).values(superseded=True))
    struck = and_(jobs.c.strikes > 0, jobs.c.lease_token.is_(None))
    conn.execute(update(jobs).where(among(jobs.c.release_id, ids), struck).values(strikes=0, ready_at=func.now()))
