# SPDX-License-Identifier: BSD-3-Clause
"""The two transfer machines: rules one by one, then both over a channel that loses, repeats and reorders."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piwheels.errors import PeerError
from piwheels.wire.messages import Chunk, Fetch, FileDone, FileHello
from piwheels.wire.transfer import Complete, Finished, GiveUp, Receiver, Sender, SendRange, Write


def content(size: int) -> bytes:
    return bytes((n * 31 + n // 251) % 256 for n in range(size))


class TestReceiver:
    def test_asks_for_no_more_than_its_credit(self) -> None:
        receiver = Receiver(100, chunk=10, credit=3)
        assert receiver.start(0) == [Fetch(0, 10), Fetch(10, 10), Fetch(20, 10)]
        assert receiver.handle(Chunk(0, b"a" * 10), 0) == [Write(0, b"a" * 10), Fetch(30, 10)]

    def test_last_block_ends_with_the_file(self) -> None:
        assert Receiver(15, chunk=10).start(0) == [Fetch(0, 10), Fetch(10, 5)]

    def test_empty_file(self) -> None:
        assert Receiver(0).start(0) == [Complete()]

    def test_completes_once(self) -> None:
        receiver = Receiver(10, chunk=10)
        receiver.start(0)
        assert receiver.handle(Chunk(0, b"x" * 10), 1) == [Write(0, b"x" * 10), Complete()]
        assert receiver.handle(Chunk(0, b"x" * 10), 2) == []
        assert receiver.deadline is None
        assert receiver.start(3) == [Complete()], "its FileDone was lost"

    def test_duplicates_change_nothing(self) -> None:
        receiver = Receiver(30, chunk=10, credit=2)
        receiver.start(0)
        receiver.handle(Chunk(0, b"x" * 10), 0)
        assert receiver.handle(Chunk(0, b"y" * 10), 0) == []
        assert receiver.received == 10

    def test_part_of_a_range_counts_and_the_rest_is_asked_for(self) -> None:
        receiver = Receiver(10, chunk=10, retry_after=5)
        receiver.start(0)
        assert receiver.handle(Chunk(0, b"abc"), 1) == [Write(0, b"abc")]
        assert receiver.tick(6) == [Fetch(3, 7)]
        assert receiver.handle(Chunk(0, b"abcdefghij"), 7) == [Write(3, b"defghij"), Complete()]

    def test_a_gap_is_a_loss(self) -> None:
        receiver = Receiver(10, chunk=10)
        receiver.start(0)
        assert receiver.handle(Chunk(5, b"fghij"), 0) == []
        assert receiver.received == 0

    @pytest.mark.parametrize(
        "chunk",
        [
            Chunk(0, b""),
            Chunk(0, b"x" * 11),  # more than the block
            Chunk(5, b"x" * 6),  # across two blocks
            Chunk(20, b"x"),  # within the file, not asked for yet
            Chunk(30, b"x"),  # behind its end
            Chunk(10**18, b"x"),
        ],
    )
    def test_what_was_not_asked_for_is_refused(self, chunk: Chunk) -> None:
        receiver = Receiver(30, chunk=10, credit=2)
        receiver.start(0)
        with pytest.raises(PeerError, match="not asked for"):
            receiver.handle(chunk, 0)
        receiver.validate()
        assert receiver.received == 0

    def test_nothing_is_accepted_before_hello(self) -> None:
        with pytest.raises(PeerError):
            Receiver(30, chunk=10).handle(Chunk(0, b"x" * 10), 0)

    def test_silence_asks_again_ever_more_slowly(self) -> None:
        receiver = Receiver(10, chunk=10, retry_after=5, patience=1000)
        receiver.start(0)
        asked = []
        for now in range(100):
            if receiver.tick(now):
                asked.append(now)
        assert asked == [5, 15, 35, 75]

    def test_a_slow_line_is_not_a_loss(self) -> None:
        """Each block takes 4 s of a 5 s silence: nothing is asked for twice although blocks are 30 s old by then."""
        receiver = Receiver(200, chunk=10, credit=8, retry_after=5)
        asked = [fetch.offset for fetch in receiver.start(0) if isinstance(fetch, Fetch)]
        for index in range(20):
            now = 4 * (index + 1)
            assert receiver.tick(now) == []
            effects = receiver.handle(Chunk(index * 10, b"x" * 10), now)
            asked += [effect.offset for effect in effects if isinstance(effect, Fetch)]
        assert asked == list(range(0, 200, 10))
        assert receiver.over

    def test_a_block_overtaken_by_a_whole_credit_is_asked_for_again(self) -> None:
        receiver = Receiver(1000, chunk=10, credit=3)
        receiver.start(0)
        effects = [receiver.handle(Chunk(offset, b"x" * 10), 0) for offset in (10, 20, 30)]
        assert [Fetch(0, 10) in each for each in effects] == [False, False, True]

    def test_a_new_connection_asks_again_and_the_same_does_not(self) -> None:
        receiver = Receiver(100, chunk=10, credit=2)
        receiver.start(0)
        assert receiver.start(2, new_peer=False) == []
        assert receiver.start(2) == [Fetch(0, 10), Fetch(10, 10)]
        assert receiver.start(2.5) == [], "hellos in a row are not answered eightfold"

    def test_gives_up_without_progress(self) -> None:
        receiver = Receiver(100, chunk=10, patience=60)
        receiver.start(0)
        effects: list[object] = []
        for now in range(100):
            if now % 2 and not receiver.over:
                receiver.handle(Chunk(0, b"x" * (now // 20 + 1)), now)  # bytes, but never a block
            effects += receiver.tick(now)
        assert isinstance(effects[-1], GiveUp) and "no progress" in effects[-1].why
        assert receiver.deadline is None

    @pytest.mark.parametrize(("size", "chunk", "credit"), [(-1, 10, 1), (1, 0, 1), (1, 2**30, 1), (1, 10, 0)])
    def test_nonsense_is_refused(self, size: int, chunk: int, credit: int) -> None:
        with pytest.raises(ValueError, match="no transfer"):
            Receiver(size, chunk=chunk, credit=credit)


class TestSender:
    def test_repeats_hello_in_silence_and_gives_up(self) -> None:
        sender = Sender(100, slave_id=7, patience=12)
        assert sender.start(0) == [FileHello(7)]
        assert [sender.tick(now) for now in (4, 5, 9, 10)] == [[], [FileHello(7)], [], [FileHello(7)]]
        assert [type(effect) for effect in sender.tick(12)] == [GiveUp]
        assert sender.deadline is None

    def test_serves_what_the_file_has(self) -> None:
        sender = Sender(100, slave_id=7, longest=50)
        sender.start(0)
        assert sender.handle(Fetch(90, 10), 3) == [SendRange(90, 10)]
        assert sender.handle(Fetch(0, 100), 3) == [SendRange(0, 50)], "in parts, where too much is asked for at once"
        assert sender.tick(7) == [], "it heard something at 3"

    @pytest.mark.parametrize("fetch", [Fetch(0, 101), Fetch(100, 1), Fetch(0, 0), Fetch(-1, 5), Fetch(10**18, 10**18)])
    def test_refuses_what_the_file_has_not(self, fetch: Fetch) -> None:
        sender = Sender(100, slave_id=7)
        sender.start(0)
        with pytest.raises(PeerError, match="of a file of 100"):
            sender.handle(fetch, 0)

    def test_ends_with_done(self) -> None:
        sender = Sender(100, slave_id=7)
        sender.start(0)
        assert sender.handle(FileDone(), 1) == [Finished()]
        assert sender.handle(Fetch(0, 1), 1) == []
        assert sender.deadline is None


@dataclass
class Channel:
    """Both machines, and frames on their way between them, in a world where chance decides what becomes of each."""

    size: int
    chunk: int
    credit: int
    chance: st.DataObject
    now: float = 0.0
    written: bytearray = field(default_factory=bytearray)
    covered: list[bool] = field(default_factory=list)
    finished: bool = False

    def __post_init__(self) -> None:
        self.data = content(self.size)
        self.written, self.covered = bytearray(self.size), [False] * self.size
        self.receiver = Receiver(self.size, chunk=self.chunk, credit=self.credit, retry_after=1, patience=1e9)
        self.sender = Sender(self.size, slave_id=1, patience=1e9, longest=max(1, self.chunk - 1))
        self.to_master: list[FileHello | Chunk] = list(self.sender.start(0))
        self.to_slave: list[Fetch | FileDone] = []

    def run(self, *, faults: int) -> None:
        """Carry on until the sender knows that it is done; so many frames meet with a fault."""
        for _ in range(20 * self.size + 20 * faults + 200):
            if self.finished:
                return
            fault = "none"
            if faults and (self.to_master or self.to_slave):
                faults -= 1
                fault = self.chance.draw(st.sampled_from(["none", "lose", "repeat", "later"]))
            self.step(fault)
        raise AssertionError("the transfer does not come to an end")

    def step(self, fault: str) -> None:
        queue: list[object] = self.to_master or self.to_slave  # type: ignore[assignment]
        if not queue:
            self.pass_time()
            return
        if fault == "later":
            queue.append(queue.pop(0))
        elif fault == "lose":
            queue.pop(0)
        elif fault == "repeat":
            queue.append(queue[0])
        else:
            self.deliver(queue.pop(0))

    def deliver(self, message: object) -> None:
        if isinstance(message, FileHello):
            self.obey(self.receiver.start(self.now))
        elif isinstance(message, Chunk):
            self.obey(self.receiver.handle(message, self.now))
        elif isinstance(message, Fetch | FileDone):
            for effect in self.sender.handle(message, self.now):
                if isinstance(effect, SendRange):
                    assert 0 <= effect.offset < effect.offset + effect.length <= self.size
                    data = self.data[effect.offset : effect.offset + effect.length]
                    self.to_master.append(Chunk(effect.offset, data))
                else:
                    self.finished = True

    def obey(self, effects: list[object]) -> None:  # type: ignore[type-arg,unused-ignore]
        for effect in effects:
            if isinstance(effect, Write):
                end = effect.offset + len(effect.data)
                assert not any(self.covered[effect.offset : end]), "no byte is written twice"
                self.covered[effect.offset : end] = [True] * len(effect.data)
                self.written[effect.offset : end] = effect.data
            elif isinstance(effect, Fetch):
                assert effect.length <= self.chunk and effect.offset + effect.length <= self.size
                self.to_slave.append(effect)
            elif isinstance(effect, Complete):
                self.to_slave.append(FileDone())
        self.receiver.validate()

    def pass_time(self) -> None:
        deadlines = [at for at in (self.receiver.deadline, self.sender.deadline) if at is not None]
        self.now = max(self.now, min(deadlines))
        self.obey(list(self.receiver.tick(self.now)))
        self.to_master += [effect for effect in self.sender.tick(self.now) if isinstance(effect, FileHello)]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 120), st.integers(1, 40), st.integers(1, 5), st.integers(0, 60), st.data())
def test_every_byte_arrives_once_whatever_the_channel_does(
    size: int, chunk: int, credit: int, faults: int, chance: st.DataObject
) -> None:
    channel = Channel(size, chunk, credit, chance)
    channel.run(faults=faults)
    assert bytes(channel.written) == channel.data
    assert all(channel.covered)
    assert channel.receiver.received == size


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(
    st.builds(Chunk, st.integers(0, 80), st.binary(max_size=25)),
    st.sampled_from(["hello", "tick"]),
), max_size=40))  # fmt: skip
def test_any_chunks_at_any_time(events: list[Chunk | str]) -> None:
    receiver = Receiver(60, chunk=20, credit=2, retry_after=1, patience=30)
    asked = [False] * 60
    for now, event in enumerate(events):
        try:
            if isinstance(event, Chunk):
                effects: list[object] = list(receiver.handle(event, now))
            else:
                effects = list(receiver.start(now)) if event == "hello" else list(receiver.tick(now))
        except PeerError:
            continue
        finally:
            receiver.validate()
        for effect in effects:
            if isinstance(effect, Write):
                assert all(asked[effect.offset : effect.offset + len(effect.data)])
            if isinstance(effect, Fetch):
                asked[effect.offset : effect.offset + effect.length] = [True] * effect.length
