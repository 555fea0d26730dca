# SPDX-License-Identifier: BSD-3-Clause
"""Files of the published tree: whole or not at all, rewritten only when they change, names bound to their bytes."""

import ctypes
import errno
import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from piwheels import durable
from piwheels.site import writer

SMALL, LARGE, OTHER = b"small", b"large " * 1000, b"other " * 1000


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in directory.iterdir()}


def test_writes_with_directories_for_all_to_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert writer.write_if_changed(tmp_path / "a/b/page.html", SMALL)
    finally:
        os.umask(before)
    assert (tmp_path / "a/b/page.html").read_bytes() == SMALL
    assert (tmp_path / "a/b/page.html").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["page.html"]


def test_what_does_not_change_is_not_touched(tmp_path: Path) -> None:
    files = {"a": SMALL, "b": LARGE}
    assert writer.write_files(tmp_path, files) == ["a", "b"]
    before = snapshot(tmp_path)
    assert writer.write_files(tmp_path, files) == []
    assert snapshot(tmp_path) == before
    assert writer.write_files(tmp_path, {"a": SMALL, "b": OTHER}) == ["b"]
    assert snapshot(tmp_path)["a"] == before["a"]


UNPACK = {".gz": gzip.decompress, ".zst": zstandard.ZstdDecompressor().decompress}


@pytest.mark.parametrize("end", writer.TWINS)
def test_large_files_have_compressed_twins_that_follow_them(tmp_path: Path, end: str) -> None:
    page, twin = tmp_path / "page", tmp_path / f"page{end}"
    writer.write_if_changed(page, LARGE)
    assert UNPACK[end](twin.read_bytes()) == LARGE
    first = twin.read_bytes()
    writer.write_if_changed(page, OTHER)
    assert UNPACK[end](twin.read_bytes()) == OTHER
    writer.write_if_changed(page, LARGE)
    assert twin.read_bytes() == first  # the same bytes whenever it is made
    writer.write_if_changed(page, SMALL)
    assert not twin.exists()


PACKED_OTHER = {".gz": gzip.compress(OTHER, mtime=0), ".zst": zstandard.compress(OTHER)}


@pytest.mark.parametrize("end", writer.TWINS)
@pytest.mark.parametrize("content", [None, b"", b"junk", "other", "half"])
def test_a_twin_that_is_not_the_pages_is_made_anew(tmp_path: Path, end: str, content: bytes | str | None) -> None:
    """As after a kill between the two renames, when the data then turned back."""
    page, twin = tmp_path / "page", tmp_path / f"page{end}"
    writer.write_if_changed(page, LARGE)
    match content:
        case None:
            twin.unlink()
        case "other":
            twin.write_bytes(PACKED_OTHER[end])
        case "half":
            twin.write_bytes(twin.read_bytes()[:-10])
        case bytes():
            twin.write_bytes(content)
    assert writer.write_if_changed(page, LARGE)
    assert UNPACK[end](twin.read_bytes()) == LARGE


@pytest.mark.parametrize("end", writer.TWINS)
def test_a_stray_twin_of_a_small_file_goes(tmp_path: Path, end: str) -> None:
    writer.write_if_changed(tmp_path / "page", SMALL)
    (tmp_path / f"page{end}").write_bytes(gzip.compress(LARGE))
    assert writer.write_if_changed(tmp_path / "page", SMALL)
    assert not (tmp_path / f"page{end}").exists()


def test_names_with_the_same_bytes_share_a_file_until_one_changes(tmp_path: Path) -> None:
    writer.write_files(tmp_path, {"a": LARGE, "b": LARGE, "c": OTHER})
    for end in ("", *writer.TWINS):
        assert (tmp_path / f"a{end}").samefile(tmp_path / f"b{end}")
    # A writer was killed that had given the new b no name yet, and a's had one: nothing may be written through it.
    os.link(tmp_path / "a", tmp_path / ".b.tmp")
    assert writer.write_files(tmp_path, {"a": LARGE, "b": SMALL}) == ["b"]
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [LARGE, SMALL, OTHER]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.gz", "a.zst", "b", "c", "c.gz", "c.zst"]


def test_several_directories_are_written_together(tmp_path: Path) -> None:
    batch = writer.Batch()
    assert batch.add(tmp_path / "one/deep", {"page": LARGE}) == ["page"]
    assert batch.add(tmp_path / "two", {"page": SMALL, "other": SMALL}) == ["page", "other"]
    assert not list(tmp_path.iterdir())
    batch.write()
    assert (tmp_path / "one/deep/page").read_bytes() == LARGE
    assert batch.add(tmp_path / "two", {"page": SMALL, "other": SMALL}) == []
    batch.write()


