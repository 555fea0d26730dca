# SPDX-License-Identifier: BSD-3-Clause
"""Makes sdists for tests that build without an index: each brings its own build backend (PEP 517, backend-path).

``code`` is what the backend does when asked for a wheel, with ``out`` (the directory for it) and ``wheel(out, ...)`` at
hand; it ends with the wheel's file name in ``name``.
"""

import hashlib
import io
import tarfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

_BACKEND = """
import base64, hashlib, os, subprocess, sys, time, zipfile

TAG = "py3-none-any"


def wheel(out, members=None, project={project!r}, version={version!r}, tag=TAG, inner_tag=None, filename=None):
    stem = project.replace("-", "_") + "-" + version
    info = stem + ".dist-info"
    content = dict(members if members is not None else {{project.replace("-", "_") + "/__init__.py": b"x = 1\\n"}})
    content[info + "/METADATA"] = ("Metadata-Version: 2.1\\nName: %s\\nVersion: %s\\n" % (project, version)).encode()
    content[info + "/WHEEL"] = (
        "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: %s\\n" % (inner_tag or tag)
    ).encode()
    content[info + "/RECORD"] = "".join("%s,,\\n" % name for name in [*content, info + "/RECORD"]).encode()
    name = filename or stem + "-" + tag + ".whl"
    with zipfile.ZipFile(os.path.join(out, name), "w") as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    return name


def build_wheel(out, config_settings=None, metadata_directory=None):
{code}
    return name


def build_sdist(out, config_settings=None):
    raise SystemExit("not here")
"""


@dataclass(frozen=True)
class Sdist:
    """An sdist and what is announced of it."""

    path: Path
    project: str
    version: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def make_sdist(
    directory: Path,
    code: str = "name = wheel(out)",
    *,
    project: str = "foo",
    version: str = "1.0",
    requires: str = "[]",
) -> Sdist:
    """Write an sdist whose backend runs ``code``."""
    body = textwrap.indent(textwrap.dedent(code).strip(), "    ")
    files = {
        "pyproject.toml": f'[build-system]\nrequires = {requires}\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": _BACKEND.format(code=body, project=project, version=version),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
    }
    stem = f"{project.replace('-', '_')}-{version}"
    path = directory / f"{stem}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{stem}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return Sdist(path, project, version)
