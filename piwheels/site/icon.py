# SPDX-License-Identifier: BSD-3-Clause
"""The mark as an icon for browsers that take no SVG: drawn here, pixel by pixel, so that no image is kept beside the
drawing it must agree with. Pure.

Six round drupelets about a hub, as in static/mark.svg. A pixel is inked as far as it lies inside, told by its
distance from the edge, which is what smooth edges are.
"""

import math
import struct
import zlib
from functools import cache

SIZES = (16, 32, 48)
DRUPELETS = ((16, 6.4), (24.3, 11.2), (24.3, 20.8), (16, 25.6), (7.7, 20.8), (7.7, 11.2))  #: centres, of 32 by 32
RADIUS = 4.5
HUB = ((16, 16), 2.8, 2.0)  #: centre, radius and width of its line
BERRY, LEAF = (0xAD, 0x14, 0x50), (0x2F, 0x6B, 0x43)


@cache
def favicon() -> bytes:
    """An .ico file of PNG images, the smallest first; the same bytes each time."""
    images = [_png(size) for size in SIZES]
    head = struct.pack("<HHH", 0, 1, len(images))
    offset = len(head) + 16 * len(images)
    entries = b""
    for size, image in zip(SIZES, images, strict=True):
        entries += struct.pack("<BBBBHHII", size, size, 0, 0, 1, 32, len(image), offset)
        offset += len(image)
    return head + entries + b"".join(images)


def _png(size: int) -> bytes:
    """An image with colours and transparency (RFC 2083)."""
    rows = b"".join(b"\0" + b"".join(_pixel(x, y, 32 / size) for x in range(size)) for y in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    # Level 0: what a compressor makes of the same bytes depends on its release.
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pixel(x: int, y: int, scale: float) -> bytes:
    at_x, at_y = (x + 0.5) * scale, (y + 0.5) * scale
    berry = max(_inside(RADIUS - _distance(at_x, at_y, centre), scale) for centre in DRUPELETS)
    centre, radius, width = HUB
    leaf = _inside(width / 2 - abs(_distance(at_x, at_y, centre) - radius), scale)
    colour, ink = (LEAF, leaf) if leaf > berry else (BERRY, berry)
    return bytes((*colour, ink))


def _distance(x: float, y: float, centre: tuple[float, float]) -> float:
    return math.hypot(x - centre[0], y - centre[1])


def _inside(depth: float, scale: float) -> int:
    """How much of a pixel is inked (0 to 255) whose middle lies so deep below the edge."""
    return round(255 * min(max(depth / scale + 0.5, 0.0), 1.0))
