# SPDX-License-Identifier: BSD-3-Clause
"""Small services for long-running processes: dying with a parent, being told to end, one at a time, telling systemd.

Linux and the standard library only. Knows nothing of roles or farms.
"""

import _thread
import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import threading
from pathlib import Path
from typing import IO

from piwheels.errors import UnavailableError

_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent(parent: int, *, sig: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when the thread that forked it ends; leave at once if that already happened.

    ``parent`` is the process number of whoever started us, told by itself: a parent that died before we could ask has
    already been replaced by another.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(0)


def set_from_handler(event: threading.Event) -> None:
    """Set an event from within a signal handler, a moment later.

    Not by its ``set()``, there: a handler runs in the main thread between any two of its instructions, so also while
    that thread holds the event's own lock, in ``wait()``. It would wait for itself for ever; under load one in some
    thousands of processes did. Starting a bare thread takes no lock of Python's.
    """
    try:
        _thread.start_new_thread(event.set, ())
    except RuntimeError:  # no more threads are to be had; it is all but certain that nothing holds the lock
        event.set()


def allow_many_files() -> None:
    """Raise this process's soft limit on open files to its hard one.

    The soft one is 1024 by default, for the sake of programs that use select(2): so many connections that say nothing
    would keep a listener from accepting any other, and from opening files and databases.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def only_one(path: Path, *, what: str) -> IO[str]:
    """Take the lock file for as long as the result stays open; UnavailableError names who holds it.

    The kernel gives a lock back when its holder dies, however it dies. Child processes do not inherit it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"cannot use {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(20).strip()
        file.close()
        by = f" (process {holder})" if holder.isdigit() else ""
        raise UnavailableError(f"{what} already runs with {path.parent}{by}") from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def tell_systemd(state: str) -> None:
    """Send sd_notify(3) assignments, such as READY=1, if systemd listens; otherwise do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace (unix(7))
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(1)
        sender.sendto(state.encode(), address)
