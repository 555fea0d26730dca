# SPDX-License-Identifier: BSD-3-Clause
"""Heartbeats of the master's processes, and the farm-wide switches."""

import os
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from piwheels.db.tables import roles, switches
from piwheels.vocabulary import Role

PAUSED = "paused"  #: the switch that stops handing out jobs


def beat(conn: Connection, name: str, *, started: datetime, state: Mapping[str, Any]) -> None:
    """Note that this process, under that name, is alive, and what it says of itself (JSON)."""
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": started, "state": dict(state)}
    new = insert(roles).values(name=name, seen_at=func.now(), **facts)
    conn.execute(new.on_conflict_do_update(index_elements=[roles.c.name], set_={**facts, "seen_at": func.now()}))


def leave(conn: Connection, name: str) -> None:
    """Note that this process ends, unless another has taken its place."""
    mine = (roles.c.pid == os.getpid(), roles.c.host == socket.gethostname())
    conn.execute(delete(roles).where(roles.c.name == name, *mine))


def is_alive(conn: Connection, name: str, *, within: timedelta) -> bool:
    """Whether this process was heard of within that time."""
    return (
        conn.scalar(select(roles.c.name).where(roles.c.name == name, roles.c.seen_at > func.now() - within)) is not None
    )


def any_alive(conn: Connection, role: Role, *, within: timedelta) -> bool:
    """Whether any process of this role was heard of within that time."""
    named = or_(roles.c.name == role.value, roles.c.name.startswith(f"{role.value}-", autoescape=True))
    return conn.scalar(select(roles.c.name).where(named, roles.c.seen_at > func.now() - within).limit(1)) is not None


def is_paused(conn: Connection) -> bool:
    """Whether the operator paused the farm: builds go on, none begins."""
    return conn.execute(select(switches.c.value).where(switches.c.name == PAUSED)).scalar() == "1"


def set_paused(conn: Connection, paused: bool) -> bool:
    """Pause or resume the farm; whether that changed anything."""
    if is_paused(conn) == paused:
        return False
    new = insert(switches).values(name=PAUSED, value="1" if paused else "0")
    conn.execute(new.on_conflict_do_update(index_elements=[switches.c.name], set_={"value": new.excluded.value}))
    return True
