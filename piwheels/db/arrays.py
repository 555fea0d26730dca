# SPDX-License-Identifier: BSD-3-Clause
"""Many rows or values in one parameter, so that a statement's text does not depend on how many there are and is
prepared once. Knows no table.

Rows travel as one JSON document: psycopg writes arrays element by element in Python, which cost a seventh of the feed's
time; JSON is written in C (docs/decisions/0004).
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    LargeBinary,
    Table,
    TableValuedAlias,
    Text,
    Update,
    any_,
    cast,
    column,
    func,
    select,
    update,
)
from sqlalchemy import literal as bound
from sqlalchemy.dialects.postgresql import ARRAY, JSON, Insert, insert
from sqlalchemy.types import TypeEngine

Row = Mapping[str, Any]


def among(one: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Whether a column's value is one of these, as one parameter: ``IN`` would have as many as there are values."""
    return one == any_(bound(list(values), ARRAY(one.type)))


def given(types: Mapping[str, TypeEngine[Any]], rows: Sequence[Row]) -> TableValuedAlias:
    """Rows as a FROM element whose columns have these types; each row has these keys."""
    document = json.dumps(_plain(types, rows), separators=(",", ":"))
    columns = [column(name, kind) for name, kind in types.items()]
    recordset = func.json_to_recordset(cast(bound(document, Text), JSON))
    return recordset.table_valued(*columns, name="given").render_derived(with_types=True)


def rows_of(table: Table, rows: Sequence[Row]) -> TableValuedAlias:
    """Rows of (some columns of) a table, at least one; every row has the first one's keys."""
    return given({name: table.c[name].type for name in rows[0]}, rows)


def insert_rows(table: Table, rows: Sequence[Row]) -> Insert:
    """An INSERT of all these rows; RETURNING and ON CONFLICT may be added."""
    return insert(table).from_select(list(rows[0]), select(rows_of(table, rows)))


def update_rows(table: Table, rows: Sequence[Row], *, key: str) -> Update:
    """An UPDATE of the rows that ``key`` names, with the other values of each."""
    new = rows_of(table, rows)
    values = {name: new.c[name] for name in rows[0] if name != key}
    return update(table).where(table.c[key] == new.c[key]).values(values)


def _plain(types: Mapping[str, TypeEngine[Any]], rows: Sequence[Row]) -> Sequence[Row]:
    """The rows in JSON's types, as PostgreSQL reads them back."""
    writers = {name: writer for name, kind in types.items() if (writer := _writer(kind)) is not None}
    if not writers:
        return rows
    plain = [dict(row) for row in rows]
    for row in plain:
        for name, write in writers.items():
            if (value := row[name]) is not None:
                row[name] = write(value)
    return plain


def _writer(kind: TypeEngine[Any]) -> Callable[[Any], str] | None:
    if isinstance(kind, LargeBinary):
        return _hex
    return datetime.isoformat if isinstance(kind, DateTime) else None


def _hex(value: bytes) -> str:
    return "\\x" + value.hex()
