# SPDX-License-Identifier: BSD-3-Clause
"""What a wheel is built *for*: a Python, an ABI, platforms and a distribution. Pure but for :func:`native`.

A target is data (table ``targets``); here is what follows from it: the tags that an installer on it accepts, computed
by packaging.tags and never by comparing strings. It must not know the queue or builders' sessions.

On platforms of 32-bit Raspberry Pis: pip on an ARMv7 board accepts ``linux_armv7l`` and armhf manylinux tags. Under a
64-bit kernel a 32-bit Python calls itself ``armv8l`` and accepts ``linux_armv8l`` as well; a wheel so tagged would not
install on an ARMv7 board, so the armhf targets leave it out. A Pi Zero or 1 accepts ``linux_armv6l`` and nothing else,
and no other board accepts that, so it is no alias either: its wheels are a twin that is listed beside (web-output).
"""

import platform
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from packaging import tags
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag

from piwheels.errors import PiwheelsError

NATIVE = "native"  #: name of the target that this machine is
LEGACY_MANYLINUX = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}  #: PEP 600's aliases
OLDEST_GLIBC = 17  #: of manylinux_2_x on every architecture but x86


class TargetError(PiwheelsError, ValueError):
    """A target that contradicts itself, or that this farm cannot build for."""


@dataclass(frozen=True, slots=True)
class Target:
    """One row of table ``targets``."""

    name: str
    python_version: str  #: "3.11"
    abi: str  #: "cp311", "cp313t"
    platform: str  #: what its builders announce, e.g. "linux_armv7l"
    platforms: tuple[str, ...]  #: every platform tag that an installer there accepts, most specific first
    distribution: str = ""  #: "bookworm"; empty: not known
    rank: int = 0  #: oldest first; 0 in one that is not stored yet: goes last
    enabled: bool = True
    preinstalled: tuple[str, ...] = field(default=(), repr=False)  #: apt packages that its users have anyway
    id: int | None = None  #: None: not stored yet

    @property
    def python(self) -> tuple[int, int]:
        """(3, 11)"""
        major, _, minor = self.python_version.partition(".")
        return int(major), int(minor)

    def supported(self) -> frozenset[Tag]:
        """Every tag that an installer on the target accepts."""
        return _supported(self.python, self.abi, self.platforms)

    def ordered(self) -> tuple[Tag, ...]:
        """The same, the most specific first: the order in which installers prefer them."""
        return _ordered(self.python, self.abi, self.platforms)

    def accepts(self, wheel_tags: frozenset[Tag]) -> bool:
        """Whether an installer on the target takes a wheel with these tags."""
        return not self.supported().isdisjoint(wheel_tags)

    def allows(self, requires_python: str | None) -> bool:
        """Whether Requires-Python admits some patch release of the target's Python."""
        return requires_python is None or _allows(requires_python, self.python)

    def check(self) -> "Target":
        """Return the target, or raise TargetError when its parts contradict each other."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,59}", self.name):
            raise TargetError(f"{self.name!r} cannot be a target's name: a-z, 0-9 and ._- only, 60 characters at most")
        if not re.fullmatch(r"[1-9][0-9]?\.(0|[1-9][0-9]?)", self.python_version):
            raise TargetError(f"target {self.name}: {self.python_version!r} is not a Python version such as 3.11")
        expected = "cp" + self.python_version.replace(".", "")
        if not re.fullmatch(rf"{expected}[a-z]*", self.abi):
            raise TargetError(f"target {self.name}: ABI {self.abi!r} is not one of CPython {self.python_version}")
        if self.platform not in self.platforms:
            raise TargetError(f"target {self.name}: its platform {self.platform!r} is not among those it accepts")
        if not all(re.fullmatch(r"[a-z0-9_]+", tag) for tag in self.platforms):
            raise TargetError(f"target {self.name}: a platform tag consists of a-z, 0-9 and _")
        return self


@lru_cache(maxsize=256)
def _ordered(python: tuple[int, int], abi: str, platforms: tuple[str, ...]) -> tuple[Tag, ...]:
    interpreter = f"cp{python[0]}{python[1]}"
    cpython = tags.cpython_tags(python, abis=[abi], platforms=platforms)
    return (*cpython, *tags.compatible_tags(python, interpreter=interpreter, platforms=platforms))


@lru_cache(maxsize=256)
def _supported(python: tuple[int, int], abi: str, platforms: tuple[str, ...]) -> frozenset[Tag]:
    return frozenset(_ordered(python, abi, platforms))


@lru_cache(maxsize=4096)
def _allows(requires_python: str, python: tuple[int, int]) -> bool:
    """A target names a minor version, so any patch release that passes will do. Invalid ones are ignored, as pip does.

    Whether a patch release passes can only change at one that the specifiers mention, or next to it.
    """
    try:
        specifiers = SpecifierSet(requires_python)
    except (InvalidSpecifier, ValueError):
        return True
    mentioned = {int(number) for number in re.findall(r"\d{1,4}", requires_python)}
    patches = {0, 9999} | {n + step for n in mentioned for step in (-1, 0, 1) if n + step >= 0}
    return any(specifiers.contains(f"{python[0]}.{python[1]}.{patch}") for patch in patches)


def manylinux(glibc_minor: int, arch: str) -> tuple[str, ...]:
    """PEP 600's platform tags that a system with glibc 2.``glibc_minor`` accepts, newest first."""
    names: list[str] = []
    for minor in range(glibc_minor, OLDEST_GLIBC - 1, -1):
        names.append(f"manylinux_2_{minor}_{arch}")
        if legacy := LEGACY_MANYLINUX.get((2, minor)):
            names.append(f"{legacy}_{arch}")
    return tuple(names)


