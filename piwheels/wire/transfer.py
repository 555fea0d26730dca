# SPDX-License-Identifier: BSD-3-Clause
"""How a file crosses the file channel: two pure machines, the master's Receiver and the builder's Sender.

Own which ranges are asked for, asked for again, accepted and refused; must not know sockets, files, hashes or clocks.
``now`` is monotonic, in seconds. The shells execute the effects in order and call ``tick`` when ``deadline`` has come.
Receiver and Sender keep a few numbers for each range in flight, whatever the size of the file.

The Receiver asks for the file block by block and keeps ``credit`` blocks in flight. 256 KiB by 8 is 2 MiB: enough for
20 MB/s over 100 ms of latency, few enough messages that the cost of each does not count, little enough that a
thousand transfers do not fill the master's memory and that one of them never holds a builder's reply up for long.

Frames may be lost. On a channel that keeps order, a block is missed once ``credit`` blocks asked for after it have
come; otherwise after a silence of the whole channel, doubled each time. It is silence that counts and not a block's
own age, because on a slow line 2 MiB take longer than any reasonable wait, and asking again only adds to the queue.
"""

from dataclasses import dataclass

from piwheels.errors import PeerError
from piwheels.wire.codec import MAX_CHUNK
from piwheels.wire.messages import Chunk, Fetch, FileDone, FileHello

CHUNK = 256 * 1024  #: bytes asked for at once
CREDIT = 8  #: blocks in flight
RETRY_AFTER = 5.0  #: seconds of silence after which everything in flight is asked for again
RETRY_CAP = 60.0
PATIENCE = 300.0  #: seconds without any progress after which a transfer is given up
HELLO_PAUSE = 1.0  #: seconds within which a second HELLO is not answered: eight FETCHes for each would be generous
HELLO_AFTER = 5.0  #: seconds of silence after which a builder repeats its HELLO (docs/protocol.rst)


@dataclass(frozen=True, slots=True)
class Write:
    """Write these bytes there. Never given twice for the same place."""

    offset: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Complete:
    """Every byte has been given to Write once. Say FileDone and check the file's hash."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The other side is of no use any more; drop the transfer."""

    why: str


@dataclass(frozen=True, slots=True)
class SendRange:
    """Read this range of the file and send it as one Chunk."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The master has it all."""


@dataclass(slots=True)
class _Block:
    """A block in flight: its bytes from ``start`` on have not come yet."""

    start: int
    end: int
    number: int  #: when it was asked for, in the order of all askings
    overtaken: int = 0  #: blocks that came although asked for later


