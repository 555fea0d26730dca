# SPDX-License-Identifier: BSD-3-Clause
"""The auditor: what is wrong with a farm that has come to rest, told from its rows and its files alone.

Pure, and made from the descriptions of the site and of the schema rather than from the code that writes them: it reads
published pages with parsers of its own. ``audit`` returns one line for each thing that is wrong, none for a farm that
lost nothing, did nothing twice and left nothing lying about.
"""

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256 as hash_of
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import zstandard

LOCKS = "publish.lock"  #: the one file of the store that is nobody's content (piwheels.master.page_locks)
INDEX = ("index.html", "index.v1_html", "index.v1_json")
BLAMELESS = frozenset(
    {"lost", "builder", "disk", "network"}
)  #: reasons of attempts that the package is not to blame for
_LINK = re.compile(r'<a href="([^"#]*)(?:#sha256=([0-9a-f]{64}))?"([^>]*)>([^<]*)</a>')
_METADATA = re.compile(r'data-core-metadata="sha256=([0-9a-f]{64})"')
_LOG = re.compile(r"logs/\d{4}/\d{3}/(\d+)\.txt\.gz")
_LOG_PAGE = re.compile(r"logs/\d{4}/\d{3}/(\d+)\.html\.gz")
_CHANGES = re.compile(r"changes(?:/\d+)?\.json")


@dataclass(frozen=True, slots=True)
class Release:
    """What was to be built, and whether its package can be."""

    project: str
    version: str
    good: bool = True


@dataclass(frozen=True, slots=True)
class Build:
    """A row of builds."""

    id: int
    project: str
    version: str
    target: str
    ok: bool
    reason: str | None = None
    has_log: bool = True


@dataclass(frozen=True, slots=True)
class File:
    """A row of files. Hashes are in hex."""

    build_id: int
    project: str
    version: str
    filename: str
    size: int
    sha256: str
    metadata_sha256: str


@dataclass(frozen=True, slots=True)
class Books:
    """The database."""

    releases: Collection[Release]
    targets: Collection[str]
    builds: Collection[Build]
    files: Collection[File]
    jobs: Collection[str] = ()  #: in words
    pages: Collection[str] = ()  #: stale ones, in words
    published: Mapping[str, tuple[bool, int]] = field(default_factory=dict)  #: project → listed, files


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file; ``data`` of those that are read and not only compared."""

    size: int
    sha256: str
    data: bytes = b""

    @classmethod
    def of(cls, data: bytes, *, keep: bool) -> "OnDisk":
        """One with these bytes."""
        return cls(len(data), hash_of(data).hexdigest(), data if keep else b"")


@dataclass(frozen=True, slots=True)
class Tree:
    """The disk: paths relative to each root."""

    www: Mapping[str, OnDisk]
    store: Mapping[str, OnDisk]


def read_folder(root: Path) -> dict[str, OnDisk]:
    """Every file below a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[str(path.relative_to(root))] = OnDisk.of(data, keep=path.suffix != ".whl")
    return found


def audit(books: Books, tree: Tree) -> list[str]:
    """What is wrong, sorted; empty: nothing."""
    checks = (_attempts, _rest, _store, _links, _indexes, _root, _documents, _logs, _changes, _leftovers)
    return sorted({problem for check in checks for problem in check(books, tree)})


# The database by itself


def _attempts(books: Books, tree: Tree) -> Iterator[str]:
    """Each release came to what it had to come to, once on each target."""
    by_release: dict[tuple[str, str, str], list[Build]] = defaultdict(list)
    known = {(release.project, release.version) for release in books.releases}
    for build in books.builds:
        by_release[build.project, build.version, build.target].append(build)
        if (build.project, build.version) not in known or build.target not in books.targets:
            yield f"build {build.id} is of {build.project} {build.version} for {build.target}, which nobody asked for"
    for release in books.releases:
        for target in books.targets:
            made = by_release[release.project, release.version, target]
            yield from _outcome(release, target, made)
    holders = Counter(file.build_id for file in books.files)
    for build in books.builds:
        if build.ok and not holders[build.id]:
            yield f"build {build.id} succeeded and has no file"
        if not build.ok and holders[build.id]:
            yield f"build {build.id} failed and has files"
    for number in holders.keys() - {build.id for build in books.builds}:
        yield f"build {number} has files and is not there"


def _outcome(release: Release, target: str, made: Collection[Build]) -> Iterator[str]:
    what = f"{release.project} {release.version} for {target}"
    good = [build.id for build in made if build.ok]
    verdicts = [build.id for build in made if not build.ok and build.reason not in BLAMELESS]
    if release.good:
        if not good:
            yield f"{what} is lost: no build of it succeeded"
        if len(good) > 1:
            yield f"{what} was recorded {len(good)} times: builds {_words(good)}"
        if verdicts:
            yield f"{what} is blamed for what it did not do: builds {_words(verdicts)}"
        return
    if good:
        yield f"{what} cannot be built, and builds {_words(good)} say it was"
    if not verdicts:
        yield f"{what} is lost: nobody found that it cannot be built"
    if len(verdicts) > 1:
        yield f"{what} was recorded as failed {len(verdicts)} times: builds {_words(verdicts)}"


