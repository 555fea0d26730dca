# SPDX-License-Identifier: BSD-3-Clause
"""Projects to ask PyPI for, as rows: what was heard of each, who takes them, and when they are settled.

Sources write here what they heard, in the transaction that moves their position; the applier deletes a row in the
transaction that applies the answer. So neither a crash nor a change of source loses anything, and hearing twice is
harmless. Knows nothing of HTTP, nor of what an answer says.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    Boolean,
    Connection,
    Integer,
    Select,
    all_,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.sql.sqltypes import BigInteger, Text
from sqlalchemy.types import TypeEngine

from piwheels.db.arrays import among, given, rows_of
from piwheels.db.tables import changes, feeds, projects, watches
from piwheels.pypi.interpret import Change
from piwheels.pypi.pending import Pending, Priority
from piwheels.vocabulary import ProjectStatus

_POSITION = "upstream"  #: the row of ``feeds`` whose serial is the last one heard
TRIES = 3  #: answers that could not be used, before a bootstrap waits no longer for a project
MANY = 100_000  #: beyond that, nobody needs to know exactly

_HEARD: dict[str, TypeEngine[Any]] = {
    "name": Text(),
    "first": BigInteger(),
    "serial": BigInteger(),
    "removed": Boolean(),
    "said": BigInteger(),
    "page": Boolean(),
}


def record(conn: Connection, heard: Sequence[Change], priority: Priority, *, restricted: bool = False) -> int:
    """Add what was heard, and return how many projects it concerned. ``restricted``: watched projects only."""
    if not heard:
        return 0
    heard = sorted(heard, key=lambda change: change.name)  # one order of locks
    new = given(_HEARD, [{name: getattr(change, name) for name in _HEARD} for change in heard])
    rank = literal(int(priority))
    rows = select(new.c.name, rank, new.c.first, new.c.serial, new.c.removed, new.c.said, new.c.page)
    if restricted:
        rows = rows.where(exists().where(watches.c.name == new.c.name))
    columns = ("name", "priority", "first_serial", "serial", "removed", "said", "page")
    row = insert(changes).from_select(columns, rows)
    statement = row.on_conflict_do_update(index_elements=[changes.c.name], set_=_merged(row))
    # Unasked, SQLAlchemy does not keep an INSERT's row count.
    return conn.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def _merged(row: Any) -> Mapping[str, Any]:
    """As :func:`piwheels.pypi.interpret.merge` has it."""
    new = row.excluded
    return {
        "priority": func.least(changes.c.priority, new.priority),
        "first_serial": func.coalesce(
            func.least(func.nullif(changes.c.first_serial, 0), func.nullif(new.first_serial, 0)), 0
        ),
        "serial": func.greatest(changes.c.serial, new.serial),
        "removed": case(
            (new.said == changes.c.said, or_(changes.c.removed, new.removed)),
            (new.said > changes.c.said, new.removed),
            else_=changes.c.removed,
        ),
        "said": func.greatest(changes.c.said, new.said),
        "page": or_(changes.c.page, new.page),
        "seq": changes.c.seq + 1,
        "ready_at": func.least(changes.c.ready_at, func.now()),
    }


def take(conn: Connection, limits: Mapping[Priority, int], *, busy: Collection[str] = ()) -> list[Pending]:
    """Up to so many of each priority that are ready, without those that somebody is at already."""
    values: dict[str, Any] = {f"most_{priority.value}": max(0, limits.get(priority, 0)) for priority in Priority}
    return [_pending(row) for row in conn.execute(_taking(), values | {"busy": list(busy)})]


@cache
def _taking() -> Select[Any]:
    """Made once: SQLAlchemy takes longer to put it together than PostgreSQL to answer it."""
    found = union_all(*(select(_ready(priority).subquery()) for priority in Priority)).subquery()
    return (
        select(
            found,
            projects.c.id,
            projects.c.serial.label("known_serial"),
            projects.c.status,
            projects.c.hides,
            watches.c.etag,
        )
        .outerjoin(projects, projects.c.name == found.c.name)
        .outerjoin(watches, watches.c.name == found.c.name)
        .order_by(found.c.priority, found.c.ready_at)
    )


def _ready(priority: Priority) -> Select[Any]:
    idle = changes.c.name != all_(bindparam("busy", type_=ARRAY(Text)))
    here = and_(changes.c.priority == int(priority), changes.c.ready_at <= func.now(), idle)
    most = bindparam(f"most_{priority.value}", type_=Integer)
    return select(changes).where(here).order_by(changes.c.ready_at).limit(most)


def _pending(row: Any) -> Pending:
    known_serial = row.known_serial or 0
    return Pending(
        name=row.name,
        priority=Priority(row.priority),
        serial=row.serial,
        removed=row.removed and row.said >= known_serial,  # else our rows know that it came back
        page=row.page or bool(row.hides) or row.status not in (None, ProjectStatus.ACTIVE),
        seq=row.seq,
        attempts=row.attempts,
        doubted_since=row.doubted_since,
        project_id=row.id,
        known_serial=known_serial,
        status=row.status,
        etag=(row.etag or "") if row.id is not None else "",
    )


def settle(conn: Connection, applied: Sequence[Pending]) -> None:
    """These are applied. What was heard of them since they were taken stays to be asked for."""
    if applied:
        done = rows_of(changes, [{"name": one.name, "seq": one.seq} for one in applied])
        conn.execute(delete(changes).where(changes.c.name == done.c.name, changes.c.seq == done.c.seq))


def now(conn: Connection) -> datetime:
    """The database's clock: the one that times in ``changes`` are by."""
    time: datetime = conn.execute(select(func.now())).scalar_one()
    return time


