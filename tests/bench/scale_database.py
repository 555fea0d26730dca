# SPDX-License-Identifier: BSD-3-Clause
"""A database as big as PyPI: made once, fast, and kept in a folder if that is wanted. What is in it, scale_rows says.

Fast means: every index and every foreign key is dropped first and made again afterwards, whatever they are at that
schema version; and each table is filled in the transaction that emptied it, which PostgreSQL does not log then
(wal_level=minimal).
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import Connection

from piwheels.db import migrate, targets
from piwheels.db.engine import in_transaction, make_engine
from piwheels.master.targets import PRESETS
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings
from tests.bench import scale_rows
from tests.bench.scale_rows import AFTER, BESIDE, PREPARE, PROJECTS, STEPS, TABLES, Step

GENERATOR = "1"  #: raise it when scale_rows makes other rows
BYTES = 19e9  #: on disk, of the whole farm
#: Of the server, as a farm of that size would have them: the defaults of a distribution are for a toy.
SERVER = {"shared_buffers": "1GB", "max_wal_size": "4GB", "effective_cache_size": "6GB", "random_page_cost": "1.1"}
#: Of a connection that makes rows.
SESSION = ("SET work_mem = '512MB'", "SET maintenance_work_mem = '1GB'", "SET max_parallel_maintenance_workers = 2")

Say = Callable[[str], None]


def say(line: str) -> None:
    """For people, while it lasts."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@contextmanager
def database(folder: Path, fraction: float, *, tell: Say = say) -> Iterator[Cluster]:
    """A running server in this folder with such a farm in it, made if it is not there."""
    cluster = Cluster(folder / "pg")
    cluster.start()
    try:
        if configure(cluster):  # some settings want a restart
            cluster.stop()
            cluster.start()
        settings = DatabaseSettings(url=cluster.url)
        if not is_made(cluster, fraction):
            require_space(folder, fraction)
            make(settings, fraction, tell)
        migrate.upgrade(settings)  # one that was kept may be from before the last migration
        yield cluster
    finally:
        cluster.stop()


def configure(cluster: Cluster) -> bool:
    """Give the server its settings; whether they are new to it."""
    with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as conn:
        before = {name: _value(conn, f"SHOW {name}") for name in SERVER}
        if before == SERVER:
            return False
        for name, value in SERVER.items():
            conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
    return True


def is_made(cluster: Cluster, fraction: float) -> bool:
    """Whether the farm is there, whole and of this size."""
    with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as conn:
        if not _value(conn, "SELECT count(*) FROM pg_database WHERE datname = 'piwheels'"):
            return False
    with psycopg.connect(cluster.url, autocommit=True) as conn:
        if _value(conn, "SELECT to_regclass('scale.made') IS NULL"):
            return False
        return conn.execute("SELECT fraction, generator FROM scale.made").fetchall() == [(fraction, GENERATOR)]


def require_space(folder: Path, fraction: float) -> None:
    """Stop before the disk is full."""
    free = shutil.disk_usage(folder).free
    if free < BYTES * fraction * 1.5 + 5e9:  # sorting takes room too, and the log of transactions
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free; such a farm takes {BYTES * fraction / 1e9:.1f} GB")


def make(settings: DatabaseSettings, fraction: float, tell: Say) -> None:
    """Make the farm in a database of its own, instead of what is there."""
    server = settings.url.replace("/piwheels?", "/postgres?")
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS piwheels WITH (FORCE)")
    migrate.create_database(settings)
    migrate.upgrade(settings)
    fill(settings, fraction, tell)


def fill(settings: DatabaseSettings, fraction: float, tell: Say) -> None:
    """Put the farm into a database that is migrated and empty."""
    begun = time.monotonic()
    engine = make_engine(settings, name="scale")
    in_transaction(engine, _add_targets)
    engine.dispose()
    with _connect(settings) as conn:
        _prepare(conn)
        again = _drop_indexes(conn)
        _fill_all(conn, settings, fraction, tell)
        for statement in again:
            conn.execute(statement.encode())
            tell(f"  {time.monotonic() - begun:6.0f} s  {statement[:110]}")
        for table in TABLES:
            conn.execute(f"VACUUM ANALYZE {table}".encode())
        conn.execute("CHECKPOINT")
        seconds = time.monotonic() - begun
        conn.execute("INSERT INTO scale.made VALUES (%s, %s, %s)", [fraction, GENERATOR, seconds])
    tell(f"made in {seconds:.0f} s")


def _fill_all(conn: psycopg.Connection, settings: DatabaseSettings, fraction: float, tell: Say) -> None:
    """Every table, the biggest beside those that do not need it."""
    for step in STEPS:
        _fill(conn, step, fraction, tell)
    failures: list[BaseException] = []

    def beside() -> None:
        try:
            with _connect(settings) as other:
                for step in BESIDE:
                    _fill(other, step, fraction, tell)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        for step in AFTER:
            _fill(conn, step, fraction, tell)
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _add_targets(conn: Connection) -> None:
    for target in PRESETS.values():
        targets.add(conn, target)


def _connect(settings: DatabaseSettings) -> psycopg.Connection:
    conn = psycopg.connect(settings.url, autocommit=True)
    for statement in SESSION:
        conn.execute(statement.encode())
    return conn


def _prepare(conn: psycopg.Connection) -> None:
    for statement in PREPARE:
        conn.execute(statement.encode())
    for table, rows in (("versions", scale_rows.versions()), ("shapes", scale_rows.shapes())):
        with conn.cursor() as cursor, cursor.copy(f"COPY scale.{table} FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)
        conn.execute(f"ANALYZE scale.{table}".encode())


def _fill(conn: psycopg.Connection, step: Step, fraction: float, tell: Say) -> None:
    begun = time.monotonic()
    statement = step.statement.replace("{projects}", str(projects(fraction)))
    with conn.transaction():
        conn.execute(f"TRUNCATE {step.table}".encode())  # in the same transaction: nothing is logged
        rows = conn.execute(statement.encode()).rowcount
    conn.execute(f"ANALYZE {step.table}".encode())
    seconds = time.monotonic() - begun
    tell(f"{step.table}: {rows} rows in {seconds:.1f} s ({rows / max(seconds, 0.001):.0f} rows/s)")


def projects(fraction: float) -> int:
    """How many there are."""
    return max(round(PROJECTS * fraction), 100)


def _drop_indexes(conn: psycopg.Connection) -> list[str]:
    """Drop what makes filling slow; returns the statements that make it again, in their order."""
    tables = ", ".join(f"'{table}'::regclass" for table in TABLES)
    keys = conn.execute(
        f"SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid), contype::text"
        f" FROM pg_constraint WHERE contype IN ('f', 'p', 'u') AND conparentid = 0"
        f" AND (conrelid IN ({tables}) OR confrelid IN ({tables}))"
        f" ORDER BY array_position(ARRAY['f', 'u', 'p'], contype::text), 1, 2".encode()
    ).fetchall()
    for table, name, _, _ in keys:
        conn.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
    others = conn.execute(
        f"SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN ({tables})"
        f" ORDER BY 1".encode()
    ).fetchall()
    for name, _ in others:
        conn.execute(f"DROP INDEX {name}".encode())
    made = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {what}" for table, name, what, _ in reversed(keys)]
    first_foreign = next(at for at, key in enumerate(reversed(keys)) if key[3] == "f")
    return [*made[:first_foreign], *(definition for _, definition in others), *made[first_foreign:]]


def _value(conn: psycopg.Connection, query: str) -> object:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None
