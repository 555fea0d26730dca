# SPDX-License-Identifier: BSD-3-Clause
"""What pages about the farm as a whole show, read from the database, and when each of them is due again.

Every query is bounded however large the farm is: counts stop at a ceiling, sums come from tables of one row a day. The
two that read a narrow row for each project with a page (how many there are; the most downloaded) run for pages that
rest so many times as long as they took (:data:`REST`).
"""

import ipaddress
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Connection, and_, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import roles
from piwheels.db import targets as target_rows
from piwheels.db.arrays import among
from piwheels.db.pages import mark_stale
from piwheels.db.tables import (
    build_days,
    builds,
    download_counts,
    download_days,
    feeds,
    jobs,
    pages,
    projects,
    published,
    releases,
    renderings,
    slaves,
    targets,
)
from piwheels.db.tables import roles as role_rows
from piwheels.site.farm_facts import (
    Builder,
    Builds,
    Downloads,
    Feed,
    HomeFacts,
    Latest,
    Process,
    Queue,
    RecentBuild,
    Running,
    StatsFacts,
    StatusFacts,
)
from piwheels.vocabulary import Outcome, PageKind, Role

MONTH, YEAR = timedelta(days=30), timedelta(days=365)
SILENT = timedelta(seconds=15)  #: without a heartbeat, after which a process is said to be silent
CEILING = 10_000  #: where counting rows stops
RECENT = 20  #: builds on the status page
LOOKED_AT = 300  #: builds among which the latest releases are found
LATEST = 9  #: releases on the home page
SHOWN = 200  #: builders and builds in hand
TOP = 20  #: projects on the statistics page
TOLD = 12  #: values of each kind there

#: How long a page about the farm rests at least, and how many times as long as it took to render.
RESTS: Mapping[PageKind, timedelta] = {
    PageKind.HOME: timedelta(seconds=60),
    PageKind.STATUS: timedelta(seconds=30),
    PageKind.SEARCH: timedelta(seconds=60),
    PageKind.STATS: timedelta(minutes=2),
    PageKind.SITEMAP: timedelta(minutes=30),
}
REST = 40


# When they are due


def mark_due(conn: Connection) -> list[PageKind]:
    """Mark the pages whose rest is over; which they are. They follow the clock: nobody marks what they show."""
    age = (func.now() - renderings.c.rendered_at).label("age")
    last = {row.kind: (row.age, row.took) for row in conn.execute(select(renderings.c.kind, age, renderings.c.took))}
    waiting = set(conn.scalars(select(pages.c.kind).where(among(pages.c.kind, list(RESTS)), pages.c.key == "")))
    due = [kind for kind, rest in RESTS.items() if kind not in waiting and _is_over(rest, last.get(kind))]
    for kind in due:
        mark_stale(conn, kind, "", "its rest is over")
    return due


def _is_over(rest: timedelta, last: tuple[timedelta, timedelta] | None) -> bool:
    """Whether a page has rested long enough, told how long ago it was rendered and how long that took. One rendered in
    the future (the clock was set back) rests no longer."""
    if last is None:
        return True
    age, took = last
    return age >= max(rest, REST * took) or age < timedelta(0)


def note_rendered(conn: Connection, kind: PageKind, *, took: timedelta) -> None:
    """Note that a page of these was rendered, and how long that took."""
    row = insert(renderings).values(kind=kind, rendered_at=func.now(), took=took)
    changed = {"rendered_at": row.excluded.rendered_at, "took": row.excluded.took}
    conn.execute(row.on_conflict_do_update(index_elements=[renderings.c.kind], set_=changed))


# Home


def load_home(conn: Connection, *, today: date) -> HomeFacts:
    """What the home page shows. ``today`` is UTC's."""
    listed, files = _published(conn)
    enabled = target_rows.enabled(conn)
    within_a_day = select(builds.c.id).where(builds.c.finished > func.now() - timedelta(days=1))
    month = select(func.coalesce(func.sum(download_counts.c.count), 0)).where(
        download_counts.c.day > today - MONTH, download_counts.c.kind == "all"
    )
    return HomeFacts(
        projects=listed,
        files=files,
        builds=conn.scalar(select(func.count()).select_from(within_a_day.limit(100 * CEILING).subquery())) or 0,
        downloads=int(conn.scalar(month) or 0),
        targets=tuple(target.name for target in enabled),
        distributions=tuple(dict.fromkeys(target.distribution for target in enabled if target.distribution)),
        running=tuple(_running(conn).values())[:12],
        latest=_latest(conn),
    )


