# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: PTH101, PTH102, PTH105, PTH108, PTH112, PTH116, PTH120, PTH121, PTH123 - here pathlib costs more than the calls
"""Files of the published tree: written whole or not at all, only when their bytes change, and durable before what
depends on them. Knows no page and no table.

A file's temporary name is its own with a dot and ``.tmp``, so a writer that was killed leaves one file at most, which
the next one replaces. Two writers of one path at the same time are for the caller to prevent (db.pages.lock).

Text that is worth it has twins beside it, compressed with gzip and zstd, for web servers to send. A twin takes its name
before its page does, and loses it after that, so none is missing beside a page of that size; in between they may be of
two moments, which clients that can unpack and those that cannot cannot tell. A writer that was killed there is followed
by one that finds the page's twins not to be its own.
"""

import errno
import gzip
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from piwheels import faults
from piwheels.durable import close, sync_directory, synchronise, synchronise_directories
from piwheels.errors import PiwheelsError

PACKED_FROM = 4096  #: bytes; below, what compression saves is less than a packet
GZIP_LEVEL = 6
ZSTD_LEVEL = 3  #: 9 saves another twenty-fifth, at six times the work
TWINS = (".gz", ".zst")


class PublishError(PiwheelsError, OSError):
    """The published tree cannot be written."""

    def __str__(self) -> str:  # OSError would show its own
        return str(self.args[0]) if self.args else ""


class NameTakenError(PublishError, FileExistsError):
    """A published name stands for other bytes already. It keeps them: lock files and caches out there rely on it."""


class NotInStoreError(PublishError, FileNotFoundError):
    """The store lacks bytes that the database says it has."""


def write_if_changed(path: Path, data: bytes) -> bool:
    """Make ``path`` hold ``data``, durably; whether it did not before. Its directory is made if missing."""
    return bool(write_files(path.parent, {path.name: data}))


def write_files(directory: Path, files: Mapping[str, bytes]) -> list[str]:
    """Make each name in ``directory`` hold its bytes, in the order given; the names that had to be written."""
    batch = Batch()
    changed = batch.add(directory, files)
    batch.write()
    return changed


