# SPDX-License-Identifier: BSD-3-Clause
"""Statements that are sent hundreds of times a second, handed to the driver as they are.

SQLAlchemy's way to a statement's rows costs three to five times what the driver itself takes, which for what dispatch
sends was most of its time (docs/decisions/0005). So the few hot statements are texts, in the driver's notation, and go
this way; they belong to the same transaction. All others are better served by SQLAlchemy. Knows no table.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError

Parameters = Mapping[str, Any]


def fetch(conn: Connection, statement: str, parameters: Parameters) -> Sequence[tuple[Any, ...]]:
    """The rows that a statement returns. Its parameters are written ``%(name)s``, a per cent sign ``%%``.

    Raises sqlalchemy.exc.DBAPIError, like everything else that a connection is told.
    """
    with closing(_cursor(conn)) as cursor:
        _execute(conn, cursor, statement, parameters)
        return cursor.fetchall()


def run(conn: Connection, statement: str, parameters: Parameters) -> int:
    """Execute a statement that returns no rows; how many it changed. Raises the same."""
    with closing(_cursor(conn)) as cursor:
        _execute(conn, cursor, statement, parameters)
        return cursor.rowcount


def among(expression: str, parameter: str, kind: str) -> str:
    """The condition that an expression is one of a parameter's values, a list of a type.

    The list is read by a query of its own, so that PostgreSQL believes the same of its length whether or not it looks.
    Otherwise it makes a new plan for each call, since one for a list of one value promises more than one for any list.
    """
    return f"{expression} = ANY (ARRAY(SELECT unnest(CAST(%({parameter})s AS {kind}[]))))"


def _cursor(conn: Connection) -> DBAPICursor:
    return conn.connection.cursor()  # through SQLAlchemy's proxy: it is an adapter where the engine is asynchronous


def _execute(conn: Connection, cursor: DBAPICursor, statement: str, parameters: Parameters) -> None:
    for listener in conn.dispatch.before_cursor_execute:  # whoever listens to what is sent hears of this too
        statement, parameters = listener(conn, cursor, statement, parameters, None, False)
    try:
        cursor.execute(statement, parameters)
    except psycopg.Error as error:
        raise _translated(conn, error, statement, parameters) from error


def _translated(conn: Connection, error: psycopg.Error, statement: str, parameters: Parameters) -> BaseException:
    """The error as SQLAlchemy raises it, and the connection as SQLAlchemy leaves it."""
    driver = conn.connection.driver_connection
    gone = driver is None or driver.closed
    if gone:
        conn.invalidate(error)  # so that the pool does not take it back
    return DBAPIError.instance(
        statement, dict(parameters), error, psycopg.Error, connection_invalidated=gone, dialect=conn.dialect
    )
