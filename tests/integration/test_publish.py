# SPDX-License-Identifier: BSD-3-Clause
"""The publish role against a real database and disk: what it writes, in which order, and that it always gets there."""

import asyncio
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import test_utils
from jsonschema import Draft202012Validator
from sqlalchemy import Engine, delete, func, insert, select, text, update

from piwheels import durable, faults
from piwheels.db import pages, targets
from piwheels.db.tables import builds, dependencies, files, listings, projects, published, releases, upstream_files
from piwheels.db.tables import pages as pages_table
from piwheels.master import placing, publish
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.master.store import Store
from piwheels.settings import DatabaseSettings, FarmSettings, PathSettings, PublishSettings, Settings
from piwheels.site import writer
from piwheels.site.web import application
from piwheels.vocabulary import DependencyTool, FailureReason, Outcome, PageKind, ProjectStatus, Role
from tests.integration.dispatch_world import PI, add_release
from tests.waiting import wait_for
from tests.wheels import make_wheel, metadata_text

pytestmark = pytest.mark.integration

BUILT = datetime(2026, 11, 1, 12, 0, 0, 5, tzinfo=UTC)


class Farm:
    """Rows, a store and a publisher."""

    def __init__(self, database: Engine, settings: DatabaseSettings, root: Path) -> None:
        self.database = database
        self.settings = Settings(
            farm=FarmSettings(name="Test farm", base_url="http://127.0.0.1:8080"),
            database=settings,
            paths=PathSettings(output=root / "www", store=root / "store", run=root / "run", keys=root / "keys"),
        )
        self.work = root
        self.www = root / "www"
        self.store = Store(root / "store")
        self.store.prepare()
        self.contexts: list[Context] = []
        self.made: dict[tuple[str, bytes], bytes] = {}  # zip files hold the time: what is built again has to be kept
        with database.begin() as conn:
            self.target = targets.add(conn, PI)
        self.publisher = self.new_publisher()

    def new_publisher(self, index: int = 1) -> Publisher:
        context = Context(Role.PUBLISH, self.settings, index=index)
        self.contexts.append(context)
        return Publisher(self.settings, context)

    def close(self) -> None:
        for context in self.contexts:
            context.close()

    def release(self, project: str = "foo", version: str = "1.0") -> int:
        with self.database.begin() as conn:
            return add_release(conn, project, version)

    def build(
        self,
        release_id: int,
        filename: str = "foo-1.0-cp311-cp311-linux_armv7l.whl",
        *,
        content: bytes = b"x = 1\n",
        target: int | None = None,
    ) -> int:
        """Record a build of one wheel, as dispatch does: bytes into the store, rows, the page marked."""
        name, version = filename.split("-")[:2]
        metadata = metadata_text(name, version, "Requires-Python: >=3.8")
        if (filename, content) not in self.made:
            members, tags = {f"{name}/__init__.py": content}, ["cp311-cp311-linux_armv7l"]
            dist_info = f"{name}-{version}.dist-info"
            path = make_wheel(self.work, filename, members=members, metadata=metadata, tags=tags, dist_info=dist_info)
            self.made[filename, content] = path.read_bytes()
        data = self.made[filename, content]
        sha256, metadata_sha256 = self.store.add_bytes(data), self.store.add_bytes(metadata)
        with self.database.begin() as conn:
            build_id: int = conn.execute(
                insert(builds)
                .values(
                    release_id=release_id,
                    target_id=target or self.target,
                    token=uuid4(),
                    started=BUILT,
                    finished=BUILT,
                    duration=timedelta(seconds=5),
                    outcome=Outcome.SUCCESS,
                    has_log=True,
                )
                .returning(builds.c.id)
            ).scalar_one()
            file_id = conn.execute(
                insert(files)
                .values(
                    build_id=build_id,
                    filename=filename,
                    size=len(data),
                    sha256=sha256,
                    metadata_sha256=metadata_sha256,
                    requires_python=">=3.8",
                    uploaded=BUILT,
                )
                .returning(files.c.id)
            ).scalar_one()
            for tool, needed in ((DependencyTool.APT, "libopenblas0"), (DependencyTool.PIP, "numpy")):
                conn.execute(insert(dependencies).values(file_id=file_id, tool=tool, name=needed))
            pages.mark_stale(conn, PageKind.PROJECT, name, "build")
        return build_id

    def change(self, *statements: object, mark: str = "foo") -> None:
        with self.database.begin() as conn:
            for statement in statements:
                conn.execute(statement)  # type: ignore[call-overload]
            pages.mark_stale(conn, PageKind.PROJECT, mark, "changed")

    def settle(self, publisher: Publisher | None = None) -> None:
        """Publish until no page is stale, letting time pass for those that wait."""
        for _ in range(50):
            (publisher or self.publisher).step()
            with self.database.begin() as conn:
                if not pages.stale_count(conn):
                    return
                earlier = timedelta(minutes=10)
                conn.execute(
                    update(pages_table).values(
                        since=pages_table.c.since - earlier, claimed_until=pages_table.c.claimed_until - earlier
                    )
                )
                conn.execute(delete(listings))
        raise AssertionError("pages stay stale")

    def json(self, path: str) -> dict:  # type: ignore[type-arg]
        found: dict = json.loads((self.www / path).read_bytes())  # type: ignore[type-arg]
        return found

    def listed(self, project: str = "foo") -> dict[str, str]:
        """File name → SHA-256, as the index has it."""
        return {f["filename"]: f["hashes"]["sha256"] for f in self.json(f"simple/{project}/index.v1_json")["files"]}

    def names(self, path: str = "simple/foo") -> list[str]:
        return sorted(p.name for p in (self.www / path).iterdir())

    def check(self) -> None:
        """Whatever is advertised, anywhere in the tree, is there with its bytes, and HTML and JSON list the same."""
        root = self.www / "simple"
        for page in root.glob("*/index.v1_json"):
            found = json.loads(page.read_bytes())
            assert found["files"], "an empty page"
            for file in found["files"]:
                wheel = page.parent / file["filename"]
                assert hashlib.sha256(wheel.read_bytes()).hexdigest() == file["hashes"]["sha256"]
                assert wheel.stat().st_size == file["size"]
                metadata = page.parent / f"{file['filename']}.metadata"
                assert hashlib.sha256(metadata.read_bytes()).hexdigest() == file["core-metadata"]["sha256"]
                inside = zipfile.ZipFile(wheel)
                (name,) = (n for n in inside.namelist() if n.endswith(".dist-info/METADATA"))
                assert inside.read(name) == metadata.read_bytes()
                inside.close()


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[Farm]:
    made = Farm(database, database_settings, tmp_path)
    yield made
    made.close()