def write_plain(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data`` as it is, without a twin, durably."""
    make_directory(path.parent)
    temporary = _temporary(str(path))
    descriptor = _write_temporary(temporary, data)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_directory(path.parent)


class Batch:
    """Files of any directories, written together: all are on disk before the first takes its name, and directories are
    synchronised once, at the end. Names are taken in the order in which files were added."""

    def __init__(self) -> None:
        self._plan: list[_New] = []

    def add(self, directory: Path, files: Mapping[str, bytes]) -> list[str]:
        """Have each name in ``directory`` hold its bytes; the names that are to be written. Names with the same bytes
        become names of one file."""
        folder = str(directory)
        changed = [name for name, data in files.items() if not _holds(f"{folder}/{name}", data)]
        first: dict[bytes, str] = {}
        for name in changed:
            data = files[name]
            packed = len(data) >= PACKED_FROM
            same = first.setdefault(data, name)
            if same != name:
                self._plan += [_New(folder, name + end, None, same + end) for end in (*(TWINS if packed else ()), "")]
            else:
                if packed:
                    self._plan += [_New(folder, name + end, pack(data)) for end, pack in _PACKERS.items()]
                self._plan.append(_New(folder, name, data))
            if not packed:
                self._plan[-1].gone = [name + end for end in TWINS]
        return changed

    def write(self) -> None:
        """Write what was added."""
        if not self._plan:
            return
        folders = {new.folder: None for new in self._plan}
        above = [parent for folder in folders for parent in _make_directories(folder)]
        descriptors: list[int] = []
        try:
            for new in self._plan:
                if new.data is not None:
                    descriptors.append(_write_temporary(new.temporary, new.data))
                else:
                    _link_temporary(f"{new.folder}/.{new.same}.tmp", new.temporary)
            synchronise(descriptors)
        finally:
            close(descriptors)
        for new in self._plan:
            os.replace(new.temporary, f"{new.folder}/{new.name}")
            for name in new.gone:  # it has become small
                with suppress(FileNotFoundError):
                    os.unlink(f"{new.folder}/{name}")
        synchronise_directories([*folders, *dict.fromkeys(above)])
        self._plan = []


class _New:
    """A file that is to be written, or (``data`` is None) to be another name of one that is."""

    __slots__ = ("data", "folder", "gone", "name", "same")

    def __init__(self, folder: str, name: str, data: bytes | None, same: str = "") -> None:
        self.folder, self.name, self.data, self.same = folder, name, data, same
        self.gone: list[str] = []  #: names that go once this one is there

    @property
    def temporary(self) -> str:
        return f"{self.folder}/.{self.name}.tmp"


# Files too long to be held in memory


class Stream:
    """A file that is written piece by piece, with its twins, and its other names."""

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names
        self._size = 0
        path = f"{folder}/{names[0]}"
        self._parts = {"": _Part(path)}
        try:
            for end in TWINS:
                self._parts[end] = _Part(path + end)
        except BaseException:
            self.close()
            raise
        self._packers: dict[str, _Packer] = {
            ".gz": zlib.compressobj(GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16),
            ".zst": _Zstd(),
        }

    def write(self, data: bytes) -> None:
        """Append."""
        self._size += len(data)
        self._parts[""].write(data)
        for end, packer in self._packers.items():
            self._parts[end].write(packer.compress(data))

    def end(self) -> None:
        """All was written."""
        for end, packer in self._packers.items():
            self._parts[end].write(packer.flush())
        for part in self._parts.values():
            part.sync()

    def take_names(self) -> bool:
        """Take the place of what was there, if it differs; whether it did."""
        packed = self._size >= PACKED_FROM
        ends = (*TWINS, "") if packed else ("",)
        others = [f"{self._folder}/{name}" for name in self._names[1:]]
        path = self._parts[""].path
        is_new = any(not self._parts[end].same for end in ends) or any(
            not _is_same(path + end, other + end) for other in others for end in ends
        )
        if is_new:
            for end in ends:
                temporary = self._parts[end].temporary
                for other in others:
                    _link_temporary(temporary, _temporary(other + end))
                for name in (path, *others):
                    os.replace(_temporary(name + end), name + end)
        stray = [] if packed else [name + end for name in (path, *others) for end in TWINS]
        for name in stray:
            with suppress(FileNotFoundError):
                os.unlink(name)
                is_new = True
        return is_new

    def close(self) -> None:
        """Leave nothing open, and nothing that has no name."""
        for part in self._parts.values():
            part.close()


class _Part:
    """A temporary file, compared with what has its name while it is written."""

    def __init__(self, path: str) -> None:
        self.path, self.temporary = path, _temporary(path)
        self.same = True
        self._file = os.fdopen(_write_temporary(self.temporary, b""), "wb")
        try:
            self._there: BinaryIO | None = open(path, "rb")  # noqa: SIM115 - close() does
        except FileNotFoundError:
            self._there, self.same = None, False

    def write(self, data: bytes) -> None:
        self._file.write(data)
        if self.same and self._there is not None and data:
            self.same = self._there.read(len(data)) == data

    def sync(self) -> None:
        if self._there is not None and self._there.read(1):
            self.same = False
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._there is not None:
            self._there.close()
        with suppress(FileNotFoundError):
            os.unlink(self.temporary)


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Zstd:
    """zstd's compressor in the terms of zlib's."""

    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()

    def compress(self, data: bytes) -> bytes:
        return self._packer.compress(data)

    def flush(self) -> bytes:
        return self._packer.flush()


@contextmanager
def streams(directory: Path, *files: Sequence[str]) -> Iterator[list[Stream]]:
    """Write files piece by piece; they take their names at the end, in this order, if nothing goes wrong. Each is given
    by its name, and others that are to be names of the same file. What did not change is not touched."""
    make_directory(directory)
    with ExitStack() as stack:
        found = []
        for names in files:
            found.append(Stream(str(directory), names))
            stack.callback(found[-1].close)
        yield found
        for stream in found:
            stream.end()
        taken = [stream.take_names() for stream in found]
        if any(taken):
            sync_directory(directory)


# What both need


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _temporary(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.tmp"


def _holds(path: str, data: bytes) -> bool:
    """Whether a file and its twins are as they are to be."""
    if _read(path, len(data)) != data:
        return False
    if len(data) < PACKED_FROM:
        return not any(os.path.lexists(path + end) for end in TWINS)
    # A gzip file ends with the CRC-32 and length of what is in it (RFC 1952, section 2.3.1).
    expected = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    packed = _read(path + ".gz")
    if packed is None or packed[-8:] != expected:
        return False
    packed = _read(path + ".zst")
    try:
        return packed is not None and zstandard.ZstdDecompressor().decompress(packed, len(data)) == data
    except zstandard.ZstdError:
        return False


def _read(path: str, size: int | None = None) -> bytes | None:
    """What a file holds; None for one that is not there, or not of this size."""
    try:
        with open(path, "rb", buffering=0) as file:
            if size is not None and os.fstat(file.fileno()).st_size != size:
                return None
            return file.readall()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, GZIP_LEVEL, mtime=0)


def _zstd(data: bytes) -> bytes:
    found: zstandard.ZstdCompressor | None = getattr(_own, "compressor", None)
    if found is None:
        found = _own.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    return found.compress(data)


_own = threading.local()  #: zstd's contexts serve one thread at a time
_PACKERS: Mapping[str, Callable[[bytes], bytes]] = {".gz": _gzip, ".zst": _zstd}


def _write_temporary(path: str, data: bytes) -> int:
    """A new file with this content, whatever a killed writer left there; open, and not synchronised yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileExistsError:
        os.unlink(path)  # never written into: it may be another name of a file that is published
        descriptor = os.open(path, flags, 0o644)
    try:
        os.fchmod(descriptor, 0o644)  # the web server is another user, whatever our umask
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _link_temporary(source: str, path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    os.link(source, path)


def _make_directories(path: str) -> list[str]:
    """Make a directory and what is missing above it, open for all to read; the directories that have new names."""
    if os.path.isdir(path):
        return []
    above = os.path.dirname(path)
    changed = _make_directories(above)
    with suppress(FileExistsError):
        os.mkdir(path)
    os.chmod(path, 0o755)
    return [*changed, above]


def make_directory(directory: Path) -> None:
    """Make a directory and what is missing above it, durably, open for all to read."""
    for parent in _make_directories(str(directory)):
        sync_directory(parent)


def link_into(source: Path, destination: Path, sha256: bytes) -> bool:
    """Give bytes of the store a published name; whether the name is new. The caller synchronises the directory.

    Raises NameTakenError when the name stands for other bytes (it keeps them), NotInStoreError when the store lacks
    them and the name does not have them either.
    """
    try:
        status = source.stat()
        if status.st_mode & 0o444 != 0o444:
            source.chmod(0o644)
        os.link(source, destination)
    except FileNotFoundError:
        if destination.exists() and digest(destination) == sha256:
            return False
        raise NotInStoreError(f"the store lacks {source.name}, which {destination.name} should be") from None
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise PublishError(
                "paths.output and paths.store must be on one file system, as hard links join them"
            ) from None
        if error.errno != errno.EEXIST:
            raise
        if not os.path.samestat(status, destination.stat()) and digest(destination) != sha256:
            text = f"{destination.name} is published with other bytes than {sha256.hex()}, and keeps them"
            raise NameTakenError(text) from None
        return False
    return True


def is_linked(source: str, destination: str) -> bool:
    """Whether bytes of the store have this published name already; what link_into would say, in a tenth of the time."""
    try:
        there, wanted = os.stat(destination), os.stat(source)
    except OSError:
        return False
    return os.path.samestat(there, wanted) and there.st_mode & 0o444 == 0o444


def digest(path: Path) -> bytes:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def remove_files(directory: Path, unwanted: Callable[[str], bool]) -> list[str]:
    """Remove the files of a directory whose names are unwanted, durably; their names. A missing directory is fine."""
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if unwanted(entry.name))
    except FileNotFoundError:
        return []
    for name in names:
        (directory / name).unlink(missing_ok=True)
    if names:
        sync_directory(directory)
    return names


def remove_directory(directory: Path, *, first: Iterable[str] = ()) -> bool:
    """Remove a directory of files: those in ``first`` durably before the others. Whether it is gone.

    Something in it that we would not put there (a directory) keeps it; it is then for a person to look at.
    """
    if not directory.is_dir():
        return True
    leading = frozenset(first)
    remove_files(directory, leading.__contains__)
    if leading:
        faults.point("unlisted")
    directories = {entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)}
    remove_files(directory, lambda name: name not in directories)
    if directories:
        return False
    directory.rmdir()
    sync_directory(directory.parent)
    return True
