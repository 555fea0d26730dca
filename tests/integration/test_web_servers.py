# SPDX-License-Identifier: BSD-3-Clause
"""The published tree behind each web server that we say how to use: all answer alike."""

import gzip
import http.client
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import zstandard

from tests.integration.web_servers import SERVERS, running

pytestmark = pytest.mark.integration

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
WHEEL = "rpi_x-1.0+Local.1-cp311-cp311-linux_armv7l.whl"
OLD = 1_750_000_000.0
PAGES = {
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
    "simple/simple/index.html": "<html>a project called simple</html>",
    "simple/simple/Simple-1-py3-none-any.whl": "0",
    "bookworm/simple/rpi-x/index.v1_json": '{"y":1}',
    "bookworm/simple/rpi-x/index.html": "<html>y</html>",
    "project/rpi-x/index.html": "page",
    "project/rpi-x/json/index.json": "{}",
    "project/simple/index.html": "page of simple",
    "project/simple/json/index.json": "{}",
    "project/bbbbbbbb/index.html": "b",
    "static/style.css": "a{}",
    "static/mark.svg": "<svg/>",
    "pypi-metadata.json.zst": "not really",
    ".secret": "hidden",
    "empty/keep.txt": "",
}


TWINS = ("404.html", "simple/index.v1_json", "simple/index.v1_html", "simple/index.html", "packages.json")
TWINS += ("project/rpi-x/json/index.json", "project/rpi-x/index.html", "static/style.css", "static/mark.svg")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  #: by small name; several of a name joined
    body: bytes

    def has(self, name: str) -> set[str]:
        """The parts of a header that is a list."""
        return {part.strip() for part in self.headers.get(name, "").split(",")} - {""}


class Site(NamedTuple):
    url: str
    tree: Path

    def get(self, path: str, method: str = "GET", /, **headers: str) -> Answer:
        """One request; header names with underscores."""
        where = urlsplit(self.url)
        assert where.hostname
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers={"Accept-Encoding": "identity"} | sent)
            answer = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in answer.getheaders():
                found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()


def plant(root: Path) -> None:
    """A published tree with a few projects, and things that are not to be served beside it."""
    for name, text in PAGES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    log = root / "logs/0000/000/1.txt.gz"
    log.parent.mkdir(parents=True)
    log.write_bytes(gzip.compress("built ✓\n".encode()))
    log.with_name("1.html.gz").write_bytes(gzip.compress("built ✓\n".encode()))
    for name in TWINS:
        (root / f"{name}.gz").write_bytes(gzip.compress((root / name).read_bytes()))
        (root / f"{name}.zst").write_bytes(zstandard.compress((root / name).read_bytes()))
    (root.parent / "outside.txt").write_text("outside")
    (root / "link.txt").symlink_to(root.parent / "outside.txt")
    for path in root.rglob("*"):  # Apache trusts the time of a file only once it is older than a second
        os.utime(path, (OLD, OLD))


@pytest.fixture(scope="module", params=sorted(SERVERS))
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """The tree, served."""
    folder = Path(tempfile.mkdtemp(prefix="piw-web-", dir="/tmp"))
    before = os.umask(0o022)
    try:
        folder.chmod(0o755)
        plant(folder / "www")
        with running(SERVERS[request.param], folder / "server", folder / "www") as url:
            yield Site(url, folder / "www")
    finally:
        os.umask(before)
        shutil.rmtree(folder)


PIP = f"{JSON}, {HTML}; q=0.1, text/html; q=0.01"
UV = f"{JSON}, {HTML};q=0.2, text/html;q=0.01"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/simple/", "/simple/rpi-x/"])
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PIP, JSON),
        (UV, JSON),
        (JSON, JSON),
        ("Application/Vnd.PyPI.Simple.Latest+JSON", JSON),
        (f"text/html;q=0.5, {JSON};q=0.9", JSON),
        (f"{JSON};q=0, {HTML};q=0.5", HTML),
        (f"{HTML}; q=1.0, {JSON}; q=0.3", HTML),
        (HTML, HTML),
        ("text/html", "text/html; charset=utf-8"),
        (BROWSER, "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("", "text/html; charset=utf-8"),
        ("application/vnd.pypi.simple.v1+jsonx, nonsense;;,", "text/html; charset=utf-8"),
    ],
)
def test_index_in_the_form_asked_for(site: Site, path: str, accept: str, expected: str) -> None:
    answer = site.get(path, Accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, expected)
    assert "Accept" in answer.has("vary")
    assert answer.headers["cache-control"] == "public, max-age=120"
    assert answer.body.startswith(b"{" if expected == JSON else b"<html>")


