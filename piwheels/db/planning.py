# SPDX-License-Identifier: BSD-3-Clause
"""Planning as rows change: jobs made what they should be, for given releases and for all. What is decided is
master/planner's, by way of master/bulk; why, for people, is told by db/why.

Planners of one release take turns: they lock its row first, and read which targets there are after that, so that each
sees what the one before it committed. No statement here looks at more than it is about, whatever there is.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy import Row as Result
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import plan_rows, recipes, release_facts
from piwheels.db import targets as target_rows
from piwheels.db.plan_rows import Difference, Position
from piwheels.db.tables import planning, releases
from piwheels.master.bulk import Bulk, Found, Row, bulk_of
from piwheels.master.planner import Policy, Verdict, plan
from piwheels.master.recipes import Book
from piwheels.master.targets import Target

BATCH = 2000  #: releases that catch_up plans in one transaction; some 100 ms
PATIENCE = timedelta(seconds=60)  #: for transactions that may plan for earlier targets; none of ours lasts that long
PAUSE = 0.05  #: seconds between two looks whether they have ended


def replan_release(conn: Connection, release_id: int, *, policy: Policy | None = None) -> None:
    """Make the jobs of a release what they should be, in the transaction that changed one of its facts."""
    replan(conn, [release_id], policy=policy)


def replan(
    conn: Connection, release_ids: Collection[int], *, policy: Policy | None = None, locked: bool = False
) -> None:
    """As :func:`replan_release`, for several releases; those that do not exist are left out. ``locked``: this
    transaction has locked them all, in a statement before this."""
    if release_ids:
        if not locked:
            plan_rows.lock(conn, release_ids)
        _replan(conn, set(release_ids), policy or Policy(), hints=None)


def verdicts(conn: Connection, project_id: int, *, policy: Policy | None = None) -> dict[int, dict[str, Verdict]]:
    """What is decided about every release of a project: release id → name of each enabled target, oldest first →
    verdict. For pages; changes nothing."""
    ids = conn.execute(select(releases.c.id).where(releases.c.project_id == project_id)).scalars().all()
    targets = target_rows.every(conn)
    plans = {id_: plan(one, targets, policy or Policy()) for id_, one in release_facts.load(conn, ids).items()}
    return {id_: {verdict.target.name: verdict for verdict in one.verdicts} for id_, one in plans.items()}


# Given releases


def _replan(conn: Connection, ids: Collection[int], policy: Policy, *, hints: Mapping[int, bool] | None) -> int:
    """How many of these, which are locked, had other jobs than they should. ``hints``: whether the release before each
    is known to have native code; without them that is looked up where it matters."""
    targets, mark = target_rows.read(conn, recipes.MARK)
    bulk = bulk_of(targets, policy)
    rows = plan_rows.of(conn, ids)
    found = _look(bulk, rows, recipes.book(conn, mark=mark or ""))
    if hints is None:
        hints = _hints(conn, bulk, found)
    difference = Difference()
    for row in rows:
        difference.add(row, bulk.jobs(found[row.id].situation, before=hints.get(row.id, False)))
    plan_rows.carry_out(conn, difference)
    return len(difference.release_ids)


def plan_new(conn: Connection, rows: Sequence[Row], *, policy: Policy) -> None:
    """Make the jobs of releases that were added in this transaction, with their projects: all of each, in the order of
    versions. Nobody else sees them, so there is nothing to lock, and what decides about them is in ``rows``."""
    bulk = bulk_of(tuple(target_rows.every(conn)), policy)
    found = _look(bulk, rows, recipes.book(conn))
    hints = _hints_within(rows, found)
    difference = Difference()
    for row in rows:
        difference.add(row, bulk.jobs(found[row.id].situation, before=hints.get(row.id, False)))
    plan_rows.carry_out(conn, difference)


def _hints_within(rows: Sequence[Row], found: Mapping[int, Found]) -> dict[int, bool]:
    """Whether the release before has native code, of rows in order."""
    return {two.id: found[one.id].native for one, two in pairwise(rows) if one.project_id == two.project_id}


def _look(bulk: Bulk, rows: Sequence[Row], book: Book) -> dict[int, Found]:
    said = {name: book.effective(name) for name in {row.project for row in rows}}
    return {row.id: bulk.look(row, said[row.project]) for row in rows}


def _hints(conn: Connection, bulk: Bulk, found: Mapping[int, Found]) -> dict[int, bool]:
    """Whether the release before has native code, for those of which it decides anything."""
    before = plan_rows.before(conn, [id_ for id_, one in found.items() if bulk.depends(one.situation)])
    others = plan_rows.of(conn, set(before.values()) - found.keys())
    native = {row.id: bulk.look(row).native for row in others}
    native |= {id_: one.native for id_, one in found.items()}
    return {id_: native.get(older, False) for id_, older in before.items()}


# All of them, when what is built for has changed


@dataclass(frozen=True, slots=True)
class Step:
    """What one call of :func:`catch_up` came to."""

    planned: int  #: releases
    finished: bool  #: nothing is left to plan


@dataclass(frozen=True, slots=True)
class Progress:
    """How far planning of all releases is, for the targets and the policy that hold now."""

    planned: int  #: releases so far
    total: int  #: that there were when it began, about; never less than ``planned``
    changed: int  #: releases whose jobs were made, withdrawn or moved up
    rate: float  #: releases a second
    started: datetime
    finished: datetime | None

    @property
    def share(self) -> float:
        """0 to 1"""
        return 1.0 if self.finished or not self.total else self.planned / self.total


def progress(conn: Connection) -> Progress | None:
    """How far :func:`catch_up` is; None: it never ran. One small query, for whoever wants to show it."""
    row = conn.execute(select(planning)).one_or_none()
    if row is None:
        return None
    rate = row.planned / row.seconds if row.seconds else 0.0
    return Progress(row.planned, max(row.total, row.planned), row.changed, rate, row.started_at, row.finished_at)


def catch_up(conn: Connection, *, policy: Policy | None = None, batch: int = BATCH) -> Step:
    """Plan the next releases when the enabled targets (or the policy) are not those that all were planned for.

    Call it again until it has finished; where it is, is in the database. Costs two small queries when nothing changed.
    Releases that have the jobs they should are not locked; those that are touched are few, and locked for one batch.
    """
    policy = policy or Policy()
    targets = target_rows.every(conn)
    mark = _mark(targets, policy)
    row = conn.execute(select(planning).where(planning.c.mark == mark)).one_or_none()
    if row is not None and row.finished_at is not None:
        return Step(planned=0, finished=True)
    row = conn.execute(select(planning).with_for_update()).one_or_none()
    if row is None or row.mark != mark:
        row = _begin(conn, mark)
    if not _is_safe(conn, row):
        return Step(planned=0, finished=False)
    return _next_batch(conn, bulk_of(tuple(targets), policy), row, policy, batch)


def _begin(conn: Connection, mark: str) -> Result[Any]:
    values = {
        "mark": mark,
        "total": _ABOUT,
        "since": _OURS,
        "started_at": func.now(),
        "finished_at": None,
        "sort_key": b"",
        **dict.fromkeys(("project_id", "release_id", "planned", "seconds", "changed"), 0),
    }
    row = insert(planning).values(values).on_conflict_do_update(index_elements=[planning.c.only_row], set_=values)
    return conn.execute(row.returning(planning)).one()


_ABOUT = text("(SELECT CAST(greatest(reltuples, 0) AS bigint) FROM pg_class WHERE oid = CAST('releases' AS regclass))")
_OURS = text("CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
_OLDEST = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")


def _is_safe(conn: Connection, row: Result[Any]) -> bool:
    """Whether every transaction has ended that may have read which targets there were before; else wait a little.

    Such a one has locked a release, so it has a number, and one below that of the transaction that noticed the change.
    Without this, a release that it plans, unseen by us as it has not committed, would never get jobs for a new target.
    """
    if conn.execute(_OLDEST).scalar_one() >= row.since:
        return True
    if conn.execute(select(func.now() - row.started_at)).scalar_one() > PATIENCE:
        return True
    conn.execute(select(func.pg_sleep(PAUSE)))
    return False


def _next_batch(conn: Connection, bulk: Bulk, stand: Result[Any], policy: Policy, batch: int) -> Step:
    position = Position(stand.project_id, stand.sort_key, stand.release_id)
    rows = plan_rows.beginning_at(conn, position, batch + 1)
    found = _look(bulk, rows, recipes.book(conn))
    hints = _hints_within(rows, found)
    finished = len(rows) <= batch
    if rows and rows[0].id == position.release_id:
        rows = rows[1:]
    else:  # nothing was planned yet, or what was planned last is gone
        rows = rows[:batch]
        hints |= _hints(conn, bulk, {row.id: found[row.id] for row in rows[:1]})
    changed = _replan_different(conn, bulk, rows, found, hints, policy)
    last = Position.of(rows[-1]) if rows else position
    conn.execute(
        update(planning).values(
            project_id=last.project_id,
            sort_key=last.sort_key,
            release_id=last.release_id,
            planned=planning.c.planned + len(rows),
            changed=planning.c.changed + changed,
            seconds=planning.c.seconds + func.extract("epoch", func.clock_timestamp() - func.now()),
            updated_at=func.now(),
            finished_at=func.clock_timestamp() if finished else None,
        )
    )
    return Step(planned=len(rows), finished=finished)


def _replan_different(
    conn: Connection,
    bulk: Bulk,
    rows: Sequence[Row],
    found: Mapping[int, Found],
    hints: Mapping[int, bool],
    policy: Policy,
) -> int:
    """Most have the jobs they should. The others are locked and looked at again: somebody may have planned them
    meanwhile."""
    difference = Difference()
    for row in rows:
        difference.add(row, bulk.jobs(found[row.id].situation, before=hints.get(row.id, False)))
    if not difference:
        return 0
    plan_rows.lock(conn, difference.release_ids)
    return _replan(conn, difference.release_ids, policy, hints=hints)


def _mark(targets: Sequence[Target], policy: Policy) -> str:
    """Changes whenever a plan might, though no release did."""
    parts = [
        (t.id, t.name, t.python_version, t.abi, t.platforms, t.distribution, t.rank)
        for t in sorted(targets, key=lambda target: target.id or 0)
        if t.enabled
    ]
    return hashlib.sha256(repr((parts, policy)).encode()).hexdigest()[:32]
