# SPDX-License-Identifier: BSD-3-Clause
"""piw-bootstrap as its users run it, against the simulator: what it asks for, how it goes on, what it says."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select, update

from piwheels.admin.bootstrap import main
from piwheels.db import changes
from piwheels.db.tables import changes as change_table
from piwheels.db.tables import projects, roles
from piwheels.errors import ExitCode
from piwheels.settings import DatabaseSettings
from tests.integration.feed_world import OLD, SECONDS, World
from tests.simulator import Fault, Simulator
from tests.simulator.fixtures import simulator
from tests.simulator.recipes import PURE, TINY, variant

__all__ = ["simulator"]

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
NOTHING_LEFT = r"(\d+) projects asked for; nothing left to do\n"


class Farm(World):
    """A world with the command in it."""

    def flags(self, *overrides: str) -> list[str]:
        settings = (f"database.url={self.database.url}", f"upstream.simple_url={self.pypi.url}", "upstream.timeout=5")
        return [word for one in (*settings, *overrides) for word in ("--set", one)]

    def fill(self, *arguments: str) -> int:
        """Run it here; its exit status."""
        overrides = [one for one in arguments if "=" in one and not one.startswith("-")]
        return main([*(one for one in arguments if one not in overrides), *self.flags(*overrides)])

    @contextmanager
    def process(
        self, module: str, *arguments: str, output: int = subprocess.DEVNULL
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """A command in a process of its own, which is killed in the end."""
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait(SECONDS)

    def asked_for(self) -> Counter[str]:
        """How often each project's JSON was asked for."""
        return Counter(request.path.split("/")[2] for request in self.pypi.asked("/json"))

    def names(self) -> set[str]:
        with self.engine.begin() as conn:
            return set(conn.scalars(select(projects.c.name)))


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, simulator: Simulator) -> Farm:
    return Farm(database, database_settings, simulator)


def offer(farm: Farm, number: int) -> list[str]:
    names = [f"project-{n}" for n in range(number)]
    for name in names:
        farm.pypi.add_release(name, "1.0", TINY, uploaded=OLD)
    return names


def test_everything(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 30)
    farm.pypi.add_project("no-release-yet")
    farm.pypi.quarantine("project-7")
    assert farm.fill("--all") == ExitCode.OK
    said = capsys.readouterr()
    assert re.fullmatch(NOTHING_LEFT, said.out)
    assert "asking PyPI: " in said.err and " of 30 projects" in said.err
    assert farm.followed() and len(farm.names()) == 30  # the one in quarantine is not listed
    assert len(farm.jobs()) == 29
    with farm.engine.begin() as conn:  # from here on a feed follows
        assert changes.position(conn) == changes.applied(conn) == farm.pypi.serial


def test_a_second_time_asks_for_what_differs_alone(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 20)
    assert farm.fill("--all") == ExitCode.OK
    with farm.engine.begin() as conn:
        conn.execute(delete(projects).where(projects.c.name == "project-3"))
        conn.execute(update(projects).where(projects.c.name == "project-4").values(serial=1001))
    farm.pypi.add_release("project-5", "2.0", TINY)  # that is news, which the feed will hear
    farm.pypi.remove_project("project-6")
    asked = farm.asked_for()
    assert farm.fill("--all") == ExitCode.OK
    assert farm.asked_for() - asked == {"project-3": 1, "project-4": 1, "project-6": 1}
    assert capsys.readouterr().out == "".join(f"{n} projects asked for; nothing left to do\n" for n in (20, 3))
    with farm.feeding():
        farm.wait(farm.followed)


def test_where_the_index_lists_nothing_the_journals_server_does(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 5)
    farm.pypi.index_json = False
    assert farm.fill("--all") == ExitCode.OK
    assert len(farm.names()) == 5 and "asking the journal's server" in capsys.readouterr().err


def test_names(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 5)
    assert farm.fill("Project.1", "project_2", "PROJECT-2") == ExitCode.OK
    assert farm.names() == {"project-1", "project-2"}
    assert capsys.readouterr().out.startswith("2 projects")


def test_names_that_pypi_does_not_know_are_told(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 1)
    assert farm.fill("project-0", "nmupy", "pnadas") == ExitCode.FAILED
    assert "PyPI has no project nmupy, pnadas" in capsys.readouterr().err
    assert farm.names() == {"project-0"} and farm.waiting() == 0