@pytest.mark.parametrize("form", [JSON, HTML, "text/html"])
def test_index_in_the_form_that_the_url_says(site: Site, form: str) -> None:
    answer = site.get(f"/simple/rpi-x/?format={form.replace('+', '%2B')}", Accept=JSON)
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, form)


def test_index_of_a_distribution(site: Site) -> None:
    answer = site.get("/bookworm/simple/rpi-x/", Accept=PIP)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b'{"y":1}', JSON)


UNPACK = {"gzip": gzip.decompress, "zstd": zstandard.ZstdDecompressor().decompress}


@pytest.mark.parametrize(
    ("path", "accept", "kind"),
    [
        ("/simple/", JSON, JSON),
        ("/simple/", HTML, HTML),
        ("/simple/", "*/*", "text/html; charset=utf-8"),
        ("/project/rpi-x/json", "*/*", "application/json"),
        ("/packages.json", "*/*", "application/json"),
        ("/project/rpi-x/", "*/*", "text/html; charset=utf-8"),
        ("/static/style.css", "*/*", "text/css; charset=utf-8"),
        ("/static/mark.svg", "*/*", "image/svg+xml"),
    ],
)
@pytest.mark.parametrize(
    ("encodings", "expected"),
    [
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("Zstd;q=0.5", "zstd"),
        ("gzip, zstd;q=0", "gzip"),
        ("gzip, zstd; q=0.00 , br", "gzip"),
    ],
)
def test_precompressed(site: Site, path: str, accept: str, kind: str, encodings: str, expected: str) -> None:
    plain = site.get(path, Accept=accept)
    packed = site.get(path, Accept=accept, Accept_Encoding=encodings)
    assert (packed.status, packed.headers["content-encoding"]) == (200, expected)
    assert packed.headers["content-type"] == plain.headers["content-type"] == kind
    assert "Accept-Encoding" in packed.has("vary") and "content-encoding" not in plain.headers
    assert UNPACK[expected](packed.body) == plain.body
    assert packed.headers["etag"] != plain.headers["etag"]
    again = site.get(path, Accept=accept, Accept_Encoding=encodings, If_None_Match=packed.headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_what_is_not_there_is_packed_too(site: Site) -> None:
    """And what has no twin is not: nor is a wheel, whatever the client takes."""
    answer = site.get("/nothing", Accept_Encoding="zstd")
    body = UNPACK["zstd"](answer.body) if answer.headers.get("content-encoding") == "zstd" else answer.body
    assert (answer.status, body) == (404, b"<p>lost</p>")
    for path in ("/simple/rpi-x/", f"/simple/rpi-x/{WHEEL}", f"/simple/rpi-x/{WHEEL}.metadata", "/"):
        plain = site.get(path, Accept=JSON, Accept_Encoding="zstd")
        assert plain.status == 200 and "content-encoding" not in plain.headers


def test_wheels_are_for_ever_and_come_in_ranges(site: Site) -> None:
    answer = site.get(f"/simple/rpi-x/{WHEEL}", Accept_Encoding="gzip")
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == "10" and answer.headers["accept-ranges"] == "bytes"
    assert "content-encoding" not in answer.headers
    part = site.get(f"/simple/rpi-x/{WHEEL}", Range="bytes=2-4", If_Range=answer.headers["etag"])
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    beyond = site.get(f"/simple/rpi-x/{WHEEL}", Range="bytes=99-")
    assert beyond.status == 416
    metadata = site.get(f"/simple/rpi-x/{WHEEL}.metadata")
    assert (metadata.status, metadata.body) == (200, b"Name: rpi-x")
    assert "immutable" in metadata.headers["cache-control"]
    assert site.get(f"/simple/rpi-x/{WHEEL.replace('+', '%2B')}").body == b"0123456789"
    assert site.get("/simple/simple/Simple-1-py3-none-any.whl").body == b"0"


def test_conditional_request(site: Site) -> None:
    answer = site.get("/simple/rpi-x/", Accept=JSON)
    assert not answer.headers["etag"].startswith("W/")
    again = site.get("/simple/rpi-x/", Accept=JSON, If_None_Match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["cache-control"] == "public, max-age=120"
    since = site.get("/simple/rpi-x/", Accept=JSON, If_Modified_Since=answer.headers["last-modified"])
    assert since.status == 304


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/simple", "/simple/"),
        ("/simple/rpi-x", "/simple/rpi-x/"),
        ("/simple/RPi.X/", "/simple/rpi-x/"),
        ("/simple/rpi-_.-X/", "/simple/rpi-x/"),
        ("/simple/RPi_X?a=b", "/simple/rpi-x/?a=b"),
        (f"/simple/RPi.X/{WHEEL}", f"/simple/rpi-x/{WHEEL}"),
        ("/bookworm/simple/RPi.X/", "/bookworm/simple/rpi-x/"),
        ("/project/RPi.X", "/project/rpi-x/"),
        ("/project/rpi-x", "/project/rpi-x/"),
        ("/project/RPi.X/json", "/project/rpi-x/json"),
        ("/project/Simple/json/", "/project/simple/json"),
        ("/project/BBBBBBBB/", "/project/bbbbbbbb/"),
        ("/p/RPi.X", "/project/rpi-x/"),
        ("/p/rpi-x/", "/project/rpi-x/"),
    ],
)
def test_other_spellings_are_redirected(site: Site, path: str, location: str) -> None:
    answer = site.get(path)
    there = answer.headers["location"].removeprefix(site.url)
    assert (answer.status, there.replace("%2B", "+")) == (301, location)
    assert answer.headers["cache-control"] == "public, max-age=120"
    assert site.get(there).status == 200


