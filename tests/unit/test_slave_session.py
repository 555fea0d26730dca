# SPDX-License-Identifier: BSD-3-Clause
"""The builder's machine, rule by rule. Against the master's machine it is run in test_sessions.py."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piwheels.errors import LocalProtocolError
from piwheels.slave import session as s
from piwheels.vocabulary import FailureReason
from piwheels.wire import messages as m
from tests import wire_samples as samples
from tests.wire_samples import HELLO, ORDER, OTHER_TOKEN, STATS, TOKEN, built, file_info

RHYTHM = s.Rhythm(poll=7, busy_timeout=300, hello_timeout=30, backoff_first=1, backoff_cap=60)
BUILD = m.Build("foo", "1.0", ORDER)
ACK = m.Ack(5, "https://example.org/simple")
RESULT = built(file_info())


class Driver:
    """A session and a clock; ``now`` moves on by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.session = s.Session(HELLO, rhythm=RHYTHM)

    def feed(self, event: s.Event) -> list[s.Effect]:
        effects = self.session.handle(event, self.now)
        self.session.validate()
        return effects

    def hear(self, message: m.MasterMessage) -> list[s.Effect]:
        return self.feed(s.Received(message))

    def tick(self, *, log: str = "", can_work: bool = True) -> list[s.Effect]:
        """Move to the deadline and tick."""
        assert self.session.deadline is not None
        self.now = max(self.now, self.session.deadline)
        return self.feed(s.Tick(STATS, log, can_work))

    def to(self, state: s.State) -> "Driver":
        """The usual way to a state."""
        way: dict[s.State, list[Any]] = {
            s.State.GREETING: [s.Start()],
            s.State.RESTING: [s.Received(ACK)],
            s.State.ASKING: ["tick"],
            s.State.BUILDING: [s.Received(BUILD)],
            s.State.REPORTING: ["tick"],
            s.State.OFFERING: [s.Received(m.Cont()), s.BuildEnded(RESULT)],
            s.State.SENDING: [s.Received(m.Send(RESULT.files[0].filename))],
            s.State.SENT: [s.FileEnded(ok=True)],
        }
        for reached, steps in way.items():
            for step in steps:
                self.tick() if step == "tick" else self.feed(step)
            if reached == state:
                break
        assert self.session.state == state
        return self


def test_what_a_former_life_finished_is_delivered_first() -> None:
    driver = Driver()
    resumed = replace(HELLO, capabilities=replace(HELLO.capabilities, resume=TOKEN))
    assert driver.feed(s.Start(RESULT)) == [s.Connect(), s.Send(resumed)]
    assert driver.hear(ACK) == [s.Send(RESULT)]
    assert driver.hear(m.Done()) == [s.Wipe()]
    assert driver.session.state is s.State.RESTING


def test_a_whole_build() -> None:
    driver = Driver()
    assert driver.feed(s.Start()) == [s.Connect(), s.Send(HELLO)]
    assert driver.hear(ACK) == []
    assert driver.tick() == [s.Send(m.Idle(STATS))]
    assert driver.hear(BUILD) == [s.StartBuild(BUILD)]
    assert driver.tick(log="one\n") == [s.Send(m.Busy(STATS, "one\n"))]
    assert driver.hear(m.Cont()) == []
    assert driver.feed(s.BuildEnded(RESULT)) == [s.Send(RESULT)]
    assert driver.hear(m.Send(RESULT.files[0].filename)) == [s.OfferFile(5, RESULT.files[0])]
    assert driver.feed(s.FileEnded(ok=True)) == [s.Send(m.Sent())]
    assert driver.hear(m.Done()) == [s.Wipe()]
    assert driver.session.deadline == driver.now, "a new job is asked for at once"
    assert driver.tick() == [s.Send(m.Idle(STATS))]


def test_rests_after_sleep() -> None:
    driver = Driver().to(s.State.ASKING)
    assert driver.hear(m.Sleep(paused=True)) == []
    assert driver.session.deadline == driver.now + 7
    driver.now += 6
    assert driver.feed(s.Tick(STATS)) == [], "too early"


def test_asks_for_nothing_while_short_of_disk() -> None:
    driver = Driver().to(s.State.RESTING)
    assert [type(effect) for effect in driver.tick(can_work=False)] == [s.Note]
    assert driver.tick(can_work=False) == [], "said once"
    assert driver.tick() == [s.Send(m.Idle(STATS))]


def test_greets_again_when_it_held_its_tongue_for_long() -> None:
    driver = Driver().to(s.State.RESTING)
    for _ in range(30):
        driver.tick(can_work=False)
    assert driver.tick() == [s.Connect(), s.Send(HELLO)]


def test_a_build_that_ends_while_a_reply_is_awaited_is_delivered_after_it() -> None:
    driver = Driver().to(s.State.REPORTING)
    assert driver.feed(s.BuildEnded(RESULT)) == []
    assert driver.hear(m.Cont()) == [s.Send(RESULT)]


def test_done_stops_a_running_build() -> None:
    assert Driver().to(s.State.REPORTING).hear(m.Done()) == [s.StopBuild(), s.Wipe()]


