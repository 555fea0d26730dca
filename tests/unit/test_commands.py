# SPDX-License-Identifier: BSD-3-Clause
"""What all commands share: arguments, errors as one line, exit statuses, log lines."""

import argparse
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from piwheels import __version__, commands, logs
from piwheels.errors import BuildError, DatabaseError, ExitCode, SettingsError, UnavailableError
from piwheels.settings import Settings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def parser() -> argparse.ArgumentParser:
    what = argparse.ArgumentParser(prog="piw-test")
    commands.add_common_arguments(what)
    return what


def run(work: Callable[[argparse.Namespace, Settings], int], *argv: str) -> int:
    return commands.run(work, parser(), argv, "piw-test")


def raising(error: BaseException) -> Callable[[argparse.Namespace, Settings], int]:
    def work(args: argparse.Namespace, settings: Settings) -> int:
        raise error

    return work


def test_the_work_gets_the_settings() -> None:
    assert run(lambda args, settings: settings.publish.workers, "--set", "publish.workers=7") == 7


def test_version_and_help_and_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(AssertionError()), "--version") == 0
    assert capsys.readouterr().out.strip() == f"piw-test {__version__}"
    assert run(raising(AssertionError()), "--help") == 0
    assert run(raising(AssertionError()), "--nonsense") == ExitCode.USAGE


def test_show_config_ends_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[farm]\nname = 'shown'\n")
    assert run(raising(AssertionError()), "--config", str(path), "--show-config") == 0
    assert f'(from {path}:2)\nname = "shown"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SettingsError("a setting"), ExitCode.USAGE),
        (UnavailableError("a port"), ExitCode.UNAVAILABLE),
        (DatabaseError("a database"), ExitCode.UNAVAILABLE),
        (BuildError("two\nlines \x1b[31m"), ExitCode.FAILED),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], error: Exception, status: int) -> None:
    assert run(raising(error)) == status
    said = capsys.readouterr().err
    assert said.startswith("piw-test: ") and said.count("\n") == 1 and "\x1b" not in said


def test_bad_settings_are_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(AssertionError()), "--set", "farm.nam=x") == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("piw-test: --set farm.nam=x: unknown key")


def test_interrupt_and_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(KeyboardInterrupt())) == ExitCode.INTERRUPTED
    assert run(raising(ZeroDivisionError("x"))) == ExitCode.INTERNAL
    assert "Traceback" in capsys.readouterr().err


def record(message: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("x", level, "f", 1, message, None, None)


def test_a_journal_line_has_its_priority_and_no_time() -> None:
    formatter = logs.LineFormatter("feed", journal=True)
    assert formatter.format(record("it\nhappened")) == "<4>feed: it happened"
    assert formatter.format(record("x", logging.DEBUG)).startswith("<7>")
    assert formatter.format(record("x", logging.CRITICAL)).startswith("<2>")


def test_a_traceback_keeps_the_priority_on_each_line() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        one = record("failed", logging.ERROR)
        one.exc_info = (ValueError, error, error.__traceback__)
    lines = logs.LineFormatter("feed", journal=True).format(one).splitlines()
    assert len(lines) > 2 and all(line.startswith("<3>") for line in lines)


def test_a_terminal_line_has_time_and_level() -> None:
    assert logs.LineFormatter("100%", journal=False).format(record("x")).endswith("Z 100%: WARNING: x")


def test_what_peers_write_cannot_forge_lines_or_flood() -> None:
    assert logs.one_line("a\r\x00\x1b[0m\u202eb\ud800") == "a\\x0d\\x00\\x1b[0m\\x202eb\\xd800"
    assert len(logs.one_line("x" * 10**6)) < 5000


def test_a_kind_of_nonsense_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    limited = logs.RateLimited(logging.getLogger("peers"), per=timedelta(seconds=10))
    assert [limited.warning("a", "rubbish", now=float(t)) for t in (0, 1, 2, 9.9)] == [True, False, False, False]
    assert limited.warning("b", "other", now=3.0)
    assert limited.warning("a", "rubbish", now=10.0)
    assert caplog.messages == ["rubbish", "other", "rubbish (3 more like it in the last 10 s)"]


def test_kinds_made_up_by_peers_do_not_grow_without_end() -> None:
    limited = logs.RateLimited(logging.getLogger("peers"), per=timedelta(seconds=10))
    logged = sum(limited.log(logging.DEBUG, f"kind {n}", "x", now=1.0) for n in range(5 * limited.MAX_KEYS))
    assert logged == limited.MAX_KEYS + 1  # those remembered, and once for all others
    assert limited.log(logging.DEBUG, "new", "x", now=12.0)
