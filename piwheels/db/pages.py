# SPDX-License-Identifier: BSD-3-Clause
"""Stale pages: who marks them, who claims them, and when they are done. What pages show is read in db/page_facts.py.

A row of ``pages`` says that a page does not show what the database says. It is deleted by whoever rendered the page,
in the transaction that notes the result, and only if nobody marked it again meanwhile (``seq``). A claim only spreads
the work: :func:`lock` is what keeps two workers from writing one page at the same time.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from sqlalchemy import Connection, case, delete, func, literal, null, or_, select, union, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import direct
from piwheels.db.arrays import among
from piwheels.db.tables import page_kind, pages, projects, published, switches
from piwheels.db.wake import PAGES
from piwheels.vocabulary import PageKind

HOLD = timedelta(seconds=60)  #: how long a claim lasts whose worker is not heard of again
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=2), timedelta(minutes=5)  #: back-off of a page that cannot be rendered

#: Pages about the farm as a whole that may take seconds and that nobody waits for: rendered beside the others.
BESIDE = frozenset((PageKind.SEARCH, PageKind.STATS, PageKind.STATUS, PageKind.SITEMAP))

#: How long a page waits for more changes before it is rendered. What every build changes is debounced so.
DELAYS: Mapping[PageKind, timedelta] = {
    PageKind.PROJECT: timedelta(0),
    PageKind.ROOT: timedelta(seconds=1),
    PageKind.HOME: timedelta(seconds=2),
    **dict.fromkeys(BESIDE, timedelta(0)),
    PageKind.CHANGES: timedelta(0),  # marked every few seconds at most
}

MARKED_AT_ONCE = 2000  #: pages that mark_published marks in one transaction

_LOOK = "pages rendered with"  #: the switch that holds the fingerprint of what made the pages
_LOCK_SPACE = 0x50616765  # 'Page': the first key of our advisory locks, so that other users of the database keep apart


@dataclass(frozen=True, slots=True)
class Claim:
    """A page to render. ``seq`` is what its mark counted when it was claimed."""

    kind: PageKind
    key: str
    seq: int
    attempts: int  #: times that rendering it failed since it was last marked


def mark_stale(conn: Connection, kind: PageKind, key: str, reason: str) -> None:
    """Say that a page no longer shows what the database says, in the transaction that made it so.

    ``key`` is the project's canonical name, empty for the pages there is one of. Marks coalesce. A claim on the page
    stays, so that no other worker starts on it, but the worker's end will not delete the row; a back-off ends.
    """
    mark_all_stale(conn, kind, [key], reason)


def mark_all_stale(
    conn: Connection, kind: PageKind, keys: Sequence[str], reason: str, *, background: bool = False
) -> None:
    """As :func:`mark_stale`, for several pages of a kind. ``background``: what they say has not changed, so that pages
    of which that is not so come first."""
    if not keys:
        return
    facts = {"kind": kind.value, "reason": reason[:200], "background": background}
    direct.fetch(conn, _MARK, {"keys": json.dumps(sorted(set(keys))), **facts})


# The nudge goes with it (see db/wake): it would cost a round of its own.
_MARK = f"""
    WITH marked AS (
        INSERT INTO pages (kind, key, reason, background)
        SELECT CAST(%(kind)s AS page_kind), x.key, %(reason)s, %(background)s
        FROM json_array_elements_text(CAST(%(keys)s AS json)) AS x(key)
        ON CONFLICT (kind, key) DO UPDATE SET seq = pages.seq + 1, reason = excluded.reason, attempts = 0,
            background = pages.background AND excluded.background,
            claimed_until = CASE WHEN pages.claimed_by IS NOT NULL THEN pages.claimed_until END
    )
    SELECT pg_notify('{PAGES}', '')