def postpone(conn: Connection, pending: Pending, wait: timedelta, *, doubted: bool, demote: bool = False) -> None:
    """Ask again after ``wait``, unless something is heard before. ``doubted``: there was an answer, which is not
    believed yet; ``demote``: it failed so often that it is no news any more."""
    values: dict[str, Any] = {
        "attempts": changes.c.attempts + 1,
        "ready_at": func.now() + wait,
        "doubted_since": func.coalesce(changes.c.doubted_since, func.now()) if doubted else None,
    }
    if demote:
        values |= {"priority": int(Priority.REPAIR), "first_serial": 0}
    mine = and_(changes.c.name == pending.name, changes.c.seq == pending.seq)
    conn.execute(update(changes).where(mine).values(values))


def forget_unwatched(conn: Connection) -> int:
    """Drop what waits and is not on the watch list; how many that were."""
    return conn.execute(delete(changes).where(~exists().where(watches.c.name == changes.c.name))).rowcount


# Where we stand


def position(conn: Connection) -> int | None:
    """The last serial that was heard; None: nothing was, ever."""
    return conn.scalar(select(feeds.c.serial).where(feeds.c.name == _POSITION))


def advance(conn: Connection, serial: int, *, source: str) -> None:
    """All news up to this serial are recorded. Never goes back."""
    row = insert(feeds).values(name=_POSITION, serial=serial, detail=source)
    conn.execute(
        row.on_conflict_do_update(
            index_elements=[feeds.c.name],
            set_={
                "serial": func.greatest(feeds.c.serial, row.excluded.serial),
                "detail": row.excluded.detail,
                "updated_at": func.now(),
            },
        )
    )


def applied(conn: Connection) -> int:
    """The serial up to which everything heard is in our rows: never beyond an event that still waits."""
    waiting = select(func.min(changes.c.first_serial)).where(changes.c.first_serial > 0).scalar_subquery()
    heard = select(feeds.c.serial).where(feeds.c.name == _POSITION).scalar_subquery()
    return conn.scalar(select(func.coalesce(func.least(waiting - 1, heard), 0))) or 0


def waiting(conn: Connection) -> dict[Priority, int]:
    """How many projects wait, by priority; where more than MANY do, MANY, as nobody needs to know exactly."""
    parts = []
    for priority in Priority:
        some = select(changes.c.name).where(changes.c.priority == int(priority)).limit(MANY).subquery()
        parts.append(select(literal(int(priority)), func.count()).select_from(some))
    return {Priority(priority): count for priority, count in conn.execute(union_all(*parts))}


def bootstrapping(conn: Connection) -> tuple[int, int]:
    """How many projects of a bootstrap are being asked for, and how many gave no usable answer however often they were.
    Counts all of them: for whoever watches a bootstrap, not for the farm."""
    mine = changes.c.priority == int(Priority.BOOTSTRAP)
    hopeful = changes.c.attempts < TRIES
    query = select(func.count().filter(hopeful), func.count().filter(~hopeful))
    waiting, trouble = conn.execute(query.where(mine)).one()
    return waiting, trouble


def among_waiting(conn: Connection, names: Collection[str]) -> set[str]:
    """Which of these are to be asked for, or asked for again."""
    return set(conn.scalars(select(changes.c.name).where(among(changes.c.name, names))))
