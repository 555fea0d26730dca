# SPDX-License-Identifier: BSD-3-Clause
"""Makes wheels for tests, right ones and wrong ones; needs the standard library alone."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

Members = Mapping[str, bytes]


def wheel_text(tags: Sequence[str], *, purelib: bool = True) -> bytes:
    """A WHEEL file."""
    lines = ["Wheel-Version: 1.0", "Generator: tests", f"Root-Is-Purelib: {str(purelib).lower()}"]
    return "\n".join([*lines, *(f"Tag: {tag}" for tag in tags), ""]).encode()


def metadata_text(name: str = "foo", version: str = "1.0", *extra: str) -> bytes:
    """A METADATA file."""
    return "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *extra, "", "Words.\n"]).encode()


def make_wheel(
    directory: Path,
    filename: str = "foo-1.0-py3-none-any.whl",
    *,
    members: Members | None = None,
    change: Mapping[str, bytes | None] | None = None,
    metadata: bytes | None = None,
    tags: Sequence[str] = ("py3-none-any",),
    dist_info: str = "foo-1.0.dist-info",
) -> Path:
    """Write a wheel. ``members`` are what it installs; ``change`` replaces whole members, or (None) leaves them out."""
    content: dict[str, bytes | None] = dict({"foo/__init__.py": b"x = 1\n"} if members is None else members)
    content[f"{dist_info}/METADATA"] = metadata_text() if metadata is None else metadata
    content[f"{dist_info}/WHEEL"] = wheel_text(tags)
    content[f"{dist_info}/RECORD"] = record(content, dist_info)
    content |= change or {}
    path = directory / filename
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def record(content: Mapping[str, bytes | None], dist_info: str) -> bytes:
    """A RECORD file."""
    lines = []
    for name, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data or b"").digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data or b'')}\n")
    return "".join([*lines, f"{dist_info}/RECORD,,\n"]).encode()
