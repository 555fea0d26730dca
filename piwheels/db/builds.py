# SPDX-License-Identifier: BSD-3-Clause
"""Attempts to build, recorded once each under their lease token, with all that follows from them in one transaction.

Any number of them in one transaction, each whole or not at all: what a statement costs is shared. Whoever records has
the wheels in the store and the logs in place already; this module knows no disk. What rows are made of results is
db/build_rows'; what is learnt of a project's needs is db/needs'.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, func, select

from piwheels.db import direct, names, needs
from piwheels.db import jobs as rows
from piwheels.db.arrays import among
from piwheels.db.build_rows import Attempt, attempt_of, build_row, file_row, need_rows
from piwheels.db.jobs import LeasedJob
from piwheels.db.pages import mark_all_stale
from piwheels.db.planning import replan
from piwheels.db.tables import builds, files
from piwheels.master.needs import Amounts, Room
from piwheels.master.planner import Policy
from piwheels.master.session import Result, VerifiedFile
from piwheels.vocabulary import PageKind


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What becomes of a job whose attempt failed by the builder's fault, and on what terms it was handed out."""

    strikes: int  #: so many, and it is given up
    retry_after: timedelta  #: wait after the first; doubles with each
    build_timeout: timedelta = timedelta(hours=3)  #: what a build of time class 0 may take
    memory_limit: int = 0  #: what one of memory class 0 may use, in bytes; 0: no limit
    farm: Policy = field(default_factory=Policy)  #: the planner's; its strikes are the above

    @property
    def planning(self) -> Policy:
        """The same for the planner."""
        return replace(self.farm, strikes=self.strikes)


