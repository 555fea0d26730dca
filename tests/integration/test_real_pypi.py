# SPDX-License-Identifier: BSD-3-Clause
"""The farm's default list against the real PyPI: two requests a project and no more."""

import asyncio
from dataclasses import replace

import pytest

from piwheels.master.planner import Code, Policy, ReleaseFacts, UpstreamWheel, plan
from piwheels.master.targets import PRESETS
from piwheels.pypi.client import Answer, Page, PyPI
from piwheels.pypi.model import best_sdist, needs_links, with_links
from piwheels.settings import FarmSettings, UpstreamSettings
from piwheels.vocabulary import UpstreamKind

pytestmark = pytest.mark.pypi

NAMES = ("spidev", "rpi_ws281x", "RPi.GPIO", "smbus", "RPi.bme280")
TARGETS = (replace(PRESETS["bookworm-armhf"], id=1), replace(PRESETS["trixie-arm64"], id=2))


def test_the_default_list() -> None:
    async def work() -> dict[str, tuple[Answer, Page]]:
        async with PyPI(UpstreamSettings(), farm=FarmSettings(name="piwheels tests")) as pypi:
            return {name: (await pypi.project(name), await pypi.page(name)) for name in NAMES}

    found = asyncio.run(work())
    codes = {}
    for name, (answer, page) in found.items():
        assert answer.project is not None
        assert answer.project.refused == ()
        assert answer.project.serial > 10**6
        project = with_links(answer.project, page.links)
        assert not needs_links(project)
        [version] = project.wanted(every=False)
        release = next(release for release in project.releases if release.version == version)
        sdist = best_sdist(release.files, version=version)
        assert page.links[sdist.filename if sdist else release.files[0].filename]
        wheels = (file for file in release.files if file.kind is UpstreamKind.WHEEL)
        facts = ReleaseFacts(
            project=project.name,
            version=version,
            has_sdist=sdist is not None,
            requires_python=release.requires_python,
            upstream=tuple(UpstreamWheel(file.filename, file.requires_python, file.yanked) for file in wheels),
        )
        codes[name] = plan(facts, TARGETS, Policy()).verdicts[0].code
    assert codes.pop("RPi.bme280") is Code.ON_PYPI
    assert set(codes.values()) == {Code.QUEUED}