def _rest(books: Books, tree: Tree) -> Iterator[str]:
    """Nothing waits any more."""
    for job in books.jobs:
        yield f"a job is stuck: {job}"
    for page in books.pages:
        yield f"a page is stale: {page}"


# The store


def _store(books: Books, tree: Tree) -> Iterator[str]:
    """What rows speak of is there, with the right bytes; nothing else is."""
    wanted = {}
    for file in books.files:
        wanted[file.sha256] = f"{file.filename} of build {file.build_id}"
        wanted.setdefault(file.metadata_sha256, f"the metadata of {file.filename}")
    there = {}
    for path, found in tree.store.items():
        name = path.rpartition("/")[2]
        if path == LOCKS:
            continue
        if path.startswith("incoming/"):
            yield f"a half received file is left: store/{path}"
        elif path != f"{name[:2]}/{name}" or not re.fullmatch("[0-9a-f]{64}", name):
            yield f"something lies in the store that does not belong there: {path}"
        elif found.sha256 != name:
            yield f"store/{path} holds other bytes than its name says: {found.sha256}"
        elif name not in wanted:
            yield f"store/{path} is an orphan"
        there[name] = found
    for name, what in wanted.items():
        if name not in there:
            yield f"the store lacks {what}: {name}"
    for file in books.files:
        if file.sha256 in there and there[file.sha256].size != file.size:
            size = there[file.sha256].size
            yield f"{file.filename} has {size} bytes, and its row says {file.size}"


# The site


def _links(books: Books, tree: Tree) -> Iterator[str]:
    """Every wheel and its metadata are published under their names, with the right bytes."""
    for file in books.files:
        for suffix, digest in (("", file.sha256), (".metadata", file.metadata_sha256)):
            path = f"simple/{file.project}/{file.filename}{suffix}"
            if path not in tree.www:
                yield f"{path} is missing"
            elif tree.www[path].sha256 != digest:
                yield f"{path} has other bytes than its row says"


def _indexes(books: Books, tree: Tree) -> Iterator[str]:
    """A project's three pages list what there are rows of; nothing else lies beside them."""
    by_project: dict[str, list[File]] = defaultdict(list)
    for file in books.files:
        by_project[file.project].append(file)
    for project, files in sorted(by_project.items()):
        for name, count in Counter(file.filename for file in files).items():
            if count > 1:
                yield f"{project}: {count} rows have the name {name}"
        expected = {file.filename: (file.sha256, file.metadata_sha256) for file in files}
        for page in INDEX:
            yield from _index(f"simple/{project}/{page}", expected, {f.filename: f.size for f in files}, tree)
    for path in tree.www:
        match path.split("/"):
            case ["simple", project, name]:
                allowed = {file.filename for file in by_project.get(project, ())}
                page = name.removesuffix(".gz").removesuffix(".zst")
                if page not in INDEX and name.removesuffix(".metadata") not in allowed:
                    yield f"{path} is published and no row is of it"
                elif project not in by_project:
                    yield f"{path} is left of a project without files"
            case ["simple", _, _, *_]:
                yield f"{path} does not belong there"


def _index(path: str, expected: Mapping[str, tuple[str, str]], sizes: Mapping[str, int], tree: Tree) -> Iterator[str]:
    page = tree.www.get(path)
    if page is None:
        yield f"{path} is missing"
        return
    try:
        listed = _listed_json(page.data, sizes) if path.endswith("json") else _listed_html(page.data)
    except (ValueError, KeyError, TypeError) as error:
        yield f"{path} cannot be read: {error}"
        return
    for name in expected.keys() - listed.keys():
        yield f"{path} does not list {name}"
    for name in listed.keys() - expected.keys():
        yield f"{path} lists {name}, of which there is no row"
    for name in listed.keys() & expected.keys():
        if listed[name] != expected[name]:
            yield f"{path} lists {name} with other hashes or another size than its row has"


