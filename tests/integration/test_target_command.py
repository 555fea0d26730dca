# SPDX-License-Identifier: BSD-3-Clause
"""piw-target: adding, switching, ordering and showing targets; what it refuses; planning, shown."""

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, func, insert, select

from piwheels.admin import targets as command
from piwheels.db import pages, planning, targets
from piwheels.db.tables import builds, projects, published, releases
from piwheels.master import target_watch
from piwheels.master.targets import PRESETS, native
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import Outcome
from tests.integration.test_recipes import Farm
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]
PLANS = "the running master plans what there is to build; piw-target list shows how far it is\n"


@pytest.fixture
def run(database_settings: DatabaseSettings, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def one(*words: str) -> tuple[int, str, str]:
        code = command.main([*words, "--set", f"database.url={database_settings.url}"])
        return (code, *capsys.readouterr())

    yield one


def every(engine: Engine) -> dict[str, targets.Target]:
    with engine.begin() as conn:
        return {target.name: replace(target, id=None) for target in targets.every(conn)}


def test_presets_and_native(run: Run, database: Engine) -> None:
    assert run("list") == (0, "no targets yet: piw-target add NAME\nplanning: not begun yet\n", "")
    assert run("add", "trixie-armhf") == (0, "target trixie-armhf is added, enabled\n" + PLANS, "")
    assert run("add", "native", "--disabled") == (0, "target native is added, disabled\n", "")
    assert run("add", "trixie-armhf") == (0, "target trixie-armhf is there already\n", "")
    assert every(database)["trixie-armhf"] == PRESETS["trixie-armhf"]
    assert every(database)["native"] == replace(native(), rank=210, enabled=False)
    lines = run("list")[1].splitlines()
    assert lines[0] == "200  trixie-armhf  enabled   cp313  linux_armv7l  trixie    glibc-2.41"
    assert lines[1].startswith("210  native        disabled  ")


def test_a_target_by_its_parts(run: Run, database: Engine, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("libc6\nzlib1g\n")
    words = ("--python", "3.12", "--platform", "linux_aarch64", "--libc", "musl-1.2", "--distribution", "Alpine-3.21")
    assert run("add", "alpine", *words, "--preinstalled", str(tmp_path / "list"))[0] == 0
    made = every(database)["alpine"]
    assert (made.abi, made.distribution, made.libc, made.rank) == ("cp312", "alpine-3.21", "musl-1.2", 10)
    assert made.platforms[:2] == ("linux_aarch64", "musllinux_1_2_aarch64")
    assert made.preinstalled == ("libc6", "zlib1g")
    assert run("add", "free", "--like", "alpine", "--python", "3.13", "--abi", "cp313t", "--rank", "5")[0] == 0
    free = every(database)["free"]
    assert (free.abi, free.rank, free.platforms, free.preinstalled) == ("cp313t", 5, made.platforms, made.preinstalled)
    assert run("add", "plain", "--like", "trixie-armhf", "--libc", "", "--alias", "manylinux_2_17_armv7l")[0] == 0
    assert every(database)["plain"].platforms == ("linux_armv7l", "manylinux_2_17_armv7l")
    assert list(every(database)) == ["free", "alpine", "plain"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["mine"],
            "'mine' is no preset (there are: bookworm-armhf, bookworm-arm64, trixie-armhf, trixie-arm64, native)",
        ),
        (["mine", "--like", "mars"], "there is no target or preset 'mars'; there are: bookworm-armhf"),
        (["Mine", "--like", "trixie-armhf"], "'Mine' cannot be a target's name"),
        (["mine", "--like", "trixie-armhf", "--abi", "cp311"], "ABI 'cp311' is not one of CPython 3.13"),
        (["mine", "--like", "bookworm-armhf", "--abi", "cp311t"], "CPython 3.11 has no ABI 'cp311t'"),
        (["mine", "--like", "trixie-armhf", "--alias", "linux_aarch64"], "linux_aarch64 does not run on linux_armv7l"),
        (
            ["mine", "--like", "trixie-armhf", "--alias", "macosx_11_0_arm64"],
            "nobody knows the platform tag 'macosx_11",
        ),
        (["mine", "--like", "trixie-armhf", "--libc", "glibc"], "'glibc' is not a C library such as glibc-2.36"),
        (["mine", "--like", "trixie-armhf", "--python", "3.13.1"], "'3.13.1' is not a Python version such as 3.11"),
        (
            ["mine", "--python", "3.13", "--platform", "armv7l"],
            "its platform 'armv7l' is not one that builders announce",
        ),
        (["mine", "--like", "trixie-armhf", "--rank", "100"], "rank 100 is that of target bookworm-armhf"),
        (
            ["mine", "--like", "bookworm-armhf"],
            "target mine is what target bookworm-armhf is already: cp311 on linux_armv7l, bookworm; builders could not",
        ),
        (
            ["mine", "--like", "bookworm-arm64", "--libc", "glibc-2.31"],
            "target mine: bookworm has glibc-2.31 there, and glibc-2.36 in target bookworm-armhf",
        ),
        (
            ["bookworm-armhf", "--distribution", "trixie"],
            "there is a target bookworm-armhf already, and it differs; --up",
        ),
        (
            ["bookworm-armhf", "--update", "--python", "3.12"],
            "wheels were built for cp311 on linux_armv7l; add a target",
        ),
        (["mine", "--like", "trixie-armhf", "--preinstalled", "FILE"], ":2: 'No Such' is not the name of a Debian"),
        (["mine", "--like", "trixie-armhf", "--preinstalled", "/none"], "cannot read /none: No such file or directory"),
    ],
)
def test_contradictions_are_told_in_one_line(
    run: Run, database: Engine, tmp_path: Path, words: list[str], complaint: str
) -> None:
    (tmp_path / "list").write_text("libc6\n'No Such'\n".replace("'No Such'", "No_Such"))
    with database.begin() as conn:
        target_id = targets.add(conn, PRESETS["bookworm-armhf"])
        build(conn, target_id)
    before = every(database)
    given = [str(tmp_path / "list") if word == "FILE" else word for word in words]
    code, said, errors = run("add", *given)
    assert (code, said, errors.count("\n")) == (3 if "/none" in words else 2, "", 1)
    assert errors.startswith("piw-target: ") and complaint.replace("No Such", "No_Such") in errors
    assert every(database) == before


