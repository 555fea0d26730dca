# SPDX-License-Identifier: BSD-3-Clause
"""Recipes: what files may say, what is said of mistakes, and which recipe a project gets."""

import fnmatch
import json
import re
import textwrap
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.master import recipe_values
from piwheels.master.planner import Rebuild
from piwheels.master.recipe_folder import Folder, entries_of
from piwheels.master.recipes import (
    MAX_FILE,
    NOTHING,
    Book,
    Entry,
    Recipe,
    RecipeError,
    Source,
    changed,
    from_plain,
    matcher,
    parse,
    to_plain,
)
from piwheels.slave.environment import build_environment

EXAMPLES = Path(__file__).parents[2] / "master" / "recipes"


def source(text: str, name: str = "a.toml") -> Source:
    return Source(name, textwrap.dedent(text).encode())


def problems(text: str | bytes) -> tuple[str, ...]:
    given = Source("a.toml", text) if isinstance(text, bytes) else source(text)
    with pytest.raises(RecipeError) as caught:
        parse([given])
    assert "\n" not in str(caught.value)
    return caught.value.problems


def entry(pattern: str, **said: object) -> Entry:
    return Entry(pattern, Recipe(**said), "a.toml", 1)  # type: ignore[arg-type]


def test_everything_that_a_recipe_may_say() -> None:
    found = parse(
        [
            source(
                """
                # a comment
                [[recipe]]
                projects = [
                    "RPi.GPIO",   # as people write it
                    "opencv-*",
                ]
                skip = ""
                apt = ["libgtk-3-dev", "g++", "libgtk-3-dev"]
                environment = { MAX_JOBS = "2", A = "x = [y]" }
                timeout = "6h"
                memory = "2 GiB"
                network = false
                rebuild = "all"
                prereleases = true
                targets = ["bookworm-armhf"]
                """
            )
        ]
    )
    recipe = Recipe(
        skip="",
        apt=("libgtk-3-dev", "g++"),
        environment=(("A", "x = [y]"), ("MAX_JOBS", "2")),
        timeout=timedelta(hours=6),
        memory=2 * 1024**3,
        network=False,
        rebuild=Rebuild.ALL,
        prereleases=True,
        targets=("bookworm-armhf",),
    )
    assert found == (Entry("opencv-*", recipe, "a.toml", 6), Entry("rpi-gpio", recipe, "a.toml", 5))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('skipp = "why"', "unknown key skipp; did you mean skip?"),
        ('skip = "two\\nlines"', "skip must be why, in one line"),
        ("skip = true", "skip must be why, in one line"),
        ('apt = "libfoo"', "apt must be a list of 1 to 100 names"),
        ('apt = ["libfoo", "lib foo"]', "apt has 'lib foo', which is no name of a Debian package"),
        ("apt = []", "apt must be a list of 1 to 100 names"),
        ('apt = ["--purge"]', "apt has '--purge', which is no name of a Debian package"),
        ('environment = { "A B" = "1" }', "environment has 'A B', which is no variable's name"),
        ('environment = { PATH = "/x" }', "environment cannot have PATH: builders set it themselves"),
        ("environment = { A = 1 }", "environment has a A that is not a text"),
        ('environment = { A = "\\u0000" }', "environment has a A that is not a text"),
        ("environment = 3", "environment must be a table"),
        ('timeout = "6 hours"', "timeout must be seconds, or a text such as '90 min'"),
        ("timeout = 0", "timeout must be seconds"),
        ("timeout = true", "timeout must be seconds"),
        ("timeout = 604801", "at most 7 days"),
        ('memory = "lots"', "memory must be bytes, or a text such as '2 GiB'"),
        ("memory = -1", "memory must be bytes"),
        ("memory = 1e9", "memory must be bytes"),
        ('network = "no"', "network must be true or false, not 'no'"),
        ("prereleases = 1", "prereleases must be true or false, not 1"),
        ('rebuild = "some"', "rebuild must be 'missing' or 'all', not 'some'"),
        ("rebuild = [1]", "rebuild must be 'missing' or 'all', not [1]"),
        ('targets = ["Bookworm"]', "targets has 'Bookworm', which is no name of a target"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(line: str, words: str) -> None:
    (problem,) = problems(f'[[recipe]]\nprojects = ["ok"]\n\n{line}\n')
    assert problem.startswith("a.toml:4: ") and words in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[recipe]]\nprojects = []\nskip = 'x'\n", ["a.toml:2: projects must be a list of names and patterns"]),
        ("\n[[recipe]]\nskip = 'x'\n", ["a.toml:2: projects is missing: a list of names and patterns"]),
        ("[[recipe]]\nprojects = ['a']\n", ["a.toml:1: says nothing of its projects; there are: skip, apt"]),
        ("[[recipe]]\nprojects = ['a',\n\n'b c']\nskip='x'", ["a.toml:4: 'b c' is not a project's name"]),
        ("[[recipe]]\nprojects = ['a', 3]\nskip='x'", ["a.toml:2: 3 is not a project's name"]),
        ("[[recipe]]\nprojects = ['[ab]*']\nskip='x'", ["a.toml:2: '[ab]*' is not a pattern of names"]),
        ("[[recipe]]\nprojects = ['%s']\nskip='x'" % ("a" * 201), ["a.toml:2: 'aaa"]),
        ("x = 1\n[numpy]\nskip = 'no'\n", ["a.toml:1: unknown key x", "a.toml:2: unknown key numpy"]),
        ("[recipe]\nprojects = ['a']\n", ["a.toml:1: each recipe begins with [[recipe]]"]),
        ("recipe = 'a'\n", ["a.toml:1: each recipe begins with [[recipe]]"]),
        ("\nrecipe = [{projects = ['a'], skip = 'x'}]\n", ["a.toml:2: each recipe begins with [[recipe]]"]),
        ("[[recipe]]\nprojects = ['a'\nskip = 'x'\n", ["a.toml:3: not TOML: "]),
        ("[[recipe]]\nprojects = ['a']\nprojects = ['b']\n", ["a.toml:3: not TOML: "]),
        ("[[recipe]]\nskip = 'x'\n[recipe.environment]\n\nHOME = 'x'\n", ["a.toml:1: projects is", "a.toml:5: "]),
        ("[[recipe]]\nprojects=['a']\nskip = '''\nx\n'''\nmemory = ''", ["a.toml:3: skip must", "a.toml:6: memory"]),
        ("[[recipe]]\nprojects=['a']\nmemory = %s" % ("9" * 5000), ["a.toml:"]),
        ("a = %s" % ("[" * 5000), ["a.toml:1: "]),
    ],
)
def test_mistakes_of_form(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected)
    for problem, words in zip(found, expected, strict=True):
        assert problem.startswith(words)


