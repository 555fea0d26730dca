# SPDX-License-Identifier: BSD-3-Clause
"""The metadata dump end to end: piw-dump and the stats role's thread, read back as its users do."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest
import zstandard
from sqlalchemy import Engine, insert, text, update

from piwheels.admin import dump as command
from piwheels.db import tables
from piwheels.db.documents import pack
from piwheels.db.engine import Stopped
from piwheels.errors import DatabaseError, ExitCode
from piwheels.master import dump
from piwheels.master.role import Context
from piwheels.settings import DatabaseSettings, Settings, load
from piwheels.site import paths
from piwheels.vocabulary import Role
from tests.integration.documents import add_document
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

ALL = timedelta(0)
Run = Callable[..., int]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short name, since sockets go in it."""
    path = Path(tempfile.mkdtemp(prefix="piw-dump-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def arguments(folder: Path, database: Engine, database_settings: DatabaseSettings) -> list[str]:
    """How our commands are told of a database with three projects, changed now, a week ago and long ago."""
    now = datetime.now(UTC)
    with database.begin() as conn:
        for name, days in (("now", 0), ("week", 7), ("long", 400)):
            add_document(conn, name, now - timedelta(days=days))
    options = {
        "database.url": database_settings.url,
        "paths.run": str(folder / "run"),
        "paths.output": str(folder / "www"),
        "dump.interval": "0.2",
    }
    return [word for name, value in options.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def settings(arguments: list[str]) -> Settings:
    return load(None, overrides=arguments[1::2])


def read(data: bytes) -> list[Any]:
    found = json.loads(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read())
    assert isinstance(found, list)
    return found


def names(path: Path) -> list[str]:
    return [entry["info"]["name"] for entry in read(path.read_bytes())]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ["week", "now"]),
        (["--window", "3"], ["now"]),
        (["--window", "0.5"], ["now"]),
        (["--all"], ["now", "week", "long"]),
        (["--set", "dump.window=0"], ["now", "week", "long"]),
        (["--set", "dump.window=0", "--window", "8"], ["week", "now"]),
    ],
)
def test_into_the_site(arguments: list[str], folder: Path, flags: list[str], expected: list[str]) -> None:
    assert command.main([*arguments, *flags]) == ExitCode.OK
    assert names(folder / "www" / paths.DUMP) == expected
    about = json.loads((folder / "www/pypi-metadata/index.json").read_bytes())
    assert about["packages"] == len(expected) and (about["changed_since"] is None) == (len(expected) == 3)
    assert b"PyPI metadata in one file" in (folder / "www/pypi-metadata/index.html").read_bytes()


def test_entries_are_as_the_format_says(arguments: list[str], folder: Path) -> None:
    """As the service for package collections described it: the JSON API's answer, without the description, and of the
    releases the one that info.version names."""
    command.main([*arguments, "--all"])
    for entry in read((folder / "www" / paths.DUMP).read_bytes()):
        assert "description" not in entry["info"] and entry["info"]["summary"].startswith("what ")
        assert list(entry["releases"]) == [entry["info"]["version"]] == ["2.0"]
        assert entry["urls"][0]["digests"]["sha256"] == "ab" * 32
        assert entry["last_serial"] == 7


def test_into_a_file(arguments: list[str], folder: Path) -> None:
    assert command.main([*arguments, "--output", str(folder / "d.zst")]) == ExitCode.OK
    assert names(folder / "d.zst") == ["week", "now"]
    assert not (folder / "www").exists()


def test_into_a_pipe_and_back_by_ordinary_means(arguments: list[str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "piwheels.admin.dump", *arguments, "--all", "--output", "-"],
        capture_output=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    assert b"3 packages" in process.stderr
    unpacked = read(process.stdout)
    if shutil.which("zstd"):
        plain = subprocess.run(["zstd", "-dc"], input=process.stdout, capture_output=True, timeout=60)
        shown = subprocess.run([sys.executable, "-m", "json.tool"], input=plain.stdout, capture_output=True, timeout=60)
        assert json.loads(shown.stdout) == unpacked
    assert [entry["info"]["name"] for entry in unpacked] == ["now", "week", "long"]


@pytest.mark.parametrize(("device", "status", "said"), [("/dev/full", 1, b"No space left"), (None, 1, b"")])
def test_an_output_that_takes_nothing(
    arguments: list[str], database: Engine, device: str | None, status: int, said: bytes
) -> None:
    """A full disk, and a reader that has left."""
    _add_many(database, 5000)
    with Path(device).open("wb") if device else _closed_pipe() as out:
        process = subprocess.run(
            [sys.executable, "-m", "piwheels.admin.dump", *arguments, "--all", "--output", "-"],
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert process.returncode == status
    assert said in process.stderr and b"Traceback" not in process.stderr


def _closed_pipe() -> IO[bytes]:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "wb")


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--window", "0"], ExitCode.USAGE, "not a number of days"),
        (["--window", "nan"], ExitCode.USAGE, "not a number of days"),
        (["--window", "dog"], ExitCode.USAGE, "not a number of days"),
        (["--window", "3", "--all"], ExitCode.USAGE, "not allowed with"),
        (["--output", "/nowhere/at/all.zst"], ExitCode.FAILED, "cannot be written: No such file"),
        (["--output", "/dev/null"], ExitCode.UNAVAILABLE, "not a file that could be replaced"),
        (["--set", "database.url=postgresql:///?host=/nowhere"], ExitCode.UNAVAILABLE, "cannot connect"),
    ],
)
def test_what_goes_wrong_is_one_line(
    arguments: list[str], capfd: pytest.CaptureFixture[str], flags: list[str], status: ExitCode, said: str
) -> None:
    assert command.main([*arguments, *flags]) == status
    assert said in capfd.readouterr().err.splitlines()[-1]


