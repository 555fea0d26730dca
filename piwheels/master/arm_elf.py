# SPDX-License-Identifier: BSD-3-Clause
"""Whether an ELF file runs on an ARMv6 board with hard-float ABI: a Raspberry Pi Zero or 1 (ARM1176JZF-S).

Read from its build attributes (ELF for the Arm Architecture, Addenda: section .ARM.attributes), which the linker merges
of all objects, so they say what the most demanding one of them needs. The file is a builder's, so it is taken for
hostile: a fixed number of reads of bounded length, no loop that a length of zero could keep going, and whatever is
not as the specification has it does not run. That is why pyelftools, which trusts what it reads, does not do it.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import IO

MAGIC = b"\x7fELF"

MAX_SECTIONS = 0xFEFF  #: more are numbered in another way (SHN_LORESERVE)
MAX_ATTRIBUTES = 65_536  #: bytes of the section; compilers write less than a hundred

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_SECTION = struct.Struct("<10I")
_ARM = 40  # EM_ARM
_EABI5, _SOFT_FLOAT = 5, 0x200  # of e_flags
_ATTRIBUTES = 0x7000_0003  # SHT_ARM_ATTRIBUTES
_FILE = 1  # the scope Tag_File

_ARCH, _VFP_ARGS = 6, 28  # Tag_CPU_arch, Tag_ABI_VFP_args
_TEXTS = frozenset({4, 5})  # Tag_CPU_raw_name, Tag_CPU_name; and the odd ones above 32
_COMPATIBILITY = 32  # a number and a text

#: What each attribute may be that says which processor the code needs; absent is 0, and one that is not here says
#: nothing of that.
_RUNS: Mapping[int, frozenset[int]] = {
    _ARCH: frozenset({1, 2, 3, 4, 5, 6, 7, 9}),  # v4 to v6KZ and v6K; 8 is v6T2, 10 v7, those above M profiles and v8
    7: frozenset({0, ord("A"), ord("S")}),  # Tag_CPU_arch_profile: application, or either that or real-time
    9: frozenset({0, 1, 3}),  # Tag_THUMB_ISA_use: 2 is Thumb-2
    10: frozenset({0, 1, 2}),  # Tag_FP_arch: VFPv2 at most
    11: frozenset({0}),  # Tag_WMMX_arch
    12: frozenset({0}),  # Tag_Advanced_SIMD_arch: NEON
    _VFP_ARGS: frozenset({1, 3}),  # hard-float, or compatible with it
    36: frozenset({0}),  # Tag_FP_HP_extension
    42: frozenset({0}),  # Tag_MPextension_use
    44: frozenset({0, 1}),  # Tag_DIV_use: not beyond what the architecture has
    46: frozenset({0}),  # Tag_DSP_extension
    48: frozenset({0}),  # Tag_MVE_arch
    66: frozenset({0}),  # Tag_T2EE_use
}


class _MalformedError(ValueError):
    """It is not as the specification has it."""


def runs_on_armv6(file: IO[bytes], size: int) -> bool:
    """Whether an ELF file, from its first byte on and so long, runs there. ``file`` is read forwards, then once more
    from an earlier place."""
    try:
        return _fits(_attributes(_section(file, size)))
    except (_MalformedError, struct.error):
        return False


def _fits(attributes: Mapping[int, int]) -> bool:
    return all(attributes.get(tag, 0) in allowed for tag, allowed in _RUNS.items())


def _section(file: IO[bytes], size: int) -> bytes:
    """The build attributes."""
    ident, _, machine, _, _, _, start, flags, _, _, _, each, count, _ = _HEADER.unpack(file.read(_HEADER.size))
    if ident[:7] != MAGIC + b"\1\1\1" or machine != _ARM:  # 32 bits, little-endian, version 1
        raise _MalformedError
    if flags >> 24 != _EABI5 or flags & _SOFT_FLOAT:
        raise _MalformedError
    if each != _SECTION.size or not 0 < count <= MAX_SECTIONS or not _HEADER.size <= start <= size - count * each:
        raise _MalformedError
    file.seek(start)
    sections = _SECTION.iter_unpack(file.read(count * each))
    found = [(offset, length) for _, kind, _, _, offset, length, *_ in sections if kind == _ATTRIBUTES]
    if len(found) != 1:
        raise _MalformedError
    offset, length = found[0]
    if not 0 < length <= MAX_ATTRIBUTES or offset + length > size:
        raise _MalformedError
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise _MalformedError
    return data


def _attributes(section: bytes) -> dict[int, int]:
    """The numbers that are said of the whole file, by tag."""
    if section[:1] != b"A":
        raise _MalformedError
    found: dict[int, int] = {}
    for vendor in _blocks(section, 1):
        name, nul, rest = vendor.partition(b"\0")
        if not nul:
            raise _MalformedError
        if name != b"aeabi":
            continue  # a tool's own; says nothing of what the code needs
        for tag, value in _of_file(rest):
            if found.setdefault(tag, value) != value:
                raise _MalformedError
    return found


def _blocks(data: bytes, at: int) -> Iterator[bytes]:
    """Contents that each follow their length, which counts itself."""
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        if not 4 < length <= len(data) - at:
            raise _MalformedError
        yield data[at + 4 : at + length]
        at += length


def _of_file(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(data):
        scope = data[at]
        (length,) = struct.unpack_from("<I", data, at + 1)
        # Scopes below the file (sections, symbols) are deprecated: no linker writes them.
        if scope != _FILE or not 5 <= length <= len(data) - at:
            raise _MalformedError
        yield from _pairs(data[at + 5 : at + length])
        at += length


def _pairs(data: bytes) -> Iterator[tuple[int, int]]:
    """Tags with numbers; those with texts are passed over."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        is_text = tag in _TEXTS or (tag > _COMPATIBILITY and tag % 2 == 1)
        if not is_text:
            value, at = _number(data, at)
            yield tag, value
        if is_text or tag == _COMPATIBILITY:
            end = data.find(b"\0", at)
            if end < 0:
                raise _MalformedError
            at = end + 1


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A ULEB128 of at most 35 bits, and where the next thing is."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _MalformedError
