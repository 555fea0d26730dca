# SPDX-License-Identifier: BSD-3-Clause
"""Makes ELF files for ARM with build attributes, as linkers write them; as many as a test needs and no code inside."""

import struct
from collections.abc import Mapping

#: What GCC says of what it compiles on Raspberry Pi OS, and on Debian: ``readelf -A``.
RASPBERRY: Mapping[int, int | bytes] = {
    5: b"6", 6: 6, 8: 1, 9: 1, 10: 2, 18: 4, 19: 1, 20: 1, 21: 1, 23: 3, 24: 1, 26: 2, 28: 1, 30: 2, 34: 1,
}  # fmt: skip
DEBIAN: Mapping[int, int | bytes] = {
    5: b"7-A", 6: 10, 7: ord("A"), 8: 1, 9: 2, 10: 4, 18: 4, 20: 1, 21: 1, 23: 3, 24: 1, 26: 2, 28: 1, 30: 2, 34: 1,
}  # fmt: skip


def number(value: int) -> bytes:
    """ULEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def attributes(said: Mapping[int, int | bytes], *, vendor: bytes = b"aeabi") -> bytes:
    """The content of a section .ARM.attributes."""
    pairs = b"".join(
        number(tag) + (value + b"\0" if isinstance(value, bytes) else number(value)) for tag, value in said.items()
    )
    of_file = b"\1" + struct.pack("<I", 5 + len(pairs)) + pairs
    return b"A" + struct.pack("<I", 4 + len(vendor) + 1 + len(of_file)) + vendor + b"\0" + of_file


def elf(
    said: Mapping[int, int | bytes] = RASPBERRY,
    *,
    section: bytes | None = None,
    machine: int = 40,
    flags: int = 0x0500_0400,
    text: bytes = b"\x1e\xff\x2f\xe1" * 8,
    debug: bytes = b"",
) -> bytes:
    """A shared object. ``section``: the content of .ARM.attributes where ``said`` cannot say it; ``debug``: what lies
    behind it."""
    section = attributes(said) if section is None else section
    names = b"\0.text\0.ARM.attributes\0.debug_info\0.shstrtab\0"
    kinds = ((".text", 1, text), (".ARM.attributes", 0x7000_0003, section), (".debug_info", 1, debug))
    body, headers = b"", [bytes(40)]
    for name, kind, data in (*kinds, (".shstrtab", 3, names)):
        place = names.index(name.encode())
        headers.append(struct.pack("<10I", place, kind, 0, 0, 52 + len(body), len(data), 0, 0, 1, 0))
        body += data
    body += bytes(-len(body) % 4)
    ident = b"\x7fELF\1\1\1" + bytes(9)
    head = struct.pack(
        "<16sHHIIIIIHHHHHH", ident, 3, machine, 1, 0, 0, 52 + len(body), flags, 52, 32, 0, 40, len(headers), 4
    )
    return head + body + b"".join(headers)
