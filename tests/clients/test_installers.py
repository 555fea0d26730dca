# SPDX-License-Identifier: BSD-3-Clause
"""Real installers against a published tree behind nginx, beside a simulated PyPI.

All of them do their shopping at once, before the first test; each test looks at one aspect of what each did. What they
find there is ``shop.OFFER``.
"""

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.clients import shop
from tests.clients.cutter import AFTER, cutting
from tests.clients.installers import WAYS, Client, Said, Visit
from tests.clients.shop import EMPTY, NATIVE, REASON, Shop, wheels
from tests.simulator import Simulator

pytestmark = pytest.mark.e2e

PIPS = ("pip-23", "pip-24", "pip-25.1", "pip")
AGENTS = {"uv": r"uv/", "poetry": r"poetry/", **dict.fromkeys(PIPS, r"pip/")}
JSON = "application/vnd.pypi.simple.v1+json"
CUSTOMERS = [f"127.7.{number}.{visit}" for number in range(1, len(WAYS) + 1) for visit in range(1, 7)]


@pytest.fixture(scope="module")
def day(stocked: Shop) -> Iterator[dict[str, Future[Client]]]:
    """Every client's shopping, under way or done."""
    with Simulator() as pypi, shop.opened(stocked, CUSTOMERS) as counter:
        pypi.add_release("both", "1.0")
        pypi.add_release("newer", "2.0", None, wheels=["py3-none-any"])
        pypi.add_release("tie", "1.0", None, wheels=["py3-none-any"])
        pypi.add_release(EMPTY, "1.0", None, wheels=["py3-none-any"])

        def go(number: int, name: str) -> Client:
            folder = stocked.root / name
            folder.mkdir()
            with cutting(f"127.7.{number}.{Visit.CUT}", counter.port) as cutter:
                one = Client(name, number, folder, counter, pypi.url, cutter)
                WAYS[name](one)
            return one

        with ThreadPoolExecutor(max_workers=2) as threads:
            yield {name: threads.submit(go, number, name) for number, name in enumerate(WAYS, 1)}


@pytest.fixture
def one(request: pytest.FixtureRequest, day: dict[str, Future[Client]]) -> Client:
    """A client after its shopping."""
    return day[request.param].result(240)


def of(*names: str) -> pytest.MarkDecorator:
    """A test of these clients."""
    return pytest.mark.parametrize("one", names, indirect=True)


def went_well(one: Client, visit: int) -> Said:
    """What came of a visit."""
    said = one.said[visit]
    assert said.status == 0, f"{one.name}:\n{said.text}"
    return said


EVERYBODY = of(*WAYS)


@EVERYBODY
def test_passes_over_what_is_yanked_or_unfit(one: Client) -> None:
    """For another Python; with requirements that cannot be; withdrawn. Of what has build numbers, the highest."""
    got = went_well(one, Visit.EXTRA).installed
    assert got["plain"] == "2.0" and got["part"] == "1.0"
    assert got["python"] == "1.0"
    assert got["choosy"] == "1.0"
    assert got["cool"] == "2.0"
    assert "build = '-10'" in (one.target(Visit.EXTRA) / "again.py").read_text()


@EVERYBODY
def test_fetches_nothing_but_what_it_installs(one: Client) -> None:
    """What it passed over it knew by the metadata beside the wheels."""
    went_well(one, Visit.EXTRA)
    asked = one.asked(Visit.EXTRA)
    assert {line.status for line in asked if line.kind == JSON} <= {200, 304} and [x for x in asked if x.kind == JSON]
    assert not [line for line in asked if re.match("text/html|.*\\+html", line.kind) and line.status == 200]
    assert {line.status for line in asked if line.name.endswith(".metadata")} == {200}
    fetched = {name for name in wheels(asked) if not name.startswith("tie")}
    assert fetched >= {f"choosy-1.0-{NATIVE}.whl", f"again-1.0-10-{NATIVE}.whl"}
    passed_over = [f"choosy-2.0-{NATIVE}.whl", f"part-1.5-{NATIVE}.whl", f"python-2.0-{NATIVE}.whl"]
    assert not fetched.intersection([*passed_over, f"again-1.0-{NATIVE}.whl", f"again-1.0-1-{NATIVE}.whl"])
    assert re.match(AGENTS.get(one.name, "pip/"), asked[0].agent)


@EVERYBODY
def test_asks_the_next_index_for_what_we_have_not(one: Client) -> None:
    got = went_well(one, Visit.EXTRA).installed
    assert got[EMPTY] == "1.0"
    assert {line.status for line in one.asked(Visit.EXTRA, f"/{EMPTY}/")} == {404}


