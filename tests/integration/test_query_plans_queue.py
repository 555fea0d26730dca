# SPDX-License-Identifier: BSD-3-Clause
"""No frequent statement of the queue scans a big table: shown by PostgreSQL's own plans, for every statement that
claiming, renewing, ending and recording send, at a size at which a scan would be noticed."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event, text

from piwheels.db import builds as attempts
from piwheels.db import queue, requests
from piwheels.master.needs import ANY
from piwheels.vocabulary import FailureReason
from tests.integration import dispatch_world as world
from tests.integration.queue_storm import fill

pytestmark = pytest.mark.integration

SIZE = 20_000
BIG = ("projects", "releases", "upstream_files", "jobs", "builds", "files", "dependencies", "needs", "download_days")


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, object]]]:
    """What is sent meanwhile, with its parameters."""
    sent: list[tuple[str, object]] = []

    def note(conn, cursor, statement, parameters, context, many):  # type: ignore[no-untyped-def]
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def plan_of(engine: Engine, statement: str, parameters: object) -> str:
    with engine.connect() as conn:
        rows = conn.exec_driver_sql(f"EXPLAIN {statement}", parameters)  # type: ignore[arg-type]
        return "\n".join(str(row[0]) for row in rows)


@pytest.fixture
def farm(database: Engine) -> tuple[int, int]:
    target_id, slave_id = fill(database, SIZE)
    with database.begin() as conn:  # a history, and some that rest or need more
        conn.execute(
            text(
                "INSERT INTO builds (release_id, target_id, token, started, duration, outcome, reason)"
                " SELECT id, :target, gen_random_uuid(), now(), interval '1 s', 'failed', 'network' FROM releases"
            ),
            {"target": target_id},
        )
        conn.execute(
            text(
                "INSERT INTO files (build_id, filename, size, sha256, metadata_sha256)"
                " SELECT id, 'f' || id, 1, sha256('a'), sha256('b') FROM builds"
            )
        )
        conn.execute(text("UPDATE jobs SET resting = true, ready_at = now() + interval '1 h' WHERE release_id % 5 = 0"))
        conn.execute(text("UPDATE jobs SET memory_class = 3 WHERE release_id % 7 = 0"))
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))
    return target_id, slave_id


def test_no_statement_scans(database: Engine, farm: tuple[int, int]) -> None:
    target_id, slave_id = farm
    policy, terms = world.POLICY, world.TERMS
    with statements(database) as sent, database.begin() as conn:
        leases = queue.claim_many(conn, target_id=target_id, terms=terms, limit=8, room=ANY, policy=policy)
        assert len(leases) == 8
        tokens = [lease.token for lease in leases]
        queue.claim(conn, slave_id=slave_id, target_id=target_id, terms=terms, policy=policy)
        queue.assign(conn, dict.fromkeys(tokens, slave_id), lease=terms.lease)
        queue.renew(conn, tokens, lease=terms.lease)
        queue.cancelled(conn, tokens)
        queue.lease_by_token(conn, tokens[0], slave_id=slave_id, terms=terms)
        queue.wake(conn)
        queue.wake(conn, target_id=target_id)
        queue.expire(conn, policy=policy)
        queue.prolong_all(conn, lease=timedelta(hours=1))
        queue.unclaim(conn, tokens[7], policy=policy)
        queue.release(conn, tokens[6], FailureReason.LOST, "gone", policy=policy)
        wheel = world.verified()
        attempts.record(conn, world.success(leases[0], wheel), policy=policy)
        results = [world.success(leases[1], wheel), world.failed(leases[2], FailureReason.MEMORY)]
        attempts.record_many(conn, [attempts.Entry(one) for one in results], policy=policy)
        queue.release_all_of(conn, slave_id, None, policy=policy, why="away")
        requests.first(conn, requests.target_named(conn, world.PI.name), limit=20)
        requests.resting(conn, requests.target_named(conn, world.PI.name), limit=20)
    scans = []
    for statement, parameters in dict(sent_once(sent)).items():
        plan = plan_of(database, statement, parameters)
        scans += [f"{statement}\n{plan}" for table in BIG if f"Seq Scan on {table}" in plan]
    assert not scans, "\n\n".join(scans)


def sent_once(sent: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Each statement with its first parameters."""
    return list(reversed([(statement, parameters) for statement, parameters in reversed(sent)]))


def test_a_claim_costs_the_same_however_many_rest(database: Engine, farm: tuple[int, int]) -> None:
    """Work is counted in blocks that PostgreSQL touches, which no busy machine changes."""

    def blocks() -> int:
        with statements(database) as sent, database.begin() as conn:
            assert queue.claim_many(conn, target_id=farm[0], terms=world.TERMS, limit=1, policy=world.POLICY)
        statement, parameters = next((s, p) for s, p in sent if "skip locked" in s.lower())
        with database.connect() as conn:
            rows = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {statement}", parameters)  # type: ignore[arg-type]
            line = next(str(row[0]) for row in rows if "Buffers:" in str(row[0]))
            conn.rollback()
        return sum(int(word.split("=")[1]) for word in line.split() if word.startswith(("hit=", "read=")))

    before = blocks()
    with database.begin() as conn:  # nearly everything rests, at the front of the queue
        conn.execute(
            text(
                "UPDATE jobs SET resting = true, priority = 0, ready_at = now() + interval '1 h' WHERE release_id > 50"
            )
        )
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE jobs"))
    assert blocks() < before + 60


def test_a_lease_is_found_by_its_token_though_statistics_know_of_none(database: Engine, farm: tuple[int, int]) -> None:
    """They are from a quiet hour, so an index of all leases looks as cheap as the one by token; it is not any more."""
    policy, terms = world.POLICY, world.TERMS
    with statements(database) as sent, database.begin() as conn:
        leases = queue.claim_many(conn, target_id=farm[0], terms=terms, limit=500, room=ANY, policy=policy)
        queue.renew(conn, [leases[0].token], lease=terms.lease)
        attempts.record(conn, world.success(leases[1], world.verified()), policy=policy)
    by_token = [
        (statement, parameters) for statement, parameters in sent_once(sent) if "lease_token = ANY" in statement
    ]
    assert len(by_token) >= 3
    for statement, parameters in by_token:
        plan = plan_of(database, statement, parameters)
        assert "jobs_lease_token_key" in plan and "jobs_leases" not in plan, f"{statement}\n{plan}"


def test_what_is_sent_for_every_build_is_planned_once(database: Engine, farm: tuple[int, int]) -> None:
    """PostgreSQL tries five plans for given values; then it must keep the one for any, not plan each call anew."""
    policy, terms = world.POLICY, world.TERMS
    with database.connect() as conn:
        leases = queue.claim_many(conn, target_id=farm[0], terms=terms, limit=20, room=ANY, policy=policy)
        for lease in leases:
            queue.claim(conn, slave_id=farm[1], target_id=farm[0], terms=terms, policy=policy)
            attempts.record(conn, world.success(lease, world.verified()), policy=policy)
        kept = conn.execute(text("SELECT statement FROM pg_prepared_statements WHERE custom_plans > 5")).scalars()
        assert [one for one in kept if "nextval" not in one] == []
        assert (
            conn.execute(text("SELECT count(*) FROM pg_prepared_statements WHERE generic_plans > 5")).scalar_one() >= 6
        )
        conn.rollback()
