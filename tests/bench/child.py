# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.bench.child REPORT MODULE ARGUMENT...``: runs a module's main() and reports what that took.

The report is a JSON object: seconds, CPU seconds (user and system, children included), and the process's largest
resident memory in bytes, all from the moment that the module was imported but for the memory, which is the whole
process's. Memory is the kernel's VmHWM and not getrusage's figure: that one begins with the parent's.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell VmHWM")


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> int:
    """Run it, and report."""
    report, name, *arguments = sys.argv[1:]
    module = importlib.import_module(name)
    begun, cpu = time.monotonic(), cpu_seconds()
    status: int = module.main(arguments)
    used = {"seconds": time.monotonic() - begun, "cpu": cpu_seconds() - cpu, "peak": peak_memory()}
    Path(report).write_text(json.dumps(used))
    return status


if __name__ == "__main__":
    sys.exit(main())
