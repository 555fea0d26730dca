# SPDX-License-Identifier: BSD-3-Clause
"""Stale pages: who marks them, who claims them, and when they are done. What pages show is read in db/page_rows.py.

A row of ``pages`` says that a page does not show what the database says. It is deleted by whoever rendered the page,
in the transaction that notes the result, and only if nobody marked it again meanwhile (``seq``). A claim only spreads
the work: :func:`lock` is what keeps two workers from writing one page at the same time.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple

from sqlalchemy import Connection, case, delete, func, literal, null, or_, select, union, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import direct
from piwheels.db.arrays import among
from piwheels.db.tables import listed, listings, page_kind, pages, projects, published, switches
from piwheels.db.wake import PAGES
from piwheels.site.facts import MAIN
from piwheels.vocabulary import PageKind

HOLD = timedelta(seconds=60)  #: how long a claim lasts whose worker is not heard of again
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=2), timedelta(minutes=5)  #: back-off of a page that cannot be rendered

#: Pages about the farm as a whole that may take seconds and that nobody waits for: rendered beside the others.
BESIDE = frozenset((PageKind.SEARCH, PageKind.STATS, PageKind.STATUS, PageKind.SITEMAP))

#: How long a page waits for more changes before it is rendered. What every build changes is debounced so.
DELAYS: Mapping[PageKind, timedelta] = {
    PageKind.PROJECT: timedelta(0),
    PageKind.ROOT: timedelta(0),  # but see rest()
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
    resting = select(listings.c.space).where(listings.c.space == pages.c.key, listings.c.rest_until > now).exists()
    due = or_(pages.c.kind != PageKind.ROOT, ~resting)
    wanted = (
        select(pages.c.kind, pages.c.key)
        .where(free, pages.c.since <= now - delay, due, among(pages.c.kind, sorted(kinds)))
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


def lock(conn: Connection, kind: PageKind, keys: Collection[str]) -> set[str]:
    """Keep every other worker from writing these pages until the transaction ends; those of which that was possible:
    at the others one is.

    Needed beside the claim, which expires: a worker that was slow must not overwrite what the next one wrote. One that
    loses its session loses these locks; for that there are piwheels.master.page_locks. Two pages may share a lock (the
    key is hashed); they then merely wait for each other.
    """
    facts = {"space": _LOCK_SPACE, "kind": kind.value, "keys": sorted(keys)}
    return {key for key, locked in direct.fetch(conn, _LOCK, facts) if locked}


_LOCK = """\
SELECT x.key, pg_try_advisory_xact_lock(%(space)s, hashtext(%(kind)s || '/' || x.key))
FROM unnest(CAST(%(keys)s AS text[])) AS x(key)
"""


def finish(conn: Connection, worker: str, done: Sequence[Claim]) -> set[str]:
    """These pages of one kind show what was there when they were claimed. The keys of those that are to be rendered
    again, by anybody, since something came meanwhile."""
    if not done:
        return set()
    rows = json.dumps([{"key": claim.key, "seq": claim.seq} for claim in done])
    facts = {"rows": rows, "kind": done[0].kind.value, "worker": worker}
    left = {claim.key for claim in done} - {key for (key,) in direct.fetch(conn, _FINISH, facts)}
    if left:
        mine = (pages.c.kind == done[0].kind, among(pages.c.key, sorted(left)), pages.c.claimed_by == worker)
        again = {"claimed_by": None, "claimed_until": None, "since": func.now(), "attempts": 0}
        conn.execute(update(pages).where(*mine).values(again))
    return left


_FINISH = """\
DELETE FROM pages p USING json_to_recordset(CAST(%(rows)s AS json)) AS x(key text, seq bigint)
WHERE p.kind = CAST(%(kind)s AS page_kind) AND p.key = x.key AND p.seq = x.seq AND p.claimed_by = %(worker)s
RETURNING p.key
"""


def rest(conn: Connection, space: str, *, seconds: float) -> None:
    """The list of an index was written: let it alone for so long."""
    row = insert(listings).values(space=space, rest_until=func.clock_timestamp() + timedelta(seconds=seconds))
    conn.execute(
        row.on_conflict_do_update(index_elements=[listings.c.space], set_={"rest_until": row.excluded.rest_until})
    )


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


def put_back(conn: Connection, worker: str, given: Sequence[Claim]) -> None:
    """Other workers are writing these pages, all of one kind: leave them to whoever comes next, in a moment."""
    if not given:
        return
    mine = (pages.c.kind == given[0].kind, among(pages.c.key, [claim.key for claim in given]))
    values = {"claimed_by": None, "claimed_until": func.now() + timedelta(seconds=1)}
    conn.execute(update(pages).where(*mine, pages.c.claimed_by == worker).values(values))


def release_claims(conn: Connection, worker: str) -> int:
    """Give up what this worker had claimed before it was killed; how many pages that were."""
    return conn.execute(
        update(pages).where(pages.c.claimed_by == worker).values(claimed_by=None, claimed_until=None)
    ).rowcount


def stale_count(conn: Connection) -> int:
    """How many pages await rendering."""
    return conn.scalar(select(func.count()).select_from(pages)) or 0


class Noted(NamedTuple):
    """A project whose pages are on the site."""

    name: str
    files: int  #: that the main index lists
    facts: bytes | None  #: fingerprint of what they were made of; None: they are to be rendered again in any case
    spaces: tuple[str, ...]  #: indexes that have a page of it


def note_published(conn: Connection, noted: Sequence[Noted]) -> set[str]:
    """Note what is on the site now; the spaces whose lists of projects have to change for it."""
    if not noted:
        return set()
    rows = [
        {
            "name": one.name,
            "files": one.files,
            "facts": one.facts.hex() if one.facts else None,
            "listed": MAIN in one.spaces,
            "spaces": list(one.spaces),
        }
        for one in sorted(noted, key=lambda one: one.name)
    ]
    return {space for (space,) in direct.fetch(conn, _NOTE, {"rows": json.dumps(rows)})}


_NOTE = """\
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(%(rows)s AS json))
        AS x(name text, files integer, facts text, listed boolean, spaces text[])
), noted AS (
    INSERT INTO published (name, listed, files, facts) SELECT name, listed, files, decode(facts, 'hex') FROM given
    ON CONFLICT (name) DO UPDATE
        SET listed = excluded.listed, files = excluded.files, facts = excluded.facts, published_at = now()
), gone AS (
    DELETE FROM listed l USING given g WHERE l.name = g.name AND l.space <> ALL (g.spaces) RETURNING l.space
), new AS (
    INSERT INTO listed (name, space) SELECT g.name, s.space FROM given g, unnest(g.spaces) AS s(space)
    ON CONFLICT DO NOTHING RETURNING space
)
SELECT space FROM gone UNION SELECT space FROM new
"""


def note_removed(conn: Connection, names: Sequence[str]) -> set[str]:
    """Note that projects have no pages any more; the spaces whose lists of projects have to change for it."""
    conn.execute(delete(published).where(among(published.c.name, names)))
    return set(conn.scalars(delete(listed).where(among(listed.c.name, names)).returning(listed.c.space)))


def published_facts(conn: Connection, names: Sequence[str]) -> dict[str, bytes]:
    """The fingerprints of what these projects' pages were made of, as far as they are not to be rendered in any
    case."""
    return dict(direct.fetch(conn, _FACTS, {"names": list(names)})) if names else {}


_FACTS = f"""\
SELECT name, facts FROM published WHERE {direct.among("name", "names", "text")} AND facts IS NOT NULL
"""


def forget(conn: Connection, names: Collection[str]) -> None:
    """Have these projects' pages rendered though they may be made of the same: files may be missing, or not ours."""
    if names:
        direct.run(conn, _FORGET, {"names": sorted(names)})


