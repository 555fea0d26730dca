# SPDX-License-Identifier: BSD-3-Clause
"""pip of several ages, uv and poetry, and the same day's shopping for each: what they are told, and what came of it.

A client makes its visits one after the other, and all clients go at the same time; tests look at the results.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from tests.clients.shop import BETWEEN, EMPTY, Asked, Counter
from tests.e2e.running import clean_environ
from tests.missing import client

MINUTE = 60.0
#: What everybody wants, without saying of which version.
WANTED = ("plain", "again", "python", "choosy", "cool", "bitten", "newer", "tie", EMPTY)


class Visit:
    """The numbers of a client's visits; see :meth:`Client.customer`."""

    EXTRA, PINNED, HASHED, COOL, CUT, LOCK = range(1, 7)


@dataclass
class Said:
    """What came of one visit."""

    status: int
    out: str
    err: str
    installed: dict[str, str] = field(default_factory=dict)  #: name → version

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Client:
    """One of the clients, at work in a folder of its own."""

    name: str
    number: int
    folder: Path
    counter: Counter
    pypi: str  #: the simple index of the PyPI beside ours
    cutter: str  #: the address of a line to us that breaks off
    said: dict[int, Said] = field(default_factory=dict)

    def customer(self, visit: int) -> str:
        """The loopback address that a visit goes to. PINNED goes where EXTRA went: what was kept is asked for again."""
        return f"127.7.{self.number}.{Visit.EXTRA if visit == Visit.PINNED else visit}"

    def index(self, visit: int) -> str:
        """Our index, for a visit."""
        return f"{self.counter.url(self.customer(visit))}/simple/"

    def asked(self, visit: int, ending: str = "") -> list[Asked]:
        """What the access log has of a visit (of EXTRA: of PINNED too)."""
        return self.counter.asked(self.customer(visit), ending)

    def target(self, visit: int) -> Path:
        """Where a visit installs to."""
        return self.folder / f"target-{visit}"

    def run(self, visit: int, *command: str, cwd: Path | None = None, **environ: str) -> Said:
        """One command; its result is the visit's."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=MINUTE,
            check=False,
            cwd=cwd or self.folder,
            env=self.environ | environ,
        )
        self.said[visit] = Said(done.returncode, done.stdout, done.stderr, installed(self.target(visit)))
        return self.said[visit]

    @property
    def environ(self) -> Mapping[str, str]:
        return clean_environ() | {"HOME": str(self.folder), "NO_COLOR": "1", "TERM": "dumb"}


def installed(place: Path) -> dict[str, str]:
    """Names and versions of what is installed in a directory."""
    found = {}
    for path in place.glob("*.dist-info/METADATA"):
        headers = HeaderParser().parsestr(path.read_text())
        found[str(headers["Name"])] = str(headers["Version"])
    return found


# pip


def pip(one: Client) -> None:
    """All visits of a pip. Newer ones have more to try."""
    program = [sys.executable, str(client(one.name) / "pip"), "--no-input", "--retries", "1"]
    version = tuple(int(part) for part in one.run(0, *program, "--version").out.split()[1].split(".")[:2])
    # It keeps what comes without encryption only from hosts that it is told to trust.
    cache = ["--cache-dir", str(one.folder / "cache"), "--trusted-host", one.customer(Visit.EXTRA)]

    def run(visit: int, verb: str, *arguments: str) -> Said:
        return one.run(visit, *program, verb, *cache, *arguments)

    extra = ["--index-url", one.pypi, "--extra-index-url", one.index(Visit.EXTRA)]
    into = ["--target", str(one.target(Visit.EXTRA)), "--no-compile"]
    run(Visit.EXTRA, "install", *into, *extra, *WANTED, "both")
    report = one.folder / "report.json"
    dry = ["--dry-run", "--ignore-installed", "--report", str(report)]
    ours = ["--index-url", one.index(Visit.PINNED)]
    if version >= (26, 3):  # others ask every time
        ours += ["--refresh-package", ":all:"]
    if run(Visit.PINNED, "install", *dry, *ours, "plain", "bitten==2.0").status == 0:
        cache[:] = ["--no-cache-dir"]
        hashes = requirements(json.loads(report.read_text()))
        (one.folder / "hashes.txt").write_text(hashes)
        into = ["--target", str(one.target(Visit.HASHED)), "--no-compile"]
        ours = ["--index-url", one.index(Visit.HASHED)]
        run(Visit.HASHED, "install", *into, *ours, "--require-hashes", "-r", str(one.folder / "hashes.txt"))
    if version >= (25, 1):
        run(Visit.LOCK, "lock", "--index-url", one.index(Visit.LOCK), "-o", str(one.folder / "pylock.toml"), "choosy")
        cut = ["--index-url", f"{one.cutter}/simple/", "--resume-retries", "2"]
        run(Visit.CUT, "install", "--target", str(one.target(Visit.CUT)), "--no-compile", *cut, "big")
    if version >= (26, 0):
        ours = ["--index-url", one.index(Visit.COOL), "--uploaded-prior-to", BETWEEN]
        run(Visit.COOL, "install", "--target", str(one.target(Visit.COOL)), "--no-compile", *ours, "cool")


def requirements(report: Mapping[str, object]) -> str:
    """A requirements file with hashes, from pip's report of what it would install."""
    lines = []
    for item in report["install"]:  # type: ignore[attr-defined]
        about, archive = item["metadata"], item["download_info"]["archive_info"]
        lines.append(f"{about['name']}=={about['version']} --hash=sha256:{archive['hashes']['sha256']}\n")
    return "".join(sorted(lines))


