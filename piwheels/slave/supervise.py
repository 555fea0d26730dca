# SPDX-License-Identifier: BSD-3-Clause
"""Runs one command to its end, or to the end of its time, memory or disk; nothing of it is left running afterwards.

For a process that does nothing else meanwhile and has one thread (:mod:`piwheels.slave.job`): it becomes the subreaper
of all that the command starts, prepares the child between fork and exec, and polls. It must not know pip.
"""

import contextlib
import os
import resource
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from piwheels.slave import limits, processes
from piwheels.slave.sandbox import Confinement, Sandbox
from piwheels.vocabulary import FailureReason

_LOOK = 0.5  #: seconds between two looks at time, memory and disk
_END = 10.0  #: seconds that killing the command's processes may take
_BLOCK = 64 * 1024
_BACKLOG = 1024**2  #: bytes of output held for a reader that does not keep up; then the command has to wait


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command may use."""

    deadline: float  #: monotonic
    memory: int  #: bytes; 0: no limit
    disk: Path  #: where it writes
    min_free: int  #: bytes that must stay free there


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int  #: exit status; negative: killed by that signal
    cause: FailureReason | None  #: a limit that ended it
    words: str  #: what that limit was
    stopped: bool  #: it was ended because the caller wanted to
    peak_memory: int | None  #: bytes
    cpu_seconds: float


@dataclass(slots=True)
class Outlet:
    """A pipe to somebody who may read slowly, or not at all any more."""

    descriptor: int
    waiting: bytearray = field(default_factory=bytearray)
    broken: bool = False

    def write(self, data: bytes) -> None:
        """Take data, to be passed on by ``flush``."""
        if not self.broken:
            self.waiting += data

    def flush(self) -> None:
        """Pass on what the pipe takes now."""
        try:
            while self.waiting:
                del self.waiting[: os.write(self.descriptor, self.waiting[:_BLOCK])]
        except BlockingIOError:
            pass
        except OSError:  # nobody listens; the build is as good as without
            self.broken = True
            self.waiting.clear()

    def drain(self, *, deadline: float) -> None:
        """Pass on everything, unless that takes too long."""
        while self.waiting and time.monotonic() < deadline:
            self.flush()
            if self.waiting:
                with selectors.DefaultSelector() as selector:
                    selector.register(self.descriptor, selectors.EVENT_WRITE)
                    selector.select(max(0.0, deadline - time.monotonic()))


@dataclass(slots=True)
class _Watch:
    """What is watched while a command runs."""

    command: subprocess.Popen[bytes]
    may: Limits
    group: limits.MemoryGroup | None
    others: frozenset[int]  #: children that this process had before; none of the command's business
    peak: int = 0

    def verdict(self) -> tuple[FailureReason, str] | None:
        """The limit that is reached, if any."""
        if time.monotonic() >= self.may.deadline:
            return FailureReason.TIMEOUT, "the build took longer than it may"
        if limits.free_space(self.may.disk) < self.may.min_free:
            return FailureReason.DISK, "the build left too little free disk"
        if self.group is None:
            used = processes.memory_of(processes.descendants(os.getpid(), skip=self.others))
            self.peak = max(self.peak, used)
            if 0 < self.may.memory < used:
                return FailureReason.MEMORY, _memory_words(self.may.memory)
        return None


def run(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    sandbox: Sandbox,
    limits_: Limits,
    group: limits.MemoryGroup | None,
    read: Callable[[bytes], None],
    outlet: Outlet,
    stopped: Callable[[], bool],
    wake: int,
) -> Ended:
    """Run a command. Its output goes to ``read`` and ``outlet``. ``wake`` is readable after a signal; then, and every
    now and then, ``stopped`` is asked whether to end early."""
    processes.become_subreaper()
    before = _children_seconds()
    others = frozenset(processes.descendants(os.getpid()))
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environ),
        cwd=cwd,
        start_new_session=True,
        umask=0o022,
        # Safe here, and only here: this process has one thread.
        preexec_fn=_preparation(sandbox, limits_, group),
    ) as child:
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        watch = _Watch(child, limits_, group, others)
        verdict, was_stopped = _attend(watch, child.stdout, read, outlet, stopped, wake)
        status = child.poll()
        _end_all(child, group, others)
        _read_rest(child.stdout, read, outlet)
        status = child.wait(_END) if status is None else status
    verdict = verdict or _killed_for_memory(status, group, limits_)
    return Ended(
        status=status,
        cause=verdict[0] if verdict else None,
        words=verdict[1] if verdict else "",
        stopped=was_stopped,
        peak_memory=(group.peak() if group else None) or max(watch.peak, _children_peak()) or None,
        cpu_seconds=_children_seconds() - before,
    )


def _attend(
    watch: _Watch,
    output: IO[bytes],
    read: Callable[[bytes], None],
    outlet: Outlet,
    stopped: Callable[[], bool],
    wake: int,
) -> tuple[tuple[FailureReason, str] | None, bool]:
    """Pass output on until the command ends, reaches a limit, or is to stop."""
    more = True
    with selectors.DefaultSelector() as selector:
        selector.register(wake, selectors.EVENT_READ)
        looked = 0.0
        while True:
            _choose(selector, output, selectors.EVENT_READ, more and len(outlet.waiting) < _BACKLOG)
            _choose(selector, outlet.descriptor, selectors.EVENT_WRITE, bool(outlet.waiting))
            for key, _ in selector.select(_LOOK):
                if key.fileobj is output:
                    more = _pass(output, read, outlet)
                elif key.fileobj == wake:
                    _empty(wake)
            outlet.flush()
            if stopped():
                return None, True
            if watch.command.poll() is not None:
                return None, False
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                if verdict := watch.verdict():
                    return verdict, False


def _choose(selector: selectors.BaseSelector, what: IO[bytes] | int, events: int, wanted: bool) -> None:
    """Have the selector look at something, or not."""
    known = selector.get_map() or {}
    if wanted and what not in known:
        selector.register(what, events)
    elif not wanted and what in known:
        selector.unregister(what)


def _pass(output: IO[bytes], read: Callable[[bytes], None], outlet: Outlet) -> bool:
    """Pass on what there is; whether more may come."""
    try:
        data = os.read(output.fileno(), _BLOCK)
    except BlockingIOError:
        return True
    if data:
        read(data)
        outlet.write(data)
    return bool(data)


def _empty(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 512)


def _read_rest(output: IO[bytes], read: Callable[[bytes], None], outlet: Outlet) -> None:
    """Pass on what the ended command left in its pipe; 64 KiB of it by default, 1 MiB at most (pipe(7))."""
    for _ in range(64):
        if not _pass(output, read, outlet):
            break


def _end_all(child: subprocess.Popen[bytes], group: limits.MemoryGroup | None, others: frozenset[int]) -> None:
    """Leave nothing running: the name space dies with bubblewrap, the group with a word, orphans are found as ours."""
    if child.poll() is None:
        child.kill()
    if group is not None:
        group.kill()
    processes.kill_descendants(deadline=time.monotonic() + _END, waited_for=child.pid, skip=others)


def _killed_for_memory(
    status: int, group: limits.MemoryGroup | None, limits_: Limits
) -> tuple[FailureReason, str] | None:
    if status == 0 or group is None or not group.oom_kills():
        return None
    return FailureReason.MEMORY, _memory_words(limits_.memory)


def _memory_words(limit: int) -> str:
    return f"the build needs more than the {limit // 1024**2} MiB of memory it may use" if limit else "memory ran out"


def _preparation(sandbox: Sandbox, limits_: Limits, group: limits.MemoryGroup | None) -> Callable[[], None]:
    """What the child does between fork and exec. Everything it needs is looked up before."""
    parent = os.getpid()
    room = max(limits.free_space(limits_.disk) - limits_.min_free, 0)
    user, ids = sandbox.user, sandbox.group
    tie = sandbox.confinement is not Confinement.BUBBLEWRAP

    def prepare() -> None:
        if group is not None:
            group.join()
        limits.limit_resources(memory=0 if group is not None else limits_.memory, disk=room)
        if user is not None and ids is not None:
            os.setgroups([])
            os.setresgid(ids, ids, ids)
            os.setresuid(user, user, user)
        if tie:  # bubblewrap sees to both itself, and where it is installed setuid it could not start
            processes.gain_no_privileges()
        processes.die_with_parent(parent)

    return prepare


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _children_peak() -> int:
    """The largest resident set of any one process that ended, in bytes: what two looks may have missed between them."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
