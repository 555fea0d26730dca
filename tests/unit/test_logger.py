# SPDX-License-Identifier: BSD-3-Clause
"""piw-logger's pure parts: user agents, log lines, batches, the outbox."""

import json
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.errors import PeerError
from piwheels.logger import batches
from piwheels.logger.agents import LONGEST, NOBODY, Agent, parse_agent
from piwheels.logger.batches import Answer, Batch, Outbox
from piwheels.logger.cli import LineReader
from piwheels.logger.lines import LONGEST_LINE, Download, LineError, parse_line

PIP = (
    'pip/23.0.1 {"ci":null,"cpu":"aarch64","distro":{"id":"bookworm","libc":{"lib":"glibc","version":"2.36"},'
    '"name":"Debian GNU/Linux","version":"12"},"implementation":{"name":"CPython","version":"3.11.2"},'
    '"installer":{"name":"pip","version":"23.0.1"},"python":"3.11.2","system":{"name":"Linux","release":"6.1.0"}}'
)
UV = (
    'uv/0.5.1 {"installer":{"name":"uv","version":"0.5.1"},"python":"3.12.7","implementation":{"name":"CPython",'
    '"version":"3.12.7"},"distro":{"name":"Raspbian GNU/Linux","version":"12","id":"bookworm","libc":null},'
    '"system":{"name":"Linux","release":"6.6.31"},"cpu":"armv7l","openssl_version":null,"setuptools_version":null}'
)
WHEEL = "/simple/spidev/spidev-3.6-cp311-cp311-linux_armv7l.whl"


def line(path: str = WHEEL, *, status: int = 200, agent: str = PIP, method: str = "GET") -> str:
    quoted = agent.replace("\\", "\\\\").replace('"', '\\"')
    return f'192.0.2.7 - - [21/Nov/2026:05:03:01 +0100] "{method} {path} HTTP/1.1" {status} 41234 "-" "{quoted}"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PIP, Agent("aarch64", "Debian GNU/Linux 12", "3.11", "pip")),
        (UV, Agent("armv7l", "Raspbian GNU/Linux 12", "3.12", "uv")),
        ("poetry/1.8.2 CPython/3.11.2 Linux/6.1.0", Agent(python="3.11", installer="poetry")),
        ("pip/23.0.1", Agent(installer="pip")),
        ("pip/23.0.1 {broken", Agent(installer="pip")),
        ("pip/23.0.1 [1]", Agent(installer="pip")),
        ("pip/23.0.1 " + "[" * 3000, Agent(installer="pip")),
        ('pip/23 {"cpu": 7, "distro": "x", "python": []}', Agent(installer="pip")),
        ("Mozilla/5.0 (X11; Linux x86_64)", NOBODY),
        ("", NOBODY),
    ],
)
def test_agents(text: str, expected: Agent) -> None:
    assert parse_agent(text) == expected


@given(st.text(max_size=200), st.text(max_size=200))
def test_fields_of_agents_are_short_and_plain(cpu: str, name: str) -> None:
    agent = parse_agent("pip/24.0 " + json.dumps({"cpu": cpu, "distro": {"name": name, "version": cpu}, "python": cpu}))
    for field in (agent.arch, agent.distro, agent.python, agent.installer):
        assert len(field) <= LONGEST
        assert field.isprintable() and field.isascii()


def test_a_download() -> None:
    assert parse_line(line()) == Download(
        at=datetime(2026, 11, 21, 4, 3, 1, tzinfo=UTC),
        project="spidev",
        filename="spidev-3.6-cp311-cp311-linux_armv7l.whl",
        agent=Agent("aarch64", "Debian GNU/Linux 12", "3.11", "pip"),
    )


@pytest.mark.parametrize(
    "path",
    [
        WHEEL + "?x=1",
        "/bookworm-armhf" + WHEEL,
        "/simple/x/x-1%2Blocal-py3-none-any.whl",
        "/simple/rpi-gpio/RPi.GPIO-0.7.1-cp311-cp311-linux_armv7l.whl",
    ],
)
def test_other_ways_to_ask_for_a_wheel(path: str) -> None:
    assert parse_line(line(path)) is not None