def test_files_that_are_none() -> None:
    assert problems(b"\n\xff") == ("a.toml:2: not UTF-8 text, as TOML must be",)
    assert problems(b"#" * (MAX_FILE + 1)) == (f"a.toml:1: longer than {MAX_FILE} bytes: not a file of recipes",)


def test_all_mistakes_of_all_files_are_told() -> None:
    bad = "[[recipe]]\nprojects = ['a']\nnetwork = 3\nmemory = 'x'\n"
    with pytest.raises(
        RecipeError, match=r"^a\.toml:3: network .* \(and 3 more; piw-recipes check shows all\)$"
    ) as all_:
        parse([source(bad, "b.toml"), source(bad), source("[[recipe]]\nprojects = ['a']\nskip = 'x'\n", "c.toml")])
    assert [problem.split(" ")[0] for problem in all_.value.problems] == [
        "a.toml:3:",
        "a.toml:4:",
        "b.toml:3:",
        "b.toml:4:",
    ]


@given(st.binary(max_size=300) | st.text("[]{}='\"#\nrecip ejotsk,.\\*", max_size=200).map(str.encode))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    for content in (data, b"[[recipe]]\nprojects = ['a']\n" + data):
        try:
            parse([Source("a.toml", content)])
        except RecipeError as error:
            assert all(re.match(r"a\.toml:\d+: ", problem) for problem in error.problems)


# Which recipe a project gets

NAMES = st.text("ab-1", min_size=1, max_size=8)
PATTERNS = st.text("ab-1*?", min_size=1, max_size=8)


@given(PATTERNS, NAMES)
def test_patterns_mean_what_the_shell_means(pattern: str, name: str) -> None:
    assert bool(matcher(pattern)(name)) == fnmatch.fnmatchcase(name, pattern)


def test_a_pattern_cannot_take_for_ever() -> None:
    assert not matcher("*a" * 90 + "*")("a" * 89)
    assert not matcher("*a?" * 60 + "b")("a" * 200)


def test_the_name_wins_over_patterns_and_the_later_over_the_earlier() -> None:
    book = Book(
        parse(
            [
                source(
                    "[[recipe]]\nprojects = ['tf-x']\ntimeout = '1h'\nenvironment = { A = '1', B = '1' }\n", "1.toml"
                ),
                source(
                    """
                    [[recipe]]
                    projects = ["tf-*"]
                    skip = "too large"
                    apt = ["one"]
                    environment = { B = "2", C = "2" }
                    [[recipe]]
                    projects = ["*"]
                    timeout = 60
                    apt = ["two"]
                    """,
                    "2.toml",
                ),
                source("[[recipe]]\nprojects = ['tf_x']\nskip = ''\nmemory = 0\n", "3.toml"),
            ]
        )
    )
    assert book.effective("other") == Recipe(timeout=timedelta(minutes=1), apt=("two",))
    assert book.effective("tf-y").skip == "too large"
    assert book.effective("tf-x") == Recipe(
        skip="",
        apt=("one", "two"),
        environment=(("A", "1"), ("B", "1"), ("C", "2")),
        timeout=timedelta(hours=1),
        memory=0,
    )
    assert [f"{part.file}:{part.line}" for part in book.parts("tf-x")] == [
        "2.toml:3",
        "2.toml:8",
        "1.toml:2",
        "3.toml:2",
    ]
    assert Book(()).effective("a") is NOTHING


