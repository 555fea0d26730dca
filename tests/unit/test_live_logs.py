# SPDX-License-Identifier: BSD-3-Clause
"""The logs of builds in hand: bounded, read from where one was, gone when the build is."""

from pathlib import Path

import pytest

from piwheels.master import live_logs
from piwheels.master.live_logs import KEEP, MOST, LiveLogs, read

ONE, TWO = "1" * 32, "2" * 32


def size(run: Path, token: str = ONE) -> int:
    return (run / live_logs.FOLDER / token).stat().st_size


def test_what_is_written_is_read(tmp_path: Path) -> None:
    logs = LiveLogs(tmp_path)
    assert read(tmp_path, ONE) is None
    logs.note(ONE, "compiling\n")
    logs.note(TWO, "other\n")
    logs.write()
    logs.note(ONE, "linking\n")
    logs.write()
    excerpt = read(tmp_path, ONE)
    assert excerpt is not None and excerpt.text == "compiling\nlinking\n"
    later = read(tmp_path, ONE, position=10)
    assert later is not None and (later.start, later.end, later.text) == (10, 18, "linking\n")
    beyond = read(tmp_path, ONE, position=1000)
    assert beyond is not None and (beyond.end, beyond.text) == (18, "")
    assert (tmp_path / live_logs.FOLDER / ONE).stat().st_mode & 0o007 == 0


def test_a_log_is_bounded_and_says_what_is_gone(tmp_path: Path) -> None:
    logs = LiveLogs(tmp_path)
    whole = ""
    for number in range(2000):
        line = f"{number:>98}\n\n"
        whole += line
        logs.note(ONE, line)
        if number % 7 == 0:
            logs.write()
            assert size(tmp_path) <= MOST + 2 * KEEP
    logs.write()
    excerpt = read(tmp_path, ONE)
    assert excerpt is not None and excerpt.end == len(whole) and len(excerpt.text) <= KEEP
    assert excerpt.text == whole[excerpt.start :]


def test_a_flood_waits_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_logs, "MAX_WAITING", 3 * KEEP)
    logs = LiveLogs(tmp_path)
    for number in range(50):
        logs.note(f"{number:032x}", "x" * KEEP * 2)
    assert sum(map(len, logs._waiting.values())) == logs._amount == 3 * KEEP
    logs.write()
    assert logs._amount == 0 and not logs._waiting


def test_all_of_them_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_logs, "MAX_ALL", 3 * KEEP)
    logs = LiveLogs(tmp_path)
    for number in range(20):
        logs.note(f"{number:032x}", "x" * KEEP)
        logs.write()
    assert sum(path.stat().st_size for path in (tmp_path / live_logs.FOLDER).iterdir()) < 5 * KEEP


def test_an_ended_or_silent_build_leaves_nothing(tmp_path: Path) -> None:
    logs = LiveLogs(tmp_path)
    logs.note(ONE, "a", now=0.0)
    logs.note(TWO, "b", now=0.0)
    logs.write(now=1.0)
    logs.end(ONE)
    logs.note(TWO, "", now=live_logs.QUIET)
    logs.write(now=live_logs.QUIET + 1)
    assert read(tmp_path, ONE) is None and read(tmp_path, TWO) is not None
    logs.write(now=2 * live_logs.QUIET + 1)
    assert not list((tmp_path / live_logs.FOLDER).iterdir())


def test_a_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    before = LiveLogs(tmp_path)
    before.note(ONE, "one\n")
    before.write()
    (tmp_path / live_logs.FOLDER / ".half written").write_text("x")
    after = LiveLogs(tmp_path)
    after.note(ONE, "two\n")
    after.write()
    excerpt = read(tmp_path, ONE)
    assert excerpt is not None and excerpt.text == "one\ntwo\n"
    assert [path.name for path in (tmp_path / live_logs.FOLDER).iterdir()] == [ONE]


def test_a_file_that_somebody_removed_begins_anew(tmp_path: Path) -> None:
    logs = LiveLogs(tmp_path)
    logs.note(ONE, "one\n")
    logs.write()
    (tmp_path / live_logs.FOLDER / ONE).unlink()
    logs.note(ONE, "two\n")
    logs.write()
    excerpt = read(tmp_path, ONE)
    assert excerpt is not None and excerpt.text == "two\n"


def test_characters_are_not_cut_in_two(tmp_path: Path) -> None:
    logs = LiveLogs(tmp_path)
    logs.note(ONE, "a")
    logs.write()
    with (tmp_path / live_logs.FOLDER / ONE).open("ab") as file:
        file.write("€".encode()[:2])
    excerpt = read(tmp_path, ONE)
    assert excerpt is not None and (excerpt.end, excerpt.text) == (1, "a")


def test_a_disk_that_refuses_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / live_logs.FOLDER).write_text("in the way")
    logs = LiveLogs(tmp_path)
    for _ in range(3):
        logs.note(ONE, "x")
        logs.write()
    assert len(caplog.records) == 1 and "cannot keep the logs" in caplog.text


def test_only_tokens_name_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0" * 20 + "\nsecret")
    logs = LiveLogs(tmp_path)
    logs.note("../secret", "x")
    logs.write()
    assert read(tmp_path, "../secret") is None
    assert (tmp_path / "secret").read_text().endswith("\nsecret")
