# SPDX-License-Identifier: BSD-3-Clause
"""What a project's pages say: which wheels are listed, under which bytes, and why there are none."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.master.planner import Code
from piwheels.site import paths
from piwheels.site.facts import MAIN, FileFacts, ProjectFacts
from piwheels.site.model import Status, choose_files, latest_attempts, project_page, reasons, replaced
from piwheels.vocabulary import FailureReason, ProjectStatus
from tests import site_facts as make
from tests.site_facts import ARM64, ARMHF, LATEST, NEWER, TARGETS


def cells(facts: ProjectFacts | None = None, version: str = "1.10") -> dict[str, tuple[Status, str]]:
    page = make.page(facts)
    release = next(r for r in page.releases if r.version == version)
    return {cell.target: (cell.status, cell.words) for cell in release.cells}


def test_releases_are_newest_first_by_version_and_not_by_text() -> None:
    assert [release.version for release in make.page().releases] == ["2.0rc1", "1.10", "1.0", "0.9"]


def test_the_main_release_is_neither_a_prerelease_nor_yanked() -> None:
    assert make.page().main == make.page().releases[1]
    only_pre = make.page(make.project(releases=(make.release(4, "2.0rc1"),), files=(), builds=()))
    assert only_pre.main is not None and only_pre.main.version == "2.0rc1"
    assert make.page(make.project(releases=(), files=(), builds=())).main is None


def test_every_target_has_its_status_and_words() -> None:
    assert cells() == {
        ARMHF.name: (Status.SUCCESS, ""),
        ARM64.name: (Status.FAILED, "the build failed"),
        NEWER.name: (Status.ON_PYPI, "PyPI has a wheel for it"),
        LATEST.name: (Status.PENDING, "waiting to be built"),
    }
    assert cells(version="1.0")[NEWER.name] == (Status.SKIPPED, "not built: needs another Python: <3.12")


def test_a_wheel_built_for_another_target_is_named_as_what_serves() -> None:
    facts = make.project()
    said = make.verdicts(facts)
    said[2][LATEST.name] = make.verdict(LATEST, Code.BUILT, facts.files[0].filename)
    release = project_page(facts, said, TARGETS).releases[2]
    assert {c.target: c.words for c in release.cells}[LATEST.name] == f"the wheel built for {ARMHF.name} serves it too"
    assert release.wheels[1].targets == (ARMHF.name, LATEST.name)


def test_a_job_in_the_queue_and_one_being_built_read_the_same() -> None:
    facts = make.project(builds=make.project().builds[:5])
    said = make.verdicts(facts)
    pages = []
    for first, retry in ((Code.QUEUED, Code.RETRYING), (Code.BUILDING, Code.BUILDING)):
        said[3][LATEST.name] = make.verdict(LATEST, first)
        said[3][ARM64.name] = make.verdict(ARM64, retry)
        pages.append(project_page(facts, said, TARGETS))
    assert pages[0] == pages[1]
    again = next(c for c in pages[0].releases[1].cells if c.target == ARM64.name)
    assert again.words == "waiting to be tried again (failed)"


def test_the_latest_attempt_that_counts_is_shown() -> None:
    failed, passed = make.build(1, 1, ARMHF, FailureReason.LOST), make.build(2, 1)
    reset = replace(passed, superseded=True)
    assert latest_attempts([failed, passed])[1, ARMHF.name] == passed
    assert latest_attempts([failed, reset])[1, ARMHF.name] == failed
    assert latest_attempts([replace(failed, superseded=True), reset])[1, ARMHF.name] == reset


def test_a_disabled_target_keeps_its_column_while_something_was_built_for_it() -> None:
    without = [replace(t, enabled=False) if t in (ARM64, LATEST) else t for t in TARGETS]
    facts = make.project()
    said = {
        id_: {n: v for n, v in of.items() if n in (ARMHF.name, NEWER.name)} for id_, of in make.verdicts(facts).items()
    }
    page = project_page(facts, said, without)
    assert page.targets == (ARMHF.name, ARM64.name, NEWER.name)
    status = {c.target: (c.status, c.words) for c in page.releases[1].cells}
    assert status[ARM64.name] == (Status.FAILED, "the build failed")
    assert {w.filename: w.targets for w in page.wheels}[facts.files[1].filename] == (ARM64.name,)


def test_wheels_carry_what_the_index_needs() -> None:
    wheels = {wheel.filename: wheel for wheel in make.page().wheels}
    assert list(wheels) == [
        "foo_bar-0.9-py3-none-any.whl",
        "foo_bar-1.0-cp311-cp311-linux_aarch64.whl",
        "foo_bar-1.0-cp311-cp311-linux_armv7l.whl",
        "foo_bar-1.10-cp311-cp311-linux_armv7l.whl",
    ]
    wheel = wheels["foo_bar-1.0-cp311-cp311-linux_armv7l.whl"]
    assert (wheel.platform_tag, wheel.abi_tag, wheel.builder_abi) == ("linux_armv7l", "cp311", "cp311")
    assert (wheel.apt, wheel.pip, wheel.unknown) == (("libopenblas0",), ("numpy>=1.20",), ())
    assert wheel.requires_python == ">=3.8"
    assert wheels["foo_bar-1.10-cp311-cp311-linux_armv7l.whl"].requires_python is None  # invalid
    assert wheels["foo_bar-0.9-py3-none-any.whl"].unknown == ("libodd.so.1",)


def test_a_release_that_is_yanked_upstream_is_yanked_here() -> None:
    old = make.page().wheels[0]
    assert old.yanked and old.yanked_reason == "Broke on Pi Zero"


def test_preinstalled_packages_are_not_asked_for() -> None:
    has_it = [replace(t, preinstalled=("libopenblas0",)) if t is ARMHF else t for t in TARGETS]
    wheels = {wheel.filename: wheel.apt for wheel in make.page(targets=has_it).wheels}
    assert wheels["foo_bar-1.0-cp311-cp311-linux_armv7l.whl"] == ()
    assert wheels["foo_bar-1.0-cp311-cp311-linux_aarch64.whl"] == ("libopenblas0",)


def test_a_quarantined_project_lists_nothing() -> None:
    assert make.page(make.project(status=ProjectStatus.QUARANTINED)).wheels == ()


@pytest.mark.parametrize(
    "filename",
    ["../x-1.0-py3-none-any.whl", "/x.whl", "x.whl", "x-1.0-py3-none-any.zip", "a" * 240 + "-1-py3-none-any.whl"],
)
def test_what_cannot_be_published_under_its_name_is_not_listed(filename: str) -> None:
    files = (make.file(1, 1, filename), make.file(2, 1, "foo_bar-1.0-py3-none-any.whl"))
    assert [w.filename for w in make.page(make.project(files=files)).wheels] == ["foo_bar-1.0-py3-none-any.whl"]


def test_unavailable_files_are_not_listed() -> None:
    facts = make.project()
    gone = facts.files[0].filename
    names = [w.filename for w in project_page(facts, make.verdicts(facts), TARGETS, unavailable={gone}).wheels]
    assert gone not in names and len(names) == 3


def test_rows_whose_parents_vanished_meanwhile_are_ignored() -> None:
    facts = make.project(files=(make.file(9, 77, "foo_bar-1.0-py3-none-any.whl"),))
    assert make.page(facts).wheels == ()
    assert make.page(make.project(releases=())).wheels == ()


NAME = "foo_bar-1.0-py3-none-any.whl"


def test_a_name_keeps_its_first_content() -> None:
    first, second = make.file(1, 1, NAME), make.file(2, 2, NAME)
    assert choose_files([second, first], {}, MAIN)[NAME] == first
    assert choose_files([first, second], {(MAIN, NAME): second.sha256}, MAIN)[NAME] == second  # it is bound
    assert choose_files([first, second], {(MAIN, NAME): b"x" * 32}, MAIN) == {}  # what it was is gone


def test_of_rows_with_one_content_the_newest_that_is_not_yanked_speaks() -> None:
    first = make.file(1, 1, NAME)
    again = replace(first, id=2, build_id=2)
    yanked = replace(first, id=3, build_id=4, yanked=True)
    assert choose_files([first, again, yanked], {}, MAIN)[NAME] == again
    assert choose_files([replace(first, yanked=True), yanked], {}, MAIN)[NAME] == yanked


def test_a_distributions_space_has_its_own_wheels_with_bytes_of_their_own() -> None:
    older = replace(make.file(1, 1, NAME), distribution="bookworm")
    newer = replace(make.file(2, 2, NAME), distribution="trixie")
    bound = {(MAIN, NAME): older.sha256, ("bookworm", NAME): older.sha256, ("trixie", NAME): newer.sha256}
    chosen = {space: choose_files([older, newer], bound, space) for space in (MAIN, "bookworm", "trixie", "sid")}
    assert chosen == {MAIN: {NAME: older}, "bookworm": {NAME: older}, "trixie": {NAME: newer}, "sid": {}}


def test_a_number_that_is_bound_elsewhere_only_is_not_listed() -> None:
    name = "foo_bar-1.0-1-cp311-abi3-linux_armv7l.whl"
    newer = replace(make.file(1, 1, name), distribution="trixie")
    bound = {("trixie", name): newer.sha256}
    assert choose_files([newer], bound, MAIN) == {}
    assert choose_files([newer], bound, "trixie") == {name: newer}


def test_of_several_builds_of_a_wheel_all_but_the_newest_are_yanked() -> None:
    def built(number: int, build: str, tag: str = "cp311-cp311-linux_armv7l", **values: object) -> FileFacts:
        return make.file(number, 1, f"foo_bar-1.0{build}-{tag}.whl", distribution="bookworm", **values)

    def reasons_of(*files: FileFacts) -> dict[str, str]:
        return {file.filename[11:].partition("-cp")[0]: file.yanked_reason for file in replaced(files) if file.yanked}

    plain, second, tenth = built(3, ""), built(1, "-2"), built(2, "-10")
    assert reasons_of(plain) == {}
    assert reasons_of(plain, second) == {"": "replaced by build 2"}
    assert reasons_of(plain, tenth, second) == {"": "replaced by build 10", "-2": "replaced by build 10"}
    yanked = replace(tenth, yanked=True, yanked_reason="it bites")
    assert reasons_of(plain, second, yanked) == {"": "replaced by build 2", "-10": "it bites"}
    assert reasons_of(plain, built(4, "-1", "cp311-cp311-linux_aarch64")) == {}
    assert reasons_of(plain, replace(second, distribution="trixie")) == {}
    assert len(replaced([plain, replace(second, filename="x" * 300)])) == 2
    respelled = replace(built(9, ""), filename=plain.filename.replace("foo_bar", "Foo_Bar"))
    assert [file.yanked_reason for file in replaced([respelled, plain])] == ["", "replaced by a newer build"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans()), max_size=12), st.data())
def test_a_name_never_changes_its_content_as_builds_are_added(
    history: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    """Whatever is built, yanked and published in whatever order: what a name showed once, it shows always."""
    rows = []
    shown: dict[tuple[str, str], bytes] = {}
    for number, (name, content, yanked) in enumerate(history, 1):
        rows.append(replace(make.file(content, 1, f"foo_bar-{name}-py3-none-any.whl"), id=number, yanked=yanked))
        if not data.draw(st.booleans()):
            continue  # not published between these two
        rows_now = data.draw(st.permutations(rows))
        chosen = {(MAIN, name): file.sha256 for name, file in choose_files(rows_now, shown, MAIN).items()}
        assert shown.items() <= chosen.items()
        shown = chosen


def test_reasons_join_targets_that_share_one() -> None:
    release = make.page().releases[0]
    (only,) = reasons(release)
    assert only.targets == f"{ARMHF.name}, {ARM64.name}, {NEWER.name} and {LATEST.name}"
    assert only.words == "not built: a newer release is"
    failed = next(r for r in reasons(make.page().releases[1]) if r.status is Status.FAILED)
    assert failed.detail == "gcc said no\nand that was that"
    assert failed.log == "logs/0000/000/5.html.gz"


# Where things are


def test_paths() -> None:
    assert str(paths.wheel_path("foo-bar", NAME)) == f"simple/foo-bar/{NAME}"
    assert str(paths.metadata_path("foo-bar", NAME)) == f"simple/foo-bar/{NAME}.metadata"
    assert str(paths.project_page("foo-bar")) == "project/foo-bar/index.html"
    assert str(paths.project_json("foo-bar")) == "project/foo-bar/json/index.json"
    assert str(paths.log_path(12_345_678)) == "logs/0012/345/12345678.txt.gz"
    assert (
        paths.url_path(paths.simple_dir("foo") / "foo-1!2+x-py3-none-any.whl")
        == "simple/foo/foo-1%212%2Bx-py3-none-any.whl"
    )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "Foo", "a_b", "-a", "a" * 201, "a\n", "ä"])
def test_names_that_are_not_canonical_have_no_place(name: str) -> None:
    for place in (paths.simple_dir, paths.project_dir, paths.project_json):
        with pytest.raises(ValueError, match="not a canonical project name"):
            place(name)


@pytest.mark.parametrize(
    "name", ["", "..", "../a.whl", "a/b.whl", "/a.whl", ".a.whl", "a.whl\n", "a.zip", "a" * 250 + ".whl"]
)
def test_names_that_are_no_wheels_have_no_place(name: str) -> None:
    with pytest.raises(ValueError, match="not fit to be published"):
        paths.wheel_path("a", name)


def test_logs_are_of_builds() -> None:
    with pytest.raises(ValueError, match="not the number of a build"):
        paths.log_path(0)
