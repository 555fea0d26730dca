# SPDX-License-Identifier: BSD-3-Clause
"""/project/<p>/json: every field that other farms' users rely on, and the published schema."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from piwheels.site import assets, paths
from piwheels.site.facts import ProjectFacts
from piwheels.site.project_json import render
from piwheels.vocabulary import FailureReason, ProjectStatus
from tests import site_facts as make

SCHEMA = json.loads(assets.files(make.SITE)[paths.PROJECT_SCHEMA])
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)


def document(facts: ProjectFacts | None = None) -> dict[str, Any]:
    """The document, if the published schema allows it."""
    found: dict[str, Any] = json.loads(render(make.page(facts), make.SITE))
    VALIDATOR.validate(found)
    check_seed(found)
    return found


def check_seed(found: dict[str, Any]) -> None:
    """Every field of the documented API by hand, each of exactly its type: what programs written for it take."""
    for name in ("package", "summary", "pypi_url", "piwheels_url"):
        assert type(found[name]) is str
    assert type(found["releases"]) is dict
    for version, release in found["releases"].items():
        assert type(version) is str
        assert type(release["skip_reason"]) is str
        assert type(release["prerelease"]) is bool
        assert type(release["yanked"]) is bool
        assert type(release["released"]) is str
        assert datetime.strptime(release["released"], "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the format has no zone
        assert type(release["files"]) is dict
        for filename, file in release["files"].items():
            assert type(filename) is str
            assert type(file["filesize"]) is int
            assert type(file["apt_dependencies"]) is list
            assert all(type(package) is str for package in file["apt_dependencies"])
            for name in ("filehash", "platform", "builder_abi", "file_abi_tag"):
                assert type(file[name]) is str


def test_schema_is_a_schema_and_not_empty() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert not VALIDATOR.is_valid({})
    broken = document()
    broken["releases"]["1.0"]["files"]["foo_bar-1.0-cp311-cp311-linux_armv7l.whl"]["filesize"] = None
    assert not VALIDATOR.is_valid(broken)


def test_schema_describes_every_field() -> None:
    found = document()
    release = found["releases"]["1.0"]
    for part, described in (
        (found, SCHEMA["properties"]),
        (release, SCHEMA["$defs"]["release"]["properties"]),
        (next(iter(release["files"].values())), SCHEMA["$defs"]["file"]["properties"]),
        (next(iter(release["builds"].values())), SCHEMA["$defs"]["build"]["properties"]),
    ):
        assert part.keys() == described.keys()


def test_head() -> None:
    found = document()
    del found["releases"]
    assert found == {
        "package": "foo-bar",
        "summary": "Talks to <things> & more",
        "pypi_url": "https://upstream.example.org/project/foo-bar/",
        "piwheels_url": "https://wheels.example.org/project/foo-bar/",
        "display_name": "Foo.Bar",
        "status": "active",
        "status_reason": "",
        "skip_reason": "",
        "aliases": ["foo_bar"],
        "downloads": {"month": 12, "all": 34567},
        "badge_url": "https://wheels.example.org/project/foo-bar/badge.svg",
    }


def test_releases_are_newest_first() -> None:
    assert list(document()["releases"]) == ["2.0rc1", "1.10", "1.0", "0.9"]


def test_a_release() -> None:
    release = document()["releases"]["1.10"]
    assert release["released"] == "2025-10-19 10:11:12"
    assert (release["prerelease"], release["yanked"], release["skip_reason"]) == (False, False, "")
    assert release["on_pypi"] == ["trixie-armhf"]
    assert document()["releases"]["2.0rc1"]["prerelease"] is True
    old = document()["releases"]["0.9"]
    assert (old["yanked"], old["yanked_reason"]) == (True, "Broke on Pi Zero")


def test_builds() -> None:
    builds = document()["releases"]["1.10"]["builds"]
    assert builds["bookworm-arm64"] == {
        "status": "failed",
        "reason": "the build failed",
        "failure": "package",
        "detail": "gcc said no\nand that was that",
        "duration": 83.0,
        "finished": "2026-11-20T10:11:12Z",
        "log_url": "https://wheels.example.org/logs/0000/000/5.txt.gz",
        "log_page_url": "https://wheels.example.org/logs/0000/000/5.html.gz",
        "build": 5,
    }
    assert builds["bookworm-armhf"]["status"] == "success"
    assert builds["trixie-arm64"] == {
        "status": "pending",
        "reason": "waiting to be built",
        "failure": None,
        "detail": "",
        "duration": None,
        "finished": None,
        "log_url": None,
        "log_page_url": None,
        "build": None,
    }


def test_a_file() -> None:
    files = document()["releases"]["1.0"]["files"]
    assert files["foo_bar-1.0-cp311-cp311-linux_armv7l.whl"] == {
        "filesize": 1000,
        "filehash": "01" * 32,
        "platform": "linux_armv7l",
        "builder_abi": "cp311",
        "file_abi_tag": "cp311",
        "file_url": "https://wheels.example.org/simple/foo-bar/foo_bar-1.0-cp311-cp311-linux_armv7l.whl",
        "requires_python": ">=3.8",
        "apt_dependencies": ["libopenblas0"],
        "pip_dependencies": ["numpy>=1.20"],
        "unknown_dependencies": [],
        "yanked": False,
        "yanked_reason": "",
        "uploaded": "2026-11-20T10:11:12Z",
        "metadata_hash": "65" * 32,
        "targets": ["bookworm-armhf"],
        "build": 1,
        "build_duration": 83.0,
    }


def test_the_projects_skip_reason_is_every_releases() -> None:
    releases = document(make.project(skip_reason="too big"))["releases"]
    assert {release["skip_reason"] for release in releases.values()} == {"too big"}


@pytest.mark.parametrize("status", ProjectStatus)
def test_every_status_is_in_the_schema(status: ProjectStatus) -> None:
    assert document(make.project(status=status))["status"] == status


@pytest.mark.parametrize("reason", FailureReason)
def test_every_failure_is_in_the_schema(reason: FailureReason) -> None:
    facts = make.project(builds=(make.build(1, 2, reason=reason),), files=())
    assert document(facts)["releases"]["1.0"]["builds"]["bookworm-armhf"]["failure"] == reason


def test_a_project_of_which_nothing_is_known() -> None:
    found = document(make.project(releases=(), builds=(), files=(), summary="", aliases=()))
    assert found["releases"] == {}


@settings(max_examples=40, deadline=None)
@given(summary=st.text(max_size=40), detail=st.text(max_size=40), version=st.text(min_size=1, max_size=10))
def test_any_text_makes_a_valid_document(summary: str, detail: str, version: str) -> None:
    releases = (make.release(1, "1.0"), make.release(2, version))
    builds = (make.build(1, 2, reason=FailureReason.PACKAGE, detail=detail),)
    document(make.project(summary=summary, releases=releases, builds=builds, files=()))


def test_same_model_same_bytes() -> None:
    assert render(make.page(), make.SITE) == render(make.page(), make.SITE)
