# SPDX-License-Identifier: BSD-3-Clause
"""Wheels as rows and bytes: what dispatch leaves behind of a build that succeeded, for tests of what is published."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from packaging.tags import sys_tags
from sqlalchemy import Connection, insert, select

from piwheels.db import pages
from piwheels.db.tables import builds, dependencies, files, projects, releases
from piwheels.master.store import Store
from piwheels.vocabulary import DependencyTool, Outcome, PageKind
from tests.wheels import make_wheel, metadata_text

BUILT = datetime(2026, 1, 10, tzinfo=UTC)
#: The tag of what a builder of this machine's kind makes; PyPI's own have others (manylinux).
NATIVE = next(str(tag) for tag in sys_tags() if tag.interpreter.startswith("cp") and "manylinux" not in tag.platform)


@dataclass(frozen=True, slots=True)
class Wheel:
    """One that was built. Its module says which build it is of."""

    name: str
    version: str
    requires: Sequence[str] = ()
    requires_python: str = ">=3.8"
    build: str = ""  #: a build number with its dash
    uploaded: datetime = BUILT
    tag: str = NATIVE
    data: bytes = b""  #: what it brings along
    apt: Sequence[str] = ()  #: packages that it needs

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}{self.build}-{self.tag}.whl"


def record(conn: Connection, store: Store, folder: Path, wheel: Wheel, target: int) -> None:
    """Put a wheel into the store and note its build, of a release that is there; ``folder`` is for making it."""
    module = wheel.name.replace("-", "_")
    lines = [f"Requires-Python: {wheel.requires_python}", *(f"Requires-Dist: {one}" for one in wheel.requires)]
    metadata = metadata_text(wheel.name, wheel.version, *lines)
    members = {f"{module}.py": f"build = {wheel.build!r}\n".encode()}
    if wheel.data:
        members[f"{module}.bin"] = wheel.data
    info = f"{module}-{wheel.version}.dist-info"
    path = make_wheel(folder, wheel.filename, members=members, metadata=metadata, tags=[wheel.tag], dist_info=info)
    release = conn.execute(
        select(releases.c.id)
        .join(projects, projects.c.id == releases.c.project_id)
        .where(projects.c.name == wheel.name, releases.c.version == wheel.version)
    ).scalar_one()
    record_build(
        conn,
        store,
        release=release,
        target=target,
        filename=wheel.filename,
        data=path.read_bytes(),
        metadata=metadata,
        requires_python=wheel.requires_python,
        finished=wheel.uploaded,
        needs=[(DependencyTool.APT, name) for name in wheel.apt],
    )
    path.unlink()
    pages.mark_stale(conn, PageKind.PROJECT, wheel.name, "build")


def record_build(
    conn: Connection,
    store: Store,
    *,
    release: int,
    target: int,
    filename: str,
    data: bytes,
    metadata: bytes,
    requires_python: str,
    finished: datetime,
    needs: Iterable[tuple[DependencyTool, str]],
    has_log: bool = False,
) -> int:
    """Bytes and rows of a build that succeeded with one wheel; returns the build's number."""
    build_id: int = conn.execute(
        insert(builds)
        .values(
            release_id=release,
            target_id=target,
            token=uuid4(),
            started=finished,
            finished=finished,
            duration=timedelta(seconds=5),
            outcome=Outcome.SUCCESS,
            has_log=has_log,
        )
        .returning(builds.c.id)
    ).scalar_one()
    file_id = conn.execute(
        insert(files)
        .values(
            build_id=build_id,
            filename=filename,
            size=len(data),
            sha256=store.add_bytes(data),
            metadata_sha256=store.add_bytes(metadata),
            requires_python=requires_python,
            uploaded=finished,
        )
        .returning(files.c.id)
    ).scalar_one()
    for tool, name in needs:
        conn.execute(insert(dependencies).values(file_id=file_id, tool=tool, name=name))
    return build_id
