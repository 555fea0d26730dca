# SPDX-License-Identifier: BSD-3-Clause
"""Requirements files as pip reads them, and what Requires-Dist needs on given targets."""

import logging
from pathlib import Path

import packaging.markers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from piwheels.errors import SettingsError
from piwheels.master.targets import PRESETS
from piwheels.pypi.requirements import MAX_DEPTH, environment, environments, needed, read_requirements

ARMHF = PRESETS["bookworm-armhf"]
ARM64 = PRESETS["trixie-arm64"]
BOTH = environments([ARMHF, ARM64])


def read(folder: Path, text: str | bytes) -> tuple[Requirement, ...]:
    path = folder / "requirements.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_requirements(path)


def of(*texts: str) -> tuple[Requirement, ...]:
    return tuple(map(Requirement, texts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("numpy", ["numpy"]),
        ("numpy>=1.2 ,<2\nscipy", ["numpy<2,>=1.2", "scipy"]),
        ("# all\n\n  numpy # that one\nfoo#bar", None),  # a # inside a word is no comment
        ("Foo.Bar[b,a] ; python_version < '3.12'", ['Foo.Bar[a,b]; python_version < "3.12"']),
        ("numpy>=1.2, \\\n   <2\nscipy", ["numpy<2,>=1.2", "scipy"]),
        ("numpy \\\n# a comment ends it \\\nscipy", ["numpy", "scipy"]),
        ("numpy \\", ["numpy"]),
        ("numpy==1 --hash=sha256:aa \\\n    --hash=sha256:bb", ["numpy==1"]),
        ("numpy==1\\\n --hash=sha256:aa", ["numpy==1"]),
        ("numpy --config-settings=x=y", ["numpy"]),
        ("numpy\t-C x=y", ["numpy"]),
        ("-c constraints.txt\n--constraint=other.txt\nnumpy", ["numpy"]),
        ("-i http://index.example/simple/\n--no-binary :all:\n--pre\n--require-hashes\nnumpy", ["numpy"]),
        ("numpy @ https://files.example/numpy.zip", ["numpy @ https://files.example/numpy.zip"]),
        ("numpy@https://files.example/numpy.zip", ["numpy @ https://files.example/numpy.zip"]),
        ("a[b]@https://files.example/a.zip", ["a[b] @ https://files.example/a.zip"]),
        ("a; platform_version == 'x/y'", ["a; platform_version == 'x/y'"]),
        ("numpy @ file:///srv/numpy", ["numpy @ file:///srv/numpy"]),
        ("git+https://host.example/x@v1#egg=Some_Name[one,two]&subdirectory=a", ["Some_Name[one,two]"]),
        ("-e git+https://host.example/x#subdirectory=a&egg=x", ["x"]),
        ("--editable=git+https://host.example/x#egg=x", ["x"]),
        ("https://files.example/a/some_name-1.0-py3-none-any.whl#sha256=aa", ["some-name"]),
        ("https://files.example/a/some_name-1.0.tar.gz ; python_version > '3'", ["some-name"]),
        ("./wheels/some_name-1.0-py3-none-any.whl", ["some-name"]),
        ("./here\n../there\n/srv/x\n~/y\nsub/dir\n-e .\n-e .[test]", []),
        (b"\xef\xbb\xbfnumpy\r\nscipy\r", ["numpy", "scipy"]),
    ],
)
def test_lines(tmp_path: Path, text: str | bytes, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(SettingsError, match=r"requirements\.txt:4: 'foo#bar' is not a requirement"):
            read(tmp_path, text)
    else:
        assert read(tmp_path, text) == of(*expected)


def test_files_include_others_relative_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("b\n-r ../c.txt\n")
    (tmp_path / "c.txt").write_text("c\n")
    text = "a\n-r sub/b.txt -c x.txt\n-i http://x.example/ --requirement=c.txt\n-rc.txt\n--requirement 'c.txt'\nd"
    assert read(tmp_path, text) == of("a", "b", "c", "d")


def test_files_that_include_one_another_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b\n-r requirements.txt\n-r b.txt\n")
    assert read(tmp_path, "a\n-r b.txt\nc") == of("a", "b", "c")


def test_inclusion_has_a_depth(tmp_path: Path) -> None:
    for number in range(MAX_DEPTH + 2):
        (tmp_path / f"{number}.txt").write_text(f"-r {number + 1}.txt\n")
    with pytest.raises(SettingsError, match=rf"{MAX_DEPTH - 1}\.txt:1: files include one another more than"):
        read(tmp_path, "x\n-r 0.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("numpy\n\nnot a name!", r"requirements\.txt:3: 'not a name!' is not a requirement: "),
        ("a \\\n b c", r"requirements\.txt:1: 'a  b c' is not"),
        ("numpy==", r"requirements\.txt:1: 'numpy==' is not"),
        ("-r 'x", r"requirements\.txt:1: .* cannot be read: no closing quotation"),
        ("-r", r"requirements\.txt:1: -r names no file"),
        ("-r missing.txt", r"requirements\.txt:1: .*missing\.txt cannot be read: No such file"),
        ("-r .", r"requirements\.txt:1: .* cannot be read: Is a directory"),
        ("-r a\x00b", r"requirements\.txt:1: .* cannot be read: .*null"),
        ("-r https://host.example/r.txt", r"requirements\.txt:1: .* is not a local file"),
        (b"numpy\n\xff\n", r"requirements\.txt:2: not UTF-8"),
        (b"#" * (8 * 1024**2 + 1), r"longer than"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^/.*none\.txt cannot be read: No such file"):
        read_requirements(tmp_path / "none.txt")


def test_what_cannot_be_named_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, "a\n./here") == of("a")
    assert caplog.messages == [f"{tmp_path}/requirements.txt:2: ./here does not say which project it is; ignored"]


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    try:
        assert isinstance(read_requirements(path), tuple)
    except SettingsError as error:
        assert "any.txt" in str(error)


# Requires-Dist


def need(*requires: str, extras: tuple[str, ...] = ()) -> dict[str, frozenset[str]]:
    return needed(requires, extras=extras, environments=BOTH)


def test_what_is_needed_anywhere_is_needed() -> None:
    assert need(
        "Foo_Bar >= 1",
        "everywhere; sys_platform == 'linux'",
        "only-old; python_version < '3.12'",
        "only-new; python_version >= '3.13' and platform_machine == 'aarch64'",
        "nowhere; python_version < '3.13' and platform_machine == 'aarch64'",
        "windows; os_name == 'nt'",
        "other; platform_python_implementation == 'PyPy'",
        "url @ https://files.example/url.zip",
    ) == dict.fromkeys(["foo-bar", "everywhere", "only-old", "only-new", "url"], frozenset())


def test_extras_are_asked_for_and_handed_on() -> None:
    requires = ("base", "tester[Speed_Up,b]; extra == 'Test.It'", "tester[c]", "doc; extra == 'docs'")
    assert need(*requires) == {"base": frozenset(), "tester": frozenset({"c"})}
    assert need(*requires, extras=("test-it",)) == {"base": frozenset(), "tester": frozenset({"speed-up", "b", "c"})}
    assert need(*requires, extras=("TEST_it", "docs")).keys() == {"base", "tester", "doc"}


def test_any_patch_release_counts() -> None:
    assert need("a; python_full_version < '3.11.3'", "b; python_full_version >= '3.11.4' and python_version < '3.12'")
    assert "b" in need("b; python_full_version >= '3.11.4' and python_version < '3.12'")
    assert not need("c; python_full_version < '3.11'")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a requirement",
        "foo; python_version ~= 'dog'",
        "foo; nonsense == '1'",
        "foo; 'x' ~= 'y'",
        "foo>=1.*.2",
        "(" * 5000,
        "foo; " + "(" * 1500 + "os_name == 'posix'" + ")" * 1500,
        "a" * 5000,
    ],
)
def test_what_nobody_can_read_needs_nothing(text: str) -> None:
    assert need(text) == {}


@given(st.lists(st.text(max_size=60), max_size=5))
def test_strangers_words_do_no_harm(texts: list[str]) -> None:
    need(*texts)


def test_no_environment_needs_only_what_has_no_marker() -> None:
    assert needed(["a", "b; os_name == 'posix'"], environments=()) == {"a": frozenset()}


def test_an_environment_says_all_that_markers_know() -> None:
    assert environment(ARMHF).keys() == packaging.markers.default_environment().keys()
    assert environment(ARMHF, patch=2) | {"platform_machine": "armv7l"} == environment(ARMHF, patch=2)
    assert environment(ARMHF, patch=2)["python_full_version"] == "3.11.2"
    assert environment(ARM64)["platform_machine"] == "aarch64"
