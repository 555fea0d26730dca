# SPDX-License-Identifier: BSD-3-Clause
"""piw-web over real sockets."""

import asyncio
import gzip
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector, test_utils
from yarl import URL

from piwheels.logger.lines import parse_line
from piwheels.site.access_log import LineWriter, access_log_class
from piwheels.site.web import application
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
WHEEL = "rpi_x-1.0-cp311-cp311-linux_armv7l.whl"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A published tree with one project."""
    root = tmp_path / "www"
    for name, text in {
        "index.html": "home",
        "404.html": "<p>lost</p>",
        "packages.json": "[]",
        "simple/index.v1_json": "{}",
        "simple/index.v1_html": "<html></html>",
        "simple/index.html": "<html></html>",
        "simple/rpi-x/index.v1_json": '{"x":1}',
        "simple/rpi-x/index.v1_html": "<html>x</html>",
        "simple/rpi-x/index.html": "<html>x</html>",
        f"simple/rpi-x/{WHEEL}": "0123456789",
        f"simple/rpi-x/{WHEEL}.metadata": "Name: rpi-x",
        "project/rpi-x/index.html": "page",
        "project/rpi-x/json/index.json": "{}",
        "static/style.css": "a{}",
        ".secret": "hidden",
        "empty/keep.txt": "",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    log = root / "logs/0000/000/1.txt.gz"
    log.parent.mkdir(parents=True)
    log.write_bytes(gzip.compress("built ✓\n".encode()))
    (root / "simple/index.v1_json.gz").write_bytes(gzip.compress(b"{}"))
    outside = tmp_path / "outside.txt"
    outside.write_text("outside")
    (root / "link.txt").symlink_to(outside)
    return root


Work = Callable[[ClientSession, str], Awaitable[None]]


def with_server(tree: Path, work: Work, *, writer: LineWriter | None = None) -> None:
    """Run work against a server of the tree."""

    async def run() -> None:
        server = test_utils.TestServer(application(tree))
        options = {"access_log_class": access_log_class(writer)} if writer else {}
        await server.start_server(**options)
        connector = TCPConnector(force_close=True)
        try:
            async with ClientSession(connector=connector, auto_decompress=False) as session:
                await work(session, str(server.make_url("/")).rstrip("/"))
        finally:
            await server.close()

    asyncio.run(run())


def get(tree: Path, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request; header names with underscores."""
    answers: list[tuple[int, dict[str, str], bytes]] = []
    sent = {"Accept-Encoding": "identity"} | {name.replace("_", "-"): value for name, value in headers.items()}

    async def work(session: ClientSession, base: str) -> None:
        url = URL(base + path, encoded=True)
        async with session.request(method, url, headers=sent, allow_redirects=False) as answer:
            body = await answer.read()
            answers.append((answer.status, {k.lower(): v for k, v in answer.headers.items()}, body))

    with_server(tree, work)
    return answers[0]


def test_before_anything_is_published(tmp_path: Path) -> None:
    status, _, body = get(tmp_path, "/")
    assert (status, body) == (404, b"There is nothing here.\n")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_access_log_is_what_the_logger_reads(tree: Path, pipe: tuple[int, int]) -> None:
    hostile = 'pip/24.0 {"cpu":"armv7l"} "\x0b\\" 200 é'
    writer = LineWriter(pipe[1])

    async def work(session: ClientSession, base: str) -> None:
        for path in (f"/simple/rpi-x/{WHEEL}", "/simple/%22%0a%0d/"):
            url = URL(base + path, encoded=True)
            async with session.get(url, headers={"User-Agent": hostile.replace("\x0b", "\t")}) as answer:
                await answer.read()

    with_server(tree, work, writer=writer)
    writer.close(timeout=10)
    lines = os.read(pipe[0], 65536).decode("ascii").splitlines()
    assert len(lines) == 2
    download = parse_line(lines[0])
    assert download is not None and download.filename == WHEEL
    assert parse_line(lines[1]) is None


def test_a_reader_that_stops_reading_stops_nobody(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    for _ in range(40_000):
        writer.write("x" * 100)
    assert writer.dropped > 0
    writer.close(timeout=0.1)
    os.set_blocking(pipe[0], False)
    wait_for(lambda: not _drain(pipe[0]), "the writer to end", seconds=10)


def _drain(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, 1 << 20))
    except BlockingIOError:
        return False


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "piwheels.site.web", *arguments]


def test_port_in_use(tree: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            command("--root", str(tree), "--port", port), capture_output=True, text=True, timeout=30, check=False
        )
    assert ended.returncode == 3
    # log lines may precede; what ended it is the last, and alone says what to do
    assert f"port {port} on 127.0.0.1 is in use" in ended.stderr.splitlines()[-1]


def test_command_serves_and_stops(tree: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = command("--root", str(tree), "--port", str(port), "--access-log", "-")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert any("serving" in line for line in iter(server.stderr.readline, ""))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"GET /packages.json HTTP/1.0\r\n\r\n")
            assert b"200 OK" in client.makefile("rb").read()
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=10)
        assert server.returncode == 0
        assert '"GET /packages.json HTTP/1.0" 200' in out


def test_missing_tree(tmp_path: Path) -> None:
    ended = subprocess.run(
        command("--root", str(tmp_path / "no")), capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 3
    assert "is not a directory" in ended.stderr
