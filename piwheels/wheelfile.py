# SPDX-License-Identifier: BSD-3-Clause
"""What a wheel says it is: its file name, and the few members inside that describe it.

Builder and master both read wheels with this module, and both must take every wheel for hostile: names become parts of
paths only after :func:`parse_wheel_name`, and :func:`read_wheel` looks at the central directory and at a handful of
bounded members, so a wheel of 500 MB costs no more than a small one. It must not know builds, jobs or the network.
Nothing is ever unpacked to disk here.

Sources: PyPA's binary distribution format (PEP 427, PEP 425 tags, PEP 440 versions, PEP 503 names, core metadata).
"""

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import reduce
from itertools import product
from pathlib import Path
from typing import BinaryIO

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from piwheels.errors import WheelError

MAX_NAME = 255  #: bytes; what file systems take
MAX_TAGS = 300  #: tags that one compressed set may stand for
MAX_MEMBERS = 65_534  #: more needs zip64, which no wheel of honest size does
MAX_DIRECTORY = 32 * 1024**2  #: bytes of the central directory
MAX_UNPACKED = 16 * 1024**3  #: bytes that all members declare together
MAX_METADATA = 4 * 1024**2
MAX_WHEEL = 64 * 1024
MAX_RECORD = 32 * 1024**2
MAX_REQUIRES = 2000  #: Requires-Dist lines
MAX_TOP_LEVEL = 200

_END_SIGNATURE = b"PK\x05\x06"  # APPNOTE 4.3.16: end of central directory record
_END_LENGTH = 22  # without a comment
_ZIP64_LOCATOR = b"PK\x06\x07"  # APPNOTE 4.3.15
_ZIP64_LOCATOR_LENGTH = 20

#: What zipfile and its decompressor raise over a broken archive
_UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError, ValueError)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!-]*\.whl")
_PROJECT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._]*[A-Za-z0-9])?")
_BUILD = re.compile(r"\d[A-Za-z0-9_.]*")
_DIGITS = re.compile(r"[0-9]+")
_TAG_PART = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAYBE_ELF = re.compile(r"(\.so(\.[^/]*)?|/bin/[^/]+|\.data/scripts/[^/]+|(^|/)[^/.]+)$")
_MODULE = re.compile(r"([^.]+)(\.py|(\.[^/]+)?\.(so|pyd))")


@dataclass(frozen=True, slots=True)
class WheelName:
    """A wheel's file name, taken apart (PEP 427)."""

    filename: str
    project: str  #: canonical (PEP 503)
    version: Version
    package_tag: str  #: the project as spelled in the name
    version_tag: str  #: the version as spelled in the name
    build: str  #: build number and suffix; empty when there is none
    python_tag: str
    abi_tag: str
    platform_tag: str
    tags: frozenset[Tag]

    @property
    def build_order(self) -> tuple[int, str] | tuple[()]:
        """What installers sort equal wheels by, the highest first (PEP 427); () without a build number."""
        digits = _DIGITS.match(self.build)
        return (int(digits[0]), self.build[digits.end() :]) if digits else ()

    def renamed(self, *, build: str | None = None, platform_tag: str | None = None) -> str:
        """The file name with another build number or platform tag."""
        number = self.build if build is None else build
        parts = (self.package_tag, self.version_tag, *([number] if number else []), self.python_tag, self.abi_tag)
        return "-".join((*parts, platform_tag or self.platform_tag)) + ".whl"


@dataclass(frozen=True, slots=True)
class WheelContent:
    """What the inside of a wheel says."""

    metadata: bytes  #: its METADATA, as it is
    name: str  #: from METADATA, as spelled
    version: str  #: from METADATA, as spelled
    requires_python: str | None  #: None when absent or not a valid specifier set (PEP 440)
    requires_dist: tuple[str, ...]  #: the Requires-Dist lines, unparsed
    wheel_tags: frozenset[Tag]  #: from WHEEL's Tag lines
    root_is_purelib: bool
    top_level: tuple[str, ...]  #: importable names at its top, sorted
    elf_members: tuple[str, ...]  #: members that begin as ELF files do