@dataclass(frozen=True, slots=True)
class Entry:
    """A result on its way into the database."""

    result: Result
    build_id: int | None = None  #: the number taken for it ahead; None: any
    has_log: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """An attempt that has ended, at a job that this transaction has locked."""

    job: LeasedJob
    attempt: Attempt
    build_id: int | None = None
    wheels: tuple[VerifiedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """A build that is not recorded yet: the name of one of its wheels stands for other bytes (db/names). It is to get
    another name, and to come again."""


def record(
    conn: Connection, result: Result, *, policy: RetryPolicy, build_id: int | None = None, has_log: bool = False
) -> int | Taken | None:
    """As :func:`record_many`, for one."""
    return record_many(conn, [Entry(result, build_id, has_log)], policy=policy)[0]


def record_many(conn: Connection, entries: Sequence[Entry], *, policy: RetryPolicy) -> list[int | Taken | None]:
    """Record what builds came to and let everything follow from it; harmless to repeat.

    Returns each build's number: its ``build_id`` if this call (or an earlier one with the same number) recorded it,
    another if the attempt had been recorded before; Taken; or None, and nothing changes, if the lease is not live or
    its job was cancelled.
    """
    first: dict[UUID, Entry] = {}
    for entry in entries:
        first.setdefault(_token(entry), entry)
    held = rows.lock_all_leased(conn, first)
    numbers = _recorded(conn, first.keys() - held.keys())
    over = [job for job in held.values() if job.cancelled or job.recorded]
    numbers |= {job.token: job.recorded for job in over if job.recorded and not job.cancelled}
    gone = {job.token for job in over}
    endings = [_ending(held[token], entry) for token, entry in first.items() if token in held and token not in gone]
    abandon_all(conn, over, policy=policy)
    taken = _bind(conn, endings)
    numbers |= end_all(conn, [ending for ending in endings if ending.job.token not in taken], policy=policy)
    return [Taken() if _token(entry) in taken else numbers.get(_token(entry)) for entry in entries]


def end_attempt(conn: Connection, job: LeasedJob, attempt: Attempt, *, policy: RetryPolicy) -> int:
    """As :func:`end_all`, for one without wheels; its number."""
    return end_all(conn, [Ending(job, attempt)], policy=policy)[job.token]


def end_all(conn: Connection, endings: Sequence[Ending], *, policy: RetryPolicy) -> dict[UUID, int]:
    """Write attempts down, and let their jobs, releases and pages follow; the builds' numbers by token."""
    if not endings:
        return {}
    numbers = _numbers(conn, endings)
    learnt = needs.learn(
        conn,
        [needs.Lesson(e.job, e.attempt.reason, _took(e.attempt)) for e in endings],
        build_timeout=policy.build_timeout,
        memory_limit=policy.memory_limit,
    )
    again = [ending for ending in endings if _tries_again(ending, policy)]
    _write(conn, endings, numbers, over=[ending.job for ending in endings if ending not in again])
    rows.give_back(conn, [_return(ending, learnt, policy) for ending in again])
    replan(conn, [e.job.release_id for e in endings], policy=policy.planning, locked=True)
    outcome = endings[0].attempt.outcome.value if len(endings) == 1 else "and others"
    reason = f"build {min(numbers.values())} {outcome}"
    mark_all_stale(conn, PageKind.PROJECT, [e.job.project for e in endings], reason)
    return numbers


def abandon(conn: Connection, job: LeasedJob, *, policy: RetryPolicy) -> None:
    """End a lease without an attempt: the build was cancelled. The planner says whether there is to be another job."""
    abandon_all(conn, [job], policy=policy)


def abandon_all(conn: Connection, over: Sequence[LeasedJob], *, policy: RetryPolicy) -> None:
    """As :func:`abandon`, for several."""
    if not over:
        return
    rows.drop(conn, over)
    replan(conn, [job.release_id for job in over], policy=policy.planning, locked=True)
    mark_all_stale(conn, PageKind.PROJECT, [job.project for job in over], "build cancelled")


def next_id(conn: Connection) -> int:
    """A build's number, taken ahead: its log is written under it before the build is recorded."""
    return new_ids(conn, 1)[0]


def recorded(conn: Connection, token: str) -> int | None:
    """The build recorded under this lease token, if there is one."""
    uuid = rows.token_or_none(token)
    return None if uuid is None else _recorded(conn, [uuid]).get(uuid)


def new_ids(conn: Connection, count: int) -> list[int]:
    """So many builds' numbers, taken ahead."""
    sequence = func.pg_get_serial_sequence("builds", "id")
    query = select(func.nextval(sequence)).select_from(func.generate_series(1, count))
    return [int(number) for number in conn.execute(query).scalars()]


def missing_of(conn: Connection, numbers: range) -> set[int]:
    """Which of these build numbers no build has. For sweeping logs whose build was never recorded."""
    query = select(builds.c.id).where(builds.c.id.between(numbers.start, numbers.stop - 1))
    return set(numbers) - set(conn.execute(query).scalars())


def last_number(conn: Connection) -> int:
    """The highest build number given out so far; 0 when none was."""
    sequence = select(func.pg_sequence_last_value(func.pg_get_serial_sequence("builds", "id")))
    return int(conn.execute(sequence).scalar_one() or 0)


def unreferenced(conn: Connection, hashes: list[bytes]) -> set[bytes]:
    """Which of these contents no wheel and no METADATA of ours has."""
    known = select(files.c.sha256).where(files.c.sha256.in_(hashes))
    described = select(files.c.metadata_sha256).where(files.c.metadata_sha256.in_(hashes))
    return set(hashes) - {bytes(value) for value in conn.execute(known.union(described)).scalars()}


def _ending(job: LeasedJob, entry: Entry) -> Ending:
    result = entry.result
    wheels = tuple({wheel.filename: wheel for wheel in result.files}.values()) if result.ok else ()
    return Ending(job, attempt_of(result, has_log=entry.has_log), entry.build_id, wheels)


def _bind(conn: Connection, endings: Sequence[Ending]) -> set[UUID]:
    """Bind the names of their wheels; those of which a wheel cannot have its name."""
    wanted = [(ending.job, wheel) for ending in endings for wheel in ending.wheels]
    claims = []
    for job, wheel in wanted:
        origin = wheel.origin or wheel
        base = origin.filename if wheel.origin else None
        claims.append(names.Claim(job.target_id, wheel.filename, wheel.sha256, origin.sha256, base))
    return {job.token for (job, _), bound in zip(wanted, names.bind(conn, claims), strict=True) if not bound}


def _token(entry: Entry) -> UUID:
    return UUID(hex=entry.result.lease.token)


def _recorded(conn: Connection, tokens: Collection[UUID]) -> dict[UUID, int]:
    if not tokens:
        return {}
    query = select(builds.c.token, builds.c.id).where(among(builds.c.token, tokens))
    return {row.token: row.id for row in conn.execute(query)}


def _numbers(conn: Connection, endings: Sequence[Ending]) -> dict[UUID, int]:
    lacking = sum(ending.build_id is None for ending in endings)
    fresh = iter(new_ids(conn, lacking) if lacking else [])
    return {e.job.token: next(fresh) if e.build_id is None else e.build_id for e in endings}


def _write(
    conn: Connection, endings: Sequence[Ending], numbers: Mapping[UUID, int], *, over: Sequence[LeasedJob]
) -> None:
    """Insert the attempts with their wheels and what these need, and delete the jobs that are over."""
    wheels = [(numbers[e.job.token], wheel) for e in endings for wheel in e.wheels]
    documents = {
        "builds": [build_row(e.job, e.attempt, numbers[e.job.token]) for e in endings],
        "files": [file_row(number, wheel) for number, wheel in wheels],
        "needs": [row for number, wheel in wheels for row in need_rows(number, wheel)],
        "over": [{"release_id": job.release_id, "target_id": job.target_id} for job in over],
    }
    direct.run(conn, _WRITE, {name: json.dumps(document) for name, document in documents.items()})


# One statement, because a round to the server costs more than most of what is done here. A file's number is known only
# to the database, so what it needs is joined to it by its name.
_WRITE = """
    WITH new AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(%(builds)s AS json)) AS x(id bigint, release_id bigint, target_id integer,
            slave_id integer, token uuid, started timestamptz, duration interval, outcome build_outcome,
            reason failure_reason, detail text, has_log boolean, peak_memory bigint, cpu_seconds double precision,
            built_from bytea, built_with jsonb)
    ), build AS (
        INSERT INTO builds (id, release_id, target_id, slave_id, token, started, duration, outcome, reason, detail,
            has_log, peak_memory, cpu_seconds, built_from, built_with)
        SELECT * FROM new
    ), told AS (
        INSERT INTO news (kind, project, version, target, build_id, reason, detail, has_log, files)
        SELECT CAST(CASE new.outcome WHEN 'success' THEN 'built' ELSE 'failed' END AS news_kind), p.name, r.version,
            t.name, new.id, coalesce(CAST(new.reason AS text), ''), left(new.detail, 300), new.has_log,
            coalesce(made.names, '{}')
        FROM new JOIN releases r ON r.id = new.release_id JOIN projects p ON p.id = r.project_id
            JOIN targets t ON t.id = new.target_id LEFT JOIN (
                SELECT build_id, array_agg(filename ORDER BY filename) AS names
                FROM json_to_recordset(CAST(%(files)s AS json)) AS x(build_id bigint, filename text) GROUP BY build_id
            ) AS made ON made.build_id = new.id
    ), file AS (
        INSERT INTO files (build_id, filename, size, sha256, requires_python, metadata_sha256, top_level)
        SELECT * FROM json_to_recordset(CAST(%(files)s AS json)) AS x(build_id bigint, filename text, size bigint,
            sha256 bytea, requires_python text, metadata_sha256 bytea, top_level text[])
        RETURNING id, build_id, filename
    ), need AS (
        INSERT INTO dependencies (file_id, tool, name)
        SELECT file.id, x.tool, x.name
        FROM json_to_recordset(CAST(%(needs)s AS json)) AS x(build_id bigint, filename text, tool dependency_tool,
            name text) JOIN file ON file.build_id = x.build_id AND file.filename = x.filename
    )
    DELETE FROM jobs USING json_to_recordset(CAST(%(over)s AS json)) AS x(release_id bigint, target_id integer)
    WHERE jobs.release_id = x.release_id AND jobs.target_id = x.target_id
"""


def _return(ending: Ending, learnt: Mapping[UUID, Room], policy: RetryPolicy) -> rows.Return:
    job = ending.job
    wait = rows.back_off(policy.retry_after, job.strikes + 1)
    return rows.Return(job, wait, learnt.get(job.token, job.need))


def _tries_again(ending: Ending, policy: RetryPolicy) -> bool:
    reason = ending.attempt.reason
    if reason is None or reason.is_packages_fault:
        return False
    return ending.job.strikes + 1 < policy.strikes


def _took(attempt: Attempt) -> Amounts:
    peak = None if attempt.report is None else attempt.report.peak_memory
    return Amounts(memory=peak, time=attempt.duration)
