# SPDX-License-Identifier: BSD-3-Clause
"""A sample site: a farm's rows and wheels as a farm of some months has them, and what the publish role makes of them.

For tests that look at pages, and for people: ``python -m tests.samples FOLDER [--port 8000]`` makes one with a database
of its own, publishes it, and serves it until interrupted. The same rows each time, but for today's date.
"""

import argparse
import gzip
import hashlib
import io
import itertools
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, update

from piwheels.db import migrate, pages, targets
from piwheels.db.engine import make_engine
from piwheels.db.tables import (
    builds,
    dependencies,
    download_counts,
    download_days,
    feeds,
    files,
    jobs,
    listings,
    projects,
    releases,
    roles,
    slaves,
    upstream_files,
)
from piwheels.db.tables import pages as pages_table
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.master.store import Store
from piwheels.master.targets import PRESETS
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings, FarmSettings, PathSettings, PublishSettings, Settings
from piwheels.site import web, writer
from piwheels.site.paths import log_path
from piwheels.versions import sort_key
from piwheels.vocabulary import (
    DependencyTool,
    FailureReason,
    Outcome,
    PageKind,
    Priority,
    Role,
    SlaveWish,
    UpstreamKind,
)

#: Name, spelling, summary, newest version, how many releases, downloads a day, packages of Debian's it needs.
PROJECTS: Sequence[tuple[str, str, str, str, int, int, tuple[str, ...]]] = (
    ("numpy", "numpy", "Fundamental package for array computing in Python", "2.3.4", 9, 910, ("libopenblas0",)),
    ("pyyaml", "PyYAML", "YAML parser and emitter for Python", "6.0.3", 5, 640, ("libyaml-0-2",)),
    ("ruamel-yaml", "ruamel.yaml", "A YAML parser that keeps comments and order", "0.18.15", 4, 120, ()),
    (
        "opencv-python",
        "opencv-python",
        "Wrapper package for OpenCV python bindings.",
        "4.12.0.88",
        6,
        480,
        ("libtiff6", "libatlas3-base"),
    ),
    ("pillow", "pillow", "Python imaging library", "12.0.0", 8, 530, ("libjpeg62-turbo", "libwebp7")),
    ("spidev", "spidev", "Python bindings for Linux SPI access through spidev", "3.8", 3, 75, ()),
    ("rpi-gpio", "RPi.GPIO", "A module to control Raspberry Pi GPIO channels", "0.7.1", 2, 330, ()),
    ("gpiozero", "gpiozero", "A simple interface to GPIO devices with Raspberry Pi", "2.0.1", 3, 90, ()),
    ("lxml", "lxml", "Powerful and Pythonic XML processing library", "6.0.2", 7, 260, ("libxslt1.1",)),
    ("cryptography", "cryptography", "Primitives and recipes for developers", "46.0.3", 8, 410, ()),
    (
        "pandas",
        "pandas",
        "Powerful data structures for data analysis, time series, and statistics",
        "2.3.3",
        6,
        380,
        (),
    ),
    (
        "scipy",
        "scipy",
        "Fundamental algorithms for scientific computing in Python",
        "1.16.3",
        5,
        210,
        ("libgfortran5",),
    ),
    ("matplotlib", "matplotlib", "Python plotting package", "3.10.7", 5, 190, ()),
    ("psutil", "psutil", "Cross-platform lib for process and system monitoring", "7.1.3", 4, 170, ()),
    ("rpi-bme280", "RPi.bme280", "A library to drive a Bosch BME280 sensor over I²C", "0.2.4", 2, 22, ()),
    ("tflite-runtime", "tflite-runtime", "Inference on small machines", "2.14.0", 2, 64, ()),
    ("adafruit-blinka", "Adafruit-Blinka", "CircuitPython APIs for boards that run Python", "8.68.0", 4, 140, ()),
    ("aiohttp", "aiohttp", "Async http client/server framework (asyncio)", "3.13.2", 5, 160, ()),
    ("pyzmq", "pyzmq", "Python bindings for 0MQ", "27.1.0", 3, 85, ("libzmq5",)),
    ("dlib", "dlib", "A toolkit for making machine learning applications", "20.0.0", 2, 18, ("libopenblas0",)),
)
HOSTILE = (
    "evil-name",
    "Évil<script>alert(1)</script>",
    '<img src=x onerror=alert(1)> "quotes" & ${1+1} \u202e',
    "1.0<b>",
)
#: Projects whose newest release has no wheel: name, spelling, summary, version, why.
WITHOUT = (
    ("wxpython", "wxPython", "Cross platform GUI toolkit", "4.2.4", FailureReason.TIMEOUT),
    ("tensorflow-io", "tensorflow-io", "More file systems and formats", "0.37.1", FailureReason.PACKAGE),
    ("jaxlib", "jaxlib", "XLA library", "0.8.0", FailureReason.MEMORY),
)
BUILDERS = ("pi4-blue", "pi4-red", "pi5-attic", "pi5-shed", "pi3-old")
DISTROS = ("Debian GNU/Linux 12", "Raspbian GNU/Linux 12", "Debian GNU/Linux 13", "Raspbian GNU/Linux 11")
AGENTS = (
    ("armv7l", DISTROS[1], "3.11", "pip", 38),
    ("aarch64", DISTROS[0], "3.11", "pip", 25),
    ("aarch64", DISTROS[2], "3.13", "uv", 17),
    ("armv7l", DISTROS[3], "3.9", "pip", 9),
    ("armv6l", DISTROS[1], "3.11", "pip", 6),
    ("", "", "", "", 3),
    ("aarch64", DISTROS[2], "3.13", "poetry", 2),
)