def _published(conn: Connection) -> tuple[int, int]:
    """Projects that are listed, and their files: one narrow row for each project with a page."""
    sums = conn.execute(
        select(func.count().filter(published.c.listed), func.coalesce(func.sum(published.c.files), 0))
    ).one()
    return int(sums[0]), int(sums[1])


def _running(conn: Connection) -> dict[int, Running]:
    """Builds in hand by the builder's number, the oldest first."""
    query = (
        select(
            projects.c.name,
            projects.c.display_name,
            releases.c.version,
            targets.c.name.label("target"),
            slaves.c.id,
            slaves.c.label,
            jobs.c.lease_started,
        )
        .select_from(jobs)
        .join(releases, releases.c.id == jobs.c.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.id == jobs.c.target_id)
        .join(slaves, slaves.c.id == jobs.c.lease_slave_id)
        .where(jobs.c.lease_expires.is_not(None))
        .order_by(jobs.c.lease_started, slaves.c.id)
        .limit(SHOWN)
    )
    return {
        row.id: Running(
            row.name, row.display_name, row.version, row.target, builder_name(row.id, row.label), row.lease_started
        )
        for row in conn.execute(query)
    }


def builder_name(number: int, label: str) -> str:
    """What the public is told a builder is called: its label, unless that is a network address."""
    label = label.strip()
    try:
        ipaddress.ip_address(label.strip("[]").partition("%")[0])
    except ValueError:
        return label or f"builder {number}"
    return f"builder {number}"


def _recent(conn: Connection, limit: int, *, built: bool = False) -> list[RecentBuild]:
    b = builds.c
    query = (
        select(
            b.id,
            b.finished,
            b.duration,
            b.reason,
            b.has_log,
            releases.c.version,
            projects.c.name,
            projects.c.display_name,
            targets.c.name.label("target"),
        )
        .join(releases, releases.c.id == b.release_id)
        .join(projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.id == b.target_id)
        .order_by(b.finished.desc(), b.id.desc())
        .limit(limit)
    )
    if built:
        # Looked for among so many of the latest: were all of those failures, the table would be read from end to end.
        latest = select(b.id, b.finished).order_by(b.finished.desc(), b.id.desc()).limit(limit).subquery()
        query = query.join(latest, latest.c.id == b.id).where(b.outcome == Outcome.SUCCESS)
    return [
        RecentBuild(
            build_id=row.id,
            project=row.name,
            display_name=row.display_name,
            version=row.version,
            target=row.target,
            finished=row.finished,
            duration=row.duration,
            reason=row.reason,
            has_log=row.has_log,
        )
        for row in conn.execute(query)
    ]


def _latest(conn: Connection) -> tuple[Latest, ...]:
    """The releases that wheels were made of last."""
    found: dict[tuple[str, str], list[RecentBuild]] = defaultdict(list)
    for build in _recent(conn, LOOKED_AT, built=True):
        found[build.project, build.version].append(build)
    shown = list(found.values())[:LATEST]
    names = [built[0].project for built in shown]
    query = select(projects.c.name, projects.c.summary).where(among(projects.c.name, names))
    summaries = {row.name: row.summary for row in conn.execute(query)}
    return tuple(
        Latest(
            project=built[0].project,
            display_name=built[0].display_name,
            version=built[0].version,
            summary=summaries.get(built[0].project, ""),
            targets=tuple(sorted({one.target for one in built})),
            finished=built[0].finished,
        )
        for built in shown
    )


# Status


def load_status(conn: Connection) -> StatusFacts:
    """What the status page shows."""
    now: datetime = conn.execute(select(func.now())).scalar_one()
    waiting = select(pages.c.since).where(pages.c.kind == PageKind.PROJECT)
    stale = waiting.order_by(pages.c.background, pages.c.since).limit(CEILING).subquery()
    pending = conn.execute(select(func.count(), func.min(stale.c.since))).one()
    return StatusFacts(
        paused=roles.is_paused(conn),
        ceiling=CEILING,
        processes=_processes(conn, now),
        builders=_builders(conn, _running(conn)),
        queues=_queues(conn),
        feed=_feed(conn),
        stale=pending[0],
        stale_since=pending[1],
        recent=tuple(_recent(conn, RECENT)),
    )


