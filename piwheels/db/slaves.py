# SPDX-License-Identifier: BSD-3-Clause
"""Builders: who is admitted, what the operator wants of them, when they were last heard of."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import plain, wake
from piwheels.db.tables import slaves, targets
from piwheels.errors import SettingsError
from piwheels.logs import one_line
from piwheels.vocabulary import SlaveWish
from piwheels.wire.messages import Hello
from piwheels.wire.plain import address_key, address_of, is_address

MAX_LABEL = 100  #: the column's limit
MAX_TEXT = 200  #: of what a builder says of itself


@dataclass(frozen=True, slots=True)
class Slave:
    """A builder's row, for people."""

    id: int
    key: str
    label: str
    enabled: bool
    wish: SlaveWish
    target: str | None  #: the name of the target it serves
    board: str
    os: str
    agent: str
    last_seen: datetime | None


def enrol(conn: Connection, key: str, *, label: str = "") -> int:
    """Admit a public key (validated by the caller), or an address (``wire.plain``), and return the builder's number.

    One that is known already is enabled again and keeps its number; an empty label changes none.
    """
    row = insert(slaves).values(key=key, label=label[:MAX_LABEL])
    kept = {"enabled": True, **({"label": label[:MAX_LABEL]} if label else {})}
    number = conn.execute(
        row.on_conflict_do_update(index_elements=[slaves.c.key], set_=kept).returning(slaves.c.id)
    ).scalar_one()
    plain.set_enabled(conn, number, True)
    wake.notify(conn, wake.CONTROL)
    return int(number)


def set_enabled(conn: Connection, slave_id: int, enabled: bool) -> bool:
    """Admit a builder or not, from now on; whether there is such a builder. An address stands for all its builders."""
    found = conn.execute(update(slaves).where(slaves.c.id == slave_id).values(enabled=enabled)).rowcount > 0
    plain.set_enabled(conn, slave_id, enabled)
    wake.notify(conn, wake.CONTROL)
    return found


def rotate(conn: Connection, slave_id: int, key: str) -> None:
    """Let a builder have another public key (validated by the caller); the one it had is admitted no longer.

    Raises SettingsError if the key is a builder's already, or if the builder is one that has none.
    """
    row = conn.execute(select(slaves.c.key).where(slaves.c.id == slave_id).with_for_update()).one()
    if row.key == key:
        raise SettingsError(f"builder {slave_id} has this key already")
    if is_address(row.key) or address_of(row.key) is not None:
        raise SettingsError(f"builder {slave_id} has no key: it comes without encryption")
    other = conn.execute(select(slaves.c.id).where(slaves.c.key == key)).scalar_one_or_none()
    if other is not None:
        raise SettingsError(f"this key is builder {other}'s already; a builder is one key and one number")
    conn.execute(update(slaves).where(slaves.c.id == slave_id).values(key=key))
    wake.notify(conn, wake.CONTROL)


def set_wish(conn: Connection, slave_id: int, wish: SlaveWish) -> bool:
    """Say what the builder is to do from now on; whether there is such a builder."""
    found = conn.execute(update(slaves).where(slaves.c.id == slave_id).values(wish=wish)).rowcount > 0
    wake.notify(conn, wake.CONTROL)
    return found


def admitted_keys(conn: Connection) -> set[str]:
    """Who may come, by public key or name (``wire.plain``)."""
    return plain.admitted((row.key, row.enabled) for row in conn.execute(select(slaves.c.key, slaves.c.enabled)))


def register(conn: Connection, key: str, hello: Hello, *, target_id: int | None) -> int | None:
    """Note that a builder is here and what it is; its number, or None if it is not admitted."""
    if address_of(key) is not None and not plain.make_row(conn, key):
        return None
    agent = hello.capabilities.agent if hello.capabilities else "piwheels 0.2x"
    facts: dict[str, Any] = {
        "os_name": clean(hello.os_name),
        "os_version": clean(hello.os_version),
        "board": clean(hello.board_revision),
        "board_serial": clean(hello.board_serial),
        "agent": clean(agent),
        "target_id": target_id,
        "last_seen": func.now(),
    }
    # The operator's label wins over what the builder calls itself.
    label = func.coalesce(func.nullif(slaves.c.label, ""), clean(hello.label)[:MAX_LABEL])
    statement = update(slaves).where(slaves.c.key == key, slaves.c.enabled).values(label=label, **facts)
    return conn.execute(statement.returning(slaves.c.id)).scalar_one_or_none()


def note_seen(conn: Connection, stats: Mapping[int, Mapping[str, Any] | None]) -> None:
    """Note that these builders are alive, with their figures (JSON; None: none new). Batched; in order of number, so
    that two such batches cannot wait for each other."""
    for slave_id in sorted(stats):
        figures = stats[slave_id]
        new = {"last_seen": func.now(), **({"stats": dict(figures)} if figures is not None else {})}
        conn.execute(update(slaves).where(slaves.c.id == slave_id).values(new))


def every(conn: Connection) -> list[Slave]:
    """All builders, in order of number."""
    return [_slave(row) for row in conn.execute(_query().order_by(slaves.c.id))]


def find(conn: Connection, who: str) -> list[Slave]:
    """The builders meant by a number, a public key, the start of one (8 characters or more), a label, or an address."""
    query = _query()
    if address_key(who) is not None or who.startswith("plain "):
        query = query.where(slaves.c.key == (address_key(who) or who))
    elif who.isdecimal() and len(who) < 10:
        query = query.where(slaves.c.id == int(who))
    else:
        starts = func.left(slaves.c.key, len(who)) == who if len(who) >= 8 else slaves.c.key == who
        query = query.where(starts | (slaves.c.label == who))
    return [_slave(row) for row in conn.execute(query.order_by(slaves.c.id))]


def clean(text: str) -> str:
    """What a builder says of itself, as one printable line of bounded length that PostgreSQL takes."""
    return one_line(text[:MAX_TEXT], MAX_TEXT)[:MAX_TEXT].encode("utf-8", "replace").decode()


def _query() -> Select[Any]:
    return select(slaves, targets.c.name.label("target")).select_from(slaves.outerjoin(targets))


def _slave(row: Any) -> Slave:
    return Slave(
        id=row.id,
        key=row.key,
        label=row.label,
        enabled=row.enabled,
        wish=row.wish,
        target=row.target,
        board=row.board,
        os=f"{row.os_name} {row.os_version}".strip(),
        agent=row.agent,
        last_seen=row.last_seen,
    )
