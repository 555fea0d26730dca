# SPDX-License-Identifier: BSD-3-Clause
"""A small farm's rows for the tests of the queue and of dispatch, and what they wait with."""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select

from piwheels.db import slaves, targets
from piwheels.db.builds import RetryPolicy
from piwheels.db.claims import Terms
from piwheels.db.tables import jobs, projects, releases, upstream_files
from piwheels.master.session import Lease, Result, VerifiedFile
from piwheels.master.targets import Target
from piwheels.vocabulary import FailureReason, Priority, UpstreamKind
from piwheels.wire.keys import KeyPair, make
from piwheels.wire.messages import BuildReport
from tests.elf import DEBIAN, elf

TERMS = Terms(lease=timedelta(minutes=10), build_timeout=timedelta(hours=1), memory_limit=0)
POLICY = RetryPolicy(strikes=3, retry_after=timedelta(seconds=60))

PI = Target(
    name="bookworm-armhf",
    python_version="3.11",
    abi="cp311",
    platform="linux_armv7l",
    platforms=("linux_armv7l", "manylinux_2_17_armv7l"),
    distribution="bookworm",
    rank=10,
)


def add_target(conn: Connection, target: Target = PI) -> int:
    return targets.add(conn, target)


def add_slave(conn: Connection, key: str = "", *, target_id: int | None = None) -> int:
    number = slaves.enrol(conn, key or make().public)
    if target_id is not None:
        from piwheels.db.tables import slaves as table

        conn.execute(table.update().where(table.c.id == number).values(target_id=target_id))
    return number


def add_release(conn: Connection, project: str = "spidev", version: str = "3.6", *, sdist: bool = True) -> int:
    """A release with an sdist; its project too, if it is new."""
    project_id = conn.execute(select(projects.c.id).where(projects.c.name == project)).scalar_one_or_none()
    if project_id is None:
        row = insert(projects).values(name=project, display_name=project.title()).returning(projects.c.id)
        project_id = conn.execute(row).scalar_one()
    released = datetime(2026, 1, 1, tzinfo=UTC)
    release_id: int = conn.execute(
        insert(releases)
        .values(project_id=project_id, version=version, sort_key=version.encode(), released=released)
        .returning(releases.c.id)
    ).scalar_one()
    if sdist:
        for ending in (".zip", ".tar.gz"):
            name = f"{project}-{version}{ending}"
            conn.execute(
                insert(upstream_files).values(
                    release_id=release_id,
                    filename=name,
                    kind=UpstreamKind.SDIST,
                    size=1000,
                    sha256=hashlib.sha256(name.encode()).digest(),
                    url=f"https://files.example.org/{name}",
                    uploaded=released,
                )
            )
    return release_id


def add_job(conn: Connection, release_id: int, target_id: int, **values: Any) -> None:
    facts = {"priority": Priority.NEW, "released": datetime(2026, 1, 1, tzinfo=UTC), **values}
    conn.execute(insert(jobs).values(release_id=release_id, target_id=target_id, **facts))


def failed(lease: Lease, reason: FailureReason, **values: Any) -> Result:
    report = BuildReport(token=lease.token, reason=reason, peak_memory=5, cpu_seconds=1.5, built_with={"pip": "25"})
    facts: dict[str, Any] = {"detail": "it broke", "duration": timedelta(seconds=3), "log": "boom\n", "files": ()}
    return Result(lease=lease, ok=False, reason=reason, report=report, **{**facts, **values})


def success(lease: Lease, *files: VerifiedFile) -> Result:
    report = BuildReport(token=lease.token, built_from="ab" * 32)
    took = timedelta(seconds=3)
    return Result(lease=lease, ok=True, reason=None, detail="", duration=took, log="fine\n", files=files, report=report)


def verified(filename: str = "spidev-3.6-cp311-cp311-linux_armv7l.whl", **values: Any) -> VerifiedFile:
    facts: dict[str, Any] = {
        "filename": filename,
        "size": 10,
        "sha256": hashlib.sha256(filename.encode()).digest(),
        "metadata_sha256": hashlib.sha256(b"metadata").digest(),
        "requires_python": ">=3.8",
        "top_level": ("spidev",),
        "dependencies": (("apt", "libc6"), ("pip", "smbus")),
    }
    return VerifiedFile(**{**facts, **values})


def wheel_bytes(
    project: str = "spidev",
    version: str = "3.6",
    tag: str = "cp311-cp311-linux_armv7l",
    *,
    inside: str | None = None,
    padding: int = 0,
) -> bytes:
    """A wheel, for an ARM board one with code that needs ARMv7; ``inside``: the project that its METADATA claims;
    ``padding``: incompressible bytes to make it long."""
    name = inside or project
    dist_info = f"{name}-{version}.dist-info"
    block = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range((padding + 31) // 32))[:padding]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{project}/__init__.py", "x = 1\n")
        if tag.endswith("armv7l"):
            archive.writestr(f"{project}/native.so", elf(DEBIAN))
        if block:
            archive.writestr(f"{project}/data.bin", block)
        archive.writestr(
            f"{dist_info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.8\n",
        )
        pure = str(tag.endswith("any")).lower()
        archive.writestr(f"{dist_info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n")
        archive.writestr(f"{dist_info}/RECORD", "")
    return buffer.getvalue()


def wait_for(condition: Callable[[], Any], what: str, *, timeout: float = 20.0) -> Any:
    """What the condition returns, once that is true; AssertionError when it does not become so."""
    until = time.monotonic() + timeout
    while True:
        if found := condition():
            return found
        assert time.monotonic() < until, f"waited {timeout} s in vain for {what}"
        time.sleep(0.02)


def count(engine: Engine, table: Any, *where: Any) -> int:
    with engine.begin() as conn:
        return int(conn.execute(select(func.count()).select_from(table).where(*where)).scalar_one())


def new_keys() -> KeyPair:
    return make()
