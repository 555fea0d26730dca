# SPDX-License-Identifier: BSD-3-Clause
"""What the search page looks names up in: small files by the beginnings of names. Pure, in memory that does not grow
with the number of names.

A file stands for a beginning. If all that begins so fits in one file, it lists all of it; else it lists the best of it,
and each longer beginning has a file of its own. So whatever was typed is answered by one file of bounded size, and
``_index.json`` says which beginnings have one (a page needs it once). A project is found by its name, and one that has
wheels also by each further word of the name, and by what follows a leading "py".

A project with wheels is an array: name, downloads in 30 days, summary; without, it is the name alone. Downloads are
rounded to two digits, so that files do not change for every download.
"""

import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from heapq import nlargest

from piwheels.site.text import clean

ROOM = 80_000  #: bytes of a file's entries before compression, about
BEST = 150  #: entries of a file that does not list all
LONGEST_SUMMARY = 90  #: characters
INDEX = "_index.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A project under one of the keys it is found by."""

    key: str
    name: str
    downloads: int
    wheels: bool
    summary: str

    @property
    def weight(self) -> int:
        """About how many bytes it takes in a file."""
        return len(self.name) + (3 if not self.wheels else 14 + len(self.summary))

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The greater, the sooner it is what somebody looks for."""
        return self.wheels, self.downloads, -len(self.name)


Files = Generator[tuple[str, bytes], None, list[Entry]]


def files(entries: Iterable[Entry]) -> Iterator[tuple[str, bytes]]:
    """Every file by name, ``_index.json`` last. ``entries`` are sorted by key, bytewise."""
    ends: list[str] = []
    parts: list[str] = []
    yield from _below("", _Source(iter(entries)), ends, parts)
    index = {"all": " ".join(sorted(ends)), "best": " ".join(sorted(parts))}
    yield INDEX, _dump(index)


def file_name(beginning: str) -> str:
    """The file for a beginning of keys; canonical names have no underscore."""
    return f"{beginning or '_'}.json"


class _Source:
    """Entries that can be put back."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self._back: list[Entry] = []  # the next one last

    def take(self) -> Entry | None:
        return self._back.pop() if self._back else next(self._entries, None)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """In the order in which they are to come again."""
        self._back.extend(reversed(list(entries)))


def _below(beginning: str, source: _Source, ends: list[str], parts: list[str]) -> Files:
    """The files for a beginning and all longer ones; the best of what they list. Takes just that from the source."""
    taken: list[Entry] = []
    room = ROOM
    while (entry := source.take()) is not None:
        if not entry.key.startswith(beginning):
            source.put_back([entry])
            break
        taken.append(entry)
        room -= entry.weight
        if room < 0:
            break
    if room >= 0:
        ends.append(beginning or "_")
        yield file_name(beginning), _file(taken)
        return _best(taken)
    source.put_back(taken)
    found = yield from _longer(beginning, source, ends, parts)
    parts.append(beginning or "_")
    yield file_name(beginning), _file(found)
    return found


def _longer(beginning: str, source: _Source, ends: list[str], parts: list[str]) -> Files:
    """The files for all longer beginnings; the best of this one."""
    found: list[Entry] = []
    while (entry := source.take()) is not None and entry.key == beginning:
        found.append(entry)  # it has no longer one; a word that a hundred thousand names share is cut
        if len(found) > 10 * BEST:
            found = _best(found, exact=beginning)
    found = _best(found, exact=beginning)
    while entry is not None and entry.key.startswith(beginning):
        source.put_back([entry])
        found = _best(
            [*found, *(yield from _below(entry.key[: len(beginning) + 1], source, ends, parts))], exact=beginning
        )
        entry = source.take()
    if entry is not None:
        source.put_back([entry])
    return found


def _best(entries: Iterable[Entry], *, exact: str = "") -> list[Entry]:
    """The best of each project once; the one of exactly that name is always among them."""
    once: dict[str, Entry] = {}
    for entry in entries:
        once.setdefault(entry.name, entry)
    return nlargest(BEST, once.values(), key=lambda entry: (entry.name == exact, entry.rank, entry.name))


def _file(entries: Iterable[Entry]) -> bytes:
    once = {entry.name: entry for entry in entries}
    return _dump([_shown(once[name]) for name in sorted(once)])


def _shown(entry: Entry) -> str | list[object]:
    if not entry.wheels:
        return entry.name
    return (
        [entry.name, rounded(entry.downloads), entry.summary]
        if entry.summary
        else [entry.name, rounded(entry.downloads)]
    )


def rounded(number: int) -> int:
    """A number to two digits."""
    size = int("1" + "0" * max(len(str(number)) - 2, 0))
    return number // size * size


def summary(words: str) -> str:
    """A summary as it is shown among others: one line, cut at a word."""
    words = clean(words)
    if len(words) <= LONGEST_SUMMARY:
        return words
    return words[:LONGEST_SUMMARY].rpartition(" ")[0].rstrip(" ,.;:-") + "…"


def _dump(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
