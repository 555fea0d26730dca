# SPDX-License-Identifier: BSD-3-Clause
"""New rows by COPY, which costs a third of what an INSERT of the same rows does, on either side. Knows no table.

COPY knows neither RETURNING nor ON CONFLICT: it is for rows whose keys are known, and that nobody else can add.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import AsyncConnection, sql
from sqlalchemy import Connection, Table, text
from sqlalchemy.engine import AdaptedConnection

Values = Sequence[Any]

# The sequence of an identity column is asked for its name once, not once for each number.
_NUMBERS = text(
    "SELECT nextval(s) FROM (SELECT CAST(pg_get_serial_sequence(:name, 'id') AS regclass) AS s OFFSET 0) AS sequence,"
    " generate_series(1, :count)"
)


def new_ids(conn: Connection, table: Table, count: int) -> list[int]:
    """So many numbers for the column ``id`` of rows that are to be copied into a table."""
    return list(conn.scalars(_NUMBERS, {"name": table.name, "count": count})) if count else []


def copy_rows(conn: Connection, table: Table, columns: Sequence[str], rows: Iterable[Values]) -> None:
    """Add rows, each with the values of these columns in this order. Enums are to be given as their values.

    Raises psycopg's own errors, not SQLAlchemy's, which does not see them.
    """
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), names)
    held: Any = conn.connection.dbapi_connection
    if isinstance(held, AdaptedConnection):
        held.run_async(lambda raw: _copy_from_loop(raw, statement, rows))
        return
    with held.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


async def _copy_from_loop(raw: AsyncConnection[Any], statement: sql.Composed, rows: Iterable[Values]) -> None:
    async with raw.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            await copy.write_row(row)
