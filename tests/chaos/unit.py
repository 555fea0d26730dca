# SPDX-License-Identifier: BSD-3-Clause
"""One process of the farm under chaos: started with faults armed, killed, started again, its words read."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from piwheels import faults
from piwheels.faults import Kind
from tests.bench.harness import ROOT
from tests.chaos.plan import happening
from tests.e2e.running import clean_environ

END = 25.0  #: seconds that one may take to end when asked to
STANDING = 5.0  #: seconds that one may take to stand still once it said that it will


@dataclass(slots=True)
class Unit:
    """A process and its successors. ``start`` from the main thread: they die with it."""

    name: str
    kind: str  #: dispatch, publish or slave
    module: str
    settings: Mapping[str, object]
    log: Path
    arguments: Sequence[str] = ()
    niceness: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    left: int = 0  #: faults that are still before it
    starts: int = 0
    happened: Counter[tuple[str, str]] = field(default_factory=Counter)  #: (point, what) → how often
    stands: str = ""  #: the point at which it said that it will stand still
    problems: list[str] = field(default_factory=list)
    _read: int = 0
    _killed: bool = False  #: by us
    _stopped: bool = False  #: by SIGSTOP

    def start(self, armed: str = "") -> None:
        """Start it with these faults."""
        words = [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        run = [sys.executable, "-m", "piwheels.farm_children", str(os.getpid()), self.module, *self.arguments]
        command = ["nice", "-n", str(self.niceness), *run]
        environ = clean_environ() | ({faults.VARIABLE: armed} if armed else {})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ
            )
        self.left, self.stands, self._killed, self._stopped = len(armed.split()), "", False, False
        self.starts += 1

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.running:
            self._killed = True
            self.process.kill()
            self.process.wait(END)

    def stall(self, *, stop: bool) -> None:
        """Have it stand still, or go on."""
        if self.process is not None and self.running and stop != self._stopped:
            self._stopped = stop
            self.process.send_signal(signal.SIGSTOP if stop else signal.SIGCONT)

    def still(self) -> bool:
        """Whether it stands where it said it would; waits for that."""
        if self.process is None or not self.stands:
            return False
        until = time.monotonic() + STANDING
        while self.running and time.monotonic() < until:
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED:
                    self._stopped = True
                    return True
            time.sleep(0.005)
        return False

    def go_on(self) -> None:
        """Have it stand no longer."""
        self.stands = ""
        self.stall(stop=False)

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if self.process is not None and self.running:
            self.stall(stop=False)
            self.process.terminate()

    def end(self) -> None:
        """See that it ends well once it was asked to."""
        if self.process is None:
            return
        try:
            status = self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.problems.append(f"{self.name} did not end within {END:g} s of being asked to")
            self.kill()
            return
        if status:
            self.problems.append(f"{self.name} ended with status {status} when asked to")
        self.listen()

    def died(self) -> bool:
        """Whether it has just ended; if so by itself, that is a problem."""
        if self.process is None or self.running:
            return False
        self.listen()
        if self.process.returncode != -signal.SIGKILL:
            self.problems.append(f"{self.name} ended by itself with status {self.process.returncode}")
        self.process = None
        return True

    def listen(self) -> None:
        """Take in what it said since."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if line.startswith(faults.SAID):
                self.left -= 1
                point, _, word = line.removeprefix(faults.SAID).partition(" ")
                if word == Kind.STOP:
                    self.stands = point  # what is done to it then counts
                else:
                    self.happened[point, happening(self.kind, point, word)] += 1
            elif line.startswith("Traceback"):
                self.problems.append(f"{self.name} said: {line} (see {self.log})")
