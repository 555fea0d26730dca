# SPDX-License-Identifier: BSD-3-Clause
"""What PyPI's JSON means, and that no JSON whatever does worse than being refused in one line."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from piwheels.pypi.model import (
    MAX_FILENAME,
    MAX_VERSION,
    UpstreamProject,
    UpstreamUnusable,
    best_sdist,
    canonical,
    clean,
    latest,
    needs_links,
    parse_project,
    plain_name,
    with_links,
    with_page,
    with_status,
)
from piwheels.vocabulary import ProjectStatus, UpstreamKind

SHA256 = "ab" * 32


def a_file(filename: str, **changes: Any) -> dict[str, Any]:
    return {
        "filename": filename,
        "packagetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
        "digests": {"sha256": SHA256},
        "size": 1234,
        "requires_python": None,
        "upload_time": "2025-09-15T18:56:20",
        "upload_time_iso_8601": "2025-09-15T18:56:20.672546Z",
        "url": f"https://files.example.org/packages/{filename}",
        "yanked": False,
        "yanked_reason": None,
    } | changes


def document(**releases: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"name": "Spam.Eggs", "summary": "Breakfast"},
        "last_serial": 31267019,
        "releases": {version.removeprefix("v").replace("_", "."): files for version, files in releases.items()},
        "urls": [],
    }


GOOD = document(
    v1_0=[a_file("spam_eggs-1.0.tar.gz"), a_file("spam_eggs-1.0-py3-none-any.whl", requires_python=">=3.8")]
)


def read(doc: object) -> UpstreamProject:
    return parse_project(doc, name="spam-eggs")


def test_a_project() -> None:
    project = read(GOOD)
    assert (project.name, project.display_name, project.summary) == ("spam-eggs", "Spam.Eggs", "Breakfast")
    assert project.serial == 31267019
    assert project.status is None
    [release] = project.releases
    assert (release.version, release.yanked, release.requires_python) == ("1.0", False, ">=3.8")
    assert release.released == datetime(2025, 9, 15, 18, 56, 20, 672546, tzinfo=UTC)
    wheel, sdist = release.files
    assert (wheel.kind, sdist.kind) == (UpstreamKind.WHEEL, UpstreamKind.SDIST)
    assert sdist.sha256 == bytes.fromhex(SHA256)
    assert sdist.url == "https://files.example.org/packages/spam_eggs-1.0.tar.gz"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (None, "not an object"),
        ([], "not an object"),
        ({}, "no info"),
        ({"info": None, "releases": {}}, "no info"),
        ({"info": {"name": "spam-eggs"}}, "no releases"),
        ({"info": {"name": "spam-eggs"}, "releases": None}, "no releases"),
        ({"info": {"name": "spam-eggs"}, "releases": []}, "no releases"),
        ({"info": {"name": "ham"}, "releases": {}}, "another project: 'ham'"),
        ({"info": {"name": None}, "releases": {}}, "another project"),
        ({"info": {"name": "a\nb"}, "releases": {}}, "not a project name"),
        ({"info": {"name": "x" * 10_000_000}, "releases": {}}, "not a project name"),
    ],
)
def test_what_is_refused_as_a_whole(broken: object, words: str) -> None:
    with pytest.raises(UpstreamUnusable, match=words) as caught:
        read(broken)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["", "1" * (MAX_VERSION + 1), "1\n0", "1\x00", "\ud800", "1\u2028"])
def test_a_version_that_cannot_be_one_is_left_out_and_counted(version: str) -> None:
    doc = document(v1_0=[a_file("spam_eggs-1.0.tar.gz")])
    doc["releases"][version] = [a_file("spam_eggs-2.tar.gz")]
    project = read(doc)
    assert [release.version for release in project.releases] == ["1.0"]
    assert len(project.refused) == 1


@pytest.mark.parametrize(
    "filename", [None, "", 7, "a/b.tar.gz", "..", ".hidden.whl", "a\\b.whl", "x\x00.whl", "x" * 401]
)
def test_a_file_that_cannot_be_one_is_left_out_and_counted(filename: Any) -> None:
    project = read(document(v1_0=[a_file("spam_eggs-1.0.tar.gz"), {**a_file("x"), "filename": filename}]))
    assert [file.filename for file in project.releases[0].files] == ["spam_eggs-1.0.tar.gz"]
    assert len(project.refused) == 1


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [
        ("size", None, None),
        ("size", "12", None),
        ("size", -1, None),
        ("size", 2**70, None),
        ("size", True, None),
        ("url", None, None),
        ("url", "../../packages/x.tar.gz", None),
        ("url", "//example.org/x", None),
        ("url", "file:///etc/passwd", None),
        ("url", "https://example.org/x\ny", None),
        ("url", "https://[::1", None),
        ("url", "https://example.org:99999/", None),
        ("url", "https://example.org:443/x", "https://example.org:443/x"),
        ("url", "https://[::1]/x", "https://[::1]/x"),
        ("url", "https://u:p@example.org/x", "https://u:p@example.org/x"),
        ("url", "HTTPS://example.org/é", "HTTPS://example.org/é"),
        ("url", 'https://example.org/"x', None),
        ("url", "https://example.org/x\\y", None),
        ("url", "https://example.org/<x>", None),
        ("url", "https://example.org/" + "x" * 2000, None),
        ("requires_python", 3, None),
        ("requires_python", "", None),
        ("requires_python", ">=3\x00", None),
        ("requires_python", ">=3," * 100, None),
        ("requires_python", " >=3.9 ", ">=3.9"),
        ("yanked", None, False),
        ("yanked", "true", False),
        ("yanked_reason", "two\nlines\x1b[31m", "two lines [31m"),
        ("digests", None, None),
        ("digests", {"sha256": "AB" * 32}, None),
        ("digests", {"sha256": None}, None),
    ],
)
def test_a_field_of_another_type_is_as_if_absent(field: str, value: object, seen: object) -> None:
    project = read(document(v1_0=[a_file("spam_eggs-1.0.tar.gz", **{field: value})]))
    [file] = project.releases[0].files
    assert getattr(file, "sha256" if field == "digests" else field) == seen


@pytest.mark.parametrize("time", [None, 5, "yesterday", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59", "x" * 100])
def test_an_upload_time_that_cannot_be_read(time: object) -> None:
    changes = {"upload_time_iso_8601": time, "upload_time": "2025-01-02T03:04:05"}
    project = read(document(v1_0=[a_file("spam_eggs-1.0.tar.gz", **changes)]))
    assert project.releases[0].released == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    project = read(document(v1_0=[a_file("spam_eggs-1.0.tar.gz", **changes | {"upload_time": time})]))
    assert project.releases[0].released.year == 1970


def test_times_are_utc() -> None:
    changes = {"upload_time_iso_8601": "2025-01-01T00:30:00+01:00"}
    project = read(document(v1_0=[a_file("spam_eggs-1.0.tar.gz", **changes)]))
    assert project.releases[0].released == datetime(2024, 12, 31, 23, 30, tzinfo=UTC)


def test_a_release_is_yanked_when_all_its_files_are() -> None:
    yanked = {"yanked": True, "yanked_reason": "broken"}
    some = read(document(v1_0=[a_file("a-1.0.tar.gz", **yanked), a_file("a-1.0-py3-none-any.whl")])).releases[0]
    assert (some.yanked, some.yanked_reason) == (False, "")
    every = read(document(v1_0=[a_file("a-1.0.tar.gz", **yanked), a_file("b-1.0-py3-none-any.whl", **yanked)]))
    assert (every.releases[0].yanked, every.releases[0].yanked_reason) == (True, "broken")


def test_releases_without_files_are_none() -> None:
    assert [release.version for release in read(document(v1_0=[], v2_0=[a_file("a-2.0.zip")])).releases] == ["2.0"]


def test_releases_are_ordered_and_versions_of_old_kept() -> None:
    files = [a_file("a-1.tar.gz")]
    doc = document(v1_9=files, v1_10=files, v2_0rc1=files)
    doc["releases"] |= {"dog": files, "1." + "0" * 136: files}  # there is one of 138 characters
    found = [release.version for release in read(doc).releases]
    assert found == ["2.0rc1", "1.10", "1.9", "1." + "0" * 136, "dog"]


def test_the_summary_is_one_bounded_line() -> None:
    doc = document(v1_0=[])
    doc["info"]["summary"] = "a\r\nb\x00c \x1b[31m" + "x" * 10**6
    summary = read(doc).summary
    assert summary.startswith("a b c [31mxxx")
    assert len(summary) == 500
    doc["info"]["summary"] = {"a": "dict"}
    assert read(doc).summary == ""


def test_which_release_is_the_latest() -> None:
    assert latest([("1.0", False), ("1.10", False), ("1.9", False)]) == "1.10"
    assert latest([("1.0", False), ("2.0", True), ("3.0rc1", False)]) == "1.0"
    assert latest([("1.0", True), ("2.0rc1", False)]) == "2.0rc1"
    assert latest([("1.0", True), ("2.0rc1", True)]) == "1.0"
    assert latest([("dog", False), ("1.0", True)]) == "1.0"
    assert latest([("dog", False), ("cat", False)]) == "dog"


def test_wanted() -> None:
    files = [a_file("a-1.tar.gz")]
    project = read(document(v1_0=files, v2_0=files, v3_0rc1=files))
    assert project.wanted(every=False) == {"2.0"}
    assert project.wanted(every=True) == {"1.0", "2.0", "3.0rc1"}
    assert read(document()).wanted(every=False) == frozenset()


def test_the_best_sdist() -> None:
    def best(*files: dict[str, Any]) -> str | None:
        found = best_sdist(read(document(v1_0=list(files))).releases[0].files, version="1.0")
        return found and found.filename

    names = ["spam_eggs-1.0.tar.bz2", "spam_eggs-1.0.zip", "spam_eggs-1.0.tar.gz", "Spam-Eggs-1.0.tar.gz"]
    assert best(*map(a_file, names)) == "spam_eggs-1.0.tar.gz"
    assert best(*map(a_file, names[:2])) == "spam_eggs-1.0.zip"
    assert best(a_file(names[0]), a_file("a-1.0-py3-none-any.whl")) == names[0]
    assert best(a_file(names[2], url=None), a_file(names[1])) == names[1]
    assert best(a_file(names[2], digests={})) is None
    assert best(a_file("spam_eggs-1.0.egg", packagetype="bdist_egg")) is None


@pytest.mark.parametrize(
    ("filename", "packagetype", "kind"),
    [
        ("a-1.tar.gz", "sdist", UpstreamKind.SDIST),
        ("a-1.tar.gz", None, UpstreamKind.SDIST),
        ("a-1.tar.gz", "bdist_dumb", UpstreamKind.OTHER),
        ("a-1.rpm", "sdist", UpstreamKind.OTHER),
        ("a-1.zip", "sdist", UpstreamKind.SDIST),
        ("a-1-py2.7.egg", "bdist_egg", UpstreamKind.OTHER),
        ("a-1.win32.exe", "bdist_wininst", UpstreamKind.OTHER),
        ("a-1-py3-none-any.whl", "sdist", UpstreamKind.WHEEL),
    ],
)
def test_kinds_of_files(filename: str, packagetype: str | None, kind: UpstreamKind) -> None:
    project = read(document(v1=[a_file(filename, packagetype=packagetype)]))
    assert project.releases[0].files[0].kind is kind


def test_addresses_come_from_the_index_page_where_the_json_has_none() -> None:
    project = read(document(v1_0=[a_file("spam_eggs-1.0.tar.gz", url="../x")]))
    assert needs_links(project)
    good = "https://files.example.org/x.tar.gz"
    assert needs_links(with_links(project, {"spam_eggs-1.0.tar.gz": (good, "cd" * 32)}))  # of other bytes
    assert needs_links(with_links(project, {"spam_eggs-1.0.tar.gz": ("file:///x", SHA256)}))
    linked = with_links(project, {"spam_eggs-1.0.tar.gz": (good, SHA256)})
    assert not needs_links(linked)
    assert linked.releases[0].files[0].url == good
    assert not needs_links(read(document(v1_0=[a_file("a-1.0-py3-none-any.whl", url=None)])))


def test_files_that_the_index_page_hides_are_not_there() -> None:
    """PyPI quarantines single releases so."""
    project = read(
        document(v1_0=[a_file("a-1.0.tar.gz"), a_file("a-1.0-py3-none-any.whl")], v2_0=[a_file("a-2.0.zip")])
    )
    shown = with_page(project, {"a-1.0.tar.gz", "a-9.zip"}, serial=project.serial)
    assert [(release.version, len(release.files)) for release in shown.releases] == [("1.0", 1)]
    assert with_page(project, set(), serial=project.serial).releases == ()
    assert with_page(project, set(), serial=project.serial + 1) == project  # the page of another moment
    assert with_page(project, set(), serial=0) == project
    unknown = read(document(v1_0=[a_file("a-1.0.tar.gz")]) | {"last_serial": None})
    assert with_page(unknown, set(), serial=0) == unknown
    quarantined = with_status(project, ProjectStatus.QUARANTINED, "malware")
    assert with_page(quarantined, set(), serial=project.serial) == quarantined


def test_a_status_marker_is_read_where_there_is_one() -> None:
    marker = {"project-status": {"status": "quarantined", "reason": "mal\nware"}}
    project = read(document() | marker)
    assert (project.status, project.status_reason) == (ProjectStatus.QUARANTINED, "mal ware")
    assert read(document() | {"project-status": {"status": "new-fangled"}}).status is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a/b", "../x", "a\n", "ä", "a" * 201, "a\x00b"])
def test_names_that_cannot_be_one(name: str) -> None:
    with pytest.raises(UpstreamUnusable):
        canonical(name)


@given(st.text(st.sampled_from("aZ09-_.~ "), max_size=8))
def test_plain_names_are_canonical_or_none(name: str) -> None:
    try:
        assert plain_name(name) == canonical(name) == canonicalize_name(name)
        assert plain_name(plain_name(name)) == plain_name(name)
    except UpstreamUnusable:
        assert plain_name(name) == ""
    for other in (None, 7, b"a", ["a"]):
        assert plain_name(other) == ""


def test_names_are_canonical() -> None:
    assert canonical("RPi.bme280") == "rpi-bme280"
    assert canonical("rpi_ws281x") == "rpi-ws281x"


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=400)
@given(st.data())
def test_no_json_does_worse_than_being_refused(data: st.DataObject) -> None:
    doc: Any = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = doc
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if data.draw(st.booleans()):
                place[key] = data.draw(json_values)
                break
            place = place[key]
    try:
        project = read(doc)
    except UpstreamUnusable as error:
        assert str(error).isprintable()
        return
    for release in project.releases:
        assert 0 < len(release.version) <= MAX_VERSION
        assert release.released.utcoffset() is not None
        for file in release.files:
            assert 0 < len(file.filename) <= MAX_FILENAME
            for text in (
                release.version,
                file.filename,
                file.yanked_reason,
                file.url or "",
                file.requires_python or "",
            ):
                assert text.isprintable()
                text.encode()  # a lone surrogate would stop the database driver
    assert project.display_name.isprintable()
    project.summary.encode()


@given(st.text(), st.integers(1, 50))
def test_cleaned_text_is_one_bounded_encodable_line(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned) <= limit
    assert "\n" not in cleaned
    assert "\x00" not in cleaned
    cleaned.encode()
