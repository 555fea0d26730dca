# SPDX-License-Identifier: BSD-3-Clause
"""Operators' commands on the wire, and the monitor's arguments and tables."""

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from piwheels.errors import PeerError
from piwheels.master.commands import FIELDS, MAX_COMMAND, Command, Verb, answer, decode, encode
from piwheels.monitor import cli, show

WORDS = st.text(alphabet="abcxyz019-", min_size=1, max_size=30).map(lambda text: f"a{text.replace('-', '')}z")


@given(st.sampled_from(Verb), WORDS, WORDS, WORDS, WORDS)
def test_commands_survive_the_journey(verb: Verb, slave: str, project: str, version: str, target: str) -> None:
    everything = {"slave": slave, "project": project, "version": version, "target": target, "build": project}
    everything |= {"back": "yes", "position": "12"}
    command = Command(verb, **{name: everything[name] for name in FIELDS[verb]})
    assert decode(encode(command)) == command


def test_projects_are_named_canonically_and_slaves_may_be_numbers() -> None:
    data = json.dumps({"command": "skip", "project": "RPi.GPIO", "version": "1", "target": "t"}).encode()
    assert decode(data).project == "rpi-gpio"
    assert decode(b'{"command": "slave-stop", "slave": 12}').slave == "12"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 4000,
        b'{"command": 3}',
        b'{"command": ["pause"]}',
        b'{"command": "explode"}',
        b'{"command": "pause", "more": 1}',
        b'{"command": "skip", "project": "a", "version": "1"}',
        b'{"command": "slave-stop", "slave": ""}',
        b'{"command": "slave-stop", "slave": true}',
        b'{"command": "slave-stop", "slave": "a\\u0000b"}',
        b'{"command": "slave-stop", "slave": "%s"}' % (b"x" * 300),
        b'{"command": "pause"}' + b" " * MAX_COMMAND,
        b'{"command": "slave-kill", "slave": "1"}',
        b'{"command": "slave-kill", "slave": "1", "back": "perhaps"}',
        b'{"command": "slave-kill", "slave": "1", "back": true}',
        b'{"command": "log", "build": "1", "position": "-1"}',
        b'{"command": "log", "build": "1", "position": 1e3}',
        b'{"command": "log", "build": "1", "position": "1%s"}' % (b"0" * 30),
        '{"command": "log", "build": "1", "position": "\u0661"}'.encode(),
    ],
)
def test_anything_else_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_crash_the_decoder(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        assert decode(data).verb in Verb


def test_answers() -> None:
    assert json.loads(answer(True, "done", status={})) == {"ok": True, "message": "done", "status": {}}


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["pause"], Command(Verb.PAUSE)),
        (["resume"], Command(Verb.RESUME)),
        (["slaves", "stop", "7"], Command(Verb.SLAVE_STOP, slave="7")),
        (["slaves", "sleep", "all"], Command(Verb.SLAVE_SLEEP, slave="all")),
        (["slaves", "skip", "pi"], Command(Verb.SLAVE_SKIP, slave="pi")),
        (["slaves", "kill", "pi"], Command(Verb.SLAVE_KILL, slave="pi", back="yes")),
        (["slaves", "kill", "pi", "--for-good"], Command(Verb.SLAVE_KILL, slave="pi", back="no")),
        (["skip", "spidev", "3.6", "native"], Command(Verb.SKIP, project="spidev", version="3.6", target="native")),
    ],
)
def test_what_the_monitor_asks_for(argv: list[str], command: Command) -> None:
    assert cli.command_of(cli.parser().parse_args(argv)) == command


AT = "2026-11-21T12:00:00+00:00"
SNAPSHOT: dict[str, Any] = {
    "at": AT,
    "paused": False,
    "problem": None,
    "roles": [{"name": "feed", "pid": 7, "host": "h", "age": 30.0, "state": {"projects": 2}}],
    "watches": {"names": [{"name": "spidev", "state": "found", "detail": ""}]},
    "verdicts": [{"project": "spidev", "version": "3.6", "target": "native", "words": "being [b]built"}],
    "queue": {"waiting": 2, "building": 1},
    "building": [{"project": "spidev", "version": "3.6", "target": "native", "slave": "pi", "started": AT}],
    "recent": [
        {
            "build_id": 1,
            "project": "p",
            "version": "1",
            "target": "native",
            "outcome": "failed",
            "reason": "package",
            "detail": "no\x1b[0m compiler",
            "duration": 61.2,
        }
    ],
    "slaves": [{"id": 1, "label": "pi", "target": None, "wish": "run", "last_seen": None}],
    "pages": {"stale": 3},
    "published": {"listed": 4, "files": 5},
}


def test_the_farm_as_text() -> None:
    text = show.plain(show.headline(SNAPSHOT), show.grids(SNAPSHOT))
    assert text.startswith("running, 1 building, 2 waiting, 3 pages stale, 4 projects with 5 wheels published\n")
    for part in (
        "30 s ago (silent)",
        "projects: 2",
        "3.6 for native: being [b]built",
        "failed (package)",
        "0:01:01",
        "never",
    ):
        assert part in text
    assert "\x1b" not in text


def test_the_farm_with_rich_says_the_same() -> None:
    page = io.StringIO()
    Console(width=200, file=page).print(show.rendering(show.headline(SNAPSHOT), show.grids(SNAPSHOT)))
    said = page.getvalue()
    assert "being [b]built" in said and "failed (package)" in said


def test_a_problem_is_all_that_is_shown() -> None:
    snapshot = {"at": AT, "problem": "the database is\naway"}
    assert show.headline(snapshot) == "in trouble: the database is away"
    assert show.grids(snapshot) == []


def test_a_strangers_log_does_nothing_to_a_terminal() -> None:
    assert show.safe_log("a\tb\r\n\x1b[2J\x07\x9b5n\u202eevil\rx\U000e0001\n") == (
        "a\tb\n\\x1b[2J\\x07\\x9b5n\\u202eevil\nx\\U000e0001\n"
    )


@given(st.text())
def test_nothing_unprintable_is_left_of_a_log(text: str) -> None:
    assert all(line.isprintable() for line in show.safe_log(text).replace("\t", "").split("\n"))
