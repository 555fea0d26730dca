# SPDX-License-Identifier: BSD-3-Clause
"""The auditor finds every kind of damage in a farm that is otherwise well, and nothing in one that is well."""

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import zstandard

from tests.chaos.auditor import Books, Build, File, OnDisk, Release, Tree, audit

Damage = Callable[[Books, Tree], tuple[Books, Tree]]
GONE = OnDisk(-1, "")
WHEEL, METADATA = b"a wheel", b"its metadata"
NAME = "one-1.0-py3-none-any.whl"
SHA, META = (hashlib.sha256(data).hexdigest() for data in (WHEEL, METADATA))
OTHER = hashlib.sha256(b"other").hexdigest()


def disk(data: bytes) -> OnDisk:
    return OnDisk.of(data, keep=True)


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def html(*links: str) -> bytes:
    return "".join(links).encode()


def link(name: str, sha: str = SHA, meta: str = META) -> str:
    return f'<a href="{name}#sha256={sha}" data-core-metadata="sha256={meta}">{name}</a>'


def listing(*names: str, sha: str = SHA, size: int = len(WHEEL)) -> bytes:
    entries = [
        {"filename": n, "url": n, "hashes": {"sha256": sha}, "size": size, "core-metadata": {"sha256": META}}
        for n in names
    ]
    return json.dumps({"files": entries}).encode()


def root(*names: str) -> bytes:
    return json.dumps({"projects": [{"name": name} for name in names]}).encode()


def document(status: str, files: Mapping[str, object], version: str = "1.0") -> bytes:
    return json.dumps({"releases": {version: {"builds": {"pi": {"status": status}}, "files": files}}}).encode()


def changes(*told: tuple[int, str], first: int = 1) -> bytes:
    entries = [{"serial": n, "build": build, "change": kind} for n, (build, kind) in enumerate(told, first)]
    return json.dumps({"changes": entries}).encode()


