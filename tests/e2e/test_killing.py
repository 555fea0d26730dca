# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 of each process of a farm in turn, while it builds: it recovers by itself and does nothing twice."""

import signal
from collections.abc import Callable

import psutil
import pytest

from piwheels.vocabulary import Role
from tests.e2e.running import FarmFolder, RunningFarm
from tests.simulator import Recipe, Simulator
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e

PROJECTS = tuple(f"project-{letter}" for letter in "abcdefghij")
SETTINGS = ("--set", "slave.poll=0.5", "--set", "dispatch.retry_after=1", "--set", "slave.busy_timeout=5")


def test_every_process_is_killed_in_turn(pypi: Simulator, folder: FarmFolder) -> None:
    for number, name in enumerate(PROJECTS):
        pypi.add_release(name, "1.0", Recipe(native=number % 2 == 0))
    with folder.start(*SETTINGS, *PROJECTS, upstream=pypi.url) as farm:
        farm.wait_for_line("building project-")
        for name, find in victims(farm).items():
            victim = wait_for(find, f"{name} to run", seconds=60)
            victim.kill()
            # back, as another process, before the next is killed
            wait_for(lambda old=victim.pid, find=find: is_other(find(), old), f"{name} to be back", seconds=60)
        wait_for(lambda: is_done(folder), "all to be built and published", seconds=150)
        check_once_each(folder)
        for name in PROJECTS:
            (file,) = folder.json(f"/simple/{name}/")["files"]
            assert folder.get(f"/simple/{name}/{file['filename']}")[0] == 200
        farm.end(signal.SIGTERM, 0)


def victims(farm: RunningFarm) -> dict[str, Callable[[], psutil.Process | None]]:
    """Each of the farm's processes, by what finds it."""

    def role(name: Role) -> Callable[[], psutil.Process | None]:
        return lambda: farm.find("piw-master", name.value)

    def postgres() -> psutil.Process | None:
        found = [p for p in farm.descendants() if name_of(p) == "postgres" and parent_is(p, farm.process.pid)]
        return found[0] if found else None

    return {
        **{name.value: role(name) for name in Role},
        "slave": lambda: farm.find("piwheels.slave.cli"),
        "postgres": postgres,
        "web": lambda: farm.find("piwheels.site.web"),
        "logger": lambda: farm.find("piwheels.logger.cli"),
        "master": lambda: farm.find("piwheels.farm_children", "piwheels.master.cli"),
    }


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def parent_is(process: psutil.Process, pid: int) -> bool:
    try:
        return process.ppid() == pid
    except psutil.Error:
        return False


def is_other(process: psutil.Process | None, old: int) -> bool:
    return process is not None and process.pid != old


def is_done(folder: FarmFolder) -> bool:
    """Every project is listed, nothing is left in the queue, no page is stale."""
    try:
        ((listed, jobs, stale),) = folder.query(
            "SELECT (SELECT count(*) FROM published WHERE listed), (SELECT count(*) FROM jobs),"
            " (SELECT count(*) FROM pages)"
        )
    except Exception:  # PostgreSQL is starting
        return False
    return (listed, jobs, stale) == (len(PROJECTS), 0, 0)


def check_once_each(folder: FarmFolder) -> None:
    """One successful build each; those that were lost with their slave are recorded as lost and nothing else."""
    built = folder.query("SELECT release_id, count(*) FROM builds WHERE outcome = 'success' GROUP BY 1")
    assert sorted(count for _, count in built) == [1] * len(PROJECTS)
    failed = folder.query("SELECT reason::text, detail FROM builds WHERE outcome = 'failed'")
    assert {reason for reason, _ in failed} <= {"lost", "builder"}, failed
    ((files, projects),) = folder.query(
        "SELECT count(*), count(DISTINCT r.project_id) FROM files f JOIN builds b ON b.id = f.build_id"
        " JOIN releases r ON r.id = b.release_id"
    )
    assert (files, projects) == (len(PROJECTS), len(PROJECTS))
