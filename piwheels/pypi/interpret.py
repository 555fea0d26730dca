# SPDX-License-Identifier: BSD-3-Clause
"""What the journal's events come to: which projects changed, and up to which serial. Pure; owns the actions' words.

An event is a hint *that* a project changed; what is true now, its JSON says. So every event, of known meaning or not,
marks its project, and nothing else is concluded from it but two things that the JSON does not show: that a 404 was to
be expected, and that the project's status may have changed. The events' order, repetition and grouping do not matter.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from piwheels.pypi.journal import Event
from piwheels.pypi.model import plain_name

MAX_JUMP = 10**9  #: serials; PyPI's journal has not had so many in its life


class Meaning(StrEnum):
    """What an action is about."""

    CREATED = "created"
    RELEASED = "released"
    FILE = "file"
    REMOVED_PROJECT = "removed_project"
    REMOVED_RELEASE = "removed_release"
    REMOVED_FILE = "removed_file"
    YANKED = "yanked"
    UNYANKED = "unyanked"
    PEOPLE = "people"
    DOCS = "docs"
    STATUS = "status"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Change:
    """A project that changed, and what its events said, all together."""

    name: str  #: canonical
    first: int  #: lowest serial
    serial: int  #: highest serial
    removed: bool  #: the last event to create, fill or remove the project removed it
    page: bool  #: its index page has to be read, too: its status may have changed
    said: int = 0  #: serial of the event that ``removed`` comes from; 0: none spoke of that


@dataclass(frozen=True, slots=True)
class Reading:
    """What a run of events came to."""

    changes: tuple[Change, ...]  #: by name; one for each
    upto: int  #: every event up to this serial has been read
    counts: dict[Meaning, int]
    refused: int  #: events whose name cannot be one, or whose serial cannot


#: Actions that are these words and no more.
_WHOLE = {
    "create": Meaning.CREATED,
    "new release": Meaning.RELEASED,
    "remove": Meaning.REMOVED_PROJECT,
    "remove project": Meaning.REMOVED_PROJECT,
    "remove release": Meaning.REMOVED_RELEASE,
    "yank release": Meaning.YANKED,
    "unyank release": Meaning.UNYANKED,
    "docupdate": Meaning.DOCS,
    "docdestroy": Meaning.DOCS,
}
_ROLES = {"owner", "maintainer"}
_STATUS = re.compile(
    r"\b(un)?(quarantined?|archived?|deprecated?)\b|\b(status|lifecycle)\b|\bquarantine_?(enter|exit)\b", re.IGNORECASE
)
_EXISTS = {Meaning.CREATED, Meaning.RELEASED, Meaning.FILE}


def meaning(action: str) -> Meaning:
    """What an action is about, by its words: ``remove Owner x`` is about people, whatever it begins with."""
    if (known := _WHOLE.get(action)) is not None:  # most are spelt so, and there are many
        return known
    words = action.lower().split(None, 3)
    if (known := _WHOLE.get(" ".join(words))) is not None:
        return known
    verb, thing, what, *_ = [*words, "", "", ""]
    if thing in _ROLES:
        return Meaning.PEOPLE
    if verb == "add" and what == "file":  # add source file F, add py3 file F
        return Meaning.FILE
    if (verb, thing) == ("remove", "file"):
        return Meaning.REMOVED_FILE
    return Meaning.STATUS if _STATUS.search(action) else Meaning.UNKNOWN


def interpret(events: Iterable[Event], *, after: int) -> Reading:
    """Read events, of which those up to serial ``after`` have been read before.

    An event without a name moves ``upto`` as any other; one whose serial is far beyond all reason does not, or it would
    be the last that we hear of.
    """
    changes: dict[str, Change] = {}
    counts: Counter[Meaning] = Counter()
    upto, refused = after, 0
    for event in set(events):
        if event.serial <= after:
            continue
        if event.serial > after + MAX_JUMP:
            refused += 1
            continue
        upto = max(upto, event.serial)
        if not (name := plain_name(event.name)):
            refused += 1
            continue
        about = meaning(event.action)
        counts[about] += 1
        change = _change(name, event, about)
        known = changes.get(name)
        changes[name] = change if known is None else merge(known, change)
    return Reading(tuple(changes[name] for name in sorted(changes)), upto, dict(counts), refused)


def merge(a: Change, b: Change) -> Change:
    """What two changes of the same project come to. Associative, commutative, idempotent."""
    said, removed = max((a.said, a.removed), (b.said, b.removed))
    return Change(
        name=a.name,
        first=min(a.first, b.first),
        serial=max(a.serial, b.serial),
        removed=removed,
        page=a.page or b.page,
        said=said,
    )


def _change(name: str, event: Event, about: Meaning) -> Change:
    # In old entries "remove" with a version removed only that.
    removed = about is Meaning.REMOVED_PROJECT and not event.version
    said = event.serial if removed or about in _EXISTS else 0
    return Change(name, event.serial, event.serial, removed, about is Meaning.STATUS, said)
