# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks work: each is run at a fiftieth of its size. How fast they are is not looked at."""

import pytest

from tests.bench import __main__ as command
from tests.bench.harness import Goal, Result, Usage, table

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.mark.parametrize("name", command.NAMES)
def test_small(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([name, "--small"]) == 0
    said = capsys.readouterr().out
    assert "load before" in said and f"\n{name} " in said and "MISSED" not in said


def test_the_table() -> None:
    usage = Usage(seconds=1.234, cpu=1.0, peak=50_000_000)
    goals = (Goal("under 5 s", True), Goal("under 40 MB", False))
    results = [Result("one", "this", ("a", "b", "c"), usage, 0.5, goals), Result("other", "that", (), usage, 0.5)]
    lines = table(results, judged=True).splitlines()
    assert lines[2].split() == ["one", "this", "a", "1.23", "1.00", "0.50", "50", "under", "5", "s:", "met"]
    assert [line.split() for line in lines[3:5]] == [["b", "under", "40", "MB:", "MISSED"], ["c"]]
    assert lines[5].split() == ["other", "that", "1.23", "1.00", "0.50", "50"]
    assert "met" not in table(results, judged=False)