def test_nginx_escapes_and_lines_without_agent() -> None:
    nginx = line().replace('\\"', "\\x22")
    assert parse_line(nginx) == parse_line(line())
    common = line().split(' "-" ')[0]
    found = parse_line(common)
    assert found is not None and found.agent == NOBODY


@pytest.mark.parametrize(
    "text",
    [
        line(status=206),
        line(status=304),
        line(status=404),
        line(method="HEAD"),
        line(WHEEL + ".metadata"),
        line("/simple/spidev/"),
        line("/a/b/simple/spidev/spidev-3.6-py3-none-any.whl"),
        line("/simple/smbus/spidev-3.6-py3-none-any.whl"),
        line("/simple/Spidev/spidev-3.6-py3-none-any.whl"),
        line("/simple/spidev/..%2f..%2fspidev-3.6-py3-none-any.whl"),
        line("/simple/spidev/%00-3.6-py3-none-any.whl"),
        line("/simple/spidev/spidev.whl"),
    ],
)
def test_lines_that_are_no_download(text: str) -> None:
    assert parse_line(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        line()[:-1],
        line().replace("21/Nov", "99/Nov"),
        line().replace("Nov", "Foo"),
        line().replace(" 200 ", " abc "),
        '"' * 5000,
        "a b c [x] " + '"\\' * 20_000,
        line("/" + "a" * LONGEST_LINE),
    ],
)
def test_lines_in_another_format(text: str) -> None:
    with pytest.raises(LineError):
        parse_line(text)


@given(st.text(max_size=300))
def test_no_line_does_harm(text: str) -> None:
    for attempt in (text, line(text), line(agent=text)):
        try:
            parse_line(attempt)
        except LineError:
            continue


@given(st.lists(st.binary(max_size=60), max_size=30), st.integers(1, 50))
def test_lines_are_cut_the_same_however_they_arrive(parts: list[bytes], size: int) -> None:
    data = b"\n".join(part.replace(b"\n", b"").replace(b"\r", b"") for part in parts)
    reader = LineReader()
    cut = [one for at in range(0, len(data), size) for one in reader.feed(data[at : at + size])] + list(reader.end())
    expected = data.split(b"\n")
    assert cut == [one.decode("utf-8", "replace") for one in (expected if expected[-1] else expected[:-1])]


def test_endless_lines_are_left_out() -> None:
    reader = LineReader()
    for _ in range(20):
        assert list(reader.feed(b"x" * LONGEST_LINE)) == []
    assert list(reader.feed(b"tail\nnext\n")) == ["next"]
    assert reader.too_long == 1


