# SPDX-License-Identifier: BSD-3-Clause
"""What the synthetic PyPI (bulk.py) contains: everything follows from a project's number and an event's. No I/O.

Projects are numbered from 0. The journal's events are numbered from 0 too; event ``n`` has serial ``BASE + 1 + n``. A
project that the journal does not speak of has the serial that everyone had before: ``base_serial``.
"""

import hashlib
import json
import math
import re
import xmlrpc.client
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.simulator import rpc

BASE = 10_000_000  #: the last serial before the journal begins; no listing has as many names
LIMIT = 50_000  #: events of a call
TIME = 1_767_225_600  #: of the first event, seconds since 1970; the others follow, one a second
STEP = 7919  #: between the projects of two events; a prime

ACTIONS = ("create", "new release", "add source file %s", "add py3 file %s", "yank release", "unyank release")

_NAME = re.compile(rb"bulk-(\d{1,9})")
_MARK = "\x01"  #: where templates are cut


def name_of(number: int) -> str:
    """A project's name, which is canonical."""
    return f"bulk-{number}"


def number_of(name: bytes) -> int | None:
    """The project of this name; None: it cannot be one."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def base_serial(number: int) -> int:
    """A project's serial before the journal begins."""
    return number + 1


@dataclass(slots=True, eq=False)
class World:
    """How much there is of everything."""

    projects: int  #: that the journal speaks of
    events: int
    listing: int = 0  #: names in all; fewer than projects: as many as projects
    together: bool = False  #: a project's events follow one another, else they lie far apart
    root: str = "http://127.0.0.1/"

    def __post_init__(self) -> None:
        self.projects = max(self.projects, 1)
        while math.gcd(self.projects, self._step) != 1:
            self._step += 2
        self._inverse = pow(self._step, -1, self.projects)

    _step: int = STEP
    _inverse: int = 1

    @property
    def names(self) -> int:
        """How many projects there are."""
        return max(self.projects, self.listing)

    @property
    def last_serial(self) -> int:
        """The journal's."""
        return BASE + self.events

    def project_of(self, event: int) -> int:
        """The project that an event is of."""
        if self.together:
            return min(event * self.projects // max(self.events, 1), self.projects - 1)
        return event * self._step % self.projects

    def last_event(self, number: int) -> int | None:
        """The last event of a project; None: it has none."""
        if number >= self.projects:
            return None
        if self.together:
            last = -(-(number + 1) * self.events // self.projects) - 1
            return last if last >= 0 and self.project_of(last) == number else None
        first = number * self._inverse % self.projects
        return None if first >= self.events else first + (self.events - 1 - first) // self.projects * self.projects

    def serial(self, number: int) -> int:
        """A project's."""
        event = self.last_event(number)
        return base_serial(number) if event is None else BASE + 1 + event

    def row(self, event: int) -> tuple[str, str | None, int, str, int]:
        """An event as the journal tells it."""
        number = self.project_of(event)
        turn = event - -(-number * self.events // self.projects) if self.together else event // self.projects
        action = ACTIONS[turn % len(ACTIONS)]
        version = None if action == "create" else "1.0"
        if action.endswith("%s"):
            action %= f"bulk_{number}-1.0.tar.gz"
        return name_of(number), version, TIME + event, action, BASE + 1 + event

    def rows(self, since: int) -> Iterator[tuple[str, str | None, int, str, int]]:
        """The journal's next events after a serial."""
        start = max(since - BASE, 0)
        return map(self.row, range(start, min(start + LIMIT, self.events)))


def answer_rpc(world: World, body: bytes) -> bytes:
    """The response to an XML-RPC call."""
    try:
        parameters, method = xmlrpc.client.loads(body)
    except Exception:  # whatever was sent, it was no call
        return rpc.fault_xml(rpc.BAD_XML, "parse error")
    if method == "changelog_last_serial":
        return rpc.response_xml(world.last_serial)
    if method == "changelog_since_serial" and isinstance(parameters[0], int):
        return rpc.rows_xml(world.rows(parameters[0]))
    if method == "list_packages_with_serial":
        return rpc.struct_xml((name_of(number), world.serial(number)) for number in range(world.names))
    return rpc.fault_xml(rpc.UNKNOWN_METHOD, "requested method not found")


def listing(world: World) -> bytes:
    """PEP 691's, of all names."""
    lines = (f'{{"_last-serial":{world.serial(number)},"name":"bulk-{number}"}}' for number in range(world.names))
    head = f'{{"meta":{{"_last-serial":{world.last_serial},"api-version":"1.4"}},"projects":['
    return f"{head}{','.join(lines)}]}}".encode()


# A project


def json_document(world: World, number: int) -> bytes:
    """The JSON API's document of a project: one to three releases, each with an sdist, some with a wheel."""
    count = number % 3 + 1
    releases = []
    for minor in range(count):
        files = [_file(world.root, number, minor, ".tar.gz")]
        if (number + minor) % 4 == 0:
            files.append(_file(world.root, number, minor, "-py3-none-any.whl"))
        releases.append((f"1.{minor}", f"[{','.join(files)}]"))
    inside = ",".join(f'"{version}":{files}' for version, files in releases)
    head = _info(number, releases[-1][0])
    tail = f'"last_serial":{world.serial(number)},"releases":{{{inside}}},"urls":{releases[-1][1]},"vulnerabilities":[]'
    return f"{{{head},{tail}}}".encode()


def detail(world: World, number: int) -> bytes:
    """PEP 691's page of a project."""
    document = json.loads(json_document(world, number))
    files = [_on_page(file) for files in document["releases"].values() for file in files]
    meta = {"api-version": "1.4", "_last-serial": world.serial(number)}
    status = {"status": "active"}
    told = {"meta": meta, "name": name_of(number), "versions": list(document["releases"]), "project-status": status}
    return json.dumps({**told, "files": files}).encode()


def _on_page(file: dict[str, object]) -> dict[str, object]:
    keys = {"filename": "filename", "url": "url", "hashes": "digests", "size": "size", "yanked": "yanked"}
    return {new: file[old] for new, old in keys.items()} | {"upload-time": file["upload_time_iso_8601"]}


_INFO = json.dumps(
    {
        "author": "A. U. Thor",
        "author_email": "author@example.org",
        "classifiers": ["Programming Language :: Python :: 3", "License :: OSI Approved :: BSD License"],
        "description": "A project of the synthetic PyPI. " * 10,
        "description_content_type": "text/markdown",
        "home_page": "",
        "keywords": "",
        "license": "BSD-3-Clause",
        "name": _MARK,
        "project_urls": {"Homepage": "https://example.org/"},
        "requires_dist": ["requests>=2.0", "numpy; python_version >= '3.9'"],
        "requires_python": ">=3.8",
        "summary": "A project that exists to be counted",
        "version": _MARK,
        "yanked": False,
        "yanked_reason": None,
    },
    separators=(",", ":"),
).split(json.dumps(_MARK)[1:-1])


def _info(number: int, version: str) -> str:
    return f'"info":{_INFO[0]}bulk-{number}{_INFO[1]}{version}{_INFO[2]}'


def _file(root: str, number: int, minor: int, suffix: str) -> str:
    name = f"bulk_{number}-1.{minor}{suffix}"
    digest = hashlib.sha256(name.encode()).hexdigest()
    source = suffix == ".tar.gz"
    kind, python = ("sdist", "source") if source else ("bdist_wheel", "py3")
    return (
        f'{{"digests":{{"sha256":"{digest}"}},"filename":"{name}","packagetype":"{kind}","python_version":"{python}",'
        f'"requires_python":">=3.8","size":{1000 + number % 9000},"upload_time":"2025-0{minor + 1}-01T00:00:00",'
        f'"upload_time_iso_8601":"2025-0{minor + 1}-01T00:00:00.000000Z","url":"{root}files/{name}",'
        f'"yanked":false,"yanked_reason":null}}'
    )


def documents(world: World, numbers: Iterable[int]) -> Iterator[bytes]:
    """The JSON of many projects, for benchmarks that need no server."""
    return (json_document(world, number) for number in numbers)
