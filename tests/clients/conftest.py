# SPDX-License-Identifier: BSD-3-Clause
"""The shop of a session's tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from piwheels.db.engine import make_engine
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings
from tests.clients.shop import Shop
from tests.conftest import _maintain


@pytest.fixture(scope="session")
def stocked(cluster: Cluster, template: str) -> Iterator[Shop]:
    """The shop, everything published."""
    root = Path(tempfile.mkdtemp(prefix="piw-shop-", dir="/tmp"))
    root.chmod(0o755)
    before = os.umask(0o022)
    _maintain(cluster, f"CREATE DATABASE shop TEMPLATE {template} STRATEGY FILE_COPY")
    settings = DatabaseSettings(url=cluster.url_of("shop"), pool=5)
    engine = make_engine(settings, name="test")
    try:
        yield Shop(engine, settings, root)
    finally:
        engine.dispose()
        _maintain(cluster, "DROP DATABASE shop WITH (FORCE)")
        os.umask(before)
        shutil.rmtree(root)
