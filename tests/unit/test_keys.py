# SPDX-License-Identifier: BSD-3-Clause
"""Key pairs in files: made once, kept private, refused when damaged."""

import threading
from pathlib import Path

import pytest

from piwheels.errors import SettingsError, UnavailableError
from piwheels.wire import keys


def test_made_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "slave.key"
    pair = keys.load_or_make(path)
    assert keys.is_key(pair.public) and keys.is_key(pair.secret)
    assert keys.load_or_make(path) == pair == keys.load(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["slave.key", "slave.key.pub"]


def test_the_public_half_can_be_handed_on(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    pair = keys.load_or_make(path)
    public = path.with_name("master.key.pub")
    assert pair.secret not in public.read_text()
    assert keys.read_public(str(public)) == keys.read_public(str(path)) == pair.public
    assert keys.read_public(f" {pair.public}\n") == pair.public
    public.unlink()
    keys.load_or_make(path)
    assert keys.read_public(str(public)) == pair.public, "it is made again when it is missing"


def test_two_processes_at_once_get_the_same_pair(tmp_path: Path) -> None:
    path, found, start = tmp_path / "k", [], threading.Barrier(8)

    def make() -> None:
        start.wait(10)
        found.append(keys.load_or_make(path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8 and len(set(found)) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["k", "k.pub"]


def test_a_secret_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k"
    keys.load_or_make(path)
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        keys.load_or_make(path)


@pytest.mark.parametrize("text", ["", "nonsense", "public: x\nsecret: y\n", "\x00\xff" * 100, "x" * 10_000])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="is not a key file"):
        keys.load(path)
    with pytest.raises(SettingsError):
        keys.read_public(str(path))


def test_halves_of_two_pairs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_text(f"public: {keys.make().public}\nsecret: {keys.make().secret}\n")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="do not belong together"):
        keys.load(path)


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot read"):
        keys.load(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot keep a key pair"):
        keys.load_or_make(tmp_path / "file" / "below")
    for text in ("", "  ", "no such file", "a\x00b"):
        with pytest.raises((SettingsError, UnavailableError)):
            keys.read_public(text)


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    pair = keys.make()
    assert pair.secret not in repr(pair)
    assert pair.public.startswith(keys.short(pair.public)) and len(keys.short(pair.public)) == 8