downloads = st.builds(
    Download,
    at=st.datetimes(datetime(2015, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    project=st.just("spidev"),
    filename=st.just("spidev-3.6-cp311-cp311-linux_armv7l.whl"),
    agent=st.builds(Agent, arch=st.sampled_from(["", "armv7l"]), installer=st.sampled_from(["", "pip", "uv"])),
)


@given(st.lists(downloads, max_size=20), st.integers(1, 2**60), st.uuids())
def test_batches_survive_the_wire(some: list[Download], number: int, logger: uuid.UUID) -> None:
    batch = Batch(logger, number, tuple(some))
    data = batches.encode_batch(batch)
    assert batches.decode_batch(data) == batch


def test_a_full_batch_fits_a_message() -> None:
    longest = "x" * 120 + "-1-py3-none-any.whl"
    agent = Agent("a" * LONGEST, "d" * LONGEST, "3.11", "setuptools")
    one = Download(at=datetime(2026, 1, 1, 1, 1, 1, 1, tzinfo=UTC), project="x" * 120, filename=longest, agent=agent)
    data = batches.encode_batch(Batch(uuid.uuid4(), 1, (one,) * batches.BATCH))
    assert len(data) < batches.LONGEST_MESSAGE


GOOD_ROW = ["2026-11-21T04:03:01+00:00", "spidev", "spidev-3.6-py3-none-any.whl", "", "", "", ""]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"[" * 100_000,
        b"{" + b" " * batches.LONGEST_MESSAGE + b"}",
        {"logger": "x", "batch": 1, "downloads": []},
        {"logger": "0" * 32, "batch": 0, "downloads": []},
        {"logger": "0" * 32, "batch": True, "downloads": []},
        {"logger": "0" * 32, "batch": 2**80, "downloads": []},
        {"logger": "0" * 32, "batch": 1, "downloads": {}},
        {"logger": "0" * 32, "batch": 1, "downloads": [GOOD_ROW] * (batches.BATCH + 1)},
        {"logger": "0" * 32, "batch": 1, "downloads": [GOOD_ROW[:6]]},
        {"logger": "0" * 32, "batch": 1, "downloads": [["2026-11-21T04:03:01", *GOOD_ROW[1:]]]},
        {"logger": "0" * 32, "batch": 1, "downloads": [[*GOOD_ROW[:1], "smbus", *GOOD_ROW[2:]]]},
        {"logger": "0" * 32, "batch": 1, "downloads": [[*GOOD_ROW[:2], "../x.whl", *GOOD_ROW[3:]]]},
        {"logger": "0" * 32, "batch": 1, "downloads": [[*GOOD_ROW[:3], "a\x00b", *GOOD_ROW[4:]]]},
        {"logger": "0" * 32, "batch": 1, "downloads": [[*GOOD_ROW[:3], "\ud800", *GOOD_ROW[4:]]]},
        {"logger": "0" * 32, "batch": 1, "downloads": [[*GOOD_ROW[:3], "x" * 200, *GOOD_ROW[4:]]]},
        {"logger": "0" * 32, "batch": 1, "downloads": [[*GOOD_ROW[:3], 5, *GOOD_ROW[4:]]]},
    ],
)
def test_nonsense_is_refused(message: object) -> None:
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    with pytest.raises(PeerError):
        batches.decode_batch(data)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    for decode in (batches.decode_batch, batches.decode_answer):
        with pytest.raises(PeerError):
            decode(data)


def some(count: int) -> list[Download]:
    at = datetime(2026, 11, 21, tzinfo=UTC)
    return [Download(at=at, project="x", filename=f"x-{n}-py3-none-any.whl", agent=NOBODY) for n in range(count)]


def test_a_batch_stays_the_same_until_answered() -> None:
    box = Outbox(uuid.uuid4(), room=100, batch=3)
    box.add(some(2))
    first = box.current()
    assert first is not None and (first.number, len(first.downloads)) == (1, 2)
    box.add(some(5))
    assert box.current() is first
    assert not box.answered(Answer(7))
    assert box.current() is first
    assert box.answered(Answer(1, counted=2))
    second = box.current()
    assert second is not None and (second.number, len(second.downloads)) == (2, 3)
    assert (box.pending, box.counted) == (5, 2)


def test_a_refused_batch_is_not_sent_for_ever() -> None:
    box = Outbox(uuid.uuid4(), room=100, batch=3)
    box.add(some(4))
    assert box.current() is not None
    assert box.answered(Answer(0, error="refused"))
    assert (box.refused, box.pending) == (3, 1)


@given(st.lists(st.sampled_from(["add", "send", "answer"]), max_size=60))
def test_the_outbox_loses_nothing_silently(steps: list[str]) -> None:
    box = Outbox(uuid.uuid4(), room=5, batch=2)
    added = 0
    numbers = []
    for step in steps:
        if step == "add":
            box.add(some(2))
            added += 2
        elif step == "send":
            box.current()
        elif (batch := box.current()) is not None:
            numbers.append(batch.number)
            assert box.answered(Answer(batch.number, counted=len(batch.downloads)))
        assert added == box.pending + box.counted + box.dropped
        assert box.pending <= 5 + 2
    assert numbers == sorted(set(numbers))
