# SPDX-License-Identifier: BSD-3-Clause
"""Whatever is delivered, withdrawn, restored and killed, in any order: a name never changes its bytes."""

import contextlib
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select, update

from piwheels import faults
from piwheels.db import pages, targets, upstream
from piwheels.db.builds import unreferenced
from piwheels.db.tables import builds, files, projects, releases
from piwheels.settings import DatabaseSettings
from piwheels.site import writer
from piwheels.vocabulary import PageKind, ProjectStatus
from tests.elf import DEBIAN, RASPBERRY, elf
from tests.integration.names_world import TRIXIE, World
from tests.integration.publish_world import Killed

pytestmark = pytest.mark.integration


@pytest.fixture
def world(database: Engine, database_settings: DatabaseSettings, tmp_path: Path) -> Iterator[World]:
    made = World(database, database_settings, tmp_path)
    yield made
    made.close()


@dataclass
class History:
    """A project's life, and what was ever seen of it."""

    world: World
    project: str
    trixie: int
    release: int | None = None
    seen: dict[str, bytes] = field(default_factory=dict)  #: path → SHA-256 of what lay there

    def deliver(self, abi3: bool, content: int, trixie: bool, old: bool) -> None:
        if self.release is None:
            self.release = self.world.release(self.project)
        name = f"{self.project}-1.0-cp311-{'abi3' if abi3 else 'cp311'}-linux_armv7l.whl"
        native = {f"{self.project}/native.so": elf(RASPBERRY if old else DEBIAN)}
        wheel = self.world.wheel(name, b"x = %d\n" % content, native)
        made = self.world.deliver(self.release, {name: wheel}, self.trixie if trixie else None)
        assert len(made) == 1 + old, "a build was recorded without its wheels"

    def withdraw(self) -> None:
        self.world.withdraw()

    def delete(self) -> None:
        with self.world.database.begin() as conn:
            upstream.delete_project(conn, self.project)
        self.release = None

    def delete_release(self) -> None:
        with self.world.database.begin() as conn:
            conn.execute(delete(releases).where(releases.c.id == self.release))
            pages.mark_stale(conn, PageKind.PROJECT, self.project, "a release is gone")
        if self.release is not None:
            self.release = self.world.release(self.project)

    def quarantine(self, on: bool) -> None:
        status = ProjectStatus.QUARANTINED if on else ProjectStatus.ACTIVE
        mine = projects.c.name == self.project
        self.world.change(update(projects).where(mine).values(status=status), mark=self.project)

    def sweep(self) -> None:
        """As dispatch does an hour after nobody refers to something any more."""
        store = self.world.store
        found = [sha256 for shard in range(256) for sha256 in store.candidates(age=-60, shard=shard)]
        with self.world.database.begin() as conn:
            for sha256 in unreferenced(conn, found):
                store.discard(sha256, age=-60)

    def publish(self, kill: int) -> None:
        """With a kill before the so-manieth change of the disk, or at a point where none is made."""
        steps = count(1)

        def step(*_: object) -> bool:
            if next(steps) == kill:
                raise Killed
            return False

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(faults, "point", step)
            for owner, name in ((writer.os, "link"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir")):
                patch.setattr(owner, name, before(getattr(owner, name), step))
            self.world.publisher.step()
        self.look()
        with self.world.database.begin() as conn:
            pages.release_claims(conn, self.world.publisher.worker)

    def look(self) -> None:
        """What a reader may see now."""
        self.world.check()
        place = self.world.www / "simple" / self.project
        for path in sorted(place.glob("*.whl")) if place.exists() else []:
            sha256 = hashlib.sha256(path.read_bytes()).digest()
            assert self.seen.setdefault(path.name, sha256) == sha256, f"{path.name} has other bytes than before"
        if (place / "index.html").exists() and (place / "index.v1_json").exists():
            found = json.loads((place / "index.v1_json").read_bytes())["files"]
            for file in found:
                sha256 = bytes.fromhex(file["hashes"]["sha256"])
                assert self.seen.setdefault(file["filename"], sha256) == sha256

    def agree(self) -> None:
        """HTML and JSON say the same of every file."""
        place = self.world.www / "simple" / self.project
        if not place.exists():
            return
        page = (place / "index.html").read_text()
        links = re.findall(r'<a href="([^"#]+)#sha256=([0-9a-f]{64})"([^>]*)>([^<]+)</a>', page)
        yanks = [re.search(r'data-yanked="([^"]*)"', rest) for _, _, rest, _ in links]
        in_html = [
            (name, digest, html.unescape(yank[1]) if yank else False)
            for (_, digest, _, name), yank in zip(links, yanks, strict=True)
        ]
        found = json.loads((place / "index.v1_json").read_bytes())["files"]
        assert in_html == [(f["filename"], f["hashes"]["sha256"], f.get("yanked", False)) for f in found]


def before(real: Callable[..., object], step: Callable[[], object]) -> Callable[..., object]:
    def call(*args: object, **values: object) -> object:
        step()
        return real(*args, **values)

    return call


DELIVERY = st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 3), st.booleans(), st.booleans())
EVENTS = st.one_of(
    DELIVERY,
    DELIVERY,
    DELIVERY,
    st.tuples(st.just("publish"), st.integers(1, 25)),
    st.tuples(st.just("publish"), st.just(0)),
    st.tuples(st.sampled_from(["withdraw", "delete", "delete_release", "sweep"])),
    st.tuples(st.just("quarantine"), st.booleans()),
)


def test_a_name_never_changes_its_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over any history of builds, rebuilds, withdrawals, deletions, restorations and kills."""
    monkeypatch.setattr(writer.os, "fsync", lambda descriptor: None)  # no machine fails here
    with world.database.begin() as conn:
        trixie = targets.add(conn, TRIXIE)
    numbers = count(1)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(EVENTS, min_size=4, max_size=14))
    def run(events: list[tuple[object, ...]]) -> None:
        history = History(world, f"p{next(numbers)}", trixie)
        bound: dict[tuple[str, str], bytes] = {}
        for name, *values in events:
            getattr(history, str(name))(*values)
            now = world.bound()
            assert bound.items() <= now.items(), "a name stands for something else"
            bound = now
        history.quarantine(on=False)
        world.settle()
        history.look()
        history.agree()
        with world.database.begin() as conn:
            mine = select(files.c.filename, files.c.sha256).join(builds).join(releases).join(projects)
            for filename, sha256 in conn.execute(mine.where(projects.c.name == history.project)):
                spaces = [space for (space, one), value in bound.items() if (one, value) == (filename, bytes(sha256))]
                assert {"bookworm", "trixie"} & set(spaces), "a wheel without a name"
                if "" in spaces:
                    assert world.listed(history.project)[filename] == bytes(sha256).hex()
        history.delete()
        world.settle()
        assert not (world.www / "simple" / history.project).exists()

    run()
