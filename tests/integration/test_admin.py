# SPDX-License-Identifier: BSD-3-Clause
"""piw-initdb and piw-keys, and the rows of builders and of the farm's state behind them."""

import io
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, select

from piwheels.admin import initdb, keys
from piwheels.db import migrate, roles, slaves, status, tables
from piwheels.settings import DatabaseSettings
from piwheels.vocabulary import Outcome, PageKind, SlaveWish, WatchState
from piwheels.wire import keys as wire_keys
from piwheels.wire.messages import Capabilities, Hello

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command's main; returns status, output, errors."""

    def one(main: Callable[[list[str]], int], url: str, *words: str) -> tuple[int, str, str]:
        code = main([*words, "--set", f"database.url={url}"])
        return (code, *capsys.readouterr())

    return one


# piw-initdb.

UP_TO_DATE = f"the schema is up to date (version {migrate.latest()})\n"


def test_initdb_says_what_it_will_do_and_does_it(run: Run, empty_database: DatabaseSettings) -> None:
    dry = run(initdb.main, empty_database.url, "--dry-run")
    todo = [f"{one.version:04} {one.name}" for one in migrate.migrations()]
    assert dry == (0, "".join(f"{line}\n" for line in ("to be created, in order:", *(f"  {one}" for one in todo))), "")
    assert migrate.pending(empty_database)[0] == 0
    code, said, _ = run(initdb.main, empty_database.url, "--yes")
    assert code == 0 and said.endswith(f"applied {todo[-1]}\n{UP_TO_DATE}")
    assert run(initdb.main, empty_database.url) == (0, UP_TO_DATE, "")


