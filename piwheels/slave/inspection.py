# SPDX-License-Identifier: BSD-3-Clause
"""What there is to say about a wheel just built: its tags, its Python, and what it needs from system and index.

Reads ELF files with pyelftools and runs nothing. A wheel is untrusted: a malformed ELF file in it has no dependencies,
and is no reason to fail. It must not know how the wheel was built.

apt dependencies leave out libc6, which is essential to every Debian; libgcc-s1 and libstdc++6 stay in, for a minimal
system may lack them. pip dependencies are the names of the Requires-Dist that hold here, extras left out.
"""

import hashlib
import itertools
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from piwheels.errors import WheelError
from piwheels.slave.apt import EVERYWHERE, Machine, System
from piwheels.vocabulary import DependencyTool
from piwheels.wheelfile import WheelContent, check_wheel
from piwheels.wire.messages import FileInfo

MAX_DEPENDENCIES = 500
_MAX_NEEDED = 1000  #: DT_NEEDED entries of one file
_MAX_TAGS = 10_000  #: entries of a dynamic section that are looked at
_MAX_ELF = 2 * 1024**3  #: bytes of one file that is unpacked to be looked at


@dataclass(frozen=True, slots=True)
class Needed:
    """What an ELF file asks the dynamic linker for."""

    machine: Machine
    libraries: tuple[str, ...]


def inspect(path: Path, *, project: str, version: str, system: System | None = None) -> FileInfo:
    """Describe a wheel; raises WheelError if it is not ``project``'s ``version`` or contradicts itself."""
    name, content = check_wheel(path, project=project, version=version)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileInfo(
        filename=name.filename,
        size=path.stat().st_size,
        sha256=digest,
        package_tag=name.package_tag,
        version_tag=name.version_tag,
        py_tag=name.python_tag,
        abi_tag=name.abi_tag,
        platform_tag=name.platform_tag,
        requires_python=content.requires_python,
        dependencies=dependencies(path, content, system or System()),
    )


def dependencies(path: Path, content: WheelContent, system: System) -> dict[DependencyTool, tuple[str, ...]]:
    """What a wheel needs, by who provides it; tools that provide nothing are left out."""
    found: dict[DependencyTool, set[str]] = {tool: set() for tool in DependencyTool}
    found[DependencyTool.PIP] |= pip_requirements(content.requires_dist)
    for machine, libraries in _libraries(path, content).items():
        for library, package in system.packages(sorted(libraries), machine).items():
            found[DependencyTool.APT if package else DependencyTool.NONE].add(package or library)
    found[DependencyTool.APT] -= EVERYWHERE
    return {tool: tuple(sorted(names)[:MAX_DEPENDENCIES]) for tool, names in found.items() if names}


def pip_requirements(requires_dist: Iterable[str]) -> set[str]:
    """Canonical names of the requirements whose markers hold on this machine without any extra."""
    names = set()
    for text in requires_dist:
        try:
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
            continue
        if wanted and len(requirement.name) <= 200:
            names.add(str(canonicalize_name(requirement.name)))
    return names


def _libraries(path: Path, content: WheelContent) -> dict[Machine, set[str]]:
    """Libraries that the wheel's ELF files need and that it does not bring itself, by machine.

    What it brings is found beside the file by an rpath of $ORIGIN, or was loaded before by the package's own code.
    """
    needed: dict[Machine, set[str]] = {}
    if not content.elf_members:
        return needed
    try:
        with zipfile.ZipFile(path) as archive:
            brought = {name.rpartition("/")[2] for name in archive.namelist()}
            for member in content.elf_members:
                for found in _read_member(archive, member, path.parent):
                    needed.setdefault(found.machine, set()).update(set(found.libraries) - brought)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise WheelError(f"{path.name!r} is damaged: {error}") from error
    return needed


def _read_member(archive: zipfile.ZipFile, member: str, scratch: Path) -> Iterator[Needed]:
    """What one member needs. It is unpacked to a file without a name: pyelftools jumps about in what it reads."""
    if archive.getinfo(member).file_size > _MAX_ELF:
        return
    with tempfile.TemporaryFile(dir=scratch) as file:
        with archive.open(member) as source:
            shutil.copyfileobj(source, file, 1024**2)
        file.seek(0)
        if (needed := read_elf(file)) is not None:
            yield needed


def read_elf(file: IO[bytes]) -> Needed | None:
    """What an ELF file needs; None if it is none, or is malformed."""
    machine = Machine.of(file.read(20))
    file.seek(0)
    if machine is None:
        return None
    try:
        names = tuple(itertools.islice(_needed(file), _MAX_NEEDED))
    except Exception:  # pyelftools raises a dozen kinds over malformed files, builtin ones among them
        return None
    return Needed(machine, tuple(name for name in names if 0 < len(name) <= 200 and name.isprintable()))


def _needed(file: IO[bytes]) -> Iterator[str]:
    for segment in ELFFile(file).iter_segments():
        if isinstance(segment, DynamicSegment):
            for tag in itertools.islice(segment.iter_tags(), _MAX_TAGS):
                if tag.entry.d_tag == "DT_NEEDED":
                    yield str(tag.needed)  # type: ignore[attr-defined]  # made at run time
