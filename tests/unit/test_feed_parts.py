# SPDX-License-Identifier: BSD-3-Clause
"""The feed's decisions: which source is followed, and what is believed of an answer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.master.feed_apply import Allowance
from piwheels.master.feed_choice import UNREADABLE, Choice, SourceName
from piwheels.master.feed_verdict import HOPELESS, Action, Verdict, judge, older
from piwheels.pypi.model import UpstreamProject
from piwheels.pypi.pending import Emptied, Failed, Found, Gone, Hidden, Outcome, Pending, Priority, Unchanged
from piwheels.vocabulary import ProjectStatus

NOW = datetime(2026, 11, 21, tzinfo=UTC)
DAY = timedelta(days=1)
NEWS = Pending(
    name="alpha",
    priority=Priority.NEWS,
    serial=100,
    removed=False,
    page=False,
    seq=1,
    attempts=0,
    doubted_since=None,
    project_id=1,
    known_serial=50,
    status=ProjectStatus.ACTIVE,
)


def decide(outcome: Outcome, pending: Pending = NEWS) -> Verdict:
    return judge(pending, outcome, now=NOW, disbelief=DAY)


def found(serial: int) -> Found:
    return Found(UpstreamProject("alpha", "Alpha", "", serial, ()))


class TestVerdict:
    def test_an_answer_that_is_new_enough_is_applied(self) -> None:
        for serial in (100, 101, 0):  # 0: it did not say
            assert decide(found(serial)) == Verdict(Action.APPLY)

    def test_a_stale_one_is_applied_as_far_as_it_goes_and_asked_for_again(self) -> None:
        verdict = decide(found(99))
        assert verdict.action is Action.APPLY and verdict.again and verdict.doubted

    def test_after_long_enough_a_stale_one_is_all_there_is(self) -> None:
        assert decide(found(99), replace(NEWS, doubted_since=NOW - DAY)) == Verdict(Action.FORCE)

    def test_deletion_needs_the_news_and_pypi_to_agree(self) -> None:
        assert decide(Gone(), replace(NEWS, removed=True)) == Verdict(Action.DELETE)
        doubted = decide(Gone())
        assert doubted.action is Action.NOTHING and doubted.doubted and doubted.again

    def test_or_a_long_time(self) -> None:
        almost = replace(NEWS, doubted_since=NOW - DAY + timedelta(seconds=1))
        assert decide(Gone(), almost).action is Action.NOTHING
        assert decide(Gone(), replace(NEWS, doubted_since=NOW - DAY)) == Verdict(Action.DELETE)

    def test_a_project_that_was_just_made_may_be_missing_for_some_minutes(self) -> None:
        unknown = replace(NEWS, project_id=None)
        assert decide(Gone(), unknown).again
        assert decide(Gone(), replace(unknown, doubted_since=NOW - timedelta(minutes=11))).again is None

    def test_what_was_never_there_is_no_matter(self) -> None:
        watched = replace(NEWS, priority=Priority.WATCH, project_id=None, serial=0)
        assert decide(Gone(), watched) == Verdict(Action.NOTHING)

    def test_other_answers(self) -> None:
        assert decide(Unchanged()) == Verdict(Action.NOTHING)
        assert decide(Hidden(ProjectStatus.QUARANTINED, "", 100)) == Verdict(Action.STATUS)
        assert decide(Emptied(100)) == Verdict(Action.EMPTY)
        assert decide(Emptied(99)).doubted

    def test_waits_grow_and_news_that_fail_too_often_become_repairs(self) -> None:
        waits = [decide(Failed("no", away=False), replace(NEWS, attempts=n)).again for n in range(40)]
        assert waits == sorted(waits, key=lambda wait: wait or timedelta(0))
        assert waits[-1] == timedelta(hours=6)
        assert not decide(Failed("no", away=False), replace(NEWS, attempts=HOPELESS - 2)).demote
        assert decide(Failed("no", away=False), replace(NEWS, attempts=HOPELESS - 1)).demote

    def test_weather_is_never_the_projects_fault(self) -> None:
        verdict = decide(Failed("no", away=True), replace(NEWS, attempts=10_000))
        assert not verdict.demote and verdict.again == timedelta(seconds=5)

    @given(
        st.sampled_from([Gone(), Emptied(1), Unchanged(), Failed("x", away=True), Failed("x", away=False), found(1)]),
        st.booleans(),
        st.none() | st.timedeltas(timedelta(days=-400), timedelta(days=400)),
        st.integers(0, 10**6),
    )
    def test_nothing_but_witnesses_or_time_deletes(
        self, outcome: Outcome, removed: bool, doubted: timedelta | None, attempts: int
    ) -> None:
        """Clocks may go back, and attempts be any number."""
        since = None if doubted is None else NOW - doubted
        pending = replace(NEWS, removed=removed, doubted_since=since, attempts=attempts)
        verdict = decide(outcome, pending)
        if verdict.action is Action.DELETE:
            assert isinstance(outcome, Gone)
            assert removed or (doubted is not None and doubted >= DAY)
        assert verdict.again is None or timedelta(0) < verdict.again <= timedelta(hours=6)

    def test_an_answer_older_than_our_rows(self) -> None:
        assert older(NEWS).again and older(NEWS).doubted


class TestChoice:
    @pytest.fixture
    def choice(self) -> Choice:
        return Choice.of("auto", listed=False, retry=600)

    def test_auto_takes_the_list_if_there_is_one(self) -> None:
        assert Choice.of("auto", listed=True, retry=1).current is SourceName.WATCH
        assert Choice.of("auto", listed=False, retry=1).current is SourceName.JOURNAL
        assert Choice.of("index", listed=True, retry=1).current is SourceName.INDEX

    def test_over_and_back(self, choice: Choice) -> None:
        assert choice.refused(1000.0, "405")
        assert (choice.current, choice.why) == (SourceName.INDEX, "405")
        assert not choice.should_try_journal(1599.0)
        assert choice.should_try_journal(1600.0)
        assert not choice.should_try_journal(1601.0)
        choice.journal_is_back()
        assert (choice.current, choice.why) == (SourceName.JOURNAL, "")

    def test_nonsense_counts_as_refusal_only_if_it_stays(self, choice: Choice) -> None:
        for _ in range(UNREADABLE - 1):
            assert not choice.made_no_sense(0.0, "HTML")
        choice.answered()
        for _ in range(UNREADABLE - 1):
            assert not choice.made_no_sense(0.0, "HTML")
        assert choice.made_no_sense(0.0, "HTML")

    @pytest.mark.parametrize("name", list(SourceName))
    def test_a_fixed_source_stays(self, name: SourceName) -> None:
        choice = Choice.of(name.value, listed=True, retry=1)
        for _ in range(20):
            assert not choice.refused(0.0, "no") and not choice.made_no_sense(0.0, "no")
        assert not choice.should_try_journal(10**9)
        assert choice.current is name


class TestAllowance:
    def test_so_many_a_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: now)
        allowance = Allowance(60, at=0.0)
        taken = 0
        for now in range(600):  # noqa: B007 - the clock
            number = allowance.whole()
            allowance.spend(number)
            taken += number
        assert 590 <= taken <= 601
        now = -50.0  # a clock that goes back stops nothing for long
        allowance.whole()
        now = 10.0
        assert allowance.whole() == 60