def _processes(conn: Connection, now: datetime) -> tuple[Process, ...]:
    rows = conn.execute(select(role_rows.c.name, role_rows.c.seen_at).order_by(role_rows.c.name).limit(SHOWN))
    return tuple(Process(row.name, row.seen_at, now - row.seen_at > SILENT) for row in rows)


def _builders(conn: Connection, running: Mapping[int, Running]) -> tuple[Builder, ...]:
    """Those that were heard of within a month, or are new; by name. An enrolled address is none itself."""
    heard = or_(slaves.c.last_seen > func.now() - MONTH, slaves.c.enrolled_at > func.now() - MONTH)
    known = or_(slaves.c.last_seen.is_not(None), ~slaves.c.key.like("plain %"))
    query = (
        select(slaves.c.id, slaves.c.label, slaves.c.wish, slaves.c.last_seen, targets.c.name.label("target"))
        .select_from(slaves.outerjoin(targets))
        .where(slaves.c.enabled, heard, known)
        .order_by(slaves.c.last_seen.desc().nulls_last(), slaves.c.id)
        .limit(SHOWN)
    )
    found = [
        Builder(builder_name(row.id, row.label), row.target or "", row.wish, row.last_seen, running.get(row.id))
        for row in conn.execute(query)
    ]
    return tuple(sorted(found, key=lambda builder: (builder.name.casefold(), builder.name)))


def _queues(conn: Connection) -> tuple[Queue, ...]:
    """What waits for each enabled target: read along the index that jobs are claimed by, to the ceiling."""
    waiting = (
        select(jobs.c.created_at)
        .where(jobs.c.target_id == targets.c.id, jobs.c.lease_token.is_(None), ~jobs.c.resting)
        .limit(CEILING)
        .correlate(targets)
        .subquery()
    )
    counted = select(func.count().label("waiting"), func.min(waiting.c.created_at).label("oldest")).lateral()
    query = select(targets.c.id, targets.c.name, counted.c.waiting, counted.c.oldest).select_from(
        targets.join(counted, literal(True))
    )
    leased = select(jobs.c.target_id, func.count()).where(jobs.c.lease_expires.is_not(None)).group_by(jobs.c.target_id)
    building = {row[0]: int(row[1]) for row in conn.execute(leased)}
    rows = conn.execute(query.where(targets.c.enabled).order_by(targets.c.rank))
    return tuple(Queue(row.name, row.waiting, building.get(row.id, 0), row.oldest) for row in rows)


def _feed(conn: Connection) -> Feed:
    """As the feed said with its last heartbeat; what it says of itself is ours, but its shape may be an older one's."""
    state = conn.scalar(select(role_rows.c.state).where(role_rows.c.name == Role.FEED.value)) or {}
    waiting = state.get("waiting")
    return Feed(
        source=str(state.get("source") or ""),
        answers=state.get("upstream") != "away",
        serial=int(state.get("serial") or 0),
        waiting=sum(waiting.values()) if isinstance(waiting, dict) else 0,
        updated_at=conn.scalar(select(func.max(feeds.c.updated_at))),
    )


# Statistics


def load_stats(conn: Connection, *, today: date) -> StatsFacts:
    """What the statistics page shows. ``today`` is UTC's."""
    _sum_up_builds(conn, today=today)
    listed, files = _published(conn)
    counts = download_counts.c
    ever = conn.execute(
        select(func.coalesce(func.sum(counts.count), 0), func.coalesce(func.sum(counts.saved), timedelta(0))).where(
            counts.kind == "all"
        )
    ).one()
    return StatsFacts(
        today=today,
        downloads=_downloads(conn, today=today),
        builds=_builds(conn, today=today),
        told=_told(conn, today=today),
        projects=listed,
        files=files,
        waiting=sum(queue.waiting for queue in _queues(conn)),
        saved=ever[1],
        fetched=int(ever[0]),
        top=_top(conn, today=today),
    )


