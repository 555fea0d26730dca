# SPDX-License-Identifier: BSD-3-Clause
"""A project's JSON as the metadata dump carries it, and what it says of dependencies. Pure.

The dump's format is that of a service for package collections: the project's JSON without its description and with the
files of its latest release only. Everything in it is a stranger's words, passed on as they are but for that; so it
must stay valid JSON (no NaN, no lone surrogates outside escapes) and of bearable size.
"""

import json
from collections.abc import Mapping
from typing import Any

from piwheels.pypi.model import latest

MAX_ENTRY = 1024**2  #: bytes
MAX_REQUIRES = 2000
MAX_REQUIREMENT = 2000  #: characters

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def entry_of(document: object) -> bytes | None:
    """The project's entry in the dump, as ASCII; None if none can be made of it.

    What makes it too long is left out: first the list of files that repeats the release's, then that release's.
    """
    if not isinstance(document, dict) or not isinstance(document.get("info"), dict):
        return None
    entry = document | {"info": {key: value for key, value in document["info"].items() if key != "description"}}
    releases = document.get("releases")
    if isinstance(releases, dict):
        entry["releases"] = _latest_only(releases, entry["info"].get("version"))
    return _bounded(entry)


def requires_of(document: object) -> tuple[str, ...]:
    """The latest release's dependencies (Requires-Dist, PEP 508) as far as they are texts. Syntax is not checked."""
    info = document.get("info") if isinstance(document, dict) else None
    found = info.get("requires_dist") if isinstance(info, dict) else None
    if not isinstance(found, list):
        return ()
    return tuple(text for text in found[:MAX_REQUIRES] if isinstance(text, str) and 0 < len(text) <= MAX_REQUIREMENT)


def _latest_only(releases: Mapping[str, Any], version: object) -> dict[str, Any]:
    """The release that ``version`` names; where it names none, the latest that has files."""
    if not isinstance(version, str) or version not in releases:
        found = [(key, _is_yanked(files)) for key, files in releases.items() if isinstance(files, list) and files]
        if not found:
            return {}
        version = latest(found)
    return {version: releases[version]}


def _is_yanked(files: list[Any]) -> bool:
    return all(isinstance(file, dict) and file.get("yanked") is True for file in files)


def _bounded(entry: dict[str, Any]) -> bytes | None:
    text = _text(entry)
    if len(text) > MAX_ENTRY:
        text = _text(entry | {"urls": []})
    if len(text) > MAX_ENTRY:
        text = _text(entry | {"urls": [], "releases": {version: [] for version in entry.get("releases") or ()}})
    return text.encode() if 0 < len(text) <= MAX_ENTRY else None


def _text(entry: dict[str, Any]) -> str:
    """Empty for what JSON cannot express."""
    try:
        return _encode(entry)
    except (ValueError, RecursionError):
        return ""
