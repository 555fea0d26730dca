# SPDX-License-Identifier: BSD-3-Clause
"""The statement that claims jobs, and what a builder is told of one. The queue's other half is db/queue.

Its cost must not depend on how many jobs wait, rest or are leased: a partial index holds those that can be claimed, in
the order in which they are, and each kind of need (``room``) is a range of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Interval,
    Row,
    Select,
    SmallInteger,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    select,
    true,
    update,
)

from piwheels.db.tables import jobs, projects, releases, targets, upstream_files
from piwheels.master.needs import Room, memory_limit, time_limit
from piwheels.master.recipes import Recipe
from piwheels.master.session import Lease
from piwheels.vocabulary import UpstreamKind
from piwheels.wire.messages import Order


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms jobs are handed out."""

    lease: timedelta
    build_timeout: timedelta
    memory_limit: int  #: bytes; 0: what the builder allows


def claimed(
    conn: Connection, *, target_id: int, room: Room, limit: int, lasts: timedelta, slave_id: int | None
) -> Sequence[Row[Any]]:
    """Lease the first jobs of a target that this room holds, to this slave or (None) to nobody yet; rows for
    :func:`lease_of`, in order."""
    facts = {"target": target_id, "lasts": lasts, "holder": slave_id}
    classes = {"memory": room.memory, "disk": room.disk, "time": room.time}
    return conn.execute(_statement(limit), facts | classes).all()


def leased(conn: Connection, token: UUID) -> Row[Any] | None:
    """What is leased under this token, for :func:`lease_of`."""
    return conn.execute(_described(jobs).where(jobs.c.lease_token == token)).one_or_none()


def lease_of(row: Row[Any], terms: Terms, recipe: Recipe) -> Lease | None:
    """What a builder needs to know of its job; None when its release has no usable sdist.

    What the recipe says of time and memory is the operator's word and is not raised by what was learnt.
    """
    if row.filename is None:
        return None
    need = Room(row.memory_class, row.disk_class, row.time_class)
    return Lease(
        token=row.lease_token.hex,
        release_id=row.release_id,
        target_id=row.target_id,
        project=row.name,
        package=row.display_name,
        version=row.version,
        need=need,
        order=Order(
            token=row.lease_token.hex,
            target=row.target,
            sdist_name=row.filename,
            sdist_url=row.url,
            sdist_sha256=bytes(row.sha256).hex(),
            sdist_size=row.size,
            time_limit=recipe.timeout or time_limit(terms.build_timeout, need),
            memory_limit=memory_limit(terms.memory_limit, need) if recipe.memory is None else recipe.memory,
            apt=recipe.apt,
            environment=recipe.environment,
            network=recipe.network is not False,
        ),
    )


@cache
def _statement(limit: int) -> Select[Any]:
    """One statement: look which needs there are, take the first of each, of these the first, lease and describe them.

    SKIP LOCKED, so that nobody waits for another's choice.
    """
    chosen = upcoming(limit, lock=True).cte("first")
    taken = (
        update(jobs)
        .where(jobs.c.release_id == chosen.c.release_id, jobs.c.target_id == _TARGET)
        .values(
            lease_slave_id=bindparam("holder", type_=Integer()),
            lease_token=func.gen_random_uuid(),
            lease_started=func.now(),
            lease_expires=func.now() + bindparam("lasts", type_=Interval()),
            cancelled=false(),
        )
        .returning(jobs)
        .cte("taken")
    )
    return _described(taken).order_by(*order(taken))


def upcoming(limit: int, *, lock: bool = False) -> Select[Any]:
    """The first jobs (``release_id``) of the target that fit; parameters are target, memory, disk and time.

    The limit is in the text: were it a parameter, PostgreSQL would make a new plan for each call, which takes longer
    than what is planned.
    """
    number: ColumnElement[int] = literal_column(str(int(limit)), Integer)
    room, job = _rooms(), jobs.alias("job")
    waiting = (job.c.target_id == _TARGET, job.c.room == room.c.room, job.c.lease_token.is_(None), ~job.c.resting)
    query = select(job).where(*waiting).order_by(*order(job)).limit(number)
    best = (query.with_for_update(skip_locked=True) if lock else query).lateral("best")
    return (
        select(best.c.release_id)
        .join_from(room, best, true())
        .where(_fits(room.c.room))
        .order_by(*order(best))
        .limit(number)
    )


_TARGET = bindparam("target", type_=Integer())


def _rooms() -> CTE:
    """The different needs that the target's waiting jobs have: one probe of the index for each."""
    least = func.min(jobs.c.room)
    waiting = (jobs.c.target_id == _TARGET, jobs.c.lease_token.is_(None), ~jobs.c.resting)
    start = select(select(least).where(*waiting).scalar_subquery().label("room"))
    rooms = start.cte("rooms", recursive=True)
    following = select(least).where(*waiting, jobs.c.room > rooms.c.room).scalar_subquery()
    return rooms.union_all(select(following).where(rooms.c.room.is_not(None)))


def _fits(room: ColumnElement[Any]) -> ColumnElement[bool]:
    parts = {"memory": room // 64, "disk": room // 8 % 8, "time": room % 8}
    return and_(*(part <= bindparam(name, type_=SmallInteger()) for name, part in parts.items()))


def order(job: FromClause) -> tuple[ColumnElement[Any], ...]:
    """In which order jobs are handed out: the index jobs_claim's."""
    return job.c.priority, job.c.downloads.desc(), job.c.released.desc(), job.c.release_id


def _described(job: FromClause) -> Select[Any]:
    """Jobs with all that is said of them, and with an sdist if there is one to build."""
    sdist = (
        select(upstream_files)
        .where(
            upstream_files.c.release_id == job.c.release_id,
            upstream_files.c.kind == UpstreamKind.SDIST,
            upstream_files.c.url.is_not(None),
            upstream_files.c.sha256.is_not(None),
        )
        # PEP 625 wants .tar.gz; .zip is what the rest of them are.
        .order_by(upstream_files.c.yanked, _rank(upstream_files.c.filename), upstream_files.c.id)
        .limit(1)
        .lateral("sdist")
    )
    return (
        select(
            *(job.c[name] for name in _OF_JOB),
            projects.c.name,
            projects.c.display_name,
            releases.c.version,
            targets.c.name.label("target"),
            *(sdist.c[name] for name in ("filename", "url", "sha256", "size")),
        )
        .select_from(job)
        .join(releases, releases.c.id == job.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.id == job.c.target_id)
        .outerjoin(sdist, true())
    )


_OF_JOB = ("release_id", "target_id", "lease_token", "memory_class", "disk_class", "time_class", "priority")


def _rank(filename: ColumnElement[str]) -> ColumnElement[int]:
    return case((filename.endswith(".tar.gz"), 0), (filename.endswith(".zip"), 1), else_=2)
