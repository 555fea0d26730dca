# SPDX-License-Identifier: BSD-3-Clause
"""One build, in a process of its own: fetch, build, look at what came out, write down the result.

Run by the agent as ``python -m piwheels.slave.job DIRECTORY``. The directory holds ``task.json``; the job writes what
the build says to its standard output, and ``result.json`` last, whole or not at all. So whatever a hostile sdist or
wheel makes of this process, the agent that talks to the master is another one.

The agent ends a job with SIGTERM, and the kernel does the same when the agent dies: the job then kills everything of
the build before it goes. It must not know the protocol's sessions.
"""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from piwheels import faults
from piwheels.errors import WheelError
from piwheels.slave import build, inspection, limits, processes, requirements, sandbox, sdist
from piwheels.slave.failure import shorten
from piwheels.slave.limits import GroupHome
from piwheels.slave.sandbox import Confinement, Sandbox
from piwheels.slave.sdist import BuildFailed
from piwheels.slave.supervise import Limits, Outlet
from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wire.messages import FileInfo, Order

FETCH_TIME = 1800.0  #: seconds that fetching an sdist may take
INSPECT_TIME = 900.0  #: seconds that looking at the wheels may take
STOPPED = 75  #: exit status of a job that was told to stop
MAX_RESULT = 4 * 1024**2  #: bytes of result.json

TASK = "task.json"
RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class Task:
    """What the agent asks for."""

    package: str
    version: str
    order: Order
    index_url: str
    time_limit: float  #: seconds for the build proper
    memory_limit: int  #: bytes; 0: no limit
    min_free: int
    sandbox: Sandbox
    group_home: GroupHome | None
    hide: tuple[Path, ...] = ()  #: what a build must not see: keys


@dataclass(frozen=True, slots=True)
class Report:
    """What the job came to."""

    reason: FailureReason | None
    detail: str = ""
    peak_memory: int | None = None
    cpu_seconds: float | None = None
    built_with: dict[str, str] = field(default_factory=dict)
    files: tuple[FileInfo, ...] = ()


# Between agent and job: two JSON files.


def write_task(directory: Path, task: Task) -> None:
    """Write down a task, in a directory that exists and is empty."""
    order = dataclasses.asdict(task.order) | {"time_limit": task.order.time_limit.total_seconds()}
    data = dataclasses.asdict(task) | {"order": order}
    (directory / TASK).write_text(json.dumps(data, default=os.fspath))


def read_task(directory: Path) -> Task:
    """The task as the agent wrote it."""
    data = json.loads((directory / TASK).read_text())
    order, confined, home = data.pop("order"), data.pop("sandbox"), data.pop("group_home")
    order["time_limit"] = timedelta(seconds=order["time_limit"])
    order["apt"] = tuple(order["apt"])
    order["environment"] = tuple((name, value) for name, value in order["environment"])
    confined["confinement"] = Confinement(confined["confinement"])
    return Task(
        **data | {"hide": tuple(map(Path, data["hide"]))},
        order=Order(**order),
        sandbox=Sandbox(**confined),
        group_home=GroupHome(Path(home["path"]), home["version"]) if home else None,
    )


def write_result(directory: Path, report: Report) -> None:
    """Write down a report, so that it is seen whole or not at all."""
    temporary = directory / f".{RESULT}"
    temporary.write_text(json.dumps(dataclasses.asdict(report)))
    temporary.rename(directory / RESULT)