# uv


def uv(one: Client) -> None:
    """All visits of uv."""
    program = [str(client(one.name) / "bin/uv"), "--no-config", "--no-progress"]
    python = ["--python", sys.executable]
    warm, cold = (["--cache-dir", str(one.folder / name)] for name in ("cache", "cold"))

    def install(visit: int, *arguments: str) -> Said:
        return one.run(visit, *program, "pip", "install", *python, "--target", str(one.target(visit)), *arguments)

    def compile(visit: int, wanted: str, *arguments: str) -> Said:
        (one.folder / f"{visit}.in").write_text(wanted)
        out = ["-o", str(one.folder / f"{visit}.txt"), str(one.folder / f"{visit}.in")]
        return one.run(visit, *program, "pip", "compile", *python, "--quiet", *out, *arguments)

    install(Visit.EXTRA, *warm, "--index", one.index(Visit.EXTRA), "--default-index", one.pypi, *WANTED, "both")
    ours = ["--default-index", one.index(Visit.PINNED)]
    install(Visit.PINNED, *warm, *ours, "--refresh", "plain", "bitten==2.0")
    compile(Visit.LOCK, "choosy", *cold, "--default-index", one.index(Visit.LOCK), "--generate-hashes")
    hashes = ["--require-hashes", "-r", str(one.folder / f"{Visit.LOCK}.txt")]
    install(Visit.HASHED, *cold, "--default-index", one.index(Visit.HASHED), *hashes)
    ours = ["--default-index", one.index(Visit.COOL)]
    install(Visit.COOL, *cold, *ours, "--exclude-newer", BETWEEN, "cool")
    install(Visit.CUT, *cold, "--default-index", f"{one.cutter}/simple/", "big")


# poetry

PROJECT = """
[project]
name = "shopping"
version = "1.0"
requires-python = "=={python}.*"
dependencies = [{wanted}]
[tool.poetry]
package-mode = false
[[tool.poetry.source]]
name = "farm"
url = "{farm}"
priority = "primary"
[[tool.poetry.source]]
name = "other"
url = "{other}"
priority = "primary"
[[tool.poetry.source]]
name = "line"
url = "{line}"
priority = "explicit"
[tool.poetry.dependencies]
big = {{source = "line"}}
"""


def poetry(one: Client) -> None:
    """A project's lock file, and what is installed by it; one of its files over the line that breaks off."""
    place, project = str(client(one.name)), one.folder / "shopping"

    def run(visit: int, *words: str) -> Said:
        return one.run(
            visit,
            *(sys.executable, "-m", "poetry", "--no-interaction", "--no-ansi", *words),
            cwd=project,
            PYTHONPATH=place,
            POETRY_CACHE_DIR=str(one.folder / "cache"),
            POETRY_CONFIG_DIR=str(one.folder / "config"),
            POETRY_VIRTUALENVS_IN_PROJECT="true",
            POETRY_VIRTUALENVS_OPTIONS_NO_PIP="true",
            POETRY_KEYRING_ENABLED="false",
            POETRY_REQUESTS_MAX_RETRIES="1",
        )

    wanted = [name for name in WANTED if name != "bitten"] + ["both", "big", "bitten==2.0"]
    python = ".".join(str(part) for part in sys.version_info[:2])
    project.mkdir()
    (project / "pyproject.toml").write_text(
        PROJECT.format(
            python=python,
            wanted=", ".join(f'"{name}"' for name in wanted),
            farm=one.index(Visit.EXTRA),
            other=one.pypi,
            line=f"{one.cutter}/simple/",
        )
    )
    run(Visit.LOCK, "lock")
    one.target(Visit.EXTRA).symlink_to(project / f".venv/lib/python{python}/site-packages")
    run(Visit.EXTRA, "install", "--no-root")
    one.said[Visit.CUT] = one.said[Visit.EXTRA]


WAYS: Mapping[str, Callable[[Client], None]] = {
    "poetry": poetry,  # the slowest first
    "uv": uv,
    "pip-23": pip,
    "pip-24": pip,
    "pip-25.1": pip,
    "pip": pip,
}
