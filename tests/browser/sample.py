# SPDX-License-Identifier: BSD-3-Clause
"""The sample site with what is rare, for a browser to look at: words that try to be markup, a quarantine, a long table,
more releases than go on one page, a failed build's log.
"""

import gzip
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from sqlalchemy import Connection, insert, select, update

from piwheels.db import news, pages
from piwheels.db.engine import make_engine
from piwheels.db.tables import builds, projects, releases
from piwheels.db.tables import targets as targets_table
from piwheels.master import dump
from piwheels.master.stats import write_packages
from piwheels.master.store import Store
from piwheels.settings import DatabaseSettings
from piwheels.site import paths
from piwheels.versions import sort_key
from piwheels.vocabulary import FailureReason, NewsKind, Outcome, PageKind, ProjectStatus
from tests import samples
from tests.built import Wheel, record
from tests.integration.dispatch_world import add_release

NOW = datetime.now(UTC)
MARKUP = "<script>alert(1)</script> \"><img src=x onerror=alert(1)> & 'so on' \u202eand back"
LOG = "\n".join(
    [f"\x1b[32mcompiling part {number} of many\x1b[0m" for number in range(200)]
    + [f"src/bare.c:7:10: fatal error: ffi.h: No such file or directory {MARKUP}", "error: command 'gcc' failed"]
)
LOG_NUMBER = 500_000  #: of the build that has it
DEEP, ROWS = 50, 40  #: releases; of a page that has fewer than ours do, since what looks at them takes its time


def publish(database: DatabaseSettings, root: Path) -> None:
    """Fill the database, which is empty, and publish it at ``root/www``."""
    settings = samples.settings_of(database, root)
    engine = make_engine(database, name="sample")
    try:
        with patch("os.fsync"), patch("piwheels.site.release_rows.ROWS", ROWS):  # no machine fails here
            sample = samples.fill(engine, settings)
            with engine.begin() as conn:
                _fill(conn, Store(settings.paths.store), sample.www, root)
            samples.publish(sample)
            dump.to_site(settings, engine, window=timedelta(days=30))
    finally:
        engine.dispose()


def _fill(conn: Connection, store: Store, www: Path, root: Path) -> None:
    targets = list(conn.execute(select(targets_table.c.id).order_by(targets_table.c.rank)).scalars())
    _bare(conn, www, targets)
    _rich(conn, store, root, targets)
    _deep(conn, targets)
    _failed(conn, add_release(conn, "held", "1.0"), targets[0], FailureReason.TIMEOUT)
    status = {"status": ProjectStatus.QUARANTINED, "status_reason": f"Malware? {MARKUP}"}
    conn.execute(update(projects).where(projects.c.name == "held").values(**status))
    news.note(conn, [news.Item(NewsKind.YANKED, "rich", "1.3", detail=MARKUP)])
    news.number(conn)
    pages.mark_stale(conn, PageKind.CHANGES, "", "sample")
    for name in ("bare", "rich", "held", "deep"):
        pages.mark_stale(conn, PageKind.PROJECT, name, "sample")
    write_packages(www / paths.PACKAGES_JSON, [("bare", 0, 0), ("rich", 10, 200)])


def _bare(conn: Connection, www: Path, targets: Sequence[int]) -> None:
    """No wheel, and why."""
    release = add_release(conn, "bare", "1.0")
    bare = projects.c.name == "bare"
    conn.execute(update(projects).where(bare).values(display_name="Bare", summary=MARKUP))
    _failed(conn, release, targets[0], FailureReason.PACKAGE, id=LOG_NUMBER, detail=MARKUP, has_log=True)
    path = www / paths.log_path(LOG_NUMBER)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(LOG.encode()))
    _failed(conn, release, targets[1], FailureReason.MEMORY, detail="killed")


def _rich(conn: Connection, store: Store, root: Path, targets: Sequence[int]) -> None:
    """Fourteen releases, of which most have two wheels."""
    for version in [f"1.{number}" for number in range(13)] + ["2.0rc1"]:
        release = _release(conn, "rich", version)
        if version == "1.12":
            _failed(conn, release, targets[0], FailureReason.PACKAGE)
            continue
        for machine, target in (("armv7l", targets[0]), ("aarch64", targets[1])):
            apt = ("libopenblas0", "libgfortran5") if machine == "armv7l" else ("libopenblas0",)
            tag = f"cp311-cp311-linux_{machine}"
            record(conn, store, root, Wheel("rich", version, tag=tag, apt=apt), target)
    summary = "Numbers in rows and columns, and a summary that is long enough for more than one line on a phone"
    rich = projects.c.name == "rich"
    conn.execute(update(projects).where(rich).values(display_name="Rich", summary=summary))
    conn.execute(update(releases).where(releases.c.version == "1.3").values(yanked=True, yanked_reason=MARKUP))


def _deep(conn: Connection, targets: Sequence[int]) -> None:
    """More releases than go on one page."""
    project = insert(projects).values(name="deep", display_name="Deep").returning(projects.c.id)
    number = conn.execute(project).scalar_one()
    versions = [f"0.{minor:03d}" for minor in range(DEEP)]
    facts = {"project_id": number, "released": NOW}
    rows = [{"version": version, "sort_key": sort_key(version), **facts} for version in versions]
    for release in conn.execute(insert(releases).returning(releases.c.id), rows).scalars().all()[::7]:
        _failed(conn, release, targets[0], FailureReason.PACKAGE, detail="no compiler for this language")


def _release(conn: Connection, project: str, version: str) -> int:
    """In its right order."""
    release = add_release(conn, project, version)
    conn.execute(update(releases).where(releases.c.id == release).values(sort_key=sort_key(version)))
    return release


def _failed(conn: Connection, release: int, target: int, reason: FailureReason, **values: Any) -> None:
    facts = {"release_id": release, "target_id": target, "token": uuid4(), "outcome": Outcome.FAILED, "has_log": False}
    times = {"started": NOW - timedelta(hours=1), "finished": NOW, "duration": timedelta(minutes=61)}
    conn.execute(insert(builds).values(**{**facts, **times, "reason": reason, "detail": "", **values}))
