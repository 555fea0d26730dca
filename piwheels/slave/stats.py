# SPDX-License-Identifier: BSD-3-Clause
"""What a builder tells of itself: how it is (disk, memory, load, temperature) and what it is (system, board, tags).

Reads /proc, /sys and os-release; whatever is missing or odd is reported as nothing, never as an error. It must not know
sockets or builds.
"""

import os
import platform
import re
import socket
import sysconfig
from datetime import UTC, datetime, timedelta
from pathlib import Path

from packaging import tags

from piwheels import __version__
from piwheels.slave.limits import free_space
from piwheels.wire.messages import Capabilities, Hello, Stats

FEATURES = ("live-log",)
_MAX_WORD = 64  #: characters of anything that is told about a machine
_MAX_LABEL = 100
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


def stats(work: Path, *, now: datetime | None = None, root: Path = Path("/")) -> Stats:
    """How this machine is; disk is that of the work directory."""
    memory = _meminfo(root)
    disk = os.statvfs(work)
    return Stats(
        now=now or datetime.now(UTC),
        disk_size=disk.f_blocks * disk.f_frsize,
        disk_free=free_space(work),
        mem_size=memory.get("MemTotal", 0),
        mem_free=memory.get("MemAvailable", 0),
        swap_size=memory.get("SwapTotal", 0),
        swap_free=memory.get("SwapFree", 0),
        load_average=_load(root),
        cpu_temperature=_temperature(root),
    )


def hello(*, label: str, build_timeout: timedelta, busy_timeout: timedelta, root: Path = Path("/")) -> Hello:
    """What this machine is."""
    best = next(tags.sys_tags())  # this interpreter's own, e.g. cp311-cp311-manylinux_2_36_x86_64
    release = os_release(root)
    revision, serial = board(root)
    return Hello(
        build_timeout=build_timeout,
        busy_timeout=busy_timeout,
        py_version="".join(platform.python_version_tuple()[:2]),
        abi=best.abi,
        platform=linux_platform(),
        label=_word(label or socket.gethostname(), _MAX_LABEL),
        os_name=_word(release.get("ID", platform.system())),
        os_version=_word(release.get("VERSION_CODENAME") or release.get("VERSION_ID", "")),
        board_revision=revision,
        board_serial=serial,
        capabilities=Capabilities(agent=f"piwheels {__version__}", features=FEATURES),
    )


def own_platform() -> str:
    """The platform tag that this Python gives its wheels by itself."""
    return re.sub(r"[^a-z0-9_]", "_", sysconfig.get_platform().lower())


def linux_platform() -> str:
    """The platform tag without a C library's version, e.g. linux_armv7l.

    A 32-bit Python under a 64-bit kernel announces the most general tag that it accepts: the userland's.
    """
    machine = own_platform()
    accepted = [tag for tag in tags.platform_tags() if tag.startswith("linux_")]
    return machine if machine in accepted or not accepted else accepted[-1]


def os_release(root: Path = Path("/")) -> dict[str, str]:
    """os-release(5)."""
    found = {}
    for line in (_read(root / "etc/os-release") or _read(root / "usr/lib/os-release")).splitlines()[:100]:
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            found[key] = re.sub(r"\\(.)", r"\1", value.strip("\"'"))
    return found


def board(root: Path = Path("/")) -> tuple[str, str]:
    """Revision and serial number of a Raspberry Pi's board; empty elsewhere."""
    found = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found[key.strip()] = value.strip()
    serial = found.get("Serial") or _read(root / "proc/device-tree/serial-number").strip("\0\n")
    return _word(found.get("Revision", "")), _word(serial)


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[key] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    return found


def _load(root: Path) -> float:
    try:
        return float(_read(root / "proc/loadavg").split()[0])
    except (IndexError, ValueError):
        return 0.0


def _temperature(root: Path) -> float:
    """The hottest thermal zone in degrees Celsius; 0.0 where there is none."""
    zones = [_read(path).strip() for path in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    readings = [int(zone) / 1000 for zone in zones if zone.removeprefix("-").isdigit()]
    return max((reading for reading in readings if -50 < reading < 200), default=0.0)


def _word(text: str, limit: int = _MAX_WORD) -> str:
    return _UNPRINTABLE.sub("?", text)[:limit]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(64 * 1024).decode("utf-8", "replace")
    except OSError:
        return ""
