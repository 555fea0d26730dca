# SPDX-License-Identifier: BSD-3-Clause
"""Wheels as rows and bytes: what dispatch leaves behind of a build that succeeded, for tests of what is published."""

from collections.abc import Sequence
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
    build = conn.execute(
        insert(builds)
        .values(
            release_id=release,
            target_id=target,
            token=uuid4(),
            started=wheel.uploaded,
            finished=wheel.uploaded,
            duration=timedelta(seconds=5),
            outcome=Outcome.SUCCESS,
            has_log=False,
        )
        .returning(builds.c.id)
    ).scalar_one()
    file = conn.execute(
        insert(files)
        .values(
            build_id=build,
            filename=wheel.filename,
            size=path.stat().st_size,
            sha256=store.add_bytes(path.read_bytes()),
            metadata_sha256=store.add_bytes(metadata),
            requires_python=wheel.requires_python,
            uploaded=wheel.uploaded,
        )
        .returning(files.c.id)
    ).scalar_one()
    for name in wheel.apt:
        conn.execute(insert(dependencies).values(file_id=file, tool=DependencyTool.APT, name=name))
    path.unlink()
    pages.mark_stale(conn, PageKind.PROJECT, wheel.name, "build")
