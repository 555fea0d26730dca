# SPDX-License-Identifier: BSD-3-Clause
"""The whole list of attacks against one running master: it lives on, stays small, and serves the honest."""

from collections.abc import Iterator

import pytest

from piwheels.db.engine import make_engine
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings
from tests.conftest import _maintain
from tests.hostile import by_builders, by_delivery, by_locals, by_plain, by_strangers
from tests.hostile.attack import ATTACKS, Attack
from tests.hostile.ground import Ground, make_ground

pytestmark = pytest.mark.integration

MODULES = (by_strangers, by_builders, by_delivery, by_plain, by_locals)  #: importing them made the list


@pytest.fixture(scope="module")
def ground(cluster: Cluster, template: str) -> Iterator[Ground]:
    """One master for all attacks: what one leaves behind is there for the next."""
    _maintain(cluster, f"CREATE DATABASE hostile TEMPLATE {template} STRATEGY FILE_COPY")
    settings = DatabaseSettings(url=cluster.url_of("hostile"), pool=5)
    engine = make_engine(settings, name="hostile")
    try:
        with make_ground(engine, settings.url) as made:
            yield made
    finally:
        engine.dispose()
        _maintain(cluster, "DROP DATABASE IF EXISTS hostile WITH (FORCE)")


@pytest.mark.parametrize(
    "attack",
    [pytest.param(one, id=one.name, marks=[pytest.mark.long] if one.long else []) for one in ATTACKS],
)
def test_the_master_survives(ground: Ground, attack: Attack) -> None:
    try:
        with ground.weighing(attack.memory):
            attack.run(ground)
            ground.serve_the_honest()
            if "by_plain" in attack.name:
                ground.serve_the_old()
            ground.ask_control(and_status="by_locals" in attack.name)
            ground.ask_stats()
    finally:
        ground.clear()
        ground.check()  # what a role says of its end explains any other failure
