# SPDX-License-Identifier: BSD-3-Clause
"""The simulated PyPI's history: its journal's words, its truth, scripts, random days; index negotiation; bulk pages."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tests.simulator import bulk_pages, documents, recipes
from tests.simulator.history import History
from tests.simulator.negotiation import HTML, SIMPLE_HTML, SIMPLE_JSON, choose
from tests.simulator.script import ACTIONS, ScriptError, load, play, random_day
from tests.simulator.things import Project
from tests.simulator.truth import TruthProject, TruthRelease

WORDS = """
create; add Owner sim-owner; new release; add source file spam-1.0.tar.gz; add py3 file spam-1.0-py3-none-any.whl;
yank release; unyank release; add Maintainer ada; remove Owner sim-owner; docupdate; rename from Spam; project archived;
project unarchived; project quarantined; project quarantine cleared; release quarantined; release quarantine cleared;
polish the brass; remove file spam-1.0.tar.gz; remove release; remove project; create
"""


def told(history: History, after: int = 0) -> list[str]:
    return [event.action for event in history.events_since(after)]


def test_every_change_is_told_in_pypis_words() -> None:
    history = History()
    history.add_release("Spam", "1.0", recipes.TINY, wheels=("py3-none-any",))
    history.yank("spam", "1.0", "broken")
    history.yank("spam", "1.0", yanked=False)
    history.change_owner("spam", "ada", role="Maintainer")
    history.change_owner("spam", "sim-owner", remove=True)
    history.docupdate("spam")
    history.rename("spam", "SPAM")
    for status in ("archived", "active"):
        history.set_status("spam", status)
    history.quarantine("spam")
    history.clear_quarantine("spam")
    history.quarantine_release("spam", "1.0")
    history.clear_release_quarantine("spam", "1.0")
    history.unknown_event("spam")
    history.remove_file("spam", "spam-1.0.tar.gz")
    history.remove_release("spam", "1.0")
    history.remove_project("spam")
    history.add_project("spam")
    assert told(history)[:-1] == [words.strip() for words in WORDS.replace("\n", " ").split(";")]
    serials = [event.serial for event in history.events]
    assert serials == list(range(1001, 1001 + len(serials)))
    assert history.projects["spam"].serial == serials[-1] == history.serial
    releases = {event.action for event in history.events if event.version is not None}
    assert {words.split()[0] for words in releases} == {"new", "add", "remove", "yank", "unyank", "release"}
    assert not any("Owner" in words for words in releases)


def test_the_journal_is_cut_after_a_serial_and_after_a_number() -> None:
    history = History()
    history.add_project("one")
    history.skip(50)
    history.add_project("two")
    assert [event.serial for event in history.events_since(1001)] == [1002, 1053, 1054]
    assert [event.serial for event in history.events_since(1001, limit=1)] == [1002]
    assert history.events_since(1054) == []


def test_truth_is_what_can_be_seen() -> None:
    history = History()
    sdist, wheel = history.add_release("Spam", "1.0", recipes.TINY, wheels=("py3-none-any",))
    history.add_release("spam", "2.0", recipes.TINY)
    history.add_release("spam", "3.0", None)
    history.yank("spam", "1.0", "broken")
    history.quarantine_release("spam", "2.0")
    truth = history.truth()["spam"]
    assert (truth.display_name, truth.serial, truth.status) == ("Spam", history.serial, "active")
    assert list(truth.releases) == ["1.0"]
    one = truth.releases["1.0"]
    assert (one.yanked, one.yanked_reason) == (True, "broken")
    assert one.files == tuple(sorted([sdist.filename, wheel.filename]))
    assert one.sdists == {sdist.filename: sdist.sha256}
    history.clear_release_quarantine("spam", "2.0")
    history.quarantine("spam")
    assert list(history.truth()["spam"].releases) == ["1.0", "2.0"]
    assert history.truth()["spam"].status == "quarantined"
    history.remove_project("spam")
    assert history.truth() == {}


def test_a_file_added_to_a_yanked_release_is_yanked() -> None:
    history = History()
    history.add_release("spam", "1.0", recipes.TINY)
    history.yank("spam", "1.0", "broken")
    [wheel] = history.add_release("spam", "1.0", None, wheels=("py3-none-any",))
    assert (wheel.yanked, wheel.yanked_reason) == (True, "broken")


def test_what_is_recreated_has_other_bytes() -> None:
    history = History()
    [old] = history.add_release("spam", "1.0", recipes.TINY)
    history.add_release("spam", "2.0", recipes.TINY)
    serial = history.serial
    [new] = history.recreate("spam", "1.0", recipes.TINY)
    assert new.filename == old.filename
    assert new.sha256 != old.sha256
    assert told(history, serial)[:2] == ["remove project", "create"]
    assert list(history.truth()["spam"].releases) == ["1.0"]


def test_what_was_is_kept_for_stale_answers() -> None:
    history = History()
    history.add_release("spam", "1.0", recipes.TINY)
    assert history.projects["spam"].before is None
    serial = history.serial
    history.add_release("spam", "2.0", recipes.TINY)
    before = history.projects["spam"].before
    assert before is not None
    assert (before.serial, before.versions) == (serial, ["1.0"])
    assert history.last_change == ("spam", serial)
    serial = history.serial
    history.remove_project("spam")
    assert history.gone["spam"].serial == serial


def test_tiny_sdists_are_archives_each_of_its_own() -> None:
    name, data = recipes.sdist("Spam.Ham", "1.0", recipes.TINY)
    assert name == "spam_ham-1.0.tar.gz"
    assert len(data) < 500
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        assert archive.getmembers() == []
    others = {
        recipes.sdist("a", "1", recipes.TINY)[1],
        recipes.sdist("a", "2", recipes.TINY)[1],
        recipes.sdist("a", "1", recipes.variant(recipes.TINY, salt="x"))[1],
    }
    assert len(others) == 3


# Scripts


def test_a_script_from_a_file(tmp_path: Path) -> None:
    toml = tmp_path / "history.toml"
    toml.write_text(
        '[[step]]\ndo = "add_release"\nname = "spam"\nrecipe = "tiny"\nuploaded = "2020-01-01"\n'
        '[[step]]\ndo = "yank"\nname = "spam"\nversion = "1.0"\n',
        "utf-8",
    )
    history = History()
    assert play(history, load(toml)) == 5
    assert history.projects["spam"].files["spam-1.0.tar.gz"].uploaded.isoformat() == "2020-01-01T00:00:00+00:00"
    steps = tmp_path / "history.json"
    steps.write_text(json.dumps(random_day(1, events=50)), "utf-8")
    assert play(History(), load(steps)) >= 50


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "history.json: "),
        ("{}", "no list of steps"),
        ("[1]", "no list of steps"),
        ('[{"do": "__init__"}]', "step 1.*nothing that a step can do"),
        ('[{"do": "add_project", "name": "a"}, {"do": "yank", "name": "b", "version": "1"}]', "step 2.*KeyError"),
        ('[{"do": "add_release", "name": "a", "colour": "red"}]', "step 1.*colour"),
        ('[{"do": "add_release", "name": "a", "recipe": "souffle"}]', "step 1.*souffle"),
    ],
)
def test_a_script_that_cannot_be_played_says_where(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ScriptError, match=words):
        play(History(), load(path))


def test_every_action_is_a_method() -> None:
    assert all(callable(getattr(History, action)) for action in ACTIONS)


def test_a_random_day_has_everything_and_is_the_same_again() -> None:
    day = random_day(7, projects=40, events=3000)
    assert json.loads(json.dumps(day)) == day == random_day(7, projects=40, events=3000)
    assert day != random_day(8, projects=40, events=3000)
    assert {step["do"] for step in day} == ACTIONS - {"answer_with"}
    history = History()
    assert 3000 <= play(history, day) < 3050
    counts = Counter(" ".join(event.action.split()[:2]) for event in history.events)
    for words in (
        *("create", "new release", "add source", "add py3", "remove project", "remove release", "remove file"),
        *("yank release", "unyank release", "remove Owner", "add Maintainer", "docupdate", "project quarantined"),
        *("project quarantine", "release quarantined", "release quarantine", "rename from", "polish the"),
    ):
        assert counts[words] > 0, words
    truth = history.truth()
    assert len(truth) > 25
    assert {project.status for project in truth.values()} >= {"active", "archived"}
    assert any(release.yanked for project in truth.values() for release in project.releases.values())


@pytest.mark.parametrize("seed", range(30))
def test_random_days_can_be_played(seed: int) -> None:
    assert play(History(), random_day(seed, projects=12, events=300)) >= 300


def follower(project: Project) -> TruthProject:
    """What one has of a project who reads its JSON, and of that keeps what its index page shows."""
    document = documents.project_json(project, files_url="")
    page = documents.detail(project, files_url="")
    assert document["last_serial"] == page["meta"]["_last-serial"]
    shown = {file["filename"] for file in page["files"]}
    assert page["project-status"] == {"status": project.status}
    releases = {}
    for version, files in document["releases"].items():
        files = [file for file in files if file["filename"] in shown]
        if files:
            releases[version] = TruthRelease(
                yanked=(yanked := all(file["yanked"] for file in files)),
                yanked_reason=(next((f["yanked_reason"] for f in files if f["yanked_reason"]), "") if yanked else ""),
                files=tuple(sorted(file["filename"] for file in files)),
                sdists={f["filename"]: f["digests"]["sha256"] for f in files if f["packagetype"] == "sdist"},
            )
    return TruthProject(document["info"]["name"], document["last_serial"], project.status, releases)


@pytest.mark.parametrize("seed", range(5))
def test_truth_is_what_the_documents_say(seed: int) -> None:
    history = History()
    play(history, random_day(seed, projects=40, events=1500))
    truth = history.truth()
    quarantined = {name for name, project in truth.items() if project.status == "quarantined"}
    assert set(truth) == set(history.projects)
    for name in set(truth) - quarantined:
        assert follower(history.projects[name]) == truth[name]
    for name in quarantined:
        assert follower(history.projects[name]).releases == {}


# Index pages


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", HTML),
        ("*/*", HTML),
        (SIMPLE_JSON, SIMPLE_JSON),
        (f"{SIMPLE_JSON}, {SIMPLE_HTML};q=0.1, text/html;q=0.01", SIMPLE_JSON),
        (f"{SIMPLE_JSON};q=0.2, text/html", HTML),
        (f"{SIMPLE_JSON};q=0, text/html;q=0.01", HTML),
        (f"{SIMPLE_JSON}; q=0", None),
        (f"*/*;q=0.1, {SIMPLE_HTML}", SIMPLE_HTML),
        ("application/vnd.pypi.simple.latest+json", SIMPLE_JSON),
        ("text/*", HTML),
        ("application/*;q=0.5, text/html;q=nonsense", SIMPLE_HTML),
        ("image/png", None),
    ],
)
def test_the_kind_of_page_is_chosen_by_quality(accept: str, kind: str | None) -> None:
    assert choose(accept) == kind


# The synthetic PyPI


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("projects", "events"), [(50, 200), (7, 3), (1000, 1000), (13, 100), (7919, 8000), (1, 5)])
def test_serials_follow_from_numbers(projects: int, events: int, together: bool) -> None:
    world = bulk_pages.World(projects=projects, events=events, listing=projects + 5, together=together)
    serials = {number: bulk_pages.base_serial(number) for number in range(world.names)}
    for name, _, _, _, serial in world.rows(0):
        serials[bulk_pages.number_of(name.encode()) or 0] = serial
    assert {number: world.serial(number) for number in serials} == serials
    assert max(serials.values()) == world.last_serial
    assert json.loads(bulk_pages.listing(world))["projects"] == [
        {"_last-serial": serial, "name": bulk_pages.name_of(number)} for number, serial in serials.items()
    ]


def test_synthetic_documents_are_of_one_piece() -> None:
    world = bulk_pages.World(projects=10, events=40)
    for number in range(10):
        document = json.loads(bulk_pages.json_document(world, number))
        page = json.loads(bulk_pages.detail(world, number))
        assert document["info"]["name"] == page["name"] == f"bulk-{number}"
        assert document["last_serial"] == page["meta"]["_last-serial"] == world.serial(number)
        assert document["urls"] == document["releases"][document["info"]["version"]]
        names = [file["filename"] for files in document["releases"].values() for file in files]
        assert [file["filename"] for file in page["files"]] == names
        assert 1 <= len(document["releases"]) <= 3
