# SPDX-License-Identifier: BSD-3-Clause
"""What the simulator answers, as plain clients see it: xmlrpc.client, http.client, an XML parser, pypi-simple."""

import gzip
import hashlib
import http.client
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import xmlrpc.client
from collections.abc import Iterator
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pypi_simple import PyPISimple

from tests.simulator import Simulator, recipes
from tests.simulator.fixtures import simulator
from tests.simulator.negotiation import SIMPLE_JSON
from tests.waiting import wait_for

__all__ = ["simulator"]

ROOT = Path(__file__).parents[2]
WHEEL = "py3-none-any"


@pytest.fixture
def pypi(simulator: Simulator) -> Simulator:
    """With two projects."""
    simulator.add_project("Spam.Ham", summary="Tinned <meat>", classifiers=["Topic :: Food", "License :: Free"])
    simulator.add_release("Spam.Ham", "1.0", recipes.TINY, wheels=(WHEEL,), requires_python=">=3.8")
    simulator.add_release("Spam.Ham", "1.1rc1", recipes.TINY)
    simulator.add_release("eggs", "2.0", recipes.TINY)
    return simulator


@pytest.fixture
def proxy(pypi: Simulator) -> Iterator[Any]:
    """A plain client of its XML-RPC."""
    with xmlrpc.client.ServerProxy(f"{pypi.root}pypi", allow_none=True) as one:
        yield one


def ask(pypi: Simulator, path: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    """One request, redirects not followed."""
    connection = http.client.HTTPConnection(pypi.host, pypi.port, timeout=20)
    try:
        connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def get_json(pypi: Simulator, path: str, accept: str = "application/json") -> Any:
    status, headers, body = ask(pypi, path, Accept=accept)
    assert status == 200
    assert headers.get_content_type() == accept
    return json.loads(body)


def links_to(pypi: Simulator, path: str) -> tuple[int, str]:
    """Status and path of a redirect."""
    status, headers, _ = ask(pypi, path)
    return status, urlsplit(headers["Location"] or "").path


# XML-RPC


def test_the_journal(pypi: Simulator, proxy: Any) -> None:
    assert proxy.changelog_last_serial() == pypi.serial
    rows = proxy.changelog_since_serial(1000)
    assert rows == [event.row() for event in pypi.events]
    assert rows[0][:2] == ["Spam.Ham", None]
    assert rows[3][3] == "add source file spam_ham-1.0.tar.gz"
    assert proxy.changelog_since_serial(pypi.serial) == []
    pypi.journal_limit = 2
    assert proxy.changelog_since_serial(1001) == [event.row() for event in pypi.events[1:3]]


def test_the_journal_takes_any_name(pypi: Simulator, proxy: Any) -> None:
    pypi.unknown_event("eggs", "ünïcode & <tags> \U0001f40d ]]>")
    assert proxy.changelog_since_serial(pypi.serial - 1)[0][3] == "ünïcode & <tags> \U0001f40d ]]>"


def test_the_queries(pypi: Simulator, proxy: Any) -> None:
    pypi.change_owner("eggs", "ada", role="Maintainer")
    pypi.quarantine("eggs")
    assert proxy.list_packages_with_serial() == {p.name: p.serial for p in pypi.projects.values()}
    assert proxy.user_packages("ada") == [["Maintainer", "eggs"]]
    assert proxy.user_packages("sim-owner") == [["Owner", "Spam.Ham"], ["Owner", "eggs"]]
    assert proxy.browse(["Topic :: Food"]) == [["Spam.Ham", "1.0"], ["Spam.Ham", "1.1rc1"]]
    assert proxy.browse(["Topic :: Food", "Topic :: Drink"]) == []


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("changelog", (0,)),
        ("package_data", ("eggs", "2.0")),
        ("package_urls", ("eggs", "2.0")),
        ("top_packages", ()),
        ("search", ({"name": "eggs"},)),
        ("list_packages", ()),
        ("package_releases", ("eggs",)),
        ("release_urls", ("eggs", "2.0")),
        ("release_data", ("eggs", "2.0")),
        ("package_roles", ("eggs",)),
    ],
)
def test_what_is_deprecated_is_a_runtime_error(method: str, parameters: tuple[Any, ...], proxy: Any) -> None:
    with pytest.raises(xmlrpc.client.Fault, match="RuntimeError: ") as caught:
        getattr(proxy, method)(*parameters)
    assert caught.value.faultCode == -32500


