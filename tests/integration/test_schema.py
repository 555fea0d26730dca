# SPDX-License-Identifier: BSD-3-Clause
"""The migrations, and that tables.py and the vocabulary say what they make."""

import threading
from collections.abc import Callable
from enum import StrEnum

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, MetaData, Table, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import Column

from piwheels import vocabulary
from piwheels.db import migrate, tables
from piwheels.db.engine import make_engine
from piwheels.db.migrate import Migration
from piwheels.errors import DatabaseError
from piwheels.settings import DatabaseSettings

pytestmark = pytest.mark.integration

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # it has no annotations

ENUMS: dict[str, type[StrEnum]] = {
    "project_status": vocabulary.ProjectStatus,
    "upstream_kind": vocabulary.UpstreamKind,
    "build_outcome": vocabulary.Outcome,
    "failure_reason": vocabulary.FailureReason,
    "dependency_tool": vocabulary.DependencyTool,
    "page_kind": vocabulary.PageKind,
    "watch_state": vocabulary.WatchState,
    "slave_wish": vocabulary.SlaveWish,
    "news_kind": vocabulary.NewsKind,
}


def connect(settings: DatabaseSettings) -> psycopg.Connection:
    return psycopg.connect(settings.url, autocommit=True)


def kind(column: Column[object]) -> str:
    return column.type.compile(dialect=DIALECT)


def reflected(engine: Engine) -> dict[str, Table]:
    there = MetaData()
    there.reflect(engine)
    return {name: table for name, table in there.tables.items() if not name.startswith("downloads_")}  # partitions


def test_from_empty(empty_database: DatabaseSettings) -> None:
    assert migrate.pending(empty_database) == (0, migrate.migrations())
    assert migrate.upgrade(empty_database) == list(migrate.migrations())
    assert migrate.pending(empty_database) == (migrate.latest(), ())
    migrate.check(empty_database)


def test_a_second_time_changes_nothing(empty_database: DatabaseSettings) -> None:
    migrate.upgrade(empty_database)
    with connect(empty_database) as conn:
        before = conn.execute("SELECT * FROM schema_version ORDER BY 1").fetchall()
    assert migrate.upgrade(empty_database) == []
    with connect(empty_database) as conn:
        assert conn.execute("SELECT * FROM schema_version ORDER BY 1").fetchall() == before
        assert [row[0] for row in before] == list(range(1, migrate.latest() + 1))


def test_two_at_once_make_one_schema(empty_database: DatabaseSettings) -> None:
    applied: list[Migration] = []
    threads = [threading.Thread(target=lambda: applied.extend(migrate.upgrade(empty_database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert applied == list(migrate.migrations())


def test_a_migration_that_fails_leaves_nothing(
    empty_database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Migration(1, "good", "CREATE TABLE one (x int); CREATE TABLE two (x int);")
    bad = Migration(2, "bad", "CREATE TABLE three (x int); SELECT 1/0;")
    monkeypatch.setattr(migrate, "migrations", lambda: (good, bad))
    with pytest.raises(DatabaseError, match=r"0002 \(bad\) failed and changed nothing: division by zero"):
        migrate.upgrade(empty_database)
    with connect(empty_database) as conn:
        names = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
    assert names == [("one",), ("schema_version",), ("two",)]
    assert migrate.pending(empty_database) == (1, (bad,))
    with pytest.raises(DatabaseError, match="run piw-initdb"):
        migrate.check(empty_database)


def test_a_newer_schema_is_refused(database_settings: DatabaseSettings) -> None:
    with connect(database_settings) as conn:
        conn.execute("INSERT INTO schema_version (version) VALUES (999)")
    for action in (migrate.pending, migrate.upgrade, migrate.check):
        with pytest.raises(DatabaseError, match="version 999, newer than"):
            action(database_settings)


def test_a_database_that_is_not_there(database_settings: DatabaseSettings) -> None:
    missing = DatabaseSettings(url=database_settings.url.replace("/test_", "/missing_"))
    with pytest.raises(DatabaseError, match=r"there is no database missing_.* --create"):
        migrate.pending(missing)
    with pytest.raises(DatabaseError, match="cannot connect"):
        migrate.pending(DatabaseSettings(url="postgresql:///x?host=/nonexistent"))


def test_creating_a_database(database_settings: DatabaseSettings, cluster_drop: Callable[[str], None]) -> None:
    new = DatabaseSettings(
        url=database_settings.url.replace("/test_", '/new "odd" '.replace(" ", "%20").replace('"', "%22"))
    )
    assert migrate.create_database(new)
    try:
        assert not migrate.create_database(new)
        assert migrate.upgrade(new)
    finally:
        cluster_drop(new.url)


@pytest.fixture
def cluster_drop(database_settings: DatabaseSettings) -> Callable[[str], None]:
    def drop(url: str) -> None:
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with connect(database_settings) as conn:
            conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(str(name))))

    return drop


def test_tables_are_those_of_the_schema(database: Engine) -> None:
    assert set(reflected(database)) == set(tables.metadata.tables)


@pytest.mark.parametrize("name", sorted(tables.metadata.tables))
def test_columns_are_those_of_the_schema(database: Engine, name: str) -> None:
    real, ours = reflected(database)[name], tables.metadata.tables[name]
    assert {c.name: (kind(c), c.nullable) for c in ours.columns} == {
        c.name: (kind(c), c.nullable) for c in real.columns
    }
    assert [c.name for c in ours.columns] == [c.name for c in real.columns]
    assert [c.name for c in ours.primary_key] == [c.name for c in real.primary_key]
    assert {(k.parent.name, k.target_fullname, k.ondelete) for k in ours.foreign_keys} == {
        (k.parent.name, k.target_fullname, k.ondelete) for k in real.foreign_keys
    }
    defaults = {c.name: c.server_default is not None or c.identity is not None for c in ours.columns}
    assert defaults == {c.name: c.server_default is not None or c.identity is not None for c in real.columns}


def test_identities_agree(database: Engine) -> None:
    for name, real in reflected(database).items():
        for column in real.columns:
            mine = tables.metadata.tables[name].c[column.name].identity
            assert (mine and mine.always) == (column.identity and column.identity.always), f"{name}.{column.name}"


def test_enums_are_the_vocabulary(database: Engine) -> None:
    found = {enum["name"]: enum["labels"] for enum in inspect(database).get_enums()}  # type: ignore[attr-defined]
    assert found == {name: [member.value for member in members] for name, members in ENUMS.items()}
    assert all(getattr(tables, name).enum_class is members for name, members in ENUMS.items())


def test_every_table_is_explained(database: Engine) -> None:
    silent = {name for name, table in reflected(database).items() if not table.comment}
    assert silent <= {"schema_version"}


def test_enum_columns_read_and_write_members(database: Engine) -> None:
    with database.begin() as conn:
        conn.execute(tables.watches.insert().values(name="a", spelling="A", position=1, state="found"))
        assert conn.execute(tables.watches.select()).one().state is vocabulary.WatchState.FOUND


def test_sessions_are_in_utc_with_time_outs(database_settings: DatabaseSettings) -> None:
    engine = make_engine(database_settings, name="probe")
    with engine.begin() as conn:
        for setting, value in (("timezone", "UTC"), ("statement_timeout", "30s"), ("lock_timeout", "10s")):
            assert conn.execute(text(f"SHOW {setting}")).scalar() == value
        assert str(conn.execute(text("SHOW application_name")).scalar()).startswith("probe ")
    engine.dispose()
