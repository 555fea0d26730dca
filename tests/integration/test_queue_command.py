# SPDX-License-Identifier: BSD-3-Clause
"""piw-queue as an operator types it."""

import re
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Engine, select, update

from piwheels.admin import queue as command
from piwheels.db import queue
from piwheels.db.tables import builds, jobs, releases
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Priority
from tests.integration import dispatch_world as world

pytestmark = pytest.mark.integration

PI = world.PI.name


@pytest.fixture
def farm(database: Engine) -> tuple[int, int]:
    """A target and a slave; spidev 3.6 failed, smbus waits, numpy 1 and 2 wait, numpy 0 is too old to be wanted."""
    with database.begin() as conn:
        target_id = world.add_target(conn)
        slave_id = world.add_slave(conn, target_id=target_id)
        world.add_job(conn, world.add_release(conn, "spidev"), target_id)
        lease = queue.claim(conn, slave_id=slave_id, target_id=target_id, terms=world.TERMS)
        assert lease is not None
        queue.release(conn, lease.token, FailureReason.PACKAGE, "it broke", policy=world.POLICY)
        world.add_job(conn, world.add_release(conn, "smbus"), target_id, priority=Priority.BACKLOG, downloads=7)
        for version in ("1", "2"):
            world.add_job(conn, world.add_release(conn, "numpy", version), target_id, priority=Priority.BACKLOG)
        old = world.add_release(conn, "numpy", "0")
        conn.execute(update(releases).where(releases.c.id == old).values(wanted=False))
    return target_id, slave_id


@pytest.fixture
def run(
    farm: tuple[int, int], database_settings: DatabaseSettings, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs it; exit status, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        given: Sequence[str] = [*words, "--set", f"database.url={database_settings.url}"]
        status = command.main(given)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_list(run: Run, database: Engine, farm: tuple[int, int]) -> None:
    status, out, _ = run("list", PI)
    assert status == 0
    assert out.splitlines() == [
        f"{PI}: 3 waiting, 0 resting, 0 being built",
        "  smbus 3.6, backlog, 7 downloads",
        "  numpy 1, backlog, 0 downloads",
        "  numpy 2, backlog, 0 downloads",
    ]
    with database.begin() as conn:
        queue.claim(conn, slave_id=farm[1], target_id=farm[0], terms=world.TERMS)
        lease = queue.claim(conn, slave_id=farm[1], target_id=farm[0], terms=world.TERMS)
        assert lease is not None
        queue.release(conn, lease.token, FailureReason.MEMORY, "", policy=world.POLICY)
    _, out, _ = run("list", PI, "--resting")
    assert out.splitlines()[0] == f"{PI}: 1 waiting, 1 resting, 1 being built"
    assert "numpy 1, retry, 0 downloads, 1 strike, memory class 1, in 5" in out
    _, out, _ = run("list", PI, "--building")
    assert re.search(r"smbus 3\.6, backlog, 7 downloads, with 1 for \d s\n", out)
    _, out, _ = run("list", PI, "--lines", "1")
    assert len(out.splitlines()) == 2


def test_a_request_comes_first_and_forgets_failures(run: Run, database: Engine) -> None:
    status, out, _ = run("request", "Spidev", "3.6", PI)
    assert status == 0
    assert out.splitlines() == [
        "spidev 3.6: 1 failed build forgotten",
        f"spidev 3.6, {PI}: in the queue, before everything else",
    ]
    assert run("list", PI, "--lines", "1")[1].splitlines()[1] == "  spidev 3.6, request, 0 downloads"
    assert world.count(database, builds, builds.c.superseded) == 1
    assert run("request", "spidev")[0] == 0, "again changes nothing"


def test_a_retry_comes_in_its_turn(run: Run, database: Engine) -> None:
    status, out, _ = run("retry", "spidev")
    assert status == 0 and f"spidev 3.6, {PI}: in the queue\n" in out
    with database.begin() as conn:
        query = select(jobs.c.priority).join(releases).where(releases.c.version == "3.6").order_by(jobs.c.downloads)
        assert conn.execute(query).scalars().first() != Priority.REQUEST


def test_an_old_release_is_built_when_it_is_asked_for(run: Run) -> None:
    assert run("request", "numpy")[1] == f"numpy 2, {PI}: in the queue, before everything else\n"
    assert run("request", "numpy", "0.0")[1] == f"numpy 0, {PI}: in the queue, before everything else\n"


def test_what_cannot_be_built_is_said(run: Run, database: Engine) -> None:
    with database.begin() as conn:
        conn.execute(update(releases).where(releases.c.version == "3.6").values(yanked=True, yanked_reason="bad"))
    status, out, _ = run("request", "smbus")
    assert status == 1 and "yanked" in out


def test_why(run: Run) -> None:
    status, out, err = run("why", "spidev", "3.6", PI)
    assert status == 0, err
    assert "failed" in out.splitlines()[0]
    assert "smbus 3.6" in run("why", "SMBus", "3.6", PI)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "nowhere"], "there is no target nowhere; there are: bookworm-armhf"),
        (["why", "spidev", "3.6", "nowhere"], "there is no target nowhere"),
        (["request", "nothing"], "nothing: no such project"),
        (["request", "spidev", "9"], "spidev 9: no such release"),
        (["retry", "spidev", "3.6", "nowhere"], "there is no target nowhere"),
    ],
)
def test_what_is_not_known_is_one_line(run: Run, words: list[str], said: str) -> None:
    status, out, err = run(*words)
    assert status == 1 and not out
    assert err.startswith(f"piw-queue: {said}") and err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["list"], ["list", PI, "--lines", "0"], ["why", "a", "b"], ["dance"]])
def test_usage(run: Run, words: list[str]) -> None:
    assert run(*words)[0] == 2


def test_nothing_but_what_was_asked_for_is_touched(run: Run, database: Engine) -> None:
    def rows() -> list[object]:
        with database.begin() as conn:
            mine = select(jobs.c.release_id, jobs.c.priority, jobs.c.strikes).join(releases)
            return list(conn.execute(mine.where(releases.c.version != "3.6").order_by(jobs.c.release_id)))

    before = rows()
    run("request", "spidev", "3.6", PI)
    assert rows() == before
