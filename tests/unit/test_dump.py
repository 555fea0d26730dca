# SPDX-License-Identifier: BSD-3-Clause
"""The metadata dump's file and page: valid, whole or not there at all, and said what it is."""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zstandard

from piwheels.errors import UnavailableError
from piwheels.site import dump, pages, paths
from piwheels.site.facts import DumpFacts
from piwheels.site.writer import PublishError
from tests.site_facts import SITE
from tests.unit.test_site_pages import parse, words

MADE = datetime(2026, 11, 21, 7, 30, 5, tzinfo=UTC)
SINCE = MADE - timedelta(days=60)


def entries(count: int) -> Iterator[bytes]:
    return (json.dumps({"info": {"name": f"p{number}", "version": "1"}}).encode() for number in range(count))


def unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_it_is_one_array(tmp_path: Path, count: int) -> None:
    facts = dump.publish(tmp_path, SITE, entries(count), made=MADE, since=SINCE)
    data = unpacked(tmp_path / paths.DUMP)
    assert [entry["info"]["name"] for entry in json.loads(data)] == [f"p{number}" for number in range(count)]
    packed = (tmp_path / paths.DUMP).read_bytes()
    assert facts == DumpFacts(MADE, SINCE, count, len(packed), len(data), hashlib.sha256(packed).hexdigest())
    assert count == 0 or data.count(b"\n") == count + 2  # an entry a line, for those who read line by line


def test_facts_are_read_back(tmp_path: Path) -> None:
    assert dump.last(tmp_path) is None
    facts = dump.publish(tmp_path, SITE, entries(3), made=MADE, since=SINCE)
    assert dump.last(tmp_path) == facts
    whole = dump.publish(tmp_path, SITE, entries(3), made=MADE, since=None)
    assert dump.last(tmp_path) == whole
    about = json.loads((tmp_path / "pypi-metadata" / "index.json").read_bytes())
    assert about["file"] == "pypi-metadata.json.zst" and about["changed_since"] is None
    for nonsense in (b"", b"[]", b"{}", b'{"changed_since": null, "made": 3}', b"[" * 100_000):
        (tmp_path / "pypi-metadata" / "index.json").write_bytes(nonsense)
        assert dump.last(tmp_path) is None


def failing(error: BaseException) -> Iterator[bytes]:
    yield from entries(10)
    raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_one_that_fails_leaves_things_as_they_were(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        dump.publish(tmp_path, SITE, failing(error), made=MADE, since=None)
    assert list(tmp_path.iterdir()) == []
    dump.publish(tmp_path, SITE, entries(2), made=MADE, since=None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(type(error)):
        dump.publish(tmp_path, SITE, failing(error), made=MADE, since=None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_leftover_is_replaced(tmp_path: Path) -> None:
    leftover = tmp_path / ".pypi-metadata.json.zst.tmp"
    leftover.write_bytes(b"x" * 100_000)
    dump.publish(tmp_path, SITE, entries(2), made=MADE, since=None)
    assert len(json.loads(unpacked(tmp_path / paths.DUMP))) == 2
    assert not leftover.exists()


def test_one_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "d.zst"

    def while_another_tries() -> Iterator[bytes]:
        yield b"{}"
        with pytest.raises(UnavailableError, match="another dump"):
            dump.write_file(target, entries(1), made=MADE, since=None)
        yield b"{}"

    assert dump.write_file(target, while_another_tries(), made=MADE, since=None).packages == 2
    assert len(json.loads(unpacked(target))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["d.zst"]


def test_the_published_file_is_never_taken_for_the_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, the holder before us may have given its file the final name."""
    target, temporary = tmp_path / "d.zst", tmp_path / ".d.zst.tmp"
    temporary.write_bytes(b"published by another")
    lock = fcntl.flock
    tries: list[int] = []

    def late(file: object, operation: int) -> None:
        if not tries:
            temporary.rename(target)
        tries.append(operation)
        lock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)

    def looking() -> Iterator[bytes]:
        assert target.read_bytes() == b"published by another"
        yield b"{}"

    dump.write_file(target, looking(), made=MADE, since=None)
    assert len(tries) == 2 and json.loads(unpacked(target)) == [{}]


def test_modes_and_odd_places(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        dump.publish(tmp_path / "www", SITE, entries(1), made=MADE, since=None)
    finally:
        os.umask(before)
    assert (tmp_path / "www" / paths.DUMP).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "www" / "pypi-metadata").stat().st_mode & 0o777 == 0o755
    with pytest.raises(PublishError, match="No such file"):
        dump.write_file(tmp_path / "none" / "d.zst", entries(1), made=MADE, since=None)
    os.mkfifo(tmp_path / "fifo")
    for odd in (tmp_path / "fifo", tmp_path / "www", Path("/dev/null")):
        with pytest.raises(UnavailableError, match="not a file"):
            dump.write_file(odd, entries(1), made=MADE, since=None)
    (tmp_path / ".d.zst.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublishError):
        dump.write_file(tmp_path / "d.zst", entries(1), made=MADE, since=None)
    assert not (tmp_path / "elsewhere").exists()


def test_to_a_stream() -> None:
    sink = io.BytesIO()
    facts = dump.write(sink, entries(5), made=MADE, since=None)
    assert facts.size == len(sink.getvalue()) and not sink.closed
    assert len(json.loads(zstandard.ZstdDecompressor().stream_reader(sink.getvalue()).read())) == 5


# The page

FACTS = DumpFacts(MADE, SINCE, 67672, 31_360_000, 400_000_000, "ab" * 32)


def test_the_page_says_what_it_is() -> None:
    data = pages.dump(FACTS, SITE)
    said = words(parse(data))
    assert data == pages.dump(FACTS, SITE)
    assert "in the 60 days before this file was made" in said
    assert "Made at 2026-11-21 07:30 UTC" in said and "31.4 MB" in said and "ab" * 32 in said
    assert "curl -fsS https://wheels.example.org/pypi-metadata.json.zst | zstd -dc | python3 -m json.tool" in said
    assert b'href="../pypi-metadata.json.zst"' in data


def test_the_page_of_all_packages() -> None:
    said = words(parse(pages.dump(replace(FACTS, since=None, packages=1), SITE)))
    assert "each package that this farm knows" in said and "changed" not in said.split("What it is not")[0]


def test_pages_link_to_it_where_it_is_made() -> None:
    link = b'href="/pypi-metadata/"'
    assert link in pages.not_found(replace(SITE, dump=True)) and link not in pages.not_found(SITE)


@pytest.mark.parametrize(
    ("window", "expected"),
    [(timedelta(days=1), "in the day before"), (timedelta(hours=36), "in the 36 h 0 min before")],
)
def test_windows_in_words(window: timedelta, expected: str) -> None:
    assert expected in words(parse(pages.dump(replace(FACTS, since=MADE - window), SITE)))