def build(conn: object, target_id: int) -> None:
    execute = conn.execute  # type: ignore[attr-defined]
    project = execute(insert(projects).values(name="a", display_name="a").returning(projects.c.id)).scalar_one()
    row = {"project_id": project, "version": "1", "sort_key": b"", "released": func.now()}
    release = execute(insert(releases).values(row).returning(releases.c.id)).scalar_one()
    row = {"release_id": release, "target_id": target_id, "token": func.gen_random_uuid(), "started": func.now()}
    execute(insert(builds).values(row | {"duration": "1 s", "outcome": Outcome.SUCCESS}))


def test_updating_keeps_rank_and_switch(run: Run, database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run("add", "bookworm-armhf")
    run("add", "trixie-armhf")
    run("disable", "bookworm-armhf")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"libc6 zlib1g")))
    assert run("add", "bookworm-armhf", "--update", "--preinstalled", "-")[1] == "target bookworm-armhf is changed\n"
    assert every(database)["bookworm-armhf"] == replace(
        PRESETS["bookworm-armhf"], preinstalled=("libc6", "zlib1g"), enabled=False
    )


def test_switching_and_ordering(run: Run, database: Engine) -> None:
    for name in PRESETS:
        run("add", name)
    assert run("disable", "trixie-armhf") == (0, "target trixie-armhf is disabled\n" + PLANS, "")
    assert run("disable", "trixie-armhf") == (0, "target trixie-armhf is already disabled\n", "")
    assert not every(database)["trixie-armhf"].enabled
    assert run("enable", "trixie-armhf")[1] == "target trixie-armhf is enabled\n" + PLANS
    in_order = "targets, oldest first: trixie-arm64, trixie-armhf, bookworm-armhf, bookworm-arm64\n"
    assert run("order", "trixie-arm64", "trixie-armhf") == (0, in_order + PLANS, "")
    assert run("order", "trixie-arm64") == (0, in_order, "")
    assert [target.rank for target in every(database).values()] == [10, 20, 30, 40]
    assert run("order", "mars")[2].startswith("piw-target: there is no target 'mars'; there are: trixie-arm64, ")
    assert run("order", "trixie-arm64", "trixie-arm64")[2] == "piw-target: target trixie-arm64 is named twice\n"
    assert run("enable", "mars")[0] == 2


def test_enabling_what_contradicts_another_is_refused(run: Run, database: Engine) -> None:
    run("add", "bookworm-armhf")
    assert run("add", "twin", "--like", "bookworm-armhf", "--disabled")[0] == 0
    code, _, errors = run("enable", "twin")
    assert code == 2 and errors.startswith("piw-target: target twin is what target bookworm-armhf is already")
    assert not every(database)["twin"].enabled
    run("disable", "bookworm-armhf")
    assert run("enable", "twin")[0] == 0


