# SPDX-License-Identifier: BSD-3-Clause
"""The little of CBOR (RFC 8949) that the protocol uses, read without trust.

Owns what may be inside a message at all: a scan of the bytes, without recursion, refuses everything else before cbor2
sees it, so that no nesting, no claimed length and no exotic tag reaches a decoder. Must not know messages. Works
alike on cbor2 5.4 and 6, which differ in their hooks: none is used, tags are taken apart by hand in ``fields``.
"""

import re
from typing import Any

import cbor2

from piwheels.errors import PeerError

MAX_MESSAGE = 16 * 1024**2  #: bytes
MAX_DEPTH = 8  #: the deepest message, BUILT with dependencies, needs 6
MAX_ITEMS = 20_000  #: twenty wheels with several hundred dependencies; a message of more takes the reader too long

TAG_MOMENT = 0  #: RFC 8949, 3.4.1: date and time as text
TAG_SPAN = 2001  #: our own: timedelta as [days, seconds, microseconds]
TAG_NO_DATA = 2002  #: our own, around null
_TAGS = frozenset({TAG_MOMENT, TAG_SPAN, TAG_NO_DATA})

_TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 3, 4, 5, 6, 7  # RFC 8949, 3.1: major types
_SIMPLE_VALUES = frozenset({20, 21, 22})  # false, true, null
_FLOATS = frozenset({25, 26, 27})  # half, single, double


# What nearly every message is, IDLE or BUSY without a log, in any encoding that scan() would pass as well: a builder
# says nothing else for hours, and a scan in Python takes longer than all the rest of reading one.
_WHOLE = rb"(?:[\x00-\x17]|\x18.|\x19.{2}|\x1a.{4}|\x1b.{8})"  # RFC 8949, 3: a whole number that is not negative
_REAL = rb"(?:" + _WHOLE + rb"|\xf9.{2}|\xfa.{4}|\xfb.{8})"
_USUAL = re.compile(
    rb"\x82\x64(?:IDLE|BUSY)\x89\xc0(?:\x74.{20}|\x78(?:\x18.{24}|\x19.{25}|\x1b.{27}|\x20.{32}))"
    + _WHOLE * 6
    + _REAL * 2,
    re.DOTALL,
)


def dumps(item: object) -> bytes:
    """Encode; what is given is ours, and made of text, numbers, lists, maps, null and CBORTag."""
    return cbor2.dumps(item)


def loads(data: bytes) -> Any:
    """Decode one item that fills ``data``; PeerError for anything the protocol has no use for."""
    if not _USUAL.fullmatch(data):
        scan(data)
    try:
        return cbor2.loads(data)
    except Exception as error:  # which ones a decoder raises over bad text or dates differs between its versions
        raise PeerError(f"the message holds text or a date that is none ({type(error).__name__})") from error


def scan(data: bytes) -> None:
    """Refuse all but one well-formed item of permitted kinds, within the limits above (RFC 8949, appendix C).

    Byte strings, indefinite lengths, undefined and other simple values, and tags that the protocol does not define
    are refused: no piwheels peer ever sends them.
    """
    if len(data) > MAX_MESSAGE:
        raise PeerError(f"a message of {len(data)} bytes is too long")
    position, seen = 0, 0
    open_items = [1]  # for each level, how many items are still to come
    keys = [False]  # for each level, whether the items are a map's, keys and values in turn
    while open_items:
        if not open_items[-1]:
            open_items.pop()
            keys.pop()
            continue
        must_be_key = keys[-1] and open_items[-1] % 2 == 0
        open_items[-1] -= 1
        seen += 1
        if seen > MAX_ITEMS:
            raise PeerError("the message holds too many items")
        major, argument, position = _head(data, position)
        if must_be_key and major != _TEXT:
            raise PeerError("a map's key is not text")
        if major == _TEXT:
            position += argument
            if position > len(data):
                raise PeerError("a text is longer than its message")
        elif major in (_ARRAY, _MAP, _TAG):
            inside = 1 if major == _TAG else argument * (2 if major == _MAP else 1)
            if inside > len(data) - position:  # each item takes a byte at least
                raise PeerError("an array or map is longer than its message")
            if len(open_items) > MAX_DEPTH:
                raise PeerError("the message is nested too deeply")
            open_items.append(inside)
            keys.append(major == _MAP)
    if position != len(data):
        raise PeerError("there is something after the message")


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """An item's major type, its argument, and where what follows begins (RFC 8949, 3)."""
    if position >= len(data):
        raise PeerError("the message ends too early")
    major, info = data[position] >> 5, data[position] & 0x1F
    position += 1
    if info > 27:
        raise PeerError("an item of indefinite or reserved length")
    length = 1 << (info - 24) if info >= 24 else 0
    if position + length > len(data):
        raise PeerError("the message ends too early")
    argument = int.from_bytes(data[position : position + length], "big") if length else info
    if major == 2:
        raise PeerError("a byte string has no place in a message")
    if major == _TAG and argument not in _TAGS:
        raise PeerError(f"tag {argument} has no place in a message")
    if major == _SIMPLE and info not in _SIMPLE_VALUES and info not in _FLOATS:
        raise PeerError("a simple value that has no place in a message")
    return major, argument, position + length
