# SPDX-License-Identifier: BSD-3-Clause
"""What rows are made of an attempt to build, in JSON's types; builders' text is made fit for the database here.

Knows the columns' limits; must not talk to the database.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from piwheels.db.jobs import LeasedJob
from piwheels.master.session import Result, VerifiedFile
from piwheels.vocabulary import DependencyTool, FailureReason, Outcome
from piwheels.wire.messages import BuildReport

MAX_DETAIL = 1000  #: characters; the schema's limit
MAX_BUILT_WITH = 200  #: distributions of a build environment that are remembered
MAX_WORD = 200  #: characters of a name or version in it
MAX_DURATION = timedelta(days=60)
MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended, as the database keeps it."""

    outcome: Outcome
    reason: FailureReason | None
    detail: str
    duration: timedelta
    report: BuildReport | None = None
    has_log: bool = False


def attempt_of(result: Result, *, has_log: bool) -> Attempt:
    """How a builder's result counts."""
    outcome, reason, detail = Outcome.SUCCESS, None, result.detail
    if not result.ok:
        outcome, reason = Outcome.FAILED, result.reason or FailureReason.PACKAGE
    elif not result.files:
        outcome, reason = Outcome.FAILED, FailureReason.PACKAGE
        detail = detail or "the build succeeded but made no wheel"
    return Attempt(outcome, reason, detail, result.duration, result.report, has_log)


def build_row(job: LeasedJob, attempt: Attempt, number: int) -> dict[str, Any]:
    """A row of ``builds``."""
    report = attempt.report
    duration = min(max(attempt.duration, timedelta(0)), MAX_DURATION)
    return {
        "id": number,
        "release_id": job.release_id,
        "target_id": job.target_id,
        "slave_id": job.slave_id,
        "token": job.token.hex,
        "started": job.started.isoformat(),
        "duration": f"{duration.days} days {duration.seconds} seconds {duration.microseconds} microseconds",
        "outcome": attempt.outcome,
        "reason": attempt.reason,
        "detail": clean(attempt.detail, MAX_DETAIL),
        "has_log": attempt.has_log,
        "peak_memory": _bounded(report.peak_memory if report else None),
        "cpu_seconds": _finite(report.cpu_seconds if report else None),
        "built_from": _bytea(_digest(report.built_from if report else None)),
        "built_with": _words(report.built_with) if report else None,
    }


def file_row(build_id: int, wheel: VerifiedFile) -> dict[str, Any]:
    """A row of ``files``."""
    return {
        "build_id": build_id,
        "filename": wheel.filename,
        "size": wheel.size,
        "sha256": _bytea(wheel.sha256),
        "requires_python": None if wheel.requires_python is None else clean(wheel.requires_python, 1000),
        "metadata_sha256": _bytea(wheel.metadata_sha256),
        "top_level": [clean(name, MAX_WORD) for name in wheel.top_level],
    }


def need_rows(build_id: int, wheel: VerifiedFile) -> Iterator[dict[str, Any]]:
    """What a wheel needs, as rows of build, file name, tool and name."""
    for tool, name in sorted({(DependencyTool(tool), clean(name, 500)) for tool, name in wheel.dependencies}):
        if name:
            yield {"build_id": build_id, "filename": wheel.filename, "tool": tool, "name": name}


def elapsed(since: datetime, now: datetime) -> timedelta:
    """How long an attempt lasted that ended without a word from its builder."""
    return min(max(now - since, timedelta(0)), MAX_DURATION)


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


def _bytea(value: bytes | None) -> str | None:
    return None if value is None else "\\x" + value.hex()
