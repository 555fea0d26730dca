# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.bench [NAME...]``: runs benchmarks and prints one table."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from tests.bench.harness import Result, bench, machine, table

NAMES = ("feed", "listing", "dump", "scale", "dispatch", "publish", "search")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench", description="Run benchmarks; print one table.")
    arguments.add_argument("name", nargs="*", help=f"which: {', '.join(NAMES)} (default: all)")
    arguments.add_argument("--small", action="store_true", help="a fiftieth of everything, to see that they work")
    return arguments


def measure(name: str, *, small: bool) -> Result:
    """Run one benchmark on a database of its own."""
    module = importlib.import_module(f"tests.bench.bench_{name}")
    with bench(small=small) as at:
        result: Result = module.bench(at)
        return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run them; 0 whether or not targets are met, which is a machine's affair."""
    arguments = parser()
    given = arguments.parse_args(argv)
    if unknown := sorted(set(given.name) - set(NAMES)):
        arguments.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    before = machine()
    results = []
    for name in given.name or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results.append(measure(name, small=given.small))
    print(f"{before}\n\n{table(results, judged=not given.small)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
