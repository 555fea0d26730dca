# SPDX-License-Identifier: BSD-3-Clause
"""piwheels.processes: what a signal handler may do."""

import subprocess
import sys

INTERRUPTED_IN_WAIT = """
import os, signal, threading
from piwheels.processes import set_from_handler

event = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: set_from_handler(event))
with event._cond:  # as the main thread is for a moment at either end of wait()
    os.kill(os.getpid(), signal.SIGTERM)
assert event.wait(10)
print("ended")
"""


def test_a_signal_that_comes_while_the_event_is_being_waited_for_sets_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IN_WAIT], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.stdout == "ended\n", ended.stderr