@pytest.mark.parametrize(
    ("method", "parameters", "code"),
    [
        ("make_tea", (), -32601),
        ("changelog_since_serial", (), -32602),
        ("changelog_since_serial", ("soon",), -32602),
        ("changelog_last_serial", (1,), -32602),
        ("browse", (None,), -32602),
        ("user_packages", (), -32602),
    ],
)
def test_calls_that_are_wrong(method: str, parameters: tuple[Any, ...], code: int, proxy: Any) -> None:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        getattr(proxy, method)(*parameters)
    assert caught.value.faultCode == code


def test_the_journals_address(pypi: Simulator) -> None:
    call = xmlrpc.client.dumps((), "changelog_last_serial")
    for path in ("/pypi", "/pypi/"):
        connection = http.client.HTTPConnection(pypi.host, pypi.port, timeout=20)
        connection.request("POST", path, call, {"Content-Type": "text/xml"})
        answer = connection.getresponse()
        assert answer.headers.get_content_type() == "text/xml"
        assert xmlrpc.client.loads(answer.read())[0] == (pypi.serial,)
        connection.close()
        assert ask(pypi, path)[0] == 405
    pypi.journal_enabled = False
    assert ask(pypi, "/pypi", "POST")[0] == 405
    pypi.journal_enabled = True
    assert b"-32700" in ask(pypi, "/pypi", "POST")[2]


def test_legacy_queries(pypi: Simulator, proxy: Any) -> None:
    pypi.legacy = True
    assert proxy.list_packages() == ["Spam.Ham", "eggs"]
    assert proxy.package_releases("spam_ham") == ["1.1rc1", "1.0"]
    assert proxy.package_releases("spam_ham", True) == ["1.1rc1", "1.0"]
    assert proxy.package_releases("nothing") == []
    assert proxy.package_roles("eggs") == [["Owner", "sim-owner"]]
    assert proxy.release_downloads("eggs", "2.0") == [["eggs-2.0.tar.gz", 0]]
    (sdist, wheel) = proxy.release_urls("Spam.Ham", "1.0")
    keys = "url packagetype filename size md5_digest downloads has_sig python_version comment_text upload_time"
    assert set(sdist) == set(keys.split())
    assert (sdist["python_version"], wheel["python_version"]) == ("source", "py3")
    assert isinstance(sdist["upload_time"], xmlrpc.client.DateTime)
    assert hashlib.md5(ask(pypi, urlsplit(sdist["url"]).path)[2]).hexdigest() == sdist["md5_digest"]
    assert proxy.release_data("eggs", "9") == {}
    data: Any = proxy.release_data("spam-ham", "1.0")
    assert (data["name"], data["version"], data["stable_version"]) == ("Spam.Ham", "1.0", "")
    assert data["classifiers"] == ["Topic :: Food", "License :: Free"]
    keys = """name version stable_version author author_email maintainer maintainer_email home_page license summary
    description keywords platform download_url classifiers requires requires_dist provides provides_dist
    requires_external requires_python obsoletes obsoletes_dist project_url docs_url"""
    assert set(data) == set(keys.split())


def test_legacy_searches(pypi: Simulator, proxy: Any) -> None:
    pypi.legacy = True
    found = {"name": "eggs", "version": "2.0", "summary": "A package of the simulator's"}
    assert proxy.search({"name": "EGG"}) == [found]
    assert proxy.search({"name": ["egg", "ham"], "version": "2.0", "colour": "red"}) == [found]
    both: Any = proxy.search({"name": "egg", "summary": "meat"}, "or")
    assert [one["version"] for one in both] == ["1.0", "1.1rc1", "2.0"]
    assert proxy.search({"name": "egg", "summary": "meat"}) == []
    assert proxy.top_packages(1) == [["Spam.Ham", 0]]
    time = pypi.events[-1].time
    assert proxy.updated_releases(time - 2) == [["eggs", "2.0"]]
    assert proxy.changed_packages(0) == ["eggs", "Spam.Ham"]
    assert proxy.changelog(time - 1) == [pypi.events[-1].row()[:4]]
    assert proxy.changelog(time - 1, True) == [pypi.events[-1].row()]
    with pytest.raises(xmlrpc.client.Fault, match="operator"):
        proxy.search({}, "xor")


