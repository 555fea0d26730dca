# SPDX-License-Identifier: BSD-3-Clause
"""Small parts of dispatch: the pool of threads, the inbox, logs made fit to be kept, a builder's figures."""

import json
import select
import threading
from datetime import UTC, datetime

import pytest

from piwheels.master.dispatch_logs import clean_log
from piwheels.master.dispatch_pool import Group, Inbox, Strands
from piwheels.master.dispatch_pulse import figures
from piwheels.wire.messages import Stats


@pytest.fixture
def pool():
    made = Strands(3, name="test")
    made.start()
    yield made
    made.stop(10)


def test_one_keys_jobs_run_in_order_and_never_two_at_once(pool: Strands) -> None:
    order: list[int] = []
    running = threading.Lock()
    done = threading.Event()

    def job(number: int) -> None:
        assert running.acquire(blocking=False), "two at once"
        order.append(number)
        running.release()
        if number == 9:
            done.set()

    for number in range(10):
        assert pool.submit("key", lambda number=number: job(number))
    assert done.wait(10)
    assert order == list(range(10))


def test_a_slow_key_keeps_nobody_waiting(pool: Strands) -> None:
    block, others = threading.Event(), threading.Barrier(2)
    pool.submit("slow", lambda: block.wait(10))
    pool.submit("slow", lambda: None)
    pool.submit("quick", lambda: others.wait(10))
    others.wait(10)
    block.set()


def test_a_key_that_asks_too_much_is_refused(pool: Strands) -> None:
    block = threading.Event()
    accepted = [pool.submit("flood", lambda: block.wait(10)) for _ in range(50)]
    block.set()
    assert accepted.count(True) == Strands.MAX_WAITING


def test_a_job_that_fails_takes_nothing_with_it(pool: Strands, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    pool.submit("key", lambda: 1 / 0)
    pool.submit("key", done.set)
    assert done.wait(10)
    assert "ZeroDivisionError" in caplog.text


def test_a_job_that_is_held_keeps_its_key_waiting(pool: Strands) -> None:
    begun, after, other = threading.Event(), threading.Event(), threading.Event()

    def held() -> object:
        begun.set()
        return Strands.HELD

    pool.submit("key", held)
    pool.submit("key", after.set)
    assert begun.wait(10)
    pool.submit("other", other.set)
    assert other.wait(10) and not after.is_set()
    assert pool.waiting >= 2
    pool.free("key")
    assert after.wait(10)


class Over(Exception):
    """All is over."""


def test_a_group_does_together_what_came_in_together() -> None:
    rounds: list[list[int]] = []
    first, go, done = threading.Event(), threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        rounds.append(items)
        first.set()
        assert go.wait(10)
        return [item * 2 for item in items]

    results: list[int | None] = []
    group = Group(work, most=3, ends=Over, name="test")
    group.start()
    group.put(0, results.append)
    assert first.wait(10)
    for number in range(1, 6):
        group.put(number, results.append if number < 5 else lambda result: (results.append(result), done.set()))
    assert group.waiting == 5
    go.set()
    assert done.wait(10)
    group.stop(10)
    assert rounds == [[0], [1, 2, 3], [4, 5]] and results == [0, 2, 4, 6, 8, 10]


def test_one_fault_in_a_group_is_nobody_elses(caplog: pytest.LogCaptureFixture) -> None:
    go, done = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        assert go.wait(10)
        return [100 // item for item in items]

    results: list[int | None] = []
    group = Group(work, most=9, ends=Over, name="test")
    group.start()
    for number in (5, 0, 4):
        group.put(number, results.append)
    group.put(2, lambda result: (results.append(result), done.set()))
    go.set()
    assert done.wait(10)
    group.stop(10)
    assert results == [20, None, 25, 50] and "ZeroDivisionError" in caplog.text


def test_a_group_that_is_over_calls_nobody() -> None:
    def work(items: list[int]) -> list[int]:
        raise Over

    results: list[int | None] = []
    group = Group(work, most=9, ends=Over, name="test")
    group.start()
    group.put(1, results.append)
    group.stop(10)
    assert results == []


def test_inbox_wakes_a_poll_and_keeps_order() -> None:
    inbox = Inbox()
    try:
        calls: list[int] = []
        assert not select.select([inbox.fileno()], [], [], 0)[0]
        for number in range(5):
            inbox.post(lambda number=number: calls.append(number))
        assert select.select([inbox.fileno()], [], [], 0)[0]
        assert inbox.drain(3) == 3
        assert select.select([inbox.fileno()], [], [], 0)[0], "two are left, so the next poll must not sleep"
        assert inbox.drain(3) == 2
        assert not select.select([inbox.fileno()], [], [], 0)[0]
        assert calls == [0, 1, 2, 3, 4]
    finally:
        inbox.close()
    inbox.post(lambda: None)  # a worker that is late harms nobody


def test_short_logs_stay_as_they_are() -> None:
    assert clean_log("schön \x1b[31mred\n", 100) == "schön \x1b[31mred\n".encode()
    assert clean_log("a\0b\ud800", 100) == b"ab?"


@pytest.mark.parametrize("limit", [1024, 1025, 1026, 1027, 5000])
def test_long_logs_lose_their_middle(limit: int) -> None:
    text = "start" + "ü" * 100_000 + "end"
    data = clean_log(text, limit)
    assert len(data) <= limit
    assert data.startswith(b"start") and data.endswith(b"end")
    assert "cut out" in data.decode("utf-8")


def test_figures_are_json() -> None:
    stats = Stats(datetime(2026, 1, 1, tzinfo=UTC), 1, 2, 3, 4, 5, 6, float("nan"), float("inf"))
    plain = json.loads(json.dumps(figures(stats), allow_nan=False))
    assert plain["load_average"] is None and plain["disk_free"] == 2
    assert plain["now"] == "2026-01-01T00:00:00+00:00"
