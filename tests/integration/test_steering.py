# SPDX-License-Identifier: BSD-3-Clause
"""Builders steered while they build: the monitor, the control role and dispatch together, and builders over TCP."""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from piwheels.admin import keys
from piwheels.db import slaves as slave_rows
from piwheels.db.tables import builds, jobs, slaves
from piwheels.master import control, dispatch, live_logs
from piwheels.master.commands import Command, Verb
from piwheels.master.role import Context
from piwheels.monitor import cli as monitor
from piwheels.monitor.client import Client
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Role, SlaveWish
from piwheels.wire import messages as m
from piwheels.wire.keys import make as make_keys
from tests.integration import dispatch_world as world
from tests.integration.builder import Builder, stats
from tests.integration.dispatch_farm import Farm, make_farm

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def farm(
    database: Engine, database_settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Farm]:
    """Dispatch and control, in threads."""
    monkeypatch.setattr(dispatch, "REPORT", 0.05)
    farm = make_farm(database, database_settings, tmp_path, lambda settings: settings)
    with tempfile.TemporaryDirectory(prefix="piw-run-", dir="/tmp") as run:  # a path short enough for sockets
        farm.settings = replace(farm.settings, paths=replace(farm.settings.paths, run=Path(run)))
        context = Context(Role.CONTROL, farm.settings)
        thread = threading.Thread(target=control.run, args=(farm.settings, context))
        thread.start()
        try:
            farm.start()
            world.wait_for(lambda: (Path(run) / "status").is_socket(), "the control role")
            yield farm
        finally:
            farm.close()
            context.stop.set()
            thread.join(20)
            context.close()