def test_a_lost_connection_leaves_the_old_dump(
    settings: Settings, folder: Path, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump.to_site(settings, database, window=ALL)
    before = (folder / "www" / paths.DUMP).read_bytes()
    _add_many(database)
    with database.connect() as other:

        def cut(stop: threading.Event, found: Any) -> Iterator[bytes]:
            for number, (_, entry) in enumerate(found):
                if number == 10:
                    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    other.execute(text(others + " AND datname = current_database()"))
                yield entry

        monkeypatch.setattr(dump, "_until", cut)
        with pytest.raises(DatabaseError, match="the database cannot be used"):
            dump.to_site(settings, database, window=ALL)
    assert (folder / "www" / paths.DUMP).read_bytes() == before
    assert not list((folder / "www").glob(".*"))


def _add_many(database: Engine, count: int = 1000) -> None:
    """Projects with documents that do not compress, so that one cannot be written in a moment."""
    with database.begin() as conn:
        rows = [{"name": f"p{number}", "display_name": f"P{number}"} for number in range(count)]
        ids = conn.execute(insert(tables.projects).returning(tables.projects.c.id), rows).scalars()
        body = pack(json.dumps({"info": {"name": "x", "text": "y" * 2000}}).encode())
        conn.execute(insert(tables.documents), [{"project_id": number, "body": body} for number in ids])


def test_told_to_stop(settings: Settings, folder: Path, database: Engine) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        dump.to_site(settings, database, window=ALL, stop=stop)
    assert [path.name for path in (folder / "www").iterdir()] == []


def start_stats(arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "piwheels.master.cli", "stats", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_the_stats_role_makes_it_again_and_again(arguments: list[str], folder: Path, database: Engine) -> None:
    (folder / "run").mkdir()
    stats = start_stats(arguments)
    path = folder / "www" / paths.DUMP
    try:
        wait_for(lambda: path.exists() and names(path) == ["week", "now"], "the first dump", seconds=30)
        with database.begin() as conn:
            add_document(conn, "newer", datetime.now(UTC))
        wait_for(lambda: names(path) == ["week", "now", "newer"], "the next dump", seconds=30)
        stats.send_signal(signal.SIGTERM)
        _, said = stats.communicate(timeout=20)
        assert stats.returncode == 0 and b"metadata dump: 2 packages" in said and b"WARNING" not in said
        assert not list((folder / "www").glob(".*"))
    finally:
        stats.kill()
        stats.communicate(timeout=10)


def test_killed_while_it_dumps(arguments: list[str], folder: Path, database: Engine) -> None:
    (folder / "run").mkdir()
    _add_many(database, 20_000)
    path = folder / "www" / paths.DUMP
    leftover = path.with_name(f".{path.name}.tmp")
    stats = start_stats([*arguments, "--set", "dump.window=0"])
    try:
        wait_for(lambda: leftover.exists() and not path.exists(), "a dump in the making", seconds=30)
    finally:
        stats.kill()
        stats.communicate(timeout=10)
    assert not path.exists() or len(names(path)) == 20_003
    assert command.main([*arguments, "--all"]) == ExitCode.OK  # it is not locked any more
    assert len(names(path)) == 20_003
    assert not leftover.exists()


def test_no_dump_is_made_when_none_is_wanted(settings: Settings, database_settings: DatabaseSettings) -> None:
    never = replace(settings, dump=replace(settings.dump, interval=timedelta(0)))
    dumper = dump.Dumper(never, Context(Role.STATS, never))
    dumper.start()
    dumper.join()
    assert not settings.paths.output.exists()


def test_when_the_next_is_due(settings: Settings, database: Engine) -> None:
    daily = replace(settings, dump=replace(settings.dump, interval=timedelta(days=1)))
    context = Context(Role.STATS, daily)
    dumper = dump.Dumper(daily, context)
    assert dumper._first() == 0.0  # there is none
    assert dumper._make() == 86_400.0
    assert 86_000 < dumper._first() <= 86_400
    assert context.state["dump_packages"] == 2
    with database.begin() as conn:
        conn.execute(update(tables.documents).values(changed_at=datetime(2000, 1, 1, tzinfo=UTC)))
    assert dumper._make() == dump.SOON  # there is nothing yet
    assert dumper._first() == 0.0
    context.close()