# The index


def test_the_listing(pypi: Simulator) -> None:
    listing = get_json(pypi, "/simple/", SIMPLE_JSON)
    assert listing["meta"] == {"api-version": "1.4", "_last-serial": pypi.serial}
    assert listing["projects"] == [{"name": p.name, "_last-serial": p.serial} for p in pypi.projects.values()]
    status, headers, body = ask(pypi, "/simple/")
    assert (status, headers.get_content_type(), headers["X-PyPI-Last-Serial"]) == (200, "text/html", str(pypi.serial))
    assert b'<a href="/simple/spam-ham/">Spam.Ham</a>' in body
    assert ask(pypi, "/simple/", If_None_Match=headers["ETag"])[0] == 304
    assert ask(pypi, "/simple/", If_None_Match=headers["ETag"], Accept=SIMPLE_JSON)[0] == 200
    assert ask(pypi, "/simple/", Accept="image/png")[0] == 406


def test_an_index_without_json_or_listing(pypi: Simulator) -> None:
    pypi.index_json = False
    for path in ("/simple/", "/simple/eggs/"):
        assert ask(pypi, path, Accept=SIMPLE_JSON)[1].get_content_type() == "text/html"
    pypi.index_listing = False
    assert ask(pypi, "/simple/")[0] == 404
    assert ask(pypi, "/simple/eggs/")[0] == 200


def test_pages_in_both_forms_say_the_same(pypi: Simulator) -> None:
    pypi.yank("spam-ham", "1.0", "it is <off>")
    pypi.set_status("spam-ham", "archived")
    with PyPISimple(pypi.url) as client:
        pages = [
            client.get_project_page("spam-ham", accept=accept)
            for accept in (SIMPLE_JSON, "text/html", "text/html, */*")
        ]
    first = pages[0]
    assert first.last_serial == str(pypi.projects["spam-ham"].serial)
    assert first.versions == ["1.0", "1.1rc1"]
    for page in pages:
        assert page.status is not None
        assert page.status.value == "archived"
        files = [(f.filename, f.url, f.digests, f.requires_python, f.is_yanked, f.yanked_reason) for f in page.packages]
        assert len(files) == 3
        assert files[0][3:] == (">=3.8", True, "it is <off>")
        assert files == [
            (f.filename, f.url, f.digests, f.requires_python, f.is_yanked, f.yanked_reason) for f in first.packages
        ]
        assert [f.has_metadata for f in page.packages][1] is True


def test_metadata_of_wheels(pypi: Simulator) -> None:
    page = get_json(pypi, "/simple/spam-ham/", SIMPLE_JSON)
    sdist, wheel, _ = page["files"]
    assert sdist["core-metadata"] is False
    assert wheel["core-metadata"] == wheel["data-dist-info-metadata"]
    status, _, body = ask(pypi, f"/files/{wheel['filename']}.metadata")
    assert status == 200
    assert hashlib.sha256(body).hexdigest() == wheel["core-metadata"]["sha256"]
    assert b"Name: Spam.Ham" in body
    assert ask(pypi, f"/files/{sdist['filename']}.metadata")[0] == 404
    html = ask(pypi, "/simple/spam-ham/")[2].decode()
    said = f'"sha256={hashlib.sha256(body).hexdigest()}"'
    assert f"data-core-metadata={said}" in html
    assert f"data-dist-info-metadata={said}" in html


def test_quarantine_of_a_project(pypi: Simulator) -> None:
    pypi.quarantine("eggs")
    assert [one["name"] for one in get_json(pypi, "/simple/", SIMPLE_JSON)["projects"]] == ["Spam.Ham"]
    page = get_json(pypi, "/simple/eggs/", SIMPLE_JSON)
    assert (page["project-status"], page["files"], page["versions"]) == ({"status": "quarantined"}, [], [])
    assert b"<a" not in ask(pypi, "/simple/eggs/")[2]
    assert ask(pypi, "/pypi/eggs/json")[0] == 404
    pypi.quarantine_json = "kept"
    assert ask(pypi, "/pypi/eggs/json")[0] == 200
    pypi.clear_quarantine("eggs")
    assert len(get_json(pypi, "/simple/eggs/", SIMPLE_JSON)["files"]) == 1


