# SPDX-License-Identifier: BSD-3-Clause
"""What explains a verdict, found in rows. The words for every situation are in tests/unit/test_why.py."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, insert, select, update

from piwheels.db import planning, targets
from piwheels.db.roles import set_paused
from piwheels.db.tables import builds, jobs, releases, slaves
from piwheels.db.tables import planning as planning_table
from piwheels.db.upstream import sync_project
from piwheels.db.why import explain
from piwheels.master.planner import Policy
from piwheels.master.targets import PRESETS
from piwheels.pypi.model import parse_project
from piwheels.vocabulary import FailureReason, Outcome, Priority
from tests.integration.planning_world import OLD
from tests.simulator.history import History

pytestmark = pytest.mark.integration

ARMHF, TRIXIE = "bookworm-armhf", "trixie-armhf"


class World:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pypi = History()
        with engine.begin() as conn:
            self.targets = {name: targets.add(conn, preset) for name, preset in PRESETS.items()}
            row = {"key": "x" * 40, "label": "attic", "target_id": self.targets[ARMHF], "last_seen": func.now()}
            self.slave = conn.execute(insert(slaves).values(row).returning(slaves.c.id)).scalar_one()

    def release(self, name: str = "Alpha", version: str = "1.0", **more: object) -> None:
        self.pypi.add_release(name, version, uploaded=OLD, **more)  # type: ignore[arg-type]
        project = self.pypi.find(name)
        assert project is not None
        document = self.pypi.json(project, files_url="https://files.example.org/")
        with self.engine.begin() as conn:
            found = parse_project(document, name=name.lower())
            sync_project(conn, found, every=True, policy=Policy())

    def why(self, target: str = ARMHF, project: str = "Alpha", version: str = "1.0") -> list[str]:
        with self.engine.begin() as conn:
            return explain(conn, project, version, target)

    def lease(self) -> None:
        with self.engine.begin() as conn:
            lease = {"lease_slave_id": self.slave, "lease_token": uuid.uuid4()}
            started = func.now() - timedelta(hours=3)
            lease |= {"lease_started": started, "lease_expires": func.now() + timedelta(minutes=10)}
            conn.execute(update(jobs).where(jobs.c.target_id == self.targets[ARMHF]).values(lease))

    def fail(self, reason: FailureReason, detail: str) -> None:
        with self.engine.begin() as conn:
            [release_id] = conn.execute(select(releases.c.id)).scalars()
            row = {"release_id": release_id, "target_id": self.targets[ARMHF], "slave_id": self.slave}
            row |= {"token": uuid.uuid4(), "started": OLD, "finished": OLD, "duration": timedelta(seconds=9)}
            row |= {"outcome": Outcome.FAILED, "reason": reason, "detail": detail}
            conn.execute(insert(builds).values(row))
            planning.replan_release(conn, release_id)


@pytest.fixture
def world(database: Engine) -> World:
    return World(database)


def test_what_is_not_known(world: World) -> None:
    assert world.why() == ["alpha: no such project is known here"]
    world.release()
    assert world.why(version="2.0") == ["alpha 2.0: no such release is known here"]
    assert world.why(version="dog") == ["alpha dog: no such release is known here"]
    assert world.why(target="sid") == [f"there is no target sid; there are: {', '.join(PRESETS)}"]


def test_names_and_versions_are_taken_as_people_write_them(world: World) -> None:
    world.release()
    assert world.why(project="ALPHA", version="1.0.0")[0] == f"alpha 1.0, {ARMHF}: waiting to be built"


def test_the_place_in_the_queue(world: World) -> None:
    for name in ("Beta", "Gamma"):
        world.release(name)
    world.release()
    world.release("Omega")
    with world.engine.begin() as conn:
        conn.execute(update(jobs).values(downloads=jobs.c.release_id))
    assert world.why()[1:] == ["it is of the backlog; 1 job comes before it"]
    with world.engine.begin() as conn:
        conn.execute(update(jobs).values(priority=Priority.REQUEST))
    assert world.why()[1] == "it is requested by the operator; 1 job comes before it"


def test_builders_and_the_farm(world: World) -> None:
    world.release(wheels=("cp39-cp39-win32",))
    assert world.why(TRIXIE)[1:] == [
        "it is of the backlog; no other job comes before it",
        "no builder serves this target",
    ]
    with world.engine.begin() as conn:
        set_paused(conn, True)
        conn.execute(update(slaves).values(last_seen=func.now() - timedelta(days=1)))
    assert world.why()[2:] == [
        "the farm is paused: no jobs are handed out",
        "none of this target's builders (1) has been heard of lately",
    ]


def test_a_build_under_way(world: World) -> None:
    world.release()
    world.lease()
    assert world.why() == [
        f"alpha 1.0, {ARMHF}: being built",
        f"builder {world.slave} (attic) has been building it for 3 hours",
    ]
    assert world.why(TRIXIE)[0].endswith(f"waiting for the build on {ARMHF}, which may serve this target too")


def test_attempts(world: World) -> None:
    world.release()
    world.fail(FailureReason.PACKAGE, "no compiler")
    assert world.why()[:2] == [
        f"alpha 1.0, {ARMHF}: the build failed",
        f"2020-01-01 00:00 {ARMHF} on builder {world.slave} (attic): the build failed: no compiler",
    ]


def test_planning_under_way(world: World) -> None:
    world.release(wheels=("cp39-cp39-win32",))
    with world.engine.begin() as conn:
        planning.catch_up(conn)
        conn.execute(update(planning_table).values(finished_at=None, planned=1, total=4))
        conn.execute(jobs.delete())
    assert world.why()[1] == "it has no job yet: 25% of all releases are planned for the targets there are now"


def test_a_target_that_is_off(world: World) -> None:
    world.release()
    with world.engine.begin() as conn:
        targets.enable_only(conn, [ARMHF])
    assert world.why(TRIXIE) == [f"alpha 1.0, {TRIXIE}: not built: the target is disabled"]