@dataclass(slots=True)
class Sample:
    """A sample farm."""

    engine: Engine
    settings: Settings
    now: datetime

    @property
    def www(self) -> Path:
        """The published tree."""
        return self.settings.paths.output


def settings_of(database: DatabaseSettings, root: Path, **farm: object) -> Settings:
    """A farm's settings, with everything below one directory."""
    facts = {
        "name": "Sample farm",
        "base_url": "http://127.0.0.1:8080",
        "contact": "ops@example.org",
        "links": ("Source code=https://www.example.org/source", "Donate=https://www.example.org/donate"),
        **farm,
    }
    return Settings(
        farm=FarmSettings(**facts),  # type: ignore[arg-type]
        database=database,
        paths=PathSettings(output=root / "www", store=root / "store", run=root / "run", keys=root / "keys"),
        publish=PublishSettings(),
    )


def fill(engine: Engine, settings: Settings, *, now: datetime | None = None) -> Sample:
    """Put the rows and wheels into an empty database and its store."""
    sample = Sample(engine, settings, now or datetime.now(UTC).replace(microsecond=0))
    store = Store(settings.paths.store)
    store.prepare()
    with engine.begin() as conn:
        filler = _Filler(conn, store, settings, sample.now)
        filler.fill()
    return sample


def publish(sample: Sample) -> None:
    """Render everything that is stale, letting time pass for what waits."""
    context = Context(Role.PUBLISH, sample.settings)
    try:
        publisher = Publisher(sample.settings, context)
        publisher.start()
        for _ in range(100):
            publisher.step()
            with sample.engine.begin() as conn:
                if not pages.stale_count(conn):
                    return
                earlier = timedelta(minutes=10)
                since = {"since": pages_table.c.since - earlier, "claimed_until": pages_table.c.claimed_until - earlier}
                conn.execute(update(pages_table).values(**since))
                conn.execute(update(listings).values(rest_until=listings.c.rest_until - earlier))
    finally:
        context.close()
    raise AssertionError("pages stay stale")