@pytest.fixture
def run(farm: Farm, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs piw-monitor or another command; returns status, output, errors."""

    def one(*words: str, main: Callable[[list[str]], int] = monitor.main) -> tuple[int, str, str]:
        paths = ["--set", f"paths.run={farm.settings.paths.run}", "--set", f"database.url={farm.settings.database.url}"]
        code = main([*(paths if main is monitor.main else []), *words, *(paths if main is not monitor.main else [])])
        return (code, *capsys.readouterr())

    before = logging.root.handlers[:]
    yield one
    logging.root.handlers[:] = before  # commands have them write to what pytest closes now


def at_work(farm: Farm, project: str = "spidev") -> tuple[Builder, m.Build]:
    """A builder with a job."""
    farm.job(project)
    builder = farm.builder()
    assert isinstance(builder.hello(), m.Ack)
    return builder, builder.job()


def until_told(builder: Builder) -> None:
    """Say BUSY until the answer is DONE."""
    world.wait_for(lambda: isinstance(builder.busy(), m.Done), "the builder to be told")


def tokens(farm: Farm) -> set[str]:
    with farm.engine.begin() as conn:
        held = conn.execute(select(jobs.c.lease_token).where(jobs.c.lease_slave_id.is_not(None)))
        return {token.hex for token in held.scalars()}


def test_a_build_is_ended_at_once_and_goes_back(farm: Farm, run: Run) -> None:
    builder, build = at_work(farm)
    status, said, _ = run("slaves", "kill", str(builder.slave_id))
    assert (status, said) == (
        0,
        f"builder {builder.slave_id} tester: the build of spidev 3.6 for bookworm-armhf is ended, and goes back to the "
        "queue\n",
    )
    assert not tokens(farm)  # before the builder says anything
    until_told(builder)
    again = builder.job()
    assert again.order is not None and build.order is not None and again.order.token != build.order.token
    assert world.count(farm.engine, builds) == 0


def test_a_build_that_is_killed_for_good_stays_out_of_the_queue(farm: Farm, run: Run) -> None:
    builder, build = at_work(farm)
    status, said, _ = run("slaves", "kill", "all", "--for-good")
    assert status == 0 and "is ended, and is not tried again for that target" in said
    assert farm.build().reason is FailureReason.PACKAGE and farm.build().detail == "stopped by the operator"
    assert isinstance(builder.fail(build, FailureReason.MEMORY), m.Done)  # its own word comes too late
    assert world.count(farm.engine, builds) == 1 and world.count(farm.engine, jobs) == 0
    assert isinstance(builder.idle(), m.Sleep)


def test_skipping_sleeping_and_waking_all(farm: Farm, run: Run) -> None:
    one, _ = at_work(farm)
    two, _ = at_work(farm, "other")
    assert run("slaves", "sleep", "all")[:2] == (0, "2 builders take no more jobs\n")
    assert isinstance(one.busy(), m.Cont)  # what is in hand goes on
    assert run("slaves", "skip", "all")[:2] == (0, "2 builders are told to drop what they build\n")
    for builder in (one, two):
        until_told(builder)
        assert builder.idle() == m.Sleep(True)
    status, _, refused = run("slaves", "skip", "all")
    assert status == 1 and refused.endswith("no builder is building anything\n")
    assert run("slaves", "kill", str(one.slave_id))[0] == 1
    assert run("slaves", "wake", "all")[:2] == (0, "2 builders take jobs\n")
    world.wait_for(lambda: isinstance(one.idle(), m.Build), "a job")
    assert run("slaves", "stop", "all")[:2] == (0, "2 builders are told to leave\n")
    world.wait_for(lambda: two.idle() == m.Die(), "the end")


def test_programs_are_told_who_was_meant(farm: Farm) -> None:
    builder, _ = at_work(farm)
    with Client(farm.settings.paths.run) as client:
        reply = client.command(Command(Verb.SLAVE_SLEEP, slave="all"))
        assert reply["builders"] == [{"id": builder.slave_id, "label": "tester"}]
        reply = client.command(Command(Verb.SLAVE_SKIP, slave="tester"))
        assert reply["builds"][0]["project"] == "spidev"
    with farm.engine.begin() as conn:
        assert conn.execute(select(slaves.c.wish)).scalar_one() is SlaveWish.PAUSE


def test_nobody_to_steer(farm: Farm, run: Run) -> None:
    assert run("slaves", "sleep", "all")[2].endswith("no builder is admitted; piw-keys enrol admits one\n")
    assert run("slaves", "sleep", "nobody")[0] == 1
    assert run("slaves", "sleep", "nobody", "--for-good")[0] == 2


# Keys, in mid-build


def test_a_rotated_key_cuts_the_old_one_off(farm: Farm, run: Run) -> None:
    builder, _ = at_work(farm)
    new = make_keys()
    assert run("rotate", str(builder.slave_id), new.public, main=keys.main)[0] == 0
    world.wait_for(lambda: not tokens(farm), "its lease to return")
    builder.send(m.Busy(stats()))
    assert not builder.socket.poll(300)
    again = farm.builder(keys=new, admitted=False)
    assert isinstance(again.hello(), m.Ack) and again.slave_id == builder.slave_id
    world.wait_for(lambda: isinstance(again.idle(), m.Build), "the job again")


def test_what_a_builder_still_builds_is_withdrawn_too(farm: Farm, run: Run) -> None:
    builder, build = at_work(farm)
    assert run("withdraw", str(builder.slave_id), "--yes", main=keys.main)[0] == 0
    with farm.engine.begin() as conn:
        assert not slave_rows.every(conn)[0].enabled
    world.wait_for(lambda: not tokens(farm), "its lease to return")
    builder.send(m.Built(False, timedelta(seconds=1), "x", (), m.BuildReport(build.order.token)))  # type: ignore[union-attr]
    assert not builder.socket.poll(300)
    assert world.count(farm.engine, builds) == 0
    assert world.count(farm.engine, jobs, jobs.c.lease_token.is_(None)) + world.count(farm.engine, jobs) >= 1


# Logs


def test_the_log_of_a_running_build(farm: Farm, run: Run) -> None:
    builder, build = at_work(farm)
    builder.ask(m.Busy(stats(), "compiling \x1b[2Jspi.c\n"))
    found = world.wait_for(lambda: run("log", "spidev")[1], "the log")
    assert found == "compiling \\x1b[2Jspi.c\n"
    builder.ask(m.Busy(stats(), "linking\n"))
    for name in (str(builder.slave_id), "tester"):
        world.wait_for(lambda name=name: run("log", name)[1].endswith("linking\n"), "what came later")
    status, _, errors = run("log", "spidev")
    assert status == 0 and errors == f"builder {builder.slave_id} tester builds spidev 3.6 for bookworm-armhf\n"
    assert run("log", "numpy")[2] == "numpy is not being built\n"
    builder.fail(build, FailureReason.PACKAGE)
    assert run("log", "tester") == (1, "", f"builder {builder.slave_id} is building nothing\n")
    folder = farm.settings.paths.run / live_logs.FOLDER
    world.wait_for(lambda: not list(folder.iterdir()), "its file to go")


def test_a_log_is_followed_until_the_build_ends(farm: Farm, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "FOLLOW", 0.05)
    builder, build = at_work(farm)
    builder.ask(m.Busy(stats(), "one\n"))
    world.wait_for(lambda: run("log", "tester")[1], "the log")

    def go_on() -> None:
        builder.ask(m.Busy(stats(), "two\n"))
        world.wait_for(lambda: "two" in _kept(farm), "the log to grow")
        builder.fail(build, FailureReason.PACKAGE)

    thread = threading.Thread(target=go_on)
    thread.start()
    status, said, errors = run("log", "tester", "--follow")
    thread.join(20)
    assert status == 0 and said.startswith("one\n") and "the build is over" in errors


def _kept(farm: Farm) -> str:
    return "".join((live_logs.read(farm.settings.paths.run, token) or _NOTHING).text for token in tokens(farm))


_NOTHING = live_logs.Excerpt(0, 0, "")
