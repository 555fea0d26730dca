# SPDX-License-Identifier: BSD-3-Clause
"""The processes of a farm on one machine: started, their output kept in bounded files, restarted when they die, ended.

Knows how processes live and die, not what they do. Each child is a command of ours, run by ``python -m
piwheels.farm_children`` so that it asks the kernel to be told when the farm dies, by kill -9 too.
"""

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from piwheels import processes

LONGEST_LOG = 4 * 1024**2  #: bytes; a longer one is put aside as NAME.log.1
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0  #: seconds before a child that died is started again
STEADY = 20.0  #: seconds after which a child's earlier deaths are forgotten


@dataclass(slots=True)
class Backoff:
    """When to start again something that keeps dying. Pure: times are the caller's, monotonic."""

    deaths: int = 0
    ready_at: float = 0.0

    def died(self, now: float, *, lived: float) -> None:
        """Note a death after so many seconds of life."""
        self.deaths = 1 if lived > STEADY else self.deaths + 1
        self.ready_at = now + min(FIRST_WAIT * 2 ** (self.deaths - 1), LONGEST_WAIT)


@dataclass(slots=True)
class Child:
    """One process of the farm's."""

    name: str  #: for people and for the log's name
    module: str  #: whose main() it runs
    arguments: Sequence[str]
    log: Path
    stdin: int = subprocess.DEVNULL
    stdout: int | None = None  #: None: the log too
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self.process is not None and self.process.poll() is None

    def start(self, now: float) -> None:
        """Start it. Call from the farm's main thread: the kernel ties its death to the thread's."""
        command = [sys.executable, "-P", "-m", "piwheels.farm_children", str(os.getpid()), self.module, *self.arguments]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PIWHEELS_")}
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C at the terminal is for the farm, which ends its children in order.
            self.process = subprocess.Popen(
                command,
                stdin=self.stdin,
                stdout=log if self.stdout is None else self.stdout,
                stderr=log,
                start_new_session=True,
                env=environ,
            )
        self.started = now

    def bound_log(self) -> None:
        """Put a log that has become long aside, and begin it anew. The process goes on writing at the new end."""
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LONGEST_LOG:
                shutil.copyfile(self.log, self.log.with_name(self.log.name + ".1"))
                os.truncate(self.log, 0)

    def keep_up(self, now: float) -> str | None:
        """Start it again if it died and its time has come; says so in words for a person when it has just died."""
        self.bound_log()
        if self.process is None:
            if now >= self.backoff.ready_at:
                self.start(now)
            return None
        status = self.process.poll()
        if status is None:
            return None
        self.process = None
        self.backoff.died(now, lived=now - self.started)
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{self.name} {how}; starting it again (see {self.log})"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def end(self, deadline: float, *, now: float) -> None:
        """Wait for its end until the deadline, then kill it."""
        if self.process is None:
            return
        try:
            self.process.wait(max(deadline - now, 0.05))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of our commands in this process, as a child that does not outlive its parent."""
    parser = argparse.ArgumentParser(prog="piwheels.farm_children")
    parser.add_argument("parent", type=int)
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    # SIGTERM rather than SIGKILL: each command ends what it started itself, a builder its sandboxed build above all.
    processes.die_with_parent(options.parent, sig=signal.SIGTERM)
    status: int = importlib.import_module(options.module).main(options.arguments)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
