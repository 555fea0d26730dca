# SPDX-License-Identifier: BSD-3-Clause
"""The publish role killed, stopped, failing and shared by several workers: it always gets there, and is never wrong."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select, text, update

from piwheels import durable, faults
from piwheels.db import pages
from piwheels.db.tables import builds, projects, published, releases
from piwheels.db.tables import pages as pages_table
from piwheels.master import placing, publish
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.settings import DatabaseSettings, Settings
from piwheels.site import writer
from piwheels.vocabulary import ProjectStatus, Role
from tests.integration.publish_world import WHEEL, Farm, Killed

pytestmark = pytest.mark.integration


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[Farm]:
    made = Farm(database, database_settings, tmp_path)
    yield made
    made.close()


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
