# SPDX-License-Identifier: BSD-3-Clause
"""What a builder runs instead of piwheels.slave.job: it begins, waits to be let go on, and makes quick_job's wheel.

Each build's beginning is written to a file beside the builder's working directory, so that a test can count them: what
is begun twice is there twice, whatever the master says.
"""

import sys
import time
from pathlib import Path

from piwheels.slave import job
from tests.chaos import quick_job
from tests.chaos.quick_job import FETCH_TIME, INSPECT_TIME, Report, Task, read_result, wheels, wipe, write_task

__all__ = ["FETCH_TIME", "INSPECT_TIME", "Report", "Task", "read_result", "wheels", "wipe", "write_task"]

#: A builder's command that has it run this.
BUILDER = (
    "import sys; from piwheels.slave import cli, runner; from tests.e2e import held_job; "
    "runner.job = held_job; sys.exit(cli.main())"
)
BEGUN = "begun"  #: a line for each build that began: its package
GO = "go-"  #: and the package: a file that lets a build go on
PATIENCE = 120.0  #: seconds that a build waits to be let go on


def begun(folder: Path) -> list[str]:
    """What began, in order, by all builders that work in ``folder``."""
    path = folder / BEGUN
    return path.read_text().split() if path.exists() else []


def let_go(folder: Path, package: str) -> None:
    """Let this package's builds go on."""
    (folder / f"{GO}{package}").touch()


def main(argv: list[str]) -> int:
    """The job's process, as quick_job's."""
    folder, package = Path(argv[1]).parent.parent, job.read_task(Path(argv[1])).package
    with (folder / BEGUN).open("a") as beginnings:
        beginnings.write(f"{package}\n")
    until = time.monotonic() + PATIENCE
    while not (folder / f"{GO}{package}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return quick_job.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
