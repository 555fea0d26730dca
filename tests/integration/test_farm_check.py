# SPDX-License-Identifier: BSD-3-Clause
"""The check at the end of ``piw-farm --once``, with the real pip and the simulator as the index."""

import json
from pathlib import Path
from threading import Event

import pytest

from piwheels import farm_check
from piwheels.db.farm_facts import Wheel
from piwheels.farm_check import FEW, Checked, Checker
from tests.simulator import Simulator

pytestmark = pytest.mark.integration


def wheel(project: str, *top_level: str, version: str = "1.0", sha256: str = "ab" * 32) -> Wheel:
    return Wheel(project, version, f"{project}-{version}-py3-none-any.whl", sha256, top_level)


def check(folder: Path, index_url: str, *wheels: Wheel, stop: Event | None = None) -> list[Checked]:
    reported: list[Checked] = []
    results = Checker(folder / "check", index_url=index_url, stop=stop or Event()).check(wheels, reported.append)
    assert reported == results
    return results


def test_good_and_bad_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a user has configured for pip must not decide what is tested.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    with Simulator() as pypi:
        pypi.add_release("alpha", wheels=("py3-none-any",))
        pypi.add_release("beta", wheels=("py3-none-any",))
        good, unimportable, absent = check(
            tmp_path, pypi.url, wheel("alpha", "alpha"), wheel("beta", "something_else"), wheel("gamma", "gamma")
        )
    assert good.ok
    assert unimportable.problem.startswith("cannot be imported: ModuleNotFoundError")
    assert absent.problem.startswith("pip cannot install it from our index: ERROR: No matching distribution")
    assert json.loads((tmp_path / "checked.json").read_text()) == {"alpha-1.0-py3-none-any.whl": "ab" * 32}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checked.json"]


def test_of_many_only_the_new_ones_are_checked(tmp_path: Path) -> None:
    many = [wheel(f"project{number}") for number in range(FEW + 1)]
    passed = {one.filename: one.sha256 for one in many[:-2]} | {many[-2].filename: "cd" * 32}
    (tmp_path / "checked.json").write_text(json.dumps(passed))
    results = check(tmp_path, "http://127.0.0.1:9/simple/", *many)
    assert [one.wheel for one in results] == many[-2:]
    assert not any(one.ok for one in results)


def test_interrupted(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    (result,) = check(tmp_path, "http://127.0.0.1:9/simple/", wheel("alpha"), stop=stop)
    assert result.problem == "not checked: interrupted"


def test_a_damaged_record_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "checked.json").write_text("[1, 2")
    assert check(tmp_path, "http://127.0.0.1:9/simple/") == []


def test_an_import_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm_check, "IMPORT_SECONDS", 0.5)
    monkeypatch.setattr(farm_check, "_IMPORT", "import time; time.sleep(600)")
    with Simulator() as pypi:
        pypi.add_release("alpha", wheels=("py3-none-any",))
        (result,) = check(tmp_path, pypi.url, wheel("alpha", "alpha"))
    assert result.problem == "cannot be imported: it took longer than 0.5 s"