WHEEL = "foo-1.0-cp311-cp311-linux_armv7l.whl"
TREE = ["index.html", "index.v1_html", "index.v1_json"]


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


class serving:
    """piw-web's application on a thread, for clients of other processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> str:
        self.thread.start()
        self.server = test_utils.TestServer(application(self.root))
        asyncio.run_coroutine_threadsafe(self.server.start_server(), self.loop).result(30)
        return str(self.server.make_url("/")).rstrip("/")

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()


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


# Order, kills, faults, several workers


class Killed(BaseException):
    """As kill -9: nothing of ours runs afterwards."""


def disk_steps(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> None:
    """Call ``before`` with a running number ahead of every change of the disk that the publisher makes."""
    number = 0

    def count(real: Callable[..., object], *args: object, **values: object) -> object:
        nonlocal number
        number += 1
        before(number)
        return real(*args, **values)

    for owner, name in (
        (writer.os, "link"),
        (writer, "_write_temporary"),
        (writer, "sync_directory"),
        (placing, "sync_directory"),
        (writer.os, "replace"),
        (writer.os, "unlink"),
        (writer.os, "mkdir"),
        (writer.os, "rmdir"),
    ):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, real=real, **v: count(real, *a, **v))
    monkeypatch.setattr(durable, "_in_parallel", lambda call, given: [call(one) for one in given])


@pytest.mark.parametrize("story", ["first", "added", "replaced", "emptied"])
def test_killed_at_any_step_the_site_is_right_and_gets_done(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, story: str
) -> None:
    release = farm.release()
    other = "foo-1.0-1-cp311-cp311-linux_armv7l.whl"

    def tell() -> None:
        with farm.database.begin() as conn:
            conn.execute(delete(builds))
        if story != "emptied":
            farm.build(release, other, content=b"x = 2\n")
        if story == "added":
            farm.build(release)
        farm.change()

    monkeypatch.setattr(writer.os, "fsync", lambda descriptor: None)  # no machine fails here, only the process
    step, finished = 0, False
    while not finished:
        step += 1
        with farm.database.begin() as conn:  # from the beginning
            conn.execute(delete(builds))
        if story == "first":
            farm.change(update(projects).values(status=ProjectStatus.QUARANTINED))
        else:
            farm.build(release)
        farm.settle()
        farm.change(update(projects).values(status=ProjectStatus.ACTIVE))
        tell()

        def look(number: int, last: int = step) -> None:
            farm.check()  # what a reader may see between any two changes
            if number == last:
                raise Killed

        with monkeypatch.context() as patch:
            disk_steps(patch, look)
            try:
                farm.publisher.step()
                finished = True
            except Killed:
                pass
        farm.check()
        farm.publisher.start()  # as its successor does
        farm.settle()
        farm.check()
        if story == "emptied":
            assert not (farm.www / "simple/foo").exists()
        else:
            assert set(farm.listed()) == {other, *([WHEEL] if story == "added" else [])}
            assert not [name for name in farm.names() if name.endswith(".tmp")]
        assert step < 100
    assert step > 10


def test_a_change_while_the_page_is_rendered_is_published_next(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    release = farm.release()
    farm.build(release)
    other = "foo-1.0-1-cp311-cp311-linux_armv7l.whl"
    real = publish.project_files.render

    def meanwhile(*args: object) -> object:
        monkeypatch.setattr(publish.project_files, "render", real)
        farm.build(release, other, content=b"x = 2\n")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(publish.project_files, "render", meanwhile)
    farm.publisher.step()
    assert set(farm.listed()) == {WHEEL}
    farm.publisher.step()
    assert set(farm.listed()) == {WHEEL, other}


def test_one_page_that_fails_holds_up_no_other(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.build(farm.release())
    farm.build(farm.release("bar"), "bar-1.0-py3-none-any.whl")
    real = publish.project_files.render

    def broken(page: object, *args: object) -> object:
        if page.name == "foo":  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device")
        return real(page, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(publish.project_files, "render", broken)
        farm.publisher.step()
    assert list(farm.listed("bar")) == ["bar-1.0-py3-none-any.whl"]
    with farm.database.begin() as conn:
        row = conn.execute(select(pages_table).where(pages_table.c.key == "foo")).one()
    assert row.attempts == 1 and row.claimed_by is None and "No space left" in row.reason
    farm.settle()
    assert (farm.www / "project/foo/index.html").exists()


def test_two_workers_never_write_one_project_at_the_same_time(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the page locked although the first one's claim has run out, and leaves it."""
    farm.build(farm.release())
    second = farm.new_publisher(index=2)
    real = publish.project_files.render
    written: list[str] = []

    def slow(*args: object) -> object:
        if not written:
            written.append("first")
            with farm.database.begin() as conn:
                conn.execute(update(pages_table).values(claimed_until=datetime.now(UTC) - timedelta(seconds=1)))
            assert second.step()  # claims it, but may not touch it
            assert second.counts.rendered == 0
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(publish.project_files, "render", slow)
    farm.publisher.step()
    farm.settle(second)
    farm.check()
    assert list(farm.listed()) == [WHEEL]


