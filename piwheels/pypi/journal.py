# SPDX-License-Identifier: BSD-3-Clause
"""PyPI's journal in XML-RPC: calls as bytes to send, answers as values. No I/O; what events mean is interpret's.

The XML is a stranger's. The standard library reads it, but through a parser of ours: document type declarations, and
with them entities, are refused, and the number of elements is bounded before anything is read. That takes 35 us for an
event, of which there may be 50 000, so a list of events that is written to the letter as PyPI writes it is taken apart
by a regular expression; it has to match all of it, else the parser reads it all. (Handlers of our own, made for events,
took as long as the library's.)
Source: PyPI's XML-RPC documentation ("Mirroring Support"); the XML-RPC specification.
"""

import re
import xmlrpc.client
from dataclasses import dataclass
from typing import Any, NamedTuple
from xml.parsers import expat

from piwheels.errors import UpstreamError
from piwheels.pypi.model import UpstreamUnusable, clean, plain_name
from piwheels.pypi.weather import LONGEST_RETRY_AFTER, UpstreamAway

MAX_EVENTS = 100_000  #: of an answer; PyPI sends at most half as many
MAX_PROJECTS = 2_000_000  #: of a listing
MAX_ACTION = 1000
MAX_SERIAL = 2**31 - 1  #: XML-RPC has no higher integers, and PyPI is far from it
RATE_LIMITED = -32500  #: PyPI's fault code for "wait", which it uses for its other run-time errors, too

_IN_AN_EVENT = 16  #: elements, at most; an event as it should be has 13
_FOR_GOOD = re.compile(r"deprecated|no longer|not supported|disabled|removed", re.IGNORECASE)
_SECONDS = re.compile(r"\b(\d{1,6}) seconds?\b")


class JournalRefused(UpstreamError):
    """This server has no journal for us (any more): another source has to do."""


class Event(NamedTuple):  # a dataclass takes four times as long to make and to hash
    """An entry of the journal that has a serial. What else it lacks, or has in another type, is empty here."""

    name: str  #: as it was spelt
    version: str | None
    time: int  #: seconds since 1970, UTC; not in the order of the serials; 0: not given
    action: str
    serial: int


@dataclass(frozen=True, slots=True)
class Events:
    """An answer to ``changelog_since_serial``."""

    events: tuple[Event, ...]  #: as they came, which need not be their order
    refused: int  #: entries without a serial


def call(method: str, *params: Any) -> bytes:
    """The request that calls ``method``. Raises JournalRefused for a number that XML-RPC cannot express."""
    try:
        return xmlrpc.client.dumps(params, method).encode()
    except OverflowError as error:
        raise JournalRefused(f"the journal cannot be asked for serials as high as {max(params)}") from error


def read_events(body: bytes | bytearray) -> Events:
    """The answer to ``changelog_since_serial``. Raises JournalRefused, UpstreamAway, UpstreamUnusable."""
    found = usual_events(body)
    if found is None:
        found = _value(body, most=_IN_AN_EVENT * MAX_EVENTS)
    if not isinstance(found, list):
        raise UpstreamUnusable("PyPI's journal answered with something that is no list of events")
    if len(found) > MAX_EVENTS:
        raise UpstreamUnusable(f"PyPI's journal answered with more than {MAX_EVENTS} events")
    events = tuple(event for entry in found if (event := _event(entry)) is not None)
    return Events(events, refused=len(found) - len(events))


def read_serial(body: bytes | bytearray) -> int:
    """The answer to ``changelog_last_serial``. Raises JournalRefused, UpstreamAway, UpstreamUnusable."""
    found = _value(body, most=100)
    if not _is_serial(found):
        raise UpstreamUnusable("PyPI's journal answered with something that is no serial")
    return int(found)


def read_serials(body: bytes | bytearray) -> dict[str, int]:
    """The answer to ``list_packages_with_serial``, by canonical name; the highest serial of several spellings."""
    found = _value(body, most=5 * MAX_PROJECTS)
    if not isinstance(found, dict):
        raise UpstreamUnusable("PyPI's journal answered with something that is no list of projects")
    serials: dict[str, int] = {}
    for spelling, serial in found.items():
        name = plain_name(spelling)
        if name and _is_serial(serial):
            serials[name] = max(serial, serials.get(name, 0))
    return serials


