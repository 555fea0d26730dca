# SPDX-License-Identifier: BSD-3-Clause
"""Whether a received wheel is what its builder announced and what was ordered.

Reads the file at a given path and decides; must not know how it got there, nor sockets or the database. Everything that
was announced is compared with the wheel itself, and only what was found inside is passed on.
"""

from collections.abc import Collection
from pathlib import Path

from packaging.tags import Tag

from piwheels.errors import WheelError
from piwheels.master.session import Lease
from piwheels.site.paths import check_wheel as check_published_name
from piwheels.vocabulary import DependencyTool
from piwheels.wheelfile import WheelContent, WheelName, check_wheel, parse_wheel_name
from piwheels.wire.messages import FileInfo

MAX_DEPENDENCIES = 2000  #: of one wheel
MAX_DEPENDENCY = 200  #: characters of one's name


def check_content(
    path: Path, file: FileInfo, lease: Lease, supported: Collection[Tag]
) -> tuple[WheelName, WheelContent, tuple[tuple[str, str], ...]]:
    """Check a whole file whose size and hash are right; raises WheelError. Returns its name, content and dependencies.

    ``supported``: the tags that an installer on the lease's target accepts.
    """
    try:
        check_published_name(file.filename)
    except ValueError as error:
        raise WheelError(str(error)) from error
    name, content = check_wheel(path, project=lease.project, version=lease.version, filename=file.filename)
    _check_parts(file, name)
    if name.tags.isdisjoint(supported):
        tags = f"{name.python_tag}-{name.abi_tag}-{name.platform_tag}"
        raise WheelError(
            f"{name.filename!r} is tagged {tags}, which nothing on target {lease.order.target} can install"
        )
    return name, content, dependencies(file)


def check_renamed(path: Path, filename: str) -> None:
    """Check a wheel that was given another name; raises WheelError if it cannot have that."""
    try:
        name = parse_wheel_name(check_published_name(filename))
    except ValueError as error:
        raise WheelError(str(error)) from error
    check_wheel(path, project=name.project, version=str(name.version), filename=filename)


def dependencies(file: FileInfo) -> tuple[tuple[str, str], ...]:
    """The announced dependencies as (tool, name), sorted; WheelError when they are not fit to be shown."""
    found: set[tuple[str, str]] = set()
    for tool, names in file.dependencies.items():
        for name in names:
            if not 0 < len(name) <= MAX_DEPENDENCY or not name.isprintable():
                raise WheelError(f"{file.filename!r} was announced with a dependency named {name[:40]!r}")
            found.add((DependencyTool(tool).value, name))
    if len(found) > MAX_DEPENDENCIES:
        raise WheelError(f"{file.filename!r} was announced with {len(found)} dependencies")
    return tuple(sorted(found))


def _check_parts(file: FileInfo, name: WheelName) -> None:
    """A builder whose announcement differs from the file's own name is confused or lying."""
    announced = (file.package_tag, file.version_tag, file.py_tag, file.abi_tag, file.platform_tag)
    actual = (name.package_tag, name.version_tag, name.python_tag, name.abi_tag, name.platform_tag)
    if announced != actual:
        raise WheelError(f"{name.filename!r} was announced with other parts than its name has")
