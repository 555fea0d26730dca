# SPDX-License-Identifier: BSD-3-Clause
"""What tests need beyond Python: where it is, or the test left out with a reason. Nothing is left out in CI."""

import os
import shutil
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parent.parent / "build/clients"
COMPLETE = "TEST_EVERYTHING"  #: set where a test that cannot run is one that fails, as .ci/run does


def program(name: str, package: str = "") -> str:
    """The path of a program of this machine."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    return shutil.which(name, path=path) or leave_out(f"{name} is not installed: apt-get install {package or name}")


def client(name: str) -> Path:
    """The directory of one of ``tools/clients.txt``."""
    return CLIENTS / name if (CLIENTS / name).is_dir() else Path(leave_out(f"no {name}: tools/setup clients"))


def leave_out(reason: str) -> str:
    """Skip the test, or fail it where everything is to be tested. Never returns."""
    if os.environ.get(COMPLETE):
        pytest.fail(reason)
    pytest.skip(reason)
