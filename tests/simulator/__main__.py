# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.simulator``: the simulated PyPI as a process, until it is stopped.

Prints the address of its simple index as its first line of output.
"""

import argparse
import json
import random
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from piwheels.processes import set_from_handler
from tests.simulator import recipes, script
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

EPILOG = """\
what it answers, below the address that it prints without "simple/":
  simple/, simple/NAME/              index, HTML or JSON as Accept says (PEP 503, 691, 700, 714, 792); ETags, serials
  pypi/NAME/json, pypi/NAME/V/json   JSON API
  pypi                               XML-RPC with POST: changelog_last_serial, changelog_since_serial,
                                     list_packages_with_serial, user_packages, browse; --legacy: the old queries too
  files/FILE, files/FILE.metadata    sdists that pip can build, wheels, their metadata (PEP 658)
  packages/source/N/NAME/FILE        the conveyor: a redirect to the file
  rss/updates.xml, rss/packages.xml  feeds
  project/NAME/, p/NAME/, pypi/NAME, pypi?:action=rss, pypi?:action=packages_rss

a script is a JSON array of steps, or TOML:
  [[step]]
  do = "add_release"
  name = "spam"
  version = "1.0"
  recipe = "extension"
"do" is one of:
%(actions)s

examples:
  python -m tests.simulator --demo
  python -m tests.simulator spam=pure eggs==2.0=extension
  python -m tests.simulator --script history.toml --truth truth.json
  python -m tests.simulator --seed 1 --events 10000 --pace 50 --faults 0.05
  pip install --no-cache-dir --index-url http://127.0.0.1:PORT/simple/ sim-pure
"""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    known = ", ".join([*recipes.RECIPES, "wrong-hash", "no-sdist", "served"])
    arguments = argparse.ArgumentParser(
        prog="python -m tests.simulator",
        description="A PyPI in a box.",
        epilog=EPILOG % {"actions": _columns(sorted(script.ACTIONS))},
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("--port", type=int, default=0, help="port on 127.0.0.1 (default: any that is free)")
    add("--demo", action="store_true", help="offer one project of each kind")
    add("--script", type=Path, action="append", default=[], metavar="FILE", help="let a script happen first")
    add("--seed", type=int, help="let a random day happen: always the same for the same number")
    add("--events", type=int, default=1000, help="how many events the day has (%(default)s)")
    add("--projects", type=int, default=300, help="how many projects the day is about (%(default)s)")
    add("--pace", type=float, default=0.0, help="steps of the day a second, while it serves (default: all at first)")
    add("--faults", type=float, default=0.0, metavar="RATE", help="how many of the answers go wrong: 0 to 1")
    add("--truth", type=Path, metavar="FILE", help="at the end, write what a follower should have as JSON")
    add("--legacy", action="store_true", help="answer XML-RPC's old queries too")
    add("--gzip", action="store_true", help="pack bodies for those that accept it")
    add("--no-etags", action="store_true", help="answer without ETags")
    add("--no-journal", action="store_true", help="answer 405 to XML-RPC")
    add("--html-only", action="store_true", help="index pages in HTML only")
    add("project", nargs="*", metavar="NAME[==VERSION]=RECIPE", help=f"a project to offer; recipes: {known}")
    return arguments


def _columns(words: list[str]) -> str:
    return "\n".join("  " + ", ".join(words[n : n + 5]) for n in range(0, len(words), 5))


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


def offer_text(simulator: Simulator, text: str) -> None:
    """Add one by its ``NAME[==VERSION]=RECIPE``. Raises ValueError."""
    head, _, kind = text.rpartition("=")
    name, _, version = head.partition("==")
    try:
        offer(simulator, name, version or "1.0", kind)
    except KeyError as error:
        raise ValueError(f"{text!r} is not NAME[==VERSION]=RECIPE") from error


def make(arguments: argparse.Namespace) -> Simulator:
    """The simulator as it is at first. Raises ValueError."""
    simulator = Simulator(port=arguments.port, etags=not arguments.no_etags, legacy=arguments.legacy)
    simulator.journal_enabled = not arguments.no_journal
    simulator.index_json = not arguments.html_only
    simulator.gzip = arguments.gzip
    for name, kind in DEMO.items() if arguments.demo else ():
        offer(simulator, name, "1.0", kind)
    for text in arguments.project:
        offer_text(simulator, text)
    for path in arguments.script:
        script.play(simulator, script.load(path))
    if arguments.faults:
        simulator.chaos(random.Random(arguments.seed), arguments.faults)
    return simulator


def live(simulator: Simulator, day: list[script.Step], pace: float, stop: threading.Event) -> None:
    """Let the day happen, a step at a time, until told to stop; then nothing."""
    for step in day:
        if stop.wait(1 / pace):
            return
        script.play_step(simulator, step)
    while not stop.wait(1.0):
        pass


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 2 for arguments that make no sense."""
    arguments = parser().parse_args(argv)
    try:
        simulator = make(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    day: list[script.Step] = []
    if arguments.seed is not None:
        day += script.random_day(arguments.seed, projects=arguments.projects, events=arguments.events)
    if not arguments.pace:
        script.play(simulator, day)
        day.clear()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: set_from_handler(stop))
    with simulator:
        print(simulator.url, flush=True)
        live(simulator, day, arguments.pace, stop)
    if arguments.truth is not None:
        truth = {name: asdict(project) for name, project in simulator.truth().items()}
        arguments.truth.write_text(json.dumps(truth, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
