# SPDX-License-Identifier: BSD-3-Clause
"""The same wheel under another name: with a build number (PEP 427), or with the tags of another machine.

A wheel's WHEEL file says what its name says, and RECORD has WHEEL's hash, so both are written anew; all else is copied
as it lies in the archive, still compressed, METADATA included. So a wheel of any size takes little memory, and the same
wheel and name give the same bytes on every machine, whatever its zlib. The wheel is taken for hostile: see
piwheels.wheelfile for what was refused before it came here. Must not know the store, builds or the database.
"""

import base64
import csv
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import BinaryIO

from piwheels.errors import WheelError
from piwheels.wheelfile import MAX_RECORD, MAX_WHEEL, OpenWheel, WheelName, open_wheel

SIGNATURES = ("RECORD.jws", "RECORD.p7s")  #: of RECORD (PEP 427), void once RECORD is another
CHUNK = 1024**2

# APPNOTE 4.3.7, 4.3.12 and 4.3.16
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_NEEDED = 20  # version needed to extract: deflate and directories
_UNIX = 3
_UTF8 = 0x800
_LARGEST = 2**32 - 1  # more needs zip64, which wheelfile refuses


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be another."""

    build: str | None = None  #: the build number; None: as it is
    tags: tuple[str, ...] = ()  #: the tags; none: as they are


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of the new archive."""

    info: zipfile.ZipInfo  #: of the member that it was
    data: bytes | None = None  #: None: what it was

    @property
    def name(self) -> bytes:
        return self.info.filename.encode("utf-8")

    @property
    def flags(self) -> int:
        return 0 if self.name.isascii() else _UTF8

    @property
    def method(self) -> int:
        return self.info.compress_type if self.data is None else zipfile.ZIP_STORED

    @property
    def sizes(self) -> tuple[int, int, int]:
        """CRC-32, compressed size, size."""
        if self.data is None:
            return self.info.CRC, self.info.compress_size, self.info.file_size
        return zlib.crc32(self.data), len(self.data), len(self.data)

    @property
    def time(self) -> tuple[int, int]:
        """When it was changed, as MS-DOS says it."""
        year, month, day, hour, minute, second = self.info.date_time
        return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day


def rewrite(source: Path, destination: BinaryIO, change: Change) -> bytes:
    """Write the wheel at ``source`` with a change; the SHA-256 of what was written. Raises WheelError where the wheel
    cannot be read, its RECORD above all: read_wheel does not look into that."""
    with open_wheel(source) as wheel, source.open("rb") as file:
        members = list(_members(wheel, change))
        size = file.seek(0, 2)
        if sum(member.sizes[1] for member in members if member.data is None) > size:
            raise WheelError("the wheel's members overlap")
        if any(max(member.sizes) > _LARGEST for member in members):  # said in a field that archives without zip64 lack
            raise WheelError("the wheel has a member that is too large for its format")
        out = _Writer(destination)
        for member in members:
            out.add(member, file)
        return out.finish()