@of(*PIPS, "poetry")
def test_takes_the_best_of_both_indexes(one: Client) -> None:
    """Our wheel rather than an sdist, PyPI's newer version rather than ours. Of one file name in both, pip takes the
    extra index's, and poetry its first source's."""
    got = went_well(one, Visit.EXTRA).installed
    assert got["both"] == "1.0" and f"both-1.0-{NATIVE}.whl" in wheels(one.asked(Visit.EXTRA))
    assert got["newer"] == "2.0"
    assert "tie-1.0-py3-none-any.whl" in wheels(one.asked(Visit.EXTRA))


def test_to_uv_the_first_index_with_a_project_is_the_only_one(day: dict[str, Future[Client]]) -> None:
    one = day["uv"].result(240)
    got = went_well(one, Visit.EXTRA).installed
    assert got["newer"] == "1.0"
    assert "tie-1.0-py3-none-any.whl" in wheels(one.asked(Visit.EXTRA))


@EVERYBODY
def test_takes_what_is_yanked_if_told_so_exactly(one: Client) -> None:
    said = went_well(one, Visit.LOCK if one.name == "poetry" else Visit.PINNED)
    assert REASON in said.text and "yanked" in said.text


@of(*PIPS, "uv")
def test_asks_whether_a_page_changed(one: Client) -> None:
    """A few bytes confirm what it kept."""
    went_well(one, Visit.PINNED)
    again = [line for line in one.asked(Visit.PINNED, "/plain/") if line.status == 304]
    assert again and all(line.sent < 1000 for line in again)


@of("uv", "poetry", "pip", "pip-25.1")
def test_locks_with_our_hashes(one: Client, stocked: Shop) -> None:
    went_well(one, Visit.LOCK)
    file = {"uv": f"{Visit.LOCK}.txt", "poetry": "shopping/poetry.lock"}.get(one.name, "pylock.toml")
    text = (one.folder / file).read_text()
    for name in ("choosy-1.0", "part-1.0"):
        assert stocked.sha256(f"{name}-{NATIVE}.whl") in text


@of("uv", "poetry")
def test_locks_without_fetching_a_wheel(one: Client) -> None:
    """Poetry fetches some later, from the same address, when it installs."""
    went_well(one, Visit.LOCK)
    asked = [line.name for line in one.asked(Visit.EXTRA if one.name == "poetry" else Visit.LOCK)]
    metadata = [number for number, name in enumerate(asked) if name.endswith(".metadata")]
    assert metadata and not [name for name in asked[: metadata[-1]] if name.endswith(".whl")]
    assert one.name == "poetry" or not [name for name in asked if name.endswith(".whl")]


@of("pip")
def test_plans_without_fetching_a_wheel(one: Client) -> None:
    """What pip would install, it says from the metadata."""
    went_well(one, Visit.PINNED)
    assert f"bitten-2.0-{NATIVE}.whl.metadata" in [line.name for line in one.asked(Visit.PINNED)]
    assert f"bitten-2.0-{NATIVE}.whl" not in wheels(one.asked(Visit.PINNED))


@of(*PIPS, "uv")
def test_installs_by_hashes(one: Client) -> None:
    assert went_well(one, Visit.HASHED).installed.keys() >= {"part"}


@of("pip", "uv")
def test_cools_down(one: Client) -> None:
    """What is newer than somebody trusts is not there for them; so the index must say when each file came."""
    assert went_well(one, Visit.COOL).installed == {"cool": "1.0"}


@of("pip", "pip-25.1", "poetry")
def test_goes_on_where_a_download_broke_off(one: Client) -> None:
    assert went_well(one, Visit.CUT).installed["big"] == "1.0"
    first, second = one.asked(Visit.CUT, f"big-1.0-{NATIVE}.whl")
    assert (first.status, first.range, second.status) == (200, "", 206)
    assert AFTER * 0.9 < int(second.range.removeprefix("bytes=").removesuffix("-")) <= AFTER
    assert second.sent < first.sent - AFTER * 0.8


def test_uv_begins_a_broken_download_anew(day: dict[str, Future[Client]]) -> None:
    one = day["uv"].result(240)
    assert went_well(one, Visit.CUT).installed["big"] == "1.0"
    assert [line.status for line in one.asked(Visit.CUT, f"big-1.0-{NATIVE}.whl")] == [200, 200]