"""


def claim(
    conn: Connection,
    worker: str,
    *,
    limit: int,
    hold: timedelta = HOLD,
    kinds: Collection[PageKind] = frozenset(PageKind),
) -> list[Claim]:
    """Take up to ``limit`` pages of these kinds, the longest stale first, background ones last. Commit soon: the rows
    are locked until then."""
    now = func.now()
    delay = case(*((pages.c.kind == literal(kind, page_kind), wait) for kind, wait in DELAYS.items()))
    free = or_(pages.c.claimed_until.is_(None), pages.c.claimed_until <= now)
    wanted = (
        select(pages.c.kind, pages.c.key)
        .where(free, pages.c.since <= now - delay, among(pages.c.kind, sorted(kinds)))
        .order_by(pages.c.background, pages.c.since)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("wanted")
    )
    taken = (
        update(pages)
        .where(pages.c.kind == wanted.c.kind, pages.c.key == wanted.c.key)
        .values(claimed_by=worker, claimed_until=now + hold)
        .returning(pages.c.kind, pages.c.key, pages.c.seq, pages.c.attempts, pages.c.background, pages.c.since)
    )
    rows = sorted(conn.execute(taken), key=lambda row: (row.background, row.since))
    return [Claim(row.kind, row.key, row.seq, row.attempts) for row in rows]


def lock(conn: Connection, kind: PageKind, key: str) -> bool:
    """Keep every other worker from writing this page until the transaction ends; False: one is at it.

    Needed beside the claim, which expires: a worker that was stopped for a minute and goes on must not overwrite what
    the next one wrote. Two pages may share a lock (the key is hashed); they then merely wait for each other.
    """
    return bool(conn.scalar(select(func.pg_try_advisory_xact_lock(_LOCK_SPACE, func.hashtext(f"{kind.value}/{key}")))))


def finish(conn: Connection, worker: str, done: Claim) -> bool:
    """The page shows what was there when it was claimed. True: nothing came since; else it stays stale, for anybody."""
    mine = (pages.c.kind == done.kind, pages.c.key == done.key, pages.c.claimed_by == worker)
    if conn.execute(delete(pages).where(*mine, pages.c.seq == done.seq)).rowcount:
        return True
    conn.execute(update(pages).where(*mine).values(claimed_by=None, claimed_until=None, since=func.now(), attempts=0))
    return False


def failed(conn: Connection, worker: str, page: Claim, why: str) -> timedelta:
    """The page could not be rendered; it is tried again after the returned time, or at once if marked meanwhile."""
    wait: timedelta = min(FIRST_RETRY * 2.0 ** min(page.attempts, 30), LONGEST_RETRY)
    conn.execute(
        update(pages)
        .where(pages.c.kind == page.kind, pages.c.key == page.key, pages.c.claimed_by == worker)
        .values(
            claimed_by=None,
            claimed_until=case((pages.c.seq == page.seq, func.now() + wait), else_=null()),
            attempts=page.attempts + 1,
            reason=why[:200],
        )
    )
    return wait


def put_back(conn: Connection, worker: str, page: Claim) -> None:
    """Another worker is writing this page: leave it to whoever comes next, in a moment."""
    conn.execute(
        update(pages)
        .where(pages.c.kind == page.kind, pages.c.key == page.key, pages.c.claimed_by == worker)
        .values(claimed_by=None, claimed_until=func.now() + timedelta(seconds=1))
    )


def release_claims(conn: Connection, worker: str) -> int:
    """Give up what this worker had claimed before it was killed; how many pages that were."""
    return conn.execute(
        update(pages).where(pages.c.claimed_by == worker).values(claimed_by=None, claimed_until=None)
    ).rowcount


def stale_count(conn: Connection) -> int:
    """How many pages await rendering."""
    return conn.scalar(select(func.count()).select_from(pages)) or 0


def note_published(conn: Connection, name: str, *, files: int) -> bool:
    """Note that a project's pages are on the site and list so many files; whether /simple/ has to change for it."""
    listed = conn.scalar(select(published.c.listed).where(published.c.name == name).with_for_update())
    row = insert(published).values(name=name, listed=files > 0, files=files)
    conn.execute(
        row.on_conflict_do_update(
            index_elements=[published.c.name],
            set_={"listed": row.excluded.listed, "files": row.excluded.files, "published_at": func.now()},
        )
    )
    return bool(listed) != (files > 0)