def parse_wheel_name(filename: str) -> WheelName:
    """Take a file name apart; raises WheelError for anything that is not a plain, well-formed wheel name."""
    _check_plain(filename)
    parts = filename.removesuffix(".whl").split("-")
    if len(parts) not in (5, 6):
        raise WheelError(f"{filename!r} is not a wheel name: it has {len(parts)} parts where five or six belong")
    package_tag, version_tag, *build, python_tag, abi_tag, platform_tag = parts
    # PEP 503 runs are escaped to one underscore; installers refuse a name that keeps two.
    if not _PROJECT.fullmatch(package_tag) or "__" in package_tag:
        raise WheelError(f"{filename!r} is not a wheel name: {package_tag!r} cannot be a project")
    if build and not _BUILD.fullmatch(build[0]):
        raise WheelError(f"{filename!r} is not a wheel name: build number {build[0]!r} does not begin with a digit")
    try:
        version = Version(version_tag)
    except InvalidVersion as error:
        raise WheelError(f"{filename!r} is not a wheel name: {version_tag!r} is not a PEP 440 version") from error
    return WheelName(
        filename=filename,
        project=str(canonicalize_name(package_tag)),
        version=version,
        package_tag=package_tag,
        version_tag=version_tag,
        build=build[0] if build else "",
        python_tag=python_tag,
        abi_tag=abi_tag,
        platform_tag=platform_tag,
        tags=_tags(f"{python_tag}-{abi_tag}-{platform_tag}", where=repr(filename)),
    )


@dataclass(frozen=True, slots=True)
class OpenWheel:
    """A wheel's archive, its directory checked."""

    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]  #: its files by name, in the archive's order; directories are left out
    dist_info: str  #: the name of its .dist-info directory

    def read(self, name: str, *, limit: int) -> bytes:
        """A member of at most ``limit`` bytes; raises WheelError."""
        return _read(self.archive, self.members, name, limit=limit)


def read_wheel(path: Path) -> WheelContent:
    """Read what a wheel says of itself; raises WheelError for a broken, hostile or incomplete one."""
    with open_wheel(path) as wheel:
        return _content(wheel)


@contextmanager
def open_wheel(path: Path) -> Iterator[OpenWheel]:
    """Open a wheel whose directory is in order. Raises WheelError if it is not, and for whatever zipfile raises over
    the archive in the body."""
    try:
        with path.open("rb") as file:
            _check_directory(file)
            with zipfile.ZipFile(file) as archive:
                members = _members(archive)
                yield OpenWheel(archive, members, _dist_info(members))
    except WheelError:
        raise
    except _UNREADABLE as error:
        raise WheelError(f"the wheel cannot be read: {_one_line(str(error)) or type(error).__name__}") from error


def check_wheel(
    path: Path, *, project: str, version: str, filename: str | None = None
) -> tuple[WheelName, WheelContent]:
    """Read a wheel that ought to be ``project``'s ``version``; raises WheelError where name, METADATA and WHEEL differ.

    ``filename`` is the name it goes by where the file itself is called otherwise, as a received one is.
    """
    name = parse_wheel_name(path.name if filename is None else filename)
    content = read_wheel(path)
    if name.project != canonicalize_name(project):
        raise WheelError(f"{name.filename!r} is named after project {name.project}, not {canonicalize_name(project)}")
    if canonicalize_name(content.name) != name.project:
        raise WheelError(f"{name.filename!r}: its METADATA says that the project is {_one_line(content.name)!r}")
    wanted, inside = _version(version, "the release"), _version(content.version, "METADATA")
    if name.version != wanted:
        raise WheelError(f"{name.filename!r} is named after version {name.version}, not {wanted}")
    if inside != wanted:
        raise WheelError(f"{name.filename!r}: its METADATA says that the version is {inside}")
    if content.wheel_tags != name.tags:
        raise WheelError(
            f"{name.filename!r}: the tags in its WHEEL ({_list_tags(content.wheel_tags)}) are not those of its name"
        )
    return name, content


# Names and tags


def _check_plain(filename: str) -> None:
    """Refuse what must not become part of a path, a query or a page, before it is looked at any closer."""
    if len(filename.encode("utf-8", "replace")) > MAX_NAME:
        raise WheelError(f"wheel name of {len(filename)} characters refused; {MAX_NAME} bytes are the limit")
    if not _SAFE_NAME.fullmatch(filename):
        raise WheelError(f"{_one_line(filename)!r} is not a wheel name: only letters, digits, and _.+!- belong in one")


def _tags(text: str, *, where: str) -> frozenset[Tag]:
    """Expand a compressed tag set (PEP 425), unless it stands for unreasonably many."""
    parts = text.lower().split("-")
    if len(parts) != 3 or not all(_TAG_PART.fullmatch(part) for part in parts):
        raise WheelError(f"{where}: {_one_line(text)!r} is not a tag")
    sets = [part.split(".") for part in parts]
    if reduce(lambda count, items: count * len(items), sets, 1) > MAX_TAGS:
        raise WheelError(f"{where}: more than {MAX_TAGS} tags")
    return frozenset(Tag(*triple) for triple in product(*sets))


