# SPDX-License-Identifier: BSD-3-Clause
"""A running farm as its clients see it, and how it is stopped."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tests.e2e.running import FarmFolder, RunningFarm, clean_environ
from tests.simulator import Recipe, Simulator
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e

POLL = ("--set", "slave.poll=0.5")


@pytest.fixture(scope="module")
def running() -> Iterator[RunningFarm]:
    """A farm that has built two projects and goes on running."""
    folder = FarmFolder()
    with Simulator() as pypi:
        pypi.add_release("Plain.Pure", "1.0")
        pypi.add_release("has-extension", "2.0", Recipe(native=True))
        pypi.add_release("breaks", "1.0", Recipe(misbehaviour="fail"))
        with folder.start(*POLL, "Plain.Pure", "has-extension", "breaks", upstream=pypi.url) as farm:
            for name in ("plain-pure", "has-extension"):
                farm.wait_for_line(f"published .*/simple/{name}/", seconds=90)
            farm.wait_for_line("uv pip install", seconds=90)
            yield farm
    folder.remove()


def downloads(folder: FarmFolder) -> dict[str, int]:
    return {name: month for name, month, *_ in folder.json("/packages.json")}


def test_pip_and_uv_fetch_our_wheels_and_are_counted(running: RunningFarm, tmp_path: Path) -> None:
    folder = running.folder
    before = downloads(folder).get("has-extension", 0)
    index = f"{folder.url}/simple/"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--index-url", index]
    subprocess.run([*pip, "-d", str(tmp_path), "has-extension"], check=True, env=clean_environ(), timeout=60)
    assert [path.suffix for path in tmp_path.iterdir()] == [".whl"]

    uv = [sys.executable, "-m", "uv", "--no-cache", "--no-config"]
    subprocess.run([*uv, "venv", "-q", str(tmp_path / "venv")], check=True, env=clean_environ(), timeout=60)
    python = str(tmp_path / "venv/bin/python")
    install = [*uv, "pip", "install", "--no-deps", "--index-url", index, "--python", python]
    subprocess.run([*install, "has-extension", "Plain.Pure"], check=True, env=clean_environ(), timeout=60)
    subprocess.run([python, "-c", "import has_extension, plain_pure"], check=True, timeout=60)

    wait_for(lambda: downloads(folder).get("has-extension", 0) >= before + 2, "the downloads", seconds=60)

    def on_its_page() -> bool:
        return bool(folder.json("/project/has-extension/json")["downloads"]["all"] >= before + 2)

    wait_for(on_its_page, "the downloads on the project's page", seconds=60)
    kinds = folder.query("SELECT DISTINCT installer FROM download_days ORDER BY 1")
    assert {("pip",), ("uv",)} <= set(kinds)


def test_pages(running: RunningFarm) -> None:
    folder = running.folder
    for path in ("/", "/simple/", "/project/plain-pure/", "/project/breaks/", "/project/Plain.Pure", "/p/plain-pure"):
        status, body = folder.get(path, "text/html")
        assert status == 200 and b"<html" in body.lower(), path
    assert folder.get("/simple/breaks/")[0] == 404
    assert folder.get("/simple/unheard-of/")[0] == 404
    status, body = folder.get("/nowhere")
    assert status == 404 and b"<html" in body.lower()


def test_json_keeps_to_its_schema(running: RunningFarm) -> None:
    schema = running.folder.json("/schema/project.json")
    for name in ("plain-pure", "has-extension", "breaks"):
        page = running.folder.json(f"/project/{name}/json")
        jsonschema.validate(page, schema)
        for field in ("package", "summary", "pypi_url", "piwheels_url", "releases"):
            assert field in page
        for release in page["releases"].values():
            assert {"skip_reason", "prerelease", "released", "yanked", "files"} <= set(release)
            for file in release["files"].values():
                wanted = {"filesize", "apt_dependencies", "filehash", "platform", "builder_abi", "file_abi_tag"}
                assert wanted <= set(file)


def test_a_second_farm_in_the_same_directory_is_refused(running: RunningFarm) -> None:
    with running.folder.start("other") as second:
        assert second.process.wait(30) == 3
    assert len(second.lines) == 1
    assert f"(process {running.process.pid})" in second.lines[0]
    assert running.process.poll() is None


def test_web_outlives_the_master(running: RunningFarm) -> None:
    master = running.find("piwheels.master.cli")
    assert master is not None
    master.kill()
    assert running.folder.get("/simple/plain-pure/")[0] == 200
    wait_for(lambda: running.find("piw-master", "stats"), "the roles to be back", seconds=60)


def test_port_in_use(folder: FarmFolder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", folder.port))
        taken.listen()
        with folder.start("alpha") as farm:
            assert farm.process.wait(30) == 3
    assert farm.lines == [f"piw-farm: port {folder.port} is in use by another program; choose another with --port"]


def test_no_compiler(folder: FarmFolder, tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    command = [sys.executable, "-m", "piwheels.farm", "--dir", str(folder.path), "--port", str(folder.port)]
    ended = subprocess.run(
        command, env=clean_environ() | {"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 3
    assert len(ended.stderr.splitlines()) == 1 and "compiler" in ended.stderr


def test_stopping_leaves_nothing(pypi: Simulator, folder: FarmFolder) -> None:
    """However it is ended; and each time it can be started again where it stopped."""
    pypi.add_release("hangs", "1.0", Recipe(misbehaviour="hang"))
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):  # SIGTERM: see test_killing
        with folder.start(*POLL, "hangs", upstream=pypi.url) as farm:
            farm.wait_for_line("building hangs 1.0")
            farm.end(number, status)
