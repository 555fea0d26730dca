# SPDX-License-Identifier: BSD-3-Clause
"""A small farm's published tree behind nginx, for real installers: what is on offer, and what was asked of the server.

Every customer (a client at one of its visits) has a loopback address of its own, so that the access log tells them
apart; the tree is one.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random

from sqlalchemy import Engine, insert, select, update

from piwheels.db import downloads, targets
from piwheels.db.tables import download_days, projects, releases
from piwheels.master.publish import Publisher
from piwheels.master.role import Context
from piwheels.master.stats import write_packages
from piwheels.master.store import Store
from piwheels.settings import DatabaseSettings, FarmSettings, PathSettings, Settings
from piwheels.site.paths import PACKAGES_JSON
from piwheels.vocabulary import Role
from tests.built import NATIVE, Wheel, record
from tests.integration.dispatch_world import PI, add_release
from tests.integration.web_servers import SERVERS, running

OTHER = "cp311-cp311-linux_armv7l"  #: what none of the customers can use
LATE = datetime(2026, 3, 10, tzinfo=UTC)
BETWEEN = "2026-02-01T00:00:00Z"  #: a cool-down's end between when the others were built and then
BIG = 3_000_000  #: bytes of what does not shrink in the wheel that is cut off


#: What a customer finds.
OFFER = (
    Wheel("plain", "1.0"),
    Wheel("plain", "2.0", requires=("part",)),
    Wheel("part", "1.0"),
    Wheel("part", "1.5"),  # yanked
    Wheel("again", "1.0"),
    Wheel("again", "1.0", build="-1"),
    Wheel("again", "1.0", build="-10"),
    Wheel("python", "1.0"),
    Wheel("python", "2.0", requires_python=">=4"),
    Wheel("choosy", "1.0", requires=("part",)),
    Wheel("choosy", "2.0", requires=("part>=9",)),  # nobody can install it
    Wheel("cool", "1.0"),
    Wheel("cool", "2.0", uploaded=LATE),
    Wheel("bitten", "1.0"),
    Wheel("bitten", "2.0"),  # yanked
    Wheel("both", "1.0"),  # PyPI has the sdist alone
    Wheel("tie", "1.0", tag="py3-none-any"),  # PyPI has a file of the same name
    Wheel("newer", "1.0"),  # PyPI has 2.0 too, as a wheel for everybody
    Wheel("numpy", "1.26.4", apt=("libopenblas0",)),
    Wheel("numpy", "2.1.0", apt=("libopenblas0", "libgfortran5")),
    Wheel("numpy", "2.1.0", apt=("libopenblas0",), tag=OTHER),
    Wheel("big", "1.0", data=Random(0).randbytes(BIG)),
)
YANKED = {"part": "1.5", "bitten": "2.0"}
REASON = "it bites at night"
EMPTY = "elsewhere"  #: a project that we know, and have no files of
UNBUILT = ("numpy", "2.2.0")  #: a release without files
DOWNLOADS = {date(2026, 2, 1): 40, date(2025, 1, 1): 60}  #: of numpy, by day
TODAY = date(2026, 2, 10)  #: when packages.json is written


class Shop:
    """Rows, a store, a publisher that works when told to, and the log of the server before its tree."""

    def __init__(self, database: Engine, settings: DatabaseSettings, root: Path) -> None:
        self.database, self.root, self.www = database, root, root / "www"
        self.settings = Settings(
            farm=FarmSettings(name="Test farm", base_url="https://wheels.example.org"),
            database=settings,
            paths=PathSettings(output=self.www, store=root / "store", run=root / "run", keys=root / "keys"),
        )
        self.openings = itertools.count(1)
        self.store = Store(root / "store")
        self.store.prepare()
        with database.begin() as conn:
            platform = NATIVE.split("-")[2]
            native = replace(PI, name="native", platform=platform, platforms=(platform,), abi=NATIVE.split("-")[1])
            self.target = targets.add(conn, native)
            for name in {wheel.name for wheel in OFFER} | {EMPTY}:
                for version in sorted({wheel.version for wheel in OFFER if wheel.name == name}) or ["1.0"]:
                    add_release(conn, name, version)
            add_release(conn, *UNBUILT)
            for name, version in YANKED.items():
                project = select(projects.c.id).where(projects.c.name == name).scalar_subquery()
                of = (releases.c.project_id == project) & (releases.c.version == version)
                conn.execute(update(releases).where(of).values(yanked=True, yanked_reason=REASON))
            for wheel in OFFER:
                record(conn, self.store, root, wheel, self.target)
            numpy = conn.execute(select(projects.c.id).where(projects.c.name == "numpy")).scalar_one()
            for day, count in DOWNLOADS.items():
                conn.execute(insert(download_days).values(project_id=numpy, day=day, count=count))
            write_packages(self.www / PACKAGES_JSON, downloads.totals(conn, today=TODAY))
        with _publisher(self.settings) as publisher:
            publisher.start()
            while publisher.step():
                pass

    def sha256(self, wheel: str) -> str:
        """Of a published wheel, by its file's name, as the index says."""
        page = json.loads((self.www / "simple" / wheel.split("-")[0] / "index.v1_json").read_bytes())
        found: str = next(file["hashes"]["sha256"] for file in page["files"] if file["filename"] == wheel)
        return found


@contextmanager
def _publisher(settings: Settings) -> Iterator[Publisher]:
    context = Context(Role.PUBLISH, settings)
    try:
        yield Publisher(settings, context)
    finally:
        context.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """A line of the access log."""

    path: str
    status: int
    sent: int  #: bytes, headers included
    kind: str  #: the answer's type
    range: str  #: what part was asked for
    agent: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[1]


class Counter:
    """nginx before the tree, with ``master/nginx.conf``; every customer comes to an address of its own."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log

    def url(self, customer: str) -> str:
        """Its address for a customer."""
        return f"http://{customer}:{self.port}"

    def asked(self, customer: str, ending: str = "") -> list[Asked]:
        """What a customer asked for, in order: paths with this ending."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [
            Asked(line["path"], int(line["status"]), int(line["sent"]), line["type"], line["range"], line["agent"])
            for line in lines
            if line["host"] == customer and line["path"].endswith(ending)
        ]


LOG_FORMAT = (
    """log_format asked escape=json '{"host":"$host","path":"$request_uri","status":"$status","sent":"$bytes_sent","""
    """"type":"$sent_http_content_type","range":"$http_range","agent":"$http_user_agent"}';"""
)


@contextmanager
def opened(shop: Shop, customers: Iterable[str]) -> Iterator[Counter]:
    """The shop's tree, served to customers: loopback addresses."""
    nginx, folder = SERVERS["nginx"], shop.root / f"nginx-{next(shop.openings)}"

    def prepare(folder: Path, tree: Path, port: int) -> Sequence[str]:
        command = nginx.prepare(folder, tree, port)
        _change(folder / "nginx.conf", "access_log off;", f"{LOG_FORMAT}\n    access_log {folder}/access.log asked;")
        here = f"listen 127.0.0.1:{port};"
        _change(folder / "site.conf", here, " ".join([here, *(f"listen {one}:{port};" for one in customers)]))
        return command

    with running(replace(nginx, prepare=prepare), folder, shop.www) as url:
        yield Counter(int(url.rsplit(":", 1)[1]), folder / "access.log")


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def wheels(asked: Iterable[Asked]) -> set[str]:
    """The wheels that were fetched, in full or in part."""
    return {one.name for one in asked if one.name.endswith(".whl")}
