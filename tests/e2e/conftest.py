# SPDX-License-Identifier: BSD-3-Clause
"""Farms and the simulator for end-to-end tests."""

from collections.abc import Iterator

import pytest

from tests.e2e.running import FarmFolder
from tests.simulator import Simulator


@pytest.fixture
def pypi() -> Iterator[Simulator]:
    """A PyPI in a box, empty."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def folder() -> Iterator[FarmFolder]:
    """A directory for a farm, empty."""
    made = FarmFolder()
    yield made
    made.remove()