def _downloads(conn: Connection, *, today: date) -> tuple[Downloads, ...]:
    counts = download_counts.c
    query = select(counts.day, counts.count, counts.saved).where(counts.day > today - YEAR, counts.kind == "all")
    return tuple(Downloads(*row) for row in conn.execute(query.order_by(counts.day)))


def _told(conn: Connection, *, today: date) -> dict[str, tuple[tuple[str, int], ...]]:
    counts = download_counts.c
    query = (
        select(counts.kind, counts.value, func.sum(counts.count).label("sum"))
        .where(counts.day > today - MONTH, counts.kind != "all")
        .group_by(counts.kind, counts.value)
        .order_by(counts.kind, func.sum(counts.count).desc(), counts.value)
    )
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for kind, value, count in conn.execute(query):
        found[kind].append((value, int(count)))
    return {kind: _bounded(values) for kind, values in found.items()}


def _bounded(values: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """The most frequent ones, the rest of them with what was not told, which comes last."""
    named = [pair for pair in values if pair[0]]
    rest = sum(count for _, count in named[TOLD:]) + sum(count for value, count in values if not value)
    return (*named[:TOLD], ("", rest)) if rest else tuple(named[:TOLD])


def _builds(conn: Connection, *, today: date) -> tuple[Builds, ...]:
    days = build_days.c
    query = select(build_days).where(days.day > today - YEAR, days.built + days.failed > 0).order_by(days.day)
    past = [Builds(row.day, row.built, row.failed, row.duration) for row in conn.execute(query)]
    summed = past[-1].day if past else None
    return (*past, *(one for one in _count_builds(conn, today, today) if one.day != summed))


def _sum_up_builds(conn: Connection, *, today: date) -> None:
    """Sum up the days that are over and were not summed up yet: yesterday, but for a farm that has just got this."""
    last = conn.scalar(select(func.max(build_days.c.day)))
    if last is None:
        first = conn.scalar(select(func.min(builds.c.finished)))
        if first is None:
            return
        last = first.astimezone(UTC).date() - timedelta(days=1)
    begin, end = last + timedelta(days=1), today - timedelta(days=1)
    if begin > end:
        return
    counted = {one.day: one for one in _count_builds(conn, begin, end)}
    days = [begin + timedelta(days=number) for number in range((end - begin).days + 1)]
    found = [counted.get(day) or Builds(day, 0, 0, timedelta(0)) for day in days]
    values = [{"day": b.day, "built": b.built, "failed": b.failed, "duration": b.duration} for b in found]
    conn.execute(insert(build_days).on_conflict_do_nothing(), values)


def _count_builds(conn: Connection, first: date, last: date) -> list[Builds]:
    """Builds that ended from one day to another, by the index on their end."""
    begin = datetime.combine(first, time(), UTC)
    end = datetime.combine(last + timedelta(days=1), time(), UTC)
    day = cast(func.timezone("UTC", builds.c.finished), build_days.c.day.type)
    query = (
        select(
            day.label("day"),
            func.count().filter(builds.c.outcome == Outcome.SUCCESS).label("built"),
            func.count().filter(builds.c.outcome == Outcome.FAILED).label("failed"),
            func.sum(builds.c.duration).label("duration"),
        )
        .where(and_(builds.c.finished >= begin, builds.c.finished < end))
        .group_by(day)
        .order_by(day)
    )
    return [Builds(row.day, row.built, row.failed, row.duration) for row in conn.execute(query)]


def _top(conn: Connection, *, today: date) -> tuple[tuple[str, int], ...]:
    """The projects most downloaded within 30 days, by the index on the day."""
    days = download_days.c
    total = func.sum(days.count)
    sums = (
        select(days.project_id, total.label("sum"))
        .where(days.day > today - MONTH)
        .group_by(days.project_id)
        .order_by(total.desc(), days.project_id)
        .limit(TOP)
        .subquery()
    )
    query = select(projects.c.name, sums.c.sum).join(sums, sums.c.project_id == projects.c.id)
    rows = conn.execute(query.order_by(sums.c.sum.desc(), projects.c.name))
    return tuple((row.name, int(row.sum)) for row in rows)