class _Filler:
    """Writes the rows."""

    def __init__(self, conn: Connection, store: Store, settings: Settings, now: datetime) -> None:
        self.conn = conn
        self.store = store
        self.output = settings.paths.output
        self.now = now
        self.today = now.date()
        self.numbers = itertools.count(1)
        self.targets = [(targets.add(conn, one), one) for one in sorted(PRESETS.values(), key=lambda t: t.rank)]
        self.slaves: list[int] = []

    def fill(self) -> None:
        self._builders()
        found = []
        for age, (name, spelling, summary, version, count, downloads, apt) in enumerate(PROJECTS):
            project_id = self._project(name, spelling, summary)
            found.append((project_id, downloads))
            versions = [version, *(f"0.{count - number}" for number in range(1, count))]
            for number, one in enumerate(dict.fromkeys(versions)):
                released = self.now - timedelta(hours=7 * age, days=60 * number)
                release_id = self._release(project_id, name, one, released, wanted=number < 4)
                if number < 4:
                    self._built(release_id, name, one, released + timedelta(minutes=20), apt, age=age)
        project_id = self._project(HOSTILE[0], HOSTILE[1], HOSTILE[2])
        release_id = self._release(project_id, HOSTILE[0], "1.0", self.now - timedelta(days=2))
        self._built(release_id, HOSTILE[0], "1.0", self.now - timedelta(days=2), ())
        for name, spelling, summary, version, reason in WITHOUT:
            project_id = self._project(name, spelling, summary)
            release_id = self._release(project_id, name, version, self.now - timedelta(days=3))
            self._failed(release_id, reason)
        waiting = self._project("awaited", "awaited", "Is built next")
        for version in ("1.0", "1.1"):
            release_id = self._release(waiting, "awaited", version, self.now - timedelta(hours=5))
            self._jobs(release_id, leased=version == "1.0")
        self._downloads(found)
        self._master()

    def _project(self, name: str, spelling: str, summary: str) -> int:
        row = insert(projects).values(name=name, display_name=spelling, summary=summary, serial=next(self.numbers))
        pages.mark_stale(self.conn, PageKind.PROJECT, name, "sample")
        return int(self.conn.execute(row.returning(projects.c.id)).scalar_one())

    def _release(self, project_id: int, name: str, version: str, released: datetime, *, wanted: bool = True) -> int:
        row = insert(releases).values(
            project_id=project_id, version=version, sort_key=sort_key(version), released=released, wanted=wanted
        )
        release_id: int = self.conn.execute(row.returning(releases.c.id)).scalar_one()
        filename = f"{name}-{version}.tar.gz"
        self.conn.execute(
            insert(upstream_files).values(
                release_id=release_id,
                filename=filename,
                kind=UpstreamKind.SDIST,
                size=1000,
                sha256=hashlib.sha256(filename.encode()).digest(),
                url=f"https://files.example.org/{filename}",
                uploaded=released,
            )
        )
        return release_id

    def _build(
        self, release_id: int, target_id: int, finished: datetime, minutes: float, reason: FailureReason | None
    ) -> int:
        words = {FailureReason.PACKAGE: "error: command 'aarch64-linux-gnu-gcc' failed with exit code 1"}
        row = insert(builds).values(
            release_id=release_id,
            target_id=target_id,
            slave_id=self.slaves[release_id % len(self.slaves)],
            token=uuid.UUID(int=next(self.numbers)),
            started=finished - timedelta(minutes=minutes),
            finished=finished,
            duration=timedelta(minutes=minutes),
            outcome=Outcome.FAILED if reason else Outcome.SUCCESS,
            reason=reason,
            detail=words.get(reason, "it took longer than 3 hours") if reason else "",
            has_log=False,
        )
        return int(self.conn.execute(row.returning(builds.c.id)).scalar_one())

    def _built(
        self, release_id: int, name: str, version: str, at: datetime, apt: Sequence[str], *, age: int = 0
    ) -> None:
        for number, (target_id, target) in enumerate(self.targets):
            finished = min(at + timedelta(minutes=11 * number), self.now - timedelta(minutes=1))
            if (release_id + number) % 11 == 5:
                self._build(release_id, target_id, finished, 3, FailureReason.PACKAGE)
                continue
            build_id = self._build(release_id, target_id, finished, 2 + (age * 7 + number) % 45, None)
            tag = f"{target.abi}-{target.abi}-{target.platform}"
            self._file(build_id, f"{name.replace('-', '_')}-{version}-{tag}.whl", finished, apt)

    def _file(self, build_id: int, filename: str, at: datetime, apt: Sequence[str]) -> None:
        name, version = filename.split("-")[:2]
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.9\n".encode()
        data = _wheel(filename, metadata)
        row = insert(files).values(
            build_id=build_id,
            filename=filename,
            size=len(data),
            sha256=self.store.add_bytes(data),
            metadata_sha256=self.store.add_bytes(metadata),
            requires_python=">=3.9",
            top_level=[name],
            uploaded=at,
        )
        file_id = self.conn.execute(row.returning(files.c.id)).scalar_one()
        for needed in apt:
            self.conn.execute(insert(dependencies).values(file_id=file_id, tool=DependencyTool.APT, name=needed))

    def _failed(self, release_id: int, reason: FailureReason) -> None:
        for number, (target_id, _) in enumerate(self.targets):
            build_id = self._build(release_id, target_id, self.now - timedelta(hours=30 - number), 25, reason)
            self.conn.execute(update(builds).where(builds.c.id == build_id).values(has_log=True))
            lines = [f"  building part {line}" for line in range(80)]
            log = "\n".join(["Collecting it", *lines, "error: it does not compile", ""]).encode()
            writer.write_files(
                self.output / log_path(build_id).parent, {log_path(build_id).name: gzip.compress(log, mtime=0)}
            )

    def _builders(self) -> None:
        for number, label in enumerate(BUILDERS):
            row = insert(slaves).values(
                key=f"{number:040d}",
                label=label,
                target_id=self.targets[number % len(self.targets)][0],
                wish=SlaveWish.PAUSE if number == 4 else SlaveWish.RUN,
                last_seen=self.now - timedelta(seconds=20 if number < 4 else 86400 * 2),
            )
            self.slaves.append(self.conn.execute(row.returning(slaves.c.id)).scalar_one())

    def _jobs(self, release_id: int, *, leased: bool) -> None:
        for number, (target_id, _) in enumerate(self.targets):
            held = leased and number < 3
            lease = {
                "lease_slave_id": self.slaves[number],
                "lease_token": uuid.UUID(int=10**6 + next(self.numbers)),
                "lease_started": self.now - timedelta(minutes=4 + 9 * number),
                "lease_expires": self.now + timedelta(minutes=10),
            }
            facts = {"release_id": release_id, "target_id": target_id, "priority": Priority.NEW}
            created = self.now - timedelta(hours=5 - number)
            self.conn.execute(
                insert(jobs).values(**facts, released=created, created_at=created, **(lease if held else {}))
            )

    def _downloads(self, found: Sequence[tuple[int, int]]) -> None:
        """Of 200 days: for each project on a few of them, and of the whole farm on all."""
        rows = [
            {
                "project_id": project_id,
                "day": (self.today - timedelta(days=back)).isoformat(),
                "count": daily,
                "arch": arch,
            }
            for project_id, daily in found
            for back in range(0, 40, 3)
            for arch in ("armv7l", "aarch64")
        ]
        self.conn.execute(insert(download_days), [{**row, "day": date.fromisoformat(str(row["day"]))} for row in rows])
        for back in range(200):
            day = self.today - timedelta(days=back)
            total = 3000 + 11 * (200 - back) + 600 * ((day.toordinal() * 7) % 5) - 900 * (day.weekday() > 4)
            values = [("all", "", total)]
            for place, kind in enumerate(("arch", "distro", "python", "installer")):
                counted: dict[str, int] = {}
                for agent in AGENTS:
                    counted[str(agent[place])] = counted.get(str(agent[place]), 0) + total * int(agent[4]) // 100
                values += [(kind, value, count) for value, count in counted.items() if count]
            saved = timedelta(minutes=6 * total)
            self.conn.execute(
                insert(download_counts),
                [
                    {
                        "day": day,
                        "kind": kind,
                        "value": value,
                        "count": count,
                        "saved": saved if kind == "all" else timedelta(0),
                    }
                    for kind, value, count in values
                ],
            )

    def _master(self) -> None:
        state = {"source": "journal", "upstream": "answers", "serial": 31_234_567, "waiting": {"news": 3, "repair": 0}}
        for role in Role:
            self.conn.execute(
                insert(roles).values(
                    name=role.value,
                    pid=1,
                    host="sample",
                    started_at=self.now,
                    seen_at=self.now + timedelta(minutes=30),  # none falls silent while somebody looks
                    state=state if role is Role.FEED else {},
                )
            )
        self.conn.execute(insert(feeds).values(name="journal", serial=31_234_567, updated_at=self.now))