def test_initdb_asks(run: Run, empty_database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, errors = run(initdb.main, empty_database.url)
    assert code == 1 and "give --yes" in errors  # a test's standard input is no terminal
    answers = iter(["no", "", "yes"])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert run(initdb.main, empty_database.url)[0] == 1
    assert run(initdb.main, empty_database.url)[0] == 1
    assert migrate.pending(empty_database)[0] == 0
    assert run(initdb.main, empty_database.url)[0] == 0
    assert migrate.pending(empty_database) == (migrate.latest(), ())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_initdb_in_trouble_says_one_line(run: Run, database_settings: DatabaseSettings) -> None:
    missing = database_settings.url.replace("/test_", "/missing_")
    for url, words in (
        (missing, "run piw-initdb --create"),
        ("postgresql:///x?host=/nonexistent", "cannot connect to the database: "),
        ("postgresql://x?nonsense=1", "database"),
    ):
        code, said, errors = run(initdb.main, url, "--yes")
        assert (code, said, errors.count("\n")) == (3, "", 1) and words in errors and errors.startswith("piw-initdb: ")
    with psycopg.connect(database_settings.url, autocommit=True) as conn:
        conn.execute("INSERT INTO schema_version (version) VALUES (999)")
    code, _, errors = run(initdb.main, database_settings.url)
    assert code == 3 and "newer than this piwheels knows" in errors


def test_initdb_creates_the_database_if_told(run: Run, database_settings: DatabaseSettings) -> None:
    url = database_settings.url.replace("/test_", "/created_")
    code, said, _ = run(initdb.main, url, "--create", "--yes")
    try:
        assert code == 0 and said.startswith("created the database\n")
        assert run(initdb.main, url, "--create") == (0, UP_TO_DATE, "")
    finally:
        with psycopg.connect(database_settings.url, autocommit=True) as conn:
            name = re.search(r"created_\d+", url)
            assert name
            conn.execute(f"DROP DATABASE {name.group()}".encode())


# piw-keys.


def test_the_masters_key_is_made_once(run: Run, tmp_path: Path) -> None:
    words = ("master", "--set", f"paths.keys={tmp_path}")
    code, first, _ = run(keys.main, "postgresql:///unused", *words)
    assert code == 0 and wire_keys.is_key(first.strip())
    assert run(keys.main, "postgresql:///unused", *words) == (0, first, "")
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600


def test_enrolling_listing_disabling(run: Run, database_settings: DatabaseSettings, tmp_path: Path) -> None:
    url = database_settings.url
    pair = wire_keys.load_or_make(tmp_path / "slave.key")
    assert run(keys.main, url, "enrol", str(tmp_path / "slave.key.pub"), "--label", "my pi") == (
        0,
        f"builder 1 is admitted: {pair.public}\n",
        "",
    )
    assert run(keys.main, url, "enrol", str(tmp_path / "slave.key.pub"))[1].startswith("builder 1 ")  # known already
    assert run(keys.main, url, "list") == (0, f"1  {pair.public}  enabled  never seen  my pi\n", "")
    assert run(keys.main, url, "disable", "my pi") == (0, "builder my pi is disabled\n", "")
    assert "  disabled  " in run(keys.main, url, "list")[1]
    assert run(keys.main, url, "enable", "1") == (0, "builder 1 is enabled\n", "")


def test_keys_in_trouble_says_one_line(run: Run, database_settings: DatabaseSettings, tmp_path: Path) -> None:
    url = database_settings.url
    for words, code in (
        (("enrol", "not a key"), 3),
        (("enrol", str(tmp_path)), 3),
        (("enrol", "0" * 40, "--label", "x" * 101), 2),
        (("disable", "9"), 2),
    ):
        status, said, errors = run(keys.main, url, *words)
        assert (status, said, errors.count("\n")) == (code, "", 1), words
    assert run(keys.main, "postgresql:///x?host=/nonexistent", "list")[0] == 3
    assert run(keys.main, url)[0] == 2


# The rows behind.

HELLO = Hello(
    build_timeout=timedelta(hours=1),
    busy_timeout=timedelta(minutes=5),
    py_version="311",
    abi="cp311",
    platform="linux_armv7l",
    label="what it calls\x00 itself",
    os_name="Raspbian",
    os_version="12",
    board_revision="c03111\x1b[0m" + "x" * 1000,
    board_serial="1\ud800",
    capabilities=Capabilities(agent="piwheels 1"),
)


def test_a_builder_registers_only_if_admitted(database: Engine) -> None:
    with database.begin() as conn:
        assert slaves.register(conn, "k" * 40, HELLO, target_id=None) is None
        number = slaves.enrol(conn, "k" * 40)
        assert slaves.admitted_keys(conn) == {"k" * 40}
        assert slaves.register(conn, "k" * 40, HELLO, target_id=None) == number
        known = slaves.every(conn)[0]
        assert (known.label, known.os, known.agent) == ("what it calls\\x00 itself", "Raspbian 12", "piwheels 1")
        assert known.last_seen is not None and "\x1b" not in known.board and len(known.board) <= slaves.MAX_TEXT
        assert slaves.set_enabled(conn, number, False) and not slaves.set_enabled(conn, 99, False)
        assert slaves.admitted_keys(conn) == set()
        assert slaves.register(conn, "k" * 40, HELLO, target_id=None) is None


def test_the_operators_label_stays(database: Engine) -> None:
    with database.begin() as conn:
        slaves.enrol(conn, "k" * 40, label="mine")
        slaves.register(conn, "k" * 40, HELLO, target_id=None)
        assert slaves.every(conn)[0].label == "mine"


def test_figures_are_kept_and_a_beat_without_does_not_lose_them(database: Engine) -> None:
    with database.begin() as conn:
        first, second = slaves.enrol(conn, "a" * 40), slaves.enrol(conn, "b" * 40)
        slaves.note_seen(conn, {second: {"load": 1.5}, first: None})
        slaves.note_seen(conn, {second: None, 99: {"load": 2}})
        rows = conn.execute(select(tables.slaves.c.stats, tables.slaves.c.last_seen).order_by(tables.slaves.c.id)).all()
        assert [row.stats for row in rows] == [None, {"load": 1.5}]
        assert all(row.last_seen for row in rows)


def test_finding_builders(database: Engine) -> None:
    with database.begin() as conn:
        one = slaves.enrol(conn, "abcdefgh" * 5, label="same")
        two = slaves.enrol(conn, "ABCDEFGH" * 5, label="same")
        for who, found in (
            (str(one), [one]),
            ("same", [one, two]),
            ("abcdefgh", [one]),
            ("abc", []),
            ("ABCDEFGH" * 5, [two]),
            ("99999999999999999999", []),
            ("%" * 8, []),
        ):
            assert [slave.id for slave in slaves.find(conn, who)] == found, who
        assert slaves.set_wish(conn, two, SlaveWish.STOP)
        assert slaves.find(conn, str(two))[0].wish is SlaveWish.STOP


def test_heartbeats(database: Engine) -> None:
    started = datetime.now(UTC)
    with database.begin() as conn:
        roles.beat(conn, "feed", started=started, state={"a": 1})
        roles.beat(conn, "feed", started=started, state={"b": 2})
        row = conn.execute(select(tables.roles)).one()
        assert row.state == {"b": 2} and row.started_at == started
        conn.execute(tables.roles.update().values(pid=row.pid + 1))
        roles.leave(conn, "feed")  # another took its place
        assert conn.execute(select(tables.roles)).one().name == "feed"
        roles.beat(conn, "feed", started=started, state={})
        roles.leave(conn, "feed")
        assert conn.execute(select(tables.roles)).one_or_none() is None


def test_nothing_is_outstanding_in_an_empty_farm(database: Engine) -> None:
    with database.begin() as conn:
        assert status.outstanding(conn).nothing
        assert status.snapshot(conn, now=datetime.now(UTC))["watches"]["names"] == []
        assert status.verdicts(conn) == []


def add(conn: Connection, table: Any, **values: Any) -> int:
    return int(conn.execute(table.insert().values(**values).returning(table.c.id)).scalar_one())


def test_what_is_outstanding_on_the_way_of_a_wheel(database: Engine) -> None:
    now = datetime.now(UTC)

    def left() -> status.Outstanding:
        with database.begin() as conn:
            return status.outstanding(conn)

    with database.begin() as conn:
        conn.execute(tables.watches.insert().values(name="p", spelling="P", position=0))
    assert left() == status.Outstanding(1, 0, 0, 0, 0)
    with database.begin() as conn:
        conn.execute(tables.watches.update().values(state=WatchState.FOUND))
        project = add(conn, tables.projects, name="p", display_name="P")
        release = add(conn, tables.releases, project_id=project, version="1", sort_key=b"1", released=now)
        native = {"name": "native", "python_version": "3.11", "abi": "cp311", "platform": "linux_x86_64"}
        target = add(conn, tables.targets, **native, platforms=["linux_x86_64"], rank=1)
        conn.execute(tables.jobs.insert().values(release_id=release, target_id=target, priority=1, released=now))
    assert left() == status.Outstanding(0, 1, 0, 0, 0)
    with database.begin() as conn:
        conn.execute(tables.jobs.delete())
        attempt = {"release_id": release, "target_id": target, "started": now, "duration": timedelta(seconds=3.21)}
        build = add(conn, tables.builds, **attempt, token="0" * 32, outcome=Outcome.SUCCESS)
        wheel = {"filename": "p-1-py3-none-any.whl", "size": 1, "sha256": b"a" * 32, "metadata_sha256": b"b" * 32}
        add(conn, tables.files, build_id=build, **wheel)
        conn.execute(tables.pages.insert().values(kind=PageKind.PROJECT, key="p"))
    assert left() == status.Outstanding(0, 0, 0, 1, 1)
    with database.begin() as conn:
        conn.execute(tables.pages.delete())
        conn.execute(tables.published.insert().values(name="p", listed=True, files=1))
        shown = status.snapshot(conn, now=now)
    assert left().nothing
    assert shown["published"] == {"projects": 1, "listed": 1, "files": 1}
    assert shown["recent"][0]["outcome"] == "success" and shown["recent"][0]["duration"] == 3.2


def test_served_upstream_needs_every_target() -> None:
    decided = [
        {"project": "a", "code": "on_pypi"},
        {"project": "b", "code": "on_pypi"},
        {"project": "b", "code": "built"},
        {"project": "c", "code": "no_sdist"},
    ]
    assert status.served_upstream(decided) == ["a"]
