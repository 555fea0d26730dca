# SPDX-License-Identifier: BSD-3-Clause
"""From an event at PyPI to what our visitors get: journal, feed, publisher and web server as real processes."""

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from piwheels.db import changes, targets
from piwheels.db.tables import releases
from piwheels.master.store import Store
from piwheels.settings import DatabaseSettings
from tests.built import Wheel, record
from tests.integration.dispatch_world import PI
from tests.integration.web_servers import SERVERS, running
from tests.simulator import Simulator
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

NAMES = ("deleted", "held", "bitten")
POLL = 1  #: seconds between two looks at the journal; by default nine more, which the minute has room for
SOON = 50.0  #: seconds from the event to the page at most


class Visitor:
    """Looks at the site."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        """A JSON document; None: 404."""
        accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=accept), timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                assert error.code == 404, error
            return None

    def files(self, name: str) -> Any:
        """What the index lists of a project; None: 404."""
        page = self.get(f"/simple/{name}/")
        return page and page["files"]

    def status(self, name: str) -> str | None:
        """A project's, by its JSON; None: 404."""
        page = self.get(f"/project/{name}/json")
        return page and str(page["status"])

    def yanked(self, name: str) -> object:
        """What the index says of a project's only file."""
        (file,) = self.files(name) or [{}]
        return file.get("yanked", False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short name, since sockets go in it."""
    made = Path(tempfile.mkdtemp(prefix="piw-news-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def master(folder: Path, database: Engine, database_settings: DatabaseSettings) -> Iterator[Simulator]:
    """PyPI, and a master that follows it by its journal and publishes."""
    with database.begin() as conn:
        changes.advance(conn, 1000, source="test")
    with Simulator() as pypi:
        given = {
            "database.url": database_settings.url,
            "upstream.simple_url": pypi.url,
            "feed.poll": POLL,
            **{f"paths.{name}": folder / name for name in ("run", "store", "keys")},
            "paths.output": folder / "www",
        }
        words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "piwheels.master.cli", "--roles", "feed,publish", *words]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield pypi
            assert process.poll() is None, (folder / "log").read_text()
        finally:
            process.terminate()
            process.wait(30)


def test_what_happens_at_pypi_is_served_within_a_minute(master: Simulator, folder: Path, database: Engine) -> None:
    for name in NAMES:
        master.add_release(name, "1.0")
    (folder / "www").mkdir(exist_ok=True)
    with running(SERVERS["piw-web"], folder / "web", folder / "www") as url:
        visitor = Visitor(url)

        def served(what: str, condition: Callable[[], bool], *, seconds: float = SOON) -> None:
            wait_for(condition, f"{what}; the master said:\n{(folder / 'log').read_text()[-3000:]}", seconds=seconds)

        def known() -> bool:
            with database.begin() as conn:
                return conn.scalar(select(func.count()).select_from(releases)) == len(NAMES)

        served("the feed to know them", known, seconds=60)
        build(database, folder)
        served("what was built", lambda: all(visitor.files(name) for name in NAMES))
        before = {name: visitor.files(name) for name in NAMES}

        master.remove_project("deleted")
        master.quarantine("held")
        master.yank("bitten", "1.0", "it bites")
        served("the yank", lambda: visitor.yanked("bitten") == "it bites")
        served("the quarantine", lambda: visitor.files("held") is None and visitor.status("held") == "quarantined")
        served("the deletion", lambda: visitor.files("deleted") is None and visitor.status("deleted") is None)

        master.add_release("deleted", "2.0")
        master.clear_quarantine("held")
        master.yank("bitten", "1.0", yanked=False)
        served("the yank's end", lambda: visitor.yanked("bitten") is False)
        served("the quarantine's end", lambda: visitor.files("held") == before["held"])
        served("the project anew", lambda: visitor.status("deleted") == "active")
        assert visitor.files("deleted") is None  # what was built of the one that was deleted is not of this one


def build(database: Engine, folder: Path) -> None:
    """What a builder makes of them."""
    store = Store(folder / "store")
    store.prepare()
    with database.begin() as conn:
        target = targets.add(conn, PI)
        for name in NAMES:
            record(conn, store, folder, Wheel(name, "1.0", tag="cp311-cp311-linux_armv7l"), target)
