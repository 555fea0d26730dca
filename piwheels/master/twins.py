# SPDX-License-Identifier: BSD-3-Clause
"""Twins: a wheel built for ``linux_armv7l`` under the only platform tag that a Raspberry Pi Zero or 1 accepts.

Only where the wheel runs there: every ELF file in it says so of itself (master/arm_elf), or it has none. The master
looks for itself, at every file and whatever its name is; what builders say of their wheels does not count. The twin's
WHEEL names its own tag, so it has bytes and a hash of its own; its METADATA is the wheel's.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import ZipInfo

from piwheels.errors import WheelError
from piwheels.master.arm_elf import MAGIC, runs_on_armv6
from piwheels.master.targets import Target
from piwheels.wheelfile import OpenWheel, WheelName, open_wheel

MAX_ELF = 1024**3  #: unpacked bytes of all ELF files that are looked at: some ten seconds' work

#: The tag of a target's wheels, and that of their twins.
PLATFORMS: Mapping[str, str] = {"linux_armv7l": "linux_armv6l"}


def platform_of_twin(target: Target, name: WheelName) -> str | None:
    """The platform tag under which a wheel that was built for a target may have a twin; None: it has none."""
    twin = PLATFORMS.get(target.platform)
    tags = name.platform_tag.split(".")
    return twin if twin is not None and target.platform in tags and twin not in tags else None


def runs_on_twin(path: Path) -> bool:
    """Whether a wheel runs where its twin would be installed. A wheel that cannot be read does not."""
    try:
        with open_wheel(path) as wheel:
            looked = 0
            for info in _elf_files(wheel):
                looked += info.file_size
                if looked > MAX_ELF or not _fits(wheel, info):
                    return False
    except WheelError:
        return False
    return True


def _elf_files(wheel: OpenWheel) -> Iterator[ZipInfo]:
    """Every member that begins as ELF files do."""
    for info in wheel.members.values():
        if info.file_size >= len(MAGIC):
            with wheel.archive.open(info) as member:
                magic = member.read(len(MAGIC))
            if magic == MAGIC:
                yield info


def _fits(wheel: OpenWheel, info: ZipInfo) -> bool:
    with wheel.archive.open(info) as member:
        return runs_on_armv6(member, info.file_size)
