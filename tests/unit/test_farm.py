# SPDX-License-Identifier: BSD-3-Clause
"""piw-farm's pure parts: what is told, when --once ends, back-off, settings."""

import socket
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from piwheels import farm, farm_home, settings
from piwheels.db.farm_facts import Attempt, Project, Release, Running
from piwheels.db.status import Outstanding
from piwheels.errors import UnavailableError
from piwheels.farm_children import LONGEST_LOG, LONGEST_WAIT, STEADY, Backoff, Child
from piwheels.farm_home import Home, Wish
from piwheels.farm_story import PATIENCE, End, Ending, Look, Story, failures, served_by_pypi, span, usage
from piwheels.master.planner import Code, Verdict
from piwheels.master.targets import PRESETS
from piwheels.settings import Settings
from piwheels.vocabulary import FailureReason, Outcome, WatchState

URL = "http://127.0.0.1:8080"
TARGET = PRESETS["bookworm-armhf"]
NOW = datetime(2026, 11, 21, tzinfo=UTC)
NOTHING = Outstanding(watches_pending=0, jobs=0, building=0, pages=0, undelivered=0)


def verdict(code: Code, *, wheels: tuple[str, ...] = ()) -> Verdict:
    return Verdict(TARGET, code, code.value, wheels=wheels)


def project(
    name: str, *codes: Code, state: WatchState = WatchState.FOUND, detail: str = "", fresh: bool = True
) -> Project:
    releases = tuple(Release(n, f"{n}.0", (verdict(code),)) for n, code in enumerate(codes, start=1))
    return Project(name, name.upper(), state, detail, fresh, False, releases)


def look(*projects: Project, at: float = 0.0, away: bool = False, outstanding: Outstanding = NOTHING) -> Look:
    return Look(at, projects, (), (), outstanding, away, frozenset(one.name for one in projects))


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (project("a", Code.QUEUED), "A 1.0: will be built for bookworm-armhf"),
        (project("a", Code.ON_PYPI), "A 1.0: served by PyPI, nothing to build"),
        (project("a", Code.BUILT), "A 1.0: built before"),
        (project("a", Code.NO_SDIST), "A 1.0: cannot be built: no source distribution"),
        (project("a", state=WatchState.MISSING, detail="PyPI has no project of this name"), "A: PyPI has no project"),
        (project("a"), "A: PyPI has no release of it with files"),
    ],
)
def test_projects_are_told_once(one: Project, line: str) -> None:
    story = Story(URL)
    first = story.tell(look(one))
    assert len(first) == 1 and first[0].startswith(line)
    assert story.tell(look(one)) == []


def test_what_was_not_looked_at_yet_is_not_told() -> None:
    assert Story(URL).tell(look(project("a", Code.BUILT, fresh=False))) == []


def test_many_releases_are_counted() -> None:
    lines = Story(URL).tell(look(project("a", *[Code.QUEUED] * 9, Code.NO_SDIST)))
    assert lines == ["A: 10 releases: 9 will be built for bookworm-armhf, 1 cannot be built: no source distribution"]


def test_builds_are_told_from_start_to_page() -> None:
    story = Story(URL)
    before = look(project("a", Code.QUEUED))
    story.tell(before)
    running = replace(
        before,
        running=(Running(1, "A", "1.0", NOW),),
        outstanding=replace(NOTHING, building=1, jobs=3),
    )
    assert story.tell(running) == ["building A 1.0; 3 waiting"]
    assert story.tell(running) == []
    good = Attempt(7, 1, "A", "1.0", Outcome.SUCCESS, None, "", timedelta(seconds=12), ("a-1.0-py3-none-any.whl",))
    bad = Attempt(8, 2, "B", "1.0", Outcome.FAILED, FailureReason.PACKAGE, "no cc", timedelta(seconds=99), ())
    ended = replace(before, attempts=(good, bad), projects=(replace(before.projects[0], listed=True),))
    assert story.tell(ended) == [
        "built A 1.0 in 12 s: a-1.0-py3-none-any.whl",
        f"failed B 1.0 after 1 min 39 s (package): no cc; log: {URL}/logs/0000/000/8.txt.gz",
        f"published {URL}/simple/a/",
    ]
    assert story.tell(ended) == []


def test_weather_is_told_when_it_changes() -> None:
    story = Story(URL)
    pending = project("a", state=WatchState.PENDING, detail="no route", fresh=False)
    assert story.tell(look(pending, away=True)) == ["no route; trying again until it does"]
    assert story.tell(look(pending, away=True)) == []
    assert story.tell(look(project("a", Code.QUEUED))) == [
        "PyPI answers again.",
        "A 1.0: will be built for bookworm-armhf",
    ]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (look(project("a", Code.BUILT)), End.DONE),
        (look(project("a", Code.BUILT, fresh=False)), End.NOT_YET),
        (replace(look(), expected=frozenset(["a"])), End.NOT_YET),  # the feed has not taken over the list yet
        (look(project("a", state=WatchState.PENDING)), End.NOT_YET),
        (look(project("a", state=WatchState.MISSING)), End.DONE),
        (look(project("a", Code.QUEUED), outstanding=replace(NOTHING, jobs=1)), End.NOT_YET),
        (look(project("a", Code.BUILDING), outstanding=replace(NOTHING, building=1)), End.NOT_YET),
        (look(project("a", Code.BUILT), outstanding=replace(NOTHING, pages=1)), End.NOT_YET),
        (look(project("a", Code.BUILT), outstanding=replace(NOTHING, undelivered=1)), End.NOT_YET),
    ],
)
def test_once_ends_when_nothing_is_left(one: Look, expected: End) -> None:
    assert Ending().judge(one) is expected


