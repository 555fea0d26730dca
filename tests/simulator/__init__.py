# SPDX-License-Identifier: BSD-3-Clause
"""A PyPI in a box: real indexes, journal, JSON and sdists, with a history that tests write and faults on demand.

In process: ``with Simulator() as pypi``. As a server of its own: ``python -m tests.simulator --demo`` (``--help`` tells
all); of any size, for benchmarks: ``python -m tests.simulator.bulk``.

things (files, projects, events) ← truth, documents ← history (what changes them) ← script, random_day (scripted
histories); faults (when) ← twist (what is said), breakage (how it is said); rpc, legacy (XML-RPC) ← site (addresses)
← server (HTTP).
"""

from tests.simulator.faults import CHAOS
from tests.simulator.recipes import Recipe
from tests.simulator.server import Fault, Request, Simulator
from tests.simulator.things import JournalEntry
from tests.simulator.truth import TruthProject, TruthRelease

__all__ = ["CHAOS", "Fault", "JournalEntry", "Recipe", "Request", "Simulator", "TruthProject", "TruthRelease"]
