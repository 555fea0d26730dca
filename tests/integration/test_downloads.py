# SPDX-License-Identifier: BSD-3-Clause
"""Counting downloads: once each, and the roll-up equal to the aggregate, whatever comes in whatever order."""

import json
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from piwheels.db import downloads
from piwheels.db.downloads import Counted, Row, count_batch
from piwheels.master.stats import Packages, write_packages

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOW.date()
LOGGER = uuid.UUID(int=7)


def row(project: str = "spidev", *, at: datetime = NOW, arch: str = "armv7l") -> Row:
    return Row(at, project, f"{project}-1-py3-none-any.whl", arch, "Debian 12", "3.11", "pip")


def add_projects(conn: Connection, *names: str) -> None:
    for name in names:
        conn.execute(text("INSERT INTO projects (name, display_name) VALUES (:n, :n)"), {"n": name})


@pytest.fixture
def farm(database: Engine) -> Engine:
    """A database with three projects."""
    with database.begin() as conn:
        add_projects(conn, "spidev", "smbus", "unloved")
    return database


def count(engine: Engine, number: int, rows: list[Row], *, logger: uuid.UUID = LOGGER, now: datetime = NOW) -> Counted:
    with engine.begin() as conn:
        return count_batch(conn, logger, number, rows=rows, now=now)


def scalar(engine: Engine, query: str) -> int:
    with engine.begin() as conn:
        return int(conn.execute(text(query)).scalar_one())


def assert_rolled_up(engine: Engine) -> None:
    """download_days is the aggregate of downloads."""
    key = "project_id, (at AT TIME ZONE 'UTC')::date AS day, arch, distro, python, installer"
    aggregate = f"SELECT {key}, count(*) AS count FROM downloads GROUP BY 1, 2, 3, 4, 5, 6"
    kept = "SELECT project_id, day, arch, distro, python, installer, count FROM download_days"
    assert scalar(engine, f"SELECT count(*) FROM (({aggregate}) EXCEPT ({kept})) AS missing") == 0
    assert scalar(engine, f"SELECT count(*) FROM (({kept}) EXCEPT ({aggregate})) AS invented") == 0


def test_counts_and_rolls_up(farm: Engine) -> None:
    rows = [row(), row(), row(arch="aarch64"), row("smbus", at=NOW - timedelta(days=40)), row("unknown")]
    assert count(farm, 1, rows) == Counted(counted=4, ignored=1)
    assert count(farm, 2, [row(), row("smbus")]) == Counted(counted=2)
    assert_rolled_up(farm)
    with farm.begin() as conn:
        found = list(downloads.totals(conn, today=NOW.date()))
    assert found == [("smbus", 1, 2), ("spidev", 4, 4), ("unloved", 0, 0)]


def test_a_repeated_batch_counts_once(farm: Engine) -> None:
    for _ in range(3):
        result = count(farm, 1, [row()])
    assert result.repeated
    assert count(farm, 1, [row()], logger=uuid.UUID(int=8)).counted == 1
    assert scalar(farm, "SELECT count(*) FROM downloads") == 2
    assert_rolled_up(farm)


def test_a_rolled_back_batch_counts_when_it_comes_again(farm: Engine) -> None:
    with farm.connect() as conn:
        conn.begin()
        count_batch(conn, LOGGER, 1, rows=[row()], now=NOW)
        conn.rollback()
    assert scalar(farm, "SELECT count(*) FROM downloads") == 0
    assert count(farm, 1, [row()]) == Counted(counted=1)
    assert_rolled_up(farm)


def test_each_month_has_its_partition(farm: Engine) -> None:
    edges = [datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), NOW]
    assert count(farm, 1, [row(at=at) for at in edges]).counted == 3
    assert scalar(farm, "SELECT count(*) FROM downloads_default") == 0
    assert scalar(farm, "SELECT count(*) FROM downloads_2025_12") == 1
    assert scalar(farm, "SELECT count(*) FROM downloads_2026_01") == 1
    assert_rolled_up(farm)


@pytest.mark.parametrize("at", [datetime(1999, 1, 1, tzinfo=UTC), NOW + timedelta(days=3)])
def test_impossible_times_are_ignored(farm: Engine, at: datetime) -> None:
    assert count(farm, 1, [row(at=at), row()]) == Counted(counted=1, ignored=1)
    assert_rolled_up(farm)


def test_project_pages_become_stale(farm: Engine) -> None:
    count(farm, 1, [row("smbus"), row("unknown"), row("smbus")])
    with farm.begin() as conn:
        found = conn.execute(text("SELECT kind::text, key FROM pages")).all()
    assert [tuple(one) for one in found] == [("project", "smbus")]


def test_silent_loggers_are_forgotten(farm: Engine) -> None:
    count(farm, 1, [row()])
    with farm.begin() as conn:
        assert downloads.forget_loggers(conn, now=NOW + timedelta(days=1)) == 0
        assert downloads.forget_loggers(conn, now=NOW + timedelta(days=100)) == 1


def test_packages_json_is_written_when_there_is_news(farm: Engine, tmp_path: Path) -> None:
    path = tmp_path / "www" / "packages.json"
    packages = Packages(path, interval=timedelta(seconds=1))

    def update(today: date = TODAY) -> tuple[object, int]:
        with farm.begin() as conn:
            packages.update(conn, today=today)
        return json.loads(path.read_text()), path.stat().st_ino

    count(farm, 1, [row(at=NOW - timedelta(days=29)), row()])
    first, written = update()
    assert first == [["smbus", 0, 0], ["spidev", 2, 2], ["unloved", 0, 0]]
    assert update() == (first, written)
    with farm.begin() as conn:
        add_projects(conn, "new")
    second, rewritten = update()
    assert second == [["new", 0, 0], *first] and rewritten != written
    third, _ = update(NOW.date() + timedelta(days=1))
    assert third == [["new", 0, 0], ["smbus", 0, 0], ["spidev", 1, 2], ["unloved", 0, 0]]
    assert [one.name for one in path.parent.iterdir()] == ["packages.json"]


def test_packages_json_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "packages.json"
    assert write_packages(path, [])
    assert json.loads(path.read_text()) == []
    assert write_packages(path, [("a", 1, 2), ("b", 0, 0)])
    before = path.stat()
    assert not write_packages(path, [("a", 1, 2), ("b", 0, 0)])
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert write_packages(path, [("a", 1, 3), ("b", 0, 0)])