def test_done_after_the_end_of_a_build_stops_nothing() -> None:
    driver = Driver().to(s.State.REPORTING)
    driver.feed(s.BuildEnded(RESULT))
    assert driver.hear(m.Done()) == [s.Wipe()]


def test_a_result_of_a_stopped_build_is_ignored() -> None:
    driver = Driver().to(s.State.REPORTING)
    driver.hear(m.Done())
    assert driver.feed(s.BuildEnded(RESULT)) == []
    driver.tick()
    driver.hear(m.Build("bar", "2", replace(ORDER, token=OTHER_TOKEN)))
    assert driver.feed(s.BuildEnded(RESULT)) == []
    assert driver.session.state is s.State.BUILDING


def test_the_live_log_keeps_its_end_while_the_master_is_away() -> None:
    driver = Driver().to(s.State.BUILDING)
    driver.feed(s.Lost("gone"))
    driver.feed(s.Tick(STATS, "x" * m.MAX_LIVE_LOG))
    driver.feed(s.Tick(STATS, "end"))
    driver.tick()
    driver.hear(ACK)
    (effect,) = [effect for effect in driver.tick() if isinstance(effect, s.Send)]
    assert isinstance(effect.message, m.Busy)
    assert effect.message.log == "x" * (m.MAX_LIVE_LOG - 3) + "end"


class TestLostMaster:
    @pytest.mark.parametrize("state", [s.State.ASKING, s.State.REPORTING, s.State.OFFERING, s.State.SENT])
    def test_silence_costs_the_connection(self, state: s.State) -> None:
        driver = Driver().to(state)
        began = driver.now
        assert [type(effect) for effect in driver.tick()] == [s.Disconnect, s.Note]
        assert driver.now == began + 300
        assert isinstance(driver.tick()[0], s.Connect)

    @pytest.mark.parametrize("state", [s.State.BUILDING, s.State.REPORTING, s.State.OFFERING, s.State.SENT])
    def test_the_build_is_kept_and_resumed(self, state: s.State) -> None:
        driver = Driver().to(state)
        driver.feed(s.Lost("the connection dropped"))
        _, hello = driver.tick()
        assert isinstance(hello, s.Send) and isinstance(hello.message, m.Hello)
        assert hello.message.capabilities is not None and hello.message.capabilities.resume == TOKEN
        effects = driver.hear(ACK)
        if state in (s.State.BUILDING, s.State.REPORTING):
            assert isinstance(driver.tick()[0], s.Send) and driver.session.state is s.State.REPORTING
        else:
            assert effects == [s.Send(RESULT)]

    def test_a_build_that_ended_while_apart_is_delivered(self) -> None:
        driver = Driver().to(s.State.BUILDING)
        driver.feed(s.Lost("gone"))
        assert driver.feed(s.BuildEnded(RESULT)) == []
        driver.tick()
        assert driver.hear(ACK) == [s.Send(RESULT)]

    def test_a_build_that_the_master_does_not_want_any_more_is_dropped(self) -> None:
        driver = Driver().to(s.State.BUILDING)
        driver.feed(s.Lost("gone"))
        driver.tick()
        driver.hear(ACK)
        driver.tick()
        assert driver.hear(m.Done()) == [s.StopBuild(), s.Wipe()]

    def test_a_delivery_is_broken_off(self) -> None:
        driver = Driver().to(s.State.SENDING)
        effects = driver.feed(s.Lost("gone"))
        assert [type(effect) for effect in effects] == [s.WithdrawFile, s.Disconnect, s.Note]
        assert driver.feed(s.FileEnded(ok=False, why="too late")) == []

    def test_back_off_doubles_up_to_its_cap_and_starts_anew(self) -> None:
        driver = Driver().to(s.State.GREETING)
        waits = []
        for _ in range(9):
            driver.feed(s.Lost("refused"))
            waits.append(round(driver.session.deadline - driver.now))  # type: ignore[operator]
            driver.tick()
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        driver.hear(ACK)
        driver.tick()
        driver.hear(m.Sleep(paused=False))
        driver.feed(s.Lost("again"))
        assert driver.session.deadline == driver.now + 1

    def test_jitter_spreads_the_fleet(self) -> None:
        deadlines = set()
        for jitter in (0.0, 0.25, 0.99):
            session = s.Session(HELLO, rhythm=RHYTHM, jitter=lambda jitter=jitter: jitter)  # type: ignore[misc]
            session.handle(s.Start(), 0)
            session.handle(s.Lost("x"), 0)
            deadlines.add(session.deadline)
        assert len(deadlines) == 3 and all(0.5 <= at < 1.5 for at in deadlines if at)

    def test_news_of_a_connection_given_up_is_ignored(self) -> None:
        driver = Driver().to(s.State.REPORTING)
        driver.feed(s.Lost("gone"))
        assert driver.hear(m.Die()) == []
        assert driver.feed(s.Lost("gone")) == []

    def test_a_file_that_could_not_be_handed_over_is_sent_all_the_same(self) -> None:
        driver = Driver().to(s.State.SENDING)
        effects = driver.feed(s.FileEnded(ok=False, why="silence"))
        assert [type(effect) for effect in effects] == [s.Note, s.Send]


