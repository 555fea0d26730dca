# SPDX-License-Identifier: BSD-3-Clause
"""Bringing a database to this code's schema: numbered SQL files, one transaction each, forward only.

Owns the table schema_version. The files are ``sql/NNNN_name.sql``, installed as ``piwheels.sql``; whoever changes the
schema adds one and never edits one that was released. Nothing here asks or prints: piw-initdb does.
"""

import re
import time
from dataclasses import dataclass
from functools import cache
from importlib import resources
from threading import Event

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, func, inspect, select

from piwheels.db import tables
from piwheels.db.engine import connect, describe, parameters
from piwheels.errors import DatabaseError
from piwheels.settings import DatabaseSettings

ADVISORY_LOCK = 7_496_357_701  #: "only one migrates"; any number will do as long as it stays
STATEMENT_TIMEOUT = "1h"  #: a migration may have to rewrite a table
LOCK_WAIT = 30.0  #: seconds to wait for another piw-initdb


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All there are, in order, numbered from 1 without a gap."""
    found = []
    for file in resources.files("piwheels.sql").iterdir():
        match = re.fullmatch(r"([0-9]{4})_(\w+)\.sql", file.name)
        if match:
            found.append(Migration(int(match.group(1)), match.group(2), file.read_text("utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise DatabaseError("the installation is damaged: its SQL files are not numbered from 0001 without a gap")
    return tuple(found)


def latest() -> int:
    """The schema version that this code needs."""
    return len(migrations())


def schema_version(conn: Connection) -> int:
    """The schema version of a database; 0: none of ours."""
    if not inspect(conn).has_table("schema_version", schema="public"):
        return 0
    return conn.execute(select(func.max(tables.schema_version.c.version))).scalar() or 0


def mismatch(version: int) -> str | None:
    """What to tell a person whose database has this schema version; None if it is the right one."""
    if version == latest():
        return None
    if version > latest():
        return (
            f"the database has schema version {version}, newer than this piwheels knows ({latest()}): "
            "install the newer piwheels"
        )
    if version == 0:
        return "the database has no piwheels schema yet: run piw-initdb"
    return f"the database has schema version {version}, older than this piwheels needs ({latest()}): run piw-initdb"


def pending(settings: DatabaseSettings) -> tuple[int, tuple[Migration, ...]]:
    """The database's version, and what an upgrade would apply.

    Raises DatabaseError if it cannot be reached, or has a newer schema than this code knows.
    """
    with _admin_connection(settings) as conn:
        return _pending(conn)


def check(settings: DatabaseSettings) -> None:
    """Raise DatabaseError, saying what to do, unless the database can be reached and has this code's schema."""
    version, _ = pending(settings)
    wrong = mismatch(version)
    if wrong is not None:
        raise DatabaseError(wrong)


def upgrade(settings: DatabaseSettings) -> list[Migration]:
    """Apply what is missing, each file in a transaction of its own, and return what was applied.

    Safe to run while another does the same, and to kill at any moment: a migration is there whole or not at all.
    """
    applied = []
    with _admin_connection(settings) as conn:
        _lock(conn)
        _, todo = _pending(conn)
        for migration in todo:
            _apply(conn, migration)
            applied.append(migration)
    return applied


def _admin_connection(settings: DatabaseSettings) -> psycopg.Connection:
    try:
        return connect(settings, name="piw-initdb", autocommit=True)
    except psycopg.Error as error:
        raise DatabaseError(_cannot_connect(settings, error)) from error


def _cannot_connect(settings: DatabaseSettings, error: psycopg.Error) -> str:
    # libpq gives no SQLSTATE for a refused connection; the words are the server's and may be translated, so they only
    # decide about the advice, and the server's own sentence is always shown.
    database = parameters(settings).get("dbname", "")
    what = describe(error)
    if f'"{database}" does not exist' in what and "role" not in what:
        return f"there is no database {database} yet: create it (createdb {database}), or run piw-initdb --create"
    return f"cannot connect to the database: {what}"


def _lock(conn: psycopg.Connection) -> None:
    until = time.monotonic() + LOCK_WAIT
    while True:
        row = conn.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_LOCK]).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > until:
            raise DatabaseError("another piw-initdb is at work on this database; try again later")
        Event().wait(0.1)


def _pending(conn: psycopg.Connection) -> tuple[int, tuple[Migration, ...]]:
    row = conn.execute("SELECT to_regclass('public.schema_version') IS NOT NULL").fetchone()
    version = 0
    if row and row[0]:
        highest = conn.execute("SELECT coalesce(max(version), 0) FROM public.schema_version").fetchone()
        version = highest[0] if highest else 0
    if version > latest():
        raise DatabaseError(mismatch(version) or "")
    return version, migrations()[version:]


def _apply(conn: psycopg.Connection, migration: Migration) -> None:
    try:
        with conn.transaction():
            conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(STATEMENT_TIMEOUT))
            conn.execute("SET LOCAL search_path = public")
            conn.execute(
                "CREATE TABLE IF NOT EXISTS schema_version "
                "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            conn.execute(migration.text.encode())  # without parameters, so many statements may come in one text
            conn.execute("INSERT INTO schema_version (version) VALUES (%s)", [migration.version])
    except psycopg.Error as error:
        raise DatabaseError(
            f"migration {migration.version:04} ({migration.name}) failed and changed nothing: {describe(error)}"
        ) from error


def create_database(settings: DatabaseSettings) -> bool:
    """Create the database that ``settings.url`` names, if there is none; whether it was created.

    Connects to the same server's database ``postgres`` for it. Raises DatabaseError.
    """
    database = str(parameters(settings).get("dbname") or "")
    if not database:
        raise DatabaseError("database.url names no database to create")
    try:
        with psycopg.connect(
            make_conninfo(settings.url, dbname="postgres", connect_timeout=5), autocommit=True
        ) as conn:
            if conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                return False
            conn.execute(
                sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0").format(
                    sql.Identifier(database)
                )
            )
            return True
    except psycopg.errors.DuplicateDatabase:
        return False  # somebody else was faster
    except psycopg.Error as error:
        raise DatabaseError(f"cannot create the database {database}: {describe(error)}") from error
