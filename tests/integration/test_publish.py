# SPDX-License-Identifier: BSD-3-Clause
"""The publish role against a real database and disk: what it writes, and what takes it away again."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import Engine, delete, insert, select, update

from piwheels.db import pages, targets
from piwheels.db.tables import builds, dependencies, files, projects, published, releases, upstream_files
from piwheels.master import publish
from piwheels.master.role import Context
from piwheels.settings import DatabaseSettings, FarmSettings, PublishSettings
from piwheels.vocabulary import FailureReason, Outcome, PageKind, ProjectStatus, Role
from tests.integration.dispatch_world import PI
from tests.integration.publish_world import BUILT, WHEEL, Farm, serving
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

TREE = ["index.html", "index.v1_html", "index.v1_json"]


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[Farm]:
    made = Farm(database, database_settings, tmp_path)
    yield made
    made.close()


def test_publishes_a_project(farm: Farm) -> None:
    build_id = farm.build(farm.release())
    farm.publisher.start()
    farm.settle()
    farm.check()
    assert farm.names() == sorted([WHEEL, f"{WHEEL}.metadata", *TREE])
    (file,) = farm.json("simple/foo/index.v1_json")["files"]
    assert file["upload-time"] == "2026-11-01T12:00:00.000005Z"
    assert file["requires-python"] == ">=3.8"
    assert (farm.www / f"simple/foo/{WHEEL}").samefile(farm.store.path(bytes.fromhex(file["hashes"]["sha256"])))
    assert farm.json("simple/index.v1_json")["projects"] == [{"name": "foo"}]
    assert b'<a href="foo/">foo</a>' in (farm.www / "simple/index.html").read_bytes()
    document = farm.json("project/foo/json/index.json")
    Draft202012Validator(farm.json("schema/project.json")).validate(document)
    assert document["releases"]["1.0"]["files"][WHEEL]["build"] == build_id
    assert document["releases"]["1.0"]["files"][WHEEL]["apt_dependencies"] == ["libopenblas0"]
    assert document["releases"]["1.0"]["builds"]["bookworm-armhf"]["status"] == "success"
    assert "Foo" in (farm.www / "project/foo/index.html").read_text("utf-8")
    assert "Foo" in (farm.www / "index.html").read_text("utf-8")
    for path in ("404.html", "robots.txt", "static/site.css", "static/site.js", "static/mark.svg"):
        assert (farm.www / path).stat().st_mode & 0o777 == 0o644
    with farm.database.begin() as conn:
        assert conn.execute(select(published.c.name, published.c.listed, published.c.files)).all() == [("foo", True, 1)]


def test_publishing_again_changes_no_byte_and_no_file(farm: Farm) -> None:
    farm.build(farm.release())
    farm.publisher.start()
    farm.settle()
    before = {p: p.stat().st_mtime_ns for p in farm.www.rglob("*") if p.is_file()}
    farm.change()
    farm.new_publisher().start()
    farm.settle()
    assert {p: p.stat().st_mtime_ns for p in farm.www.rglob("*") if p.is_file()} == before


def test_pip_and_uv_install_from_the_tree(farm: Farm) -> None:
    """Through a real server of the tree, with the JSON index, its metadata and its hashes."""
    filename = "foo-1.0-py3-none-any.whl"
    farm.build(farm.release(), filename)
    with farm.database.begin() as conn:
        conn.execute(delete(dependencies))
    farm.settle()
    out = farm.work / "downloaded"
    with serving(farm.www) as url:
        pip = [sys.executable, "-m", "pip", "--isolated", "--no-input", "download", "--no-deps", "--no-cache-dir"]
        subprocess.run([*pip, "-d", out, "--index-url", f"{url}/simple/", "foo"], check=True, timeout=120)
        place = farm.work / "installed"
        uv = [sys.executable, "-m", "uv", "--no-config", "--no-cache", "pip", "install", "--target", place, "--no-deps"]
        subprocess.run(
            [*uv, "--default-index", f"{url}/simple/", "--python", sys.executable, "foo"], check=True, timeout=120
        )
        missing = subprocess.run(
            [*pip, "-d", out, "--index-url", f"{url}/simple/", "nothing"], capture_output=True, timeout=120, check=False
        )
    assert (out / filename).read_bytes() == (farm.www / f"simple/foo/{filename}").read_bytes()
    assert (place / "foo/__init__.py").read_text() == "x = 1\n"
    assert b"No matching distribution found for nothing" in missing.stderr


# Without files


def test_a_project_without_files_has_a_page_and_no_index(farm: Farm) -> None:
    release = farm.release()
    farm.change(
        insert(builds).values(
            release_id=release,
            target_id=farm.target,
            token=uuid4(),
            started=BUILT,
            duration=timedelta(seconds=5),
            outcome=Outcome.FAILED,
            reason=FailureReason.PACKAGE,
            detail="gcc said no",
            has_log=True,
        )
    )
    farm.settle()
    assert not (farm.www / "simple/foo").exists()
    page = (farm.www / "project/foo/index.html").read_text("utf-8")
    assert "Why there is no wheel of 1.0" in page and "gcc said no" in page
    assert (
        farm.json("project/foo/json/index.json")["releases"]["1.0"]["builds"]["bookworm-armhf"]["failure"] == "package"
    )
    with serving(farm.www) as url:
        out = subprocess.run(
            [sys.executable, "-c", f"import urllib.request; urllib.request.urlopen('{url}/simple/foo/')"],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert b"404" in out.stderr


@pytest.mark.parametrize("how", ["build deleted", "quarantined", "project deleted"])
def test_files_that_go_take_the_index_with_them(farm: Farm, how: str) -> None:
    build_id = farm.build(farm.release())
    farm.publisher.start()
    farm.settle()
    match how:
        case "build deleted":
            farm.change(delete(builds).where(builds.c.id == build_id))
        case "quarantined":
            farm.change(update(projects).values(status=ProjectStatus.QUARANTINED))
        case "project deleted":
            farm.change(delete(projects))
    farm.settle()
    assert not (farm.www / "simple/foo").exists()
    assert (farm.www / "project/foo").exists() == (how != "project deleted")
    assert farm.json("simple/index.v1_json")["projects"] == []
    if how == "quarantined":  # and back
        farm.change(update(projects).values(status=ProjectStatus.ACTIVE))
        farm.settle()
        farm.check()
        assert list(farm.listed()) == [WHEEL]
        assert farm.json("simple/index.v1_json")["projects"] == [{"name": "foo"}]


def test_a_yank_reaches_the_index(farm: Farm) -> None:
    farm.build(farm.release())
    farm.settle()
    farm.change(update(releases).values(yanked=True, yanked_reason="it <b>bites</b>"))
    farm.settle()
    assert farm.json("simple/foo/index.v1_json")["files"][0]["yanked"] == "it <b>bites</b>"
    assert b'data-yanked="it &lt;b&gt;bites&lt;/b&gt;"' in (farm.www / "simple/foo/index.html").read_bytes()


def test_a_deleted_wheel_goes_and_the_others_stay(farm: Farm) -> None:
    release = farm.release()
    first = farm.build(release)
    other = "foo-1.0-1-cp311-cp311-linux_armv7l.whl"
    farm.build(release, other, content=b"x = 2\n")
    farm.settle()
    assert set(farm.listed()) == {WHEEL, other}
    (farm.www / "simple/foo/.index.html.tmp").write_bytes(b"left by a killed writer")
    farm.change(delete(builds).where(builds.c.id == first))
    farm.settle()
    farm.check()
    assert farm.names() == sorted([other, f"{other}.metadata", *TREE])


@pytest.mark.parametrize("key", ["../../etc", "Foo", "", "a/b", ".."])
def test_a_mark_that_names_no_project_does_no_harm(farm: Farm, key: str) -> None:
    farm.www.mkdir()
    precious = farm.work / "etc"
    precious.mkdir()
    with farm.database.begin() as conn:
        pages.mark_stale(conn, PageKind.PROJECT, key, "hostile")
    farm.settle()
    assert precious.exists()
    assert sorted(p.name for p in farm.www.iterdir()) == []


# Names and bytes


def test_a_name_keeps_its_bytes_whatever_is_built_later(farm: Farm) -> None:
    release = farm.release()
    farm.build(release)
    farm.settle()
    before = farm.listed()
    farm.build(release, content=b"x = 2\n")
    farm.settle()
    farm.check()
    assert farm.listed() == before


@pytest.mark.parametrize("others", [[], ["foo-1.0-1-cp311-cp311-linux_armv7l.whl"]])
def test_other_bytes_do_not_get_a_name_that_was_had(farm: Farm, others: list[str]) -> None:
    """Not even when the wheel that had it is gone; that one may come back."""
    release = farm.release()
    first = farm.build(release)
    if others:
        farm.build(release, others[0])
    farm.settle()
    published = (farm.www / f"simple/foo/{WHEEL}").read_bytes()
    with farm.database.begin() as conn:
        conn.execute(delete(builds).where(builds.c.id == first))
    farm.build(release, content=b"x = 2\n")
    for _ in range(2):
        farm.change()
        farm.settle()
        farm.check()
        assert not (farm.www / f"simple/foo/{WHEEL}").exists()
        assert list(farm.listed()) == others if others else not (farm.www / "simple/foo").exists()
    farm.build(release)
    farm.settle()
    farm.check()
    assert set(farm.listed()) == {WHEEL, *others}
    assert (farm.www / f"simple/foo/{WHEEL}").read_bytes() == published


def test_the_same_wheel_built_for_two_targets_is_listed_once(farm: Farm) -> None:
    other = replace(PI, name="trixie-armhf", distribution="trixie", rank=20, id=None)
    with farm.database.begin() as conn:
        other_id = targets.add(conn, other)
    release = farm.release()
    pure = "foo-1.0-py3-none-any.whl"
    farm.build(release, pure)
    farm.build(release, pure, target=other_id)
    farm.settle()
    farm.check()
    assert list(farm.listed()) == [pure]
    assert farm.json("project/foo/json/index.json")["releases"]["1.0"]["files"][pure]["targets"] == [
        "bookworm-armhf",
        "trixie-armhf",
    ]


@pytest.mark.parametrize("column", ["sha256", "metadata_sha256"])
def test_what_the_store_lost_is_not_listed(farm: Farm, column: str, caplog: pytest.LogCaptureFixture) -> None:
    release = farm.release()
    farm.build(release)
    kept = "foo-1.0-1-cp311-cp311-linux_armv7l.whl"
    farm.build(release, kept, content=b"x = 2\n")
    with farm.database.begin() as conn:
        lost = conn.scalar(select(files.c[column]).where(files.c.filename == WHEEL))
        if column == "metadata_sha256":
            lost = farm.store.add_bytes(b"Name: foo")
            conn.execute(update(files).where(files.c.filename == WHEEL).values(metadata_sha256=lost))
    farm.store.path(lost).unlink()
    farm.settle()
    farm.check()
    assert list(farm.listed()) == [kept]
    assert f"{WHEEL} is not listed: the store lacks" in caplog.text


# An index for each distribution

TRIXIE = replace(PI, name="trixie-armhf", distribution="trixie", rank=20, id=None)


def two_distributions(farm: Farm) -> int:
    with farm.database.begin() as conn:
        return targets.add(conn, TRIXIE)


def listed_in(farm: Farm, space: str) -> dict[str, str]:
    found = farm.json(f"{space}/simple/foo/index.v1_json")
    assert {file["url"] for file in found["files"]} == {file["filename"] for file in found["files"]}
    return {file["filename"]: file["hashes"]["sha256"] for file in found["files"]}


def test_each_distribution_has_an_index_of_its_own_wheels(farm: Farm) -> None:
    other = two_distributions(farm)
    release = farm.release()
    second = "foo-1.0-cp313-cp313-linux_armv7l.whl"
    farm.build(release)
    newer = farm.build(release, second, target=other)
    farm.settle()
    assert list(farm.listed()) == [WHEEL, second]
    assert listed_in(farm, "bookworm") == {WHEEL: farm.listed()[WHEEL]}
    assert listed_in(farm, "trixie") == {second: farm.listed()[second]}
    assert farm.names("bookworm/simple/foo") == sorted([WHEEL, f"{WHEEL}.metadata", *TREE])
    assert (farm.www / f"trixie/simple/foo/{second}").samefile(farm.www / f"simple/foo/{second}")
    assert farm.json("trixie/simple/index.v1_json")["projects"] == [{"name": "foo"}]
    farm.change(delete(builds).where(builds.c.id == newer))
    farm.settle()
    assert not (farm.www / "trixie/simple/foo").exists() and list(listed_in(farm, "bookworm")) == [WHEEL]
    assert farm.json("trixie/simple/index.v1_json")["projects"] == []
    farm.change(delete(projects))
    farm.settle()
    assert not (farm.www / "bookworm/simple/foo").exists()


def test_distributions_may_have_different_wheels_of_one_name(farm: Farm) -> None:
    other = two_distributions(farm)
    release = farm.release()
    name = "foo-1.0-cp39-abi3-linux_armv7l.whl"
    farm.build(release, name)
    farm.build(release, name, content=b"x = 2\n", target=other)
    farm.settle()
    farm.change()
    farm.settle()
    assert list(listed_in(farm, "bookworm")) == list(listed_in(farm, "trixie")) == [name]
    assert listed_in(farm, "bookworm") == farm.listed() != listed_in(farm, "trixie")


def test_one_distribution_needs_no_index_of_its_own_unless_the_operator_wants_it(farm: Farm) -> None:
    farm.build(farm.release())
    farm.publisher.start()
    farm.settle()
    assert not (farm.www / "bookworm").exists()
    for wanted in ("yes", "no"):
        farm.settings = replace(farm.settings, publish=PublishSettings(distributions=wanted))
        other = farm.new_publisher()
        other.start()
        farm.settle(other)
        assert (farm.www / "bookworm").exists() == (wanted == "yes")
    farm.check()


def test_the_merged_index_has_pypis_files_and_ours(farm: Farm) -> None:
    farm.settings = replace(farm.settings, publish=PublishSettings(all_index="yes"))
    publisher = farm.new_publisher()
    build_id = farm.build(farm.release())
    farm.release("bar")
    farm.change(mark="bar")
    farm.settle(publisher)
    files = farm.json("all/simple/foo/index.v1_json")["files"]
    assert [file["filename"] for file in files] == ["foo-1.0.tar.gz", "foo-1.0.zip", WHEEL]
    assert files[0]["url"] == "https://files.example.org/foo-1.0.tar.gz" and files[0]["size"] == 1000
    assert (farm.www / "all/simple/foo" / files[2]["url"]).resolve() == farm.www / f"simple/foo/{WHEEL}"
    assert farm.names("all/simple/foo") == TREE
    assert [file["filename"] for file in farm.json("all/simple/bar/index.v1_json")["files"]] == [
        "bar-1.0.tar.gz",
        "bar-1.0.zip",
    ]
    assert farm.json("all/simple/index.v1_json")["projects"] == [{"name": "bar"}, {"name": "foo"}]
    assert farm.json("simple/index.v1_json")["projects"] == [{"name": "foo"}]
    farm.change(delete(builds).where(builds.c.id == build_id))
    farm.settle(publisher)
    assert len(farm.json("all/simple/foo/index.v1_json")["files"]) == 2 and not (farm.www / "simple/foo").exists()
    farm.change(update(upstream_files).where(upstream_files.c.filename == "foo-1.0.zip").values(url=None))
    farm.settle(publisher)
    assert not (farm.www / "all/simple/foo").exists()  # a page without it would be worse than none
    assert farm.json("all/simple/index.v1_json")["projects"] == [{"name": "bar"}]
    farm.settings = replace(farm.settings, publish=PublishSettings())
    publisher = farm.new_publisher()
    publisher.start()
    farm.settle(publisher)
    assert not (farm.www / "all").exists()


def test_what_did_not_change_is_not_rendered(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    release = farm.release()
    farm.build(release)
    farm.settle()
    assert farm.publisher.counts.skipped == 0
    farm.change()
    farm.publisher.step()
    assert farm.publisher.counts.skipped == 1
    changes = (
        update(projects).values(summary="new"),
        update(releases).values(yanked=True),
        update(files).values(requires_python=">=3.9"),
        insert(builds).values(
            release_id=release,
            target_id=farm.target,
            token=uuid4(),
            started=BUILT,
            duration=timedelta(seconds=5),
            outcome=Outcome.FAILED,
            reason=FailureReason.PACKAGE,
        ),
    )
    for number, change in enumerate(changes, 1):
        farm.change(change)
        farm.publisher.step()
        assert farm.publisher.counts.skipped == 1, f"change {number} was not noticed"
    (farm.www / "project/foo/index.html").unlink()  # somebody emptied the tree
    farm.change()
    farm.publisher.step()
    assert (farm.www / "project/foo/index.html").exists()
    (farm.www / "simple/foo/index.html").unlink()  # or a part of it, and asks for a repair
    with farm.database.begin() as conn:
        pages.mark_named(conn, ["foo"], "test")
    farm.publisher.step()
    assert (farm.www / "simple/foo/index.html").exists()


def test_new_settings_render_everything_again(farm: Farm) -> None:
    farm.build(farm.release())
    farm.publisher.start()
    farm.settle()
    farm.settings = replace(farm.settings, farm=FarmSettings(name="Test farm", base_url="https://other.example.org"))
    other = farm.new_publisher()
    other.start()
    farm.settle(other)
    url = farm.json("project/foo/json/index.json")["releases"]["1.0"]["files"][WHEEL]["file_url"]
    assert url.startswith("https://other.example.org/simple/foo/")
    assert b"https://other.example.org/simple/" in (farm.www / "index.html").read_bytes()


def test_the_role_runs_until_it_is_told_to_stop(farm: Farm) -> None:
    context = Context(Role.PUBLISH, farm.settings)
    failed: list[BaseException] = []

    def body() -> None:
        try:
            publish.run(farm.settings, context)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        wait_for(lambda: (farm.www / "simple/index.v1_json").exists(), "the first pages", seconds=30)
        farm.build(farm.release())
        wait_for(lambda: (farm.www / "simple/foo/index.v1_json").exists(), "the project's page", seconds=10)
        home = farm.www / "index.html"
        wait_for(lambda: home.exists() and b"Foo" in home.read_bytes(), "the home page", seconds=20)
    finally:
        context.stop.set()
        thread.join(20)
        context.close()
    assert not thread.is_alive() and not failed
    assert context.state["rendered"] >= 1
