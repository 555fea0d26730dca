# SPDX-License-Identifier: BSD-3-Clause
"""What the required entries of the watch list depend on, as further entries of it.

Grows by what PyPI says of each project as it is applied, and is computed anew from stored documents when the operator
changes the requirements. What Requires-Dist means on a target is pypi/requirements' business.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import changes, documents
from piwheels.db import targets as target_rows
from piwheels.db.tables import watches
from piwheels.pypi.entry import requires_of
from piwheels.pypi.interpret import Change
from piwheels.pypi.pending import Priority
from piwheels.pypi.requirements import environments, needed

LAST = 1_000_000  #: position of what nobody named
MAX_WATCHED = 100_000  #: entries; a requirements file that needs more is followed as far as that


Needs = dict[str, frozenset[str]]  #: canonical name → its extras that are needed


def follow(conn: Connection, found: Mapping[str, Sequence[str]]) -> int:
    """Put what these entries depend on (name → Requires-Dist) on the list, and have PyPI asked for what is new there;
    how many projects that is."""
    new = _extend(conn, _needs(conn, found)) if found else []
    changes.record(conn, [Change(name, 0, 0, removed=False, page=False) for name in new], Priority.WATCH)
    return len(new)


def close(conn: Connection, required: Iterable[str]) -> None:
    """Make the entries that are there as dependencies only equal to what the required ones need, as far as we know."""
    needed_by_some: set[str] = set()
    frontier = set(required)
    while frontier:
        stored = documents.load(conn, frontier)
        needs = _needs(conn, {name: requires_of(json.loads(entry)) for name, entry in stored.items()})
        frontier = set(_extend(conn, needs)) | (set(needs) - needed_by_some)  # new here, or with more extras
        needed_by_some |= set(needs)
    stale = and_(watches.c.origin == "dependency", watches.c.name.not_in(sorted(needed_by_some)))
    conn.execute(delete(watches).where(stale))


def _needs(conn: Connection, found: Mapping[str, Sequence[str]]) -> Needs:
    """What these entries need on any enabled target, all together."""
    contexts = environments(target_rows.enabled(conn))
    extras = {
        row.name: row.extras
        for row in conn.execute(select(watches.c.name, watches.c.extras).where(watches.c.name.in_(sorted(found))))
    }
    needs: Needs = {}
    for name, requires in found.items():
        for other, more in needed(requires, extras=extras.get(name, ()), environments=contexts).items():
            needs[other] = needs.get(other, frozenset()) | more
    return needs


def _extend(conn: Connection, needs: Needs) -> list[str]:
    """Add entries; the names of those that are new, or needed with more extras than before."""
    there = {
        row.name: row
        for row in conn.execute(select(watches).where(watches.c.name.in_(sorted(needs))).with_for_update())
    }
    changed = [
        name
        for name, extras in sorted(needs.items())
        if name not in there or there[name].origin == "listed" or not extras <= set(there[name].extras)
    ]
    total = conn.scalar(select(func.count()).select_from(watches)) or 0
    for name in changed[: max(0, MAX_WATCHED - total)]:
        extras = sorted(needs[name] | set(there[name].extras if name in there else ()))
        row = insert(watches).values(name=name, spelling=name, position=LAST, origin="dependency", extras=extras)
        new = {"extras": extras, "origin": "dependency"}
        conn.execute(row.on_conflict_do_update(index_elements=[watches.c.name], set_=new))
    return changed
