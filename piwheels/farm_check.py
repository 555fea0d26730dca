# SPDX-License-Identifier: BSD-3-Clause
"""``piw-farm --once``'s last word: does pip install each built wheel from our index, and can it be imported?

Owns a scratch directory; knows wheels' names and an index's address, no database.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from piwheels.db.farm_facts import Wheel

FEW = 12  #: up to so many wheels are all checked at each run; of more, those that passed before are left out
INSTALL_SECONDS, IMPORT_SECONDS = 120, 60
TURN = 0.2  #: seconds between two looks at whether to stop
_IMPORT = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one wheel."""

    wheel: Wheel
    problem: str = ""  #: one line; empty: it works

    @property
    def ok(self) -> bool:
        """Whether it was installed and imported."""
        return not self.problem


class Checker:
    """Installs wheels from an index into environments of their own, and imports them."""

    def __init__(self, folder: Path, *, index_url: str, stop: Event) -> None:
        self._folder = folder
        self._passed = folder.with_name("checked.json")
        self._index_url = index_url
        self._stop = stop

    def check(self, wheels: Sequence[Wheel], report: Callable[[Checked], None]) -> list[Checked]:
        """Check each wheel; reports each as it is done. Those of many that passed before are not repeated."""
        passed = self._read()
        todo = [w for w in wheels if len(wheels) <= FEW or passed.get(w.filename) != w.sha256]
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        results: list[Checked] = []
        for number, batch in enumerate(_rounds(todo)):
            for result in self._check_round(self._folder / str(number), batch):
                report(result)
                results.append(result)
        for result in results:
            passed.pop(result.wheel.filename, None)
            if result.ok:
                passed[result.wheel.filename] = result.wheel.sha256
        self._write(passed)
        shutil.rmtree(self._folder, ignore_errors=True)
        return results

    def _check_round(self, folder: Path, wheels: Sequence[Wheel]) -> Iterator[Checked]:
        """Install wheels of different projects into one environment; import each."""
        folder.mkdir()
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        # All at once is quick; only if that fails, one by one tells which.
        together = len(wheels) > 1 and not self._stop.is_set() and self._install(folder, *wheels) == ""
        for wheel in wheels:
            if self._stop.is_set():
                yield Checked(wheel, "not checked: interrupted")
                continue
            problem = "" if together else self._install(folder, wheel)
            yield Checked(wheel, problem or self._import(folder, wheel))

    def _install(self, folder: Path, *wheels: Wheel) -> str:
        # The farm's own pip, told to act for the scratch environment: making one with pip would take seconds.
        command = [sys.executable, "-P", "-m", "pip", "--python", str(folder / "venv/bin/python"), "install", "--quiet"]
        command += ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--retries=1", "--index-url", self._index_url]
        command += [f"{wheel.project}=={wheel.version}" for wheel in wheels]
        return _problem(
            command, folder, "pip cannot install it from our index", seconds=INSTALL_SECONDS, stop=self._stop
        )

    def _import(self, folder: Path, wheel: Wheel) -> str:
        names = [name for name in wheel.top_level if name.isidentifier()]
        command = [str(folder / "venv/bin/python"), "-I", "-c", _IMPORT, *names]
        if not names:
            return ""
        return _problem(command, folder, "cannot be imported", seconds=IMPORT_SECONDS, stop=self._stop)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._passed.read_text())
        except (OSError, ValueError):
            return {}
        return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}

    def _write(self, passed: dict[str, str]) -> None:
        new = self._passed.with_name(".checked.json.new")
        new.write_text(json.dumps(passed, indent=1, sort_keys=True))
        new.replace(self._passed)


def _rounds(wheels: Sequence[Wheel]) -> Iterator[list[Wheel]]:
    """Cut into batches in which no project is twice: an environment holds one version of each."""
    rest = list(wheels)
    while rest:
        batch = list({wheel.project: wheel for wheel in reversed(rest)}.values())[::-1]
        yield batch
        rest = [wheel for wheel in rest if wheel not in batch]


def _problem(command: Sequence[str], folder: Path, words: str, *, seconds: float, stop: Event) -> str:
    """Run a program; what went wrong, in one line, or nothing.

    Nothing that the user has configured for pip or Python may change what is installed and from where.
    """
    foreign = ("PIP_", "PYTHON", "http_proxy", "https_proxy", "all_proxy")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and k.lower() not in foreign}
    environ |= {"HOME": str(folder), "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environ,
        )
    except OSError as error:
        return f"{words}: {error.strerror or error}"
    with process:
        output = _output(process, time.monotonic() + seconds, stop)
        if output is None:
            return f"{words}: {'interrupted' if stop.is_set() else f'it took longer than {seconds:g} s'}"
        return "" if process.returncode == 0 else f"{words}: {_last_line(output)}"


def _output(process: "subprocess.Popen[bytes]", deadline: float, stop: Event) -> bytes | None:
    """What the process writes to standard error, to its end; None if it had to be killed."""
    while True:
        try:
            return process.communicate(timeout=TURN)[1]
        except subprocess.TimeoutExpired:
            if stop.is_set() or time.monotonic() > deadline:
                process.kill()
                process.communicate()
                return None


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return "".join(c for c in lines[-1] if c.isprintable())[:300] if lines else "it said nothing"
