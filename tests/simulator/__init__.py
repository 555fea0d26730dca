# SPDX-License-Identifier: BSD-3-Clause
"""A PyPI in a box: real indexes, JSON and sdists, with a history that tests write and faults on demand.

In process: ``with Simulator() as pypi``. As a server of its own: ``python -m tests.simulator --demo``.
"""

from tests.simulator.recipes import Recipe
from tests.simulator.server import Fault, Request, Simulator

__all__ = ["Fault", "Recipe", "Request", "Simulator"]
