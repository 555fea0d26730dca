# SPDX-License-Identifier: BSD-3-Clause
"""A real piw-slave in mid-build, on a real dispatch: its build killed, its log shown, and itself disabled."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select

from piwheels.db import operator, slaves
from piwheels.db.tables import builds, jobs, upstream_files
from piwheels.db.tables import targets as target_rows
from piwheels.master import live_logs, targets
from piwheels.master.commands import Command, Verb
from piwheels.master.control import obey
from piwheels.master.policy import retry_policy_of
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import UpstreamKind
from tests.integration import dispatch_world
from tests.integration.dispatch_farm import Farm, make_farm
from tests.integration.test_slave_agent import HANG, World, sleeping, world
from tests.sdists import make_sdist

pytestmark = pytest.mark.e2e

__all__ = ["world"]


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings, tmp_path: Path, world: World) -> Iterator[Farm]:
    farm = make_farm(database, database_settings, tmp_path, lambda settings: settings)
    farm.keys = world.master_keys
    with database.begin() as conn:
        conn.execute(target_rows.update().values(enabled=False))  # what others are planned for
        farm.target_id = dispatch_world.add_target(conn, targets.native())
        slaves.enrol(conn, world.slave_keys.public, label="real")
    farm.start()
    assert farm.address is not None
    world.addresses = (farm.address.builders, farm.address.files)
    yield farm
    farm.close()


def queue(farm: Farm, world: World, version: str) -> None:
    """Something to build that does not end by itself."""
    sdist = make_sdist(world.files, HANG, version=version)
    with farm.engine.begin() as conn:
        release = dispatch_world.add_release(conn, "foo", version, sdist=False)
        file = {
            "filename": sdist.path.name,
            "kind": UpstreamKind.SDIST,
            "size": sdist.path.stat().st_size,
            "sha256": bytes.fromhex(sdist.sha256),
            "url": f"{world.server}/{sdist.path.name}",
        }
        conn.execute(insert(upstream_files).values(release_id=release, uploaded=datetime.now(UTC), **file))
        dispatch_world.add_job(conn, release, farm.target_id)


def running(farm: Farm) -> list[operator.Running]:
    with farm.engine.begin() as conn:
        return operator.running(conn)


def is_hanging(farm: Farm) -> bool:
    held = running(farm)
    log = live_logs.read(farm.settings.paths.run, held[0].token) if held else None
    return log is not None and "hanging" in log.text


def test_a_real_builder_is_stopped_and_then_cut_off(farm: Farm, world: World) -> None:
    queue(farm, world, "1.0")
    with world.slave():
        dispatch_world.wait_for(lambda: is_hanging(farm), "the log of its build", timeout=60)
        assert sleeping()
        with farm.engine.begin() as conn:
            kill = Command(Verb.SLAVE_KILL, slave="real", back="no")
            assert obey(conn, kill, policy=retry_policy_of(farm.settings)).ok
        dispatch_world.wait_for(lambda: not sleeping(), "the end of its processes")
        assert dispatch_world.count(farm.engine, builds) == 1

        queue(farm, world, "2.0")
        dispatch_world.wait_for(lambda: is_hanging(farm), "the next build", timeout=60)
        with farm.engine.begin() as conn:
            slaves.set_enabled(conn, slaves.find(conn, "real")[0].id, False)
        dispatch_world.wait_for(lambda: not running(farm), "its lease to return")
        with farm.engine.begin() as conn:
            assert conn.execute(select(jobs.c.strikes)).scalars().all() == [1]
