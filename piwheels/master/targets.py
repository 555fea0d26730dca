# SPDX-License-Identifier: BSD-3-Clause
"""What a wheel is built *for*: a Python, an ABI, platforms and a distribution. Pure but for :func:`native`.

A target is data (table ``targets``); here is what follows from it: the tags that an installer on it accepts, computed
by packaging.tags and never by comparing strings. It must not know the queue or builders' sessions.

On platforms of 32-bit Raspberry Pis: pip on an ARMv7 board accepts ``linux_armv7l`` and armhf manylinux tags. Under a
64-bit kernel a 32-bit Python calls itself ``armv8l`` and accepts ``linux_armv8l`` as well; a wheel so tagged would not
install on an ARMv7 board, so the armhf targets leave it out. A Pi Zero or 1 accepts ``linux_armv6l`` and nothing else,
and no other board accepts that, so it is no alias either: its wheels are a twin that is made beside (master/twins).
"""

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from packaging import tags
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag

from piwheels.errors import ExitCode, PiwheelsError

#: Machines that wheels are known to be built for, as platform tags call them.
ARCHITECTURES = frozenset(
    {
        *("aarch64", "alpha", "armv5tel", "armv6l", "armv7l", "armv8l", "i686", "loongarch64", "m68k", "mips"),
        *("mips64", "parisc", "parisc64", "ppc", "ppc64", "ppc64le", "riscv64", "s390x", "sh4", "sparc64", "x86_64"),
    }
)
RUNS = {"armv8l": ("armv8l", "armv7l")}  #: what an installer on a machine takes beside that machine's own
FREE_THREADED = (3, 13)  #: PEP 703
PYMALLOC_FLAG = (3, 8)  #: from here on, ABI tags have no m
MAX_PLATFORMS = 500
MAX_PREINSTALLED = 20_000

NATIVE = "native"  #: name of the target that this machine is
LEGACY_MANYLINUX = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}  #: PEP 600's aliases
OLDEST_GLIBC = 17  #: of manylinux_2_x on every architecture but x86
OLDEST_X86 = 5

_LIBC = re.compile(r"(glibc|musl)-([0-9]{1,3})\.([0-9]{1,3})")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}")


class TargetError(PiwheelsError, ValueError):
    """A target that contradicts itself, or that this farm cannot build for."""

    exit_code = ExitCode.USAGE


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
    libc: str = ""  #: "glibc-2.36", "musl-1.2"; empty: not known
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
        if wrong := self._wrong_python() or self._wrong_system() or self._wrong_platforms():
            raise TargetError(f"target {self.name}: {wrong}")
        return self

    def _wrong_python(self) -> str:
        if not re.fullmatch(r"[1-9][0-9]?\.(0|[1-9][0-9]?)", self.python_version):
            return f"{self.python_version!r} is not a Python version such as 3.11"
        expected = "cp" + self.python_version.replace(".", "")
        match = re.fullmatch(rf"{expected}([a-z]*)", self.abi)
        if match is None:
            return f"ABI {self.abi!r} is not one of CPython {self.python_version}"
        known = {"", "d"} | ({"t", "td"} if self.python >= FREE_THREADED else set())
        known |= {"m", "dm", "mu", "dmu"} if self.python < PYMALLOC_FLAG else set()
        return "" if match.group(1) in known else f"CPython {self.python_version} has no ABI {self.abi!r}"

    def _wrong_platforms(self) -> str:
        if len(self.platforms) > MAX_PLATFORMS:
            return f"{len(self.platforms)} platform tags are more than the {MAX_PLATFORMS} that are taken"
        if not all(re.fullmatch(r"[a-z0-9_]+", tag) for tag in self.platforms):
            return "a platform tag consists of a-z, 0-9 and _"
        if self.platform not in self.platforms:
            return f"its platform {self.platform!r} is not among those it accepts"
        own = parse_platform(self.platform)
        if own is None or own.libc:
            return f"its platform {self.platform!r} is not one that builders announce, such as linux_armv7l"
        systems = set()
        for tag in self.platforms:
            alias = parse_platform(tag)
            if alias is None:
                return f"nobody knows the platform tag {tag!r}"
            if alias.arch not in RUNS.get(own.arch, (own.arch,)):
                return f"what is built for {tag} does not run on {self.platform}"
            systems |= {alias.libc} - {""}
            if self.libc and alias.libc and not alias.runs_with(self.libc):
                return f"what is built for {tag} does not run with {self.libc}"
        return "its platform tags are of two C libraries, glibc and musl" if len(systems) > 1 else ""

    def _wrong_system(self) -> str:
        if self.libc and not _LIBC.fullmatch(self.libc):
            return f"{self.libc!r} is not a C library such as glibc-2.36 or musl-1.2"
        if not re.fullmatch(r"([a-z0-9][a-z0-9._-]{0,59})?", self.distribution):
            return f"{self.distribution!r} is not a distribution's name, such as bookworm"
        if len(self.preinstalled) > MAX_PREINSTALLED:
            return f"{len(self.preinstalled)} packages are more than the {MAX_PREINSTALLED} that are taken"
        odd = next((name for name in self.preinstalled if not _PACKAGE.fullmatch(name)), None)
        return "" if odd is None else f"{odd[:100]!r} is not the name of a Debian package"


