# SPDX-License-Identifier: BSD-3-Clause
"""A browser, and a site for it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings
from tests.browser.sample import publish
from tests.conftest import _maintain
from tests.integration.web_servers import SERVERS, running
from tests.missing import leave_out, program

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium, as Debian has it. For a module, not longer: Playwright keeps a loop running in this thread, and the
    tests that the process runs afterwards could have none of their own."""
    executable = program("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        leave_out("no playwright for this machine at PyPI")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site(cluster: Cluster, template: str) -> Iterator[str]:
    """The address of a site that shows everything there is to show."""
    root = Path(tempfile.mkdtemp(prefix="piw-site-", dir="/tmp"))
    _maintain(cluster, f"CREATE DATABASE browsed TEMPLATE {template} STRATEGY FILE_COPY")
    try:
        publish(DatabaseSettings(url=cluster.url_of("browsed"), pool=5), root)
        with running(SERVERS["piw-web"], root / "server", root / "www") as url:
            yield url
    finally:
        _maintain(cluster, "DROP DATABASE browsed WITH (FORCE)")
        shutil.rmtree(root)
