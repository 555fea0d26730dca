# SPDX-License-Identifier: BSD-3-Clause
"""Who is talking to dispatch, without a socket: sessions told apart, replaced, cut off, forgotten."""

from datetime import UTC, datetime, timedelta

import pytest

from piwheels.errors import PeerError
from piwheels.master import session as s
from piwheels.master.dispatch_desk import Builder, Desk, Task
from piwheels.vocabulary import FailureReason
from piwheels.wire import messages as m

KEY, OTHER = "k" * 40, "o" * 40
STATS = m.Stats(datetime(2026, 1, 1, tzinfo=UTC), 1, 1, 1, 1, 1, 1, 0.0, 0.0)
ORDER = m.Order("0" * 32, "t", "s.tar.gz", "https://example.org/s", "a" * 64, 1, timedelta(hours=1), 0)
LEASE = s.Lease("0" * 32, 1, 1, "spidev", "spidev", "3.6", ORDER)
HELLO = m.Hello(
    timedelta(hours=3), timedelta(minutes=5), "311", "cp311", "linux_armv7l", "one", "", "", "", "", m.Capabilities()
)


@pytest.fixture
def desk() -> Desk:
    made = Desk(s.Session, max_sessions=3)
    assert made.admit({KEY, OTHER}) == []
    return made


def effects(tasks: list[Task]) -> list[s.Effect]:
    return [effect for _, effect in tasks]


def join(desk: Desk, identity: bytes = b"1", key: str = KEY, *, resumed: s.Lease | None = None) -> Builder:
    """A registered builder."""
    ((builder, effect),) = desk.message(identity, key, HELLO, 0.0)
    assert effect == s.Register(HELLO)
    answers = desk.answer(builder.number, s.Registered(7, resumed), 0.0)
    assert s.Reply(m.Ack(7, "")) in effects(answers)
    return builder


def test_a_builder_joins_and_is_given_a_job(desk: Desk) -> None:
    builder = join(desk)
    assert effects(desk.message(b"1", KEY, m.Idle(STATS), 1.0)) == [s.Seen(7, STATS), s.Claim(7)]
    answer = effects(desk.answer(builder.number, s.Claimed(LEASE), 1.0))
    assert answer == [s.Reply(m.Build("spidev", "3.6", ORDER))]
    assert builder.token == LEASE.token


def test_who_gets_no_answer(desk: Desk) -> None:
    with pytest.raises(PeerError, match="hello"):
        desk.message(b"1", KEY, m.Idle(STATS), 0.0)
    with pytest.raises(PeerError, match="admitted"):
        desk.message(b"1", "x" * 40, HELLO, 0.0)
    join(desk)
    with pytest.raises(PeerError, match="another"):
        desk.message(b"1", OTHER, m.Idle(STATS), 0.0)
    with pytest.raises(PeerError, match="another"):
        desk.message(b"1", OTHER, HELLO, 0.0)
    assert len(desk) == 1


def test_a_new_session_replaces_the_old_once_it_is_registered(desk: Desk) -> None:
    old = join(desk, b"1", resumed=LEASE)
    ((new, _),) = desk.message(b"2", KEY, HELLO, 1.0)
    assert not old.gone, "until it is known who the new one is"
    tasks = desk.answer(new.number, s.Registered(7, LEASE), 1.0)
    assert [(builder, type(effect)) for builder, effect in tasks] == [(old, s.Forget), (new, s.Reply)]
    assert old.gone and len(desk) == 1
    assert effects(desk.message(b"2", KEY, m.Busy(STATS), 2.0))[-1] == s.Reply(m.Cont())
    with pytest.raises(PeerError):
        desk.message(b"1", KEY, m.Busy(STATS), 2.0)


def test_hello_again_replaces_the_one_that_waits(desk: Desk) -> None:
    ((first, _),) = desk.message(b"1", KEY, HELLO, 0.0)
    for number in range(50):
        desk.message(b"%d" % number, KEY, HELLO, 0.0)
    assert len(desk) == 1 and first.gone
    assert desk.answer(first.number, s.Registered(7, None), 0.0) == []