def test_of_four_workers_two_are_killed_in_the_middle(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes; each of the two ends by SIGKILL with a batch in hand: linked, and written but not noted."""
    names = [f"p{number}" for number in range(24)]
    for name in names:
        farm.build(farm.release(name), f"{name}-1.0-py3-none-any.whl")
    monkeypatch.setattr(publish, "BATCH", 3)
    context = multiprocessing.get_context("fork")
    ends = []
    for pair in (((1, "linked=kill"), (2, "published=kill")), ((3, ""), (4, ""))):  # each of the first has a batch
        workers = [context.Process(target=_work_in_a_process, args=(farm.settings, *one)) for one in pair]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        ends += [worker.exitcode for worker in workers]
    assert ends == [-9, -9, 0, 0]
    for index in (1, 2):  # their successors
        successor = farm.new_publisher(index=index)
        successor.start()
        farm.settle(successor)
    farm.check()
    assert farm.json("simple/index.v1_json")["projects"] == [{"name": name} for name in sorted(names)]
    with farm.database.begin() as conn:
        assert conn.scalar(select(func.count()).select_from(published).where(published.c.listed)) == len(names)


def test_one_that_stood_still_writes_over_nobody(farm: Farm) -> None:
    """It loses its database session, and with it whatever it had locked there, and goes on when others have worked."""
    release = farm.release()
    farm.build(release)
    farm.settle()
    farm.change(update(releases).values(yanked=True, yanked_reason="old"))
    context = multiprocessing.get_context("fork")
    sleeper = context.Process(target=_work_in_a_process, args=(farm.settings, 5, "linked=stop"))
    sleeper.start()
    assert sleeper.pid is not None
    os.waitpid(sleeper.pid, os.WUNTRACED)  # it stands there, wheels linked and pages not written
    try:
        with farm.database.begin() as conn:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            conn.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
            conn.execute(update(pages_table).values(claimed_until=func.now() - timedelta(hours=1)))
        other = "foo-1.0-1-cp311-cp311-linux_armv7l.whl"
        farm.build(release, other, content=b"x = 2\n")
        farm.change(update(releases).values(yanked=False))
        farm.publisher.step()
        assert set(farm.listed()) == {WHEEL}  # it left the page alone, for a moment
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.join(60)
    farm.settle()
    farm.check()
    assert set(farm.listed()) == {WHEEL, other}
    listed = {file["filename"]: file["yanked"] for file in farm.json("simple/foo/index.v1_json")["files"]}
    assert listed == {WHEEL: "replaced by build 1", other: False}


def test_after_a_kill_all_is_written_though_the_rows_are_as_they_were(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.build(farm.release())
    farm.settle()

    def kill(*_: object) -> None:
        raise Killed

    farm.change(update(releases).values(yanked=True))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pages, "note_published", kill)
        farm.publisher.step()
    assert farm.json("simple/foo/index.v1_json")["files"][0]["yanked"]
    farm.change(update(releases).values(yanked=False))
    farm.settle()
    assert not farm.json("simple/foo/index.v1_json")["files"][0]["yanked"]


def _work_in_a_process(settings: Settings, index: int, fault: str) -> None:
    faults.arm({"PIWHEELS_FAULTS": fault})
    durable._syncers.cache_clear()  # its threads stayed behind
    context = Context(Role.PUBLISH, settings, index=index)
    publisher = Publisher(settings, context)
    publisher.start()
    for _ in range(20):
        publisher.step()
    os._exit(0)


def test_many_workers_share_the_work(farm: Farm) -> None:
    for number in range(12):
        farm.build(farm.release(f"p{number}"), f"p{number}-1.0-py3-none-any.whl")
    workers = [farm.new_publisher(index=index) for index in (1, 2, 3)]
    threads = [threading.Thread(target=lambda w=worker: [w.step() for _ in range(4)]) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    farm.settle()
    farm.check()
    assert len(farm.json("simple/index.v1_json")["projects"]) == 12
    assert sum(worker.counts.failed for worker in workers) == 0


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
