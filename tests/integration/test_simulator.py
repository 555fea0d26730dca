# SPDX-License-Identifier: BSD-3-Clause
"""The simulator is accepted by pip and uv, and misbehaves as told."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.simulator import Fault, Simulator, recipes
from tests.simulator.fixtures import simulator
from tests.waiting import wait_for

__all__ = ["simulator"]

ROOT = Path(__file__).parents[2]


def pip(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-m", "pip", "--no-cache-dir", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False)


def test_pip_builds_its_sdists_and_takes_its_wheels(simulator: Simulator, tmp_path: Path) -> None:
    simulator.add_release("Some.Pure", "1.0", recipes.PURE)
    simulator.add_release("ext", "1.0", recipes.EXTENSION)
    simulator.add_release("ext", "2.0", recipes.EXTENSION, requires_python=">=3.99")
    simulator.add_release("served", "3.0", wheels=("py3-none-any",))
    target = tmp_path / "site"
    names = ["some_pure", "ext", "served"]
    done = pip("install", "--target", str(target), "--index-url", simulator.url, *names, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [request.status for request in simulator.asked("served-3.0-py3-none-any.whl.metadata")] == [200]
    code = "import some_pure, ext, served; print(some_pure.VERSION, ext.answer(), served.VERSION)"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(target)}
    seen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["1.0", "42", "3.0"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [("failing", "this package cannot be built"), ("lying", "unexpected file name"), ("wrong", "Expected sha256")],
)
def test_its_bad_packages_are_bad(recipe: str, words: str, simulator: Simulator, tmp_path: Path) -> None:
    simulator.add_release("bad", "1.0", recipes.RECIPES.get(recipe, recipes.PURE), wrong_hash=recipe == "wrong")
    done = pip("wheel", "--no-deps", "--index-url", simulator.url, "bad", home=tmp_path)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def test_uv_reads_its_index(simulator: Simulator, tmp_path: Path) -> None:
    simulator.add_release("served", "3.0", None, wheels=("py3-none-any",))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_NO_CONFIG": "1"}
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--no-cache", "--python", sys.executable, "--target", tmp_path / "site"]
    done = subprocess.run(
        [*map(str, command), "--index-url", simulator.url, "served"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "served").is_dir()
    assert [request.status for request in simulator.asked(".metadata")] == [200]


def test_the_same_arguments_make_the_same_bytes() -> None:
    assert recipes.sdist("a", "1", recipes.EXTENSION) == recipes.sdist("a", "1", recipes.EXTENSION)
    assert recipes.wheel("a", "1") == recipes.wheel("a", "1")
    assert recipes.sdist("a", "1") != recipes.sdist("a", "1", recipes.FAILING)


def get(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={key.replace("_", "-"): value for key, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_conditional_requests_and_faults(simulator: Simulator) -> None:
    simulator.add_release("alpha")
    url = f"{simulator.root}pypi/alpha/json"
    with urllib.request.urlopen(url, timeout=20) as answer:
        etag = answer.headers["ETag"]
    assert get(url, If_None_Match=etag) == (304, b"")
    simulator.fault(Fault.UNAVAILABLE, path="alpha", times=1)
    assert get(url)[0] == 503
    simulator.yank("alpha", "1.0", "broken")
    assert get(url, If_None_Match=etag)[0] == 200
    assert get(f"{simulator.root}pypi/beta/json")[0] == 404
    assert simulator.tally() == {200: 2, 304: 1, 503: 1, 404: 1}
    assert simulator.asked("alpha")[1].if_none_match == etag


def test_it_runs_as_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "tests.simulator", "--demo", "mine==2.0=extension"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = wait_for(process.stdout.readline, "its address", seconds=20).strip()
        status, body = get(url)
        assert status == 200
        assert b"sim-hanging" in body
        assert b"mine-2.0.tar.gz" in get(f"{url}mine/")[1]
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()
