# SPDX-License-Identifier: BSD-3-Clause
"""Each of the simulator's faults does what it says, to the answers that it concerns, and to no other."""

import http.client
import json
import random
import xmlrpc.client
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulator import CHAOS, Fault, Simulator, recipes, twist
from tests.simulator.fixtures import simulator
from tests.simulator.negotiation import SIMPLE_JSON

__all__ = ["simulator"]

JSON = "/pypi/spam/json"
RPC = "/pypi"
LISTING = "/simple/"
PAGE = "/simple/spam/"


@pytest.fixture
def pypi(simulator: Simulator) -> Simulator:
    """Two projects; the last change was the release of spam 2.0."""
    simulator.skip(1000)
    simulator.add_release("eggs", "1.0", recipes.TINY)
    simulator.add_release("spam", "1.0", recipes.TINY)
    simulator.add_release("spam", "2.0", recipes.TINY)
    return simulator


def ask(
    pypi: Simulator, path: str, call: bytes | None = None, *, timeout: float = 20
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request, redirects not followed; with a call: POST."""
    connection = http.client.HTTPConnection(pypi.host, pypi.port, timeout=timeout)
    try:
        connection.request("POST" if call else "GET", path, call, {"Accept": SIMPLE_JSON})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def call(pypi: Simulator, method: str, *parameters: Any) -> Any:
    """One call of XML-RPC."""
    with xmlrpc.client.ServerProxy(f"{pypi.root}pypi", allow_none=True) as proxy:
        return getattr(proxy, method)(*parameters)


def listed(pypi: Simulator) -> list[tuple[Any, int]]:
    return [(one["name"], one["_last-serial"]) for one in json.loads(ask(pypi, LISTING)[2])["projects"]]


def get_json(pypi: Simulator, path: str = JSON) -> Any:
    return json.loads(ask(pypi, path)[2])


def journal(pypi: Simulator) -> list[Any]:
    return list(call(pypi, "changelog_since_serial", 0))


def right(pypi: Simulator) -> list[Any]:
    """The events, as they should be told."""
    return [event.row() for event in pypi.events]


# The answer as a whole

CALL = xmlrpc.client.dumps((), "changelog_last_serial").encode()
PLACES = [(JSON, None), (LISTING, None), (PAGE, None), (RPC, CALL)]
places = pytest.mark.parametrize(("path", "body"), PLACES, ids=["json", "listing", "page", "rpc"])


@places
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.RATE_LIMIT, 429),
        (Fault.ERROR, 500),
        (Fault.UNAVAILABLE, 503),
        (Fault.MISSING, 404),
        (Fault.FORBIDDEN, 403),
        (Fault.LOOP, 302),
        (Fault.REDIRECT, 302),
    ],
)
def test_statuses(fault: Fault, status: int, path: str, body: bytes | None, pypi: Simulator) -> None:
    pypi.fault(fault, path=path, retry_after="7")
    got, headers, _ = ask(pypi, path, body)
    assert got == status
    if fault is Fault.RATE_LIMIT:
        assert headers["Retry-After"] == "7"
    if fault is Fault.LOOP:
        assert headers["Location"] == path
    if fault is Fault.REDIRECT:
        assert b"log in" in ask(pypi, headers["Location"])[2]
    assert ask(pypi, path, body)[0] == 200


@places
def test_connections(path: str, body: bytes | None, pypi: Simulator) -> None:
    whole = ask(pypi, path, body)[2]
    pypi.fault(Fault.TRUNCATE, path=path)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(pypi, path, body)
    assert caught.value.partial == whole[: len(whole) // 2]
    pypi.fault(Fault.DROP, path=path)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(pypi, path, body)
    pypi.fault(Fault.STALL, path=path)
    with pytest.raises(TimeoutError):
        ask(pypi, path, body, timeout=0.1)
    assert ask(pypi, path, body)[2] == whole


@places
def test_bodies(path: str, body: bytes | None, pypi: Simulator) -> None:
    kind = ask(pypi, path, body)[1].get_content_type()
    for fault, starts, said in (
        (Fault.WRONG_TYPE, b"<!DOCTYPE html>", "text/html"),
        (Fault.HTML, b"<!DOCTYPE html>", kind),
        (Fault.GARBAGE, b'{"info": \x00\xff', kind),
        (Fault.XML_BOMB, b"<?xml" if kind == "text/xml" else b"[[[[", kind),
    ):
        pypi.fault(fault, path=path)
        status, headers, got = ask(pypi, path, body)
        assert (status, headers.get_content_type(), got[: len(starts)]) == (200, said, starts)


def test_a_body_without_an_end(pypi: Simulator) -> None:
    pypi.fault(Fault.HUGE)
    assert len(ask(pypi, JSON)[2]) == 100 << 20


def test_the_bomb_is_one() -> None:
    assert twist.BOMB.count("<!ENTITY") == 13
    with pytest.raises(RecursionError):
        json.loads(twist.bomb("application/json"))


def test_xml_rpcs_own_rate_limit(pypi: Simulator) -> None:
    pypi.fault(Fault.RPC_LIMIT, times=2)
    with pytest.raises(xmlrpc.client.Fault, match="HTTPTooManyRequests: ") as caught:
        journal(pypi)
    assert caught.value.faultCode == -32500
    assert ask(pypi, JSON)[0] == 429
    assert journal(pypi) == right(pypi)


# What it says


def test_nulls(pypi: Simulator) -> None:
    pypi.fault(Fault.NULLS, times=3)
    document = get_json(pypi)
    assert document["info"]["name"] is None
    assert document["releases"]["1.0"][0]["filename"] is None
    names = [name for name, _ in listed(pypi)]
    assert names == ["eggs", "spam", None, None]
    rows = journal(pypi)
    assert rows[: len(pypi.events)] == right(pypi)
    assert [None, None, None, None, pypi.serial] in rows
    assert rows[-1] is None


def test_mega_names(pypi: Simulator) -> None:
    pypi.fault(Fault.MEGA_NAME, times=4)
    assert len(get_json(pypi)["info"]["name"]) == 1 << 20
    assert len(get_json(pypi, PAGE)["name"]) == 1 << 20
    assert [len(name) >= 1 << 20 for name, _ in listed(pypi)][:3] == [False, False, True]
    rows = journal(pypi)
    assert rows[: len(pypi.events)] == right(pypi)
    assert [len(row[0]) for row in rows[len(pypi.events) :]] == [
        1 << 20,
        len(twist.CONTROL) - 1,
        5,
    ]  # XML reads \r\n as \n
    assert {row[4] for row in rows[len(pypi.events) :]} == {pypi.serial}


def test_an_empty_listing(pypi: Simulator) -> None:
    pypi.fault(Fault.EMPTY_LISTING, times=3)
    listing = get_json(pypi, LISTING)
    assert (listing["meta"]["_last-serial"], listing["projects"]) == (pypi.serial, [])
    assert call(pypi, "list_packages_with_serial") == {}
    assert get_json(pypi)["info"]["name"] == "spam"


def test_stale_answers(pypi: Simulator) -> None:
    before = pypi.last_change[1]
    pypi.fault(Fault.STALE, times=6)
    document = get_json(pypi)
    assert (document["last_serial"], list(document["releases"])) == (before, ["1.0"])
    page = get_json(pypi, PAGE)
    assert (page["meta"]["_last-serial"], page["versions"]) == (before, ["1.0"])
    eggs = pypi.projects["eggs"].serial
    assert listed(pypi) == [("eggs", eggs), ("spam", before)]
    assert call(pypi, "changelog_last_serial") == before
    assert journal(pypi) == [row for row in right(pypi) if row[4] <= before]
    assert call(pypi, "list_packages_with_serial") == {"eggs": eggs, "spam": before}
    assert get_json(pypi)["last_serial"] == pypi.serial


def test_stale_answers_bring_the_dead_back(pypi: Simulator) -> None:
    pypi.remove_project("spam")
    assert ask(pypi, JSON)[0] == 404
    pypi.fault(Fault.STALE, times=2)
    assert list(get_json(pypi)["releases"]) == ["1.0", "2.0"]
    assert [name for name, _ in listed(pypi)] == ["eggs", "spam"]
    pypi.add_project("new")
    pypi.fault(Fault.STALE, times=2)
    assert ask(pypi, "/pypi/new/json")[0] == 404
    assert [name for name, _ in listed(pypi)] == ["eggs"]


def test_a_project_vanishes_once(pypi: Simulator) -> None:
    for path in (JSON, PAGE):
        pypi.fault(Fault.VANISH)
        assert [ask(pypi, path)[0] for _ in range(2)] == [404, 200]
    pypi.fault(Fault.VANISH)
    assert len(listed(pypi)) == 2


def test_serials_go_back(pypi: Simulator) -> None:
    back = pypi.serial - twist.BACK
    pypi.fault(Fault.SERIAL_BACK, times=4)
    assert call(pypi, "changelog_last_serial") == back
    assert get_json(pypi, LISTING)["meta"]["_last-serial"] == back
    assert max(serial for _, serial in listed(pypi)) <= back
    assert get_json(pypi)["last_serial"] == back
    pypi.fault(Fault.SERIAL_BACK)
    assert journal(pypi) == []
    assert journal(pypi) == right(pypi)


def test_shuffled_and_doubled(pypi: Simulator) -> None:
    pypi.fault(Fault.SHUFFLE)
    shuffled = journal(pypi)
    assert shuffled != right(pypi)
    assert sorted(shuffled, key=lambda row: row[4]) == right(pypi)
    pypi.fault(Fault.DUPLICATE)
    doubled = journal(pypi)
    assert len(doubled) == 2 * len(pypi.events) + 1
    assert {tuple(row) for row in doubled} == {tuple(row) for row in right(pypi)}
    pypi.fault(Fault.DUPLICATE)
    rows = listed(pypi)
    assert [name for name, _ in rows] == ["eggs", "spam", "EGGS", "SPAM"]
    assert rows[2][1] < rows[0][1]
    pypi.fault(Fault.SHUFFLE)
    assert sorted(listed(pypi)) == rows[:2]


def test_times_go_back(pypi: Simulator) -> None:
    pypi.fault(Fault.TIME_BACK)
    rows = journal(pypi)
    times = [row[2] for row in rows]
    assert times != sorted(times)
    assert [[*row[:2], *row[3:]] for row in rows] == [[*row[:2], *row[3:]] for row in right(pypi)]


def test_gaps_lose_nothing(pypi: Simulator) -> None:
    last = pypi.serial
    pypi.fault(Fault.GAPS)
    assert call(pypi, "changelog_last_serial") == last
    pypi.docupdate("spam")
    assert pypi.serial > last + 1
    rows = journal(pypi)
    assert rows == right(pypi)
    assert rows[-1][4] == call(pypi, "changelog_last_serial")


# When


def test_faults_are_used_up_by_what_they_are_for(pypi: Simulator) -> None:
    pypi.fault(Fault.ERROR, path="eggs", times=2)
    assert ask(pypi, JSON)[0] == 200
    assert [ask(pypi, "/pypi/eggs/json")[0] for _ in range(3)] == [500, 500, 200]
    pypi.fault(Fault.ERROR, times=None)
    assert {ask(pypi, JSON)[0] for _ in range(5)} == {500}
    pypi.clear_faults()
    assert ask(pypi, JSON)[0] == 200


def statuses(pypi: Simulator, path: str, number: int) -> Counter[int]:
    return Counter(ask(pypi, path)[0] for _ in range(number))


def test_chaos_has_its_rate_and_its_choice(pypi: Simulator) -> None:
    pypi.chaos(random.Random(5), 0.3, faults=[Fault.ERROR, Fault.MISSING])
    seen = statuses(pypi, JSON, 300)
    assert set(seen) == {200, 500, 404}
    assert 60 <= seen[500] + seen[404] <= 120
    pypi.chaos(random.Random(5), 1.0, faults=[Fault.ERROR], path="eggs")
    assert statuses(pypi, JSON, 20) == {200: 20}
    pypi.clear_faults()
    assert statuses(pypi, "/pypi/eggs/json", 20) == {200: 20}


def outcome(work: Callable[[], Any]) -> str:
    try:
        return repr(work())
    except (http.client.HTTPException, OSError) as error:
        return type(error).__name__


def test_chaos_is_the_same_again_and_leaves_no_harm(pypi: Simulator) -> None:
    told = []
    for _ in range(2):
        pypi.chaos(random.Random(11), 0.7)
        told.append([outcome(lambda path=path, body=body: ask(pypi, path, body)[0]) for path, body in PLACES * 40])  # type: ignore[misc]
    assert told[0] == told[1]
    assert len(set(told[0])) > 5
    pypi.clear_faults()
    assert journal(pypi) == right(pypi)
    assert get_json(pypi)["last_serial"] == pypi.serial
    assert set(Fault) - set(CHAOS) == {Fault.STALL, Fault.HUGE}
