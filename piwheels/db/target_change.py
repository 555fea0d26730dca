# SPDX-License-Identifier: BSD-3-Clause
"""Changing targets as an operator asks, in one transaction, and having all pages show it.

Pages have a column a target, so all of them change. They are marked in batches after the change is committed; if the
process ends before, the publish role does it when it starts next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import Connection, Engine

from piwheels.db import pages
from piwheels.db import targets as rows
from piwheels.db.engine import in_transaction
from piwheels.master.targets import Target, TargetError, agree

DEADLINE = 30.0  #: seconds


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change came to."""

    words: str  #: one line for people
    plans: bool  #: other releases may have to be built now: the feed plans all anew


def add(engine: Engine, wanted: Target, *, update: bool) -> Changed:
    """Add a target, or (``update``) make the one of that name equal to it. Raises TargetError."""
    return _change(engine, lambda conn: _add(conn, wanted, update=update))


def switch(engine: Engine, name: str, *, enabled: bool) -> Changed:
    """Build for a target from now on, or no more. Raises TargetError."""

    def work(conn: Connection) -> str:
        changed = rows.switch(conn, name, enabled=enabled)
        return f"target {name} is {'' if changed else 'already '}{'enabled' if enabled else 'disabled'}"

    return _change(engine, work)


def order(engine: Engine, names: Sequence[str]) -> Changed:
    """Put targets in order. Raises TargetError."""

    def work(conn: Connection) -> str:
        rows.order(conn, names)
        return "targets, oldest first: " + ", ".join(target.name for target in rows.every(conn))

    return _change(engine, work)


def _change(engine: Engine, work: Callable[[Connection], str]) -> Changed:
    def transaction(conn: Connection) -> tuple[str, bool, str | None]:
        before = rows.every(conn)
        said = work(conn)
        after = rows.every(conn)
        if _planned(before) != _planned(after):
            agree(after)
        look = pages.forget_look(conn) if _shown(before) != _shown(after) else None
        return said, _planned(before) != _planned(after), look

    said, plans, look = in_transaction(engine, transaction, deadline=DEADLINE)
    if look is not None:
        _mark_pages(engine, look)
    return Changed(said, plans)


def _shown(targets: Sequence[Target]) -> list[Target]:
    """What of them pages may show, in the order of their columns; a new target that is disabled shows nowhere."""
    return [replace(target, rank=0, libc="", enabled=True) for target in targets if target.enabled]


def _planned(targets: Sequence[Target]) -> list[Target]:
    """What of them decides about jobs."""
    return [replace(target, platform="", libc="", preinstalled=()) for target in targets if target.enabled]


def _add(conn: Connection, wanted: Target, *, update: bool) -> str:
    there = next((target for target in rows.every(conn) if target.name == wanted.name), None)
    if there is None:
        rows.add(conn, wanted)
        return f"target {wanted.name} is added, {'enabled' if wanted.enabled else 'disabled'}"
    kept = replace(wanted, id=there.id, rank=wanted.rank or there.rank, enabled=there.enabled)
    if kept == there:
        return f"target {wanted.name} is there already"
    if not update:
        raise TargetError(f"there is a target {wanted.name} already, and it differs; --update changes it")
    if (there.abi, there.platform) != (wanted.abi, wanted.platform) and rows.is_used(conn, there.id or 0):
        raise TargetError(
            f"target {wanted.name}: wheels were built for {there.abi} on {there.platform}; "
            f"add a target of another name for {wanted.abi} on {wanted.platform}"
        )
    rows.add(conn, kept)
    return f"target {wanted.name} is changed"


def _mark_pages(engine: Engine, look: str) -> None:
    after = ""
    while batch := in_transaction(engine, partial(pages.mark_published, after=after), deadline=DEADLINE):
        after = batch[-1]
    if look:
        in_transaction(engine, lambda conn: pages.note_rendered_with(conn, look), deadline=DEADLINE)
