# SPDX-License-Identifier: BSD-3-Clause
"""Rows, a store and a publisher over a real database and disk, and ways to look at what it publishes."""

import asyncio
import hashlib
import json
import threading
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import test_utils
from sqlalchemy import Engine, delete, update

from piwheels.db import pages, targets
from piwheels.db.tables import listings
from piwheels.db.tables import pages as pages_table
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.master.store import Store
from piwheels.settings import DatabaseSettings, FarmSettings, PathSettings, Settings
from piwheels.site.web import application
from piwheels.vocabulary import DependencyTool, PageKind, Role
from tests.built import record_build
from tests.integration.dispatch_world import PI, add_release
from tests.wheels import make_wheel, metadata_text

WHEEL = "foo-1.0-cp311-cp311-linux_armv7l.whl"
BUILT = datetime(2026, 11, 1, 12, 0, 0, 5, tzinfo=UTC)


class Farm:
    """Rows, a store and a publisher."""

    def __init__(self, database: Engine, settings: DatabaseSettings, root: Path) -> None:
        self.database = database
        self.settings = Settings(
            farm=FarmSettings(name="Test farm", base_url="http://127.0.0.1:8080"),
            database=settings,
            paths=PathSettings(output=root / "www", store=root / "store", run=root / "run", keys=root / "keys"),
        )
        self.work = root
        self.www = root / "www"
        self.store = Store(root / "store")
        self.store.prepare()
        self.contexts: list[Context] = []
        self.made: dict[tuple[str, bytes], bytes] = {}  # zip files hold the time: what is built again has to be kept
        with database.begin() as conn:
            self.target = targets.add(conn, PI)
        self.publisher = self.new_publisher()

    def new_publisher(self, index: int = 1) -> Publisher:
        context = Context(Role.PUBLISH, self.settings, index=index)
        self.contexts.append(context)
        return Publisher(self.settings, context)

    def close(self) -> None:
        for context in self.contexts:
            context.close()

    def release(self, project: str = "foo", version: str = "1.0") -> int:
        with self.database.begin() as conn:
            return add_release(conn, project, version)

    def build(
        self,
        release_id: int,
        filename: str = "foo-1.0-cp311-cp311-linux_armv7l.whl",
        *,
        content: bytes = b"x = 1\n",
        target: int | None = None,
    ) -> int:
        """Record a build of one wheel, as dispatch does: bytes into the store, rows, the page marked."""
        name, version = filename.split("-")[:2]
        metadata = metadata_text(name, version, "Requires-Python: >=3.8")
        if (filename, content) not in self.made:
            members, tags = {f"{name}/__init__.py": content}, ["cp311-cp311-linux_armv7l"]
            dist_info = f"{name}-{version}.dist-info"
            path = make_wheel(self.work, filename, members=members, metadata=metadata, tags=tags, dist_info=dist_info)
            self.made[filename, content] = path.read_bytes()
        data = self.made[filename, content]
        with self.database.begin() as conn:
            build_id = record_build(
                conn,
                self.store,
                release=release_id,
                target=target or self.target,
                filename=filename,
                data=data,
                metadata=metadata,
                requires_python=">=3.8",
                finished=BUILT,
                needs=((DependencyTool.APT, "libopenblas0"), (DependencyTool.PIP, "numpy")),
                has_log=True,
            )
            pages.mark_stale(conn, PageKind.PROJECT, name, "build")
        return build_id

    def change(self, *statements: object, mark: str = "foo") -> None:
        with self.database.begin() as conn:
            for statement in statements:
                conn.execute(statement)  # type: ignore[call-overload]
            pages.mark_stale(conn, PageKind.PROJECT, mark, "changed")

    def settle(self, publisher: Publisher | None = None) -> None:
        """Publish until no page is stale, letting time pass for those that wait."""
        for _ in range(50):
            (publisher or self.publisher).step()
            with self.database.begin() as conn:
                if not pages.stale_count(conn):
                    return
                earlier = timedelta(minutes=10)
                conn.execute(
                    update(pages_table).values(
                        since=pages_table.c.since - earlier, claimed_until=pages_table.c.claimed_until - earlier
                    )
                )
                conn.execute(delete(listings))
        raise AssertionError("pages stay stale")

    def json(self, path: str) -> dict:  # type: ignore[type-arg]
        found: dict = json.loads((self.www / path).read_bytes())  # type: ignore[type-arg]
        return found

    def listed(self, project: str = "foo") -> dict[str, str]:
        """File name → SHA-256, as the index has it."""
        return {f["filename"]: f["hashes"]["sha256"] for f in self.json(f"simple/{project}/index.v1_json")["files"]}

    def names(self, path: str = "simple/foo") -> list[str]:
        return sorted(p.name for p in (self.www / path).iterdir())

    def check(self) -> None:
        """Whatever is advertised, anywhere in the tree, is there with its bytes, and HTML and JSON list the same."""
        root = self.www / "simple"
        for page in root.glob("*/index.v1_json"):
            found = json.loads(page.read_bytes())
            assert found["files"], "an empty page"
            for file in found["files"]:
                wheel = page.parent / file["filename"]
                assert hashlib.sha256(wheel.read_bytes()).hexdigest() == file["hashes"]["sha256"]
                assert wheel.stat().st_size == file["size"]
                metadata = page.parent / f"{file['filename']}.metadata"
                assert hashlib.sha256(metadata.read_bytes()).hexdigest() == file["core-metadata"]["sha256"]
                inside = zipfile.ZipFile(wheel)
                (name,) = (n for n in inside.namelist() if n.endswith(".dist-info/METADATA"))
                assert inside.read(name) == metadata.read_bytes()
                inside.close()


class serving:
    """piw-web's application on a thread, for clients of other processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> str:
        self.thread.start()
        self.server = test_utils.TestServer(application(self.root))
        asyncio.run_coroutine_threadsafe(self.server.start_server(), self.loop).result(30)
        return str(self.server.make_url("/")).rstrip("/")

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()


class Killed(BaseException):
    """As kill -9: nothing of ours runs afterwards."""
