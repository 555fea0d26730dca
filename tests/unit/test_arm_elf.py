# SPDX-License-Identifier: BSD-3-Clause
"""What an ELF file says of the processor it needs, and what of it is believed."""

import io
import struct
from collections.abc import Mapping

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import example, given
from hypothesis import strategies as st

from piwheels.master.arm_elf import runs_on_armv6
from tests.elf import DEBIAN, RASPBERRY, attributes, elf


def runs(data: bytes) -> bool:
    return runs_on_armv6(io.BytesIO(data), len(data))


def test_the_files_of_these_tests_are_elf_files() -> None:
    """Read by somebody else."""
    file = ELFFile(io.BytesIO(elf(DEBIAN, debug=b"x" * 1000)))
    section = file.get_section_by_name(".ARM.attributes")
    (vendor,) = section.iter_subsections()
    (whole,) = vendor.iter_subsubsections()
    said = {attribute.tag: attribute.value for attribute in whole.iter_attributes()}
    assert file["e_machine"] == "EM_ARM"
    assert said["TAG_CPU_ARCH"] == 10 and said["TAG_CPU_NAME"] == "7-A" and said["TAG_ABI_VFP_ARGS"] == 1


def test_what_compilers_write() -> None:
    assert runs(elf(RASPBERRY))
    assert runs(elf(RASPBERRY, debug=b"x" * 100_000))
    assert not runs(elf(DEBIAN))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({6: 7}, True),  # v6KZ, which a Pi Zero is
        ({6: 9}, True),  # v6K
        ({6: 4}, True),  # v5TE
        ({6: 8}, False),  # v6T2
        ({6: 10}, False),  # v7
        ({6: 11}, False),  # v6-M
        ({6: 14}, False),  # v8
        ({6: 0}, False),
        ({7: ord("M")}, False),
        ({9: 2}, False),  # Thumb-2
        ({9: 3}, True),  # as the architecture has it
        ({10: 0}, True),
        ({10: 3}, False),  # VFPv3
        ({12: 1}, False),  # NEON
        ({28: 0}, False),  # soft-float
        ({28: 3}, True),
        ({44: 2}, False),  # division in hardware
        ({32: b"\1gnu"}, True),  # a number and a text
        ({65: b"\6\12"}, True),  # Tag_also_compatible_with
        ({67: b"2.09"}, True),
        ({64: 0}, True),
        ({300: 5}, True),  # unknown
    ],
)
def test_attributes(changes: Mapping[int, int | bytes], expected: bool) -> None:
    assert runs(elf({**RASPBERRY, **changes})) is expected


def without(tag: int) -> dict[int, int | bytes]:
    return {key: value for key, value in RASPBERRY.items() if key != tag}


GOOD = attributes(RASPBERRY)
INNER = GOOD[11:]  # what is said, with its scope


def framed(inner: bytes, vendor: bytes = b"aeabi\0") -> bytes:
    return struct.pack("<I", 4 + len(vendor) + len(inner)) + vendor + inner


@pytest.mark.parametrize(
    "section",
    [
        attributes(without(6)),
        attributes(without(28)),
        b"",
        b"B" + GOOD[1:],
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + struct.pack("<I", 0),  # a length that leads nowhere
        GOOD + struct.pack("<I", 4),
        GOOD + struct.pack("<I", 2**32 - 1),
        b"A" + framed(INNER, b"aeabi"),
        b"A" + framed(b"\2" + INNER[1:]),  # of a section
        b"A" + framed(b"\1" + struct.pack("<I", 0)),
        b"A" + framed(b"\1" + struct.pack("<I", 4)),
        b"A" + framed(b"\1\xff"),
        b"A" + framed(b"\1" + struct.pack("<I", 7) + b"\6\x8a"),  # a number that does not end
        b"A" + framed(b"\1" + struct.pack("<I", 12) + b"\6" + b"\x80" * 6),
        b"A" + framed(b"\1" + struct.pack("<I", 7) + b"\5x"),  # a text that does not end
        GOOD + attributes({6: 10})[1:],  # it says both
        attributes(RASPBERRY, vendor=b"gnu"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_does_not_run(section: bytes) -> None:
    assert not runs(elf(section=section))


def test_another_vendors_words_are_passed_over() -> None:
    assert runs(elf(section=GOOD + framed(b"\1whatever", b"gnu\0")))


@pytest.mark.parametrize(
    "data",
    [
        elf(machine=3),
        elf(machine=62),
        elf(flags=0x0500_0200),  # soft-float
        elf(flags=0x0400_0000),
        elf().replace(b"\x7fELF\1\1", b"\x7fELF\2\1"),  # 64 bits
        elf().replace(b"\x7fELF\1\1", b"\x7fELF\1\2"),  # big-endian
        elf(section=b"A" * 70_000),
        elf()[:-1],
        elf()[:40],
        b"",
    ],
)
def test_other_files_do_not_run(data: bytes) -> None:
    assert not runs(data)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
@example(b"", 45, 0xFF)
def test_no_bytes_do_harm(section: bytes, place: int, value: int) -> None:
    """Whatever is inside, the answer comes, and comes without an exception."""
    assert runs(elf(section=section)) in (True, False)
    data = bytearray(elf())
    data[place % len(data)] = value
    assert runs(bytes(data)) in (True, False)
