# SPDX-License-Identifier: BSD-3-Clause
"""Trees of processes: finding every descendant, ending all of them, and not outliving a parent.

A build may fork, ``setsid`` and double-fork as it likes. Whoever runs it makes itself a *subreaper* (prctl(2)), so that
orphans become its own children, and ends what :func:`descendants` finds until nothing is left. Linux only. It must not
know what the processes are for.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_PROC = Path("/proc")
_libc = ctypes.CDLL(None, use_errno=True)  # loaded early: between fork and exec nothing may be imported


def become_subreaper() -> None:
    """Have the orphans among this process's descendants become its children rather than init's."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel signal this process when its parent, which had pid ``parent``, ends; also if it has already."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), number)


def gain_no_privileges() -> None:
    """Have this process, and all it starts, gain nothing from setuid programs."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield (pid, its parent's pid) of every process, zombies included."""
    for entry in os.listdir(_PROC):  # noqa: PTH208  # pathlib would make an object for each
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (_PROC / entry / "stat").read_bytes()
                yield int(entry), int(stat[stat.rindex(b")") + 2 :].split()[1])  # proc(5): the name may hold anything


def descendants(root: int, *, skip: frozenset[int] = frozenset()) -> list[int]:
    """All processes below ``root``, parents before children; without those in ``skip`` and what is below them."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    todo = [root]
    while todo:
        below = [pid for pid in children.pop(todo.pop(), []) if pid not in skip]
        found += below
        todo += below
    return found


def kill_descendants(*, deadline: float, waited_for: int = 0, skip: frozenset[int] = frozenset()) -> bool:
    """Kill all that is below this process until nothing is left, or until ``deadline`` (monotonic); whether it worked.

    Children are reaped as they end, but for ``waited_for``, whose exit status somebody else wants. Those in ``skip``,
    and what is below them, are left alone.
    """
    me = os.getpid()
    while True:
        alive = [pid for pid in descendants(me, skip=skip) if not _ended(pid, reap=pid != waited_for)]
        if not alive:
            return True
        if time.monotonic() > deadline:
            return False
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)  # the kernel needs a moment; there is nothing to wait on for processes that are not children


def _ended(pid: int, *, reap: bool) -> bool:
    """Whether a process is a zombie or gone; reaps it when it is a child of ours."""
    if reap:
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(pid, os.WNOHANG)[0] == pid
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return True
    return stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] in (b"Z", b"X")


def memory_of(pids: list[int]) -> int:
    """Bytes of anonymous and shared memory that these processes hold together (shared pages count once for each)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            for line in (_PROC / str(pid) / "status").read_text(errors="replace").splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
    return total
