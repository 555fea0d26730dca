# SPDX-License-Identifier: BSD-3-Clause
"""Settings: what wins, what is understood, and that every complaint names its place."""

import re
import tomllib
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels import configuration, settings
from piwheels.errors import SettingsError
from piwheels.settings import Settings, load, show


def complaint(path: Path | None, environ: dict[str, str] | None = None, overrides: list[str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, environ, overrides or [])
    text = str(caught.value)
    assert "\n" not in text
    return text


def written(folder: Path, text: str) -> Path:
    path = folder / "farm.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_there_are_the_defaults() -> None:
    assert load(None) == Settings()


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    path = written(tmp_path, "[feed]\ninterval = 1\nreleases = 'all'\n[farm]\nname = 'file'\ncontact = 'file'\n")
    environ = {"PIWHEELS_FEED_INTERVAL": "2", "PIWHEELS_FARM_NAME": "environment", "PATH": "/bin"}
    found = load(path, environ, ["feed.interval=3.5"])
    assert found.feed.interval == timedelta(seconds=3.5)
    assert (found.farm.name, found.farm.contact, found.feed.releases) == ("environment", "file", "all")


def test_later_flags_win() -> None:
    assert load(None, {}, ["publish.workers=2", "publish.workers=3"]).publish.workers == 3


def test_relative_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    path = written(tmp_path, "[paths]\noutput = 'www'\nstore = '/absolute'\n")
    assert load(path).paths.output == tmp_path / "www"
    assert load(path).paths.store == Path("/absolute")
    assert load(None, {}, ["paths.run=here"]).paths.run == Path.cwd() / "here"


def test_a_path_may_be_left_empty_where_there_need_be_none(tmp_path: Path) -> None:
    assert load(None).recipes.folder is None
    assert load(None, {}, ["recipes.folder="]).recipes.folder is None
    assert load(written(tmp_path, "[recipes]\nfolder = 'mine'\n")).recipes.folder == tmp_path / "mine"
    assert "a path, not 3" in complaint(written(tmp_path, "[recipes]\nfolder = 3\n"))
    assert "must be a path" in complaint(None, {}, ["paths.run="])


@pytest.mark.parametrize(
    ("text", "words"),
    [("a, b", ("a", "b")), ("a b\tc", ("a", "b", "c")), ("", ()), (" , ", ()), ("RPi.GPIO", ("RPi.GPIO",))],
)
def test_lists_of_words(text: str, words: tuple[str, ...]) -> None:
    assert load(None, {"PIWHEELS_FEED_PROJECTS": text}).feed.projects == words


def test_what_is_shown_reads_back_as_the_same(tmp_path: Path) -> None:
    before = load(None, {}, ["feed.projects=a b", 'farm.name=quote " and \\ é', "feed.interval=0.25", "paths.run=/r"])
    assert load(written(tmp_path, show(before))) == before


def test_show_has_every_setting_with_its_help() -> None:
    text = show(Settings())
    tree = tomllib.loads(text)
    for section in fields(Settings):
        for key in fields(section.type):  # type: ignore[arg-type]
            assert key.name in tree[section.name]
            assert f"# {key.metadata['help']}\n{key.name} = " in text


def test_show_says_where_values_came_from(tmp_path: Path) -> None:
    path = written(tmp_path, "[farm]\n\nname = 'x'\n")
    reading = configuration.read(path, {"PIWHEELS_DATABASE_POOL": "3"}, ["publish.workers=2"])
    text = show(reading.settings, reading.origins)
    assert f"(from {path}:3)\nname = " in text
    assert "(from $PIWHEELS_DATABASE_POOL)\npool = 3" in text
    assert "(from --set publish.workers=2)\nworkers = 2" in text


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[feed]\n\n\nintervall = 3\n", 4, "did you mean interval?"),
        ("[farm]\nname = 'x'\n[fed]\n", 3, "did you mean feed?"),
        ("[zzz]\n", 1, "there are: farm"),
        ("# one\n[feed]\ninterval = 'soon'\n", 3, "number of seconds"),
        ("feed.interval = -1\n", 1, "more than 0 seconds"),
        ("[feed]\ninterval = 0\n", 2, "more than 0 seconds"),
        ("[feed]\ninterval = inf\n", 2, "number of seconds"),
        ("[feed]\ninterval = true\n", 2, "number of seconds"),
        ("[feed]\nreleases = 'some'\n", 2, "one of: latest, all"),
        ("[feed]\nprojects = [1]\n", 2, "list of words"),
        ("[slave]\nsandbox = 'maybe'\n", 2, "one of: auto, required, off"),
        ("[dispatch]\nfiles = 'ipc:///x'\n", 2, "tcp://HOST:PORT"),
        ("[dispatch]\nfiles = 'tcp://*:99999'\n", 2, "port"),
        ("[dispatch]\nstrikes = 1.5\n", 2, "whole number"),
        ("[dispatch]\nstrikes = true\n", 2, "whole number"),
        ("[dispatch]\nmax_file = 0\n", 2, "at least 1"),
        ("[database]\nurl = 'mysql://x'\n", 2, "postgresql://"),
        ("[farm]\nbase_url = 'http://x/'\n", 2, "slash"),
        ("[farm]\nbase_url = 'ftp://x'\n", 2, "web address"),
        ("[farm]\nbase_url = 'http://[x'\n", 2, "web address"),
        ('[farm]\nname = "two\\nlines"\n', 2, "one line"),
        ("[paths]\nrun = ''\n", 2, "path"),
        ("feed = 3\n", 1, "write [feed]"),
        ("[farm]\nname = \n", 2, "not TOML"),
        ("[farm]\nname = 'x'\nname = 'y'\n", 3, "not TOML"),
        ("x = [1\n", 2, "not TOML"),
    ],
)
def test_complaints_about_a_file_name_it_and_the_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = written(tmp_path, text)
    found = complaint(path)
    assert found.startswith(f"{path}:{line}: ")
    assert words in found


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert "cannot read" in complaint(tmp_path / "missing.toml")
    assert "cannot read" in complaint(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"[farm]\nname = '\xe9'\n")
    assert complaint(latin).startswith(f"{latin}:2: not UTF-8")
    latin.write_bytes(b"#" * (configuration.MAX_FILE + 1))
    assert "not a settings file" in complaint(latin)


