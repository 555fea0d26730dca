# SPDX-License-Identifier: BSD-3-Clause
"""Names and the bytes that they stand for, from builders' hands to the site: rebuilds, twins, what goes and returns."""

import hashlib
import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, delete, select

from piwheels import faults
from piwheels.db import migrate, targets, upstream
from piwheels.db.builds import Entry, Taken
from piwheels.db.tables import builds, dependencies, files, jobs, names
from piwheels.settings import DatabaseSettings
from piwheels.site import writer
from piwheels.vocabulary import FailureReason
from tests.elf import RASPBERRY, elf
from tests.integration.dispatch_world import PI
from tests.integration.dispatch_world import count as rows_of
from tests.integration.names_world import ABI3, TAG, TRIXIE, V6, V7, WHEEL, World, numbered
from tests.integration.publish_world import Killed, serving

pytestmark = pytest.mark.integration


@pytest.fixture
def world(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[World]:
    made = World(database, database_settings, tmp_path)
    yield made
    made.close()


# Rebuilds


def test_a_rebuild_gets_a_number_and_replaces_what_was_there(world: World) -> None:
    release = world.release()
    first, second = (world.wheel(WHEEL, content, V7) for content in (b"x = 1\n", b"x = 2\n"))
    assert world.deliver(release, {WHEEL: first}) == {WHEEL: hashlib.sha256(first).digest()}
    world.settle()
    (made,) = world.deliver(release, {WHEEL: second}).items()
    assert made[0] == numbered(1)
    world.settle()
    world.check()
    assert world.listed() == {WHEEL: hashlib.sha256(first).hexdigest(), made[0]: made[1].hex()}
    found = {file["filename"]: file for file in world.json("simple/foo/index.v1_json")["files"]}
    assert found[WHEEL]["yanked"] == "replaced by build 1" and not found[made[0]].get("yanked")
    assert found[WHEEL]["core-metadata"] == found[made[0]]["core-metadata"]
    assert b'data-yanked="replaced by build 1"' in (world.www / "simple/foo/index.html").read_bytes()
    with zipfile.ZipFile(world.www / "simple/foo" / made[0]) as archive:
        assert b"Build: 1\n" in archive.read("foo-1.0.dist-info/WHEEL")
        assert archive.read("foo/__init__.py") == b"x = 2\n"
    assert list(world.store.incoming.iterdir()) == []


def test_a_third_build_and_the_same_bytes_again(world: World) -> None:
    release = world.release()
    wheels = [world.wheel(WHEEL, b"x = %d\n" % number, V7) for number in range(3)]
    made = [world.deliver(release, {WHEEL: wheel}) for wheel in wheels]
    assert [list(one) for one in made] == [[WHEEL], [numbered(1)], [numbered(2)]]
    bound = world.bound()
    assert [world.deliver(release, {WHEEL: wheel}) for wheel in wheels] == made
    assert world.bound() == bound
    world.settle()
    yanked = {file["filename"]: file.get("yanked") for file in world.json("simple/foo/index.v1_json")["files"]}
    assert yanked == {
        WHEEL: "replaced by build 2",
        numbered(1): "replaced by build 2",
        numbered(2): False,
    }


def test_a_withdrawn_wheel_never_gives_up_its_name(world: World) -> None:
    release = world.release()
    evil, good = (world.wheel(WHEEL, content, V7) for content in (b"evil = 1\n", b"good = 1\n"))
    world.deliver(release, {WHEEL: evil})
    world.settle()
    world.withdraw()
    (made,) = world.deliver(release, {WHEEL: good})
    assert made == numbered(1)
    world.settle()
    world.check()
    assert list(world.listed()) == [made] and not (world.www / "simple/foo" / WHEEL).exists()
    world.withdraw()
    assert list(world.deliver(release, {WHEEL: good})) == [made]  # the same bytes by another builder
    assert list(world.deliver(release, {WHEEL: evil})) == [WHEEL]


def test_a_name_outlives_its_project(world: World) -> None:
    wheels = [world.wheel(WHEEL, content, V7) for content in (b"x = 1\n", b"x = 2\n")]
    world.deliver(world.release(), {WHEEL: wheels[0]})
    world.settle()
    with world.database.begin() as conn:
        assert upstream.delete_project(conn, "foo")
    world.settle()
    assert not (world.www / "simple/foo").exists()
    release = world.release()
    assert list(world.deliver(release, {WHEEL: wheels[1]})) == [numbered(1)]
    assert list(world.deliver(release, {WHEEL: wheels[0]})) == [WHEEL]
    world.settle()
    world.check()
    assert world.listed()[WHEEL] == hashlib.sha256(wheels[0]).hexdigest()


def test_a_number_of_the_builders_own_is_minded(world: World) -> None:
    release, own = world.release(), f"foo-1.0-7-{TAG}.whl"
    for content, expected in ((b"x = 1\n", own), (b"x = 2\n", numbered(8)), (b"x = 3\n", numbered(9))):
        assert list(world.deliver(release, {own: world.wheel(own, content, V7)})) == [expected]


def test_several_wheels_of_one_build(world: World) -> None:
    release, pure = world.release(), "foo-1.0-py3-none-any.whl"
    build = [
        {WHEEL: world.wheel(WHEEL, c, V7), pure: world.wheel(pure, b"pure = 1\n")} for c in (b"x = 1\n", b"x = 2\n")
    ]
    assert set(world.deliver(release, build[0])) == {WHEEL, pure}
    assert set(world.deliver(release, build[1])) == {numbered(1), pure}


def test_installers_take_the_rebuild_and_lock_files_what_they_name(world: World) -> None:
    release, pure, tool = world.release(), "foo-1.0-py3-none-any.whl", [sys.executable, "-m"]
    first = world.wheel(pure, b"x = 1\n")
    world.deliver(release, {pure: first})
    world.deliver(release, {pure: world.wheel(pure, b"x = 2\n")})
    with world.database.begin() as conn:
        conn.execute(delete(dependencies))
    world.settle()
    pinned = world.work / "pinned.txt"
    pinned.write_text(f"foo==1.0 --hash=sha256:{hashlib.sha256(first).hexdigest()}\n")
    pip = [*tool, "pip", "--isolated", "--no-input", "install", "--no-deps", "--no-cache-dir", "--no-compile"]
    uv = [*tool, "uv", "--no-config", "--no-cache", "pip", "install", "--no-deps", "--python", sys.executable]
    with serving(world.www) as url:
        for name, command in (("pip", [*pip, "--index-url"]), ("uv", [*uv, "--default-index"])):
            for number, wanted in ((2, ["foo"]), (1, ["--require-hashes", "-r", str(pinned)])):
                place = world.work / f"{name}{number}"
                words = [*command, f"{url}/simple/", "--target", str(place), *wanted]
                subprocess.run(words, check=True, timeout=120, capture_output=True)
                assert (place / "foo/__init__.py").read_text() == f"x = {number}\n", name


# Races and kills


@pytest.fixture
def sibling(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """Another target of the same distribution. It is served by what is built for the first, so that the planner would
    end a build for it; here nobody does."""
    monkeypatch.setattr("piwheels.db.builds.replan", lambda *args, **values: None)
    with world.database.begin() as conn:
        return targets.add(conn, replace(PI, name="another", rank=30))


def test_two_builds_that_want_the_same_number_both_get_one(world: World, sibling: int) -> None:
    """Both looked before either was recorded, and both are recorded at the same time."""
    release = world.release()
    world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 0\n", V7)})
    entries = []
    for number, target in enumerate((world.target, sibling), 1):
        wheel = world.wheel(WHEEL, b"x = %d\n" % number, V7)
        result = world.result(world.lease(release, target), {WHEEL: wheel})
        entries.append(world.clerk.rename(world.clerk.prepare([result]))[0])
    assert {entry.result.files[0].filename for entry in entries} == {numbered(1)}
    start = threading.Barrier(2)
    errors: list[BaseException] = []

    def record(entry: Entry) -> None:
        try:
            start.wait(10)
            world.clerk.record(entry.result)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=record, args=[entry]) for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    made = [world.recorded(entry.result.lease) for entry in entries]
    assert {name for one in made for name in one} == {numbered(1), numbered(2)}
    assert rows_of(world.database, builds) == 3
    world.settle()
    world.check()
    assert set(world.listed()) == {WHEEL, numbered(1), numbered(2)}


def test_killed_at_each_point_of_publishing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then back, with the same bytes."""
    monkeypatch.setattr(writer.os, "fsync", lambda descriptor: None)
    stories = ("added", "withdrawn", "deleted")
    for number, (story, point) in enumerate(product(stories, ("linked", "unlisted", "published"))):
        project = f"p{number}"
        release = world.release(project)
        wheel, other = (f"{project}-1.0-cp311-cp311-linux_{machine}.whl" for machine in ("armv7l", "armv6l"))
        native = {f"{project}/native.so": elf(RASPBERRY)}
        first, second = (world.wheel(wheel, content, native) for content in (b"x = 1\n", b"x = 2\n"))
        made = world.deliver(release, {wheel: first})
        world.settle()
        before = world.listed(project)
        assert before.keys() == {wheel, other}
        match story:
            case "added":
                world.deliver(release, {wheel: second})
            case "withdrawn":
                world.withdraw()
            case "deleted":
                with world.database.begin() as conn:
                    upstream.delete_project(conn, project)
        assert killed_at(point, world) or (story, point) == ("deleted", "linked")
        world.check()  # nothing is listed that is not there
        world.publisher.start()
        world.settle()
        world.check()
        if story == "added":
            assert before.items() < world.listed(project).items()
        else:
            assert not (world.www / "simple" / project).exists()
        release = world.release(project) if story == "deleted" else release
        assert world.deliver(release, {wheel: first}) == made
        world.settle()
        world.check()
        assert before.items() <= world.listed(project).items()


def killed_at(point: str, world: World) -> bool:
    """Publish, and be killed there; False: it was not passed."""

    def kill(name: str) -> bool:
        if name == point:
            raise Killed
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "point", kill)
        try:
            world.publisher.step()
        except Killed:
            return True
    return False


def test_two_in_one_transaction(world: World, sibling: int) -> None:
    release = world.release()
    results = [
        world.result(world.lease(release, target), {WHEEL: world.wheel(WHEEL, content, V7)})
        for target, content in ((world.target, b"x = 1\n"), (sibling, b"x = 2\n"))
    ]
    todo = world.clerk.prepare(results)
    rounds = 0
    while todo:
        rounds += 1
        done = world.clerk.commit(todo)
        todo = world.clerk.rename([e for e, answer in zip(todo, done, strict=True) if isinstance(answer, Taken)])
    assert rounds == 2
    assert [list(world.recorded(result.lease)) for result in results] == [[WHEEL], [numbered(1)]]


def test_a_full_disk_while_a_wheel_is_renamed(world: World) -> None:
    """The build comes back later; its name is nobody's meanwhile."""
    release = world.release()
    world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 1\n", V7)})
    world.withdraw()
    lease = world.lease(release, world.target)
    result = world.result(lease, {WHEEL: world.wheel(WHEEL, b"x = 2\n", V7)})
    faults.arm({faults.VARIABLE: "renamed=enospc"})
    try:
        world.clerk.record(result)
    finally:
        faults.arm({})
    with world.database.begin() as conn:
        failed = conn.execute(select(builds).where(builds.c.token == lease.token)).one()
        assert conn.execute(select(jobs.c.strikes)).scalars().all() == [1]
    assert failed.reason is FailureReason.BUILDER and "No space left on device" in failed.detail
    assert list(world.store.incoming.iterdir()) == []
    assert {name for _, name in world.bound()} == {WHEEL}
    assert list(world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 2\n", V7)})) == [numbered(1)]


def test_a_wheel_that_cannot_be_renamed(world: World) -> None:
    release = world.release()
    world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 1\n", V7)})
    broken = io.BytesIO(world.wheel(WHEEL, b"x = 3\n", V7))
    with zipfile.ZipFile(broken) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}
    with zipfile.ZipFile(broken := io.BytesIO(), "w") as archive:
        for name, data in {**kept, "foo-1.0.dist-info/RECORD": b"\xff"}.items():
            archive.writestr(name, data)
    lease = world.lease(release, world.target)
    world.clerk.record(world.result(lease, {WHEEL: broken.getvalue()}))
    with world.database.begin() as conn:
        failed = conn.execute(select(builds).where(builds.c.token == lease.token)).one()
    assert failed.reason is FailureReason.BUILDER and "RECORD cannot be read" in failed.detail


# Spaces


def test_each_distribution_has_its_own_bytes_and_the_main_index_the_first(world: World) -> None:
    with world.database.begin() as conn:
        trixie = targets.add(conn, TRIXIE)
    release = world.release()
    wheels = {n: world.wheel(ABI3, b"x = %d\n" % n, V7) for n in range(1, 5)}
    hashes = {n: hashlib.sha256(wheel).digest() for n, wheel in wheels.items()}
    assert world.deliver(release, {ABI3: wheels[1]}) == {ABI3: hashes[1]}
    assert world.deliver(release, {ABI3: wheels[2]}, trixie) == {ABI3: hashes[2]}
    assert world.bound() == {("", ABI3): hashes[1], ("bookworm", ABI3): hashes[1], ("trixie", ABI3): hashes[2]}
    world.settle()
    assert world.listed() == {ABI3: hashes[1].hex()}

    one = numbered(1, "cp311-abi3-linux_armv7l")
    assert list(world.deliver(release, {ABI3: wheels[3]}, trixie)) == [one]
    world.settle()
    assert world.listed() == {ABI3: hashes[1].hex()}  # trixie's would be preferred on bookworm, and not run there
    assert ("", one) not in world.bound()

    assert list(world.deliver(release, {ABI3: wheels[4]})) == [one]  # bookworm's first rebuild
    world.settle()
    world.check()
    assert set(world.listed()) == {ABI3, one}
    assert world.bound()["", one] == world.bound()["bookworm", one] != world.bound()["trixie", one]


def test_a_target_without_a_distribution_has_the_main_index(world: World) -> None:
    with world.database.begin() as conn:
        nameless = targets.add(conn, replace(PI, name="nameless", distribution="", rank=40))
    release = world.release()
    world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 1\n", V7)})
    assert list(world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 2\n", V7)}, nameless)) == [numbered(1)]
    assert set(world.bound()) == {("", WHEEL), ("bookworm", WHEEL), ("", numbered(1))}


# Twins


def test_a_wheel_for_armv6_has_a_twin(world: World) -> None:
    release = world.release()
    twin = WHEEL.replace("armv7l", "armv6l")
    made = world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 1\n", V6)})
    assert set(made) == {WHEEL, twin} and made[WHEEL] != made[twin]
    world.settle()
    world.check()
    found = {file["filename"]: file for file in world.json("simple/foo/index.v1_json")["files"]}
    assert set(found) == {WHEEL, twin} and found[WHEEL]["core-metadata"] == found[twin]["core-metadata"]
    with zipfile.ZipFile(world.www / "simple/foo" / twin) as archive:
        assert archive.read("foo-1.0.dist-info/WHEEL").splitlines()[-1] == b"Tag: cp311-cp311-linux_armv6l"
    files_of = world.json("project/foo/json/index.json")["releases"]["1.0"]["files"]
    assert files_of[twin]["platform"] == "linux_armv6l"
    assert files_of[twin]["apt_dependencies"] == files_of[WHEEL]["apt_dependencies"] == ["libc6"]
    again = world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 2\n", V6)})
    assert set(again) == {numbered(1), numbered(1, "cp311-cp311-linux_armv6l")}
    world.settle()
    world.check()
    yanked = {file["filename"] for file in world.json("simple/foo/index.v1_json")["files"] if file.get("yanked")}
    assert yanked == {WHEEL, twin}


def test_only_where_it_runs_there(world: World) -> None:
    release = world.release()
    assert list(world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 1\n", V7)})) == [WHEEL]
    pure = "foo-1.0-py3-none-any.whl"
    assert list(world.deliver(release, {pure: world.wheel(pure, b"x = 1\n")})) == [pure]
    bare = "foo-1.0-py3-none-linux_armv7l.whl"
    made = world.deliver(release, {bare: world.wheel(bare, b"x = 1\n")})  # no code at all
    assert set(made) == {bare, bare.replace("armv7l", "armv6l")}


# The site


def test_what_an_older_piwheels_recorded_is_bound_before_it_is_listed(world: World) -> None:
    release = world.release()
    world.build(release, content=b"x = 1\n")
    world.build(release, content=b"x = 2\n")
    assert world.bound() == {}
    world.settle()
    world.check()
    (first,) = world.listed().values()
    assert world.bound() == {("", WHEEL): bytes.fromhex(first), ("bookworm", WHEEL): bytes.fromhex(first)}
    with world.database.begin() as conn:
        oldest = select(files.c.sha256).order_by(files.c.id).limit(1)
        assert bytes(conn.execute(oldest).scalar_one()).hex() == first


def test_a_database_that_knows_less_than_the_tree_gives_no_name_away(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It was restored from a backup: builds and names that were published since are unknown to it."""
    release = world.release()
    world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 1\n", V7)})
    world.settle()
    published = (world.www / "simple/foo" / WHEEL).read_bytes()
    with world.database.begin() as conn:
        conn.execute(delete(builds))
        conn.execute(delete(names))
    world.deliver(release, {WHEEL: world.wheel(WHEEL, b"x = 2\n", V7)})
    for _ in range(2):
        world.change()
        world.settle()
        world.check()
        assert (world.www / "simple/foo" / WHEEL).read_bytes() == published
    assert f"{WHEEL} is published with other bytes" in caplog.text


def test_the_migration_binds_what_there_is(empty_database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    every = migrate.migrations()
    monkeypatch.setattr(migrate, "migrations", lambda: every[:9])
    migrate.upgrade(empty_database)
    with psycopg.connect(empty_database.url, autocommit=True) as conn:
        conn.execute(OLD_ROWS)
    monkeypatch.setattr(migrate, "migrations", lambda: every)
    migrate.upgrade(empty_database)
    with psycopg.connect(empty_database.url) as conn:
        rows = conn.execute("SELECT space, filename, sha256, made_of FROM names ORDER BY 2, 1").fetchall()
    assert [(space, name, sha256[0]) for space, name, sha256, _ in rows] == [
        ("", "a-1-py3-none-any.whl", 1),
        ("bookworm", "a-1-py3-none-any.whl", 1),
        ("trixie", "a-1-py3-none-any.whl", 2),
        ("", "b-1-py3-none-any.whl", 4),
        ("", "c-1-py3-none-any.whl", 6),
        ("bookworm", "c-1-py3-none-any.whl", 6),
    ]
    assert all(sha256 == made_of for _, _, sha256, made_of in rows)


OLD_ROWS = """
    INSERT INTO projects (name, display_name) VALUES ('a', 'a');
    INSERT INTO releases (project_id, version, sort_key, released) VALUES (1, '1', '', now());
    INSERT INTO targets (name, python_version, abi, platform, platforms, distribution, rank) VALUES
        ('one', '3.11', 'cp311', 'linux_armv7l', '{linux_armv7l}', 'bookworm', 1),
        ('two', '3.13', 'cp313', 'linux_armv7l', '{linux_armv7l}', 'trixie', 2),
        ('three', '3.13', 'cp313', 'linux_x86_64', '{linux_x86_64}', '', 3);
    INSERT INTO builds (release_id, target_id, token, started, duration, outcome)
        SELECT 1, t, gen_random_uuid(), now(), '1 s', 'success' FROM unnest('{1,2,1,3,1}'::int[]) AS t;
    INSERT INTO files (build_id, filename, size, sha256, metadata_sha256)
        SELECT b, n || '-1-py3-none-any.whl', 1, decode(repeat('0' || c, 32), 'hex'), decode(repeat('00', 32), 'hex')
        FROM (VALUES (1, 'a', 1), (2, 'a', 2), (3, 'a', 3), (4, 'b', 4)) AS x(b, n, c) ORDER BY b;
    INSERT INTO withdrawn (build_id, filename, size, sha256)
        SELECT 5, n || '-1-py3-none-any.whl', 1, decode(repeat('0' || c, 32), 'hex')
        FROM (VALUES ('a', 5), ('c', 6)) AS x(n, c);
"""
