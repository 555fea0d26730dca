# SPDX-License-Identifier: BSD-3-Clause
"""The manual says what the code does: generated chapters are current, and nothing public goes unmentioned."""

import configparser
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from piwheels.wire import messages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_chapters_are_current(generate: ModuleType) -> None:
    assert generate.main(["--check"]) == 0, "run python docs/generate.py"


@pytest.mark.parametrize("kind", [messages.SlaveMessage, messages.MasterMessage, messages.FileMessage])
def test_every_message_is_described(kind: object) -> None:
    text = (DOCS / "protocol.rst").read_text()
    for message in get_args(kind):
        name = message.__name__.removeprefix("File").upper()
        assert f"``{name}" in text, f"docs/protocol.rst does not mention {name}"


def test_every_command_is_described() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    commands = re.findall(r"^(piw-\w+) =", setup["options.entry_points"]["console_scripts"], re.MULTILINE)
    assert "piw-master" in commands
    text = (DOCS / "commands.rst").read_text()
    missing = [name for name in commands if f"\n{name}\n---" not in text]
    assert not missing, f"docs/commands.rst says nothing of {missing}"


def test_every_chapter_is_in_the_contents() -> None:
    contents = (DOCS / "index.rst").read_text()
    missing = [path.stem for path in DOCS.glob("*.rst") if path.stem != "index" and f"   {path.stem}\n" not in contents]
    assert not missing
    assert list((DOCS / "decisions").glob("0*.rst"))


def test_no_registry_is_named() -> None:
    """Upstream's address is one setting; a host's name in the tree would be a second."""
    hosts = re.compile(r"\b(pypi|pythonhosted|npmjs|deb\.debian)\.(org|com)\b")
    suffixes = {".py", ".rst", ".sql", ".cfg", ".toml", ".pt", ".css", ".js", ""}
    places = [
        "piwheels",
        "sql",
        "docs",
        "tests",
        "tools",
        "master",
        "slave",
        ".ci",
        "Makefile",
        "README.rst",
        "setup.cfg",
    ]
    files = [f for p in places for f in ([ROOT / p] if (ROOT / p).is_file() else (ROOT / p).rglob("*"))]
    named = [
        str(file.relative_to(ROOT))
        for file in files
        if file.is_file() and file.suffix in suffixes and "_build" not in file.parts
        if file != Path(__file__) and hosts.search(file.read_text(errors="replace"))
    ]
    assert named == []
