# SPDX-License-Identifier: BSD-3-Clause
"""The rows of builders that come without encryption: the address that the operator admits, and each builder from it.

Builders' rows are made when they first come. An address and its builders are enabled and disabled together; a single
builder of it may be disabled too. All functions are for :mod:`piwheels.db.slaves`.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db.tables import slaves
from piwheels.wire.plain import address_of, builder_keys, is_address


def make_row(conn: Connection, key: str) -> bool:
    """Make the row of a builder, if it has none; False when its address is not admitted."""
    admitted = select(slaves.c.id).where(slaves.c.key == address_of(key), slaves.c.enabled).with_for_update(read=True)
    if conn.execute(admitted).first() is None:
        return False
    # Asked first: an insertion that is in vain uses up a number, and hellos are free.
    if conn.execute(select(slaves.c.id).where(slaves.c.key == key)).first() is None:
        conn.execute(insert(slaves).values(key=key).on_conflict_do_nothing(index_elements=[slaves.c.key]))
    return True


def set_enabled(conn: Connection, slave_id: int, enabled: bool) -> None:
    """If this is an address's row, let its builders have what it has been given."""
    key = conn.execute(select(slaves.c.key).where(slaves.c.id == slave_id)).scalar_one_or_none()
    if key is not None and is_address(key):
        conn.execute(update(slaves).where(slaves.c.key.in_(builder_keys(key))).values(enabled=enabled))


def admitted(rows: Iterable[tuple[str, bool]]) -> set[str]:
    """Who may come: public keys, addresses, and all builders there may be from these. ``rows``: (key, enabled)."""
    states = dict(rows)
    enabled = {key for key, state in states.items() if state and address_of(key) is None}
    builders = {one for key in enabled if is_address(key) for one in builder_keys(key) if states.get(one, True)}
    return enabled | builders
