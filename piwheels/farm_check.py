# SPDX-License-Identifier: BSD-3-Clause
"""``piw-farm --once``'s last word: does pip install each built wheel from our index, and can it be imported?

Owns a scratch directory; knows wheels' names and an index's address, no database.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from piwheels.db.farm_facts import Wheel

PARALLEL = 3
FEW = 12  #: up to so many wheels are all checked at each run; of more, those that passed before are left out
INSTALL_SECONDS, IMPORT_SECONDS = 120, 60
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
        with ThreadPoolExecutor(PARALLEL) as pool:
            results = []
            for result in pool.map(self._check_one, range(len(todo)), todo):
                report(result)
                results.append(result)
        for result in results:
            passed.pop(result.wheel.filename, None)
            if result.ok:
                passed[result.wheel.filename] = result.wheel.sha256
        self._write(passed)
        shutil.rmtree(self._folder, ignore_errors=True)
        return results

    def _check_one(self, number: int, wheel: Wheel) -> Checked:
        if self._stop.is_set():
            return Checked(wheel, "not checked: interrupted")
        folder = self._folder / str(number)
        try:
            return Checked(wheel, self._install(folder, wheel) or self._import(folder, wheel))
        except subprocess.TimeoutExpired as error:
            return Checked(wheel, f"cannot be checked: took longer than {error.timeout:g} s")
        except OSError as error:
            return Checked(wheel, f"cannot be checked: {error.strerror or error}")

    def _install(self, folder: Path, wheel: Wheel) -> str:
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        # The farm's own pip, told to act for the scratch environment: making one with pip would take seconds.
        command = [sys.executable, "-P", "-m", "pip", "--python", str(folder / "venv/bin/python"), "install", "--quiet"]
        command += ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--retries=1", "--index-url", self._index_url]
        done = _run([*command, f"{wheel.project}=={wheel.version}"], folder, seconds=INSTALL_SECONDS)
        return "" if done.returncode == 0 else f"pip cannot install it from our index: {_last_line(done.stderr)}"

    def _import(self, folder: Path, wheel: Wheel) -> str:
        names = [name for name in wheel.top_level if name.isidentifier()]
        if not names:
            return ""
        command = [str(folder / "venv/bin/python"), "-I", "-c", _IMPORT, *names]
        done = _run(command, folder, seconds=IMPORT_SECONDS)
        return "" if done.returncode == 0 else f"cannot be imported: {_last_line(done.stderr)}"

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


def _run(command: Sequence[str], folder: Path, *, seconds: float) -> "subprocess.CompletedProcess[bytes]":
    """Run a program in an environment in which no configuration of the user's can change what pip installs."""
    foreign = ("PIP_", "PYTHON", "http_proxy", "https_proxy", "all_proxy")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and k.lower() not in foreign}
    environ |= {"HOME": str(folder), "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
        cwd=folder,
        env=environ,
    )


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return "".join(c for c in lines[-1] if c.isprintable())[:300] if lines else "it said nothing"
