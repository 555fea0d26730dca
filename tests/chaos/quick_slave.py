# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.chaos.quick_slave``: piw-slave whose builds are quick_job's, so that thousands take minutes.

A build is a process as always, but forked: starting an interpreter and importing everything takes longer than all else.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from types import SimpleNamespace
from typing import IO

from piwheels.slave import cli, runner
from tests.chaos import quick_job

NAME = 2  #: where the name of a job's module is in its command line; its arguments follow


class Forked:
    """As much of subprocess.Popen as the runner uses."""

    def __init__(self, command: Sequence[str], **_: object) -> None:
        self.returncode: int | None = None
        output, end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command[NAME:], end)
        os.close(end)
        self.stdout: IO[bytes] = os.fdopen(output, "rb", buffering=0)

    def poll(self) -> int | None:
        """Its status, if it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Its status, once it has ended."""
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a quick build", timeout)
            time.sleep(0.005)
        return status

    def terminate(self) -> None:
        """SIGTERM."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def _become(words: Sequence[str], output: int) -> None:
    """Be a job, in a process that was forked off the builder and has nothing of it; does not return."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.closerange(3, 4096)  # the builder's sockets above all: its connections end with it
        status = quick_job.main(list(words))
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the builder was killed, and takes us with it
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    runner.job = quick_job  # type: ignore[attr-defined]
    runner.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=Forked, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