RECIPES = st.builds(
    Recipe,
    skip=st.none() | st.sampled_from(["", "why"]),
    apt=st.lists(st.sampled_from(["x1", "y1"]), max_size=2, unique=True).map(tuple),
    environment=st.dictionaries(st.sampled_from("ABC"), st.text(max_size=3)).map(lambda d: tuple(sorted(d.items()))),
    timeout=st.none() | st.integers(1, 999).map(lambda seconds: timedelta(seconds=seconds)),
    memory=st.none() | st.integers(0, 9),
    network=st.none() | st.booleans(),
    rebuild=st.none() | st.sampled_from(Rebuild),
    prereleases=st.none() | st.booleans(),
    targets=st.lists(st.sampled_from(["t", "u"]), max_size=1).map(tuple),
)


@given(RECIPES)
def test_recipes_survive_the_database(recipe: Recipe) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(recipe))) | {"from a newer piwheels": 1}) == recipe
    assert recipe.then(NOTHING) == recipe
    assert NOTHING.then(recipe) == recipe
    assert recipe.then(recipe) == recipe


@given(RECIPES, RECIPES, RECIPES)
def test_merging_does_not_depend_on_where_one_begins(a: Recipe, b: Recipe, c: Recipe) -> None:
    assert a.then(b).then(c) == a.then(b.then(c))


# What a new set changes

ENTRIES = st.lists(
    st.builds(
        entry,
        st.sampled_from(["a", "ab", "a*", "*b", "*"]),
        timeout=st.sampled_from([None, timedelta(1)]),
        skip=st.sampled_from([None, "x", "y"]),
    ),
    max_size=5,
).map(lambda some: tuple(sorted(some, key=lambda one: one.is_exact)))


@given(ENTRIES, ENTRIES)
def test_whatever_gets_another_recipe_is_told(before: tuple[Entry, ...], after: tuple[Entry, ...]) -> None:
    told = changed(before, after)
    for name in ("a", "ab", "b", "c"):
        old, new = Book(before).effective(name), Book(after).effective(name)
        fitting = [flag for pattern, flag in told.items() if matcher(pattern)(name)]
        assert fitting or old == new
        assert any(fitting) or old.making == new.making


def test_what_did_not_change_is_not_told() -> None:
    some = (entry("b*", skip="x"), entry("a", skip="x"), entry("c", timeout=timedelta(1)))
    assert changed(some, some) == {}
    assert changed(some, tuple(replace(one, line=7) for one in some)) == {}
    assert changed((), some) == {"b*": False, "a": False, "c": True}
    assert changed(some, some[:1]) == {"a": False, "c": True}
    assert changed(some, (some[0], some[2], some[1])) == {}  # of two names neither is the other's
    assert changed(some[:2], (some[0], entry("a", skip="y"))) == {"a": False}


def test_patterns_that_change_places_are_told() -> None:
    one, other = entry("a*", timeout=timedelta(1)), entry("*a", skip="x")
    assert changed((one, other), (other, one)) == {"a*": True, "*a": False}


# The folder


def test_the_folder_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.news() == () and folder.news() is None
    (tmp_path / "b.toml").write_text("[[recipe]]\nprojects = ['b']\nskip = 'x'\n")
    (tmp_path / ".a.toml").write_text("an editor's own")
    (tmp_path / "README").write_text("not for us")
    assert [one.pattern for one in folder.news() or ()] == ["b"]
    assert folder.news() is None
    (tmp_path / "a.toml").write_text("nonsense")
    with pytest.raises(RecipeError, match=r"^a\.toml:1: not TOML"):
        folder.news()
    assert folder.news() is None  # said once
    (tmp_path / "a.toml").unlink()
    assert [one.pattern for one in folder.news() or ()] == ["b"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"cannot read recipes from .*No such file"):
        folder.news()
    assert folder.news() is None
    (tmp_path / "d" / "x.toml").mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"^x\.toml:1: cannot be read: Is a directory$"):
        entries_of(tmp_path / "d")


def test_what_builders_set_themselves_is_what_is_reserved() -> None:
    theirs = build_environment({}, home=PurePath("/h"), temporary=PurePath("/t"), interpreter=PurePath("/p"))
    assert theirs.keys() | {"_PYTHON_HOST_PLATFORM"} == recipe_values.RESERVED


def test_the_examples_are_right() -> None:
    assert len(entries_of(EXAMPLES)) >= 12
