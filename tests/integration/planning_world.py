# SPDX-License-Identifier: BSD-3-Clause
"""Projects, releases and builds of every kind as rows, by chance, for tests of planning at more than one release."""

import uuid
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from piwheels.db import planning, release_facts, targets
from piwheels.db.tables import builds, files, jobs, projects, releases, slaves, upstream_files
from piwheels.master.planner import Policy, plan
from piwheels.versions import sort_key
from piwheels.vocabulary import FailureReason, Outcome, ProjectStatus, UpstreamKind

NOW = datetime.now(UTC)
OLD = datetime(2020, 1, 1, tzinfo=UTC)
VERSIONS = ("0.9", "1.0a1", "1.0", "1.0.post1", "1.10", "1.9", "2.0.dev1", "dog", "2.0-1", "3!1.0")
NAMES = ("{0}", "{0}", "{0}", "{1}")  # of wheels: as it should be, as old tools did
TAGS = (
    *["py3-none-any"] * 3,
    "py2-none-any",
    "cp311-cp311-linux_armv7l",
    "cp311-cp311-manylinux_2_17_aarch64",
    "cp39-abi3-linux_armv7l",
    "cp313-cp313t-linux_aarch64",
    "cp39-cp39-win32",
    "py3-none-linux_armv7l",
    "1x-py3-none-any",
)
REQUIRES = (None, None, None, "", ">=3.8", ">=3.12", "<3.12", "rubbish")


def fill(conn: Connection, random: Random, count: int) -> list[int]:
    """So many projects; the ids of their releases."""
    slave = conn.execute(insert(slaves).values(key=uuid.uuid4().hex + "k" * 8).returning(slaves.c.id)).scalar_one()
    target_ids = [target.id for target in targets.every(conn)]
    made = []
    for _ in range(count):
        made += _project(conn, random, slave, target_ids)
    return made


def _project(conn: Connection, random: Random, slave: int, target_ids: list[int | None]) -> list[int]:
    name = f"p-{random.randrange(10**9)}"
    values = {
        "name": name,
        "display_name": name,
        "status": random.choice([*[ProjectStatus.ACTIVE] * 6, *ProjectStatus]),
        "skip_reason": random.choice(["", "", "", "", "", "too big"]),
    }
    project_id = conn.execute(insert(projects).values(values).returning(projects.c.id)).scalar_one()
    made = []
    for version in random.sample(VERSIONS, random.randrange(1, 6)):
        row = {
            "project_id": project_id,
            "version": version,
            "sort_key": sort_key(version),
            "released": random.choice([OLD, OLD, NOW - timedelta(days=1)]),
            "yanked": random.random() < 0.1,
            "requires_python": random.choice(REQUIRES),
            "skip_reason": random.choice(["", "", "", "", "", "broken"]),
            "wanted": random.random() < 0.8,
        }
        release_id = conn.execute(insert(releases).values(row).returning(releases.c.id)).scalar_one()
        made.append(release_id)
        _upstream(conn, random, release_id, name, version)
        for _ in range(random.choice([0, 0, 1, 2, 4])):
            _build(conn, random, release_id, slave, random.choice(target_ids), name, version)
        _jobs(conn, random, release_id, slave, target_ids)
    return made


def _wheel(random: Random, name: str, version: str) -> str:
    stem = random.choice(NAMES).format(name.replace("-", "_"), name.upper().replace("-", "."))
    said = random.choice([version] * 8 + ["1.0.0", "7.7"])
    return f"{stem}-{said}-{random.choice(TAGS)}.whl"


def _upstream(conn: Connection, random: Random, release_id: int, name: str, version: str) -> None:
    rows = {f"{name}-{version}.tar.gz": UpstreamKind.SDIST, f"{name}-{version}.exe": UpstreamKind.OTHER}
    rows |= {_wheel(random, name, version): UpstreamKind.WHEEL for _ in range(random.choice([0, 0, 1, 3]))}
    if random.random() < 0.1:
        rows[f"{name}-{version}.zip"] = UpstreamKind.SDIST
    for filename, kind in rows.items():
        fetchable = kind is UpstreamKind.SDIST and random.random() < 0.8
        known = {"sha256": b"s" * 32 if fetchable else None, "url": "https://x.example/y" if fetchable else None}
        file = {"release_id": release_id, "filename": filename, "kind": kind, "uploaded": OLD, **known}
        more = {"requires_python": random.choice(REQUIRES), "yanked": random.random() < 0.1}
        conn.execute(insert(upstream_files).values(file | more))


def _build(
    conn: Connection, random: Random, release_id: int, slave: int, target_id: int | None, name: str, version: str
) -> None:
    reason = random.choice([None, None, *FailureReason])
    row = {
        "release_id": release_id,
        "target_id": target_id,
        "slave_id": slave,
        "token": uuid.UUID(int=random.getrandbits(128)),
        "started": OLD,
        "duration": timedelta(seconds=9),
        "outcome": Outcome.FAILED if reason else Outcome.SUCCESS,
        "reason": reason,
        "superseded": random.random() < 0.2,
    }
    build_id = conn.execute(insert(builds).values(row).returning(builds.c.id)).scalar_one()
    names = {_wheel(random, name, version) for _ in range(random.choice([0, 1, 1, 2]))} if not reason else set()
    for filename in sorted(names):
        digests = {"sha256": b"a" * 32, "metadata_sha256": b"b" * 32}
        more = {"requires_python": random.choice(REQUIRES), "yanked": random.random() < 0.1}
        conn.execute(insert(files).values(build_id=build_id, filename=filename, size=1, **digests, **more))


def _jobs(conn: Connection, random: Random, release_id: int, slave: int, target_ids: list[int | None]) -> None:
    """Jobs that should be there or not."""
    for target_id in random.sample(target_ids, random.choice([0, 0, 1, 2])):
        job: dict[str, Any] = {
            "release_id": release_id,
            "target_id": target_id,
            "priority": random.randrange(4),
            "released": OLD,
        }
        if random.random() < 0.4:
            job |= {"lease_slave_id": slave, "lease_token": uuid.UUID(int=random.getrandbits(128))}
            job |= {"lease_started": OLD, "lease_expires": NOW, "cancelled": random.random() < 0.3}
        conn.execute(insert(jobs).values(job))


def expected(conn: Connection, policy: Policy | None = None) -> set[tuple[int, int]]:
    """The jobs that there should be that nobody is told to stop, by the planner in words."""
    ids = conn.execute(select(releases.c.id)).scalars().all()
    everywhere = targets.every(conn)
    facts = release_facts.load(conn, ids)
    return {
        (id_, job.target.id or 0)
        for id_, one in facts.items()
        for job in plan(one, everywhere, policy or Policy()).jobs
    }


def present(conn: Connection) -> set[tuple[int, int]]:
    """The jobs that there are, without those that nobody will build any more."""
    rows = conn.execute(select(jobs.c.release_id, jobs.c.target_id, jobs.c.cancelled))
    return {(row.release_id, row.target_id) for row in rows if not row.cancelled}


def settle(conn: Connection) -> None:
    """End the jobs that builders were told to stop, as they would."""
    conn.execute(jobs.delete().where(jobs.c.cancelled))
    planning.replan(conn, conn.execute(select(releases.c.id)).scalars().all())


def reset(conn: Connection) -> None:
    """No lease and no cancellation any more."""
    nobody = {"lease_slave_id": None, "lease_token": None, "lease_started": None, "lease_expires": None}
    conn.execute(update(jobs).values(**nobody, cancelled=False, created_at=func.now()))
