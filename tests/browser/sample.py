# SPDX-License-Identifier: BSD-3-Clause
"""A site with something of everything, for a browser to look at."""

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from sqlalchemy import func, insert, select, update

from piwheels.db import pages, targets
from piwheels.db.engine import make_engine
from piwheels.db.tables import builds, projects, releases
from piwheels.db.tables import pages as pages_table
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.master.stats import write_packages
from piwheels.master.store import Store
from piwheels.master.targets import PRESETS
from piwheels.settings import DatabaseSettings, DumpSettings, FarmSettings, PathSettings, Settings
from piwheels.site.paths import PACKAGES_JSON
from piwheels.vocabulary import FailureReason, Outcome, Role
from tests.built import BUILT, Wheel, record
from tests.integration.dispatch_world import add_release


def publish(database: DatabaseSettings, root: Path) -> None:
    """Fill the database, which is empty, and publish it at ``root/www``."""
    settings = Settings(
        farm=FarmSettings(name="Test farm", base_url="https://wheels.example.org", contact="ops@example.org"),
        database=database,
        dump=DumpSettings(interval=timedelta(0)),
        paths=PathSettings(output=root / "www", store=root / "store", run=root / "run", keys=root / "keys"),
    )
    store = Store(settings.paths.store)
    store.prepare()
    context = Context(Role.PUBLISH, settings)
    engine = make_engine(database, name="sample")
    try:
        with engine.begin() as conn:
            numbers = [targets.add(conn, target) for target in sorted(PRESETS.values(), key=lambda one: one.rank)]
            for version in (f"{major}.{minor}" for major in (1, 2) for minor in range(10)):
                add_release(conn, "rich", version)
                for machine, number in (("armv7l", numbers[0]), ("aarch64", numbers[1])):
                    tag = f"cp311-cp311-linux_{machine}"
                    record(conn, store, root, Wheel("rich", version, tag=tag, apt=("libopenblas0",)), number)
            add_release(conn, "rich", "3.0")
            bare = add_release(conn, "bare", "1.0")
            conn.execute(update(projects).values(summary="Says <b>much</b>, and then some more of it"))
            conn.execute(
                update(releases).where(releases.c.version == "1.3").values(yanked=True, yanked_reason="Broken")
            )
            failed = insert(builds).values(
                release_id=bare,
                target_id=numbers[0],
                token=uuid4(),
                started=BUILT,
                duration=timedelta(seconds=50),
                outcome=Outcome.FAILED,
                reason=FailureReason.PACKAGE,
                detail="fatal error: ffi.h: No such file or directory",
                has_log=False,
            )
            conn.execute(failed)
            pages.mark_all_stale(conn, pages.PageKind.PROJECT, ["bare", "rich"], "sample")
            write_packages(settings.paths.output / PACKAGES_JSON, [("bare", 0, 0), ("rich", 10, 200)])
        publisher = Publisher(settings, context)
        publisher.start()
        while True:
            with engine.begin() as conn:
                if not conn.scalar(select(func.count()).select_from(pages_table)):
                    break
                conn.execute(update(pages_table).values(since=pages_table.c.since - timedelta(minutes=10)))
            publisher.step()
    finally:
        engine.dispose()
        context.close()
