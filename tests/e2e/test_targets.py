# SPDX-License-Identifier: BSD-3-Clause
"""Three targets on one machine, from PyPI's projects to the index: what is built how often, and for whom."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from piwheels.db.tables import builds, feeds, files, jobs, pages, projects, releases, targets
from piwheels.master.targets import Target, native
from piwheels.vocabulary import Outcome
from tests.e2e.several import SeveralTargets, until
from tests.simulator import Recipe, Simulator
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e

OWN = native()
NEWER = f"3.{sys.version_info[1] + 1}"  #: a Python that the third target has and this machine need not have
NEWER_ABI = "cp" + NEWER.replace(".", "")

#: The first two differ in their distribution, the last two in their Python.
ELDER = replace(OWN, name="elder", distribution="bookworm", rank=10)
YOUNGER = replace(OWN, name="younger", distribution="trixie", rank=20)
NEWEST = replace(YOUNGER, name="newest", python_version=NEWER, abi=NEWER_ABI, rank=30)

NATIVE_WHEEL = f"{NEWER_ABI}-{NEWER_ABI}-{OWN.platform}"


def fill(pypi: Simulator) -> None:
    """A project for each rule."""
    pypi.add_release("pure", "1.0")
    pypi.add_release("stable", "1.0", Recipe(native=True, abi3=True))
    pypi.add_release("compiled", "1.0", Recipe(native=True))
    pypi.add_release("modern", "1.0", requires_python=f">={NEWER}")
    pypi.add_release("served", "1.0", wheels=("py3-none-any",))
    # PyPI's wheels are for one Python only, and run on any distribution.
    platform = next((tag for tag in OWN.platforms if tag.startswith("manylinux")), OWN.platform)
    pypi.add_release("half-served", "1.0", Recipe(native=True), wheels=(f"{OWN.abi}-{OWN.abi}-{platform}",))


NAMES = ("pure", "stable", "compiled", "modern", "served", "half-served")

EXPECTED = {
    "pure": {"elder"},  # once: it serves them all
    "stable": {"elder", "younger"},  # once for each distribution, whichever of its targets came first
    "compiled": {"elder", "younger", "newest"},  # once for each target
    "modern": {"newest"},  # only where its Requires-Python is met
    "served": set(),  # PyPI has it
    "half-served": {"newest"},
}

TAGS = {
    "pure": {"py3-none-any"},
    "stable": {f"cp38-abi3-{OWN.platform}"},
    "compiled": {f"{OWN.abi}-{OWN.abi}-{OWN.platform}", NATIVE_WHEEL},
    "modern": {"py3-none-any"},
    "half-served": {NATIVE_WHEEL},
}


def test_three_targets(pypi: Simulator) -> None:
    fill(pypi)
    with SeveralTargets(pypi.url, NAMES, (ELDER, YOUNGER, NEWEST)) as farm:
        farm.start_master()
        farm.start_posing("elder", "bookworm")
        farm.start_posing("younger", "trixie")
        wheels = {name: "py3-none-any" if name in ("pure", "modern") else NATIVE_WHEEL for name in NAMES}
        farm.start_pretending(NEWEST, wheels | {"stable": f"cp38-abi3-{OWN.platform}"})
        wait_for(until(farm, is_done), "all to be built and published", seconds=120)
        with farm.engine.begin() as conn:
            check_builds(conn)
        check_index(farm)


@pytest.mark.pypi
@pytest.mark.long
@pytest.mark.timeout(600)
def test_three_targets_with_two_pythons(pypi: Simulator) -> None:
    """The same, and the third target's builder is real too: where there is a newer Python, and PyPI for what a builder
    needs."""
    found = newer_pythons()
    if not found:
        pytest.skip(f"there is no CPython newer than {OWN.python_version} here")
    version, interpreter = found[0]
    abi = "cp" + version.replace(".", "")
    newest = replace(NEWEST, python_version=version, abi=abi)
    fill(pypi)
    with SeveralTargets(pypi.url, NAMES, (ELDER, YOUNGER, newest)) as farm:
        farm.start_master()
        farm.start_posing("elder", "bookworm")
        farm.start_posing("younger", "trixie")
        farm.start_posing("newest", "trixie", python=builders_python(interpreter, farm.folder / "python"))
        wait_for(until(farm, is_done), "all to be built and published", seconds=240)
        with farm.engine.begin() as conn:
            check_builds(conn)


def newer_pythons() -> list[tuple[str, Path]]:
    """CPythons newer than this one that are on this machine, newest first: version and program."""
    places = (Path("/usr/bin"), Path("/usr/local/bin"), *Path.home().glob(".pyenv/versions/*/bin"))
    programs = [
        path for place in places for path in place.glob("python3.[0-9]*") if re.fullmatch(r"[\d.]+", path.name[6:])
    ]
    versions = {tuple(map(int, path.name[6:].split("."))): path for path in programs if os.access(path, os.X_OK)}
    newer = [version for version in versions if version > sys.version_info[:2]]
    return [(".".join(map(str, version)), versions[version]) for version in sorted(newer, reverse=True)]


def builders_python(interpreter: Path, folder: Path) -> str:
    """A virtual environment of that Python with what a builder needs (setup.cfg: install_requires, and pip)."""
    uv = [sys.executable, "-m", "uv", "--no-config"]
    subprocess.run([*uv, "venv", "-q", "--python", str(interpreter), str(folder)], check=True, timeout=60)
    python = str(folder / "bin" / "python")
    needed = ("pyzmq", "cbor2", "packaging", "pyelftools", "pip")
    subprocess.run([*uv, "pip", "install", "-q", "--python", python, *needed], check=True, timeout=240)
    return python


def is_done(conn: Connection) -> bool:
    """Every project is known, was planned, and has nothing to be built or rendered any more."""

    def count(table: object) -> int:
        return int(conn.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]

    known = count(projects) == len(NAMES) and count(feeds) > 0
    return known and count(jobs) == 0 and count(pages) == 0 and count(builds) > 0


def check_builds(conn: Connection) -> None:
    """Each was built for the targets that it should be, once, and well."""
    query = (
        select(projects.c.name, targets.c.name.label("target"), builds.c.outcome, builds.c.detail)
        .join(releases, releases.c.project_id == projects.c.id)
        .join(builds, builds.c.release_id == releases.c.id)
        .join(targets, targets.c.id == builds.c.target_id)
    )
    rows = conn.execute(query).all()
    assert all(row.outcome is Outcome.SUCCESS for row in rows), rows
    times = Counter((row.name, row.target) for row in rows)
    assert set(times.values()) == {1}, times
    built = {name: {target for project, target in times if project == name} for name in NAMES}
    (second,) = built["stable"] - {"elder"}
    assert second in ("younger", "newest")
    assert built == EXPECTED | {"stable": {"elder", second}}
    each = select(func.count()).select_from(files).group_by(files.c.build_id)
    assert set(conn.execute(each).scalars()) == {1}


def check_index(farm: SeveralTargets) -> None:
    """What installers see."""
    simple = farm.folder / "www" / "simple"
    listed = {path.name for path in simple.iterdir() if path.is_dir()}
    assert listed == {name for name, where in EXPECTED.items() if where}
    for name, tags in TAGS.items():
        page = json.loads((simple / name / "index.v1_json").read_text())
        stem = f"{name.replace('-', '_')}-1.0-"
        found = {file["filename"].removeprefix(stem).removesuffix(".whl") for file in page["files"]}
        assert found == tags, name
        assert all((simple / name / file["filename"]).stat().st_size == file["size"] for file in page["files"])


def test_the_targets_differ_as_meant() -> None:
    """What the test above rests on."""

    def serves(tag: str, *those: Target) -> list[bool]:
        from piwheels.wheelfile import parse_wheel_name

        return [target.accepts(parse_wheel_name(f"x-1.0-{tag}.whl").tags) for target in those]

    assert serves(f"cp38-abi3-{OWN.platform}", ELDER, YOUNGER, NEWEST) == [True, True, True]
    assert serves(NATIVE_WHEEL, ELDER, YOUNGER, NEWEST) == [False, False, True]
    assert [target.check().allows(f">={NEWER}") for target in (ELDER, YOUNGER, NEWEST)] == [False, False, True]
