# SPDX-License-Identifier: BSD-3-Clause
"""The list of all projects with their serials (PEP 691), and how it differs from what we have. No I/O.

It must not know rows, or what is done about a difference. A listing comes from a cache and may be older than what we
already know of single projects. Sources: PEP 503 names, PEP 691 and PyPI's index API (``_last-serial``).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from piwheels.pypi.journal import MAX_PROJECTS
from piwheels.pypi.model import MAX_SERIAL, UpstreamUnusable, plain_name

FEW = 50  #: so many projects may be gone at once and nothing is odd about it
SHARE = 100  #: beyond that, one in so many of those that we know


@dataclass(frozen=True, slots=True)
class Listing:
    """The list of all projects, at one moment."""

    serials: dict[str, int]  #: canonical name → serial; 0: the project is there, its serial was not given
    last_serial: int  #: of the whole index when the list was made; 0: not given
    etag: str  #: to send the next time; empty: none was given
    refused: int  #: entries whose name cannot be one


@dataclass(frozen=True, slots=True)
class Difference:
    """What a listing has that we have not, and the other way round."""

    new: list[tuple[str, int]]  #: name, upstream's serial
    moved: list[tuple[str, int]]  #: name, upstream's serial, which is not ours
    gone: list[str]  #: we have it, the listing does not


def read_listing(body: bytes | bytearray, *, etag: str = "", header_serial: int = 0) -> Listing:
    """Read PEP 691's project list. ``header_serial``: X-PyPI-Last-Serial, for a body that does not say."""
    if body.count(b",") > 8 * MAX_PROJECTS:  # as Python objects it would take many times its length
        raise UpstreamUnusable("PyPI's list of projects has too many parts")
    reader = _Reader()
    try:
        document = json.loads(body, object_hook=reader.take)
    except UpstreamUnusable:
        raise
    except (ValueError, RecursionError) as error:
        raise UpstreamUnusable("PyPI's list of projects is not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("projects"), list):
        raise UpstreamUnusable("PyPI's list of projects is not PEP 691's")
    last = _serial(reader.meta.get("_last-serial")) or header_serial or max(reader.serials.values(), default=0)
    entries = document["projects"]
    return Listing(reader.serials, last, etag, refused=len(entries) - entries.count(_TAKEN))


def compare(listing: Listing, ours: Iterable[tuple[str, int]]) -> Difference:
    """How a listing differs from ``ours``: (canonical name, serial), in any order, read once.

    A serial that is not ours, even a lower one, means that the project is to be looked at; but not if ours is higher
    than anything that this listing can know.
    """
    difference = Difference([], [], [])
    theirs = listing.serials
    unseen = set(theirs)
    for name, serial in ours:
        upstream = theirs.get(name)
        if upstream is None:
            difference.gone.append(name)
            continue
        unseen.discard(name)
        if upstream and upstream != serial and not serial > listing.last_serial > 0:
            difference.moved.append((name, upstream))
    difference.new.extend((name, theirs[name]) for name in sorted(unseen))
    return difference


def implausible(listing: Listing, known: int, gone: int) -> str | None:
    """Why a listing must not be believed as to what is gone; None: it may be.

    ``known``: how many projects we have; ``gone``: how many of them the listing does not have.
    """
    if known and not listing.serials:
        return "it is empty"
    if gone > FEW and gone * SHARE > known:
        return f"it lacks {gone} of the {known} projects that we know"
    return None


_TAKEN = object()  #: stands for an entry that has been read


class _Reader:
    """Takes what it wants from each object as soon as it is read, so that no tree of 800 000 is ever there."""

    def __init__(self) -> None:
        self.serials: dict[str, int] = {}
        self.meta: dict[str, Any] = {}

    def take(self, found: dict[str, Any]) -> object:
        name = plain_name(found.get("name"))
        if not name:
            return self._rest(found)
        serial = _serial(found.get("_last-serial"))
        if self.serials.setdefault(name, serial) < serial:
            self.serials[name] = serial
        if len(self.serials) > MAX_PROJECTS:
            raise UpstreamUnusable(f"PyPI's list has more than {MAX_PROJECTS} projects")
        return _TAKEN

    def _rest(self, found: dict[str, Any]) -> object:
        if "api-version" in found:
            self.meta = found
        return found if "projects" in found else None


def _serial(value: object) -> int:
    return value if type(value) is int and 0 < value < MAX_SERIAL else 0
