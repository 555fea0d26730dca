# SPDX-License-Identifier: BSD-3-Clause
"""The file channel's dock: who may deliver what, without a socket or a disk."""

import pytest

from piwheels.errors import PeerError
from piwheels.master import receiving as r
from piwheels.wire import messages as m
from piwheels.wire.transfer import Receiver

KEY, OTHER = "k" * 40, "o" * 40
DATA = bytes(range(256)) * 10


def file(size: int = len(DATA)) -> m.FileInfo:
    return m.FileInfo("a.whl", size, "0" * 64, "a", "1", "py3", "none", "any", None)


@pytest.fixture
def dock() -> r.Dock:
    return r.Dock(lambda size: Receiver(size, chunk=500, credit=2, retry_after=5, patience=100))


def expect(dock: r.Dock, key: str = KEY, slave_id: int = 7) -> int:
    """Expect a file with room on disk for it; its number."""
    effects = dock.expect(key, slave_id, file())
    opened = effects[-1]
    assert isinstance(opened, r.Open) and opened.size == len(DATA)
    assert dock.opened(opened.number, 0) == []
    return opened.number


def deliver(dock: r.Dock, effects: list[r.Effect], now: float = 1.0) -> tuple[bytearray, list[r.Effect]]:
    """Answer every Fetch until nothing is asked any more; what was to be written, and everything else."""
    disk, others = bytearray(len(DATA)), []
    todo = list(effects)
    while todo:
        match todo.pop(0):
            case r.Tell(identity, m.Fetch(offset, length)):
                chunk = m.Chunk(offset, DATA[offset : offset + length])
                todo += dock.message(identity, KEY, chunk, now)
            case r.Put(_, offset, data):
                disk[offset : offset + len(data)] = data
            case other:
                others.append(other)
    return disk, others


def test_a_file_arrives(dock: r.Dock) -> None:
    number = expect(dock)
    disk, others = deliver(dock, dock.message(b"conn", KEY, m.FileHello(7), 1.0))
    assert disk == DATA
    assert others == [r.Alive(KEY), r.Tell(b"conn", m.FileDone())]
    assert dock.verify(KEY) == [r.Close(number)]
    assert dock.active == 0


def test_hello_may_come_before_the_disk_has_room(dock: r.Dock) -> None:
    dock.expect(KEY, 7, file())
    assert dock.message(b"conn", KEY, m.FileHello(7), 1.0) == []
    assert [type(effect) for effect in dock.opened(1, 2.0)] == [r.Tell, r.Tell]


def test_a_new_connection_goes_on_where_the_old_one_broke(dock: r.Dock) -> None:
    expect(dock)
    first = dock.message(b"one", KEY, m.FileHello(7), 1.0)
    dock.message(b"one", KEY, m.Chunk(0, DATA[:500]), 1.1)
    again = dock.message(b"two", KEY, m.FileHello(7), 2.0)
    asked = [effect.message.offset for effect in again if isinstance(effect, r.Tell)]
    assert len(first) == 2 and 0 not in asked and asked[0] == 500
    with pytest.raises(PeerError):
        dock.message(b"one", KEY, m.Chunk(500, DATA[500:1000]), 2.1)
    assert isinstance(again[0], r.Tell) and again[0].identity == b"two"


@pytest.mark.parametrize(
    "message", [m.FileHello(8), m.Chunk(0, b"x" * 500), m.Chunk(10**15, b"x"), m.Chunk(0, b"")], ids=repr
)
def test_what_nobody_asked_for_is_refused(dock: r.Dock, message: m.FileHello | m.Chunk) -> None:
    expect(dock)
    with pytest.raises(PeerError):
        dock.message(b"conn", KEY, message, 1.0)
    with pytest.raises(PeerError, match="nothing is expected"):
        dock.message(b"conn", OTHER, message, 1.0)


def test_chunks_outside_the_file_are_refused(dock: r.Dock) -> None:
    expect(dock)
    dock.message(b"conn", KEY, m.FileHello(7), 1.0)
    for offset in (1000, len(DATA), 2**60):
        with pytest.raises(PeerError):
            dock.message(b"conn", KEY, m.Chunk(offset, b"x" * 500), 1.0)


def test_sent_too_early(dock: r.Dock) -> None:
    number = expect(dock)
    refusal = dock.verify(KEY)
    assert refusal[0] == r.Discard(number)
    assert isinstance(refusal[1], r.Refuse)
    assert isinstance(dock.verify(KEY)[0], r.Refuse), "and nothing is expected any more"


def interrupted(dock: r.Dock) -> int:
    """Have the first half of a file come; its number."""
    number = expect(dock)
    dock.message(b"one", KEY, m.FileHello(7), 1.0)
    for start in (0, 1000):  # two in flight: the one between them is lost
        dock.message(b"one", KEY, m.Chunk(start, DATA[start : start + 500]), 1.1)
        dock.message(b"one", KEY, m.Chunk(500, DATA[500:600]), 1.1)
    return number


