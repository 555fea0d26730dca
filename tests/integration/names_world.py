# SPDX-License-Identifier: BSD-3-Clause
"""Wheels that go the whole way from a builder's hands to the site, without sockets: checked, recorded, published."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, insert, select, update

from piwheels.db import builds as attempts
from piwheels.db import slaves, withdrawal
from piwheels.db.tables import builds, files, jobs, names, projects, releases
from piwheels.db.withdrawal import Reach
from piwheels.master import session as s
from piwheels.master.dispatch_work import Checked, Clerk
from piwheels.master.planner import Policy
from piwheels.master.receiving_disk import Arrived
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import Priority
from piwheels.wire import messages as m
from piwheels.wire.keys import make
from tests.elf import DEBIAN, RASPBERRY, elf
from tests.integration.builder import announce
from tests.integration.dispatch_world import PI
from tests.integration.publish_world import BUILT, Farm
from tests.wheels import make_wheel, metadata_text

V7 = {"foo/native.so": elf(DEBIAN)}
V6 = {"foo/native.so": elf(RASPBERRY)}
TAG = "cp311-cp311-linux_armv7l"
WHEEL = f"foo-1.0-{TAG}.whl"
ABI3 = "foo-1.0-cp311-abi3-linux_armv7l.whl"
TRIXIE = replace(PI, name="trixie-armhf", distribution="trixie", rank=20)


def numbered(build: int, tag: str = TAG) -> str:
    return f"foo-1.0-{build}-{tag}.whl"


class World(Farm):
    """A farm with a clerk, and a builder that it knows."""

    def __init__(self, database: Engine, settings: DatabaseSettings, root: Path) -> None:
        super().__init__(database, settings, root)
        self.clerk = Clerk(database, self.store, self.settings, threading.Event())
        with database.begin() as conn:
            self.slave = slaves.enrol(conn, make().public)

    def wheel(self, filename: str, content: bytes, more: Mapping[str, bytes] | None = None) -> bytes:
        """A wheel of a name and content; the same bytes each time."""
        key = (filename, content + b"".join((more or {}).values()))
        if key not in self.made:
            project, version, *_, py, abi, platform = filename.removesuffix(".whl").split("-")
            members = {f"{project}/__init__.py": content, **(more or {})}
            path = make_wheel(
                self.work,
                filename,
                members=members,
                metadata=metadata_text(project, version),
                tags=[f"{py}-{abi}-{platform}"],
                dist_info=f"{project}-{version}.dist-info",
            )
            self.made[key] = path.read_bytes()
        return self.made[key]

    def lease(self, release_id: int, target: int) -> s.Lease:
        """A job of a builder's, whatever the planner thinks of it."""
        token = uuid4()
        held = {
            "lease_slave_id": self.slave,
            "lease_token": token,
            "lease_started": BUILT,
            "lease_expires": BUILT + timedelta(days=3650),
            "cancelled": False,
        }
        with self.database.begin() as conn:
            of_release = select(projects.c.name, releases.c.version).join(releases).where(releases.c.id == release_id)
            project, version = conn.execute(of_release).one()
            mine = (jobs.c.release_id == release_id, jobs.c.target_id == target)
            if not conn.execute(update(jobs).where(*mine).values(held)).rowcount:
                row = {"release_id": release_id, "target_id": target, "priority": Priority.NEW, "released": BUILT}
                conn.execute(insert(jobs).values(**row, **held))
        order = m.Order(token.hex, "target", "s.tar.gz", "https://example.org/s", "a" * 64, 1, timedelta(hours=1), 0)
        return s.Lease(token.hex, release_id, target, project, project, version, order)

    def result(self, lease: s.Lease, wheels: Mapping[str, bytes]) -> s.Result:
        """What a build came to whose files have arrived: they are in the store."""
        files = []
        for filename, data in wheels.items():
            path, sha256 = self.store.write_part(data)
            found = self.clerk.check(Arrived(path, len(data), sha256), announce(filename, data), lease)
            assert isinstance(found, Checked), found
            (kept,) = self.clerk.keep([found])
            assert isinstance(kept, s.Verified), kept
            files += [file for file in (kept.file, kept.twin) if file is not None]
        return s.Result(lease, True, None, "", timedelta(seconds=5), "", tuple(files), None)

    def deliver(self, release_id: int, wheels: Mapping[str, bytes], target: int | None = None) -> dict[str, bytes]:
        """Have a build recorded; the names that its wheels got, with their hashes."""
        lease = self.lease(release_id, target or self.target)
        self.clerk.record(self.result(lease, wheels))
        return self.recorded(lease)

    def recorded(self, lease: s.Lease) -> dict[str, bytes]:
        """What was recorded under a lease: names, with hashes."""
        query = select(files.c.filename, files.c.sha256).join(builds, builds.c.id == files.c.build_id)
        with self.database.begin() as conn:
            assert attempts.recorded(conn, lease.token) is not None
            rows = conn.execute(query.where(builds.c.token == lease.token)).all()
        return {row.filename: bytes(row.sha256) for row in rows}

    def bound(self) -> dict[tuple[str, str], bytes]:
        """All names, with what they stand for."""
        with self.database.begin() as conn:
            return {(row.space, row.filename): bytes(row.sha256) for row in conn.execute(select(names))}

    def withdraw(self) -> None:
        """All that the builder made; what is made from now on is another's."""
        with self.database.begin() as conn:
            withdrawal.withdraw_next(conn, Reach((self.slave,)), policy=Policy())
            conn.execute(update(builds).values(slave_id=None))
