# SPDX-License-Identifier: BSD-3-Clause
"""The default farm against the real PyPI: what ``make farm ARGS=--once`` does. Only with ``-m pypi``."""

import pytest

from piwheels.farm import PROJECTS
from tests.e2e.running import FarmFolder

pytestmark = [pytest.mark.e2e, pytest.mark.pypi, pytest.mark.timeout(900)]


def test_the_default_farm(folder: FarmFolder) -> None:
    first = folder.once(seconds=600)
    assert first.process.returncode == 0, f"{first.said}\n{first.logs()}"
    served = [line for line in first.lines if line.startswith("served by PyPI: RPi.bme280 ")]
    assert len(served) == 1
    installed = [line for line in first.lines if line.startswith("installed ")]
    assert len(installed) == len(PROJECTS) - 1
    assert not (folder.path / "www/simple/rpi-bme280").exists()
    root = folder.published("simple/index.v1_json")
    assert sorted(one["name"] for one in root["projects"]) == ["rpi-gpio", "rpi-ws281x", "smbus", "spidev"]

    second = folder.once(seconds=120)
    assert second.process.returncode == 0, f"{second.said}\n{second.logs()}"
    assert not any(line.startswith("building ") for line in second.lines), second.said
