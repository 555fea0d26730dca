# SPDX-License-Identifier: BSD-3-Clause
"""The client against the simulator: what each kind of answer becomes. Needs no database."""

import asyncio
import gzip
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pytest

from piwheels.errors import UpstreamError, UpstreamMissing
from piwheels.pypi import client
from piwheels.pypi.client import Answer, PyPI, UpstreamAway
from piwheels.pypi.interpret import Meaning, interpret
from piwheels.pypi.journal import JournalRefused
from piwheels.pypi.model import UpstreamUnusable, with_page
from piwheels.settings import FarmSettings, UpstreamSettings
from piwheels.vocabulary import ProjectStatus
from tests.simulator import Fault, Simulator
from tests.simulator.fixtures import simulator

__all__ = ["simulator"]

T = TypeVar("T")

FARM = FarmSettings(name="test farm", contact="me@example.org")


def ask(url: str, question: Callable[[PyPI], Awaitable[T]], *, seconds: float = 5) -> T:
    async def work() -> T:
        settings = UpstreamSettings(simple_url=url, timeout=timedelta(seconds=seconds))
        async with PyPI(settings, farm=FARM) as pypi:
            return await question(pypi)

    return asyncio.run(work())


def alpha(pypi: PyPI) -> Awaitable[Answer]:
    return pypi.project("alpha")


@pytest.fixture
def pypi(simulator: Simulator) -> Simulator:
    simulator.add_release("alpha", "1.0")
    return simulator


def test_a_project_and_whether_it_changed(pypi: Simulator) -> None:
    first = ask(pypi.url, alpha)
    assert first.project is not None
    assert first.project.releases[0].version == "1.0"
    assert pypi.asked()[0].agent.startswith("piwheels/")
    assert "test farm; me@example.org" in pypi.asked()[0].agent
    again = ask(pypi.url, lambda client: client.project("alpha", etag=first.etag))
    assert again.project is None
    assert again.etag == first.etag
    pypi.add_release("alpha", "2.0")
    changed = ask(pypi.url, lambda client: client.project("alpha", etag=first.etag))
    assert changed.project is not None
    assert changed.etag != first.etag
    assert pypi.tally() == {200: 2, 304: 1}


def test_a_page(pypi: Simulator) -> None:
    pypi.set_status("alpha", "archived")
    page = ask(pypi.url, lambda client: client.page("Alpha"))
    assert page.status is ProjectStatus.ARCHIVED
    url, sha256 = page.links["alpha-1.0.tar.gz"]
    assert url == f"{pypi.root}files/alpha-1.0.tar.gz"
    assert sha256 == pypi.projects["alpha"].files["alpha-1.0.tar.gz"].sha256


def test_the_environments_proxy_is_asked(pypi: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", pypi.root)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(UpstreamError):  # the simulator is no proxy: what it is asked for is no path of its own
        ask("http://pypi.example.org/simple/", lambda client: client.project("beta"))
    assert [request.path for request in pypi.asked()] == ["/pypi/beta/json"]


@pytest.mark.parametrize("home", ["/nonexistent", "/proc/1/cwd", ""])
def test_a_home_that_cannot_be_looked_into(home: str, pypi: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("NETRC", raising=False)
    assert ask(pypi.url, alpha).project is not None


def test_an_unknown_project(pypi: Simulator) -> None:
    with pytest.raises(UpstreamMissing):
        ask(pypi.url, lambda client: client.project("beta"))


def test_what_is_no_name_is_never_asked_for(pypi: Simulator) -> None:
    with pytest.raises(UpstreamUnusable):
        ask(pypi.url, lambda client: client.project("../../etc"))
    assert pypi.asked() == []


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault.ERROR, UpstreamAway, "answers 500"),
        (Fault.UNAVAILABLE, UpstreamAway, "answers 503"),
        (Fault.RATE_LIMIT, UpstreamAway, "asks for fewer requests"),
        (Fault.TRUNCATE, UpstreamAway, "cannot be reached"),
        (Fault.DROP, UpstreamAway, "cannot be reached"),
        (Fault.MISSING, UpstreamMissing, "has no project"),
        (Fault.FORBIDDEN, UpstreamUnusable, "answers 403"),
        (Fault.WRONG_TYPE, UpstreamUnusable, "is text/html, not application/json"),
        (Fault.GARBAGE, UpstreamUnusable, "is not JSON"),
        (Fault.LOOP, UpstreamUnusable, "in circles"),
    ],
)
def test_faults(fault: Fault, error: type[UpstreamError], words: str, pypi: Simulator) -> None:
    pypi.fault(fault, times=None)
    with pytest.raises(error, match=words) as caught:
        ask(pypi.url, alpha)
    assert str(caught.value).isprintable()
    pypi.clear_faults()
    assert ask(pypi.url, alpha).project is not None