class Receiver:
    """The master's side of one file. Feed ``start`` once the builder's HELLO has come, and again with each HELLO."""

    def __init__(
        self,
        size: int,
        *,
        chunk: int = CHUNK,
        credit: int = CREDIT,
        retry_after: float = RETRY_AFTER,
        patience: float = PATIENCE,
    ) -> None:
        if size < 0 or not 0 < chunk <= MAX_CHUNK or credit < 1:
            raise ValueError(f"no transfer of {size} bytes in blocks of {chunk}, {credit} in flight")
        self.size = size
        self.received = 0  #: bytes
        self.over = False  #: whether Complete or GiveUp has been given
        self.deadline: float | None = None  #: when ``tick`` is wanted
        self._chunk = chunk
        self._credit = credit
        self._retry_after = retry_after
        self._patience = patience
        self._frontier = 0  #: what lies before has been asked for at least once
        self._flight: dict[int, _Block] = {}  #: by number of the block in the file
        self._asked = 0
        self._silences = 0  #: in a row
        self._give_up_at = 0.0
        self._deaf_until = 0.0  #: HELLOs before that are not answered

    def start(self, now: float, *, new_peer: bool = True) -> list[Fetch | Complete]:
        """The builder said HELLO: ask for what is missing. ``new_peer`` False: it is the same connection as before.

        From a new connection, whatever is in flight is lost and asked for again. From the same one it may only mean
        that the line is slow; then silence decides, as ever.
        """
        if self.over:
            return [Complete()] if self.received == self.size else []
        if self.deadline is None:
            self._give_up_at = now + self._patience
        elif not new_peer or now < self._deaf_until:
            return []
        self._deaf_until = now + HELLO_PAUSE
        if self.received == self.size:
            return [self._complete()]
        again = [self._ask(block) for block in self._flight.values()]
        return [*again, *self._advance(now)]

    def resume(self) -> None:
        """The file is announced anew, after the builder was away: the next ``start`` asks at once for what is missing,
        and the patience with it begins again."""
        if not self.over:
            self.deadline, self._deaf_until, self._silences = None, 0.0, 0

    def handle(self, chunk: Chunk, now: float) -> list[Write | Fetch | Complete]:
        """Bytes came. PeerError, and nothing changed, when they lie outside what was ever asked for."""
        end = chunk.offset + len(chunk.data)
        index = chunk.offset // self._chunk
        if not chunk.data or chunk.offset < 0 or end > min(self._frontier, (index + 1) * self._chunk):
            raise PeerError(f"a chunk of {len(chunk.data)} bytes at {chunk.offset}, which was not asked for")
        block = self._flight.get(index)
        # A chunk may end before its block does: the rest is then asked for. One that leaves a gap counts as lost.
        if self.over or block is None or end <= block.start or chunk.offset > block.start:
            return []
        data = chunk.data[block.start - chunk.offset :]
        effects: list[Write | Fetch | Complete] = [Write(block.start, data)]
        self.received += len(data)
        block.start = end
        self._silences = 0
        if end == block.end:
            # Only whole blocks are progress: single bytes would hold a transfer open for ever.
            self._give_up_at = now + self._patience
            del self._flight[index]
            effects += self._missed(block.number)
        if self.received == self.size:
            return [*effects, self._complete()]
        return [*effects, *self._advance(now)]

    def tick(self, now: float) -> list[Fetch | GiveUp]:
        """Time passed: ask again for what did not come."""
        if self.over or self.deadline is None or now < self.deadline:
            return []
        if now >= self._give_up_at:
            self.over, self.deadline = True, None
            return [GiveUp(f"no progress for {self._patience:.0f} s, {self.received} of {self.size} bytes arrived")]
        self._silences += 1
        again: list[Fetch | GiveUp] = [self._ask(block) for block in self._flight.values()]
        self._set_deadline(now)
        return again

    def validate(self) -> None:
        """Raise AssertionError if the books do not balance (for tests)."""
        assert len(self._flight) <= self._credit
        missing = sum(block.end - block.start for block in self._flight.values())
        assert self.received + missing == min(self._frontier, self.size)
        assert self.over or self.deadline is None or self._flight
        assert all(index * self._chunk <= b.start < b.end for index, b in self._flight.items())

    def _advance(self, now: float) -> list[Fetch]:
        """Ask for new blocks while there is credit."""
        fetches = []
        while self._frontier < self.size and len(self._flight) < self._credit:
            end = min(self._frontier + self._chunk, self.size)
            block = self._flight[self._frontier // self._chunk] = _Block(self._frontier, end, 0)
            self._frontier = end
            fetches.append(self._ask(block))
        self._set_deadline(now)
        return fetches

    def _missed(self, number: int) -> list[Fetch]:
        """Ask again for blocks that so many later ones have overtaken that they must be lost."""
        fetches = []
        for block in self._flight.values():
            block.overtaken += block.number < number
            if block.overtaken >= self._credit:
                fetches.append(self._ask(block))
        return fetches

    def _ask(self, block: _Block) -> Fetch:
        self._asked += 1
        block.number, block.overtaken = self._asked, 0
        return Fetch(block.start, block.end - block.start)

    def _set_deadline(self, now: float) -> None:
        wait = min(self._retry_after * 2.0 ** min(self._silences, 16), max(RETRY_CAP, self._retry_after))
        self.deadline = min(now + wait, self._give_up_at)

    def _complete(self) -> Complete:
        self.over, self.deadline = True, None
        return Complete()


class Sender:
    """The builder's side of one file, from HELLO to DONE."""

    def __init__(
        self,
        size: int,
        *,
        slave_id: int,
        hello_after: float = HELLO_AFTER,
        patience: float = PATIENCE,
        longest: int = MAX_CHUNK,
    ) -> None:
        self.size = size
        self.over = False  #: whether Finished or GiveUp has been given
        self.deadline: float | None = None  #: when ``tick`` is wanted
        self._hello = FileHello(slave_id)
        self._hello_after = hello_after
        self._patience = patience
        self._longest = longest  #: of one Chunk; a longer range is served in part, and asked for again
        self._give_up_at = 0.0

    def start(self, now: float) -> list[FileHello]:
        """The channel is there."""
        self._heard(now)
        return [self._hello]

    def handle(self, message: Fetch | FileDone, now: float) -> list[SendRange | Finished]:
        """The master spoke. PeerError, and nothing sent, when it asks for what the file has not."""
        if self.over:
            return []
        if isinstance(message, FileDone):
            self.over, self.deadline = True, None
            return [Finished()]
        if message.length < 1 or message.offset < 0 or message.offset + message.length > self.size:
            raise PeerError(f"asked for {message.length} bytes at {message.offset} of a file of {self.size}")
        self._heard(now)
        return [SendRange(message.offset, min(message.length, self._longest))]

    def tick(self, now: float) -> list[FileHello | GiveUp]:
        """Time passed: the master may have missed HELLO, or have been restarted."""
        if self.over or self.deadline is None or now < self.deadline:
            return []
        if now >= self._give_up_at:
            self.over, self.deadline = True, None
            return [GiveUp(f"the master asked for nothing for {self._patience:.0f} s")]
        self.deadline = min(now + self._hello_after, self._give_up_at)
        return [self._hello]

    def _heard(self, now: float) -> None:
        self._give_up_at = now + self._patience
        self.deadline = min(now + self._hello_after, self._give_up_at)
