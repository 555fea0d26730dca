# SPDX-License-Identifier: BSD-3-Clause
"""Files of the published tree: whole or not at all, rewritten only when they change, names bound to their bytes."""

import gzip
import hashlib
import os
from pathlib import Path

import pytest

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


def test_large_files_have_a_compressed_twin_that_follows_them(tmp_path: Path) -> None:
    page, twin = tmp_path / "page", tmp_path / "page.gz"
    writer.write_if_changed(page, LARGE)
    assert gzip.decompress(twin.read_bytes()) == LARGE
    first = twin.read_bytes()
    writer.write_if_changed(page, OTHER)
    assert gzip.decompress(twin.read_bytes()) == OTHER
    writer.write_if_changed(page, LARGE)
    assert twin.read_bytes() == first  # the same bytes whenever it is made
    writer.write_if_changed(page, SMALL)
    assert not twin.exists()


@pytest.mark.parametrize("content", [None, b"", b"junk", gzip.compress(OTHER, mtime=0)])
def test_a_twin_that_is_not_the_pages_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    """As after a kill between the two renames, when the data then turned back."""
    page, twin = tmp_path / "page", tmp_path / "page.gz"
    writer.write_if_changed(page, LARGE)
    if content is None:
        twin.unlink()
    else:
        twin.write_bytes(content)
    assert writer.write_if_changed(page, LARGE)
    assert gzip.decompress(twin.read_bytes()) == LARGE


def test_a_stray_twin_of_a_small_file_goes(tmp_path: Path) -> None:
    writer.write_if_changed(tmp_path / "page", SMALL)
    (tmp_path / "page.gz").write_bytes(gzip.compress(LARGE))
    assert writer.write_if_changed(tmp_path / "page", SMALL)
    assert not (tmp_path / "page.gz").exists()


class Killed(BaseException):
    """As kill -9: nothing of ours runs afterwards."""


@pytest.mark.parametrize("step", range(1, 12))
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
        for owner, name in ((os, "open"), (os, "fsync"), (Path, "replace"), (Path, "unlink")):
            real = getattr(owner, name)
            patch.setattr(owner, name, lambda *a, real=real, **k: count(real, *a, **k))
        try:
            writer.write_if_changed(page, OTHER)
            finished = True
        except Killed:
            finished = False
    assert page.read_bytes() == OTHER if finished else page.read_bytes() in (LARGE, OTHER)
    writer.write_if_changed(page, OTHER)
    assert page.read_bytes() == gzip.decompress((tmp_path / "page.gz").read_bytes()) == OTHER
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page", "page.gz"]


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
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **k: (order.append(self.name), unlink(self, **k))[1])
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
