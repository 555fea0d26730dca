# SPDX-License-Identifier: BSD-3-Clause
"""What a build may use: memory through a control group where the system lets us have one, files and processes through
resource limits; and how much disk is left.

Owns the details of cgroup v2, cgroup v1 and setrlimit(2). It must not know pip, sandboxes or the protocol. Nothing here
fails a build: where the system refuses, the weaker means remains, and :attr:`MemoryGroup` is None.

Peak memory from a control group includes the page cache charged to it, so it is an upper bound.
"""

import contextlib
import hashlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE = 8 * 1024**3  #: bytes of the largest file a build may write
_MIN_INODES = 2000
_MOUNTS = Path("/proc/self/mountinfo")
_OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group that a build's processes are put into, before they exec."""

    path: Path
    version: int  #: 1 or 2

    def join(self) -> None:
        """Put the calling process in (0 stands for it); for use between fork and exec."""
        (self.path / "cgroup.procs").write_text("0")

    def peak(self) -> int | None:
        """Most bytes used at once so far, or None where the kernel does not tell (cgroup v2 before Linux 5.19)."""
        return _number(self.path / ("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"))

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed because the limit was reached."""
        events = _read(self.path / ("memory.events" if self.version == 2 else "memory.oom_control"))
        return sum(int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill "))

    def kill(self) -> None:
        """Kill everything in it, once."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")  # v2 since Linux 5.14; the loop below serves the others
        for pid in _read(self.path / "cgroup.procs").split():
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid), signal.SIGKILL)

    def remove(self, *, wait: float = 5.0) -> bool:
        """Kill what is left in it and remove it; whether that worked within ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while self.path.exists():
            self.kill()
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)  # a dying process leaves its group only when it is gone; nothing signals that
        return True


@dataclass(frozen=True, slots=True)
class GroupHome:
    """A control group under which we may make one for each build."""

    path: Path
    version: int

    def group(self, work: Path) -> MemoryGroup:
        """The group of builds in work directory ``work``: always the same, for one build runs there at a time."""
        name = "piw-build-" + hashlib.sha256(os.fsencode(work.absolute())).hexdigest()[:12]
        return MemoryGroup(self.path / name, self.version)


def make_group(group: MemoryGroup, *, limit: int) -> MemoryGroup | None:
    """Make the group afresh with ``limit`` bytes of memory and swap (0: unlimited); None where that does not work."""
    if not group.remove():
        return None
    try:
        group.path.mkdir()
        if limit:
            _limit(group, limit)
    except OSError:
        group.remove()
        return None
    return group


def _limit(group: MemoryGroup, limit: int) -> None:
    if group.version == 2:
        (group.path / "memory.max").write_text(str(limit))
        with contextlib.suppress(OSError):  # absent on kernels without swap accounting
            (group.path / "memory.swap.max").write_text("0")
            (group.path / "memory.oom.group").write_text("1")
        return
    (group.path / "memory.limit_in_bytes").write_text(str(limit))
    with contextlib.suppress(OSError):
        (group.path / "memory.memsw.limit_in_bytes").write_text(str(limit))


def find_home(*, mounts: Path = _MOUNTS, own: Path = _OWN) -> GroupHome | None:
    """Where build groups can be made, or None. Called once, by a process that has no children yet.

    On cgroup v2 a group with processes cannot have children with controllers, so a service that was given its own
    group (``Delegate=yes``) moves itself into a leaf of it first.
    """
    points = list(_mounted(mounts.read_text(errors="replace")) if mounts.exists() else ())
    for line in _read(own).splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        for version, root, point, options in points:
            if version == 1 and "memory" in controllers.split(",") and "memory" in options:
                home = GroupHome(_inside(point, root, path), 1)
            elif version == 2 and number == "0" and not controllers:
                home = GroupHome(_inside(point, root, path), 2)
            else:
                continue
            if usable := _usable(home):
                return usable
    return None


def _mounted(text: str) -> Iterator[tuple[int, str, Path, list[str]]]:
    """(version, root, mount point, super options) of each cgroup file system in a mountinfo (proc(5))."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            yield (2 if kind[0] == "cgroup2" else 1), fields[3], Path(fields[4]), kind[2].split(",")


def _inside(point: Path, root: str, path: str) -> Path:
    """Where a group lies under its mount point, which may show only part of the hierarchy (containers)."""
    with contextlib.suppress(ValueError):
        return point / Path(path).relative_to(root)
    return point


def _usable(home: GroupHome) -> GroupHome | None:
    if home.version == 1:
        return home if _try(home) else None
    if "memory" not in _read(home.path / "cgroup.controllers").split():
        return None
    return _delegated(home) or _beside(home)


def _beside(home: GroupHome) -> GroupHome | None:
    """A group next to ours, where the parent hands the memory controller down and lets us write."""
    beside = GroupHome(home.path.parent, 2)
    handed_down = "memory" in _read(beside.path / "cgroup.subtree_control").split()
    return beside if handed_down and _try(beside) else None


def _alone(path: Path) -> bool:
    """Whether we are the only process of our group, as a service is at its start."""
    return _read(path / "cgroup.procs").split() == [str(os.getpid())]


def _delegated(home: GroupHome) -> GroupHome | None:
    if not _alone(home.path):
        return None
    leaf = home.path / "piw-slave"
    try:
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        (home.path / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return None
    return home if _try(home) else None


def _try(home: GroupHome) -> bool:
    """Whether a group can be made there, limited, and removed."""
    group = MemoryGroup(home.path / f"piw-try-{os.getpid()}", home.version)
    return make_group(group, limit=64 * 1024**2) is not None and group.remove()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def limit_resources(*, memory: int, disk: int) -> None:
    """Set this process's resource limits; for use between fork and exec.

    ``memory``: bytes of private writable memory of each process, 0 for no limit (RLIMIT_DATA, not RLIMIT_AS: address
    space reserved and never touched costs nothing). ``disk``: bytes of the largest file.
    """
    if memory:
        _lower(resource.RLIMIT_DATA, memory)
    _lower(resource.RLIMIT_FSIZE, max(min(disk, MAX_FILE), 1024**2))
    _lower(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):  # the kernel is to pick the build, not the builder
        Path("/proc/self/oom_score_adj").write_text("500")


def _lower(what: int, limit: int) -> None:
    _, hard = resource.getrlimit(what)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (limit, limit))


def free_space(path: Path) -> int:
    """Bytes that an ordinary user may still write there; 0 when inodes run out."""
    status = os.statvfs(path)
    if status.f_files and status.f_favail < _MIN_INODES:
        return 0
    return status.f_bavail * status.f_frsize
