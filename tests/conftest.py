# SPDX-License-Identifier: BSD-3-Clause
"""What every test may use: a private PostgreSQL for the session, and a fresh database for each test that asks.

The schema is migrated once, into a template; a test's database is a clone of it, which takes milliseconds. Nothing here
starts unless a test asks for it.
"""

import atexit
import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import psycopg
import pytest
from sqlalchemy import Engine

from piwheels.db import migrate
from piwheels.db.engine import make_engine
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings

TEMPLATE = "template_piwheels"
MEMORY = Path("/dev/shm")
ROOM = 4 * 1024**3  #: bytes that must be free there for a cluster of ours to be

_numbers = itertools.count(1)
_kept: dict[str, psycopg.Connection] = {}  #: by address

# What tests share (worlds, farms) asserts, too, and should say what it found.
pytest.register_assert_rewrite("tests.integration", "tests.unit")

# No deadline for single examples: on a machine with other work to do it would fail at random. Examples that failed are
# kept for the next run where the checkout is ours to write to.
hypothesis.settings.register_profile("piwheels", deadline=None)
if not os.access(Path(__file__).parent.parent, os.W_OK):
    hypothesis.settings.register_profile("piwheels", deadline=None, database=None)
hypothesis.settings.load_profile("piwheels")

# A shell without job control has what it runs in the background ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# With all tests collected there are so many objects that looking through them took a sixth of the time.
gc.set_threshold(100_000, 20, 100)

# Templates are compiled once for all processes of the session that render pages; it takes each of them seconds else.
if "CHAMELEON_CACHE" not in os.environ:
    os.environ["CHAMELEON_CACHE"] = tempfile.mkdtemp(prefix="piw-templates-", dir="/tmp")
    atexit.register(shutil.rmtree, os.environ["CHAMELEON_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL of this test session's own; gone with it, by kill -9 too."""
    # In memory a clone takes a third of the time. The name is short, as a socket goes inside.
    folder = Path(tempfile.mkdtemp(prefix="piw-test-", dir=MEMORY if _has_room(MEMORY) else "/tmp"))
    try:
        with Cluster(folder / "pg", fast=True) as running:
            yield running
            while _kept:
                _kept.popitem()[1].close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_room(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= ROOM


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """The name of a migrated, empty database that nobody connects to."""
    settings = DatabaseSettings(url=cluster.url_of(TEMPLATE))
    migrate.create_database(settings)
    migrate.upgrade(settings)
    return TEMPLATE


@pytest.fixture
def new_database(cluster: Cluster) -> Iterator[Callable[[str | None], DatabaseSettings]]:
    """Makes databases of this test's own: a clone of the named template, or (None) an empty one."""
    made = []

    def make(template: str | None) -> DatabaseSettings:
        name = f"test_{next(_numbers)}"
        # A copy of the files costs half of what a copy through the log does, where nothing needs to be safe.
        _maintain(cluster, f"CREATE DATABASE {name} TEMPLATE {template or 'template0'} STRATEGY FILE_COPY")
        made.append(name)
        return DatabaseSettings(url=cluster.url_of(name), pool=5)

    yield make
    if not cluster.running:  # the test killed it
        cluster.start()
    for name in made:
        _maintain(cluster, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def empty_database(new_database: Callable[[str | None], DatabaseSettings]) -> DatabaseSettings:
    """A database without our schema."""
    return new_database(None)


@pytest.fixture
def database_settings(new_database: Callable[[str | None], DatabaseSettings], template: str) -> DatabaseSettings:
    """A fresh database with the newest schema and no rows."""
    return new_database(template)


@pytest.fixture
def database(database_settings: DatabaseSettings) -> Iterator[Engine]:
    """An engine on ``database_settings``."""
    engine = make_engine(database_settings, name="test")
    yield engine
    engine.dispose()


def _maintain(cluster: Cluster, statement: str) -> None:
    """Run a statement beside the tests' databases, on a connection that is kept: to make one costs as much."""
    url = cluster.url_of("postgres")
    kept = _kept.pop(url, None)
    if kept is not None:
        with suppress(psycopg.OperationalError):  # a test has restarted the cluster
            kept.execute(statement.encode())
            _kept[url] = kept
            return
    _kept[url] = psycopg.connect(url, autocommit=True)
    _kept[url].execute(statement.encode())