_FORGET = f"""\
UPDATE published SET facts = NULL WHERE {direct.among("name", "names", "text")} AND facts IS NOT NULL
"""


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
    forget(conn, names)
    mark_all_stale(conn, PageKind.PROJECT, names, reason, background=True)
    return list(names)


def mark_matching(conn: Connection, pattern: str, *, after: str, reason: str) -> tuple[int, str]:
    """Of the next batch of projects that have pages, by name after ``after``, mark those whose name matches (``*`` and
    ``?`` as in a shell). How many were marked, and the last name of the batch, empty at the end."""
    batch = select(published.c.name).where(published.c.name > after).order_by(published.c.name).limit(MARKED_AT_ONCE)
    names = conn.scalars(batch).all()
    wanted = [name for name in names if fnmatchcase(name, pattern)]
    forget(conn, wanted)
    mark_all_stale(conn, PageKind.PROJECT, wanted, reason, background=True)
    return len(wanted), names[-1] if names else ""


def mark_named(conn: Connection, names: Collection[str], reason: str) -> set[str]:
    """Mark these projects, whether they have pages or not; those that nobody knows, which are not."""
    pages_of = select(published.c.name).where(among(published.c.name, names))
    known = set(conn.scalars(union(pages_of, select(projects.c.name).where(among(projects.c.name, names)))))
    forget(conn, known)
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