def test_showing(run: Run, farm: Farm) -> None:
    farm.add("alpha", "beta")
    text = run("show", "bookworm-armhf")[1]
    assert "Python         3.11, ABI cp311\n" in text and "state          enabled, rank 100\n" in text
    assert "queue          2 waiting, 0 being built; 0 builders\n" in text
    text = run("show", "trixie-arm64", "--tags")[1]
    assert text.startswith("target         trixie-arm64 (a preset; not added)\n")
    lines = text.splitlines()
    first = lines.index("cp313-cp313-linux_aarch64")
    assert lines[first:] == [str(tag) for tag in PRESETS["trixie-arm64"].ordered()]
    assert run("show", "mars")[0] == 2


def test_which_targets_take_a_wheel(run: Run, database: Engine) -> None:
    run("add", "bookworm-armhf")
    run("add", "trixie-armhf")
    both = "bookworm-armhf: takes it\ntrixie-armhf: takes it\n"
    none = "bookworm-armhf: does not take it\ntrixie-armhf: does not take it\nno target takes it\n"
    assert run("accepts", "foo-1.0-py3-none-any.whl") == (0, both, "")
    assert run("accepts", "/x/foo-1.0-cp37-abi3-linux_armv7l.whl") == (0, both, "")
    one = "bookworm-armhf: does not take it\ntrixie-armhf: takes it\n"
    assert run("accepts", "foo-1.0-cp313-cp313-linux_armv7l.whl") == (0, one, "")
    for tag in ("cp313-cp313t-linux_armv7l", "cp39-none-win32", "xy9-zz-plan9", "cp311-cp311-linux_aarch64"):
        assert run("accepts", f"foo-1.0-{tag}.whl") == (1, none, "")
    code, _, errors = run("accepts", "foo.txt")
    assert code == 2 and errors.startswith("piw-target: 'foo.txt' is not a wheel's file name: ")


@pytest.fixture
def farm(database: Engine) -> Farm:
    return Farm(database)


def test_planning_is_shown_until_it_has_finished(run: Run, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_watch, "LOOK", 0.05)
    monkeypatch.setattr(target_watch, "PATIENCE", 0.2)
    farm.add("alpha", "beta")
    plan(farm)
    assert run("list")[1].splitlines()[-1].startswith("planning: 2 releases, finished 20")

    def master() -> None:
        wait_for(lambda: len(every(farm.engine)) == 2, "the target", seconds=20)
        threading.Event().wait(0.5)  # long enough for --wait to say that nobody plans
        plan(farm)

    thread = threading.Thread(target=master)
    thread.start()
    code, said, errors = run("add", "trixie-armhf", "--wait")
    thread.join()
    assert (code, said) == (0, "target trixie-armhf is added, enabled\n")
    lines = errors.splitlines()
    assert lines[0].startswith("nobody plans yet: is the master running?")
    assert lines[-1].startswith("planning: 2 releases, finished ")


def plan(farm: Farm) -> None:
    finished = False
    while not finished:
        with farm.engine.begin() as conn:
            finished = planning.catch_up(conn).finished


def test_disabling_takes_jobs_away(run: Run, farm: Farm) -> None:
    farm.add("alpha")
    plan(farm)
    assert farm.queued() == ["alpha"]
    run("disable", "bookworm-armhf")
    plan(farm)
    assert farm.queued() == []
    run("enable", "bookworm-armhf")
    plan(farm)
    assert farm.queued() == ["alpha"]


def test_pages_show_the_change(run: Run, database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MARKED_AT_ONCE", 2)
    with database.begin() as conn:
        conn.execute(insert(published), [{"name": name, "listed": True} for name in "abcde"])
        pages.note_rendered_with(conn, "look")
    run("add", "native", "--disabled")
    assert marked(database) == []
    run("add", "bookworm-armhf")
    assert marked(database) == list("abcde")
    with database.begin() as conn:
        assert pages.rendered_with(conn) == "look"


def test_pages_are_left_to_the_publisher_if_we_are_killed(
    run: Run, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.begin() as conn:
        pages.note_rendered_with(conn, "look")
    monkeypatch.setattr(pages, "mark_published", lambda *args, **keywords: 1 / 0)
    assert run("add", "bookworm-armhf")[0] == 70
    with database.begin() as conn:
        assert pages.rendered_with(conn) == ""
        assert len(targets.every(conn)) == 1


def marked(engine: Engine) -> list[str]:
    from piwheels.db.tables import pages as table

    with engine.begin() as conn:
        return sorted(conn.scalars(select(table.c.key).where(table.c.key != "")))