# What PyPI writes, and nothing else: five values, no character reference, nothing that XML would refuse or change
# (controls, "]]>", U+FFFE, which begins with EF as all of its plane's end does). No part can match in two ways.
_HEAD = re.compile(
    rb"<\?xml version=(?:'1\.0'|\"1\.0\")(?: encoding=(?:'(?i:utf-8)'|\"(?i:utf-8)\"))?\?>[ \n]*<methodResponse>[ \n]*"
    rb"<params>[ \n]*<param>[ \n]*<value><array><data>[ \n]*"
)
_TAIL = re.compile(rb"</data></array></value>[ \n]*</param>[ \n]*</params>[ \n]*</methodResponse>[ \n]*\Z")
_TEXT, _NUMBER = rb"<string>([^<>&\x00-\x1f\xef]*)</string>", rb"<int>([0-9]{1,10})</int>"
_USUAL = re.compile(
    rb"<value><array><data>[ \n]*<value>%b</value>[ \n]*<value>(?:%b|<nil/>)</value>[ \n]*<value>%b</value>[ \n]*"
    rb"<value>%b</value>[ \n]*<value>%b</value>[ \n]*</data></array></value>[ \n]*"
    % (_TEXT, _TEXT, _NUMBER, _TEXT, _NUMBER)
)


def usual_events(body: bytes | bytearray) -> list[Any] | None:
    """What :func:`_value` would return for events that are written as PyPI writes them; None for all other answers."""
    head = _HEAD.match(body)
    found: list[Any] = []
    place = head.end() if head else 0
    try:
        while head and len(found) <= MAX_EVENTS and (one := _USUAL.match(body, place)):
            name, version, time, action, serial = one.groups()
            place = one.end()
            known = None if version is None else version.decode()
            found.append([name.decode(), known, int(time), action.decode(), int(serial)])
    except UnicodeDecodeError:
        return None
    return found if head and _TAIL.match(body, place) else None


def _event(entry: Any) -> Event | None:
    if not isinstance(entry, list) or len(entry) < 5 or not _is_serial(entry[4]):
        return None
    name, version, time, action, serial = entry[:5]
    return Event(
        name if isinstance(name, str) else "",
        version if isinstance(version, str) else None,
        time if isinstance(time, int) and not isinstance(time, bool) else 0,
        action[:MAX_ACTION] if isinstance(action, str) else "",
        serial,
    )


def _is_serial(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_SERIAL


def _value(body: bytes | bytearray, *, most: int) -> Any:
    """What a method returned. ``most`` bounds the elements, and with them depth, number and size of the values."""
    if body.count(b"<") > 2 * most:
        raise UpstreamUnusable("PyPI's journal answered with too much at once")
    values = xmlrpc.client.Unmarshaller()
    values.xml(None, None)  # type: ignore[arg-type]  # expat gives text, there is nothing to decode
    try:
        _parser(values).Parse(body, True)
        found = values.close()
    except xmlrpc.client.Fault as fault:
        raise _refusal(fault) from fault
    except expat.ExpatError as error:
        raise UpstreamUnusable(f"PyPI's journal answered with something that is not XML: {error}") from error
    except (xmlrpc.client.Error, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise UpstreamUnusable("PyPI's journal answered with something that is not XML-RPC") from error
    if len(found) != 1:
        raise UpstreamUnusable("PyPI's journal answered with something that is not XML-RPC")
    return found[0]


def _parser(values: xmlrpc.client.Unmarshaller) -> expat.XMLParserType:
    parser = expat.ParserCreate("utf-8")  # whatever the XML says: _value has counted in it
    parser.buffer_text = True
    parser.StartElementHandler = values.start
    parser.EndElementHandler = values.end
    parser.CharacterDataHandler = values.data
    parser.StartDoctypeDeclHandler = _no_doctype
    return parser


def _no_doctype(*_: object) -> None:
    raise ValueError("a document type declaration, which XML-RPC has no use for and bombs are made of")


def _refusal(fault: xmlrpc.client.Fault) -> UpstreamError:
    """A fault that asks to wait is weather; every other says that the method is not to be had.

    PyPI's code is the same for both: the words tell.
    """
    words = clean(fault.faultString, 200)
    if fault.faultCode != RATE_LIMITED or _FOR_GOOD.search(words):
        return JournalRefused(f"PyPI's journal is not to be had: {words or 'a fault without words'}")
    seconds = _SECONDS.search(words)
    wait = min(float(seconds[1]), LONGEST_RETRY_AFTER) if seconds else None
    return UpstreamAway(f"PyPI's journal asks for fewer requests: {words or 'a fault without words'}", retry_after=wait)
