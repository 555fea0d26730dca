# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks are run seldom (``-m long``): that what they use is still there is looked at every time."""

import importlib

import pytest

from tests.bench.__main__ import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_loaded(name: str) -> None:
    assert callable(importlib.import_module(f"tests.bench.bench_{name}").bench)