def _list_tags(tags: Iterable[Tag]) -> str:
    """Tags for a message, at most three."""
    ordered = sorted(map(str, tags))
    return ", ".join(ordered[:3]) + (", …" if len(ordered) > 3 else "")


def _version(text: str, where: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion as error:
        raise WheelError(f"{_one_line(text)!r}, the version of {where}, is not a PEP 440 version") from error


def _one_line(text: str, limit: int = 120) -> str:
    """Peers' text for a message: one line, no control characters, not long."""
    line = _CONTROL.sub("?", text).encode("utf-8", "replace").decode()
    return line if len(line) <= limit else line[: limit - 1] + "…"


# The archive


def _check_directory(file: BinaryIO) -> None:
    """Check the end record before zipfile loads a central directory of any size that it is told.

    Stricter than ZIP: no comment, nothing before the first or after the last record, no zip64. Build backends write
    none of these, and each makes two readers see two different archives.
    """
    size = file.seek(0, 2)
    if size < _END_LENGTH:
        raise WheelError("the wheel is no ZIP archive: it is too short")
    file.seek(size - _END_LENGTH)
    end = file.read(_END_LENGTH)
    if end[:4] != _END_SIGNATURE or end[20:22] != b"\0\0":
        raise WheelError("the wheel is no plain ZIP archive: its end is cut off, or something follows it")
    count, length, offset = (int.from_bytes(end[a:b], "little") for a, b in ((10, 12), (12, 16), (16, 20)))
    file.seek(max(size - _END_LENGTH - _ZIP64_LOCATOR_LENGTH, 0))
    if count > MAX_MEMBERS or file.read(4) == _ZIP64_LOCATOR:
        raise WheelError(f"the wheel has more than {MAX_MEMBERS} members, or is a zip64 archive")
    if length > MAX_DIRECTORY:
        raise WheelError(f"the wheel's directory takes {length} bytes; {MAX_DIRECTORY} are the limit")
    if offset + length != size - _END_LENGTH:
        raise WheelError("the wheel is no plain ZIP archive: something precedes it or is hidden in it")


def _content(wheel: OpenWheel) -> WheelContent:
    members, dist_info = wheel.members, wheel.dist_info
    metadata = wheel.read(f"{dist_info}/METADATA", limit=MAX_METADATA)
    tags, purelib = _wheel(wheel.read(f"{dist_info}/WHEEL", limit=MAX_WHEEL))
    _bounded(members, f"{dist_info}/RECORD", limit=MAX_RECORD)
    name, version, requires_python, requires_dist = _metadata(metadata)
    _check_dist_info(dist_info, name=name, version=version)
    return WheelContent(
        metadata=metadata,
        name=name,
        version=version,
        requires_python=requires_python,
        requires_dist=requires_dist,
        wheel_tags=tags,
        root_is_purelib=purelib,
        top_level=top_level(members),
        elf_members=tuple(member for member, info in members.items() if _is_elf(wheel.archive, info)),
    )


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, each name checked as if it were going to be unpacked; directories are left out."""
    members: dict[str, zipfile.ZipInfo] = {}
    unpacked = 0
    for info in archive.infolist():
        _check_member(info)
        if info.filename in members:
            raise WheelError(f"the wheel has two members {_one_line(info.filename)!r}")
        unpacked += info.file_size
        if unpacked > MAX_UNPACKED:
            raise WheelError(f"the wheel unpacks to more than {MAX_UNPACKED} bytes")
        members[info.filename] = info
    return {name: info for name, info in members.items() if not name.endswith("/")}


def _check_member(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename  # before zipfile cut it at a NUL or translated separators
    parts = name.removesuffix("/").split("/")
    if _CONTROL.search(name) or "\\" in name or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise WheelError(f"the wheel has a member with a hostile name: {_one_line(name)!r}")
    if len(name) > 1000 or any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in parts):
        raise WheelError(f"the wheel has a member with a name of {len(name)} characters")
    if info.flag_bits & 0x1:
        raise WheelError(f"the wheel has an encrypted member: {_one_line(name)!r}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WheelError(f"the wheel has a member compressed in a way that installers lack: {_one_line(name)!r}")


def _dist_info(members: Iterable[str]) -> str:
    """The name of the one .dist-info directory."""
    found = {top for top, slash, _ in (name.partition("/") for name in members) if slash and top.endswith(".dist-info")}
    if len(found) != 1:
        raise WheelError(f"the wheel has {len(found)} .dist-info directories where one belongs")
    return found.pop()


def _check_dist_info(directory: str, *, name: str, version: str) -> None:
    """Check that the directory is called ``{name}-{version}.dist-info``; parsed, for older backends normalise less."""
    stem = directory.removesuffix(".dist-info")
    project, _, rest = stem.rpartition("-")
    if canonicalize_name(project) != canonicalize_name(name):
        raise WheelError(
            f"the wheel's METADATA is of project {_one_line(name)!r}, but lies in {_one_line(directory)!r}"
        )
    if _version(rest, "the .dist-info directory") != _version(version, "METADATA"):
        raise WheelError(f"the wheel's METADATA is of {_one_line(version)!r}, but lies in {_one_line(directory)!r}")


def _bounded(members: dict[str, zipfile.ZipInfo], name: str, *, limit: int) -> zipfile.ZipInfo:
    if (info := members.get(name)) is None:
        raise WheelError(f"the wheel has no {_one_line(name)}")
    if info.file_size > limit:
        raise WheelError(f"the wheel's {_one_line(name)} has {info.file_size} bytes; {limit} are the limit")
    return info


def _read(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, *, limit: int) -> bytes:
    info = _bounded(members, name, limit=limit)
    with archive.open(info) as member:
        data = member.read(limit + 1)
    if len(data) > limit:  # zipfile stops at the declared size; this does not rely on it
        raise WheelError(f"the wheel's {_one_line(name)} is longer than it says")
    return data


def _is_elf(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    """Whether a member begins with ELF's magic number. Only names that may be programs or libraries are opened."""
    if info.file_size < 52 or not _MAYBE_ELF.search(info.filename):
        return False
    with archive.open(info) as member:
        return member.read(4) == b"\x7fELF"


# METADATA and WHEEL


def _headers(data: bytes, where: str) -> list[tuple[str, str]]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WheelError(f"the wheel's {where} is not UTF-8") from error
    return [(key.lower(), str(value).strip()) for key, value in HeaderParser().parsestr(text).items()]


def _only(headers: list[tuple[str, str]], key: str, where: str) -> str:
    values = [value for name, value in headers if name == key.lower()]
    if len(values) != 1 or not values[0]:
        raise WheelError(f"the wheel's {where} has {len(values)} {key} lines where one belongs")
    return values[0]


def _metadata(data: bytes) -> tuple[str, str, str | None, tuple[str, ...]]:
    """Name, Version, Requires-Python, Requires-Dist of a METADATA file."""
    headers = _headers(data, "METADATA")
    requires = tuple(value for name, value in headers if name == "requires-dist")
    if len(requires) > MAX_REQUIRES:
        raise WheelError(f"the wheel's METADATA has {len(requires)} Requires-Dist lines")
    pythons = [value for name, value in headers if name == "requires-python"]
    name, version = _only(headers, "Name", "METADATA"), _only(headers, "Version", "METADATA")
    return name, version, valid_requires_python(pythons[0]) if len(pythons) == 1 else None, requires


def valid_requires_python(text: str) -> str | None:
    """The specifier set as it stands, or None when it is not one: installers ignore an invalid Requires-Python too."""
    text = text.strip()
    try:
        specifiers = SpecifierSet(text)
    except InvalidSpecifier:
        return None
    return text if len(specifiers) and len(text) <= 500 and not _CONTROL.search(text) else None


def _wheel(data: bytes) -> tuple[frozenset[Tag], bool]:
    """The tags and Root-Is-Purelib of a WHEEL file."""
    headers = _headers(data, "WHEEL")
    version = _only(headers, "Wheel-Version", "WHEEL")
    if version.split(".")[0] != "1":  # PEP 427: an installer must fail on a greater major version
        raise WheelError(f"the wheel is of format {_one_line(version)!r}; only 1.x is known")
    lines = [value for name, value in headers if name == "tag"]
    if not 1 <= len(lines) <= MAX_TAGS:
        raise WheelError(f"the wheel's WHEEL has {len(lines)} Tag lines")
    tags = frozenset().union(*(_tags(line, where="WHEEL") for line in lines))
    return tags, _only(headers, "Root-Is-Purelib", "WHEEL").lower() == "true"


# What can be imported


def top_level(members: Iterable[str]) -> tuple[str, ...]:
    """Importable names at the top of a wheel with these members, sorted.

    A directory counts where a module lies in it, also without ``__init__.py`` (PEP 420).
    """
    found = {name for path in members for name in _importable(path.split("/"))}
    return tuple(sorted(found)[:MAX_TOP_LEVEL])


def _importable(parts: list[str]) -> Iterator[str]:
    if parts[0].endswith(".dist-info"):
        return
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
            return
        parts = parts[2:]
    module = _MODULE.fullmatch(parts[-1])
    packages = [*parts[:-1], module[1]] if module else []
    if packages and all(part.isidentifier() and len(part) <= 100 for part in packages):
        yield packages[0]