def _wheel(filename: str, metadata: bytes) -> bytes:
    """A small wheel, the same bytes each time."""
    name, version, _, _, _ = filename.removesuffix(".whl").split("-")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in (
            (f"{name}/__init__.py", f"name = {filename!r}\n".encode()),
            (f"{name}-{version}.dist-info/METADATA", metadata),
            (f"{name}-{version}.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\n"),
            (f"{name}-{version}.dist-info/RECORD", b""),
        ):
            archive.writestr(zipfile.ZipInfo(member), data)
    return buffer.getvalue()


@contextmanager
def standing(folder: Path, **farm: object) -> Iterator[Sample]:
    """A published sample with a database of its own, which is gone afterwards; the tree stays."""
    with Cluster(folder / "pg", fast=True) as cluster:
        database = DatabaseSettings(url=cluster.url)
        migrate.create_database(database)
        migrate.upgrade(database)
        engine = make_engine(database, name="sample")
        try:
            sample = fill(engine, settings_of(database, folder, **farm))
            publish(sample)
            yield sample
        finally:
            engine.dispose()


def main() -> int:
    """Make a sample, and serve it."""
    parser = argparse.ArgumentParser(prog="python -m tests.samples", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="serve it there until interrupted (default: do not)")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080")
    options = parser.parse_args()
    with standing(options.folder, base_url=options.base_url) as sample:
        print(sample.www, flush=True)
    if options.port:
        return web.main(["--root", str(sample.www), "--port", str(options.port)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