def requirements(farm: Farm, tmp_path: Path) -> str:
    for name, requires in {
        "app": ["lib>=1", 'windows-only; sys_platform == "win32"', 'extra-lib; extra == "more"'],
        "lib": ["deep"],
        "extra-lib": ["not-there"],
        "deep": ["lib", "app"],
        "windows-only": [],
        "other": [],
    }.items():
        farm.pypi.add_release(name, "1.0", variant(PURE, requires_dist=tuple(requires)), uploaded=OLD)
    file = tmp_path / "requirements.txt"
    file.write_text("app[more]==1.0  # the one\n")
    return str(file)


def test_requirements_with_what_they_depend_on(farm: Farm, tmp_path: Path) -> None:
    file = requirements(farm, tmp_path)
    assert farm.fill("-r", file) == ExitCode.OK
    assert farm.names() == {"app", "lib", "deep", "extra-lib"}
    assert set(farm.asked_for().values()) == {1}
    asked = farm.asked_for()
    assert farm.fill("-r", file) == ExitCode.OK  # it knows them
    assert set(farm.asked_for() - asked) <= {"not-there"}


def test_only_what_the_farm_follows(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 6)
    with farm.feeding("project-1"):
        farm.wait(lambda: farm.names() == {"project-1"})
    assert farm.fill("--all", "feed.projects=project-1,project-2") == ExitCode.OK
    assert farm.fill("project-1", "project-4", "feed.projects=project-1") == ExitCode.OK
    assert farm.names() <= {"project-1", "project-2"}
    assert "left out 1 projects that this farm does not follow" in capsys.readouterr().err


# Stopping and going on


def test_killed_and_run_again(farm: Farm) -> None:
    """kill -9 at any point, three times: what was applied is not asked for again."""
    names = offer(farm, 200)
    in_hand = 0
    for answers in (5, 60, 60):
        asked = len(farm.pypi.asked())
        with farm.process("piwheels.admin.bootstrap", "--all", *farm.flags()):
            farm.wait(lambda asked=asked, n=answers: len(farm.pypi.asked()) >= asked + n)  # type: ignore[misc]
        seen = -1
        while seen != len(farm.pypi.asked()):  # PyPI reads what the dead one had sent
            seen = len(farm.pypi.asked())
            time.sleep(0.5)
        done = farm.names()
        assert all(len(one.releases) == 1 for one in farm.ours().values())
        in_hand += sum(count for name, count in farm.asked_for().items() if name not in done)
    before, had = farm.asked_for(), farm.names()
    assert farm.fill("--all") == ExitCode.OK
    assert farm.names() == set(names) and farm.followed() and farm.waiting() == 0
    assert not set(farm.asked_for() - before) & had
    assert sum(farm.asked_for().values()) <= len(names) + in_hand


def test_what_is_left_of_one_that_was_killed_the_feed_asks_for(farm: Farm) -> None:
    names = offer(farm, 150)
    with farm.process("piwheels.admin.bootstrap", "--all", *farm.flags()):
        farm.wait(lambda: len(farm.asked_for()) >= 20)
    with farm.feeding():
        farm.wait(lambda: farm.names() == set(names))


