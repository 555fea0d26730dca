# SPDX-License-Identifier: BSD-3-Clause
"""piw-keys rotate, builds and withdraw: rows, commands, and what the published tree then has."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, insert, select, update

from piwheels.admin import keys
from piwheels.db import slaves, withdrawal
from piwheels.db.tables import builds, files, jobs, withdrawn
from piwheels.db.tables import pages as pages_table
from piwheels.db.withdrawal import Reach
from piwheels.master.planner import Policy
from piwheels.settings import DatabaseSettings
from piwheels.wire import keys as wire_keys
from tests.integration.dispatch_world import count
from tests.integration.publish_world import Farm

pytestmark = pytest.mark.integration

WHEEL = "foo-1.0-cp311-cp311-linux_armv7l.whl"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(database, database_settings, tmp_path)
    farm.publisher.start()
    yield farm
    farm.close()


@pytest.fixture
def run(database_settings: DatabaseSettings, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def one(*words: str) -> tuple[int, str, str]:
        code = keys.main([*words, "--set", f"database.url={database_settings.url}"])
        return (code, *capsys.readouterr())

    before = logging.root.handlers[:]
    yield one
    logging.root.handlers[:] = before  # commands have them write to what pytest closes now


def enrol(farm: Farm, label: str) -> int:
    with farm.database.begin() as conn:
        return slaves.enrol(conn, wire_keys.make().public, label=label)


def build_by(farm: Farm, slave: int, release: int, filename: str = WHEEL, **values: bytes) -> int:
    build = farm.build(release, filename, **values)
    with farm.database.begin() as conn:
        conn.execute(update(builds).where(builds.c.id == build).values(slave_id=slave))
        conn.execute(jobs.delete().where(jobs.c.release_id == release))
    return build


def lease(conn: Connection, release: int, target: int, slave: int) -> None:
    now = datetime.now(UTC)
    held = {"lease_slave_id": slave, "lease_token": "1" * 32, "lease_started": now, "lease_expires": now}
    conn.execute(insert(jobs).values(release_id=release, target_id=target, priority=1, released=now, **held))


# Rotating


def test_a_new_key_takes_the_old_ones_place(run: Run, database: Engine, tmp_path: Path) -> None:
    old, new = wire_keys.make().public, wire_keys.load_or_make(tmp_path / "slave.key").public
    assert run("enrol", old, "--label", "garage")[0] == 0
    status, said, _ = run("rotate", "garage", str(tmp_path / "slave.key.pub"))
    assert (status, said) == (0, f"builder 1 has the key {new} now; {old} is admitted no longer\n")
    with database.begin() as conn:
        assert slaves.admitted_keys(conn) == {new}
    assert run("rotate", "1", new) == (2, "", "piw-keys: builder 1 has this key already\n")
    assert run("enrol", old)[1].startswith("builder 2 ")
    assert "builder 1's already" in run("rotate", "2", new)[2]
    assert run("rotate", "9", old)[0] == 2
    assert run("disable", "1")[0] == 0
    assert run("rotate", "1", wire_keys.make().public)[1].endswith("builder 1 is disabled still\n")
    with database.begin() as conn:
        assert slaves.admitted_keys(conn) == {old}


def test_a_key_may_look_like_an_option(run: Run) -> None:
    first, second = "-v" + "x" * 38, "-" + "y" * 39
    assert run("enrol", first, "--label", "garage")[1] == f"builder 1 is admitted: {first}\n"
    assert run("rotate", first, second)[:2] == (
        0,
        f"builder 1 has the key {second} now; {first} is admitted no longer\n",
    )
    assert run("disable", second)[0] == 0


def test_who_has_no_key_has_none_to_rotate(run: Run) -> None:
    assert run("enrol", "192.0.2.5")[0] == 0
    assert "comes without encryption" in run("rotate", "192.0.2.5", wire_keys.make().public)[2]


# Listing


def test_everything_a_builder_made_is_listed(run: Run, farm: Farm) -> None:
    mine, other = enrol(farm, "garage"), enrol(farm, "attic")
    build_by(farm, mine, farm.release())
    build_by(farm, other, farm.release("bar"), "bar-1.0-cp311-cp311-linux_armv7l.whl")
    status, said, _ = run("builds", "garage")
    assert status == 0 and "foo  1.0  bookworm-armhf  success" in said and f"    {WHEEL}  " in said
    assert "bar" not in said and "withdrawn" not in said
    assert run("builds", "garage", "--since", "2026-11-02") == (0, "", "")  # it was built on the first
    assert run("builds", "garage", "--since", "2026-11-01T13:00+01:00")[1] == said
    assert run("builds", "garage", "--since", "yesterday")[0] == 2


# Withdrawing


def test_what_a_builder_made_is_withdrawn(run: Run, farm: Farm) -> None:
    mine, other = enrol(farm, "garage"), enrol(farm, "attic")
    release = farm.release()
    build_by(farm, mine, release)
    kept = farm.release("bar")
    build_by(farm, other, kept, "bar-1.0-cp311-cp311-linux_armv7l.whl")
    building = farm.release("baz")
    with farm.database.begin() as conn:
        lease(conn, building, farm.target, mine)
    farm.settle()
    assert farm.listed().keys() == {WHEEL}

    status, said, errors = run("withdraw", "garage")  # a test's standard input is no terminal
    assert status == 1 and "nothing was withdrawn" in errors
    assert "made 1 wheels in 1 builds of 1 projects" in said and count(farm.database, withdrawn) == 0
    status, said, _ = run("withdraw", "garage", "--yes")
    assert status == 0 and said.endswith("withdrawn: 1 wheels of 1 builds; builder 1 is disabled\n")
    with farm.database.begin() as conn:
        assert not slaves.find(conn, "garage")[0].enabled and slaves.find(conn, "attic")[0].enabled
        assert conn.execute(select(builds.c.superseded).where(builds.c.slave_id == mine)).scalars().all() == [True]
        assert conn.execute(select(jobs.c.cancelled).where(jobs.c.release_id == building)).scalar_one() is True
        assert conn.execute(select(jobs.c.cancelled).where(jobs.c.release_id == release)).scalar_one() is False
        assert not conn.execute(select(jobs).where(jobs.c.release_id == kept)).all()
    assert "withdrawn" in run("builds", "garage")[1]
    assert "made 0 wheels in 0 builds" in run("withdraw", "garage", "--yes")[1]  # again does no harm
    farm.settle()
    farm.check()
    assert not (farm.www / "simple/foo").exists() and farm.listed("bar")
    assert farm.json("simple/index.v1_json")["projects"] == [{"name": "bar"}]


def test_other_bytes_do_not_get_a_withdrawn_wheels_name(run: Run, farm: Farm) -> None:
    """Dispatch gives them a build number (test_names); rows that say otherwise are not believed."""
    mine, release = enrol(farm, "garage"), farm.release()
    build_by(farm, mine, release, content=b"evil = 1\n")
    farm.settle()
    assert run("withdraw", "garage", "--yes")[0] == 0
    farm.build(release, content=b"good = 1\n")  # before anything was published again
    farm.publisher.step()
    assert not (farm.www / "simple/foo" / WHEEL).exists()
    farm.settle()
    farm.check()
    assert not (farm.www / "simple/foo").exists()


def test_the_same_bytes_by_another_builder_stay(run: Run, farm: Farm) -> None:
    mine, other, release = enrol(farm, "garage"), enrol(farm, "attic"), farm.release()
    build_by(farm, mine, release)
    build_by(farm, other, release)
    farm.settle()
    before = farm.listed()
    assert run("withdraw", "garage", "--yes")[0] == 0
    farm.publisher.step()
    assert farm.listed() == before and (farm.www / "simple/foo" / WHEEL).exists()
    farm.settle()
    assert farm.listed() == before and count(farm.database, files) == 1


def test_batches_go_on_where_a_kill_left_them(farm: Farm) -> None:
    mine = enrol(farm, "garage")
    for number in range(5):
        release = farm.release("foo", f"1.{number}")
        build_by(farm, mine, release, f"foo-1.{number}-cp311-cp311-linux_armv7l.whl")
    reach = Reach((mine,))
    with farm.database.begin() as conn:
        assert withdrawal.scope(conn, reach) == withdrawal.Scope(builds=5, wheels=5, projects=1)
        first = withdrawal.withdraw_next(conn, reach, policy=Policy(), limit=2)
    assert (first.builds, first.wheels, first.finished) == (2, 2, False)
    with farm.database.connect() as conn, conn.begin() as killed:
        withdrawal.withdraw_next(conn, reach, policy=Policy(), after=first.after, limit=2)
        killed.rollback()
    with farm.database.begin() as conn:  # from the start again
        assert withdrawal.scope(conn, reach) == withdrawal.Scope(builds=3, wheels=3, projects=1)
        rest = withdrawal.withdraw_next(conn, reach, policy=Policy(), limit=10)
    assert (rest.builds, rest.finished) == (3, True)
    assert count(farm.database, files) == 0 and count(farm.database, withdrawn) == 5
    assert count(farm.database, jobs) == 5
    assert count(farm.database, pages_table, pages_table.c.key == "foo") == 1


def test_only_what_was_made_since(run: Run, farm: Farm) -> None:
    mine = enrol(farm, "garage")
    early = build_by(farm, mine, farm.release("foo", "1.0"))
    late = build_by(farm, mine, farm.release("foo", "1.1"), "foo-1.1-cp311-cp311-linux_armv7l.whl")
    with farm.database.begin() as conn:
        conn.execute(update(builds).where(builds.c.id == late).values(finished=builds.c.finished + timedelta(days=7)))
    assert run("withdraw", "garage", "--since", "2026-11-03", "--yes")[0] == 0
    assert count(farm.database, files, files.c.build_id == early) == 1
    assert count(farm.database, files, files.c.build_id == late) == 0


def test_an_address_stands_for_all_builders_from_there(farm: Farm) -> None:
    with farm.database.begin() as conn:
        address = slaves.enrol(conn, "plain 192.0.2.5")
        one = slaves.enrol(conn, "plain 192.0.2.5 #1")
        slaves.enrol(conn, "plain 192.0.2.50 #1")
        assert withdrawal.builders_of(conn, address, "plain 192.0.2.5") == (address, one)
        assert withdrawal.builders_of(conn, one, "plain 192.0.2.5 #1") == (one,)
