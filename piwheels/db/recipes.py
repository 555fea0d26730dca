# SPDX-License-Identifier: BSD-3-Clause
"""Recipes as rows: replacing the whole set, and asking which recipe a project gets.

A set has a mark, a new one for each that was ever stored, so that a process reads the set again only when there is
another. What is to be planned anew is noted in the transaction that stores a set and done by db/recipe_planning.
"""

import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, case, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import direct
from piwheels.db.arrays import insert_rows
from piwheels.db.tables import feeds, recipe_changes, recipes
from piwheels.master.recipes import Book, Entry, Recipe, changed, from_plain, to_plain

_MARK = "recipes"  #: the row of ``feeds`` that holds the set's mark
_KEPT = 4  #: sets that a process remembers: transactions that began before a change may still ask for the last one

_books: dict[str, Book] = {}
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class Changed:
    """What storing a set came to."""

    names: tuple[str, ...] = ()  #: projects of which something else is said now
    patterns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names or self.patterns)


def apply(conn: Connection, entries: Sequence[Entry]) -> Changed:
    """Store this set in place of the one there is, and note what is to be planned anew; harmless to repeat.

    ``entries`` are in the order in which they are merged, as :func:`piwheels.master.recipes.parse` returns them.
    """
    conn.execute(insert(feeds).values(name=_MARK).on_conflict_do_nothing())
    conn.execute(select(feeds.c.name).where(feeds.c.name == _MARK).with_for_update())
    before = stored(conn)
    if tuple(entries) == before:
        return Changed()
    conn.execute(delete(recipes))
    if entries:
        conn.execute(insert_rows(recipes, [_row(number, entry) for number, entry in enumerate(entries)]))
    conn.execute(update(feeds).where(feeds.c.name == _MARK).values(detail=uuid.uuid4().hex, updated_at=func.now()))
    resets = changed(before, entries)
    if resets:
        _note(conn, resets)
    wild = {pattern for pattern in resets if "*" in pattern or "?" in pattern}
    return Changed(names=tuple(sorted(resets.keys() - wild)), patterns=tuple(sorted(wild)))


def _row(number: int, entry: Entry) -> dict[str, object]:
    content = to_plain(entry.recipe)
    return {
        "position": number,
        "pattern": entry.pattern,
        "content": content,
        "file": entry.file,
        "line": entry.line,
    }


def _note(conn: Connection, resets: Mapping[str, bool]) -> None:
    rows = insert_rows(recipe_changes, [{"pattern": pattern, "resets": flag} for pattern, flag in resets.items()])
    again = {
        "resets": recipe_changes.c.resets | rows.excluded.resets,
        "after": "",
        "since": func.now(),
        "noticed": None,
    }
    conn.execute(rows.on_conflict_do_update(index_elements=[recipe_changes.c.pattern], set_=again))


def stored(conn: Connection) -> tuple[Entry, ...]:
    """The set, in the order in which it is merged."""
    return tuple(_entry(row) for row in conn.execute(select(recipes).order_by(recipes.c.position)))


#: The mark of the set that holds, as an expression for statements that read it in passing.
MARK = f"(SELECT detail FROM feeds WHERE name = '{_MARK}')"


def book(conn: Connection, *, mark: str | None = None) -> Book:
    """The set, ready to be asked; read only if it is another than the last time. ``mark``: the set's, if known."""
    if mark is None:
        mark = direct.fetch(conn, f"SELECT {MARK}", {})[0][0] or ""
    found = _books.get(mark)
    if found is None:
        mark, found = _read(conn)
        with _guard:
            for old in list(_books)[: 1 - _KEPT]:
                del _books[old]
            _books[mark] = found
    return found


def _read(conn: Connection) -> tuple[str, Book]:
    """The set and its mark, in one statement, so that they belong together."""
    both = select(feeds.c.detail, recipes).select_from(feeds.outerjoin(recipes, true())).where(feeds.c.name == _MARK)
    rows = conn.execute(both.order_by(recipes.c.position)).all()
    return rows[0].detail if rows else "", Book([_entry(row) for row in rows if row.position is not None])


def effective(conn: Connection, names: Collection[str]) -> dict[str, Recipe]:
    """What holds for each of these projects (canonical names); every one of them is in the answer."""
    asked = book(conn)
    return {name: asked.effective(name) for name in names}


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(row.pattern, from_plain(row.content), row.file, row.line)


# What is to be planned anew


@dataclass(frozen=True, slots=True)
class Waiting:
    """A name or pattern whose projects are being planned anew."""

    pattern: str
    resets: bool
    after: str  #: projects up to this name are done


def waiting(conn: Connection) -> list[Waiting]:
    """All of them: names first, then what waits longest."""
    return [Waiting(row.pattern, row.resets, row.after) for row in conn.execute(in_order())]


def in_order() -> Select[tuple[object, ...]]:
    """The query for :func:`waiting`, to be narrowed or locked."""
    wild = case((recipe_changes.c.pattern.regexp_match("[*?]"), 1), else_=0)
    return select(recipe_changes).order_by(wild, recipe_changes.c.since, recipe_changes.c.pattern)