def test_what_cannot_be_written_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up at the second of three files, and again while they are synchronised."""
    writer.write_files(tmp_path, {"a": LARGE, "b": LARGE, "c": LARGE})
    before = snapshot(tmp_path)
    for call in ("write", "fsync"):
        calls = iter(range(9))
        real = getattr(os, call)

        def full(*args: object, real: object = real, calls: Iterator[int] = calls) -> object:
            if next(calls) == 4:
                raise OSError(28, "No space left on device")
            return real(*args)  # type: ignore[operator]

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(os, call, full)
            writer.write_files(tmp_path, {"a": OTHER, "b": OTHER + b"b", "c": OTHER + b"c"})
        assert {name: at for name, at in snapshot(tmp_path).items() if not name.endswith(".tmp")} == before
    assert writer.write_files(tmp_path, {"a": OTHER, "b": OTHER, "c": OTHER}) == ["a", "b", "c"]
    assert not list(tmp_path.glob(".*"))


def many(directory: Path, data: bytes) -> writer.Batch:
    """More files than are synchronised one by one."""
    batch = writer.Batch()
    for number in range(durable.FLUSHED_FROM):
        batch.add(directory / str(number), {"page": data, "other": data[:100]})
    return batch


class Libc:
    """The C library with a disk that fails."""

    def syncfs(self, descriptor: int) -> int:
        assert descriptor > 2
        ctypes.set_errno(errno.EIO)
        return -1


def test_many_files_are_flushed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronised: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synchronised.append)
        many(tmp_path, LARGE).write()
        assert not synchronised
        patch.setattr(durable, "_can_flush", lambda: False)
        many(tmp_path, OTHER).write()
        assert len(synchronised) > durable.FLUSHED_FROM
    pages = snapshot(tmp_path / "3")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr(durable, "_libc", Libc)
        many(tmp_path, LARGE).write()
    assert {name: at for name, at in snapshot(tmp_path / "3").items() if not name.endswith(".tmp")} == pages
    assert (tmp_path / "3/page").read_bytes() == OTHER


class Killed(BaseException):
    """As kill -9: nothing of ours runs afterwards."""


@pytest.mark.parametrize("step", range(1, 13))
def test_killed_at_any_step_a_page_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Every change of the disk counts as a step; the process ends before it."""
    page = tmp_path / "page"
    writer.write_if_changed(page, LARGE)
    steps = 0

    def count(call, *args, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal steps
        steps += 1
        if steps == step:
            raise Killed
        return call(*args, **kwargs)

    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "replace", "unlink"):
            real = getattr(os, name)
            patch.setattr(os, name, lambda *a, real=real, **k: count(real, *a, **k))
        patch.setattr(durable, "_in_parallel", lambda call, given: [call(one) for one in given])
        try:
            writer.write_if_changed(page, OTHER)
            finished = True
        except Killed:
            finished = False
    assert finished == (step > 11)
    assert page.read_bytes() == OTHER if finished else page.read_bytes() in (LARGE, OTHER)
    for end, unpack in UNPACK.items():
        assert unpack((tmp_path / f"page{end}").read_bytes()) in (LARGE, OTHER)
    writer.write_if_changed(page, OTHER)
    assert {unpack((tmp_path / f"page{end}").read_bytes()) for end, unpack in UNPACK.items()} == {OTHER}
    assert page.read_bytes() == OTHER
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page", "page.gz", "page.zst"]


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, bytes]:
    """A file of the store, with its hash."""
    path = tmp_path / "stored"
    path.write_bytes(LARGE)
    path.chmod(0o600)
    return path, hashlib.sha256(LARGE).digest()


def test_links_once(tmp_path: Path, stored: tuple[Path, bytes]) -> None:
    path, sha256 = stored
    name = tmp_path / "x.whl"
    assert writer.link_into(path, name, sha256)
    assert name.samefile(path)
    assert name.stat().st_mode & 0o444 == 0o444
    assert not writer.link_into(path, name, sha256)


def test_a_name_keeps_its_bytes(tmp_path: Path, stored: tuple[Path, bytes]) -> None:
    path, sha256 = stored
    name = tmp_path / "x.whl"
    name.write_bytes(OTHER)
    with pytest.raises(writer.NameTakenError, match=r"^x.whl is published with other bytes"):
        writer.link_into(path, name, sha256)
    assert name.read_bytes() == OTHER


def test_a_copy_of_the_same_bytes_will_do(tmp_path: Path, stored: tuple[Path, bytes]) -> None:
    """As after the tree was restored from a backup."""
    path, sha256 = stored
    name = tmp_path / "x.whl"
    name.write_bytes(LARGE)
    assert not writer.link_into(path, name, sha256)
    path.unlink()
    assert not writer.link_into(path, name, sha256)
    name.unlink()
    with pytest.raises(writer.NotInStoreError, match="the store lacks stored"):
        writer.link_into(path, name, sha256)


def test_removing_what_is_unwanted(tmp_path: Path) -> None:
    for name in ("a", "b", ".c.tmp"):
        (tmp_path / name).write_bytes(SMALL)
    assert writer.remove_files(tmp_path, lambda name: name != "a") == [".c.tmp", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert writer.remove_files(tmp_path / "none", lambda name: True) == []


def test_removing_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "p"
    writer.write_files(directory, {"index.html": SMALL, "a.whl": SMALL, "z.whl": SMALL})
    order: list[str] = []
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path, **k: (order.append(Path(path).name), unlink(path, **k))[1])
    assert writer.remove_directory(directory, first=["index.html"])
    assert order == ["index.html", "a.whl", "z.whl"]
    assert not directory.exists()
    assert writer.remove_directory(directory)


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    directory = tmp_path / "p"
    writer.write_files(directory, {"index.html": SMALL})
    (directory / "mine").mkdir()
    assert not writer.remove_directory(directory)
    assert [p.name for p in directory.iterdir()] == ["mine"]
