# SPDX-License-Identifier: BSD-3-Clause
"""The master's session, rule by rule, and any events in any order. Run against a builder's in test_sessions.py."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piwheels.errors import LocalProtocolError
from piwheels.master import session as s
from piwheels.master.announcement import Limits, check_announcement
from piwheels.vocabulary import FailureReason
from piwheels.wire import messages as m
from tests import wire_samples as samples
from tests.wire_samples import HELLO, ORDER, OTHER_TOKEN, STATS, TOKEN, built, file_info

LEASE = s.Lease(TOKEN, 1, 2, "foo", "Foo", "1.0", ORDER)
OTHER_LEASE = replace(LEASE, token=OTHER_TOKEN, order=replace(ORDER, token=OTHER_TOKEN))
WHEEL, SECOND = file_info(), file_info("foo-1.0-1-cp311-cp311-linux_armv7l.whl")
DONE, DIE = s.Reply(m.Done()), s.Reply(m.Die())
State = s.State


def verified(file: m.FileInfo) -> s.VerifiedFile:
    return s.VerifiedFile(file.filename, file.size, bytes.fromhex(file.sha256), bytes(32), None, ("foo",), ())


class Driver:
    """A session, fed and checked."""

    def __init__(self, hello: m.Hello = HELLO, limits: Limits | None = None) -> None:
        self.hello = hello
        self.session = s.Session(index_url="https://example.org/simple", limits=limits)

    def feed(self, event: s.Event) -> list[s.Effect]:
        effects = self.session.handle(event, 0.0)
        self.session.validate()
        return effects

    def say(self, message: m.SlaveMessage) -> list[s.Effect]:
        return self.feed(s.Received(message))

    def to(self, state: State) -> "Driver":
        """The usual way to a state, with one wheel of two verified on the way to recording."""
        way: dict[State, list[s.Event]] = {
            State.NEW: [],
            State.GREETING: [s.Received(self.hello)],
            State.READY: [s.Registered(5, None)],
            State.CLAIMING: [s.Received(m.Idle(STATS))],
            State.BUILDING: [s.Claimed(LEASE)],
            State.SENDING: [s.Received(built(WHEEL))],
            State.VERIFYING: [s.Received(m.Sent())],
            State.RECORDING: [s.Verified(verified(WHEEL))],
            State.GONE: [s.Silent()],
        }
        for reached, events in way.items():
            for event in events:
                self.feed(event)
            if reached is state:
                break
        assert self.session.state is state
        return self


class TestABuild:
    def test_with_two_wheels(self) -> None:
        driver = Driver()
        assert driver.say(HELLO) == [s.Register(HELLO)]
        assert driver.feed(s.Registered(5, None)) == [s.Reply(m.Ack(5, "https://example.org/simple"))]
        assert driver.say(m.Idle(STATS)) == [s.Seen(5, STATS), s.Claim(5)]
        assert driver.feed(s.Claimed(LEASE)) == [s.Reply(m.Build("Foo", "1.0", ORDER))]
        assert driver.say(m.Busy(STATS, "x")) == [s.Renew(TOKEN, STATS, "x"), s.Reply(m.Cont())]
        message = built(WHEEL, SECOND)
        assert driver.say(message) == [s.Expect(5, WHEEL, LEASE), s.Reply(m.Send(WHEEL.filename))]
        assert driver.feed(s.Receiving()) == [s.Renew(TOKEN, None, "")]
        assert driver.say(m.Sent()) == [s.Verify(5, WHEEL, LEASE)]
        assert driver.feed(s.Verified(verified(WHEEL))) == [
            s.Expect(5, SECOND, LEASE),
            s.Reply(m.Send(SECOND.filename)),
        ]
        assert driver.say(m.Sent()) == [s.Verify(5, SECOND, LEASE)]
        (record,) = driver.feed(s.Verified(verified(SECOND)))
        files = (verified(WHEEL), verified(SECOND))
        assert record == s.Record(s.Result(LEASE, True, None, "", message.duration, message.log, files, message.report))
        assert driver.feed(s.Recorded()) == [DONE]
        assert driver.session.lease is None

    def test_that_failed(self) -> None:
        driver = Driver().to(State.BUILDING)
        (record,) = driver.say(built(reason=FailureReason.MEMORY))
        assert isinstance(record, s.Record)
        assert (record.result.ok, record.result.reason, record.result.detail) == (False, FailureReason.MEMORY, "it did")
        assert driver.feed(s.Recorded()) == [DONE]

    def test_that_failed_at_an_old_slave(self) -> None:
        driver = Driver(replace(HELLO, capabilities=None)).to(State.BUILDING)
        (record,) = driver.say(m.Built(False, timedelta(1), "log", ()))
        assert isinstance(record, s.Record) and record.result.reason is FailureReason.PACKAGE

    def test_an_old_slave_gets_no_order(self) -> None:
        driver = Driver(replace(HELLO, capabilities=None)).to(State.CLAIMING)
        assert driver.feed(s.Claimed(LEASE)) == [s.Reply(m.Build("Foo", "1.0"))]

    def test_nothing_to_do(self) -> None:
        driver = Driver().to(State.CLAIMING)
        assert driver.feed(s.Claimed(None, paused=True)) == [s.Reply(m.Sleep(True))]

    def test_told_to_leave(self) -> None:
        effects = Driver().to(State.CLAIMING).feed(s.Claimed(None, leave=True))
        assert effects[0] == DIE and isinstance(effects[1], s.Forget) and not effects[1].fault

    def test_refused(self) -> None:
        effects = Driver().to(State.GREETING).feed(s.Refused("no such target"))
        assert effects == [DIE, s.Forget("refused: no such target")]


class TestAnnouncement:
    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ((), "left no wheel"),
            ((WHEEL,) * 21, "21 wheels announced"),
            ((WHEEL, WHEEL), "announced twice"),
            ((file_info("../foo-1.0-py3-none-any.whl"),), ""),
            ((file_info("/tmp/foo-1.0-py3-none-any.whl"),), ""),
            ((file_info("foo-1.0-py3-none-any.whl\x00"),), ""),
            ((file_info("foo-1.0-py3-none-any.whl\n"),), ""),
            ((file_info("x" * 300 + "-1.0-py3-none-any.whl"),), ""),
            ((file_info("foo-1.0.tar.gz"),), ""),
            ((file_info(""),), ""),
            ((file_info("bar-1.0-py3-none-any.whl"),), "of bar, not of foo"),
            ((file_info("foo-1.1-py3-none-any.whl"),), "version 1.1, not of 1.0"),
            ((file_info("foo-1.0+evil-py3-none-any.whl"),), "not of 1.0"),
            ((WHEEL, file_info("bar-1.0-py3-none-any.whl")), "of bar, not of foo"),
            ((file_info(size=0),), "0 bytes"),
            ((file_info(size=2**40),), "between 1 and"),
            ((replace(WHEEL, sha256="AB" * 32),), "SHA-256"),
            ((replace(WHEEL, sha256="../" * 21 + "x"),), "SHA-256"),
        ],
    )
    def test_a_bad_one_is_recorded_as_the_builders_failure(self, files: tuple[m.FileInfo, ...], words: str) -> None:
        (record,) = Driver().to(State.BUILDING).say(built(*files))
        assert isinstance(record, s.Record)
        assert not record.result.ok and record.result.reason is FailureReason.BUILDER and record.result.files == ()
        assert words in record.result.detail
        assert record.result.detail.isprintable() and 0 < len(record.result.detail) <= 300

    def test_versions_are_compared_as_versions(self) -> None:
        file = file_info("Foo-1.0.0-py3-none-any.whl")
        assert check_announcement([file], project="foo", version="1.0", limits=Limits()) is None
        assert check_announcement([file], project="foo", version="not a version", limits=Limits()) is not None

    def test_limits_are_the_operators(self) -> None:
        driver = Driver(limits=Limits(max_file=999, max_files=1)).to(State.BUILDING)
        (record,) = driver.say(built(WHEEL))
        assert isinstance(record, s.Record) and "between 1 and 999" in record.result.detail


class TestFilesThatDoNotVerify:
    def test_are_asked_for_three_times(self) -> None:
        driver = Driver().to(State.VERIFYING)
        for _ in range(2):
            assert driver.feed(s.Rejected("hash")) == [s.Expect(5, WHEEL, LEASE), s.Reply(m.Send(WHEEL.filename))]
            driver.say(m.Sent())
        stop, release, done = driver.feed(s.Rejected("hash"))
        assert stop == s.StopReceiving(5) and done == DONE
        assert isinstance(release, s.Release) and release.reason is FailureReason.NETWORK and "hash" in release.why
        assert driver.session.state is State.READY

    def test_each_file_has_its_own_tries(self) -> None:
        driver = Driver().to(State.BUILDING)
        driver.say(built(WHEEL, SECOND))
        for file in (WHEEL, SECOND):
            for _ in range(2):
                driver.say(m.Sent())
                driver.feed(s.Rejected("hash"))
            driver.say(m.Sent())
            effects = driver.feed(s.Verified(verified(file)))
        assert isinstance(effects[0], s.Record) and effects[0].result.ok

    def test_a_hostile_one_is_recorded(self) -> None:
        driver = Driver().to(State.VERIFYING)
        stop, record = driver.feed(s.Rejected("METADATA is of another project", hostile=True))
        assert stop == s.StopReceiving(5)
        assert isinstance(record, s.Record) and record.result.reason is FailureReason.BUILDER
        assert record.result.detail == "METADATA is of another project"

    def test_another_file_than_the_expected_is_the_shells_fault(self) -> None:
        with pytest.raises(LocalProtocolError):
            Driver().to(State.VERIFYING).feed(s.Verified(verified(SECOND)))


class TestLeases:
    def test_resumed(self) -> None:
        driver = Driver().to(State.GREETING)
        assert driver.feed(s.Registered(5, LEASE)) == [s.Reply(m.Ack(5, "https://example.org/simple"))]
        assert driver.session.state is State.BUILDING and driver.session.lease == LEASE
        assert driver.say(built(WHEEL))[0] == s.Expect(5, WHEEL, LEASE)

    def test_a_result_recorded_already_is_answered_done(self) -> None:
        driver = Driver().to(State.GREETING)
        driver.feed(s.Registered(5, None, already_recorded=True))
        assert driver.say(built(WHEEL)) == [DONE]

    def test_a_build_that_nobody_waits_for_is_answered_done(self) -> None:
        driver = Driver().to(State.READY)
        assert driver.say(m.Busy(STATS)) == [s.Seen(5, STATS), DONE]

    def test_a_result_of_another_lease_is_answered_done(self) -> None:
        driver = Driver().to(State.BUILDING)
        assert driver.say(built(WHEEL, token=OTHER_TOKEN)) == [DONE]
        release, *_ = driver.say(m.Idle(STATS))
        assert isinstance(release, s.Release) and (release.token, release.reason) == (TOKEN, FailureReason.LOST)

    @pytest.mark.parametrize("state", [State.BUILDING, State.SENDING])
    def test_a_slave_that_lost_its_build(self, state: State) -> None:
        effects = Driver().to(state).say(m.Idle(STATS))
        assert effects[-2:] == [s.Seen(5, STATS), s.Claim(5)]
        releases = [effect for effect in effects if isinstance(effect, s.Release)]
        assert [(release.token, release.reason) for release in releases] == [(TOKEN, FailureReason.LOST)]
        assert (s.StopReceiving(5) in effects) == (state is State.SENDING)

    @pytest.mark.parametrize("state", [State.BUILDING, State.SENDING])
    def test_hello_again_leaves_the_lease_to_register(self, state: State) -> None:
        effects = Driver().to(state).say(HELLO)
        assert effects[-1] == s.Register(HELLO)
        assert not any(isinstance(effect, s.Release) for effect in effects)

    def test_cancelled_while_building(self) -> None:
        driver = Driver().to(State.BUILDING)
        assert driver.feed(s.Cancelled("expired", TOKEN)) == []
        assert driver.say(m.Busy(STATS)) == [s.Seen(5, STATS), DONE]

    @pytest.mark.parametrize("result", [built(WHEEL), built(reason=FailureReason.PACKAGE)])
    def test_cancelled_before_the_result(self, result: m.Built) -> None:
        driver = Driver().to(State.BUILDING)
        driver.feed(s.Cancelled("expired"))
        assert driver.say(result) == [DONE]

    def test_cancelled_while_sending(self) -> None:
        driver = Driver().to(State.SENDING)
        driver.feed(s.Cancelled("expired", TOKEN))
        assert driver.feed(s.Receiving()) == []
        assert driver.say(m.Sent()) == [s.StopReceiving(5), DONE]

    @pytest.mark.parametrize("answer", [s.Verified(verified(WHEEL)), s.Rejected("x"), s.Rejected("x", hostile=True)])
    def test_cancelled_while_verifying(self, answer: s.Event) -> None:
        driver = Driver().to(State.VERIFYING)
        driver.feed(s.Cancelled("expired", TOKEN))
        effects = driver.feed(answer)
        assert effects[-1] == DONE
        assert not any(isinstance(effect, s.Record | s.Release) for effect in effects)

    def test_a_cancelled_lease_is_not_released(self) -> None:
        for message in (m.Bye(), m.Idle(STATS), m.Sent()):
            driver = Driver().to(State.BUILDING)
            driver.feed(s.Cancelled("expired", TOKEN))
            assert not any(isinstance(effect, s.Release) for effect in driver.say(message))

    def test_news_of_an_earlier_lease_does_not_cancel_this_one(self) -> None:
        driver = Driver().to(State.BUILDING)
        driver.feed(s.Cancelled("expired", OTHER_TOKEN))
        assert driver.say(m.Busy(STATS))[-1] == s.Reply(m.Cont())

    def test_a_lease_for_a_session_that_is_gone_goes_back(self) -> None:
        driver = Driver().to(State.CLAIMING)
        driver.feed(s.Silent())
        (release,) = driver.feed(s.Claimed(LEASE))
        assert isinstance(release, s.Release) and release.token == TOKEN


def test_a_verified_file_that_is_not_the_expected_one_changes_nothing() -> None:
    driver = Driver().to(State.VERIFYING)
    with pytest.raises(LocalProtocolError):
        driver.session.handle(s.Verified(replace(verified(WHEEL), filename="other-1.0-py3-none-any.whl")), 0.0)
    driver.session.validate()
    assert driver.session.state is State.VERIFYING


class TestTheEnd:
    @pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
    @pytest.mark.parametrize("event", [s.Silent(), s.Superseded()])
    def test_silence_keeps_the_lease(self, state: State, event: s.Event) -> None:
        effects = Driver().to(state).feed(event)
        stopped = [s.StopReceiving(5)] if state in (State.SENDING, State.VERIFYING) else []
        assert effects[:-1] == stopped
        assert isinstance(effects[-1], s.Forget) and not effects[-1].fault

    @pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
    def test_bye_returns_it(self, state: State) -> None:
        """Without a strike: a builder that is stopped in order three times must not end the job for good."""
        effects = Driver().to(state).say(m.Bye())
        returned = [effect for effect in effects if isinstance(effect, s.Return)]
        assert len(returned) == (state in (State.BUILDING, State.SENDING, State.VERIFYING))
        assert not any(isinstance(effect, s.Release) for effect in effects)
        assert not any(isinstance(effect, s.Reply) for effect in effects)
        assert isinstance(effects[-1], s.Forget)

    @pytest.mark.parametrize("message", [m.Idle(STATS), m.Busy(STATS), built(WHEEL), m.Sent()])
    def test_a_stranger_gets_no_answer(self, message: m.SlaveMessage) -> None:
        """It is an old slave that outlived a restart of the master: it must come again, and not die."""
        (forget,) = Driver().say(message)
        assert isinstance(forget, s.Forget) and forget.fault

    @pytest.mark.parametrize("state", sorted(s.PENDING))
    @pytest.mark.parametrize("message", [HELLO, m.Idle(STATS), m.Busy(STATS), built(WHEEL), m.Sent()])
    def test_a_request_before_the_last_ones_answer(self, state: State, message: m.SlaveMessage) -> None:
        effects = Driver().to(state).say(message)
        assert effects[-2] == DIE and isinstance(effects[-1], s.Forget) and effects[-1].fault
        assert any(isinstance(effect, s.Release) for effect in effects) == (state is State.VERIFYING)

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            (State.READY, m.Sent()),
            (State.BUILDING, m.Sent()),
            (State.SENDING, m.Busy(STATS)),
            (State.SENDING, built(WHEEL)),
        ],
    )
    def test_what_is_out_of_place(self, state: State, message: m.SlaveMessage) -> None:
        effects = Driver().to(state).say(message)
        assert effects[-2] == DIE
        forget = effects[-1]
        assert isinstance(forget, s.Forget) and "Hello at 0.0" in forget.why and type(message).__name__ in forget.why
        assert any(isinstance(effect, s.Release) for effect in effects) == (state in s.HOLDING)

    def test_the_story_is_short(self) -> None:
        driver = Driver().to(State.BUILDING)
        for _ in range(100):
            driver.say(m.Busy(STATS))
        (_, _, forget) = driver.say(m.Sent())
        assert isinstance(forget, s.Forget) and len(forget.why) < 300

    def test_a_message_to_a_session_that_is_gone_is_the_shells_fault(self) -> None:
        with pytest.raises(LocalProtocolError):
            Driver().to(State.GONE).say(HELLO)

    @pytest.mark.parametrize("state", [State.READY, State.BUILDING, State.SENDING])
    @pytest.mark.parametrize("answer", [s.Registered(5, None), s.Claimed(None), s.Recorded(), s.Rejected("x")])
    def test_an_answer_nobody_asked_for_is_the_shells_fault(self, state: State, answer: s.Event) -> None:
        driver = Driver().to(state)
        with pytest.raises(LocalProtocolError):
            driver.feed(answer)
        assert driver.session.state is state


def test_the_table_is_whole() -> None:
    """No row twice, each names a rule that exists, and each state but the last has a way out."""
    rows = [(move.state, move.event) for move in s.DESCRIPTION]
    assert len(rows) == len(set(rows))
    assert all(callable(getattr(s.Session, move.how)) for move in s.DESCRIPTION)
    assert {move.state for move in s.DESCRIPTION} == set(State) - {State.GONE}
    assert {state for move in s.DESCRIPTION for state in move.to} == set(State)


tokens = st.sampled_from([LEASE, OTHER_LEASE])
events = st.one_of(
    st.sampled_from([HELLO, m.Idle(STATS), m.Busy(STATS), m.Sent(), m.Bye(), built(WHEEL), built(WHEEL, SECOND)]).map(
        s.Received
    ),
    samples.slave_messages.map(s.Received),
    st.builds(s.Registered, st.just(5), st.none() | tokens, st.booleans()),
    st.just(s.Refused("no")),
    st.builds(s.Claimed, st.none() | tokens, st.booleans(), st.booleans()),
    st.sampled_from([s.Verified(verified(WHEEL)), s.Verified(verified(SECOND))]),
    st.builds(s.Rejected, st.just("bad"), st.booleans()),
    st.builds(s.Cancelled, st.just("gone"), st.sampled_from([None, TOKEN, OTHER_TOKEN])),
    st.sampled_from([s.Recorded(), s.Receiving()]),
    st.sampled_from([s.Silent(), s.Superseded()]),
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([state for state in State if state is not State.GONE]), st.lists(events, max_size=30))
def test_any_events_in_any_order(start: State, steps: list[Any]) -> None:
    """One reply for one request, and never an exception but for the shell's own faults, which change nothing."""
    driver = Driver().to(start)
    waiting = int(start in s.PENDING)
    for event in steps:
        before = driver.session.state
        try:
            effects = driver.feed(event)
        except LocalProtocolError:
            assert driver.session.state is before
            continue
        waiting += isinstance(event, s.Received) and not isinstance(event.message, m.Bye)
        replies = sum(isinstance(effect, s.Reply) for effect in effects)
        assert replies <= min(waiting, 1)
        waiting -= replies
        after = driver.session.state
        assert any(isinstance(effect, s.Forget) for effect in effects) == (after is State.GONE and before is not after)
        if after is not State.GONE:
            assert waiting == (after in s.PENDING)