def _listed_json(data: bytes, sizes: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    listed = {}
    for entry in json.loads(data)["files"]:
        name = entry["filename"]
        right = entry["size"] == sizes.get(name) and unquote(entry["url"]) == name and name not in listed
        listed[name] = (entry["hashes"]["sha256"], entry["core-metadata"]["sha256"]) if right else ("", "")
    return listed


def _listed_html(data: bytes) -> dict[str, tuple[str, str]]:
    listed = {}
    for href, digest, attributes, name in _LINK.findall(data.decode()):
        described = _METADATA.search(attributes)
        right = unquote(href) == name and name not in listed
        listed[name] = (digest, described[1] if described else "") if right else ("", "")
    return listed


def _root(books: Books, tree: Tree) -> Iterator[str]:
    """The list of projects lists those with files, and the rows of what is published say the same."""
    counts = Counter(file.project for file in books.files)
    for page in INDEX:
        path = f"simple/{page}"
        if path not in tree.www:
            yield f"{path} is missing"
            continue
        data = tree.www[path].data
        try:
            if page.endswith("json"):
                listed = [entry["name"] for entry in json.loads(data)["projects"]]
            else:
                listed = [name for _, _, _, name in _LINK.findall(data.decode())]
        except (ValueError, KeyError, TypeError) as error:
            yield f"{path} cannot be read: {error}"
            continue
        yield from (f"{path} does not list {name}" for name in counts.keys() - set(listed))
        yield from (f"{path} lists {name}, which has no files" for name in set(listed) - counts.keys())
        yield from (f"{path} lists {name} {count} times" for name, count in Counter(listed).items() if count > 1)
    for name, (listed_, files) in books.published.items():
        if listed_ != bool(counts[name]) or files != counts[name]:
            yield f"published has {name} with {files} files, and there are {counts[name]}"
    for name in counts.keys() - books.published.keys():
        yield f"published does not have {name}"


def _documents(books: Books, tree: Tree) -> Iterator[str]:
    """Every project's page for programs says what became of each release; there is one for people too."""
    files = {(file.project, file.version, file.filename): file for file in books.files}
    for project in sorted({release.project for release in books.releases}):
        if f"project/{project}/index.html" not in tree.www:
            yield f"project/{project}/index.html is missing"
        path = f"project/{project}/json/index.json"
        if path not in tree.www:
            yield f"{path} is missing"
            continue
        try:
            releases = json.loads(tree.www[path].data)["releases"]
            yield from _document(path, releases, [r for r in books.releases if r.project == project], files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield f"{path} cannot be read: {error!r}"


def _document(
    path: str, said: Mapping[str, Any], releases: Collection[Release], files: Mapping[tuple[str, str, str], File]
) -> Iterator[str]:
    for release in releases:
        if release.version not in said:
            yield f"{path} does not know {release.version}"
            continue
        one = said[release.version]
        for target, cell in one["builds"].items():
            if cell["status"] != ("success" if release.good else "failed"):
                yield f"{path} says {cell['status']} of {release.version} for {target}"
        mine = {name: file for (p, v, name), file in files.items() if (p, v) == (release.project, release.version)}
        shown = {name: (file["filehash"], file["filesize"]) for name, file in one["files"].items()}
        if shown != {name: (file.sha256, file.size) for name, file in mine.items()}:
            yield f"{path} shows other files of {release.version} than there are"


def _logs(books: Books, tree: Tree) -> Iterator[str]:
    """A build that says it has a log has one, which can be read; no log is of no build."""
    logs = {int(match[1]): path for path in tree.www if (match := _LOG.fullmatch(path))}
    with_log = {build.id for build in books.builds if build.has_log}
    yield from (f"build {number} says that it has a log, and has none" for number in with_log - logs.keys())
    for number, path in logs.items():
        if number not in with_log:
            yield f"{path} is the log of no build"
        yield from _unreadable(path, tree)
    failed = {build.id for build in books.builds if build.has_log and not build.ok}
    for path in tree.www:
        if match := _LOG_PAGE.fullmatch(path):
            yield from _unreadable(path, tree)
            if int(match[1]) not in failed:
                yield f"{path} is the page of no failed build's log"


def _changes(books: Books, tree: Tree) -> Iterator[str]:
    """Every build was told of once, as what it was, under serials without gaps."""
    told: dict[int, Any] = {}
    for path in filter(_CHANGES.fullmatch, tree.www):
        for change in json.loads(tree.www[path].data)["changes"]:
            if told.setdefault(change["serial"], change) != change:
                yield f"serial {change['serial']} stands for different changes"
    if sorted(told) != list(range(1, len(told) + 1)):
        yield "serials of changes have gaps"
    known = Counter((build.id, "built" if build.ok else "failed") for build in books.builds)
    said = Counter((change["build"], change["change"]) for change in told.values())
    for number, kind in sorted(known | said):
        if known[number, kind] != said[number, kind]:
            yield f"{said[number, kind]} changes say that build {number} {kind}, which is true of {known[number, kind]}"


def _leftovers(books: Books, tree: Tree) -> Iterator[str]:
    """No temporary file is left, and what is beside a page in compressed form is that page."""
    for path in tree.www:
        name = path.rpartition("/")[2]
        if name.startswith(".") or name.endswith((".tmp", ".part")):
            yield f"a temporary file is left: {path}"
        elif path.endswith((".gz", ".zst")) and not path.startswith(("logs/", "pypi-metadata.")):
            yield from _unreadable(path, tree)
            plain = tree.www.get(path.removesuffix(".gz").removesuffix(".zst"))
            if plain is None or (plain.data and _unpacked(tree.www[path].data) != plain.data):
                yield f"{path} is not what is beside it"


def _unreadable(path: str, tree: Tree) -> Iterable[str]:
    return [] if _unpacked(tree.www[path].data) is not None else [f"{path} cannot be unpacked"]


def _unpacked(data: bytes) -> bytes | None:
    try:
        if data.startswith(zstandard.FRAME_HEADER):
            return zstandard.ZstdDecompressor().stream_reader(data).read()  # a stream's frame does not tell its size
        return gzip.decompress(data)
    except (OSError, EOFError, zstandard.ZstdError):
        return None


def _words(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