def streamed(data: bytes) -> bytes:
    """Compressed as what is too long to be held in memory is: without its size at the beginning."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


SHOWN = {NAME: {"filehash": SHA, "filesize": len(WHEEL)}}
BOOKS = Books(
    releases=[Release("one", "1.0"), Release("bad", "1.0", good=False)],
    targets=["pi"],
    builds=[
        Build(1, "one", "1.0", "pi", ok=False, reason="lost", has_log=False),
        Build(2, "one", "1.0", "pi", ok=True),
        Build(3, "bad", "1.0", "pi", ok=False, reason="package"),
    ],
    files=[File(2, "one", "1.0", NAME, len(WHEEL), SHA, META)],
    published={"one": (True, 1), "bad": (False, 0)},
)
TREE = Tree(
    www={
        f"simple/one/{NAME}": disk(WHEEL),
        f"simple/one/{NAME}.metadata": disk(METADATA),
        "simple/one/index.html": disk(html(link(NAME))),
        "simple/one/index.v1_html": disk(html(link(NAME))),
        "simple/one/index.v1_json": disk(listing(NAME)),
        "simple/one/index.html.gz": disk(packed(html(link(NAME)))),
        "simple/one/index.html.zst": disk(streamed(html(link(NAME)))),
        "simple/index.html": disk(b'<a href="one/">one</a>'),
        "simple/index.v1_html": disk(b'<a href="one/">one</a>'),
        "simple/index.v1_json": disk(root("one")),
        "project/one/index.html": disk(b"one"),
        "project/one/json/index.json": disk(document("success", SHOWN)),
        "project/bad/index.html": disk(b"bad"),
        "project/bad/json/index.json": disk(document("failed", {})),
        "logs/0000/000/2.txt.gz": disk(packed(b"fine")),
        "logs/0000/000/3.txt.gz": disk(packed(b"no")),
        "logs/0000/000/3.html.gz": disk(packed(b"no")),
        "changes/1.json": disk(changes((1, "failed"), (3, "failed"))),
        "changes.json": disk(changes((3, "failed"), (2, "built"), first=2)),
    },
    store={f"{SHA[:2]}/{SHA}": disk(WHEEL), f"{META[:2]}/{META}": disk(METADATA)},
)


def test_a_farm_that_is_well_has_nothing_wrong() -> None:
    assert audit(BOOKS, TREE) == []


def www(**files: OnDisk) -> Damage:
    """The published tree with other files; ``__`` is a slash, ``GONE`` removes."""
    return lambda books, tree: (books, replace(tree, www=changed(tree.www, files)))


def changed(before: object, files: dict[str, OnDisk]) -> dict[str, OnDisk]:
    assert isinstance(before, dict)
    return {path: found for path, found in {**before, **files}.items() if found is not GONE}


def at(path: str, found: OnDisk) -> Damage:
    """The published tree with one other file."""
    return www(**{path: found})


def stored(path: str, found: OnDisk) -> Damage:
    """The store with one other file."""
    return lambda books, tree: (books, replace(tree, store=changed(tree.store, {path: found})))


def rows(**changes: object) -> Damage:
    """Other rows."""
    return lambda books, tree: (replace(books, **changes), tree)  # type: ignore[arg-type]


def more(build: Build) -> Damage:
    """One more build."""
    return rows(builds=[*BOOKS.builds, build])


FILE = next(iter(BOOKS.files))
LOST, WON, FAILED = BOOKS.builds

DAMAGES: dict[str, tuple[Damage, str]] = {
    "a build is lost": (rows(builds=[LOST, FAILED], files=[]), "one 1.0 for pi is lost"),
    "a failure is lost": (rows(builds=[LOST, WON]), "bad 1.0 for pi is lost"),
    "recorded twice": (more(Build(4, "one", "1.0", "pi", ok=True)), "was recorded 2 times: builds 2, 4"),
    "failed twice": (more(Build(4, "bad", "1.0", "pi", ok=False, reason="package")), "as failed 2 times"),
    "blamed": (more(Build(4, "one", "1.0", "pi", ok=False, reason="package")), "blamed for what it did not do"),
    "built what cannot be": (more(Build(4, "bad", "1.0", "pi", ok=True)), "cannot be built, and builds 4 say"),
    "nobody asked": (more(Build(4, "who", "1.0", "pi", ok=False, reason="lost")), "which nobody asked for"),
    "success without a file": (rows(files=[]), "build 2 succeeded and has no file"),
    "failure with a file": (rows(files=[FILE, replace(FILE, build_id=3)]), "build 3 failed and has files"),
    "a file without a build": (rows(files=[FILE, replace(FILE, build_id=9)]), "build 9 has files and is not there"),
    "a job is left": (rows(jobs=["one 1.0"]), "a job is stuck: one 1.0"),
    "a page is left": (rows(pages=["project one"]), "a page is stale: project one"),
    "a half received file": (stored("incoming/1.part", disk(b"x")), "half received file is left"),
    "an orphan": (stored(f"{OTHER[:2]}/{OTHER}", disk(b"other")), "is an orphan"),
    "other bytes in the store": (stored(f"{SHA[:2]}/{SHA}", disk(b"other")), "holds other bytes than its name"),
    "a stranger in the store": (stored("notes.txt", disk(b"x")), "does not belong there: notes.txt"),
    "the store lacks a wheel": (stored(f"{SHA[:2]}/{SHA}", GONE), f"lacks {NAME}"),
    "the store lacks metadata": (stored(f"{META[:2]}/{META}", GONE), "lacks the metadata of"),
    "another size": (rows(files=[replace(FILE, size=8)]), "has 7 bytes, and its row says 8"),
    "a wheel is not published": (at(f"simple/one/{NAME}", GONE), f"simple/one/{NAME} is missing"),
    "published with other bytes": (at(f"simple/one/{NAME}", disk(b"x")), "other bytes than its row says"),
    "no metadata": (at(f"simple/one/{NAME}.metadata", GONE), f"{NAME}.metadata is missing"),
    "no index": (at("simple/one/index.v1_json", GONE), "simple/one/index.v1_json is missing"),
    "half an index": (at("simple/one/index.v1_json", disk(listing(NAME)[:-9])), "index.v1_json cannot be read"),
    "a file unlisted": (at("simple/one/index.v1_json", disk(listing())), f"v1_json does not list {NAME}"),
    "unlisted in HTML": (at("simple/one/index.v1_html", disk(b"")), f"v1_html does not list {NAME}"),
    "listed without a row": (at("simple/one/index.v1_json", disk(listing(NAME, "x.whl"))), "lists x.whl, of which"),
    "listed with another hash": (at("simple/one/index.v1_json", disk(listing(NAME, sha=OTHER))), "with other hashes"),
    "listed with another size": (at("simple/one/index.v1_json", disk(listing(NAME, size=1))), "with other hashes"),
    "HTML with another hash": (at("simple/one/index.html", disk(html(link(NAME, OTHER)))), "with other hashes"),
    "HTML with other metadata": (at("simple/one/index.html", disk(html(link(NAME, SHA, OTHER)))), "with other hashes"),
    "a wheel without a row": (at("simple/one/x.whl", disk(b"x")), "simple/one/x.whl is published and no row"),
    "left of another project": (at("simple/bad/index.html", disk(b"")), "is left of a project without files"),
    "a directory too deep": (at("simple/one/two/x", disk(b"")), "simple/one/two/x does not belong there"),
    "two rows of a name": (rows(files=[FILE, FILE]), f"2 rows have the name {NAME}"),
    "no root": (at("simple/index.html", GONE), "simple/index.html is missing"),
    "root lacks a project": (at("simple/index.v1_json", disk(root())), "simple/index.v1_json does not list one"),
    "root lists too many": (at("simple/index.v1_json", disk(root("one", "bad"))), "lists bad, which has no files"),
    "root lists twice": (at("simple/index.v1_json", disk(root("one", "one"))), "lists one 2 times"),
    "root is broken": (at("simple/index.v1_json", disk(b"[]")), "simple/index.v1_json cannot be read"),
    "published is behind": (rows(published={"one": (False, 0), "bad": (False, 0)}), "published has one with 0 files"),
    "published lacks one": (rows(published={"bad": (False, 0)}), "published does not have one"),
    "no page for people": (at("project/bad/index.html", GONE), "project/bad/index.html is missing"),
    "no page for programs": (at("project/one/json/index.json", GONE), "index.json is missing"),
    "a page says pending": (at("project/one/json/index.json", disk(document("pending", SHOWN))), "says pending of 1.0"),
    "a page shows no file": (at("project/one/json/index.json", disk(document("success", {}))), "shows other files of"),
    "a page of old": (at("project/one/json/index.json", disk(document("success", {}, "0.9"))), "does not know 1.0"),
    "a log is missing": (at("logs/0000/000/2.txt.gz", GONE), "build 2 says that it has a log, and has none"),
    "a log of nothing": (at("logs/0000/000/7.txt.gz", disk(packed(b""))), "7.txt.gz is the log of no build"),
    "half a log": (at("logs/0000/000/2.txt.gz", disk(packed(b"fine")[:-5])), "2.txt.gz cannot be unpacked"),
    "a page of a log of nothing": (at("logs/0000/000/2.html.gz", disk(packed(b""))), "no failed build's log"),
    "a build is not told of": (at("changes.json", disk(changes())), "0 changes say that build 2 built"),
    "told twice": (at("changes/2.json", disk(changes((2, "built"), first=4))), "2 changes say that build 2 built"),
    "a gap": (at("changes.json", disk(changes((2, "built"), first=9))), "serials of changes have gaps"),
    "a serial moved": (at("changes/2.json", disk(changes((2, "built")))), "serial 1 stands for different changes"),
    "a temporary file": (at("simple/one/.index.html.tmp", disk(b"")), "a temporary file is left"),
    "an old twin": (at("simple/one/index.html.gz", disk(packed(b"old"))), "index.html.gz is not what is beside it"),
    "an old twin of the other kind": (
        at("simple/one/index.html.zst", disk(zstandard.compress(b"old"))),
        "index.html.zst is not what is beside it",
    ),
    "a twin alone": (at("project/one/index.htm.gz", disk(packed(b"x"))), "index.htm.gz is not what is beside it"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found(name: str) -> None:
    damage, words = DAMAGES[name]
    found = audit(*damage(BOOKS, TREE))
    assert any(words in problem for problem in found), found