def _raspberry(name: str, *, python: str, glibc_minor: int, arch: str, rank: int) -> Target:
    distribution = name.partition("-")[0]
    machine = f"linux_{arch}"
    return Target(
        name=name,
        python_version=python,
        abi="cp" + python.replace(".", ""),
        platform=machine,
        platforms=(machine, *manylinux(glibc_minor, arch)),
        distribution=distribution,
        rank=rank,
    )


#: Raspberry Pi OS. Ranks leave room between them; older first.
PRESETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        _raspberry("bookworm-armhf", python="3.11", glibc_minor=36, arch="armv7l", rank=100),
        _raspberry("bookworm-arm64", python="3.11", glibc_minor=36, arch="aarch64", rank=110),
        _raspberry("trixie-armhf", python="3.13", glibc_minor=41, arch="armv7l", rank=200),
        _raspberry("trixie-arm64", python="3.13", glibc_minor=41, arch="aarch64", rank=210),
    )
}


def native(name: str = NATIVE) -> Target:
    """The target that this machine and this interpreter are."""
    first = next(tags.sys_tags())
    if not first.interpreter.startswith("cp"):
        raise TargetError(f"wheels are built for CPython; this is {platform.python_implementation()}")
    platforms = tuple(tags.platform_tags())
    machine = re.sub(r"[^a-z0-9_]", "_", sysconfig.get_platform().lower())
    if machine not in platforms:  # a 32-bit Python under a 64-bit kernel; the most general tag is the userland's
        machine = next(tag for tag in reversed(platforms) if tag.startswith("linux_"))
    return Target(
        name=name,
        python_version=f"{sys.version_info[0]}.{sys.version_info[1]}",
        abi=first.abi,
        platform=machine,
        platforms=platforms,
        distribution=distribution_of(_os_release()),
    ).check()


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def distribution_of(os_release: Mapping[str, str]) -> str:
    """A distribution's name as targets spell it, from os-release(5): the code name, else ID and VERSION_ID."""
    if codename := os_release.get("VERSION_CODENAME", "").strip().lower():
        return codename
    parts = (os_release.get("ID", "").strip().lower(), os_release.get("VERSION_ID", "").strip().lower())
    return "-".join(part for part in parts if part)
