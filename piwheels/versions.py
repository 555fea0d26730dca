# SPDX-License-Identifier: BSD-3-Clause
"""Order of versions as PEP 440 defines it, as bytes that a database can sort."""

from packaging.version import InvalidVersion, Version


def parse_or_none(version: str) -> Version | None:
    """Return the version, or None for one that PEP 440 rejects (they were legal once)."""
    try:
        return Version(version)
    except InvalidVersion:
        return None


def is_prerelease(version: str) -> bool:
    """Whether PEP 440 calls the version a pre-release; one it rejects is none."""
    parsed = parse_or_none(version)
    return parsed is not None and parsed.is_prerelease