@pytest.mark.parametrize("path", ["/project/rpi-x/json", "/project/rpi-x/json/", "/packages.json"])
def test_json_for_programs(site: Site, path: str) -> None:
    answer = site.get(path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["access-control-allow-origin"] == "*"


def test_pages_for_people(site: Site) -> None:
    for path, body in (("/", b"home"), ("/project/rpi-x/", b"page"), ("/project/simple/", b"page of simple")):
        answer = site.get(path, Accept=JSON)
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert site.get("/static/style.css").headers["content-type"] == "text/css; charset=utf-8"
    dump = site.get("/pypi-metadata.json.zst", Accept_Encoding="gzip, zstd")
    assert dump.headers["content-type"] == "application/zstd" and "content-encoding" not in dump.headers


@pytest.mark.parametrize(("ending", "kind"), [("txt", "text/plain"), ("html", "text/html")])
def test_logs_and_their_pages_are_read_unpacked(site: Site, ending: str, kind: str) -> None:
    packed = site.get(f"/logs/0000/000/1.{ending}.gz", Accept_Encoding="gzip, br")
    assert (packed.status, packed.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
    assert "default-src 'self'" in packed.headers["content-security-policy"]
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["cache-control"] == "public, max-age=86400"
    assert gzip.decompress(packed.body).decode() == "built ✓\n"
    plain = site.get(f"/logs/0000/000/1.{ending}.gz")
    assert (plain.status, plain.body.decode()) == (200, "built ✓\n")
    assert "Accept-Encoding" in plain.has("vary") and "content-encoding" not in plain.headers


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/simple/nothing/",
        "/simple/nothing",
        "/simple/Nothing/",
        "/simple/rpi-x/other-1.0-py3-none-any.whl",
        "/simple/rpi-x/other-1.0-py3-none-any.whl.metadata",
        "/project/nothing/json",
        "/project/NOTHING/json",
        "/.secret",
        "/empty/",
        "/static/",
        "/link.txt",
        "/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "/packages.json/",
        "//example.org/",
        "/p/nothing",
        "/p/" + "A" * 200,
        "/simple/" + "._-" * 60,
        "/simple/X%0d%0aSet-Cookie:%20a=b/",
        "/simple/X%3fa/",
        "/~spelling/rpi-x",
    ],
)
def test_what_is_not_there(site: Site, path: str) -> None:
    answer = site.get(path)
    odd = any(part in path for part in ("%2e", "%2f", "%0", "%3f"))  # a server may refuse these before it looks
    assert answer.status in ((404, 400, 403) if odd else (404,))
    assert "set-cookie" not in answer.headers and b"outside" not in answer.body
    if not odd:
        assert answer.body == b"<p>lost</p>"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "public, max-age=120"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")


def test_only_reading(site: Site) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
        answer = site.get("/simple/", method)
        assert (answer.status, answer.has("allow")) == (405, {"GET", "HEAD"})
        assert answer.headers["x-content-type-options"] == "nosniff"
    head = site.get(f"/simple/rpi-x/{WHEEL}", "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, "10", b"")


def test_what_is_taken_away_is_gone_and_comes_back(site: Site) -> None:
    folder = site.tree / "simple/rpi-x"
    away = site.tree / "simple/.away"
    folder.rename(away)
    try:
        assert site.get("/simple/rpi-x/", Accept=PIP).status == 404
        gone = site.get(f"/simple/rpi-x/{WHEEL}")
        assert (gone.status, gone.headers["cache-control"]) == (404, "public, max-age=120")
    finally:
        away.rename(folder)
    assert site.get("/simple/rpi-x/", Accept=PIP).status == 200
