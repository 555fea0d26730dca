# SPDX-License-Identifier: BSD-3-Clause
"""``piw-farm --once``: from the simulator's projects to wheels that pip installs, and what it says of the others."""

import gzip
from pathlib import Path

import pytest

from piwheels.master.targets import native
from tests.e2e.running import FarmFolder
from tests.simulator import Fault, Recipe, Simulator

pytestmark = pytest.mark.e2e

GOOD = ("Plain.Pure", "has-extension")
#: The last resort of a build is short here, and a builder's fault is final at once.
QUICK = ("--set", "dispatch.build_timeout=20", "--set", "dispatch.strikes=1", "--set", "slave.poll=0.5")


def fill(pypi: Simulator) -> None:
    """Projects of every kind."""
    pypi.add_release("Plain.Pure", "1.0")
    pypi.add_release("Plain.Pure", "1.1", requires_python=">=3.8")
    pypi.add_release("has-extension", "2.0", Recipe(native=True))
    pypi.add_release("served", "1.0", wheels=("py3-none-any",))
    pypi.add_release("breaks", "1.0", Recipe(misbehaviour="fail"))
    pypi.add_release("hangs", "1.0", Recipe(misbehaviour="hang"))
    pypi.add_release("tampered", "1.0", wrong_hash=True)
    pypi.add_release("lies", "1.0", Recipe(lie="somebody-else"))
    pypi.add_release("escapes", "1.0", Recipe(wheel_filename="../../escaped-1.0-py3-none-any.whl"))
    pypi.add_release("no-sdist", "1.0", None, wheels=("cp27-cp27m-win32",))


def test_every_kind_of_project(pypi: Simulator, folder: FarmFolder) -> None:
    fill(pypi)
    pypi.fault(Fault.UNAVAILABLE, times=2)  # it comes back while the farm waits for it
    bad = ("breaks", "hangs", "tampered", "lies", "escapes", "no-sdist", "unheard-of")
    farm = folder.once(*QUICK, *GOOD, "served", *bad, upstream=pypi.url, seconds=180)
    assert farm.process.returncode == 1, f"{farm.said}\n{farm.logs()}"

    failed = [line for line in farm.lines if line.startswith("failed: ")]
    assert len(failed) == len(bad), farm.said
    for name in bad:
        assert any(line.startswith(f"failed: {name}") for line in failed), f"{name} in {failed}"
    for expected in ("installed plain_pure-1.1-py3-none-any.whl, imported plain_pure", "served by PyPI: served 1.0"):
        assert expected in farm.said
    assert "imported has_extension" in farm.said
    assert "Traceback" not in farm.said
    check_tree(folder)
    check_failures(folder)

    check_second_run(pypi, folder)
    check_run_without_pypi(pypi, folder)


def check_tree(folder: FarmFolder) -> None:
    """What is published is what was built, complete and consistent."""
    www = folder.path / "www"
    root = folder.published("simple/index.v1_json")
    assert sorted(one["name"] for one in root["projects"]) == ["has-extension", "plain-pure"]
    assert sorted(path.name for path in (www / "simple").iterdir() if path.is_dir()) == ["has-extension", "plain-pure"]
    target = native()
    for name, tag in (("plain-pure", "py3-none-any"), ("has-extension", f"{target.abi}-{target.abi}-")):
        page = folder.published(f"simple/{name}/index.v1_json")
        (file,) = page["files"]
        assert tag in file["filename"]
        wheel = www / "simple" / name / file["filename"]
        assert wheel.stat().st_size == file["size"]
        assert (wheel.parent / (wheel.name + ".metadata")).exists()
    assert folder.published("simple/plain-pure/index.v1_json")["files"][0]["requires-python"] == ">=3.8"
    assert not list(folder.path.rglob("escaped-*"))


def check_failures(folder: FarmFolder) -> None:
    """Each failed build is on its project's pages, with a reason and a log."""
    for name, reason in (("breaks", "package"), ("hangs", "timeout"), ("lies", "package")):
        page = folder.published(f"project/{name}/json/index.json")
        (build,) = page["releases"]["1.0"]["builds"].values()
        assert build["status"] == "failed" and build["failure"] == reason, (name, build)
        log = folder.path / "www" / build["log_url"].removeprefix(folder.url).lstrip("/")
        assert gzip.decompress(log.read_bytes())
        assert not page["releases"]["1.0"]["files"]
    assert (folder.path / "www/project/breaks/index.html").exists()
    packages = {name for name, *_ in folder.published("packages.json")}
    assert {"plain-pure", "breaks", "served"} <= packages and "unheard-of" not in packages


def check_second_run(pypi: Simulator, folder: FarmFolder) -> None:
    """The same command again builds nothing; since it asks for more this time, what is missing and nothing else."""
    before, sdists = written(folder), len(pypi.asked("/files/"))
    farm = folder.once(*QUICK, "--releases", "all", *GOOD, "served", upstream=pypi.url)
    assert farm.process.returncode == 0, f"{farm.said}\n{farm.logs()}"
    built = [line.split(" in ")[0] for line in farm.lines if line.startswith("built ")]
    assert built == ["built Plain.Pure 1.0"], farm.said
    assert len(pypi.asked("/files/")) == sdists + 1
    after = written(folder)
    for path, time in before.items():
        assert after[path] == time or (path.suffix != ".whl" and path.parent.name != "has-extension"), path
    files = folder.published("simple/plain-pure/index.v1_json")["files"]
    assert [file["filename"] for file in files] == [f"plain_pure-{one}-py3-none-any.whl" for one in ("1.0", "1.1")]


def written(folder: FarmFolder) -> dict[Path, int]:
    """When each of the index's files was."""
    files = (path for path in (folder.path / "www" / "simple").rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


def check_run_without_pypi(pypi: Simulator, folder: FarmFolder) -> None:
    """What is known will do; and since nothing is missing, nothing is built or written again."""
    before = written(folder)
    pypi.stop()
    farm = folder.once(*QUICK, *GOOD, "served", upstream=pypi.url)
    assert farm.process.returncode == 0, f"{farm.said}\n{farm.logs()}"
    assert "this is what was known before" in farm.said
    assert not [line for line in farm.lines if line.startswith("built ")], farm.said
    assert written(folder) == before


def test_a_pypi_that_stays_away(pypi: Simulator, folder: FarmFolder) -> None:
    pypi.add_release("alpha")
    pypi.fault(Fault.UNAVAILABLE, times=None)
    farm = folder.once("alpha", upstream=pypi.url)
    assert farm.process.returncode == 3, farm.said
    assert farm.lines[-1].startswith("piw-farm: PyPI ")
    assert any(line.endswith("; trying again until it does") for line in farm.lines)