def test_quarantine_of_a_release(pypi: Simulator) -> None:
    pypi.quarantine_release("spam-ham", "1.0")
    document = get_json(pypi, "/pypi/spam-ham/json")
    page = get_json(pypi, "/simple/spam-ham/", SIMPLE_JSON)
    assert len(document["releases"]["1.0"]) == 2
    assert page["versions"] == ["1.1rc1"]
    assert page["meta"]["_last-serial"] == document["last_serial"]
    pypi.clear_release_quarantine("spam-ham", "1.0")
    assert len(get_json(pypi, "/simple/spam-ham/", SIMPLE_JSON)["files"]) == 3


# JSON


def test_the_json_of_a_project_and_of_a_release(pypi: Simulator) -> None:
    document = get_json(pypi, "/pypi/spam-ham/json")
    assert document["info"]["version"] == "1.0"  # the final one
    assert document["info"]["requires_python"] == ">=3.8"
    assert document["urls"] == document["releases"]["1.0"]
    assert document["last_serial"] == pypi.projects["spam-ham"].serial
    assert document["ownership"]["roles"] == [{"role": "Owner", "user": "sim-owner"}]
    release = get_json(pypi, "/pypi/Spam.Ham/1.1rc1/json")
    assert "releases" not in release
    assert release["info"]["version"] == "1.1rc1"
    assert [file["filename"] for file in release["urls"]] == ["spam_ham-1.1rc1.tar.gz"]
    assert ask(pypi, "/pypi/spam-ham/9/json")[0] == 404


def test_the_json_of_a_project_without_releases(pypi: Simulator) -> None:
    pypi.add_project("bare")
    assert get_json(pypi, "/pypi/bare/json")["releases"] == {}
    pypi.empty_json = "missing"
    assert ask(pypi, "/pypi/bare/json")[0] == 404
    assert get_json(pypi, "/simple/bare/", SIMPLE_JSON)["files"] == []


