# SPDX-License-Identifier: BSD-3-Clause
"""Received wheels that are what they ought to be, and those that are not."""

import io
import zipfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from piwheels.errors import WheelError
from piwheels.master.session import Lease
from piwheels.master.targets import PRESETS
from piwheels.master.verify import check_content
from piwheels.vocabulary import DependencyTool
from piwheels.wire.messages import FileInfo, Order

TAGS = PRESETS["bookworm-armhf"].supported()
ORDER = Order("0" * 32, "bookworm-armhf", "s.tar.gz", "https://example.org/s", "a" * 64, 1, timedelta(hours=1), 0)
LEASE = Lease("0" * 32, 1, 1, "spidev", "spidev", "3.6", ORDER)
NAME = "spidev-3.6-cp311-cp311-linux_armv7l.whl"


def wheel(path: Path, *, name: str = "spidev", version: str = "3.6", tag: str = "cp311-cp311-linux_armv7l") -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("spidev.py", "")
        archive.writestr(
            f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n"
        )
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")
    path.write_bytes(buffer.getvalue())
    return path


def announced(filename: str = NAME, **values: Any) -> FileInfo:
    parts = filename.removesuffix(".whl").split("-")
    parts += [""] * (5 - len(parts))
    facts = dict(zip(("package_tag", "version_tag", "py_tag", "abi_tag", "platform_tag"), parts[:5], strict=True))
    return replace(FileInfo(filename, 100, "a" * 64, **facts, requires_python=None), **values)


def check(path: Path, file: FileInfo) -> Any:
    return check_content(path, file, LEASE, TAGS)


def test_a_good_wheel(tmp_path: Path) -> None:
    needs = {DependencyTool.PIP: ("smbus",), DependencyTool.APT: ("libc6", "libc6")}
    name, content, dependencies = check(wheel(tmp_path / "1.part"), announced(dependencies=needs))
    assert name.filename == NAME and content.name == "spidev"
    assert dependencies == (("apt", "libc6"), ("pip", "smbus"))


@pytest.mark.parametrize(
    "filename",
    [
        "../spidev-3.6-cp311-cp311-linux_armv7l.whl",
        "/etc/spidev-3.6-cp311-cp311-linux_armv7l.whl",
        "spidev-3.6-cp311-cp311-linux_armv7l.whl\0.txt",
        "spidev-3.6-cp311-cp311-linux_" + "a" * 300 + ".whl",
        "spidev-3.6-cp311-cp311-linux_" + "a" * 214 + ".whl",  # its .metadata would not fit beside it
        "other-3.6-cp311-cp311-linux_armv7l.whl",
        "spidev-3.7-cp311-cp311-linux_armv7l.whl",
        "spidev-3.6.tar.gz",
        "<script>-3.6-cp311-cp311-linux_armv7l.whl",
        "",
    ],
)
def test_hostile_names(tmp_path: Path, filename: str) -> None:
    with pytest.raises(WheelError):
        check(wheel(tmp_path / "1.part"), announced(filename))


def test_a_wheel_that_lies_about_its_project(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="numpy"):
        check(wheel(tmp_path / "1.part", name="numpy"), announced())


def test_a_wheel_for_somebody_else(tmp_path: Path) -> None:
    tag = "cp311-cp311-linux_x86_64"
    with pytest.raises(WheelError, match=r"nothing on target bookworm-armhf can install"):
        check(wheel(tmp_path / "1.part", tag=tag), announced(f"spidev-3.6-{tag}.whl"))


def test_announced_parts_must_be_the_names(tmp_path: Path) -> None:
    for part in ("package_tag", "version_tag", "py_tag", "abi_tag", "platform_tag"):
        with pytest.raises(WheelError, match="other parts"):
            check(wheel(tmp_path / "1.part"), announced(**{part: "x"}))


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "x" * 201])
def test_dependencies_fit_to_be_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(WheelError, match="dependency"):
        check(wheel(tmp_path / "1.part"), announced(dependencies={DependencyTool.APT: (name,)}))


def test_not_a_wheel_at_all(tmp_path: Path) -> None:
    (tmp_path / "1.part").write_bytes(b"PK no")
    with pytest.raises(WheelError):
        check(tmp_path / "1.part", announced())
