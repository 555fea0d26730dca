# SPDX-License-Identifier: BSD-3-Clause
"""Transactions that outlive the database's troubles, and wake-ups that outlive its restarts."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from piwheels import faults
from piwheels.db import direct, wake
from piwheels.db.engine import DatabaseAway, Stopped, in_transaction, make_async_engine, make_engine
from piwheels.errors import DatabaseError
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings

pytestmark = pytest.mark.integration


def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        threading.Event().wait(0.01)


def end_all_sessions(settings: DatabaseSettings) -> int:
    """What an administrator, or a restart, does to every session on this database; they are gone when this returns."""
    with psycopg.connect(settings.url, autocommit=True) as conn:
        return conn.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).rowcount


@pytest.fixture
def table(database: Engine) -> Engine:
    with database.begin() as conn:
        conn.execute(text("CREATE TABLE t (x int PRIMARY KEY)"))
    return database


def insert(conn: Connection, x: int) -> int:
    return int(conn.execute(text("INSERT INTO t VALUES (:x) RETURNING x"), {"x": x}).scalar_one())


def content(engine: Engine) -> list[int]:
    with engine.begin() as conn:
        return list(conn.execute(text("SELECT x FROM t ORDER BY x")).scalars())


def test_what_was_done_is_committed_and_returned(table: Engine) -> None:
    assert in_transaction(table, lambda conn: insert(conn, 1)) == 1
    assert content(table) == [1]


def test_a_session_that_is_ended_before_or_within_is_tried_again(
    table: Engine, database_settings: DatabaseSettings
) -> None:
    assert content(table) == []
    end_all_sessions(database_settings)  # what lies in the pool is dead now
    tries = []

    def work(conn: Connection) -> None:
        tries.append(1)
        insert(conn, len(tries))
        if len(tries) == 1:
            end_all_sessions(database_settings)
            conn.execute(text("SELECT 1"))

    in_transaction(table, work, deadline=20)
    assert len(tries) == 2 and content(table) == [2]


def test_what_lies_dead_in_the_pool_is_replaced_before_it_is_used(
    table: Engine, database_settings: DatabaseSettings
) -> None:
    assert content(table) == []
    assert end_all_sessions(database_settings) >= 1
    assert content(table) == []  # outside in_transaction, so nothing is tried again


def test_connections_that_die_as_soon_as_they_are_made_are_tried_again(
    table: Engine, database_settings: DatabaseSettings
) -> None:
    """A server that is going takes some more, and ends them at once."""
    engine = make_engine(database_settings, name="test")
    dying = iter(range(5))

    def end_it(connection: psycopg.Connection, _: object) -> None:
        if next(dying, None) is not None:
            with psycopg.connect(database_settings.url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])

    event.listen(engine, "connect", end_it)
    try:
        assert in_transaction(engine, lambda conn: insert(conn, 1)) == 1
        assert next(dying, None) is None
    finally:
        engine.dispose()
    assert content(table) == [1]


def test_a_statement_that_goes_directly_fails_and_is_tried_again_like_any_other(
    table: Engine, database_settings: DatabaseSettings
) -> None:
    tries = []

    def work(conn: Connection) -> None:
        tries.append(1)
        assert direct.run(conn, "INSERT INTO t VALUES (%(x)s)", {"x": len(tries)}) == 1
        if len(tries) == 1:
            end_all_sessions(database_settings)
            direct.fetch(conn, "SELECT 1", {})

    in_transaction(table, work, deadline=20)
    assert len(tries) == 2 and content(table) == [2]
    with pytest.raises(IntegrityError), table.begin() as conn:
        direct.run(conn, "INSERT INTO t VALUES (%(x)s)", {"x": 2})
    assert content(table) == [2]


def test_whoever_listens_hears_of_direct_statements(table: Engine) -> None:
    heard = []
    with table.connect() as conn:
        event.listen(conn, "before_cursor_execute", lambda *told: heard.append(told[2:4]))
        assert direct.fetch(conn, "SELECT %(x)s + 1", {"x": 1}) == [(2,)]
    assert heard == [("SELECT %(x)s + 1", {"x": 1})]


def test_an_asynchronous_engine_takes_direct_statements(database_settings: DatabaseSettings) -> None:
    async def ask() -> int:
        engine = make_async_engine(database_settings, name="test", connections=1)
        try:
            async with engine.begin() as conn:
                pid = await conn.run_sync(lambda sync: direct.fetch(sync, "SELECT pg_backend_pid()", {})[0][0])
            end_all_sessions(database_settings)
            async with engine.begin() as conn:
                return int(
                    await conn.run_sync(lambda sync: direct.fetch(sync, "SELECT 7 - %(x)s", {"x": 0 * pid})[0][0])
                )
        finally:
            await engine.dispose()

    assert asyncio.run(ask()) == 7


@pytest.mark.parametrize("armed", ["committing=enospc", "committing=eio", "committing=lost"])
def test_what_goes_wrong_at_a_commit_is_tried_again(table: Engine, armed: str) -> None:
    tries = []

    def work(conn: Connection) -> None:
        tries.append(1)
        insert(conn, len(tries))

    faults.arm({faults.VARIABLE: armed})
    try:
        in_transaction(table, work, deadline=30)
    finally:
        faults.arm({})
    assert content(table) == [2], "the first try left nothing"


def test_two_that_deadlock_both_finish(table: Engine) -> None:
    in_transaction(table, lambda conn: [insert(conn, x) for x in (1, 2)])
    meet = threading.Barrier(2)
    ended = []

    def cross(first: int, second: int) -> None:
        alone = False

        def work(conn: Connection) -> None:
            nonlocal alone
            conn.execute(text("SELECT * FROM t WHERE x = :x FOR UPDATE"), {"x": first})
            if not alone:
                alone = True
                meet.wait(20)
            conn.execute(text("SELECT * FROM t WHERE x = :x FOR UPDATE"), {"x": second})

        in_transaction(table, work, deadline=30)
        ended.append(first)

    threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert sorted(ended) == [1, 2]


def test_faults_are_not_tried_again(table: Engine) -> None:
    tries = []

    def twice(conn: Connection) -> None:
        tries.append(1)
        insert(conn, 1)
        insert(conn, 1)

    with pytest.raises(IntegrityError):
        in_transaction(table, twice)
    with pytest.raises(ProgrammingError):
        in_transaction(table, lambda conn: conn.execute(text("SELECT nonsense")))
    assert tries == [1] and content(table) == []


@pytest.fixture
def nowhere() -> Iterator[Engine]:
    engine = make_engine(DatabaseSettings(url="postgresql:///x?host=/nonexistent"), name="test")
    yield engine
    engine.dispose()


def test_a_database_that_stays_away_is_said_at_the_deadline(nowhere: Engine) -> None:
    with pytest.raises(DatabaseAway, match="cannot be used: connection to server") as caught:
        in_transaction(nowhere, lambda conn: None, deadline=0.3)
    assert "\n" not in str(caught.value)


def test_waiting_ends_when_told_to_stop(nowhere: Engine) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    with pytest.raises(Stopped):
        in_transaction(nowhere, lambda conn: None, stop=stop)
    timer.join()


def test_a_pool_in_use_is_waited_for(database_settings: DatabaseSettings) -> None:
    with closing_engine(DatabaseSettings(url=database_settings.url, pool=1)) as engine:
        engine.pool._timeout = 0.05  # type: ignore[attr-defined]
        holder = engine.connect()
        timer = threading.Timer(0.3, holder.close)
        timer.start()
        assert in_transaction(engine, lambda conn: conn.execute(text("SELECT 1")).scalar(), deadline=20) == 1
        timer.join()


class closing_engine:
    def __init__(self, settings: DatabaseSettings) -> None:
        self.engine = make_engine(settings, name="test")

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *details: object) -> None:
        self.engine.dispose()


def test_a_url_that_is_none() -> None:
    with pytest.raises(DatabaseError, match=r"database\.url cannot be used"):
        make_engine(DatabaseSettings(url="postgresql://x?nonsense=1"), name="x")


def test_options_in_the_url_are_kept(database_settings: DatabaseSettings) -> None:
    url = database_settings.url + "&options=-c%20work_mem%3D5MB&application_name=mine"
    with closing_engine(DatabaseSettings(url=url)) as engine, engine.begin() as conn:
        assert conn.execute(text("SHOW work_mem")).scalar() == "5MB"
        assert conn.execute(text("SHOW lock_timeout")).scalar() == "10s"
        assert conn.execute(text("SHOW application_name")).scalar() == "mine"


# Wake-ups.


@pytest.fixture
def listener(database_settings: DatabaseSettings) -> Iterator[wake.Listener]:
    with closing(wake.Listener(database_settings, wake.JOBS, wake.CONTROL)) as one:
        assert one.fileno() == -1
        assert one.wait(10) == {wake.JOBS, wake.CONTROL}  # after connecting, as anything may have been missed
        assert one.fileno() >= 0
        yield one


def nudge(engine: Engine, *channels: str) -> None:
    with engine.begin() as conn:
        for channel in channels:
            wake.notify(conn, channel)


def test_a_nudge_arrives_at_commit_and_once(database: Engine, listener: wake.Listener) -> None:
    with database.begin() as conn:
        wake.notify(conn, wake.JOBS)
        assert listener.wait(0.1) == set()
    assert listener.wait(10) == {wake.JOBS}
    assert listener.wait(0) == set()


def test_many_nudges_arrive_together_and_others_not_at_all(database: Engine, listener: wake.Listener) -> None:
    nudge(database, wake.JOBS, wake.PAGES, wake.CONTROL)
    assert listener.wait(10) == {wake.JOBS, wake.CONTROL}


def test_a_transaction_that_fails_wakes_nobody(database: Engine, listener: wake.Listener) -> None:
    with pytest.raises(ZeroDivisionError), database.begin() as conn:
        wake.notify(conn, wake.JOBS)
        raise ZeroDivisionError
    assert listener.wait(0.1) == set()


def test_a_nudge_wakes_a_waiting_thread(database: Engine, listener: wake.Listener) -> None:
    timer = threading.Timer(0.1, nudge, (database, wake.CONTROL))
    timer.start()
    before = time.monotonic()
    assert listener.wait(20) == {wake.CONTROL}
    assert time.monotonic() - before < 10
    timer.join()


def test_a_lost_connection_is_made_anew_and_counts_as_a_nudge(
    database: Engine, listener: wake.Listener, database_settings: DatabaseSettings
) -> None:
    end_all_sessions(database_settings)
    until(lambda: listener.wait(0.1) == {wake.JOBS, wake.CONTROL})
    nudge(database, wake.JOBS)
    assert listener.wait(10) == {wake.JOBS}


def test_listener_and_transactions_survive_kill_9_of_the_server(
    own_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    settings = DatabaseSettings(url=own_cluster.url_of("postgres"))
    with closing_engine(settings) as engine, closing(wake.Listener(settings, wake.JOBS)) as listener:
        in_transaction(engine, lambda conn: conn.execute(text("CREATE TABLE t (x int PRIMARY KEY)")))
        until(lambda: listener.wait(0.1) == {wake.JOBS})
        in_transaction(engine, lambda conn: insert(conn, 1))
        own_cluster.kill()
        assert listener.wait(0.1) == set() and listener.wait(0) == set()
        assert listener.fileno() == -1
        worker = threading.Thread(
            target=in_transaction, args=(engine, lambda conn: insert(conn, 2)), kwargs={"deadline": 60}
        )
        worker.start()
        until(lambda: any("waiting for the database" in message for message in caplog.messages))
        own_cluster.start()  # not in a thread that ends: the server would end with it
        worker.join(60)
        assert content(engine) == [1, 2]
        until(lambda: listener.wait(0.1) == {wake.JOBS})


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("c"), fast=True) as running:
        yield running