def test_retry_after_is_passed_on(pypi: Simulator) -> None:
    pypi.fault(Fault.RATE_LIMIT, retry_after="17")
    with pytest.raises(UpstreamAway) as caught:
        ask(pypi.url, alpha)
    assert caught.value.retry_after == 17.0


def test_a_stall_ends_at_the_time_out(pypi: Simulator) -> None:
    pypi.fault(Fault.STALL)
    with pytest.raises(UpstreamAway, match="in time"):
        ask(pypi.url, alpha, seconds=0.2)


def test_a_body_without_an_end_is_cut(pypi: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 5 * 1024**2)
    pypi.fault(Fault.HUGE)
    with pytest.raises(UpstreamError, match="more than 5242880 bytes"):
        ask(pypi.url, alpha)


def test_nobody_listens() -> None:
    with Simulator() as gone:
        url = gone.url
    for question in QUESTIONS.values():
        with pytest.raises(UpstreamAway, match="cannot be reached"):
            ask(url, question)


# Each of the questions

QUESTIONS: dict[str, Callable[[PyPI], Awaitable[object]]] = {
    "project": lambda client: client.project("alpha"),
    "page": lambda client: client.page("alpha"),
    "listing": lambda client: client.listing(),
    "events": lambda client: client.events(0),
    "last_serial": lambda client: client.last_serial(),
    "serials": lambda client: client.serials(),
}
JOURNAL = {"events", "last_serial", "serials"}


def test_a_project_comes_with_its_entry_for_the_dump(pypi: Simulator) -> None:
    answer = ask(pypi.url, alpha)
    assert answer.entry is not None
    entry = json.loads(answer.entry)
    assert entry["info"]["name"] == "alpha"
    assert list(entry["releases"]) == ["1.0"]
    assert answer.requires == tuple(entry["info"].get("requires_dist") or ())
    assert ask(pypi.url, lambda client: client.project("alpha", etag=answer.etag)) == Answer(None, answer.etag)


def test_what_depends_on_what_is_passed_on(pypi: Simulator) -> None:
    info = {"name": "alpha", "version": "1.0", "requires_dist": ["beta>=1", None, "gamma"]}
    pypi.answer_with("alpha", {"info": info, "last_serial": 5, "releases": {}})
    assert ask(pypi.url, alpha).requires == ("beta>=1", "gamma")


@pytest.mark.parametrize("index_json", [True, False])
def test_a_page_in_json_or_html(pypi: Simulator, index_json: bool) -> None:
    pypi.index_json = index_json
    pypi.set_status("alpha", "archived")
    page = ask(pypi.url, lambda client: client.page("alpha"))
    assert pypi.asked()[-1].accept.startswith("application/vnd.pypi.simple.v1+json, ")
    assert page.status is ProjectStatus.ARCHIVED
    assert page.filenames == {"alpha-1.0.tar.gz"}
    assert page.links["alpha-1.0.tar.gz"][0] == f"{pypi.root}files/alpha-1.0.tar.gz"
    assert page.serial == pypi.projects["alpha"].serial


def test_a_status_that_is_new_is_none(pypi: Simulator) -> None:
    pypi.set_status("alpha", "pickled")
    for pypi.index_json in (True, False):
        page = ask(pypi.url, lambda client: client.page("alpha"))
        assert (page.status, page.filenames) == (None, {"alpha-1.0.tar.gz"})


