# SPDX-License-Identifier: BSD-3-Clause
"""What a quick builder runs instead of piwheels.slave.job: the same task, the same result, and nothing is built.

The wheel is made here, of bytes that follow from the project and its version alone; a project whose name begins with
"bad" fails. Everything around it (the agent, its session, the process, the files between them) is a builder's own.
"""

import hashlib
import random
import sys
import time
from pathlib import Path

from piwheels.slave import inspection, job, processes
from piwheels.slave.job import (
    FETCH_TIME,
    INSPECT_TIME,
    RESULT,
    TASK,
    Report,
    Task,
    read_result,
    read_task,
    wheels,
    wipe,
    write_task,
)
from piwheels.vocabulary import FailureReason
from tests.wheels import make_wheel, metadata_text

__all__ = [
    "FETCH_TIME",
    "INSPECT_TIME",
    "RESULT",
    "TASK",
    "Report",
    "Task",
    "read_result",
    "read_task",
    "wheels",
    "wipe",
    "write_task",
]

LARGE = 700_000  #: bytes of one wheel in ten: several chunks


def padding(project: str, version: str) -> bytes:
    """Bytes that make a wheel as large as this one is to be; no compression makes them fewer."""
    seed = hashlib.sha256(f"{project} {version}".encode()).digest()
    return random.Random(seed).randbytes(LARGE if seed[0] < 26 else 2000)


def main(argv: list[str]) -> int:
    """The process."""
    directory, parent = Path(argv[1]), int(argv[2])
    processes.die_with_parent(parent)
    task = read_task(directory)
    name, version = task.package.replace("-", "_"), task.version
    print(f"pretending to build {name} {version}", flush=True)
    time.sleep(random.uniform(0.0, 0.3))
    if name.startswith("bad"):
        job.write_result(directory, Report(FailureReason.PACKAGE, "it cannot be built"))
        return 0
    wheels(directory).mkdir()
    path = make_wheel(
        wheels(directory),
        f"{name}-{version}-py3-none-any.whl",
        members={f"{name}/__init__.py": b"", f"{name}/data.bin": padding(name, version)},
        metadata=metadata_text(task.package, version),
        dist_info=f"{name}-{version}.dist-info",
    )
    file = inspection.inspect(path, project=task.package, version=version)
    job.write_result(directory, Report(None, files=(file,)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