def read_result(directory: Path) -> Report | None:
    """The report, or None where the job did not get that far."""
    try:
        faults.point("reading")
        with (directory / RESULT).open("rb") as file:
            data = json.loads(file.read(MAX_RESULT))
        reason = data.pop("reason")
        files = tuple(_file(one) for one in data.pop("files"))
        return Report(**data, reason=None if reason is None else FailureReason(reason), files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _file(data: dict[str, Any]) -> FileInfo:
    tools = {DependencyTool(tool): tuple(names) for tool, names in data.pop("dependencies").items()}
    return FileInfo(**data, dependencies=tools)


def wheels(directory: Path) -> Path:
    """Where the wheels of a job are."""
    return directory / "wheels"


def wipe(directory: Path, *, timeout: float = 300.0) -> bool:
    """Remove a directory that a build had its way with; whether it is gone.

    By chmod and rm, which take directories nested deeper than Python's own stack and without rights to enter them.
    """
    if directory.exists():
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf", "--one-file-system"]):
            with suppress(subprocess.SubprocessError, OSError):
                subprocess.run(
                    [*command, "--", str(directory)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=timeout,
                    check=False,
                    env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                )
    return not directory.exists()


# The job


class Job:
    """The work, phase by phase; signals end it cleanly while something runs, at once when nothing does."""

    def __init__(self, directory: Path, task: Task, *, output: int) -> None:
        self.directory = directory
        self.task = task
        self.stopped = False
        self._outlet = Outlet(output)
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> Report:
        """Do the work; raises nothing that a package, a network or a full disk can cause."""
        try:
            return self._work()
        except BuildFailed as error:
            return Report(reason=error.reason, detail=shorten(str(error)), built_with=build.tools())
        except WheelError as error:
            detail = shorten(f"the wheel is not acceptable: {error}")
            return Report(reason=FailureReason.PACKAGE, detail=detail, built_with=build.tools())
        except OSError as error:
            detail = shorten(f"the builder failed: {error}")
            return Report(reason=sdist.disk_or_builder(error), detail=detail, built_with=build.tools())
        except MemoryError:
            return Report(reason=FailureReason.MEMORY, detail="the builder itself ran out of memory")
        finally:
            self._outlet.drain(deadline=time.monotonic() + 10)

    def _work(self) -> Report:
        self._check_packages()
        source = self._fetch()
        outcome = self._build(source)
        report = Report(
            reason=outcome.reason,
            detail=outcome.detail,
            peak_memory=outcome.peak_memory,
            cpu_seconds=outcome.cpu_seconds,
            built_with=dict(outcome.built_with),
        )
        return report if self.stopped or outcome.reason else self._inspect(report)

    def _check_packages(self) -> None:
        """A builder installs nothing into its own system: whoever keeps it does."""
        if missing := requirements.missing_packages(self.task.order.apt):
            words = f"it needs Debian packages that are not installed here: {' '.join(missing)}"
            raise BuildFailed(FailureReason.BUILDER, words)

    def _say(self, text: str) -> None:
        """Put a line of our own into the log."""
        self._outlet.write(f"piw-slave: {text}\n".encode("utf-8", "replace"))
        self._outlet.flush()

    def _fetch(self) -> Path:
        order = self.task.order
        self._say(f"fetching {order.sdist_name} from {order.sdist_url}")
        directory = self.directory / "sdist"
        directory.mkdir(mode=0o755)
        signal.alarm(int(FETCH_TIME) + 60)  # what no time-out of a socket covers: a name server that does not answer
        try:
            return sdist.fetch(
                order,
                directory,
                deadline=time.monotonic() + FETCH_TIME,
                environ=os.environ,
                min_free=self.task.min_free,
            )
        finally:
            signal.alarm(0)

    def _build(self, source: Path) -> build.Outcome:
        task = self.task
        self._say(f"SHA-256 is {task.order.sdist_sha256} as announced; building in {task.sandbox.confinement}")
        offline = None if task.order.network else self._requirements(source)
        where = sandbox.place(task.sandbox, self.directory / "place")
        where.make(task.sandbox)
        group = task.group_home.group(self.directory) if task.group_home else None
        made = limits.make_group(group, limit=task.memory_limit) if group else None
        with self._signals():
            try:
                return build.build(
                    source,
                    place=where,
                    confined=task.sandbox,
                    index_url=task.index_url,
                    hide=task.hide,
                    environment=dict(task.order.environment),
                    offline=offline,
                    limits=Limits(
                        deadline=time.monotonic() + task.time_limit,
                        memory=task.memory_limit,
                        disk=self.directory,
                        min_free=task.min_free,
                    ),
                    group=made,
                    outlet=self._outlet,
                    stopped=lambda: self.stopped,
                    wake=self._wake,
                )
            finally:
                if made is not None:
                    made.remove()

    def _requirements(self, source: Path) -> tuple[str, ...]:
        """What building takes, read from an archive that may be made to take for ever."""
        signal.alarm(int(INSPECT_TIME))
        try:
            found = requirements.build_requirements(source)
        finally:
            signal.alarm(0)
        self._say(f"building without a network, with {', '.join(found) or 'nothing'} brought in first")
        return found

    def _inspect(self, report: Report) -> Report:
        """Describe the wheels; a hostile one may cost the time that is set here, and no more."""
        signal.alarm(int(INSPECT_TIME))
        directory = wheels(self.directory)
        directory.mkdir(mode=0o755)
        paths = build.collect(sandbox.place(self.task.sandbox, self.directory / "place"), directory)
        try:
            files = tuple(
                inspection.inspect(path, project=self.task.package, version=self.task.version) for path in paths
            )
        except WheelError as error:
            detail = shorten(f"the wheel is not acceptable: {error}")
            self._say(detail)
            return dataclasses.replace(report, reason=FailureReason.PACKAGE, detail=detail)
        finally:
            signal.alarm(0)
        for file in files:
            self._say(f"built {file.filename}, {file.size} bytes, SHA-256 {file.sha256}")
        return dataclasses.replace(report, files=files)

    def _signals(self) -> "_Signals":
        return _Signals(self)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM's handler while something runs that has to be killed first."""
        self.stopped = True

    @property
    def waker(self) -> int:
        """What the interpreter writes to when a signal comes."""
        return self._waker


class _Signals:
    """While in force: SIGTERM stops the build in order; SIGCHLD wakes the loop."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> None:
        self._old_wake = signal.set_wakeup_fd(self._job.waker, warn_on_full_buffer=False)
        self._old_child = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._old_term = signal.signal(signal.SIGTERM, self._job.stop)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._old_term)
        signal.signal(signal.SIGCHLD, self._old_child)
        signal.set_wakeup_fd(self._old_wake)


def main(argv: list[str]) -> int:
    """The process: everything about it that a test in another process could not stand."""
    directory, parent = Path(argv[1]), int(argv[2])
    processes.die_with_parent(parent, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the agent decides
    os.umask(0o022)
    output = os.dup(sys.stdout.fileno())
    os.set_blocking(output, False)
    fcntl.fcntl(output, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    job = Job(directory, read_task(directory), output=output)
    report = job.run()
    if job.stopped:
        return STOPPED
    write_result(directory, report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
