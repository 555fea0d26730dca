# SPDX-License-Identifier: BSD-3-Clause
"""The agent's hold on the build in hand: starts its process, takes its log, ends it, clears up after it.

Owns the work directory: one builder in it at a time (a lock), nothing left in it from a former life but a build that
was finished and not delivered. It must not know the protocol's sessions or sockets.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO

from piwheels.errors import UnavailableError
from piwheels.settings import SlaveSettings
from piwheels.slave import job, limits, processes, sandbox
from piwheels.slave.log import BoundedLog
from piwheels.vocabulary import FailureReason
from piwheels.wire.messages import Build, BuildReport, Built, FileInfo, Order

_GRACE = 8.0  #: seconds for a job to kill its build and go
_SPARE = 300.0  #: seconds a job may take beyond what its parts may
_BLOCK = 64 * 1024
_NO_LOG = "piw-slave: the builder was killed after this build had ended, and its log with it\n"
_READS = 64  #: blocks of log taken at once, so that a build that writes without end does not stop everything else

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """A job's process."""

    build: Build
    order: Order
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float  #: monotonic
    deadline: float  #: monotonic; when it is ended from here, because it did not itself
    log: BoundedLog = field(default_factory=BoundedLog)


class Runner:
    """Builds one thing at a time in ``settings.work``. Raises UnavailableError where that directory cannot be had."""

    def __init__(self, settings: SlaveSettings) -> None:
        self.work = settings.work.absolute()
        self._settings = settings
        self._running: _Running | None = None
        self._lock = _lock(self.work)
        processes.become_subreaper()  # a job that is killed leaves its build to us
        self._others = frozenset(processes.descendants(os.getpid()))
        try:
            self._group_home = limits.find_home()
            self.left = self._end_leftovers()  #: a build that a former life finished; its wheels are there
            self.sandbox = sandbox.choose(settings.sandbox, scratch=self.work)
        except BaseException:
            self._lock.close()
            raise

    @property
    def directory(self) -> Path:
        """The directory of the build in hand."""
        return self.work / "job"

    @property
    def limited(self) -> bool:
        """Whether memory can be limited for a build as a whole."""
        return self._group_home is not None

    @property
    def output(self) -> int | None:
        """A descriptor to poll: readable when the build wrote something or ended."""
        return self._running.output.fileno() if self._running is not None else None

    def start(self, build: Build, index_url: str, *, now: float) -> None:
        """Start to build; ``poll`` says how it ends. Raises OSError if it cannot be started."""
        assert build.order is not None and self._running is None
        job.wipe(self.directory)
        self.directory.mkdir(mode=0o755)
        order = build.order
        task = self._task(build, order, index_url)
        job.write_task(self.directory, task)
        process = subprocess.Popen(
            [sys.executable, "-m", job.__name__, str(self.directory), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        deadline = now + task.time_limit + job.FETCH_TIME + job.INSPECT_TIME + _SPARE
        self._running = _Running(build, order, process, process.stdout, now, deadline)

    def _task(self, build: Build, order: Order, index_url: str) -> job.Task:
        settings = self._settings
        memory = [limit for limit in (order.memory_limit, settings.memory_limit) if limit > 0]
        return job.Task(
            package=build.package,
            version=build.version,
            order=order,
            index_url=index_url,
            time_limit=min(order.time_limit, settings.build_timeout).total_seconds(),
            memory_limit=min(memory, default=0),
            min_free=settings.min_free,
            sandbox=self.sandbox,
            group_home=self._group_home,
            hide=(settings.key.absolute(),),
        )

    def news(self) -> str:
        """What the build wrote since the last call, whole lines."""
        if self._running is None:
            return ""
        self._take()
        return self._running.log.news()

    def poll(self, *, now: float) -> Built | None:
        """How the build ended, once, if it has; the process and all of its processes are then gone."""
        running = self._running
        if running is None:
            return None
        more = self._take()
        late = now > running.deadline
        if late:
            self._kill()
        elif more or running.process.poll() is None:
            return None
        running.output.close()
        self._running = None
        self._end_rest()
        report = job.read_result(self.directory)
        if report is None:
            report = _lost(running.process.returncode, late=late)
        return _built(running.order, report, log=running.log.text(), seconds=now - running.started)

    def stop(self) -> None:
        """End the build and everything that it started; its result is of no interest."""
        if self._running is not None:
            self._kill()
            self._running.output.close()
            self._running = None
            self._end_rest()

    def wheel(self, filename: str) -> Path:
        """Where a wheel of the build is."""
        return job.wheels(self.directory) / filename

    def wipe(self, *, timeout: float = 300.0) -> None:
        """Remove everything of the build."""
        if not job.wipe(self.directory, timeout=timeout):
            _logger.warning("%s cannot be cleared; it will be tried again before the next build", self.directory)

    def close(self) -> None:
        """End the build, if there is one, and let another builder have the directory."""
        self.stop()
        self._lock.close()

    def _take(self) -> bool:
        """Take what the build wrote; whether there may be more at once."""
        assert self._running is not None
        for _ in range(_READS):
            try:
                data = os.read(self._running.output.fileno(), _BLOCK)
            except BlockingIOError:
                return False
            if not data:
                return False
            self._running.log.write(data)
        return True

    def _kill(self) -> None:
        """End the job: by its own doing, else with everything below it."""
        assert self._running is not None
        process = self._running.process
        process.terminate()
        deadline = time.monotonic() + _GRACE
        while process.poll() is None and time.monotonic() < deadline:
            self._take()  # a job that waits for its log to be read must not wait for ever
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        if process.poll() is None:
            _logger.warning("the build's process does not end when told to; killing it")
            for pid in [process.pid, *processes.descendants(process.pid)]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(_GRACE)

    def _end_rest(self) -> None:
        """End what an orderly job would have ended itself."""
        processes.kill_descendants(deadline=time.monotonic() + _GRACE, skip=self._others)
        self._clear_group()

    def _clear_group(self) -> None:
        if self._group_home is not None:
            self._group_home.group(self.directory).remove()

    def _end_leftovers(self) -> Built | None:
        """End what a former builder left running here, and remove what it left lying, unless that is what it was to
        deliver."""
        self._clear_group()
        for path in self.work.glob("probe*"):
            job.wipe(path)
        left = self._finished()
        if left is None:
            job.wipe(self.directory)
        return left

    def _finished(self) -> Built | None:
        """The build that was finished and not delivered; None: there is none, or not all of it."""
        try:
            order = job.read_task(self.directory).order
            report = job.read_result(self.directory)
            if report is None or not all(self._is_whole(file) for file in report.files):
                return None
            begun, ended = ((self.directory / name).stat().st_mtime for name in (job.TASK, job.RESULT))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return _built(order, report, log=_NO_LOG, seconds=ended - begun)

    def _is_whole(self, file: FileInfo) -> bool:
        path = self.wheel(file.filename)
        if path.parent != job.wheels(self.directory) or path.is_symlink():
            return False
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def _lock(work: Path) -> IO[str]:
    """Have the work directory to ourselves; the lock ends with the process, however that ends."""
    try:
        work.mkdir(parents=True, exist_ok=True, mode=0o755)
        lock = (work / "lock").open("a+")
    except OSError as error:
        raise UnavailableError(f"cannot use {work} as the work directory: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UnavailableError(f"another piw-slave works in {work}; give this one its own slave.work") from error
    return lock


def _lost(status: int, *, late: bool) -> job.Report:
    """The report of a job that did not write one."""
    if late or status == -signal.SIGALRM:
        return job.Report(FailureReason.TIMEOUT, "the build, or looking at what came out of it, did not end in time")
    if status == -signal.SIGKILL:
        return job.Report(FailureReason.BUILDER, "the process that watched over the build was killed (out of memory?)")
    if status == 0:
        return job.Report(FailureReason.BUILDER, "what the build came to cannot be read any more (a broken disk?)")
    return job.Report(FailureReason.BUILDER, f"the process that watched over the build ended with status {status}")


def _built(order: Order, report: job.Report, *, log: str, seconds: float) -> Built:
    ok = report.reason is None
    return Built(
        ok=ok,
        duration=timedelta(seconds=max(seconds, 0.0)),
        log=log,
        files=report.files if ok else (),
        report=BuildReport(
            token=order.token,
            reason=report.reason,
            detail=report.detail,
            peak_memory=report.peak_memory,
            cpu_seconds=report.cpu_seconds,
            built_from=order.sdist_sha256,
            built_with=report.built_with,
        ),
    )