ANSWERS: list[m.MasterMessage] = [ACK, BUILD, m.Sleep(False), m.Cont(), m.Send("x"), m.Done()]
OUT_OF_PLACE = [
    (state, message)
    for state in [*s.REPLIES, s.State.RESTING, s.State.BUILDING, s.State.SENDING]
    for message in ANSWERS
    if type(message) not in s.REPLIES.get(state, {}) or isinstance(message, m.Send)
]


class TestOddMaster:
    @pytest.mark.parametrize(("state", "message"), OUT_OF_PLACE)
    def test_what_is_out_of_place_costs_the_connection_only(self, state: s.State, message: m.MasterMessage) -> None:
        """That includes a Send of a file that the build has not."""
        driver = Driver().to(state)
        had = driver.session.work
        effects = driver.hear(message)
        assert driver.session.state is s.State.APART
        assert driver.session.work is had
        assert isinstance(effects[-1], s.Note) and "the master answered" in effects[-1].text

    def test_a_master_too_old_to_name_the_sdist(self) -> None:
        effects = Driver().to(s.State.ASKING).hear(m.Build("foo", "1.0"))
        assert effects[0] == s.Send(m.Bye())
        assert isinstance(effects[1], s.Exit) and not effects[1].asked

    @pytest.mark.parametrize("state", list(s.REPLIES))
    def test_die(self, state: s.State) -> None:
        driver = Driver().to(state)
        had = driver.session.work
        effects = driver.hear(m.Die())
        assert isinstance(effects[-1], s.Exit) and not effects[-1].asked
        assert (s.Wipe() in effects) == (had is not None)
        assert (s.StopBuild() in effects) == (had is not None and had.built is None)
        assert driver.hear(m.Cont()) == []


class TestShutdown:
    @pytest.mark.parametrize("state", [state for state in s.State if state not in (s.State.APART, s.State.GONE)])
    def test_says_bye_where_it_can(self, state: s.State) -> None:
        driver = Driver()
        if state is not s.State.NEW:
            driver.to(state)
        had = driver.session.work
        effects = driver.feed(s.Shutdown())
        assert isinstance(effects[-1], s.Exit) and effects[-1].asked
        free = state in (s.State.RESTING, s.State.BUILDING, s.State.SENDING)
        assert (s.Send(m.Bye()) in effects) == free
        assert (s.Wipe() in effects) == (had is not None)
        assert (s.WithdrawFile() in effects) == (state is s.State.SENDING)
        assert driver.feed(s.Tick(STATS)) == []


class TestOurOwnFaults:
    def test_not_started(self) -> None:
        with pytest.raises(LocalProtocolError):
            Driver().hear(ACK)

    def test_started_twice(self) -> None:
        with pytest.raises(LocalProtocolError):
            Driver().to(s.State.RESTING).feed(s.Start())

    def test_a_hello_without_capabilities(self) -> None:
        with pytest.raises(LocalProtocolError):
            s.Session(replace(HELLO, capabilities=None))

    def test_a_result_without_a_report(self) -> None:
        with pytest.raises(LocalProtocolError):
            Driver().to(s.State.BUILDING).feed(s.BuildEnded(built(token=None)))


events = st.one_of(
    st.sampled_from([
        s.Received(ACK), s.Received(BUILD), s.Received(m.Cont()), s.Received(m.Done()), s.Received(m.Sleep(False)),
        s.Received(m.Send(RESULT.files[0].filename)), s.Received(m.Build("old", "1")),
    ]),
    samples.master_messages.map(s.Received),
    st.just(s.Lost("x")),
    st.builds(s.Tick, st.just(STATS), st.text(max_size=3), st.booleans()),
    st.sampled_from([s.BuildEnded(RESULT), s.BuildEnded(built(token=TOKEN, reason=FailureReason.DISK))]),
    st.booleans().map(lambda ok: s.FileEnded(ok=ok)),
    st.just(s.Shutdown()),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(events, st.sampled_from([0.0, 1.0, 30.0, 400.0])), max_size=40))
def test_any_events_in_any_order(steps: list[tuple[s.Event, float]]) -> None:
    """One request at a time, one build at a time, one file at a time, and never an exception."""
    driver = Driver()
    driver.feed(s.Start())
    connected, waiting, building, offering = True, True, False, False
    for event, seconds in steps:
        driver.now += seconds
        if isinstance(event, s.Received):
            if not connected:
                continue
            waiting = False
        if isinstance(event, s.FileEnded):
            offering = False
        for effect in driver.feed(event):
            match effect:
                case s.Connect():
                    connected, waiting = True, False
                case s.Disconnect():
                    connected = waiting = False
                case s.Send(message):
                    assert connected and not waiting, "a REQ socket sends only when it has its answer"
                    waiting = not isinstance(message, m.Bye)
                case s.StartBuild():
                    assert not building
                    building = True
                case s.StopBuild():
                    assert building
                case s.Wipe():
                    assert building
                    building = False
                case s.OfferFile():
                    assert not offering
                    offering = True
                case s.WithdrawFile():
                    offering = False
