# SPDX-License-Identifier: BSD-3-Clause
"""What piw-farm tells a person about the projects it was asked for, and what ``--once`` has to check. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from piwheels.db.planning import verdicts
from piwheels.db.tables import builds, files, jobs, projects, published, releases, roles, watches
from piwheels.db.watches import TROUBLE
from piwheels.master.planner import Code, Policy, Verdict
from piwheels.vocabulary import FailureReason, Outcome, Role, WatchState


@dataclass(frozen=True, slots=True)
class Release:
    """A release that is in the farm's charge, and what is decided about it."""

    id: int
    version: str
    verdicts: tuple[Verdict, ...]  #: one for each enabled target


@dataclass(frozen=True, slots=True)
class Project:
    """One name of the watch list."""

    name: str  #: canonical
    spelling: str  #: as it was asked for
    state: WatchState
    detail: str
    fresh: bool  #: looked at since the given time
    listed: bool  #: its page under /simple/ is there
    releases: tuple[Release, ...]  #: newest first


@dataclass(frozen=True, slots=True)
class Attempt:
    """A build that ended."""

    id: int
    release_id: int
    project: str
    version: str
    outcome: Outcome
    reason: FailureReason | None
    detail: str
    duration: timedelta
    filenames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A build that runs."""

    release_id: int
    project: str
    version: str
    started: datetime


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that we built."""

    project: str
    version: str
    filename: str
    sha256: str
    top_level: tuple[str, ...]


def watched(conn: Connection, *, since: datetime, policy: Policy) -> list[Project]:
    """The watch list, in order, with what is decided about each project."""
    query = (
        select(watches, projects.c.id, func.coalesce(published.c.listed, False).label("listed"))
        .outerjoin(projects, projects.c.name == watches.c.name)
        .outerjoin(published, published.c.name == watches.c.name)
        .order_by(watches.c.position, watches.c.name)
    )
    return [
        Project(
            name=row.name,
            spelling=row.spelling,
            state=row.state,
            detail=row.detail,
            fresh=row.checked_at is not None and row.checked_at >= since and not row.detail.startswith(TROUBLE),
            listed=row.listed,
            releases=_releases(conn, row.id, policy) if row.id is not None else (),
        )
        for row in conn.execute(query).all()
    ]


def _releases(conn: Connection, project_id: int, policy: Policy) -> tuple[Release, ...]:
    query = (
        select(releases.c.id, releases.c.version)
        .where(releases.c.project_id == project_id, releases.c.wanted)
        .order_by(releases.c.sort_key.desc(), releases.c.id.desc())
    )
    wanted = {row.id: row.version for row in conn.execute(query)}
    decided = verdicts(conn, project_id, policy=policy) if wanted else {}
    return tuple(
        Release(number, version, tuple(decided.get(number, {}).values())) for number, version in wanted.items()
    )


def now(conn: Connection) -> datetime:
    """The time by the database's clock."""
    return conn.execute(select(func.now())).scalar_one()


def last_build(conn: Connection) -> int:
    """The number of the newest build; 0: there is none."""
    return int(conn.execute(select(func.coalesce(func.max(builds.c.id), 0))).scalar_one())


def attempts_since(conn: Connection, build_id: int) -> list[Attempt]:
    """The builds that ended after the one with this number."""
    names = func.array(
        select(files.c.filename).where(files.c.build_id == builds.c.id).order_by(files.c.filename).scalar_subquery()
    )
    query = (
        select(builds, projects.c.display_name, releases.c.version, names.label("filenames"))
        .join(releases, releases.c.id == builds.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .where(builds.c.id > build_id)
        .order_by(builds.c.id)
    )
    return [
        Attempt(
            id=row.id,
            release_id=row.release_id,
            project=row.display_name,
            version=row.version,
            outcome=row.outcome,
            reason=row.reason,
            detail=row.detail,
            duration=row.duration,
            filenames=tuple(row.filenames),
        )
        for row in conn.execute(query)
    ]


def last_failures(conn: Connection, release_ids: Sequence[int]) -> dict[int, Attempt]:
    """The newest failed build of each of these releases."""
    newest = (
        select(func.max(builds.c.id))
        .where(builds.c.release_id.in_(release_ids), builds.c.outcome == Outcome.FAILED)
        .group_by(builds.c.release_id)
    )
    numbers = sorted(conn.execute(newest).scalars())
    found = attempts_since(conn, numbers[0] - 1) if numbers else []
    return {one.release_id: one for one in found if one.id in numbers}


def running(conn: Connection) -> list[Running]:
    """The builds that run, the oldest first."""
    query = (
        select(jobs.c.release_id, projects.c.display_name, releases.c.version, jobs.c.lease_started)
        .join(releases, releases.c.id == jobs.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .where(jobs.c.lease_expires.is_not(None))
        .order_by(jobs.c.lease_started)
    )
    return [Running(row.release_id, row.display_name, row.version, row.lease_started) for row in conn.execute(query)]


def upstream_is_away(conn: Connection) -> bool:
    """Whether the feed says that PyPI does not answer."""
    state = conn.execute(select(roles.c.state).where(roles.c.name == Role.FEED.value)).scalar_one_or_none()
    return isinstance(state, dict) and state.get("upstream") == "away"


def wheels(conn: Connection, found: Sequence[Project]) -> list[Wheel]:
    """The wheels of ours that serve these projects' targets: what an installer here would get from us."""
    wanted = {
        filename: (project.spelling, release.version)
        for project in found
        for release in project.releases
        for verdict in release.verdicts
        if verdict.code is Code.BUILT
        for filename in verdict.wheels
    }
    query = select(files).where(files.c.filename.in_(sorted(wanted)), ~files.c.yanked).order_by(files.c.id)
    newest = {row.filename: row for row in conn.execute(query)}
    return [
        Wheel(project, version, name, newest[name].sha256.hex(), tuple(newest[name].top_level))
        for name, (project, version) in wanted.items()
        if name in newest
    ]
