# SPDX-License-Identifier: BSD-3-Clause
"""The simulator as a pytest fixture: ``from tests.simulator.fixtures import simulator``."""

from collections.abc import Iterator

import pytest

from tests.simulator.server import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A PyPI of this test's own, empty, on a port of its own."""
    with Simulator() as running:
        yield running
