# SPDX-License-Identifier: BSD-3-Clause
"""The rows of ``bench-dispatch``: a million releases, jobs for the first of them, and builders that are admitted; and
the wheels that fit them.

Names are all as long as each other, so that a message, or a wheel, is made from a pattern by writing the name into it.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from piwheels.db import slaves, targets
from piwheels.db.engine import in_transaction
from piwheels.master.targets import PRESETS
from piwheels.versions import sort_key
from tests.bench.harness import Bench
from tests.bench.scale_measures import engine_of

TARGET = PRESETS["bookworm-armhf"]
#: Another, for which there is nothing to do.
QUIET = replace(PRESETS["bookworm-arm64"], rank=111)
RELEASES = 8  #: of each project; the first two have jobs
TAG = "cp311-cp311-linux_armv7l"


def project(number: int) -> str:
    """A project's name."""
    return f"bench{number:07d}"


def prepare(at: Bench, *, projects: int, keys: Sequence[str]) -> None:
    """Fill an empty database."""
    with engine_of(at) as engine:
        in_transaction(engine, lambda conn: _add(conn, keys))
    versions = [f"{number}.0" for number in range(1, RELEASES + 1)]
    # As they really are: a plan of everything beside would cancel the jobs of versions that nobody accepts.
    keys_of = [sort_key(version) for version in versions]
    facts = {"projects": projects, "target": TARGET.name, "versions": versions, "sort_keys": keys_of}
    with at.connect() as conn:
        conn.execute("SET session_replication_role = replica")  # the rows are right; no need to look each one up
        for statement in _FILL:
            conn.execute(statement, facts)
        conn.execute("VACUUM ANALYZE")
        conn.execute("CHECKPOINT")


def _add(conn: Connection, keys: Sequence[str]) -> None:
    for target in (TARGET, QUIET):
        targets.add(conn, target)
    for key in keys:
        slaves.enrol(conn, key)


_FILL = (
    """INSERT INTO projects (name, display_name)
    SELECT name, name FROM (SELECT format('bench%%s', lpad(n::text, 7, '0')) AS name
        FROM generate_series(1, %(projects)s) AS n) AS x""",
    """INSERT INTO releases (project_id, version, sort_key, released)
    SELECT p.id, v.version, v.sort_key, '2026-01-01'::timestamptz
    FROM projects AS p, unnest(%(versions)s::text[], %(sort_keys)s::bytea[]) AS v(version, sort_key)""",
    """INSERT INTO upstream_files (release_id, filename, kind, size, sha256, url, uploaded)
    SELECT r.id, p.name || '-' || r.version || '.tar.gz', 'sdist', 1000, sha256(r.id::text::bytea),
        'https://files.example.org/' || p.name || '-' || r.version || '.tar.gz', r.released
    FROM releases AS r JOIN projects AS p ON p.id = r.project_id""",
    """INSERT INTO jobs (release_id, target_id, priority, released)
    SELECT r.id, t.id, 2, r.released FROM releases AS r, targets AS t
    WHERE t.name = %(target)s AND r.version IN ('1.0', '2.0')""",
)


# Wheels


@dataclass(frozen=True, slots=True)
class Wheel:
    """One, in two parts so that the larger is shared by all."""

    filename: str
    head: memoryview
    tail: bytes
    sha256: str

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.head) + len(self.tail)

    def part(self, offset: int, length: int) -> "bytes | memoryview":
        """A piece of it."""
        end = offset + length
        if end <= len(self.head):
            return self.head[offset:end]
        from_tail = self.tail[max(offset - len(self.head), 0) : end - len(self.head)]
        return bytes(self.head[offset:end]) + from_tail


class Wheels:
    """Makes wheels of about one size: only their METADATA and names differ, and these come last."""

    _NAME, _VERSION = project(0), "0.0"

    def __init__(self, size: int) -> None:
        block = hashlib.sha512(b"%d" % size).digest() * 2048
        data = (block * (size // len(block) + 1))[:size]
        whole, begin = self._pattern(data)
        self._head = memoryview(whole)[:begin]
        self._hash = hashlib.sha256(self._head)
        self._tail = whole[begin:]
        self._crc = zlib.crc32(self._metadata(self._NAME, self._VERSION)).to_bytes(4, "little")
        if self._tail.count(self._crc) != 2:
            raise RuntimeError("the pattern of a wheel is not as it should be")

    def make(self, name: str, version: str) -> Wheel:
        """The wheel of a release."""
        crc = zlib.crc32(self._metadata(name, version)).to_bytes(4, "little")
        tail = self._tail.replace(self._NAME.encode(), name.encode())
        tail = tail.replace(f"-{self._VERSION}.dist".encode(), f"-{version}.dist".encode())
        tail = tail.replace(f"Version: {self._VERSION}\n".encode(), f"Version: {version}\n".encode())
        tail = tail.replace(self._crc, crc)
        digest = self._hash.copy()
        digest.update(tail)
        return Wheel(f"{name}-{version}-{TAG}.whl", self._head, tail, digest.hexdigest())

    @classmethod
    def _metadata(cls, name: str, version: str) -> bytes:
        return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.8\n".encode()

    @classmethod
    def _pattern(cls, data: bytes) -> tuple[bytes, int]:
        folder = f"{cls._NAME}-{cls._VERSION}.dist-info"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("benchmodule/data.bin", data)
            begin = buffer.tell()
            archive.writestr(f"{folder}/METADATA", cls._metadata(cls._NAME, cls._VERSION))
            archive.writestr(f"{folder}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {TAG}\n")
            archive.writestr(f"{folder}/RECORD", "")
        return buffer.getvalue(), begin
