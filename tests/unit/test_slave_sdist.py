# SPDX-License-Identifier: BSD-3-Clause
"""Fetching an sdist: what is refused, whose fault it is, and that nothing is left. A server on the loopback only."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from piwheels.slave.sdist import BuildFailed, fetch, is_web_address
from piwheels.vocabulary import FailureReason
from piwheels.wire.messages import Order
from tests.files_server import serve

DATA = b"an sdist, as far as fetching goes" * 1000
NETWORK, BUILDER, DISK = FailureReason.NETWORK, FailureReason.BUILDER, FailureReason.DISK


def redirect(to: str) -> "object":
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", to)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def status(code: int) -> "object":
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_error(code)

    return answer


def body(data: bytes, length: int | None = None) -> "object":
    """An answer without, or with a lying, Content-Length."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if length is not None:
            request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(data)

    return answer


def no_http(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"220 mail.example.org ESMTP\r\n")


def drip(request: BaseHTTPRequestHandler) -> None:
    """A byte now and then, until the client has enough of it."""
    request.send_response(200)
    request.end_headers()
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            request.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        pass


ANSWERS = {
    "/moved.tar.gz": redirect("/good.tar.gz"),
    "/loop.tar.gz": redirect("/loop.tar.gz"),
    "/file.tar.gz": redirect("file:///etc/passwd"),
    "/ftp.tar.gz": redirect("ftp://example.org/x"),
    "/bad-redirect.tar.gz": redirect("http://[::1/"),
    "/500.tar.gz": status(500),
    "/403.tar.gz": status(403),
    "/short.tar.gz": body(DATA[:100], len(DATA)),
    "/long.tar.gz": body(DATA + b"x"),
    "/long-announced.tar.gz": body(DATA + b"x", len(DATA) + 1),
    "/other.tar.gz": body(DATA[:-1] + b"!"),
    "/no-http.tar.gz": no_http,
    "/drip.tar.gz": drip,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("files")
    (directory / "good.tar.gz").write_bytes(DATA)
    with serve(directory, ANSWERS) as address:  # type: ignore[arg-type]
        yield address


@pytest.fixture
def order(server: str) -> Order:
    return Order(
        token="0" * 32,
        target="native",
        sdist_name="foo-1.0.tar.gz",
        sdist_url=f"{server}/good.tar.gz",
        sdist_sha256=hashlib.sha256(DATA).hexdigest(),
        sdist_size=len(DATA),
        time_limit=timedelta(1),
        memory_limit=0,
    )


def get(order: Order, directory: Path, *, seconds: float = 30, min_free: int = 0) -> Path:
    return fetch(order, directory, deadline=time.monotonic() + seconds, environ={}, min_free=min_free)


@pytest.mark.parametrize("path", ["good", "moved"])
@pytest.mark.parametrize("size", [len(DATA), None])
def test_right_one(order: Order, server: str, tmp_path: Path, path: str, size: int | None) -> None:
    found = get(replace(order, sdist_url=f"{server}/{path}.tar.gz", sdist_size=size), tmp_path)
    assert found == tmp_path / "foo-1.0.tar.gz"
    assert found.read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("none", "404"),
        ("403", "403"),
        ("500", "500"),
        ("loop", "cannot be fetched|302"),
        ("file", "302 .*Redirection"),
        ("ftp", "redirects to 'ftp:"),
        ("bad-redirect", "redirect|cannot be fetched"),
        ("short", "bytes"),
        ("long", "longer than"),
        ("long-announced", "were announced"),
        ("other", "SHA-256 .* nothing of it was run"),
        ("no-http", "cannot be fetched"),
    ],
)
def test_wrong_answers(order: Order, server: str, tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(BuildFailed, match=words) as failed:
        get(replace(order, sdist_url=f"{server}/{path}.tar.gz"), tmp_path)
    assert failed.value.reason is NETWORK
    assert list(tmp_path.iterdir()) == []


def test_total_deadline(order: Order, server: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(BuildFailed, match="took too long") as failed:
        get(replace(order, sdist_url=f"{server}/drip.tar.gz", sdist_size=None), tmp_path, seconds=0.5)
    assert failed.value.reason is NETWORK
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.tar.gz", "http://no-such-host.invalid/x.tar.gz"])
def test_nobody_there(order: Order, tmp_path: Path, url: str) -> None:
    with pytest.raises(BuildFailed, match="cannot be fetched") as failed:
        get(replace(order, sdist_url=url), tmp_path)
    assert failed.value.reason is NETWORK


@pytest.mark.parametrize(
    "changes",
    [
        {"sdist_name": "../foo-1.0.tar.gz"},
        {"sdist_name": "/etc/foo-1.0.tar.gz"},
        {"sdist_name": "-foo.tar.gz"},
        {"sdist_name": "foo-1.0.whl"},
        {"sdist_name": "foo\n.tar.gz"},
        {"sdist_name": "f" * 300 + ".tar.gz"},
        {"sdist_sha256": "xyz"},
        {"sdist_sha256": "A" * 64},
        {"sdist_size": 0},
        {"sdist_size": 10**13},
        {"sdist_url": "file:///etc/passwd"},
        {"sdist_url": "ftp://example.org/x"},
        {"sdist_url": "http:///x"},
        {"sdist_url": "http://example.org/x y"},
        {"sdist_url": "http://example.org:99999/"},
        {"sdist_url": "http://[::1/"},
    ],
)
def test_orders_that_are_refused(order: Order, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(BuildFailed) as failed:
        get(replace(order, **changes), tmp_path)  # type: ignore[arg-type]
    assert failed.value.reason is BUILDER
    assert list(tmp_path.iterdir()) == []


def test_disk_nearly_full(order: Order, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="nearly full") as failed:
        get(order, tmp_path, min_free=2**62)
    assert failed.value.reason is DISK
    assert list(tmp_path.iterdir()) == []


def test_directory_that_is_not_there(order: Order, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="cannot be kept") as failed:
        get(order, tmp_path / "none")
    assert failed.value.reason is BUILDER


def test_certificates_that_cannot_be_read(order: Order, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="certificates") as failed:
        fetch(order, tmp_path, deadline=time.monotonic() + 5, environ={"PIP_CERT": str(tmp_path / "none.pem")})
    assert failed.value.reason is BUILDER


def test_web_addresses() -> None:
    assert is_web_address("https://example.org/simple/")
    assert not is_web_address("javascript:alert(1)")
