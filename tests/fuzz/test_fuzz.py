# SPDX-License-Identifier: BSD-3-Clause
"""A moment of each, so that the entry points stay right; ``make fuzz`` takes its time."""

import random

import pytest

from tests.fuzz.__main__ import hunt
from tests.fuzz.entry import CORPUS, ENTRIES


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_nothing_breaks_in_a_moment(name: str) -> None:
    stories = [random.Random(1).randbytes(200) for _ in range(20)]
    tried, broke = hunt(ENTRIES[name], CORPUS if name == "codec" else stories, seconds=0.7, seed=7)
    assert tried and not broke, broke.hex()
