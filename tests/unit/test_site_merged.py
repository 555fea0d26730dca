# SPDX-License-Identifier: BSD-3-Clause
"""The merged index: PyPI's files as they are, ours beside them and never in front."""

import json
from dataclasses import replace

import html5lib
import pytest

from piwheels.site import merged, paths, simple
from piwheels.site.facts import UpstreamFile
from piwheels.vocabulary import ProjectStatus
from tests import site_facts as make

VERSIONS = {1: "0.9", 2: "1.0", 3: "1.10", 4: "2.0rc1"}
SDIST = UpstreamFile(
    2,
    "foo_bar-1.0.tar.gz",
    5000,
    b"s" * 32,
    "https://files.example.org/a/foo_bar-1.0.tar.gz",
    ">=3.8",
    yanked=False,
    yanked_reason="",
    uploaded=make.NOW,
)
OURS = "foo_bar-1.0-cp311-cp311-linux_armv7l.whl"


def theirs(filename: str, **values: object) -> UpstreamFile:
    file = replace(SDIST, filename=filename, url=f"https://files.example.org/a/{filename}")
    return replace(file, **values)  # type: ignore[arg-type]


def names(*upstream: UpstreamFile) -> list[str]:
    listing = merged.merge(make.page(), upstream, VERSIONS, make.TARGETS)
    assert listing is not None
    return [file.filename for file in listing.files if file.filename.startswith("foo_bar-1.0")]


def test_pypis_files_and_ours_in_the_order_of_versions() -> None:
    page = make.page()
    newest = theirs("foo_bar-2.0rc1.zip", release_id=4, size=None, sha256=None, yanked=True, yanked_reason="no <good>")
    listing = merged.merge(page, [newest, SDIST], VERSIONS, make.TARGETS)
    assert listing is not None
    document = json.loads(simple.project_json(page, listing))
    assert document["versions"] == ["0.9", "1.0", "1.10", "2.0rc1"]
    files = {file["filename"]: file for file in document["files"]}
    assert list(files) == [
        "foo_bar-0.9-py3-none-any.whl",
        "foo_bar-1.0.tar.gz",
        "foo_bar-1.0-cp311-cp311-linux_aarch64.whl",
        OURS,
        "foo_bar-1.10-cp311-cp311-linux_armv7l.whl",
        "foo_bar-2.0rc1.zip",
    ]
    assert files[SDIST.filename] == {
        "filename": SDIST.filename,
        "url": SDIST.url,
        "hashes": {"sha256": b"s".hex() * 32},
        "yanked": False,
        "size": 5000,
        "upload-time": "2026-11-20T10:11:12.123456Z",
        "requires-python": ">=3.8",
    }
    assert files["foo_bar-2.0rc1.zip"]["yanked"] == "no <good>"
    assert "size" not in files["foo_bar-2.0rc1.zip"] and files["foo_bar-2.0rc1.zip"]["hashes"] == {}
    assert files[OURS]["url"] == f"../../../simple/foo-bar/{OURS}" and files[OURS]["core-metadata"]
    links = [
        a.get("href") for a in html5lib.parse(simple.project_html(page, listing), namespaceHTMLElements=False).iter("a")
    ]
    assert [link.partition("#")[0] for link in links] == [file["url"] for file in document["files"]]


def test_a_name_that_both_have_is_pypis() -> None:
    same = theirs(OURS, requires_python="<3")  # it serves nobody here, and has the name all the same
    listing = merged.merge(make.page(), [same], VERSIONS, make.TARGETS)
    assert listing is not None
    assert [file.url for file in listing.files if file.filename == OURS] == [same.url]


@pytest.mark.parametrize(
    ("tags", "values", "listed"),
    [
        ("cp311-cp311-manylinux_2_17_armv7l", {}, False),  # PyPI serves the target by another tag: ours would win there
        ("py3-none-any", {}, False),
        ("py3-none-any", {"yanked": True}, True),
        ("py3-none-any", {"requires_python": "<3"}, True),
        ("cp313-cp313-manylinux_2_17_armv7l", {}, True),
        ("cp311-cp311-win_amd64", {}, True),
        ("py3-none-any", {"release_id": 3}, True),
    ],
)
def test_ours_is_listed_where_pypi_has_none(tags: str, values: dict[str, object], listed: bool) -> None:
    assert (OURS in names(theirs(f"foo_bar-1.0-{tags}.whl", **values))) == listed


def test_no_page_rather_than_half_of_one() -> None:
    page = make.page()
    assert merged.merge(page, [SDIST, theirs("foo_bar-1.0.zip", url=None)], VERSIONS, make.TARGETS) is None
    quarantined = make.page(make.project(status=ProjectStatus.QUARANTINED))
    assert merged.merge(quarantined, [SDIST], VERSIONS, make.TARGETS) is None
    empty = make.page(make.project(files=()))
    assert merged.merge(empty, [], VERSIONS, make.TARGETS) is None
    assert merged.merge(empty, [SDIST], VERSIONS, make.TARGETS) is not None


@pytest.mark.parametrize(
    ("space", "place"),
    [
        ("", "simple"),
        (paths.MERGED, "all/simple"),
        ("bookworm", "bookworm/simple"),
        ("debian-12", "debian-12/simple"),
        ("all", "distribution-all/simple"),
        ("project", "distribution-project/simple"),
        ("opensuse-15.6", "distribution-opensuse-15.6/simple"),
        ("distribution-all", "distribution-distribution-all/simple"),
    ],
)
def test_each_index_has_a_place_of_its_own(space: str, place: str) -> None:
    assert str(paths.index_dir(space)) == place
    assert str(paths.simple_dir("foo", space)) == f"{place}/foo"


@pytest.mark.parametrize("space", ["..", ".", "a/b", "Big", "-x", "x" * 61])
def test_what_is_no_distribution_has_none(space: str) -> None:
    with pytest.raises(ValueError, match="not a distribution's name"):
        paths.index_dir(space)
