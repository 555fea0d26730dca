# SPDX-License-Identifier: BSD-3-Clause
"""The statement that claims jobs, and what a builder is told of one. The queue's other half is db/queue.

Its cost must not depend on how many jobs wait, rest or are leased: a partial index holds those that can be claimed, in
the order in which they are, and each kind of need (``room``) is a range of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from piwheels.db import direct, recipes
from piwheels.master.needs import Room, memory_limit, time_limit
from piwheels.master.session import Lease
from piwheels.wire.messages import Order


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms jobs are handed out."""

    lease: timedelta
    build_timeout: timedelta
    memory_limit: int  #: bytes; 0: what the builder allows


class Taken(NamedTuple):
    """A job that is leased, with all that its builder is told; of the sdist nothing when there is none to build."""

    release_id: int
    target_id: int
    token: UUID
    memory_class: int
    disk_class: int
    time_class: int
    project: str
    package: str
    version: str
    target: str
    sdist: str | None
    url: str | None
    sha256: bytes | None
    size: int | None
    mark: str | None  #: of the set of recipes that holds


def claimed(
    conn: Connection, *, target_id: int, room: Room, limit: int, lasts: timedelta, slave_id: int | None
) -> Sequence[Taken]:
    """Lease the first jobs of a target that this room holds, to this slave or (None) to nobody yet; in order."""
    facts = {"target": target_id, "lasts": lasts, "holder": slave_id}
    classes = {"memory": room.memory, "disk": room.disk, "time": room.time}
    return [Taken(*row) for row in direct.fetch(conn, _statement(limit), facts | classes)]


def leased(conn: Connection, token: UUID) -> Taken | None:
    """What is leased under this token."""
    rows = direct.fetch(conn, _LEASED, {"token": token})
    return Taken(*rows[0]) if rows else None


def lease_of(conn: Connection, job: Taken, terms: Terms) -> Lease | None:
    """What a builder needs to know of its job; None when its release has no usable sdist.

    What the recipe says of time and memory is the operator's word and is not raised by what was learnt.
    """
    if job.sdist is None or job.url is None or job.sha256 is None:
        return None
    need = Room(job.memory_class, job.disk_class, job.time_class)
    recipe = recipes.book(conn, mark=job.mark or "").effective(job.project)
    token = job.token.hex
    return Lease(
        token=token,
        release_id=job.release_id,
        target_id=job.target_id,
        project=job.project,
        package=job.package,
        version=job.version,
        need=need,
        order=Order(
            token=token,
            target=job.target,
            sdist_name=job.sdist,
            sdist_url=job.url,
            sdist_sha256=job.sha256.hex(),
            sdist_size=job.size,
            time_limit=recipe.timeout or time_limit(terms.build_timeout, need),
            memory_limit=memory_limit(terms.memory_limit, need) if recipe.memory is None else recipe.memory,
            apt=recipe.apt,
            environment=recipe.environment,
            network=recipe.network is not False,
        ),
    )


_ORDER = "priority, downloads DESC, released DESC, release_id"  #: in which jobs are handed out: jobs_claim's
_WAITING = "target_id = %(target)s AND lease_token IS NULL AND NOT resting"

# Which needs the target's waiting jobs have (one probe of the index for each), and the first jobs of each need that
# fits; of these the first. The limit is in the text: were it a parameter, PostgreSQL would make a new plan for each
# call, which takes longer than what is planned.
_UPCOMING = f"""
WITH RECURSIVE rooms (room) AS (
    SELECT (SELECT min(room) FROM jobs WHERE {_WAITING})
    UNION ALL
    SELECT (SELECT min(room) FROM jobs WHERE {_WAITING} AND room > rooms.room) FROM rooms WHERE room IS NOT NULL
), upcoming AS (
    SELECT best.release_id FROM rooms, LATERAL (
        SELECT release_id, priority, downloads, released FROM jobs
        WHERE {_WAITING} AND room = rooms.room
        ORDER BY {_ORDER} LIMIT {{limit}} {{lock}}
    ) AS best
    WHERE room / 64 <= CAST(%(memory)s AS smallint) AND room / 8 %% 8 <= CAST(%(disk)s AS smallint)
        AND room %% 8 <= CAST(%(time)s AS smallint)
    ORDER BY {_ORDER} LIMIT {{limit}}
)"""

# PEP 625 wants .tar.gz; .zip is what the rest of them are.
_DESCRIBED = """
SELECT j.release_id, j.target_id, j.lease_token, j.memory_class, j.disk_class, j.time_class,
    p.name, p.display_name, r.version, t.name, s.filename, s.url, s.sha256, s.size, {mark}
FROM {jobs} AS j JOIN releases r ON r.id = j.release_id JOIN projects p ON p.id = r.project_id
    JOIN targets t ON t.id = j.target_id LEFT JOIN LATERAL (
        SELECT filename, url, sha256, size FROM upstream_files u
        WHERE u.release_id = j.release_id AND kind = 'sdist' AND url IS NOT NULL AND sha256 IS NOT NULL
        ORDER BY yanked,
            CASE WHEN filename LIKE '%%.tar.gz' THEN 0 WHEN filename LIKE '%%.zip' THEN 1 ELSE 2 END, id
        LIMIT 1
    ) AS s ON true"""

_LEASED = _DESCRIBED.format(jobs="jobs", mark=recipes.MARK) + " WHERE j.lease_token = %(token)s"


@cache
def _statement(limit: int) -> str:
    """One statement: look which needs there are, take the first of each, of these the first, lease and describe them.

    SKIP LOCKED, so that nobody waits for another's choice.
    """
    first = _UPCOMING.format(limit=int(limit), lock="FOR UPDATE SKIP LOCKED")
    described = _DESCRIBED.format(jobs="taken", mark=recipes.MARK)
    return f"""{first}, taken AS (
        UPDATE jobs SET lease_slave_id = CAST(%(holder)s AS integer), lease_token = gen_random_uuid(),
            lease_started = now(), lease_expires = now() + CAST(%(lasts)s AS interval), cancelled = false
        FROM upcoming WHERE jobs.release_id = upcoming.release_id AND jobs.target_id = %(target)s
        RETURNING jobs.*
    ) {described} ORDER BY j.priority, j.downloads DESC, j.released DESC, j.release_id"""


@cache
def upcoming(limit: int) -> str:
    """A query of the first jobs (``release_id``) of the target that fit; parameters: target, memory, disk and time."""
    return _UPCOMING.format(limit=int(limit), lock="") + " SELECT release_id FROM upcoming"