def test_complaints_about_the_environment_name_the_variable() -> None:
    assert complaint(None, {"PIWHEELS_FEED_INTERVAL": "x"}).startswith("$PIWHEELS_FEED_INTERVAL: ")
    assert "PIWHEELS_DATABASE_URL" in complaint(None, {"PIWHEELS_DATABSE_URL": "x"})
    assert "did you mean interval" in complaint(None, {"PIWHEELS_FEED_INTERVALL": "x"})


def test_complaints_about_flags_repeat_them() -> None:
    assert complaint(None, {}, ["feed.interval=x"]).startswith("--set feed.interval=x: ")
    assert "section.key=value" in complaint(None, {}, ["interval=x"])
    assert "section.key=value" in complaint(None, {}, ["feed.interval"])
    assert "did you mean dispatch" in complaint(None, {}, ["dispach.lease=3"])


def test_defaults_pass_their_own_checks() -> None:
    for section in fields(Settings):
        for key in fields(section.type):  # type: ignore[arg-type]
            check = key.metadata["check"]
            value = getattr(getattr(Settings(), section.name), key.name)
            assert check is None or check(value) is None, f"{section.name}.{key.name}"


@given(st.text(max_size=200), st.sampled_from(["feed.interval", "dispatch.files", "farm.base_url", "publish.workers"]))
def test_any_text_is_taken_or_refused_in_one_line(text: str, name: str) -> None:
    try:
        load(None, {}, [f"{name}={text}"])
    except SettingsError as error:
        assert str(error)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "x.toml"


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=100))
def test_any_file_is_taken_or_refused(path: Path, text: str) -> None:
    path.write_bytes(text.encode())
    try:
        load(path)
    except SettingsError as error:
        assert re.match(re.escape(str(path)) + r":\d+: ", str(error))


def test_the_classes_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().farm.name = "other"  # type: ignore[misc]
    assert settings.SlaveSettings.__slots__