class _Writer:
    """Writes an archive, and its hash meanwhile."""

    def __init__(self, destination: BinaryIO) -> None:
        self._file = destination
        self._hash = hashlib.sha256()
        self._offset = 0
        self._directory: list[bytes] = []

    def add(self, member: _Member, source: BinaryIO) -> None:
        shared = (_NEEDED, member.flags, member.method, *member.time, *member.sizes, len(member.name))
        made_by, attributes = _UNIX << 8 | _NEEDED, member.info.external_attr
        if member.info.create_system != _UNIX:  # a mode would be read from attributes that hold none
            made_by = member.info.create_system << 8 | _NEEDED
        central = _CENTRAL.pack(b"PK\x01\x02", made_by, *shared, 0, 0, 0, 0, attributes, self._offset)
        self._directory.append(central + member.name)
        self._write(_LOCAL.pack(b"PK\x03\x04", *shared, 0) + member.name)
        if member.data is not None:
            self._write(member.data)
        else:
            self._copy(member.info, source)

    def finish(self) -> bytes:
        start, count = self._offset, len(self._directory)
        for entry in self._directory:
            self._write(entry)
        self._write(_END.pack(b"PK\x05\x06", 0, 0, count, count, self._offset - start, start, 0))
        return self._hash.digest()

    def _copy(self, info: zipfile.ZipInfo, source: BinaryIO) -> None:
        source.seek(info.header_offset)
        header = source.read(_LOCAL.size)
        if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
            raise WheelError(f"the wheel has no member where its directory says that {info.filename[:80]!r} is")
        lengths = _LOCAL.unpack(header)[-2:]
        source.seek(sum(lengths), 1)  # the name and extra field, of which the directory's are taken and none
        left = info.compress_size
        while left:
            data = source.read(min(left, CHUNK))
            if not data:
                raise WheelError(f"the wheel ends within {info.filename[:80]!r}")
            self._write(data)
            left -= len(data)

    def _write(self, data: bytes) -> None:
        self._offset += len(data)
        if self._offset > _LARGEST:
            raise WheelError("the wheel would be too large for its format")
        self._hash.update(data)
        self._file.write(data)


def _members(wheel: OpenWheel, change: Change) -> Iterator[_Member]:
    """The new archive's members, in the old one's order."""
    dist_info = wheel.dist_info
    about, record = f"{dist_info}/WHEEL", f"{dist_info}/RECORD"
    void = {f"{dist_info}/{name}" for name in SIGNATURES}
    said = _wheel(wheel.read(about, limit=MAX_WHEEL), change)
    rows = wheel.read(record, limit=MAX_RECORD)
    new = {about: said, record: _record(rows, about, said, void, most=len(wheel.members))}
    for info in wheel.archive.infolist():
        if info.filename not in void:
            yield _Member(info, new.get(info.filename))


# WHEEL and RECORD


def _wheel(data: bytes, change: Change) -> bytes:
    """A WHEEL file with the change."""
    try:
        said = HeaderParser().parsestr(data.decode("utf-8")).items()
    except UnicodeDecodeError as error:
        raise WheelError("the wheel's WHEEL is not UTF-8") from error
    headers = [(key, " ".join(str(value).split())) for key, value in said]
    builds = _lines(headers, "build") if change.build is None else [("Build", change.build)]
    tags = [("Tag", tag) for tag in change.tags] or _lines(headers, "tag")
    others = [(key, value) for key, value in headers if key.lower() not in ("build", "tag")]
    return "".join(f"{key}: {value}\n" for key, value in [*others, *builds, *tags]).encode()


def _lines(headers: Sequence[tuple[str, str]], wanted: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in headers if key.lower() == wanted]


def _record(data: bytes, about: str, wheel: bytes, void: Iterable[str], *, most: int) -> bytes:
    """A RECORD file with another WHEEL, without what is void."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(wheel).digest()).rstrip(b"=").decode()
    new, gone = (about, f"sha256={digest}", str(len(wheel))), {about, *void}
    written = io.BytesIO()
    text = io.TextIOWrapper(written, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    try:
        for number, row in enumerate(csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""))):
            if number > 2 * most:  # a file has one row; what has so many more is there to take memory
                raise WheelError("the wheel's RECORD has more rows than the wheel has files")
            if row and row[0] not in gone:
                writer.writerow(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise WheelError(f"the wheel's RECORD cannot be read: {str(error)[:120]}") from error
    writer.writerow(new)
    text.flush()
    return written.getvalue()


def with_number(name: WheelName, build: str) -> tuple[str, Change]:
    """The file name of a wheel with a build number, and how it comes to that."""
    return name.renamed(build=build), Change(build=build)


def for_platform(name: WheelName, platform: str) -> tuple[str, Change]:
    """The file name of a wheel for one other platform, and how it comes to that."""
    tags = (f"{py}-{abi}-{platform}" for py in name.python_tag.split(".") for abi in name.abi_tag.split("."))
    return name.renamed(platform_tag=platform), Change(tags=tuple(tags))
