# SPDX-License-Identifier: BSD-3-Clause
"""A build's log: bounded however long it is, clean whatever is in it; and what it tells about a failure."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.slave.failure import LogReader, shorten
from piwheels.slave.log import BoundedLog, clean
from piwheels.vocabulary import FailureReason


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain\n\ttext\n", "plain\n\ttext\n"),
        (b"a\0b\x07c\x08", "abc"),
        (b"\x1b[1;31merror\x1b[0m: x", "error: x"),
        (b"\x1b]0;title\x07x\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", "xlink"),
        (b"\x1bM\x1b(Bx\x1b", "x"),
        (b"\x1b]never ended\nnext", "\nnext"),
        (b"10%\r50%\r100%\ndone\r\n", "100%\ndone\n"),
        (b"caf\xc3\xa9 \xff", "café �"),
        ("\u202eevil\u2066\x85".encode(), "evil"),
        (b"x" * 5000 + b"\ny", "x" * 4000 + " [...]\ny"),
    ],
)
def test_clean(data: bytes, expected: str) -> None:
    assert clean(data) == expected


@given(st.binary(max_size=300))
def test_nothing_unprintable_is_left(data: bytes) -> None:
    assert all(char.isprintable() or char in "\n\t" or ord(char) > 0x9F for char in clean(data))


@pytest.mark.parametrize("piece", [b"x", b"\r", b"\r\r\n", b"\x1b]", b"\x1b[", b"\xff", b"y" * 3999 + b"\n"])
def test_cleaning_takes_time_in_proportion(piece: bytes) -> None:
    data = piece * (2 * 1024**2 // len(piece))
    started = time.process_time()
    clean(data)
    assert time.process_time() - started < 5  # quadratic ones take minutes


def test_short_log_is_kept_whole() -> None:
    log = BoundedLog(head=10, tail=20)
    log.write(b"0123456789")
    log.write(b"abc\n")
    assert log.text() == "0123456789abc\n"


@given(st.lists(st.binary(min_size=0, max_size=50).map(lambda data: data.hex().encode()), max_size=30))
def test_head_and_tail_of_a_long_log(pieces: list[bytes]) -> None:
    log = BoundedLog(head=64, tail=128)
    for piece in pieces:
        log.write(piece)
    whole = b"".join(pieces).decode()
    assert log.length == len(whole)
    if len(whole) <= 192:
        assert log.text() == whole
    else:
        assert log.text().startswith(whole[:64]) and log.text().endswith(whole[-128:])
        assert f"{len(whole) - 192} bytes" in log.text()


def test_hundred_megabytes_take_constant_memory() -> None:
    log, line = BoundedLog(), b"x" * 1023 + b"\n"
    for _ in range(100 * 1024):
        log.write(line)
    assert log.length == 100 * 1024**2
    assert len(log.text()) < 4 * 1024**2
    assert sum(map(len, log._tail)) + len(log._head) + len(log._live) < 4 * 1024**2


def test_very_many_small_writes() -> None:
    log = BoundedLog(head=1, tail=50_000)
    for number in range(20_000):
        log.write(b"%d\n" % number)
    assert log.text().endswith("19998\n19999\n")
    assert len(log._tail) <= 4096


def test_news_are_whole_lines() -> None:
    log = BoundedLog(live=100)
    log.write(b"one\ntw")
    assert log.news() == "one\n"
    assert log.news() == ""
    log.write(b"o\n")
    assert log.news() == "two\n"
    log.write(b"x" * 500)
    assert set(log.news()) == {"x"}  # no line, but too much to hold back
    log.write(b"a\n" * 500)
    assert len(log.news()) <= 100


PIP_COMPILER = b"""
  running build_ext
  gcc -c foo.c
  foo.c:1:10: fatal error: foo.h: No such file or directory
      1 | #include <foo.h>
  compilation terminated.
  error: command '/usr/bin/gcc' failed with exit code 1
  error: subprocess-exited-with-error
  ERROR: Failed building wheel for foo
