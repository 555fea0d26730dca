# SPDX-License-Identifier: BSD-3-Clause
"""What a build needs before it begins, where an order says more than usual: build requirements, to be brought in before
a build that may not reach the network, and Debian packages that must be installed.

Nothing of the sdist is run here: its pyproject.toml is read from the archive. It must not know how pip is run.
"""

import lzma
import subprocess
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from packaging.requirements import InvalidRequirement, Requirement

from piwheels.slave.sdist import BuildFailed
from piwheels.vocabulary import FailureReason

USUAL = ("setuptools>=40.8", "wheel")  #: PEP 518's, for a project that names none
MAX_PROJECT_FILE = 1024 * 1024  #: bytes of pyproject.toml
MAX_REQUIREMENTS = 100
_DPKG_TIME = 60.0  #: seconds

_UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RecursionError)


def build_requirements(sdist: Path) -> tuple[str, ...]:
    """What pyproject.toml says that building takes. Raises BuildFailed."""
    try:
        data = _project_file(sdist)
        system = {} if data is None else tomllib.loads(data.decode()).get("build-system", {})
        given = system.get("requires", USUAL) if isinstance(system, dict) else None
        return _checked(given)
    except (*_UNREADABLE, NotImplementedError, RuntimeError, OSError) as error:
        detail = f"the sdist's pyproject.toml cannot be read: {str(error)[:200] or type(error).__name__}"
        raise BuildFailed(FailureReason.PACKAGE, detail) from error


def _checked(given: Any) -> tuple[str, ...]:
    """Requirements and nothing else: they go to pip's command line."""
    if not isinstance(given, list | tuple) or len(given) > MAX_REQUIREMENTS:
        raise ValueError("build-system.requires is not a list of requirements")
    try:
        return tuple(str(Requirement(one)) for one in given)
    except (InvalidRequirement, TypeError) as error:
        raise ValueError(f"build-system.requires has what is no requirement: {error}") from error


def _project_file(sdist: Path) -> bytes | None:
    """The archive's pyproject.toml, from its one top-level folder."""
    if sdist.suffix == ".zip":
        with zipfile.ZipFile(sdist) as archive:
            name = next((one for one in archive.namelist() if _is_it(one)), None)
            if name is None:
                return None
            with archive.open(name) as file:
                return _read(file)
    with tarfile.open(sdist) as tar:
        for member in tar:
            if member.isreg() and _is_it(member.name) and (inside := tar.extractfile(member)) is not None:
                return _read(inside)
    return None


def _is_it(name: str) -> bool:
    parts = [part for part in name.split("/") if part != "."]
    return len(parts) == 2 and parts[1] == "pyproject.toml"


def _read(file: IO[bytes]) -> bytes:
    data = file.read(MAX_PROJECT_FILE + 1)
    if len(data) > MAX_PROJECT_FILE:
        raise ValueError(f"longer than {MAX_PROJECT_FILE} bytes")
    return data


def missing_packages(wanted: Sequence[str]) -> list[str]:
    """Which of these Debian packages are not installed. On a system without dpkg, all of them."""
    if not wanted:
        return []
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\n", "--", *wanted]
    try:
        asked = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_DPKG_TIME,
            check=False,  # it fails if a single one is unknown, and still tells of the others
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return list(wanted)
    lines = (line.split() for line in asked.stdout.splitlines())
    installed = {words[1] for words in lines if len(words) == 2 and words[0].endswith("i")}
    return [name for name in wanted if name not in installed]