def test_hello_on_the_same_connection(desk: Desk) -> None:
    old = join(desk)
    tasks = desk.message(b"1", KEY, HELLO, 1.0)
    assert [type(effect) for effect in effects(tasks)] == [s.Forget, s.Register]
    assert old.gone and len(desk) == 1


def test_sessions_are_bounded(desk: Desk) -> None:
    keys = [f"{n}" * 40 for n in range(5)]
    desk.admit(keys)
    for number, key in enumerate(keys[:3]):
        join(desk, b"%d" % number, key)
    with pytest.raises(PeerError, match="3 builders"):
        desk.message(b"3", keys[3], HELLO, 0.0)
    assert len(desk) == 3


def test_silence_ends_a_session_and_a_sign_of_life_does_not(desk: Desk) -> None:
    builder = join(desk)
    assert builder.deadline == 0.0 + 300 + 30
    assert desk.tick(329.0) == []
    desk.message(b"1", KEY, m.Busy(STATS), 320.0)
    assert desk.tick(640.0) == []
    assert [type(effect) for effect in effects(desk.tick(651.0))] == [s.Forget]
    assert len(desk) == 0


@pytest.mark.parametrize(("announced", "counted"), [(1, 10), (86400, 3600)])
def test_patience_is_bounded(desk: Desk, announced: int, counted: int) -> None:
    odd = m.Hello(timedelta(hours=3), timedelta(seconds=announced), "311", "cp311", "x", "", "", "", "", "")
    ((builder, _),) = desk.message(b"1", KEY, odd, 0.0)
    assert builder.deadline == counted + 30


def test_arriving_bytes_are_a_sign_of_life(desk: Desk) -> None:
    builder = join(desk, resumed=LEASE)
    sha, name = "a" * 64, "spidev-3.6-py3-none-any.whl"
    file = m.FileInfo(name, 10, sha, "spidev", "3.6", "py3", "none", "any", None)
    report = m.BuildReport(LEASE.token)
    told = effects(desk.message(b"1", KEY, m.Built(True, timedelta(0), "", (file,), report), 1.0))
    assert told == [s.Expect(7, file, LEASE), s.Reply(m.Send(name))]
    assert effects(desk.file_event(KEY, s.Receiving(), 500.0)) == [s.Renew(LEASE.token, None, "")]
    assert builder.heard == 500.0
    assert desk.file_event(OTHER, s.Receiving(), 500.0) == []


def test_a_lease_that_is_over_is_told_to_its_holder_only(desk: Desk) -> None:
    join(desk, b"1", KEY, resumed=LEASE)
    other = join(desk, b"2", OTHER)
    assert desk.cancel(LEASE.token, "expired", 1.0) == []
    assert effects(desk.message(b"1", KEY, m.Busy(STATS), 2.0))[-1] == s.Reply(m.Done())
    assert not other.gone
    assert desk.cancel("f" * 32, "expired", 1.0) == []


def test_keys_taken_away_cut_their_sessions_off(desk: Desk) -> None:
    bad, good = join(desk, b"1", KEY), join(desk, b"2", OTHER)
    assert desk.admit({OTHER}) == [bad]
    assert bad.gone and not good.gone and desk.admitted == 1
    with pytest.raises(PeerError, match="admitted"):
        desk.message(b"1", KEY, m.Busy(STATS), 1.0)
    assert desk.answer(bad.number, s.Recorded(), 1.0) == []


def test_forgetting_twice_is_harmless(desk: Desk) -> None:
    builder = join(desk)
    desk.forget(builder)
    desk.forget(builder)
    assert len(desk) == 0 and not desk.holds(builder.number)


def test_what_is_out_of_turn_ends_in_die(desk: Desk) -> None:
    join(desk, resumed=LEASE)
    told = effects(desk.message(b"1", KEY, m.Sent(), 1.0))
    assert s.Reply(m.Die()) in told and isinstance(told[-1], s.Forget) and told[-1].fault
    assert any(isinstance(effect, s.Release) and effect.reason is FailureReason.BUILDER for effect in told)
