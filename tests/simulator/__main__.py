# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.simulator``: the simulated PyPI as a process, until it is stopped.

Prints the address of its simple index as its first line of output.
"""

import argparse
import signal
import sys
import threading

from tests.simulator import recipes
from tests.simulator.server import Simulator

#: What --demo offers: one of each kind.
DEMO = {
    "sim-pure": "pure",
    "sim-extension": "extension",
    "sim-abi3": "abi3",
    "sim-failing": "failing",
    "sim-hanging": "hanging",
    "sim-lying": "lying",
    "sim-lying-inside": "lying-inside",
    "sim-hostile": "hostile-path",
    "sim-noisy": "noisy",
    "sim-wrong-hash": "wrong-hash",
    "sim-no-sdist": "no-sdist",
    "sim-served": "served",
}


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    known = ", ".join([*recipes.RECIPES, "wrong-hash", "no-sdist", "served"])
    arguments = argparse.ArgumentParser(prog="python -m tests.simulator", description="A PyPI in a box.")
    arguments.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any that is free)")
    arguments.add_argument("--demo", action="store_true", help="offer one project of each kind")
    arguments.add_argument("--no-etags", action="store_true", help="answer without ETags")
    arguments.add_argument(
        "project", nargs="*", metavar="NAME[==VERSION]=RECIPE", help=f"a project to offer; recipes: {known}"
    )
    return arguments


def offer(simulator: Simulator, name: str, version: str, kind: str) -> None:
    """Add one release of a kind."""
    if kind == "wrong-hash":
        simulator.add_release(name, version, wrong_hash=True)
    elif kind == "no-sdist":
        simulator.add_release(name, version, None, wheels=("cp27-cp27mu-win32",))
    elif kind == "served":
        simulator.add_release(name, version, wheels=("py3-none-any",))
    else:
        simulator.add_release(name, version, recipes.RECIPES[kind])


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    arguments = parser().parse_args(argv)
    simulator = Simulator(port=arguments.port, etags=not arguments.no_etags)
    for name, kind in DEMO.items() if arguments.demo else ():
        offer(simulator, name, "1.0", kind)
    for text in arguments.project:
        head, _, kind = text.rpartition("=")
        name, _, version = head.partition("==")
        try:
            offer(simulator, name, version or "1.0", kind)
        except KeyError:
            print(f"{text!r} is not NAME[==VERSION]=RECIPE", file=sys.stderr)
            return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with simulator:
        print(simulator.url, flush=True)
        while not stop.wait(1.0):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
