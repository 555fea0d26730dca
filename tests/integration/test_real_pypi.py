# SPDX-License-Identifier: BSD-3-Clause
"""Ten projects of the real PyPI: two requests for each, a page for the farm's default list, and no more."""

import asyncio
import json
from dataclasses import replace

import pytest

from piwheels.master.planner import Code, Policy, ReleaseFacts, UpstreamWheel, plan
from piwheels.master.targets import PRESETS
from piwheels.pypi.client import Answer, Page, PyPI
from piwheels.pypi.model import best_sdist, needs_links, with_links, with_page
from piwheels.settings import FarmSettings, UpstreamSettings
from piwheels.vocabulary import UpstreamKind

pytestmark = pytest.mark.pypi

DEFAULT = ("spidev", "rpi_ws281x", "RPi.GPIO", "smbus", "RPi.bme280")
NAMES = (*DEFAULT, "gpiozero", "pigpio", "lgpio", "smbus2", "pyserial")
TARGETS = (replace(PRESETS["bookworm-armhf"], id=1), replace(PRESETS["trixie-arm64"], id=2))


def test_ten_projects_twice() -> None:
    async def work() -> tuple[list[Answer], list[Answer], list[Page]]:
        async with PyPI(UpstreamSettings(), farm=FarmSettings(name="piwheels tests")) as pypi:
            first = [await pypi.project(name) for name in NAMES]
            again = [await pypi.project(name, etag=answer.etag) for name, answer in zip(NAMES, first, strict=True)]
            return first, again, [await pypi.page(name) for name in DEFAULT]

    first, again, pages = asyncio.run(work())
    for answer in first:
        assert answer.project is not None
        assert answer.project.refused == ()
        assert answer.project.serial > 10**6
        assert answer.entry is not None
        assert len(json.loads(answer.entry)["releases"]) == 1
    for answer, second in zip(first, again, strict=True):  # a proxy in between may take the ETag away
        assert second.project is None if answer.etag else second.project is not None
    check_the_default_list(dict(zip(DEFAULT, zip(first, pages, strict=False), strict=True)))


def check_the_default_list(found: dict[str, tuple[Answer, Page]]) -> None:
    codes = {}
    for name, (answer, page) in found.items():
        assert answer.project is not None
        assert page.serial in (0, answer.project.serial)  # a proxy may take that away, too
        assert with_page(answer.project, page.filenames, serial=page.serial) == answer.project
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
