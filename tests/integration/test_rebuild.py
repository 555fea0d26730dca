# SPDX-License-Identifier: BSD-3-Clause
"""piw-rebuild: what it marks, that it waits until that is rendered, and what it says of what cannot be."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from piwheels.admin import rebuild
from piwheels.db import pages, roles
from piwheels.db.tables import pages as table
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import PageKind
from tests.integration.publish_world import Farm

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]
NAMES = ("bar", "foo", "food")


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[Farm]:
    """Three projects whose pages are on the site."""
    made = Farm(database, database_settings, tmp_path)
    try:
        for name in NAMES:
            made.build(made.release(name), f"{name}-1.0-cp311-cp311-linux_armv7l.whl")
        made.publisher.start()
        render(made)
        yield made
    finally:
        made.close()


@pytest.fixture
def run(database_settings: DatabaseSettings, capsys: pytest.CaptureFixture[str]) -> Run:
    def one(*words: str) -> tuple[int, str, str]:
        code = rebuild.main([*words, "--set", f"database.url={database_settings.url}"])
        return (code, *capsys.readouterr())

    return one


def render(farm: Farm) -> None:
    """Render all there is, but for the pages there is one of, which wait a moment for more."""
    while farm.publisher.step():
        pass


@contextmanager
def publishing(farm: Farm) -> Iterator[None]:
    """A publish role at work meanwhile."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            farm.publisher.step()

    with farm.database.begin() as conn:
        roles.beat(conn, "publish-2", started=datetime.now(UTC), state={})
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def marked(engine: Engine) -> dict[str, bool]:
    """Stale projects, and whether they wait for nothing else to be rendered."""
    with engine.begin() as conn:
        return {row.key: row.background for row in conn.execute(select(table).where(table.c.kind == PageKind.PROJECT))}


def test_a_damaged_page_is_put_right(farm: Farm, run: Run) -> None:
    index = farm.www / "simple/foo/index.v1_json"
    right, other = index.read_bytes(), farm.www / "simple/bar/index.v1_json"
    index.write_bytes(b"damaged")
    untouched = other.stat().st_ino
    with publishing(farm):
        code, out, err = run("Foo", "BAR")
    assert (code, out) == (0, "2 pages are rendered\n") and "2 of 2 rendered" in err
    assert index.read_bytes() == right and other.stat().st_ino == untouched
    assert marked(farm.database) == {}


def test_everything(farm: Farm, run: Run) -> None:
    root, index = farm.www / "simple/index.html", farm.www / "simple/foo/index.html"
    index.unlink()
    root.unlink(missing_ok=True)  # or not rendered yet
    with publishing(farm):
        code, out, _ = run("--all")
    assert (code, out) == (0, "9 pages are rendered\n")
    assert root.exists() and index.exists()


def test_patterns_and_names_that_nobody_knows(farm: Farm, run: Run) -> None:
    code, out, err = run("--no-wait", "foo*", "no-such", "x?")
    assert (code, out) == (1, "2 pages are marked\n")
    assert err == "piw-rebuild: there is no project no-such\npiw-rebuild: there is no project x?\n"
    assert marked(farm.database) == {"foo": True, "food": True}


def test_given_again_it_marks_the_same(farm: Farm, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MARKED_AT_ONCE", 1)
    assert run("--no-wait", "f*")[:2] == (0, "2 pages are marked\n")
    assert run("--no-wait", "f*")[:2] == (0, "2 pages are marked\n")
    assert marked(farm.database) == {"foo": True, "food": True}


def test_what_changed_comes_first(farm: Farm, run: Run) -> None:
    run("--no-wait", "b*", "foo")
    with farm.database.begin() as conn:
        pages.mark_stale(conn, PageKind.PROJECT, "food", "it changed")
        pages.mark_stale(conn, PageKind.PROJECT, "foo", "it changed as well")
    run("--no-wait", "food")
    assert marked(farm.database) == {"bar": True, "foo": False, "food": False}
    with farm.database.begin() as conn:
        claims = [claim.key for claim in pages.claim(conn, "w", limit=9) if claim.kind is PageKind.PROJECT]
    assert claims == ["foo", "food", "bar"]


def test_nobody_renders(farm: Farm, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "LOOK", 0.01)
    code, _, err = run("foo")
    assert code == 3
    assert "piw-rebuild: no publish role runs; 1 pages are marked and will be rendered once piw-master runs" in err


def test_a_page_that_cannot_be_rendered_is_named(farm: Farm, run: Run) -> None:
    folder = farm.www / "project/foo"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    with publishing(farm):
        code, out, err = run("foo", "bar")
    assert (code, out) == (1, "2 pages are rendered, but for those in trouble\n")
    assert "piw-rebuild: project foo: " in err and "it is tried again by and by" in err


@pytest.mark.parametrize("words", [(), ("--all", "foo")])
def test_what_is_to_be_rendered_has_to_be_said(run: Run, words: tuple[str, ...]) -> None:
    code, _, err = run(*words)
    assert (code, err) == (2, "piw-rebuild: give names or patterns of projects, or --all\n")