def test_once_without_pypi() -> None:
    known, unknown = project("a", Code.BUILT, fresh=False), project("b", state=WatchState.PENDING)
    first, later = Ending(), Ending()
    assert first.judge(look(known, unknown, away=True)) is End.NOT_YET
    assert first.judge(look(known, unknown, away=True, at=PATIENCE + 1)) is End.AWAY
    assert later.judge(look(known, away=True)) is End.NOT_YET
    assert later.judge(look(known, away=True, at=PATIENCE + 1)) is End.DONE
    back = Ending()
    back.judge(look(known, unknown, away=True))
    back.judge(look(known, unknown))
    assert back.judge(look(known, unknown, away=True, at=PATIENCE + 1)) is End.NOT_YET


def test_failures() -> None:
    found = [
        project("good", Code.BUILT),
        project("pypi", Code.ON_PYPI),
        project("bad", Code.FAILED),
        project("odd", Code.NO_SDIST),
        project("none", state=WatchState.MISSING, detail="PyPI has no project of this name"),
        project("empty"),
    ]
    assert [failure.line for failure in failures(found, every=False)] == [
        "BAD 1.0: the build failed",
        "ODD 1.0: cannot be built: no source distribution",
        "NONE: PyPI has no project of this name",
        "EMPTY: PyPI has no release of it with files",
    ]
    assert [failure.line.split()[0] for failure in failures(found, every=True)] == ["BAD", "NONE:", "EMPTY:"]
    assert [(one.name, release.version) for one, release in served_by_pypi(found)] == [("pypi", "1.0")]


def test_words() -> None:
    assert [span(timedelta(seconds=n)) for n in (0, 59, 61, 3700)] == ["0 s", "59 s", "1 min 01 s", "1 h 01 min"]
    assert any(
        "--index-url http://127.0.0.1:8080/simple/ --no-deps spidev" in line for line in usage(URL, "spidev", runs=True)
    )


def test_backoff_grows_and_forgets() -> None:
    backoff = Backoff()
    waits = []
    for _ in range(10):
        backoff.died(100.0, lived=0.1)
        waits.append(backoff.ready_at - 100.0)
    assert waits == sorted(waits) and waits[-1] == LONGEST_WAIT and backoff.deaths == 10
    backoff.died(100.0, lived=STEADY + 1)
    assert backoff.ready_at - 100.0 == waits[0]


def compose(home: Home, given: Settings | None = None, **changes: object) -> Settings:
    wish = replace(Wish(("a", "b"), 8081, "latest", ""), **changes)  # type: ignore[arg-type]
    return farm_home.compose(home, given or Settings(), wish, database="postgresql:///x", master_key="k" * 40)


def test_settings_are_kept_in_the_directory(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    first = compose(home)
    farm_home.write(home, first)
    assert settings.load(home.config) == first
    assert tomllib.loads(home.config.read_text())["feed"]["projects"] == ["a", "b"]
    assert first.dispatch.builders == first.slave.builders != first.dispatch.files
    assert first.farm.base_url == "http://127.0.0.1:8081"
    again = compose(home)
    assert (again.dispatch.builders, again.dispatch.files) == (first.dispatch.builders, first.dispatch.files)


def test_a_port_that_was_taken_meanwhile_is_chosen_anew(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    first = compose(home)
    farm_home.write(home, first)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(first.dispatch.files.rpartition(":")[2])))
        taken.listen()
        assert compose(home).dispatch.files != first.dispatch.files


def test_what_was_given_wins_over_a_farms_own_defaults(tmp_path: Path) -> None:
    given = settings.load(None, {}, ["slave.poll=3", "upstream.simple_url=https://example.org/simple/"])
    assert compose(Home(tmp_path), given).slave.poll == timedelta(seconds=3)
    assert compose(Home(tmp_path), given).upstream.simple_url == "https://example.org/simple/"
    assert compose(Home(tmp_path)).slave.poll == timedelta(seconds=1)


def test_long_directories_have_their_sockets_elsewhere(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 90) / "farm")
    assert str(home.run).startswith("/tmp/piw-run-")
    home.make()
    assert home.run.stat().st_mode & 0o777 == 0o700
    home.run.rmdir()


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot use"):
        Home(tmp_path / "file").make()


def test_arguments() -> None:
    options = farm.parser().parse_args([])
    assert (options.projects, options.port, options.once, options.slave, options.target) == (
        [],
        8080,
        False,
        True,
        "native",
    )
    options = farm.parser().parse_args(["--once", "--no-slave", "--target", "bookworm-armhf", "spidev", "smbus"])
    assert (options.projects, options.once, options.slave) == (["spidev", "smbus"], True, False)
    assert farm.main(["--port", "99999"]) == 2
    assert farm.main(["--set", "nonsense=1"]) == 2


def test_long_logs_are_put_aside(tmp_path: Path) -> None:
    child = Child(name="x", module="x", arguments=(), log=tmp_path / "x.log")
    child.bound_log()  # there is none yet
    with child.log.open("ab") as writer:
        writer.write(b"x" * (LONGEST_LOG + 1))
        writer.flush()
        child.bound_log()
        assert (tmp_path / "x.log.1").stat().st_size == LONGEST_LOG + 1
        writer.write(b"more")
    assert child.log.read_bytes() == b"more"


def test_a_port_that_is_not_to_be_had() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port} is in use by another program; choose another"):
            farm_home.require_free(port)
    farm_home.require_free(port)
