# SPDX-License-Identifier: BSD-3-Clause
"""Attempts to build, recorded once each under their lease token, with all that follows from them in one transaction.

Whoever records has the wheels in the store and the log in place already; this module knows no disk. Text that came from
builders is made fit for the database here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, func, insert, select

from piwheels.db import jobs as rows
from piwheels.db.jobs import LeasedJob
from piwheels.db.pages import mark_stale
from piwheels.db.planning import replan_release
from piwheels.db.tables import builds, dependencies, files
from piwheels.master.planner import Policy
from piwheels.master.session import Result, VerifiedFile
from piwheels.vocabulary import DependencyTool, FailureReason, Outcome, PageKind
from piwheels.wire.messages import BuildReport

MAX_DETAIL = 1000  #: characters; the schema's limit
MAX_BUILT_WITH = 200  #: distributions of a build environment that are remembered
MAX_WORD = 200  #: characters of a name or version in it
MAX_DURATION = timedelta(days=60)
MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What becomes of a job whose attempt failed by the builder's fault."""

    strikes: int  #: so many, and it is given up
    retry_after: timedelta  #: wait after the first; doubles with each


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended, as the database keeps it."""

    outcome: Outcome
    reason: FailureReason | None
    detail: str
    duration: timedelta
    report: BuildReport | None = None
    has_log: bool = False


def next_id(conn: Connection) -> int:
    """A build's number, taken ahead: its log is written under it before the build is recorded."""
    sequence = func.pg_get_serial_sequence("builds", "id")
    return int(conn.execute(select(func.nextval(sequence))).scalar_one())


def recorded(conn: Connection, token: str) -> int | None:
    """The build recorded under this lease token, if there is one."""
    if (uuid := rows.token_or_none(token)) is None:
        return None
    return conn.execute(select(builds.c.id).where(builds.c.token == uuid)).scalar_one_or_none()


def record(
    conn: Connection, result: Result, *, policy: RetryPolicy, build_id: int | None = None, has_log: bool = False
) -> int | None:
    """Record what a build came to and let everything follow from it; harmless to repeat.

    Returns the build's number: ``build_id`` if this call (or an earlier one with the same number) recorded it, another
    if the attempt had been recorded before; None, and nothing changes, if the lease is not live or its job was
    cancelled.
    """
    token = UUID(hex=result.lease.token)
    job = rows.lock_leased(conn, token)
    if job is None:
        return recorded(conn, result.lease.token)
    if job.cancelled:
        abandon(conn, job)
        return None
    attempt = _attempt(result, has_log=has_log)
    if (known := recorded(conn, result.lease.token)) is not None:  # a job put back by hand with its old token
        abandon(conn, job)
        return known
    return end_attempt(conn, job, attempt, policy=policy, build_id=build_id, wheels=result.files if result.ok else ())


def end_attempt(
    conn: Connection,
    job: LeasedJob,
    attempt: Attempt,
    *,
    policy: RetryPolicy,
    build_id: int | None = None,
    wheels: tuple[VerifiedFile, ...] = (),
) -> int:
    """Write down an attempt at a job this transaction has locked, and let the job, its release and its pages follow."""
    number = _insert_build(conn, job, attempt, build_id=build_id)
    for wheel in {w.filename: w for w in wheels}.values():
        _insert_file(conn, number, wheel)
    if _tries_again(job, attempt, policy):
        wait = rows.back_off(policy.retry_after, job.strikes + 1)
        rows.give_back(conn, job, wait=wait, more_memory=attempt.reason is FailureReason.MEMORY)
    else:
        rows.drop(conn, job)
    replan_release(conn, job.release_id, policy=Policy(strikes=policy.strikes))
    mark_stale(conn, PageKind.PROJECT, job.project, f"build {number} {attempt.outcome}")
    return number


def abandon(conn: Connection, job: LeasedJob) -> None:
    """End a lease without an attempt: the build was cancelled. The planner says whether there is to be another job."""
    rows.drop(conn, job)
    replan_release(conn, job.release_id)
    mark_stale(conn, PageKind.PROJECT, job.project, "build cancelled")


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


def _attempt(result: Result, *, has_log: bool) -> Attempt:
    outcome, reason, detail = Outcome.SUCCESS, None, result.detail
    if not result.ok:
        outcome, reason = Outcome.FAILED, result.reason or FailureReason.PACKAGE
    elif not result.files:
        outcome, reason = Outcome.FAILED, FailureReason.PACKAGE
        detail = detail or "the build succeeded but made no wheel"
    return Attempt(outcome, reason, detail, result.duration, result.report, has_log)


def _tries_again(job: LeasedJob, attempt: Attempt, policy: RetryPolicy) -> bool:
    if attempt.reason is None or attempt.reason.is_packages_fault:
        return False
    return job.strikes + 1 < policy.strikes


def _insert_build(conn: Connection, job: LeasedJob, attempt: Attempt, *, build_id: int | None) -> int:
    report = attempt.report
    values = {
        "release_id": job.release_id,
        "target_id": job.target_id,
        "slave_id": job.slave_id,
        "token": job.token,
        "started": job.started,
        "duration": min(max(attempt.duration, timedelta(0)), MAX_DURATION),
        "outcome": attempt.outcome,
        "reason": attempt.reason,
        "detail": clean(attempt.detail, MAX_DETAIL),
        "has_log": attempt.has_log,
    }
    if build_id is not None:
        values["id"] = build_id
    if report is not None:
        values |= {
            "peak_memory": _bounded(report.peak_memory),
            "cpu_seconds": _finite(report.cpu_seconds),
            "built_from": _digest(report.built_from),
            "built_with": _words(report.built_with),
        }
    return int(conn.execute(insert(builds).values(values).returning(builds.c.id)).scalar_one())


def _insert_file(conn: Connection, build_id: int, wheel: VerifiedFile) -> None:
    requires = None if wheel.requires_python is None else clean(wheel.requires_python, 1000)
    row = insert(files).values(
        build_id=build_id,
        filename=wheel.filename,
        size=wheel.size,
        sha256=wheel.sha256,
        requires_python=requires,
        metadata_sha256=wheel.metadata_sha256,
        top_level=[clean(name, MAX_WORD) for name in wheel.top_level],
    )
    file_id = conn.execute(row.returning(files.c.id)).scalar_one()
    needs = sorted({(DependencyTool(tool), clean(name, 500)) for tool, name in wheel.dependencies})
    if needs:
        conn.execute(
            insert(dependencies),
            [{"file_id": file_id, "tool": tool, "name": name} for tool, name in needs if name],
        )


def clean(text: str, limit: int) -> str:
    """Text that PostgreSQL stores: no NUL, no lone surrogate, not longer than ``limit`` characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:limit]


def _digest(text: str | None) -> bytes | None:
    try:
        digest = bytes.fromhex(text or "")
    except ValueError:
        return None
    return digest if len(digest) == 32 else None


def _bounded(number: int | None) -> int | None:
    return None if number is None else min(max(number, 0), MAX_INTEGER)


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) or number < 0 else number


def _words(words: Mapping[str, str]) -> dict[str, str]:
    pairs = sorted(words.items())[:MAX_BUILT_WITH]
    return {clean(name, MAX_WORD): clean(version, MAX_WORD) for name, version in pairs}


def elapsed(since: datetime, now: datetime) -> timedelta:
    """How long an attempt lasted that ended without a word from its builder."""
    return min(max(now - since, timedelta(0)), MAX_DURATION)