def note_removed(conn: Connection, name: str) -> bool:
    """Note that a project has no pages any more; whether /simple/ has to change for it."""
    return bool(conn.scalar(delete(published).where(published.c.name == name).returning(published.c.listed)))


def rendered_with(conn: Connection) -> str:
    """The fingerprint of the program and settings by which all pages were last marked; empty: none yet."""
    return conn.scalar(select(switches.c.value).where(switches.c.name == _LOOK)) or ""


def note_rendered_with(conn: Connection, look: str) -> None:
    """Note that all pages were marked for this fingerprint, and mark those there is one of."""
    row = insert(switches).values(name=_LOOK, value=look)
    conn.execute(row.on_conflict_do_update(index_elements=[switches.c.name], set_={"value": look}))
    for kind in (PageKind.HOME, PageKind.CHANGES, *BESIDE):
        mark_stale(conn, kind, "", "new look")


def forget_look(conn: Connection) -> str:
    """Something has changed that all pages show: have the next publish role to start mark them, unless somebody does
    before. Returns the fingerprint that was noted, for :func:`note_rendered_with` to note again once that is done."""
    look = rendered_with(conn)
    conn.execute(delete(switches).where(switches.c.name == _LOOK))
    return look


def mark_published(conn: Connection, *, after: str, reason: str = "new look") -> list[str]:
    """Mark the next batch of projects that have pages, by name after ``after``; their names, none at the end."""
    names = conn.scalars(
        select(published.c.name).where(published.c.name > after).order_by(published.c.name).limit(MARKED_AT_ONCE)
    ).all()
    mark_all_stale(conn, PageKind.PROJECT, names, reason, background=True)
    return list(names)


def mark_matching(conn: Connection, pattern: str, *, after: str, reason: str) -> tuple[int, str]:
    """Of the next batch of projects that have pages, by name after ``after``, mark those whose name matches (``*`` and
    ``?`` as in a shell). How many were marked, and the last name of the batch, empty at the end."""
    batch = select(published.c.name).where(published.c.name > after).order_by(published.c.name).limit(MARKED_AT_ONCE)
    names = conn.scalars(batch).all()
    wanted = [name for name in names if fnmatchcase(name, pattern)]
    mark_all_stale(conn, PageKind.PROJECT, wanted, reason, background=True)
    return len(wanted), names[-1] if names else ""


def mark_named(conn: Connection, names: Collection[str], reason: str) -> set[str]:
    """Mark these projects, whether they have pages or not; those that nobody knows, which are not."""
    pages_of = select(published.c.name).where(among(published.c.name, names))
    known = set(conn.scalars(union(pages_of, select(projects.c.name).where(among(projects.c.name, names)))))
    mark_all_stale(conn, PageKind.PROJECT, sorted(known), reason, background=True)
    return set(names) - known


def left_of(conn: Connection, moment: datetime) -> tuple[int, int]:
    """How many pages wait that waited at that moment already, and how many of them failed when last tried."""
    failures = func.count().filter(pages.c.attempts > 0)
    row = conn.execute(select(func.count(), failures).select_from(pages).where(pages.c.since <= moment)).one()
    return row[0], row[1]


def in_trouble(conn: Connection, *, limit: int) -> list[tuple[PageKind, str, str]]:
    """Pages that could not be rendered and are tried again: kind, key, why."""
    found = select(pages.c.kind, pages.c.key, pages.c.reason).where(pages.c.attempts > 0).order_by(pages.c.key)
    return [(row.kind, row.key, row.reason) for row in conn.execute(found.limit(limit))]
