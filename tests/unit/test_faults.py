# SPDX-License-Identifier: BSD-3-Clause
"""Fault points: what asks for them is checked, each happens once, and every one that is named is there."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import piwheels
from piwheels import configuration, faults
from piwheels.errors import SettingsError
from piwheels.faults import POINTS, Kind, arm, parse, point


@pytest.fixture(autouse=True)
def harmless() -> Iterator[None]:
    yield
    arm({})


def test_nothing_happens_unless_asked_for() -> None:
    arm({})
    assert not any(point(name) for name in POINTS)


def test_once_at_its_turn(capfd: pytest.CaptureFixture[str]) -> None:
    arm({faults.VARIABLE: "verified=enospc@3 verified=eio@4"})
    point("verified")
    point("verified")
    for number in (errno.ENOSPC, errno.EIO):
        with pytest.raises(OSError) as caught:
            point("verified")
        assert caught.value.errno == number
    assert not point("verified")
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(faults.SAID)]
    assert said == ["fault: verified enospc", "fault: verified eio"]


def test_a_lost_connection_is_the_callers_to_lose() -> None:
    arm({faults.VARIABLE: "built=lost"})
    assert [point("built"), point("built")] == [True, False]


def test_a_sleep_ends() -> None:
    arm({faults.VARIABLE: "leased=sleep:0.001"})
    assert point("leased") is False


def test_a_kill_kills() -> None:
    code = "import os; from piwheels import faults; faults.arm(os.environ); faults.point('recorded'); print('alive')"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={faults.VARIABLE: "recorded=kill", "PYTHONPATH": str(Path(piwheels.__file__).parents[1])},
        capture_output=True,
        timeout=30,
        check=False,
    )
    warning, said = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout, said) == (-signal.SIGKILL, b"", b"fault: recorded kill")
    assert warning.startswith(b"$PIWHEELS_FAULTS is set: this process will fail on purpose (recorded=kill)")


def test_one_that_stops_stands_there_until_it_is_let_go() -> None:
    code = "import os; from piwheels import faults; faults.arm(os.environ); faults.point('sent'); print('on')"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={faults.VARIABLE: "sent=stop", "PYTHONPATH": str(Path(piwheels.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=30)[0] == b"on\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("leased", "'leased' is not POINT=KIND"),
        ("nowhere=kill", "there is no point nowhere"),
        ("leased=enospc", "at leased there is no enospc; there are: kill, sleep, stop"),
        ("leased=sleep:1.2.3", "not a number of seconds"),
        ("leased=kill@x", "is not POINT=KIND"),
    ],
)
def test_nonsense_is_refused(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        parse(text)


def test_it_is_no_setting() -> None:
    assert configuration.read(None, {faults.VARIABLE: "leased=kill"}, [])


def test_every_point_is_in_the_code_and_every_one_in_the_code_has_a_name() -> None:
    pattern = re.compile(r'(?:faults\.point|_maybe_lose)\("(\w+)"\)')
    found = {
        name for path in Path(piwheels.__file__).parent.rglob("*.py") for name in pattern.findall(path.read_text())
    }
    assert found == set(POINTS)


def test_each_kind_is_somewhere() -> None:
    assert set().union(*POINTS.values()) == set(Kind)