def test_while_a_feed_runs(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    """The feed does the work, and each project is asked for once; it follows what happens meanwhile."""
    names = offer(farm, 40)
    with farm.process("piwheels.master.cli", "feed", *farm.flags("feed.reconcile=0", "feed.poll=0.2")):
        farm.wait(lambda: farm.count(roles) and farm.applied() == farm.pypi.serial)
        assert farm.fill("--all") == ExitCode.OK
        assert "the master asks PyPI: " in capsys.readouterr().err
        assert farm.names() == set(names)
        assert set(farm.asked_for().values()) == {1}
        farm.pypi.add_release("project-1", "2.0", TINY)
        farm.wait(farm.followed)


def test_a_feed_that_starts_meanwhile_takes_over(farm: Farm) -> None:
    names = offer(farm, 300)
    with farm.process("piwheels.admin.bootstrap", "--all", *farm.flags("upstream.connections=1")) as bootstrap:
        farm.wait(lambda: len(farm.asked_for()) >= 20)
        with farm.process("piwheels.master.cli", "feed", *farm.flags("feed.reconcile=0", "feed.poll=0.2")):
            assert bootstrap.wait(SECONDS * 3) == ExitCode.OK
            assert farm.names() == set(names)
            farm.pypi.add_release("project-1", "2.0", TINY)
            farm.wait(farm.followed)


def test_ctrl_c(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(farm, 30)
    farm.pypi.fault(Fault.STALL, path="json", times=None)
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    said = tmp_path / "said"
    arguments = ("piwheels.admin.bootstrap", "--all", *farm.flags("upstream.timeout=60"))
    with said.open("wb") as output, farm.process(*arguments, output=output.fileno()) as bootstrap:
        farm.wait(farm.waiting)
        bootstrap.send_signal(signal.SIGINT)
        try:
            assert bootstrap.wait(SECONDS) == ExitCode.INTERRUPTED
        except subprocess.TimeoutExpired:  # say where it hangs
            bootstrap.send_signal(signal.SIGABRT)
            bootstrap.wait(SECONDS)
            pytest.fail(f"it does not end: {said.read_text(errors='replace')}")
    assert farm.waiting() == 30


# What is said


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(farm: Farm) -> None:
    offer(farm, 1500)
    ours, theirs = pty.openpty()
    with farm.process(
        "piwheels.admin.bootstrap", "--all", *farm.flags("upstream.connections=1"), output=theirs
    ) as bootstrap:
        os.close(theirs)
        said = b"".join(iter(lambda: _read(ours), b"")).decode()
        assert bootstrap.wait(SECONDS) == ExitCode.OK
    os.close(ours)
    assert "asking PyPI" in said and "1500/1500" in said and "left:" in said
    assert re.search(r"\d+/s", said)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody holds its other end any more
        return b""


def test_elsewhere_there_is_a_line_now_and_then(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 100)
    assert farm.fill("--all") == ExitCode.OK
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asking PyPI: ")]
    assert 1 <= len(lines) <= 12 and lines[-1] == "asking PyPI: 100 of 100 projects"


def test_answers_that_cannot_be_used_are_told_and_tried_again_by_the_feed(
    farm: Farm, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(farm, 10)
    farm.pypi.answer_with("project-3", {"info": None})
    assert farm.fill("--all") == ExitCode.FAILED
    assert capsys.readouterr().out == (
        "10 projects asked for; 1 gave no answer that can be used yet: the master's feed goes on trying\n"
    )
    assert len(farm.names()) == 9 and farm.waiting() == 1
    farm.pypi.answer_with("project-3", None)
    with farm.feeding():
        farm.wait(farm.followed)


@pytest.mark.parametrize("fault", [Fault.RATE_LIMIT, Fault.UNAVAILABLE, Fault.DROP, Fault.TRUNCATE, Fault.STALE])
def test_weather_is_waited_for(fault: Fault, farm: Farm) -> None:
    offer(farm, 10)
    farm.pypi.fault(fault, path="/pypi/", times=2, retry_after="1")
    assert farm.fill("--all") == ExitCode.OK
    assert farm.followed() and len(farm.names()) == 10


# Bad input


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), ExitCode.USAGE, "nothing to ask for: give names of projects, -r FILE or --all"),
        (("../etc",), ExitCode.USAGE, "'../etc' is not a project name"),
        (("a\n\x1b[31mb",), ExitCode.USAGE, "is not a project name"),
        (("x" * 201,), ExitCode.USAGE, "is not a project name"),
        (("-r", "/nonexistent/requirements.txt"), ExitCode.USAGE, "/nonexistent/requirements.txt"),
        (("-r", "/dev"), ExitCode.USAGE, "/dev"),
        (("spam", "database.url=postgresql:///none?host=/nonexistent"), ExitCode.UNAVAILABLE, "database"),
        (("spam", "upstream.simple_url=ftp://x/"), ExitCode.USAGE, "upstream.simple_url"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: tuple[str, ...], status: int, words: str, farm: Farm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert farm.fill(*arguments) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.isascii() and "\x1b" not in said.err
    assert said.err.startswith("piw-bootstrap: ") and words in said.err
    assert not farm.pypi.asked() and not farm.count(change_table)


@pytest.mark.parametrize("line", ["==1.0", "\x00", "-r missing.txt"])
def test_a_wrong_line_of_requirements_is_named(
    line: str, farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(f"fine\n{line}\n")
    assert farm.fill("-r", str(file)) in (ExitCode.USAGE, ExitCode.FAILED)
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "requirements.txt" in said.err and "2" in said.err


@pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE, Fault.XML_BOMB, Fault.LOOP, Fault.MISSING])
def test_without_any_list_of_projects_it_ends(fault: Fault, farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    offer(farm, 3)
    farm.pypi.fault(fault, times=None)
    assert farm.fill("--all") == ExitCode.UNAVAILABLE
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith("piw-bootstrap: ") and "Traceback" not in said.err
    assert not farm.count(change_table)


@pytest.mark.parametrize("fault", [Fault.EMPTY_LISTING, Fault.NULLS, Fault.MEGA_NAME, Fault.DUPLICATE])
def test_a_strange_listing_deletes_nothing(fault: Fault, farm: Farm) -> None:
    offer(farm, 4)
    assert farm.fill("--all") == ExitCode.OK
    farm.pypi.fault(fault, path="/simple/")
    assert farm.fill("--all") == ExitCode.OK
    assert len(farm.names()) == 4 and farm.waiting() == 0
