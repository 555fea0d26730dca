# SPDX-License-Identifier: BSD-3-Clause
"""The client against the simulator: what each kind of answer becomes. Needs no database."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import pytest

from piwheels.errors import UpstreamError, UpstreamMissing
from piwheels.pypi import client
from piwheels.pypi.client import Answer, PyPI, UpstreamAway
from piwheels.pypi.model import UpstreamUnusable
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
    with pytest.raises(UpstreamAway, match="cannot be reached"):
        ask(url, alpha)