def test_a_release_in_quarantine_is_in_the_json_and_not_on_the_page(pypi: Simulator) -> None:
    pypi.add_release("alpha", "2.0")
    pypi.quarantine_release("alpha", "2.0")
    project, page = ask(pypi.url, alpha).project, ask(pypi.url, lambda client: client.page("alpha"))
    assert project is not None
    assert {release.version for release in project.releases} == {"1.0", "2.0"}
    shown = with_page(project, page.filenames, serial=page.serial)
    assert [release.version for release in shown.releases] == ["1.0"]


def test_the_listing_and_whether_it_changed(pypi: Simulator) -> None:
    pypi.add_release("Be.Ta")
    first = ask(pypi.url, lambda client: client.listing())
    assert first is not None
    assert first.serials == {name: project.serial for name, project in pypi.projects.items()}
    assert (first.last_serial, first.refused) == (pypi.serial, 0)
    assert ask(pypi.url, lambda client: client.listing(etag=first.etag)) is None
    pypi.add_release("gamma")
    second = ask(pypi.url, lambda client: client.listing(etag=first.etag))
    assert second is not None
    assert set(second.serials) - set(first.serials) == {"gamma"}


def test_an_index_without_a_listing_in_json(pypi: Simulator) -> None:
    pypi.index_json = False
    with pytest.raises(UpstreamUnusable, match="not in JSON"):
        ask(pypi.url, lambda client: client.listing())
    pypi.index_json, pypi.index_listing = True, False
    with pytest.raises(UpstreamUnusable, match="not in JSON"):
        ask(pypi.url, lambda client: client.listing())


def test_the_journal(pypi: Simulator) -> None:
    assert ask(pypi.url, lambda client: client.last_serial()) == pypi.serial
    start = pypi.serial
    pypi.yank("alpha", "1.0")
    pypi.change_owner("alpha", "eric", remove=True)
    found = ask(pypi.url, lambda client: client.events(start))
    assert [event.name for event in found.events] == ["alpha", "alpha"]
    reading = interpret(found.events, after=start)
    assert reading.counts == {Meaning.YANKED: 1, Meaning.PEOPLE: 1}
    assert (reading.upto, found.refused) == (pypi.serial, 0)
    assert not reading.changes[0].removed
    assert ask(pypi.url, lambda client: client.events(pypi.serial)).events == ()
    assert ask(pypi.url, lambda client: client.serials()) == {"alpha": pypi.projects["alpha"].serial}


def test_no_journal_here(pypi: Simulator) -> None:
    pypi.journal_enabled = False
    for name in JOURNAL:
        with pytest.raises(JournalRefused):
            ask(pypi.url, QUESTIONS[name])


def test_the_journals_own_rate_limit_is_weather(pypi: Simulator) -> None:
    pypi.fault(Fault.RPC_LIMIT)
    with pytest.raises(UpstreamAway, match="fewer requests") as caught:
        ask(pypi.url, lambda client: client.last_serial())
    assert caught.value.retry_after == 1.0


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.STALL, Fault.HUGE)])
def test_every_question_survives_every_fault(fault: Fault, pypi: Simulator) -> None:
    async def try_all(client: PyPI) -> list[object]:
        return await asyncio.gather(*(question(client) for question in QUESTIONS.values()), return_exceptions=True)

    pypi.add_release("alpha", "2.0")
    pypi.fault(fault, times=None, retry_after="5")
    for found in ask(pypi.url, try_all):
        assert isinstance(found, UpstreamError) or not isinstance(found, BaseException)
        assert not isinstance(found, UpstreamError) or (str(found).isprintable() and len(str(found)) < 400)
    pypi.clear_faults()
    assert not [found for found in ask(pypi.url, try_all) if isinstance(found, BaseException)]


