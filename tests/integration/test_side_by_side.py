# SPDX-License-Identifier: BSD-3-Clause
"""A 0.2x slave (the double) and the real piw-slave on one master, at work at the same time, build after build."""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select

from piwheels.db import operator, pages, slaves
from piwheels.db.tables import builds, files, jobs, projects, releases, upstream_files
from piwheels.db.tables import slaves as slave_rows
from piwheels.db.tables import targets as target_rows
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.master.targets import native
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import FailureReason, Outcome, PageKind, Role, UpstreamKind
from tests.integration import dispatch_world
from tests.integration.dispatch_farm import Farm, make_farm
from tests.integration.test_slave_agent import World, world
from tests.old_slave import Outcome as Made
from tests.old_slave import Slave, Wheel
from tests.sdists import make_sdist

pytestmark = pytest.mark.e2e

__all__ = ["world"]

GOOD, BAD = ("alpha", "beta"), "gamma"
NATIVE = native()
TAG = f"{NATIVE.abi}-{NATIVE.abi}-{NATIVE.platform}"
OLD_TAG = "cp311-cp311-linux_armv7l"
PATIENCE = 90.0  #: seconds that one build of either may take

CODE = """
import urllib.request
for _ in range(1200):
    try:
        urllib.request.urlopen("{go}", timeout=5).close()
        break
    except OSError:
        time.sleep(0.05)
print("{project} by a current slave", flush=True)
{end}
"""


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path, world: World) -> Iterator[Farm]:
    where = "tcp://127.0.0.1:*"
    change = {"plain_builders": where, "plain_files": where}
    farm = make_farm(database, database_settings, tmp_path, lambda settings: replace(settings, **change))
    farm.keys = world.master_keys
    with database.begin() as conn:
        other = dispatch_world.add_target(conn, NATIVE)
        slaves.enrol(conn, world.slave_keys.public, label="current")
        slaves.enrol(conn, "plain 127.0.0.1")
        for project in (*GOOD, BAD):
            release = dispatch_world.add_release(conn, project, "1.0", sdist=False)
            end = f'name = wheel(out, tag="{TAG}")' if project in GOOD else "raise RuntimeError('no way')"
            code = CODE.format(go=f"{world.server}/go-{project}", project=project, end=end)
            sdist = make_sdist(world.files, code, project=project)
            file = {
                "filename": sdist.path.name,
                "kind": UpstreamKind.SDIST,
                "size": sdist.path.stat().st_size,
                "sha256": bytes.fromhex(sdist.sha256),
                "url": f"{world.server}/{sdist.path.name}",
            }
            conn.execute(insert(upstream_files).values(release_id=release, uploaded=datetime.now(UTC), **file))
            for target in (farm.target_id, other):
                dispatch_world.add_job(conn, release, target)
    farm.start()
    assert farm.address is not None
    world.addresses = (farm.address.builders, farm.address.files)
    yield farm
    farm.close()


def test_side_by_side(farm: Farm, world: World) -> None:
    """Each builds three releases for its own target; no build of one ends before the other has one in hand too."""
    may_go: dict[str, threading.Event] = defaultdict(threading.Event)
    made: dict[str, Wheel] = {}

    def build(package: str, version: str) -> Made:
        name = package.lower()
        assert may_go[name].wait(PATIENCE)
        if name == BAD:
            return Made(log="gamma by 0.2x\n")
        data = dispatch_world.wheel_bytes(name, version, padding=600_000)
        made[name] = Wheel(f"{name}-{version}-{OLD_TAG}.whl", data)
        return Made([made[name]], log=f"{name} by 0.2x\n")

    def held() -> dict[str, operator.Running]:
        with farm.engine.begin() as conn:
            return {one.target: one for one in operator.running(conn)}

    old = Slave(*farm.plain_address, build=build, pace=0.02)
    with ExitStack() as stack:
        stack.callback(old.close)
        life = threading.Thread(target=old.run, daemon=True)
        life.start()
        stack.enter_context(world.slave(label="current"))
        for _ in (*GOOD, BAD):
            dispatch_world.wait_for(lambda: len(held()) == 2, "both to have a build in hand", timeout=PATIENCE)
            both = held()
            may_go[both[dispatch_world.PI.name].project].set()
            (world.files / f"go-{both[NATIVE.name].project}").touch()
            tokens = {one.token for one in both.values()}
            dispatch_world.wait_for(
                lambda tokens=tokens: not tokens & {one.token for one in held().values()},  # type: ignore[misc]
                "both to be done",
                timeout=PATIENCE,
            )
        dispatch_world.wait_for(lambda: old.heard[-1] == "SLEEP", "there to be no more")
        old.stopped.set()
        life.join(20)
    assert not life.is_alive()
    assert dispatch_world.count(farm.engine, jobs) == 0
    check_the_books(farm, made)
    check_the_index(farm)


def check_the_books(farm: Farm, made: dict[str, Wheel]) -> None:
    """Both have the same done, each under its own name and for its own target."""
    with farm.engine.begin() as conn:
        attempts = conn.execute(
            select(builds, projects.c.name, target_rows.c.name.label("target"), slave_rows.c.label)
            .join(releases, releases.c.id == builds.c.release_id)
            .join(projects, projects.c.id == releases.c.project_id)
            .join(target_rows, target_rows.c.id == builds.c.target_id)
            .join(slave_rows, slave_rows.c.id == builds.c.slave_id)
        ).all()
        wheels = {row.filename: bytes(row.sha256).hex() for row in conn.execute(select(files))}
    told = sorted((row.label, row.target, row.name, row.outcome, row.reason) for row in attempts)
    good = [(name, Outcome.SUCCESS, None) for name in GOOD]
    each = sorted([*good, (BAD, Outcome.FAILED, FailureReason.PACKAGE)])
    who = (("current", NATIVE.name), ("old-pi", dispatch_world.PI.name))
    assert told == [(*one, *result) for one in who for result in each]
    assert all(row.has_log for row in attempts)
    assert set(wheels) == {f"{name}-1.0-{tag}.whl" for name in GOOD for tag in (TAG, OLD_TAG)}
    for wheel in made.values():
        assert wheels[wheel.filename] == hashlib.sha256(wheel.data).hexdigest()


def check_the_index(farm: Farm) -> None:
    """Both targets' wheels stand on one page, with all that belongs to one; of what failed there is none."""
    context = Context(Role.PUBLISH, farm.settings)
    try:
        with farm.engine.begin() as conn:
            for name in (*GOOD, BAD):
                pages.mark_stale(conn, PageKind.PROJECT, name, "test")
        publisher = Publisher(farm.settings, context)
        publisher.start()
        simple = farm.settings.paths.output / "simple"

        def published() -> bool:
            publisher.step()
            return all((simple / name / "index.v1_json").exists() for name in GOOD)

        dispatch_world.wait_for(published, "the pages")
    finally:
        context.close()
    assert not (simple / BAD / "index.v1_json").exists()
    for name in GOOD:
        listed = json.loads((simple / name / "index.v1_json").read_bytes())["files"]
        assert {file["filename"] for file in listed} == {f"{name}-1.0-{tag}.whl" for tag in (TAG, OLD_TAG)}
        alike = {tuple(sorted(set(file) - {"requires-python"})) for file in listed}  # one's METADATA has that
        assert len(alike) == 1, "with the same particulars"
        for file in listed:
            data = (simple / name / file["filename"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["hashes"]["sha256"]
