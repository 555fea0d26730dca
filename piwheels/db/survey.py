# SPDX-License-Identifier: BSD-3-Clause
"""Comparing PyPI's whole listing with our rows, and noting what differs. What differs is decided in pypi/listing.

One sequential read of two columns, streamed; runs every few minutes at most, never for a single project.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from psycopg import Connection as RawConnection
from sqlalchemy import Connection, select

from piwheels.db import changes
from piwheels.db.tables import projects, watches
from piwheels.pypi.interpret import Change
from piwheels.pypi.listing import Listing, compare, implausible
from piwheels.pypi.pending import Priority
from piwheels.vocabulary import ProjectStatus

T = TypeVar("T")

AT_ONCE = 20_000  #: rows of changes in one statement
FETCHED = 10_000  #: rows of ours at a time; COPY would hand over each by itself, for twice the time

# Quarantined projects are not listed; that they are missing says nothing.
_EXPECTED = f"status <> '{ProjectStatus.QUARANTINED.value}'"
_OURS = f"SELECT name, serial FROM projects WHERE {_EXPECTED}".encode()
_WATCHED = f"SELECT name, serial FROM projects JOIN watches USING (name) WHERE {_EXPECTED}".encode()


@dataclass(frozen=True, slots=True)
class Survey:
    """What a comparison found, in projects."""

    listed: int
    known: int
    news: int  #: changed since our position
    added: int  #: listed, unknown to us
    moved: int  #: with another serial than our rows
    gone: int  #: known, not listed
    doubt: str  #: why it is not believed that the missing are gone; empty: it is

    @property
    def findings(self) -> int:
        """Differences that the news do not explain."""
        return self.added + self.moved + self.gone


def note(
    conn: Connection,
    listing: Listing,
    *,
    restricted: bool,
    live: bool,
    hidden: bool = False,
    fill: Priority = Priority.REPAIR,
) -> Survey:
    """Record every project that differs, and the listing's serial as our position if it is followed (``live``) or there
    is none yet.

    What moved since the position is news. What differs though it should not is for ``fill``: at the pace of repairs,
    unless somebody bootstraps. ``hidden``: have quarantined projects asked for, too: they are not listed, whether they
    change, are removed, or neither. ``restricted``: watched projects only.
    """
    position = changes.position(conn)
    since = listing.last_serial if position is None else position
    if restricted:
        listing = _watched(conn, listing)
    known = _Counted(ours(conn, restricted=restricted))
    difference = compare(listing, known)
    doubt = implausible(listing, known.count, len(difference.gone)) or ""
    news = [(name, serial) for name, serial in (*difference.new, *difference.moved) if serial > since]
    if live:
        _record(conn, news, Priority.NEWS, restricted=restricted)
        changes.advance(conn, listing.last_serial, source="index")
    elif position is None:
        changes.advance(conn, listing.last_serial, source="bootstrap")
    if hidden:
        unlisted = [name for name in _quarantined(conn) if name not in listing.serials]
        _record(conn, [(name, 0) for name in unlisted], Priority.REPAIR, restricted=restricted)
    old = [[(name, serial) for name, serial in part if serial <= since] for part in (difference.new, difference.moved)]
    return Survey(
        listed=len(listing.serials),
        known=known.count,
        news=len(news),
        added=_record(conn, old[0], fill, restricted=restricted),
        moved=_record(conn, old[1], fill, restricted=restricted),
        gone=_record_gone(conn, [] if doubt else difference.gone, fill, said=listing.last_serial),
        doubt=doubt,
    )


class _Counted:
    """Counts what passes."""

    def __init__(self, rows: Iterator[tuple[str, int]]) -> None:
        self.count = 0
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for row in self._rows:
            self.count += 1
            yield row


def _record(conn: Connection, found: Sequence[tuple[str, int]], priority: Priority, *, restricted: bool) -> int:
    page = priority is not Priority.BOOTSTRAP  # nobody says what changed; a new farm has enough to ask for
    live = priority is Priority.NEWS  # else nothing waits for it: its serial is no reason to hold ours back
    done = 0
    for some in _batches(found):
        heard = [Change(name, serial if live else 0, serial, removed=False, page=page) for name, serial in some]
        done += changes.record(conn, heard, priority, restricted=restricted)
    return done


def _record_gone(conn: Connection, names: Sequence[str], priority: Priority, *, said: int) -> int:
    done = 0
    for some in _batches(names):
        heard = [Change(name, 0, 0, removed=True, page=True, said=said) for name in some]
        done += changes.record(conn, heard, priority)
    return done


def _batches(found: Sequence[T]) -> Iterator[Sequence[T]]:
    return (found[start : start + AT_ONCE] for start in range(0, len(found), AT_ONCE))


def _quarantined(conn: Connection) -> Sequence[str]:
    return conn.scalars(select(projects.c.name).where(projects.c.status == ProjectStatus.QUARANTINED)).all()


def _watched(conn: Connection, listing: Listing) -> Listing:
    names = conn.scalars(select(watches.c.name)).all()
    serials = {name: listing.serials[name] for name in names if name in listing.serials}
    return Listing(serials=serials, last_serial=listing.last_serial, etag=listing.etag, refused=listing.refused)


def ours(conn: Connection, *, restricted: bool = False) -> Iterator[tuple[str, int]]:
    """Name and serial of every project of ours that ought to be listed, streamed."""
    raw = conn.connection.driver_connection
    assert isinstance(raw, RawConnection)
    with raw.cursor(name="ours", binary=True) as cursor:
        cursor.execute(_WATCHED if restricted else _OURS)
        while rows := cursor.fetchmany(FETCHED):
            yield from rows