@pytest.mark.parametrize("fault", [Fault.HTML, Fault.WRONG_TYPE, Fault.GARBAGE, Fault.XML_BOMB, Fault.LOOP])
def test_an_answer_of_another_kind_is_unusable(fault: Fault, pypi: Simulator) -> None:
    pypi.fault(fault, times=None)
    for question in QUESTIONS.values():
        with pytest.raises(UpstreamUnusable):
            ask(pypi.url, question)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.ERROR, UpstreamAway),
        (Fault.RATE_LIMIT, UpstreamAway),
        (Fault.TRUNCATE, UpstreamAway),
        (Fault.DROP, UpstreamAway),
        (Fault.MISSING, JournalRefused),
        (Fault.FORBIDDEN, UpstreamUnusable),
        (Fault.REDIRECT, UpstreamUnusable),
    ],
)
def test_faults_of_the_journal(fault: Fault, error: type[UpstreamError], pypi: Simulator) -> None:
    pypi.fault(fault, times=None)
    for name in JOURNAL:
        with pytest.raises(error):
            ask(pypi.url, QUESTIONS[name])


@pytest.mark.parametrize("question", QUESTIONS)
def test_stalls_and_bodies_without_end(question: str, pypi: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("MAX_BODY", "MAX_JOURNAL", "MAX_LISTING"):
        monkeypatch.setattr(client, bound, 3 * 1024**2)
    pypi.fault(Fault.STALL)
    with pytest.raises(UpstreamAway, match="in time"):
        ask(pypi.url, QUESTIONS[question], seconds=0.2)
    pypi.fault(Fault.HUGE)
    with pytest.raises(UpstreamUnusable):
        ask(pypi.url, QUESTIONS[question])


# What no simulator of PyPI would answer


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server with one answer, and the requests it got: method and path."""
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(self.requestline.encode())
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple/", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_what_is_posted_is_not_sent_elsewhere(status: int) -> None:
    with answering(status, {"Location": "/elsewhere"}, b"") as (url, asked):
        with pytest.raises(UpstreamUnusable, match=f"answers {status}"):
            ask(url, lambda client: client.last_serial())
        assert asked == [b"POST /pypi HTTP/1.1"]


def test_a_packed_body_counts_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 1024**2)
    bomb = gzip.compress(b" " * 20 * 1024**2)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with answering(200, headers, bomb) as (url, _), pytest.raises(UpstreamUnusable, match="more than 1048576 bytes"):
        ask(url, alpha)


def test_a_body_that_is_said_to_be_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 1024)
    headers = {"Content-Type": "application/json", "Content-Length": "9" * 15}
    with answering(200, headers, b"{}") as (url, _), pytest.raises(UpstreamUnusable, match="more than 1024 bytes"):
        ask(url, alpha)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "x" * 5000},
        {"Content-Type": ";;;charset=\x7f"},
        {"Content-Type": "application/json; charset=nonsense", "Content-Encoding": "gzip"},
        {"Content-Type": "text/xml", "X-PyPI-Last-Serial": "9" * 500},
    ],
)
def test_odd_headers(headers: dict[str, str]) -> None:
    with answering(200, headers, b"{}") as (url, _):
        for question in QUESTIONS.values():
            with pytest.raises(UpstreamError) as caught:
                ask(url, question)
            assert str(caught.value).isprintable()


def test_json_that_only_python_takes_for_json() -> None:
    body = b'{"info": {"name": "alpha", "x": NaN}, "releases": {}}'
    headers = {"Content-Type": "application/json"}
    with answering(200, headers, body) as (url, _), pytest.raises(UpstreamUnusable, match="is not JSON"):
        ask(url, alpha)


def test_a_page_of_another_project() -> None:
    kind = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
    body = json.dumps({"meta": {"api-version": "1.4"}, "name": "beta", "files": [], "versions": []}).encode()
    with answering(200, kind, body) as (url, _):
        with pytest.raises(UpstreamUnusable, match="another project: 'beta'"):
            ask(url, lambda client: client.page("alpha"))
        assert ask(url, lambda client: client.page("Beta")).filenames == frozenset()


def test_nothing_modified_since_never() -> None:
    with answering(304, {}, b"") as (url, _):
        for name in ("project", "page", "listing"):
            with pytest.raises(UpstreamUnusable):
                ask(url, QUESTIONS[name])