def agree(targets: Iterable[Target]) -> None:
    """Raise TargetError when two enabled targets contradict each other: builders could not tell them apart, or one
    distribution has two C libraries."""
    seen: dict[tuple[str, ...], Target] = {}
    systems: dict[str, Target] = {}
    for target in targets:
        if not target.enabled:
            continue
        other = seen.setdefault((target.abi, target.platform, target.distribution), target)
        if other is not target:
            raise TargetError(
                f"target {target.name} is what target {other.name} is already: {target.abi} on {target.platform}, "
                f"{target.distribution or 'any distribution'}; builders could not tell them apart"
            )
        if target.libc and target.distribution:
            other = systems.setdefault(target.distribution, target)
            if other.libc != target.libc:
                raise TargetError(
                    f"target {target.name}: {target.distribution} has {target.libc} there, and {other.libc} in target "
                    f"{other.name}"
                )


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform tag, taken apart."""

    arch: str
    libc: str = ""  #: "glibc" or "musl"; empty: any
    version: tuple[int, int] = (0, 0)  #: of the oldest C library that what is so tagged runs with

    def runs_with(self, libc: str) -> bool:
        """Whether what is so tagged runs with this C library, e.g. "glibc-2.36"."""
        name, _, version = libc.partition("-")
        major, _, minor = version.partition(".")
        return self.libc == name and self.version[0] == int(major) and self.version[1] <= int(minor)


def parse_platform(tag: str) -> Platform | None:
    """What a platform tag of Linux says; None for one that no installer on Linux knows."""
    if match := re.fullmatch(r"(many|musl)linux_([0-9]{1,3})_([0-9]{1,3})_(\w+)", tag):
        kind, major, minor, arch = match.groups()
        found = Platform(arch, "glibc" if kind == "many" else "musl", (int(major), int(minor)))
    elif match := re.fullmatch(r"(manylinux1|manylinux2010|manylinux2014)_(\w+)", tag):
        found = Platform(match.group(2), "glibc", next(v for v, name in LEGACY_MANYLINUX.items() if name == match[1]))
    elif match := re.fullmatch(r"linux_(\w+)", tag):
        found = Platform(match.group(1))
    else:
        return None
    return found if found.arch in ARCHITECTURES else None


def libc_of(platforms: Iterable[str]) -> str:
    """The C library of a system that accepts these platform tags; empty where they do not tell."""
    found = [alias for tag in platforms if (alias := parse_platform(tag)) is not None and alias.libc]
    newest = max(found, key=lambda alias: alias.version, default=None)
    return f"{newest.libc}-{newest.version[0]}.{newest.version[1]}" if newest else ""


def aliases(arch: str, libc: str) -> tuple[str, ...]:
    """The platform tags that an installer on such a system accepts, e.g. ``armv7l`` and "glibc-2.36", most specific
    first. Raises TargetError."""
    match = _LIBC.fullmatch(libc)
    if match is None:
        raise TargetError(f"{libc!r} is not a C library such as glibc-2.36 or musl-1.2")
    kind, major, minor = match.group(1), int(match.group(2)), int(match.group(3))
    if kind == "musl":
        return (f"linux_{arch}", *(f"musllinux_{major}_{number}_{arch}" for number in range(minor, -1, -1)))
    return (f"linux_{arch}", *manylinux(minor, arch))


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
    oldest = OLDEST_X86 if arch in ("x86_64", "i686") else OLDEST_GLIBC
    for minor in range(glibc_minor, oldest - 1, -1):
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
        libc=f"glibc-2.{glibc_minor}",
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
        libc=libc_of(platforms) or _own_libc(),
    ).check()


def _own_libc() -> str:
    """glibc's version, on a machine for which no manylinux tags are defined."""
    try:
        said = (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "-")
    except (ValueError, OSError):
        return ""
    match = _LIBC.match(said)
    return match.group() if match else ""


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
