# SPDX-License-Identifier: BSD-3-Clause
"""Master's and builders' machines against each other, by rules that Hypothesis plays and at every step of one build."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from piwheels.master import session as master
from piwheels.slave import session as slave
from piwheels.vocabulary import FailureReason
from tests.unit.sessions_world import KEYS, World

keys = st.sampled_from(KEYS)


class Sessions(RuleBasedStateMachine):
    """The rules that Hypothesis plays."""

    @initialize()
    def begin(self) -> None:
        self.world = World()

    @rule(key=keys, times=st.integers(1, 4))
    def turns(self, key: str, times: int) -> None:
        for _ in range(times):
            self.world.turn(key)

    @rule(key=keys, count=st.integers(1, 3))
    def build_succeeds(self, key: str, count: int) -> None:
        """From wherever the builder stands, as far as its result's being sent."""
        for _ in range(3):
            self.world.turn(key)
        self.world.build_ends(key, None, count)

    @rule(key=keys, verdict=st.sampled_from(["right", "right", "wrong", "hostile"]))
    def file_is_handed_over(self, key: str, verdict: str) -> None:
        """Also one that did not come, where none is expected any more."""
        self.world.turn(key)
        self.world.file_ends(key, ok=True)
        self.world.verdict = verdict
        self.world.turn(key)
        self.world.verdict = "right"

    @rule(key=keys)
    def request_arrives(self, key: str) -> None:
        self.world.request_arrives(key)

    @rule(key=keys)
    def reply_arrives(self, key: str) -> None:
        self.world.reply_arrives(key)

    @rule(key=keys)
    def work_is_done(self, key: str) -> None:
        self.world.do_work(key)

    @rule(key=keys)
    def time_passes(self, key: str) -> None:
        self.world.tick(key)

    @rule(key=keys)
    def builder_loses_patience(self, key: str) -> None:
        self.world.tick(key, impatient=True)

    @rule(
        key=keys,
        reason=st.sampled_from([None, None, None, FailureReason.PACKAGE, FailureReason.DISK]),
        count=st.integers(1, 3),
    )
    def build_ends(self, key: str, reason: FailureReason | None, count: int) -> None:
        self.world.build_ends(key, reason, count)

    @rule(key=keys, ok=st.booleans())
    def file_ends(self, key: str, ok: bool) -> None:
        self.world.file_ends(key, ok=ok)

    @rule(key=keys)
    def request_is_lost(self, key: str) -> None:
        self.world.builders[key].outgoing.clear()

    @rule(key=keys)
    def reply_is_lost(self, key: str) -> None:
        self.world.builders[key].incoming.clear()

    @rule(key=keys)
    def connection_drops(self, key: str) -> None:
        self.world.builders[key].feed(slave.Lost("the connection dropped"), self.world.now)

    @rule(told=st.booleans())
    def master_restarts(self, told: bool) -> None:
        self.world.start_master()
        for builder in self.world.builders.values():
            builder.incoming.clear()
            if told and builder.exited is None:
                builder.feed(slave.Lost("the connection dropped"), self.world.now)

    @rule(key=keys)
    def builder_is_killed(self, key: str) -> None:
        self.world.start_builder(key)

    @rule(key=keys)
    def builder_is_stopped(self, key: str) -> None:
        builder = self.world.builders[key]
        builder.feed(slave.Shutdown(), self.world.now)
        assert builder.exited is not None and builder.exited.asked and builder.building is None
        self.world.request_arrives(key)
        self.world.bury(key)

    @rule(number=st.integers(0, 1))
    def lease_expires(self, number: int) -> None:
        jobs = [job for job in self.world.database.jobs if job.token is not None]
        if number < len(jobs):
            token = jobs[number].token
            assert token is not None
            self.world.database.release(token)
            self.world.obey(self.world.desk.cancel(token, "expired", self.world.now))

    @rule(number=st.integers(0, 1))
    def lease_expires_unnoticed(self, number: int) -> None:
        jobs = [job for job in self.world.database.jobs if job.token is not None]
        if number < len(jobs) and jobs[number].token is not None:
            self.world.database.release(jobs[number].token or "")

    @rule(paused=st.booleans())
    def operator_pauses(self, paused: bool) -> None:
        self.world.database.paused = paused

    @rule(seconds=st.sampled_from([10.0, 200.0, 400.0]))
    def master_looks_at_its_clock(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.obey(self.world.desk.tick(self.world.now))

    @invariant()
    def sessions_are_sound(self) -> None:
        held = [builder.session.lease.token for builder in self.world.desk.builders() if builder.session.lease]
        assert len(held) == len(set(held)), "a job is held by two live sessions"
        for builder in self.world.desk.builders():
            builder.session.validate()
            waiting = self.world.unanswered.get(builder.identity, 0)
            assert waiting == (builder.session.state in master.PENDING), builder.session.state

    @invariant()
    def builders_are_sound(self) -> None:
        for builder in self.world.builders.values():
            builder.session.validate()
            assert builder.exited is None, "an honest builder is never told to die"
            assert (builder.building is not None) == (builder.session.work is not None)
            assert (builder.offering is not None) == (builder.session.state is slave.State.SENDING)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.run_fairly()


Sessions.TestCase.settings = settings(
    deadline=None, max_examples=80, stateful_step_count=80, suppress_health_check=[HealthCheck.too_slow]
)
TestSessions = Sessions.TestCase


def test_a_build_survives_a_restart_of_the_master_at_every_step() -> None:
    """One builder, one job, two wheels; the master is restarted after each number of steps in turn. The job comes to
    its result, and from the moment that the builder has it, it is never handed out again."""
    for fatal in range(60):
        world = World()
        del world.database.jobs[1:]
        key, known = KEYS[0], False
        for step in range(60):
            if step == fatal:
                known = world.builders[key].building is not None
                world.start_master()
                world.builders[key].feed(slave.Lost("the connection dropped"), world.now)
            move = (world.tick, world.request_arrives, world.do_work, world.do_work, world.reply_arrives)[step % 5]
            move(key)
            if step == 24:
                world.build_ends(key, None, 2)
            world.file_ends(key, ok=True)
        world.run_fairly()
        (result,) = world.database.recorded.values()
        assert result.ok, fatal
        assert world.database.handed_out == 1 or not known, fatal