ERROR: Failed to build foo
"""
PIP_EXCEPTION = b"""
  Traceback (most recent call last):
    File "setup.py", line 3, in <module>
      import numpy
  ModuleNotFoundError: No module named 'numpy'
  error: subprocess-exited-with-error
  note: This error originates from a subprocess, and is likely not a problem with pip.
ERROR: Failed to build 'foo' when getting requirements to build wheel
"""
PIP_OFFLINE = b"""
  WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by \
'NewConnectionError(...)': /simple/setuptools/
  ERROR: Could not find a version that satisfies the requirement setuptools>=40.8.0 (from versions: none)
  ERROR: No matching distribution found for setuptools>=40.8.0
"""
SIGNS = [
    (PIP_COMPILER, FailureReason.PACKAGE, "foo.c:1:10: fatal error: foo.h: No such file or directory"),
    (PIP_EXCEPTION, FailureReason.PACKAGE, "ModuleNotFoundError: No module named 'numpy'"),
    (PIP_OFFLINE, FailureReason.NETWORK, "No matching distribution found for setuptools"),
    (b"as: foo.o: No space left on device\n", FailureReason.DISK, "No space left"),
    (b"OSError: [Errno 28] No space left on device: 'x'\n", FailureReason.DISK, "OSError: [Errno 28]"),
    (b"gcc: fatal error: Killed signal terminated program cc1plus\n", FailureReason.MEMORY, "cc1plus"),
    (b"cc1: out of memory allocating 65536 bytes\n", FailureReason.MEMORY, "out of memory"),
    (b"  MemoryError\nerror: subprocess-exited-with-error\n", FailureReason.MEMORY, ""),
    (b"x.c:3: warning: PyExc_MemoryError is unused\nValueError: no\n", FailureReason.PACKAGE, "ValueError: no"),
    (b"CMake Error at CMakeLists.txt:3 (find_package):\n", FailureReason.PACKAGE, "CMake Error at"),
    (b"error: can't find Rust compiler\n", FailureReason.PACKAGE, "can't find Rust"),
    (b"something odd\n", FailureReason.PACKAGE, "something odd"),
    (b"", FailureReason.PACKAGE, ""),
]


@pytest.mark.parametrize(("log", "reason", "words"), SIGNS)
def test_what_a_log_tells(log: bytes, reason: FailureReason, words: str) -> None:
    reader = LogReader()
    reader.feed(log)
    reader.end()
    assert reader.reason is reason
    assert words in reader.detail
    assert "\n" not in reader.detail and len(reader.detail) <= 300


@given(st.lists(st.integers(0, len(PIP_COMPILER)), max_size=8))
def test_reading_in_pieces_makes_no_difference(cuts: list[int]) -> None:
    reader = LogReader()
    edges = [0, *sorted(cuts), len(PIP_COMPILER)]
    for start, end in itertools.pairwise(edges):
        reader.feed(PIP_COMPILER[start:end])
    reader.end()
    assert "foo.h" in reader.detail


def test_versions_of_build_requirements() -> None:
    reader = LogReader()
    reader.feed(b"  Successfully installed setuptools-80.9.0 typing-extensions-4.1 wheel-0.45.1\n")
    reader.feed(b"x Successfully installed evil-1.0\n  Successfully installed cython-3.1.0a1 odd\n")
    reader.end()
    assert reader.built_with == {
        "setuptools": "80.9.0",
        "typing-extensions": "4.1",
        "wheel": "0.45.1",
        "cython": "3.1.0a1",
    }


def test_a_line_without_end_is_bounded() -> None:
    reader = LogReader()
    for _ in range(100):
        reader.feed(b"x" * 100_000)
    assert len(reader._partial) < 200_000
    reader.end()
    assert len(reader.detail) == 300


def test_shorten() -> None:
    assert shorten("a\nb\t c\x1b[1m") == "a b c"
    assert len(shorten("x" * 1000)) == 300