def test_a_builder_that_lost_both_connections_goes_on_where_it_was(dock: r.Dock) -> None:
    number = interrupted(dock)
    assert dock.stop(KEY) == [], "its session is over; what came is kept"
    assert dock.active == 0
    with pytest.raises(PeerError, match="nothing is expected"):
        dock.message(b"one", KEY, m.Chunk(1500, DATA[1500:2000]), 1.2)
    assert dock.expect(KEY, 7, file()) == [], "and has its place on disk"
    disk, others = deliver(dock, dock.message(b"two", KEY, m.FileHello(7), 1.3), now=3.2)
    assert disk[600:1000] == DATA[600:1000] and disk[1500:] == DATA[1500:]
    assert not any(disk[:600]) and not any(disk[1000:1500]), "nothing came twice"
    assert r.Tell(b"two", m.FileDone()) in others and dock.verify(KEY) == [r.Close(number)]


def test_a_file_that_broke_off_is_asked_for_from_there(dock: r.Dock) -> None:
    number = interrupted(dock)
    assert [type(effect) for effect in dock.verify(KEY)] == [r.Refuse]
    assert dock.expect(KEY, 7, file()) == []
    again = dock.message(b"one", KEY, m.FileHello(7), 1.2)
    assert [effect.message for effect in again if isinstance(effect, r.Tell)] == [m.Fetch(600, 400), m.Fetch(1500, 500)]
    assert dock.stop(OTHER) == [] and dock.failed(number, "broken") != []


def test_whole_before_the_cut_is_whole_after_it(dock: r.Dock) -> None:
    number = expect(dock)
    deliver(dock, dock.message(b"one", KEY, m.FileHello(7), 1.0))
    assert dock.stop(KEY) == dock.expect(KEY, 7, file()) == []
    assert dock.message(b"two", KEY, m.FileHello(7), 2.0) == [r.Tell(b"two", m.FileDone())]
    assert dock.verify(KEY) == [r.Close(number)]


def test_another_file_has_nothing_of_the_part_that_is_kept(dock: r.Dock) -> None:
    number = interrupted(dock)
    dock.stop(KEY)
    effects = dock.expect(KEY, 7, file(size=3000))
    assert effects == [r.Discard(number), r.Open(number + 1, 3000)]


def test_parts_are_kept_for_a_while_only(dock: r.Dock) -> None:
    number = interrupted(dock)
    dock.stop(KEY)
    assert dock.tick(10.0) == dock.tick(10.0 + r.KEPT - 1) == []
    assert dock.tick(10.0 + r.KEPT) == [r.Discard(number)]
    assert dock.tick(1e6) == []


def test_a_part_that_the_disk_lost_is_not_gone_on_with(dock: r.Dock) -> None:
    number = interrupted(dock)
    dock.stop(KEY)
    assert dock.failed(number, "disk broken") == [r.Discard(number)]
    assert dock.expect(KEY, 7, file()) == [r.Open(number + 1, len(DATA))]


def test_trouble_on_disk_ends_the_transfer(dock: r.Dock) -> None:
    number = expect(dock)
    dock.message(b"conn", KEY, m.FileHello(7), 1.0)
    assert dock.failed(number, "disk full") == [r.Discard(number), r.Tell(b"conn", m.FileDone())]
    assert dock.message(b"conn", KEY, m.Chunk(0, DATA[:500]), 1.0) == []
    assert dock.verify(KEY)[-1] == r.Refuse(KEY, "disk full")
    assert dock.failed(number, "disk full") == [], "an answer to what is over"


def test_a_new_expectation_replaces_the_old(dock: r.Dock) -> None:
    old = expect(dock)
    effects = dock.expect(KEY, 7, file())
    assert effects[0] == r.Discard(old)
    assert dock.opened(old, 1.0) == [r.Discard(old)]
    assert dock.stop(KEY) == [r.Discard(old + 1)] and dock.stop(KEY) == []


def test_silence_asks_again_and_then_gives_up(dock: r.Dock) -> None:
    expect(dock)
    dock.message(b"conn", KEY, m.FileHello(7), 0.0)
    assert dock.tick(4.9) == []
    assert [effect.message for effect in dock.tick(5.1) if isinstance(effect, r.Tell)] == [
        m.Fetch(0, 500),
        m.Fetch(500, 500),
    ]
    ended = [effect for now in range(6, 200) for effect in dock.tick(float(now)) if isinstance(effect, r.Discard)]
    assert len(ended) == 1
    assert isinstance(dock.verify(KEY)[-1], r.Refuse)


def test_signs_of_life_are_thinned_out(dock: r.Dock) -> None:
    expect(dock)
    effects = dock.message(b"conn", KEY, m.FileHello(7), 0.0)
    alive = 0
    for step in range(5):
        effects = dock.message(b"conn", KEY, m.Chunk(step * 500, DATA[step * 500 :][:500]), 10 + step * 0.9)
        alive += sum(isinstance(effect, r.Alive) for effect in effects)
    assert alive == 2