def test_a_body_is_packed_on_request(pypi: Simulator) -> None:
    plain = ask(pypi, "/pypi/eggs/json", Accept_Encoding="gzip")
    assert plain[1]["Content-Encoding"] is None
    pypi.gzip = True
    _, headers, body = ask(pypi, "/pypi/eggs/json", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == plain[2]
    assert ask(pypi, "/pypi/eggs/json")[2] == plain[2]


# Addresses of old


def test_redirects(pypi: Simulator) -> None:
    for path in ("/pypi/eggs", "/pypi/eggs/", "/p/eggs/"):
        assert links_to(pypi, path) == (301, "/project/eggs/")
    assert links_to(pypi, "/pypi?:action=rss") == (301, "/rss/updates.xml")
    assert links_to(pypi, "/pypi?%3Aaction=packages_rss") == (301, "/rss/packages.xml")
    assert links_to(pypi, "/simple/eggs") == (301, "/simple/eggs/")
    assert links_to(pypi, "/simple/Spam.Ham/") == (301, "/simple/spam-ham/")
    status, _, body = ask(pypi, "/project/eggs/")
    assert status == 200
    assert b"<h1>eggs 2.0</h1>" in body
    assert ask(pypi, "/project/nothing/")[0] == 404


def test_the_conveyor(pypi: Simulator) -> None:
    assert links_to(pypi, "/packages/source/e/eggs/eggs-2.0.tar.gz") == (302, "/files/eggs-2.0.tar.gz")
    wheel = "spam_ham-1.0-py3-none-any.whl"
    assert links_to(pypi, f"/packages/py3/S/Spam.Ham/{wheel}") == (302, f"/files/{wheel}")
    for path in (
        "py3/e/eggs/eggs-2.0.tar.gz",
        "source/x/eggs/eggs-2.0.tar.gz",
        f"source/e/eggs/{wheel}",
        "source/e/e/e",
    ):
        assert ask(pypi, f"/packages/{path}")[0] == 404


# Feeds


def test_the_feeds(pypi: Simulator) -> None:
    for number in range(45):
        pypi.add_release(f"many-{number}", "1.0", recipes.TINY)
    pypi.remove_project("many-44")
    updates = ElementTree.fromstring(ask(pypi, "/rss/updates.xml")[2]).findall("./channel/item")
    assert len(updates) == 40
    assert updates[0].findtext("title") == "many-43 1.0"
    assert updates[0].findtext("link") == f"{pypi.root}project/many-43/1.0/"
    dates = [parsedate_to_datetime(item.findtext("pubDate") or "") for item in updates]
    assert dates == sorted(dates, reverse=True)
    packages = ElementTree.fromstring(ask(pypi, "/rss/packages.xml")[2]).findall("./channel/item")
    assert len(packages) == 40
    assert packages[0].findtext("guid") == f"{pypi.root}project/many-43/"
    assert ask(pypi, "/rss/other.xml")[0] == 404


def test_feeds_escape_what_strangers_write(pypi: Simulator) -> None:
    items = ElementTree.fromstring(ask(pypi, "/rss/updates.xml")[2]).findall("./channel/item")
    assert [item.findtext("description") for item in items][1:] == ["Tinned <meat>"] * 2


# Processes


def start(*arguments: str) -> tuple["subprocess.Popen[str]", str]:
    """A process of the simulator's, and what it prints first."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def finish(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    assert process.wait(20) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_a_random_day_as_a_process(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    day = ("--seed", "3", "--events", "200", "--projects", "20")
    process, url = start("tests.simulator", *day, "--legacy", "--truth", str(truth))
    with xmlrpc.client.ServerProxy(url.replace("simple/", "pypi"), allow_none=True) as proxy:
        rows: Any = proxy.changelog_since_serial(0)
        assert len(rows) >= 200
        assert rows[-1][4] == proxy.changelog_last_serial()
        names: Any = proxy.list_packages()
    finish(process)
    told = json.loads(truth.read_text("utf-8"))
    assert sorted(project["display_name"] for project in told.values()) == names


def test_a_day_goes_on_while_it_serves() -> None:
    process, url = start("tests.simulator", "--seed", "3", "--events", "50", "--pace", "1000")
    with xmlrpc.client.ServerProxy(url.replace("simple/", "pypi"), allow_none=True) as client:
        proxy: Any = client
        wait_for(lambda: len(proxy.changelog_since_serial(0)) >= 50, "the day's events", seconds=20)
    finish(process)


def test_a_script_that_is_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('[{"do": "dance"}]', "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulator", "--script", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "step 1" in done.stderr


def test_the_synthetic_one() -> None:
    process, url = start("tests.simulator.bulk", "--changed", "10", "--listing", "100")
    port = int(urlsplit(url).port or 0)
    with xmlrpc.client.ServerProxy(url.replace("simple/", "pypi/"), allow_none=True) as proxy:
        last: Any = proxy.changelog_last_serial()
        rows: Any = proxy.changelog_since_serial(0)
        serials: Any = proxy.list_packages_with_serial()
        with pytest.raises(xmlrpc.client.Fault):
            proxy.search({})
    assert (len(rows), rows[-1][4], len(serials)) == (10, last, 100)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def fetch(path: str, **headers: str) -> tuple[int, Message, bytes]:
        connection.request("GET", path, headers={"Accept": SIMPLE_JSON, **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    status, headers, body = fetch("/simple/")
    assert status == 200
    assert {one["name"]: one["_last-serial"] for one in json.loads(body)["projects"]} == serials
    assert fetch("/simple/", **{"If-None-Match": headers["ETag"]})[0] == 304
    status, headers, body = fetch("/pypi/bulk-5/json")
    assert (status, json.loads(body)["last_serial"]) == (200, serials["bulk-5"])
    assert fetch("/pypi/bulk-5/json", **{"If-None-Match": headers["ETag"]})[0] == 304
    assert json.loads(fetch("/simple/bulk-99/")[2])["meta"]["_last-serial"] == 100
    for path in ("/pypi/bulk-100/json", "/pypi/spam/json", "/simple/spam/", "/else"):
        assert fetch(path)[0] == 404
    connection.close()
    finish(process)
