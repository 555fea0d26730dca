# SPDX-License-Identifier: BSD-3-Clause
"""The farm of ``bench-scale`` is what it says: of the right shape, with every key, and decided as the planner would."""

import pytest
from sqlalchemy import Connection, Engine, func, select

from piwheels.db import planning
from piwheels.db.engine import in_transaction
from piwheels.db.tables import builds, jobs, projects, releases, targets, upstream_files
from piwheels.settings import DatabaseSettings
from tests.bench import scale_rows
from tests.bench.scale_database import fill

pytestmark = pytest.mark.integration

FRACTION = 0.0004
PROJECTS = round(scale_rows.PROJECTS * FRACTION)


@pytest.fixture
def farm(database: Engine, database_settings: DatabaseSettings) -> Engine:
    """A small one."""
    fill(database_settings, FRACTION, lambda line: None)
    return database


def test_the_planner_would_change_nothing(farm: Engine) -> None:
    before = in_transaction(farm, waiting)
    while not in_transaction(farm, planning.catch_up).finished:
        pass
    after = in_transaction(farm, waiting)
    assert len(before) > PROJECTS / 2
    assert sorted(before - after) == [] and sorted(after - before) == []


def waiting(conn: Connection) -> set[tuple[str, str, str]]:
    """Kind of project, version and target of each job."""
    query = (
        select(projects.c.name, releases.c.version, targets.c.name.label("target"))
        .join(releases, releases.c.project_id == projects.c.id)
        .join(jobs, jobs.c.release_id == releases.c.id)
        .join(targets, targets.c.id == jobs.c.target_id)
    )
    kinds = {row[0]: row[1] for row in conn.exec_driver_sql("SELECT name, kind FROM scale.projects")}
    return {(f"{kinds[row.name]} {row.name}", row.version, row.target) for row in conn.execute(query)}


def test_its_shape(farm: Engine) -> None:
    with farm.begin() as conn:

        def per_project(table: object) -> float:
            return int(conn.execute(select(func.count()).select_from(table)).scalar_one()) / PROJECTS  # type: ignore[arg-type]

        # PyPI: 8.2 million releases, 30 million files and 16 million builds of 740 000 projects; a million jobs.
        assert 9 < per_project(releases) < 13
        assert 25 < per_project(upstream_files) < 60  # a few big projects decide
        assert 16 < per_project(builds) < 26
        assert 0.9 < per_project(jobs) < 2.2


def test_it_has_every_key(database: Engine, database_settings: DatabaseSettings) -> None:
    """Whatever was dropped for speed is there again."""
    before = in_transaction(database, keys)
    fill(database_settings, FRACTION / 4, lambda line: None)
    after = in_transaction(database, keys)
    assert before and after == before


def keys(conn: Connection) -> set[str]:
    """Every index and every constraint, with what it says."""
    indexes = "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid >= 16384"
    constraints = (
        "SELECT conrelid::regclass::text || ': ' || conname || ' ' || pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE conrelid >= 16384"
    )
    found = [*conn.exec_driver_sql(indexes).scalars(), *conn.exec_driver_sql(constraints).scalars()]
    return {one for one in found if "scale." not in one and "pg_toast" not in one}
