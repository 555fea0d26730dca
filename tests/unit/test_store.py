# SPDX-License-Identifier: BSD-3-Clause
"""The store on disk, and files arriving for it."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from piwheels.errors import TransferError, UnavailableError
from piwheels.master.receiving_disk import Arrived, ArrivingFile, Disk
from piwheels.master.store import Store, write_file, write_files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def incoming(store: Store, data: bytes) -> tuple[Path, bytes]:
    path = store.part("1")
    path.write_bytes(data)
    return path, hashlib.sha256(data).digest()


def test_a_file_goes_where_its_hash_says(store: Store) -> None:
    part, digest = incoming(store, b"wheel")
    path = store.add(part, digest)
    assert path == store.root / digest.hex()[:2] / digest.hex()
    assert path.read_bytes() == b"wheel" and not part.exists()
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_same_content_twice_keeps_the_first_file(store: Store) -> None:
    path = store.add(*incoming(store, b"wheel"))
    first = path.stat().st_ino
    os.utime(path, (1, 1))
    part, digest = incoming(store, b"wheel")
    store.add(part, digest)
    assert path.stat().st_ino == first and not part.exists()
    assert path.stat().st_mtime > 1, "it is young again, so that no sweep takes it"


def test_bytes(store: Store) -> None:
    digest = store.add_bytes(b"Metadata-Version: 2.1\n")
    assert digest == hashlib.sha256(b"Metadata-Version: 2.1\n").digest()
    assert store.path(digest).read_bytes() == b"Metadata-Version: 2.1\n"
    assert list(store.incoming.iterdir()) == []


def test_prepare_removes_what_was_half_received(store: Store) -> None:
    incoming(store, b"half")
    Store(store.root).prepare()
    assert list(store.incoming.iterdir()) == []


def test_a_store_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match=r"cannot use the store at .*file"):
        Store(tmp_path / "file").prepare()


def test_candidates_are_old_and_linked_from_nowhere(store: Store, tmp_path: Path) -> None:
    old, young, listed = (store.add_bytes(name) for name in (b"old", b"young", b"listed"))
    for digest in (old, listed):
        os.utime(store.path(digest), (1, 1))
    (tmp_path / "link").hardlink_to(store.path(listed))
    (store.root / f"{old[0]:02x}" / "not-a-hash").write_text("")
    found = [digest for shard in range(256) for digest in store.candidates(age=60, shard=shard)]
    assert found == [old] and young not in found


def test_discard_spares_what_was_kept_meanwhile(store: Store) -> None:
    digest = store.add_bytes(b"x")
    os.utime(store.path(digest), (1, 1))
    assert store.keep([digest])
    assert not store.discard(digest, age=60)
    os.utime(store.path(digest), (1, 1))
    assert store.discard(digest, age=60) and not store.path(digest).exists()
    assert not store.discard(digest, age=60)
    assert not store.keep([digest])


def test_write_file_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "0000" / "1.txt"
    for text in (b"first", b"second"):
        write_file(path, text)
        assert path.read_bytes() == text
    assert [entry.name for entry in path.parent.iterdir()] == ["1.txt"]


@pytest.mark.parametrize("seed", range(5))
def test_chunks_in_any_order_and_twice_give_the_right_hash(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(10_000)
    file = ArrivingFile.create(tmp_path / "part", len(data))
    pieces = [(start, data[start : start + 700]) for start in range(0, len(data), 700)]
    pieces += [*chance.sample(pieces, 5), (50, data[50:3000])]
    chance.shuffle(pieces)
    for offset, piece in pieces:
        file.write(offset, piece)
    assert file.digest() == hashlib.sha256(data).digest()
    file.close()
    assert file.path.read_bytes() == data


def test_what_is_hashed_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    file = ArrivingFile.create(tmp_path / "part", 8)
    file.write(0, b"good")
    file.write(0, b"evil")
    file.write(2, b"XXmore")
    assert file.digest() == hashlib.sha256(b"goodmore").digest()
    file.close()
    assert file.path.read_bytes() == b"goodmore"


def test_a_gap_is_no_whole_file(tmp_path: Path) -> None:
    file = ArrivingFile.create(tmp_path / "part", 10)
    assert file.path.stat().st_size == 10, "preallocated"
    file.write(5, b"later")
    with pytest.raises(TransferError, match="10 of 10 bytes"):
        file.digest()
    file.discard()
    assert not file.path.exists()


def test_many_files_as_one(store: Store) -> None:
    parts = [store.write_part(data) for data in (b"one", b"two", b"one")]
    store.add_all(parts)
    assert [store.path(digest).read_bytes() for _, digest in parts] == [b"one", b"two", b"one"]
    assert list(store.incoming.iterdir()) == []
    store.add_all(parts)  # as after an error half-way: what is in place stays so
    lost = store.write_part(b"three")
    lost[0].unlink()
    with pytest.raises(FileNotFoundError):
        store.add_all([lost])


def test_files_that_cannot_be_written_do_not_spoil_others(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    good, bad = tmp_path / "logs" / "1", tmp_path / "file" / "2"
    failed = write_files({good: b"a log", bad: b"another"})
    assert good.read_bytes() == b"a log" and good.stat().st_mode & 0o777 == 0o644
    assert failed.keys() == {bad} and sorted(path.name for path in good.parent.iterdir()) == ["1"]


def test_transfers_have_a_thread_each_of_their_own(store: Store) -> None:
    disk = Disk(store, min_free=0)
    disk.start()
    arrived: dict[int, Arrived] = {}
    data = {number: random.Random(number).randbytes(5000) for number in range(5)}

    def failed(why: str) -> None:
        raise AssertionError(why)

    for number in data:
        disk.of(number).open(number, 5000, opened=lambda: None, failed=failed)
    for start in range(0, 5000, 1000):
        for number, whole in data.items():
            disk.of(number).put(number, start, memoryview(whole)[start : start + 1000], failed=failed)
    for number in data:
        disk.of(number).finish(number, arrived=lambda one, number=number: arrived.update({number: one}), failed=failed)
    disk.stop(10.0)
    assert disk.waiting == 0
    assert {number: one.path.read_bytes() for number, one in arrived.items()} == data
    assert {number: one.sha256 for number, one in arrived.items()} == {
        number: hashlib.sha256(whole).digest() for number, whole in data.items()
    }
