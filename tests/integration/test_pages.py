# SPDX-License-Identifier: BSD-3-Clause
"""Stale pages as rows: marks coalesce, are never lost, and are handed to one worker at a time."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert, select, text, update

from piwheels.db import page_facts, pages
from piwheels.db.tables import download_days, published
from piwheels.db.tables import pages as table
from piwheels.db.wake import PAGES, Listener
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import PageKind
from tests.integration.dispatch_world import add_release

pytestmark = pytest.mark.integration

PROJECT = PageKind.PROJECT


def mark(database: Engine, key: str = "foo", kind: PageKind = PROJECT) -> None:
    with database.begin() as conn:
        pages.mark_stale(conn, kind, key, "test")


def take(database: Engine, worker: str = "one", limit: int = 10) -> list[pages.Claim]:
    with database.begin() as conn:
        return pages.claim(conn, worker, limit=limit)


def age(database: Engine, by: timedelta) -> None:
    """Let time pass for all pages."""
    with database.begin() as conn:
        conn.execute(update(table).values(since=table.c.since - by, claimed_until=table.c.claimed_until - by))


def count(database: Engine) -> int:
    with database.begin() as conn:
        return pages.stale_count(conn)


def finish(database: Engine, claim: pages.Claim, worker: str = "one") -> bool:
    """Whether the page is done with."""
    with database.begin() as conn:
        return not pages.finish(conn, worker, [claim])


def test_marks_coalesce_and_a_finished_page_is_gone(database: Engine) -> None:
    for _ in range(3):
        mark(database)
    assert count(database) == 1
    (claim,) = take(database)
    assert (claim.kind, claim.key, claim.seq) == (PROJECT, "foo", 3)
    assert finish(database, claim)
    assert count(database) == 0


def test_a_mark_during_rendering_is_not_lost(database: Engine) -> None:
    mark(database)
    (claim,) = take(database)
    mark(database)
    assert take(database, "two") == []  # still in the first one's hands
    assert not finish(database, claim)
    (again,) = take(database, "two")
    assert again.seq == 2
    assert finish(database, again, "two")
    assert count(database) == 0


def test_a_mark_that_commits_after_the_page_was_finished_stays(database: Engine) -> None:
    """The marking transaction waits for the row, or the finishing one does; in both orders the mark survives."""
    mark(database)
    (claim,) = take(database)
    done = threading.Event()
    with database.begin() as conn:
        assert not pages.finish(conn, "one", [claim])
        marker = threading.Thread(target=lambda: (mark(database), done.set()))
        marker.start()
        assert not done.wait(0.2)
    marker.join(10)
    (fresh,) = take(database, "two")
    assert not finish(database, claim)  # the first claim has no say in the new row, though it counts 1 again
    assert count(database) == 1
    assert finish(database, fresh, "two")


def test_pages_are_claimed_once_and_longest_stale_first(database: Engine) -> None:
    for key in ("a", "b", "c"):
        mark(database, key)
        age(database, timedelta(seconds=10))
    assert [claim.key for claim in take(database, "one", limit=2)] == ["a", "b"]
    assert [claim.key for claim in take(database, "two")] == ["c"]
    assert take(database, "three") == []


def test_two_workers_claim_at_the_same_time_without_waiting(database: Engine) -> None:
    mark(database, "a")
    mark(database, "b")
    with database.begin() as one, database.begin() as two:
        first = pages.claim(one, "one", limit=1)
        second = pages.claim(two, "two", limit=2)
    assert {claim.key for claim in first + second} == {"a", "b"}
    assert len(first) == len(second) == 1


def test_a_claim_expires_and_the_late_worker_finishes_nothing(database: Engine) -> None:
    mark(database)
    (late,) = take(database)
    age(database, pages.HOLD)
    (claim,) = take(database, "two")
    assert not finish(database, late)
    assert count(database) == 1
    assert finish(database, claim, "two")


def test_a_restarted_worker_takes_up_what_it_left(database: Engine) -> None:
    for key in ("a", "b"):
        mark(database, key)
    take(database, limit=1)
    take(database, "two")
    with database.begin() as conn:
        assert pages.release_claims(conn, "one") == 1
    assert [claim.key for claim in take(database)] == ["a"]


def test_a_page_that_cannot_be_rendered_waits_longer_each_time(database: Engine) -> None:
    mark(database)
    waits = []
    for _ in range(10):
        (claim,) = take(database)
        with database.begin() as conn:
            waits.append(pages.failed(conn, "one", claim, "disk full"))
        assert take(database) == []
        age(database, waits[-1])
    assert waits[:3] == [timedelta(seconds=2), timedelta(seconds=4), timedelta(seconds=8)]
    assert waits[-1] == pages.LONGEST_RETRY


def test_a_new_mark_ends_the_wait(database: Engine) -> None:
    mark(database)
    (claim,) = take(database)
    with database.begin() as conn:
        pages.failed(conn, "one", claim, "disk full")
    mark(database)
    (claim,) = take(database)
    assert claim.attempts == 0
    mark(database)  # while it is rendered, in vain
    with database.begin() as conn:
        pages.failed(conn, "one", claim, "disk full")
    assert len(take(database)) == 1


def test_home_waits_for_more_changes(database: Engine) -> None:
    kind = PageKind.HOME
    mark(database, "", kind)
    assert take(database) == []
    age(database, pages.DELAYS[kind])
    (claim,) = take(database)
    mark(database, "", kind)
    assert not finish(database, claim)
    assert take(database) == []  # the wait begins again
    age(database, pages.DELAYS[kind])
    assert len(take(database)) == 1


def test_a_list_rests_once_it_was_written(database: Engine) -> None:
    def rest(space: str, seconds: float) -> None:
        with database.begin() as conn:
            pages.rest(conn, space, seconds=seconds)

    mark(database, "", PageKind.ROOT)
    (claim,) = take(database)  # the first is written at once
    rest("", 60)
    assert finish(database, claim)
    mark(database, "", PageKind.ROOT)
    mark(database, "bookworm", PageKind.ROOT)
    assert [one.key for one in take(database)] == ["bookworm"]
    rest("", -1)
    assert [one.key for one in take(database)] == [""]


def test_one_page_is_written_by_one_worker_at_a_time(database: Engine) -> None:
    with database.begin() as one, database.begin() as two:
        assert pages.lock(one, PROJECT, ["foo", "baz"]) == {"foo", "baz"}
        assert pages.lock(two, PROJECT, ["foo", "bar"]) == {"bar"}
        assert pages.lock(two, PageKind.HOME, ["foo"]) == {"foo"}
    with database.begin() as two:
        assert pages.lock(two, PROJECT, ["foo"]) == {"foo"}
        (mine,) = (mark(database), take(database))[1]
        pages.put_back(two, "one", [mine])
    assert take(database) == []
    age(database, timedelta(seconds=1))
    assert len(take(database)) == 1


def test_marking_wakes_listeners(database: Engine, database_settings: DatabaseSettings) -> None:
    listener = Listener(database_settings, PAGES)
    try:
        listener.wait(5)  # connects
        mark(database)
        assert listener.wait(5) == {PAGES}
    finally:
        listener.close()


def test_published_projects_are_noted(database: Engine) -> None:
    def note(name: str, files: int, *spaces: str, facts: bytes | None = b"f") -> set[str]:
        with database.begin() as conn:
            return pages.note_published(conn, [pages.Noted(name, files, facts, spaces)])

    def gone(*names: str) -> set[str]:
        with database.begin() as conn:
            return pages.note_removed(conn, names)

    def known() -> dict[str, bytes]:
        with database.begin() as conn:
            return pages.published_facts(conn, ["foo", "bar"])

    assert note("foo", 0) == set()  # has a page, is not listed
    assert note("foo", 2, "", "bookworm") == {"", "bookworm"}
    assert note("foo", 3, "", "bookworm") == set()
    assert note("foo", 3, "", "trixie") == {"bookworm", "trixie"}
    assert note("foo", 0) == {"", "trixie"}
    assert note("bar", 1, "", facts=None) == {""}
    assert known() == {"foo": b"f"}
    with database.begin() as conn:
        assert conn.execute(select(published.c.name, published.c.listed).order_by("name")).all() == [
            ("bar", True),
            ("foo", False),
        ]
    assert gone("foo", "bar") == {""}
    assert gone("bar") == set()


@pytest.mark.parametrize("how", ["named", "matching", "all"])
def test_what_somebody_wants_to_see_anew_is_rendered_in_any_case(database: Engine, how: str) -> None:
    with database.begin() as conn:
        pages.note_published(conn, [pages.Noted(name, 0, b"f", ()) for name in ("foo", "bar")])
    with database.begin() as conn:
        match how:
            case "named":
                pages.mark_named(conn, ["foo"], "test")
            case "matching":
                pages.mark_matching(conn, "f*", after="", reason="test")
            case "all":
                pages.mark_published(conn, after="")
        left = pages.published_facts(conn, ["foo", "bar"])
    assert left == ({} if how == "all" else {"bar": b"f"})


def test_marking_everything_in_batches(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MARKED_AT_ONCE", 2)
    with database.begin() as conn:
        conn.execute(insert(published), [{"name": name, "listed": True} for name in ("c", "a", "b")])
        assert pages.mark_published(conn, after="") == ["a", "b"]
        assert pages.mark_published(conn, after="b") == ["c"]
        assert pages.mark_published(conn, after="c") == []
        assert pages.rendered_with(conn) == ""
        pages.note_rendered_with(conn, "look")
        assert pages.rendered_with(conn) == "look"
        assert pages.stale_count(conn) == 3 + 2 + len(pages.BESIDE)


# What pages show


def test_downloads_of_thirty_days_and_all(database: Engine) -> None:
    today = datetime(2026, 11, 20, tzinfo=UTC).date()
    with database.begin() as conn:
        add_release(conn, "foo")
        loaded = page_facts.load_project(conn, "foo", today=today)
        assert loaded is not None
        for days, downloads in ((0, 1), (29, 10), (30, 100), (400, 1000)):
            day = today - timedelta(days=days)
            conn.execute(insert(download_days).values(project_id=loaded.id, day=day, count=downloads))
        loaded = page_facts.load_project(conn, "foo", today=today)
    assert loaded is not None
    assert (loaded.downloads_month, loaded.downloads_all) == (11, 1111)
    assert loaded.download_days == tuple((today - timedelta(days=days), n) for days, n in ((30, 100), (29, 10), (0, 1)))


def test_a_project_that_is_not_known(database: Engine) -> None:
    with database.begin() as conn:
        assert page_facts.load_project(conn, "nobody", today=datetime.now(UTC).date()) is None


def test_loading_a_project_takes_as_many_queries_whatever_its_size(database: Engine) -> None:
    today = datetime.now(UTC).date()
    with database.begin() as conn:
        for number in range(30):
            add_release(conn, "big", f"1.{number}")
        add_release(conn, "small")

    def queries(name: str) -> int:
        with database.connect() as conn:
            before = conn.scalar(select(text("count(*)")).select_from(text("pg_stat_activity")))
            assert before
            seen: list[str] = []
            from sqlalchemy import event

            listener = lambda *args: seen.append(args[2])  # noqa: E731
            event.listen(conn, "before_cursor_execute", listener)
            assert page_facts.load_project(conn, name, today=today)
            return len(seen)

    queries("small")  # recipes, which are of all projects, are read once
    assert queries("big") == queries("small") <= 10
