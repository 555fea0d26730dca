# SPDX-License-Identifier: BSD-3-Clause
"""Source distributions and wheels made on the fly, always the same bytes for the same arguments.

An sdist brings its own build backend, so that pip builds it without any index. What it does when it is built is its
recipe: a plain package, a C extension, or one of the ways in which packages misbehave.
"""

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import zipfile
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

BACKEND = Path(__file__).with_name("backend.py.txt")

_PYPROJECT = """\
[build-system]
requires = []
build-backend = "simulator_backend"
backend-path = ["."]
"""

_SOURCE = """\
#define PY_SSIZE_T_CLEAN
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, "The answer."}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "@MODULE@", NULL, -1, methods};
PyMODINIT_FUNC PyInit_@MODULE@(void) { return PyModule_Create(&definition); }
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an sdist does when it is built."""

    native: bool = False  #: compiles a C extension
    abi3: bool = False  #: for the stable ABI
    libraries: tuple[str, ...] = ()  #: that it links
    misbehaviour: str = ""  #: fail, hang, noise or hog
    noise: int = 20 * 1024**2  #: bytes of rubbish that "noise" writes to its log
    wheel_filename: str = ""  #: instead of the right one
    lie: str = ""  #: the project that the wheel says it is of, in its file name and inside
    lie_inside: str = ""  #: the same, but only inside
    requires_dist: tuple[str, ...] = ()
    salt: str = ""  #: makes other bytes of the same
    tiny: bool = False  #: made fast, of a few hundred bytes, and not to be built: where thousands are wanted


PURE = Recipe()
EXTENSION = Recipe(native=True)
ABI3 = Recipe(native=True, abi3=True)
LINKED = Recipe(native=True, libraries=("z",))
FAILING = Recipe(misbehaviour="fail")
HANGING = Recipe(misbehaviour="hang")
NOISY = Recipe(misbehaviour="noise")
HOG = Recipe(misbehaviour="hog")
LYING = Recipe(lie="somebody-else")
LYING_INSIDE = Recipe(lie_inside="somebody-else")
HOSTILE_PATH = Recipe(wheel_filename="../../escaped-1.0-py3-none-any.whl")
TINY = Recipe(tiny=True)
HOSTILE_NAME = Recipe(wheel_filename="x" * 230 + "-1.0-py3-none-any.whl")

RECIPES = {
    "pure": PURE,
    "extension": EXTENSION,
    "abi3": ABI3,
    "linked": LINKED,
    "failing": FAILING,
    "hanging": HANGING,
    "noisy": NOISY,
    "hog": HOG,
    "lying": LYING,
    "lying-inside": LYING_INSIDE,
    "hostile-path": HOSTILE_PATH,
    "hostile-name": HOSTILE_NAME,
    "tiny": TINY,
}  #: by the name they go by on the command line


def escaped(name: str) -> str:
    """A project's name as sdist and wheel file names spell it (PEP 625, PEP 427)."""
    return re.sub(r"[-_.]+", "_", name).lower()


def sdist(name: str, version: str, recipe: Recipe = PURE, *, requires_python: str | None = None) -> tuple[str, bytes]:
    """File name and bytes of an sdist (.tar.gz, PEP 625)."""
    stem = f"{escaped(name)}-{version}"
    if recipe.tiny:
        return f"{stem}.tar.gz", _tiny_tar(f"{stem} {recipe.salt}")
    module = escaped(name)
    told = asdict(recipe) | {
        "name": name,
        "version": version,
        "module": module,
        "wheel_project": escaped(recipe.lie or name),
        "metadata_name": recipe.lie or recipe.lie_inside or name,
        "requires_python": requires_python,
    }
    metadata = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n"
    if requires_python:
        metadata += f"Requires-Python: {requires_python}\n"
    members = {
        "PKG-INFO": metadata,
        "pyproject.toml": _PYPROJECT,
        "recipe.json": json.dumps(told, indent=1, sort_keys=True),
        "simulator_backend.py": _backend(),
        "src.c": _SOURCE.replace("@MODULE@", module),
    }
    return f"{stem}.tar.gz", _tar({f"{stem}/{path}": text.encode() for path, text in members.items()})


@cache
def _backend() -> str:
    return BACKEND.read_text("utf-8")


def wheel(
    name: str, version: str, tag: str = "py3-none-any", *, requires_python: str | None = None
) -> tuple[str, bytes]:
    """File name and bytes of a wheel that contains one module, or claims to be native by its tag."""
    stem = f"{escaped(name)}-{version}"
    info = f"{stem}.dist-info"
    python = f"Requires-Python: {requires_python}\n" if requires_python else ""
    tags = "".join(f"Tag: {one}\n" for one in _expand(tag))
    purelib = "true" if tag.endswith("any") else "false"
    members = {
        f"{escaped(name)}/__init__.py": f"VERSION = {version!r}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{python}".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: simulator\nRoot-Is-Purelib: {purelib}\n{tags}".encode(),
    }
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return f"{stem}-{tag}.whl", _zip(members)


def variant(recipe: Recipe, **changes: object) -> Recipe:
    """A recipe that differs in something."""
    return replace(recipe, **changes)  # type: ignore[arg-type]


def _expand(tag: str) -> list[str]:
    pythons, abis, platforms = (part.split(".") for part in tag.split("-"))
    return [f"{python}-{abi}-{platform}" for python in pythons for abi in abis for platform in platforms]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _tar(members: dict[str, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, data in members.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def _tiny_tar(text: str) -> bytes:
    """An empty archive, told from others by the name in its header (RFC 1952, section 2.3: FNAME)."""
    packed = _empty_tar()
    return packed[:3] + b"\x08" + packed[4:10] + text.encode("latin-1", "replace") + b"\0" + packed[10:]


@cache
def _empty_tar() -> bytes:
    return _tar({})


def _zip(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            info = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return target.getvalue()
