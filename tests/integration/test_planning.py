# SPDX-License-Identifier: BSD-3-Clause
"""From rows to a plan and from the plan to jobs, with real rows."""

import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, event, func, insert, select, text, update

from piwheels.db import planning, targets, wake
from piwheels.db.tables import builds, files, jobs, releases, slaves, upstream_files
from piwheels.db.tables import targets as target_table
from piwheels.db.upstream import sync_project
from piwheels.master.planner import Code, Policy
from piwheels.master.targets import PRESETS
from piwheels.pypi.model import parse_project
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Outcome, Priority
from tests.simulator.history import History

pytestmark = pytest.mark.integration

OLD = datetime(2020, 1, 1, tzinfo=UTC)


class Farm:
    """A database with the four targets and one project, ``alpha``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pypi = History()
        with engine.begin() as conn:
            self.targets = {name: targets.add(conn, preset) for name, preset in PRESETS.items()}
            self.slave = conn.execute(insert(slaves).values(key="x" * 40).returning(slaves.c.id)).scalar_one()

    def sync(self, *, every: bool = False, name: str = "alpha") -> None:
        project = self.pypi.find(name)
        assert project is not None
        document = self.pypi.json(project, files_url="https://files.example.org/")
        with self.engine.begin() as conn:
            sync_project(conn, parse_project(document, name=name), every=every, policy=Policy())

    def release(self, conn: Connection, version: str = "1.0") -> int:
        return conn.execute(select(releases.c.id).where(releases.c.version == version)).scalar_one()

    def jobs(self, version: str = "1.0") -> dict[str, Any]:
        names = {number: name for name, number in self.targets.items()}
        with self.engine.begin() as conn:
            found = conn.execute(select(jobs).where(jobs.c.release_id == self.release(conn, version)))
            return {names[row.target_id]: row for row in found}

    def built(
        self,
        target: str,
        *wheels: str,
        version: str = "1.0",
        reason: FailureReason | None = None,
        built_from: bytes | None = None,
    ) -> None:
        """Record an attempt as db/builds does: the build, its files, the job gone, the release planned anew."""
        with self.engine.begin() as conn:
            release_id = self.release(conn, version)
            key = {"release_id": release_id, "target_id": self.targets[target]}
            row = key | {"token": uuid.uuid4(), "started": OLD, "duration": timedelta(seconds=9), "reason": reason}
            row |= {"outcome": Outcome.FAILED if reason else Outcome.SUCCESS, "built_from": built_from}
            build_id = conn.execute(insert(builds).values(row).returning(builds.c.id)).scalar_one()
            for wheel in wheels:
                digests = {"sha256": b"a" * 32, "metadata_sha256": b"b" * 32}
                conn.execute(insert(files).values(build_id=build_id, filename=wheel, size=1, **digests))
            conn.execute(delete(jobs).where(jobs.c.release_id == release_id, jobs.c.target_id == key["target_id"]))
            planning.replan_release(conn, release_id)

    def lease(self, target: str, version: str = "1.0") -> None:
        with self.engine.begin() as conn:
            lease = {"lease_slave_id": self.slave, "lease_token": uuid.uuid4()}
            lease |= {"lease_started": func.now(), "lease_expires": func.now() + timedelta(minutes=10)}
            job = (jobs.c.release_id == self.release(conn, version), jobs.c.target_id == self.targets[target])
            assert conn.execute(update(jobs).where(*job).values(lease)).rowcount == 1


@pytest.fixture
def farm(database: Engine) -> Farm:
    return Farm(database)


def test_a_new_release_is_probed_on_the_oldest_target(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0", uploaded=OLD)
    farm.sync()
    [(target, job)] = farm.jobs().items()
    assert target == "bookworm-armhf"
    assert (job.priority, job.released, job.lease_token) == (Priority.BACKLOG, OLD, None)


def test_a_release_of_this_week_comes_first(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0", uploaded=datetime.now(UTC) - timedelta(days=1))
    farm.sync()
    assert farm.jobs()["bookworm-armhf"].priority == Priority.NEW


def test_pure_native_and_failing_probes(farm: Farm) -> None:
    for version in ("1.0", "2.0", "3.0"):
        farm.pypi.add_release("alpha", version)
    farm.sync(every=True)
    farm.built("bookworm-armhf", "alpha-1.0-py3-none-any.whl")
    assert farm.jobs("1.0") == {}
    farm.built("bookworm-armhf", "alpha-2.0-cp311-cp311-linux_armv7l.whl", version="2.0")
    assert set(farm.jobs("2.0")) == {"bookworm-arm64", "trixie-armhf", "trixie-arm64"}
    farm.built("bookworm-armhf", version="3.0", reason=FailureReason.PACKAGE)
    assert list(farm.jobs("3.0")) == ["bookworm-arm64"]
    assert farm.jobs("3.0")["bookworm-arm64"].priority == Priority.RETRY
    farm.built("bookworm-arm64", version="3.0", reason=FailureReason.PACKAGE)
    assert farm.jobs("3.0") == {}


def test_the_previous_release_predicts(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.9", wheels=("cp39-cp39-win32",))
    farm.pypi.add_release("alpha", "1.10")
    farm.pypi.add_release("alpha", "0.9")
    farm.sync(every=True)
    assert len(farm.jobs("1.10")) == 4
    assert len(farm.jobs("0.9")) == 1


def test_our_own_wheels_of_the_previous_release_predict(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0")
    farm.sync(every=True)
    farm.built("bookworm-armhf", "alpha-1.0-cp311-cp311-linux_armv7l.whl")
    farm.pypi.add_release("alpha", "2.0")
    farm.sync(every=True)
    assert len(farm.jobs("2.0")) == 4


def test_a_yank_deletes_waiting_jobs_and_stops_running_ones(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0", wheels=("cp39-cp39-win32",))
    farm.sync()
    farm.lease("trixie-armhf")
    farm.pypi.yank("alpha", "1.0", "broken")
    farm.sync()
    [(target, job)] = farm.jobs().items()
    assert (target, job.cancelled) == ("trixie-armhf", True)
    farm.pypi.yank("alpha", "1.0", yanked=False)
    farm.sync()
    assert len(farm.jobs()) == 4
    assert farm.jobs()["trixie-armhf"].cancelled  # its builder may have been told already


def test_a_new_sdist_resets_the_attempts(farm: Farm) -> None:
    [sdist] = farm.pypi.add_release("alpha", "1.0")
    farm.sync()
    for target in ("bookworm-armhf", "bookworm-arm64"):
        farm.built(target, reason=FailureReason.PACKAGE, built_from=bytes.fromhex(sdist.sha256))
    assert farm.jobs() == {}
    farm.pypi.remove_file("alpha", sdist.filename)
    farm.pypi.add_release("alpha", "1.0", requires_python=">=3.9")  # other bytes
    farm.sync()
    assert list(farm.jobs()) == ["bookworm-armhf"]
    assert farm.jobs()["bookworm-armhf"].priority == Priority.BACKLOG


def test_an_operators_request_keeps_its_place(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0")
    farm.sync()
    with farm.engine.begin() as conn:
        conn.execute(update(jobs).values(priority=Priority.REQUEST))
        planning.replan_release(conn, farm.release(conn))
    assert farm.jobs()["bookworm-armhf"].priority == Priority.REQUEST
    with farm.engine.begin() as conn:
        conn.execute(update(jobs).values(priority=Priority.BACKLOG))
        conn.execute(update(releases).values(released=func.now()))
        planning.replan_release(conn, farm.release(conn))
    assert farm.jobs()["bookworm-armhf"].priority == Priority.NEW


def test_planning_twice_writes_nothing(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0", wheels=("cp39-cp39-win32",))
    farm.sync()
    written = []
    with farm.engine.begin() as conn:
        event.listen(conn, "before_cursor_execute", lambda *told: written.append(told[2]))
        planning.replan_release(conn, farm.release(conn))
    assert written
    assert not [line for line in written if not line.startswith("SELECT")]


def test_a_release_that_is_gone_plans_to_nothing(farm: Farm) -> None:
    with farm.engine.begin() as conn:
        planning.replan_release(conn, 4711)
        assert planning.verdicts(conn, 4711) == {}


def test_jobs_of_a_disabled_target_go(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0", wheels=("cp39-cp39-win32",))
    farm.sync()
    with farm.engine.begin() as conn:
        conn.execute(update(target_table).where(target_table.c.name == "trixie-armhf").values(enabled=False))
        planning.replan_release(conn, farm.release(conn))
    assert set(farm.jobs()) == {"bookworm-armhf", "bookworm-arm64", "trixie-arm64"}


def test_verdicts_for_pages(farm: Farm) -> None:
    farm.pypi.add_release("alpha", "1.0", wheels=("cp311-cp311-manylinux_2_17_aarch64", "cp39-cp39-win32"))
    farm.pypi.add_release("alpha", "2.0", None, wheels=("cp39-cp39-win32",))
    farm.sync(every=True)
    farm.built("bookworm-armhf", "alpha-1.0-cp311-cp311-linux_armv7l.whl")
    farm.lease("trixie-armhf")
    with farm.engine.begin() as conn:
        project_id = conn.execute(select(releases.c.project_id).limit(1)).scalar_one()
        found = planning.verdicts(conn, project_id)
        one, two = found[farm.release(conn, "1.0")], found[farm.release(conn, "2.0")]
    assert {name: verdict.code for name, verdict in one.items()} == {
        "bookworm-armhf": Code.BUILT,
        "bookworm-arm64": Code.ON_PYPI,
        "trixie-armhf": Code.BUILDING,
        "trixie-arm64": Code.QUEUED,
    }
    assert list(one) == list(PRESETS)
    assert {verdict.code for verdict in two.values()} == {Code.NO_SDIST}


def test_the_queries_of_a_project_do_not_multiply_with_its_releases(farm: Farm) -> None:
    def count(project_id: int) -> int:
        statements: list[str] = []
        with farm.engine.begin() as conn:
            event.listen(conn, "before_cursor_execute", lambda *told: statements.append(told[2]))
            planning.verdicts(conn, project_id)
        return len(statements)

    farm.pypi.add_release("alpha", "1.0")
    farm.sync(every=True)
    with farm.engine.begin() as conn:
        project_id = conn.execute(select(releases.c.project_id)).scalar_one()
    few = count(project_id)
    for number in range(2, 40):
        farm.pypi.add_release("alpha", f"{number}.0")
    farm.sync(every=True)
    assert count(project_id) == few <= 10


def test_new_jobs_wake_whoever_listens(farm: Farm, database_settings: DatabaseSettings) -> None:
    listener = wake.Listener(database_settings, wake.JOBS, wake.CONTROL)
    try:
        assert listener.wait(5) == {wake.JOBS, wake.CONTROL}  # it connects; whatever came before may be lost
        farm.pypi.add_release("alpha", "1.0")
        farm.sync()
        assert wake.JOBS in listener.wait(10)
        farm.lease("bookworm-armhf")
        farm.pypi.yank("alpha", "1.0")
        farm.sync()
        assert wake.CONTROL in listener.wait(10)
    finally:
        listener.close()


def test_a_target_added_later_is_planned_in_batches_that_can_be_interrupted(farm: Farm) -> None:
    for number in range(7):
        farm.pypi.add_release("alpha", f"{number}.0", wheels=("cp39-cp39-win32",))
    farm.sync(every=True)

    def step() -> planning.Step:
        with farm.engine.begin() as conn:
            return planning.catch_up(conn, batch=3)

    assert [step().planned for _ in range(4)] == [3, 3, 1, 0]  # nothing is known of what was planned for: all, once
    with farm.engine.begin() as conn:
        conn.execute(update(target_table).where(target_table.c.name == "trixie-arm64").values(enabled=False))
    assert step() == planning.Step(planned=3, finished=False)
    assert step() == planning.Step(planned=3, finished=False)
    assert step() == planning.Step(planned=1, finished=True)
    with farm.engine.begin() as conn:
        assert conn.execute(select(func.count()).select_from(jobs)).scalar_one() == 7 * 3
    assert step() == planning.Step(planned=0, finished=True)


def test_two_planners_of_one_release_take_turns(farm: Farm) -> None:
    """The later one sees what the earlier one committed, also if it had begun before."""
    farm.pypi.add_release("alpha", "1.0")
    farm.sync()
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        with farm.engine.begin() as conn:
            conn.execute(select(func.count()).select_from(releases))
            begun.set()
            planning.replan_release(conn, release_id)
        done.set()

    thread = threading.Thread(target=other)
    with farm.engine.begin() as conn:
        release_id = farm.release(conn)
        conn.execute(text("SELECT 1 FROM releases WHERE id = :id FOR NO KEY UPDATE"), {"id": release_id})
        thread.start()
        assert begun.wait(10)
        wheel = {"kind": "wheel", "filename": "alpha-1.0-py3-none-any.whl", "uploaded": OLD}
        conn.execute(insert(upstream_files).values(release_id=release_id, **wheel))
        assert not done.is_set()
    thread.join(20)
    assert done.is_set()
    assert farm.jobs() == {}
