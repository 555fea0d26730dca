# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for a condition, with a deadline: what tests use where others sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, *, seconds: float) -> T:
    """Return the condition's first true value; fail the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)
