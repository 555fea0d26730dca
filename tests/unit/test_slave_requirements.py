# SPDX-License-Identifier: BSD-3-Clause
"""What an sdist says that building takes, read from archives of all kinds, bad ones too; packages that are missing."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from piwheels.slave import requirements
from piwheels.slave.requirements import USUAL, build_requirements, missing_packages
from piwheels.slave.sdist import BuildFailed
from piwheels.vocabulary import FailureReason


def archive(folder: Path, files: dict[str, str], *, kind: str = "gz") -> Path:
    if kind == "zip":
        path = folder / "foo-1.0.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, text in files.items():
                file.writestr(name, text)
        return path
    path = folder / f"foo-1.0.tar.{kind}"
    with tarfile.open(path, f"w:{kind}") as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


NEEDS = '[build-system]\nrequires = ["meson-python>=0.15", "numpy; python_version < \'4\'"]\n'


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_requirements_are_read_from_the_top_folder(tmp_path: Path, kind: str) -> None:
    files = {"foo-1.0/docs/pyproject.toml": "nonsense", "foo-1.0/pyproject.toml": NEEDS, "foo-1.0/setup.py": ""}
    found = build_requirements(archive(tmp_path, files, kind=kind))
    assert found == ("meson-python>=0.15", 'numpy; python_version < "4"')


@pytest.mark.parametrize(
    "files",
    [
        {"foo-1.0/setup.py": ""},
        {"foo-1.0/pyproject.toml": "[tool.x]\n"},
        {"foo-1.0/pyproject.toml": "[build-system]\n"},
    ],
)
def test_what_names_none_takes_the_usual_ones(tmp_path: Path, files: dict[str, str]) -> None:
    assert build_requirements(archive(tmp_path, files)) == USUAL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[build-system]\nrequires = 'setuptools'\n", "is not a list of requirements"),
        ("build-system = 3\n", "is not a list of requirements"),
        ("[build-system]\nrequires = ['-r x']\n", "has what is no requirement"),
        ("[build-system]\nrequires = ['a', 3]\n", "has what is no requirement"),
        ("[build-system\n", "pyproject.toml cannot be read: Expected"),
        pytest.param("x = " + "[" * 10_000, "pyproject.toml cannot be read: ", id="deep"),
        pytest.param("#" * (1024 * 1024 + 1), "longer than 1048576 bytes", id="long"),
        ("[build-system]\nrequires = [" + "'a'," * 101 + "]", "is not a list of requirements"),
    ],
)
def test_what_makes_no_sense_is_the_packages_fault(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        build_requirements(archive(tmp_path, {"foo-1.0/pyproject.toml": text}))
    assert caught.value.reason is FailureReason.PACKAGE and words in str(caught.value)


@pytest.mark.parametrize("name", ["foo-1.0.tar.gz", "foo-1.0.zip"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and so on", b"\x1f\x8b\x08\x00garbage"])
def test_archives_that_are_none(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BuildFailed):
        build_requirements(tmp_path / name)


def fake_dpkg(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "dpkg-query"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    run = requirements.subprocess.run
    monkeypatch.setattr(
        requirements.subprocess, "run", lambda command, **rest: run([str(program), *command[1:]], **rest)
    )


def test_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "printf 'ii  libfoo-dev\\nrc  libold-dev\\nhi  libheld\\n'; echo no such >&2; exit 1"
    fake_dpkg(tmp_path, monkeypatch, said)
    assert missing_packages(()) == []
    assert missing_packages(("libfoo-dev", "libold-dev", "libheld", "libnone")) == ["libold-dev", "libnone"]


def test_without_dpkg_all_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object, **keywords: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(requirements.subprocess, "run", none)
    assert missing_packages(("libfoo-dev",)) == ["libfoo-dev"]
