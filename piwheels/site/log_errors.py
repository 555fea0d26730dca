# SPDX-License-Identifier: BSD-3-Clause
"""Where in a build's log the error is: the first that matters, since what comes after follows from it.

Pure. A log is the package's to write, so all this is a guess, which costs nothing if it is wrong. Lines are ranked by
what they look like; of the best rank that occurs the first line is taken. pip shows a build's output indented, with
rulers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from piwheels.site.text import clean_lines

LONGEST_LINE = 1000  #: characters of a line that are looked at
LONGEST_REGION = 40  #: lines
MOST_LINES = 20_000  #: with one of the words that are looked at

_RULERS = " \t\u2502"  #: what pip puts before a build's output


@dataclass(frozen=True, slots=True)
class Region:
    """Lines of a log, counted from 0; ``stop`` is the line after the last."""

    start: int
    stop: int


# What a line has, in lower case, if any of the expressions below can match it; most lines have none. Looked for one
# after the other, which takes a fraction of the time of an expression with all of them.
_WORDS = (
    *("error", "exception", "failure", "failed", "undefined reference", "cannot find", "no such file", "not found"),
    *("notfound", "killed", "no space left", "quota exceeded", "out of memory", "memory exhausted", "cannot allocate"),
    *(
        "bad_alloc",
        "allocation of",
        "panicked",
        "exit",
        "traceback",
        "required",
        "no rule to make",
        "unable to",
        "sigkill",
    ),
    *("build stopped", "did not run", "could not compile", "see above for output"),
)
# In the command line of a compiler, and so in very many lines.
_OPTION = re.compile(r"-[a-z-]*error\b")
# Compilers try things out on purpose; when such a trial fails, all is well.
_TRIAL = re.compile(r"(?:^|[\s/])(?:_configtest|conftest|testCCompiler|CheckSymbolExists|CMakeScratch|try_compile)\b")

#: What is certainly the matter, whoever says it: the machine ran out of something.
_RESOURCE = re.compile(
    r"No space left on device|Disk quota exceeded|virtual memory exhausted|Cannot allocate memory|std::bad_alloc"
    r"|Killed signal terminated program|LLVM ERROR: out of memory|memory allocation of \d+ bytes failed"
    r"|signal: 9, SIGKILL|heap out of memory"
)
#: A compiler, linker or configuration that names what it cannot do, in a line that begins with it,
_TOOL = re.compile(
    r"[^\s:][^:]{0,300}:\d{1,9}(?::\d{1,9})?:\s(?:fatal |internal compiler )?error\b"  # gcc, clang, gfortran, cython
    r"|[^\s:][^:(]{0,300}\(\d{1,9}(?:,\d{1,9})?\):\s(?:fatal )?error\b"  # nvcc
    r"|(?:[\w.+-]{1,40}: )?fatal error: "
    r"|error(?:\[E\d{4}\])?: (?!command )"  # rustc; Debian's setuptools
    r"|CMake Error\b|configure: error: "
    r"|[^\s:]{1,200}:(?:\d+:\d+:)? ERROR: "  # meson
    r"|(?:\S{0,200}/)?ld(?:\.\w+)?: (?:cannot find|error:)"
    r"|(?:/bin/sh|bash|sh|env|/usr/bin/env): .*not found"
    r"|make(?:\[\d+\])?: \*\*\* No rule"
    r"|Error compiling Cython file|thread '[^']{0,100}' panicked at "
    r"|Package .{1,100} was not found in the pkg-config search path"
    r"|The headers or library files .*required"
    r"|ERROR: (?:No matching distribution|Could not find a version|Cannot install|ResolutionImpossible|HTTP error)"
    r"|ERROR: Package '.{1,100}' requires a different Python"
)
#: or that has it somewhere.
_TOOL_WITHIN = re.compile(r"undefined reference to |: cannot find -l|\bNo such file or directory$")
#: Python's own word for it.
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of", "The above exception")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Failure|Exit|NotFound)\b(?::|$)")
#: Something that calls itself an error.
_SAID = re.compile(r"(?:\[?ERROR\]?|Error|error|FAILED|FATAL|fatal)(?=[:\s])|.*\berror: |E: |make(?:\[\d+\])?: \*\*\* ")
#: True of every build that failed.
_EMPTY = re.compile(
    r"subprocess-exited-with-error|did not run successfully|Failed to build|Failed building wheel|This error originates"
    r"|metadata-generation-failed|failed-wheel-build|returned non-zero exit|exit(?:ed with)? (?:code|status)"
    r"|ninja: build stopped|Encountered error while|error: command |could not compile|aborting due to"
    r"|collect2: error: ld returned|legacy-install-failure|See above for output|ERROR: Failed"
)


def find_error(lines: Sequence[str]) -> Region | None:
    """The part of a log to show first; None: nothing in it looks like an error."""
    best: tuple[int, int] | None = None  # rank, line; the lower the better
    looked_at = 0
    for number, line in enumerate(lines):
        lower = line[:LONGEST_LINE].lower()
        if not any(word in lower for word in _WORDS) or not _means_it(lower):
            continue
        looked_at += 1
        rank = _rank(bare(line[:LONGEST_LINE]))
        if rank is not None and (best is None or rank < best[0]):
            best = rank, number
        if (best is not None and best[0] == 0) or looked_at > MOST_LINES:
            break
    if best is None:
        return None
    rank, start = best
    return _traceback(lines, start) if rank == 2 else Region(start, _end(lines, start))


def _means_it(lower: str) -> bool:
    """Whether the line has one of the words other than in an option, such as -Werror."""
    if "-" not in lower or not _OPTION.search(lower):
        return True
    without = _OPTION.sub("", lower)
    return any(word in without for word in _WORDS)


def _rank(line: str) -> int | None:
    if _TRIAL.search(line):
        return 5
    if _RESOURCE.search(line) or line.startswith("MemoryError"):
        return 0
    if _EMPTY.search(line):
        return 4
    if _TOOL.match(line) or _TOOL_WITHIN.search(line):
        return 1
    if line.startswith(_TRACEBACK):
        return 2
    return 3 if _SAID.match(line) or _EXCEPTION.match(line) else None


def bare(line: str) -> str:
    """A line without what pip puts before it, and without colours."""
    if "\x1b" in line:
        line = clean_lines(line)
    line = line.lstrip(_RULERS)
    if line.startswith(("\u2570\u2500>", "\u2514\u2500>")):
        line = line[3:].lstrip(_RULERS)
    return line.rstrip()


def _end(lines: Sequence[str], start: int) -> int:
    """Where what belongs to an error ends: what is indented more, code with carets, notes; not an empty line."""
    indent = _indent(lines[start])
    stop = start + 1
    while stop < min(len(lines), start + LONGEST_REGION):
        line = lines[stop]
        follows = _indent(line) > indent or re.match(r"\s*(?:\d+ )?\||\s*-->|\s*=|\s*[\^~]", line) or ": note: " in line
        if not bare(line) or not follows:
            break
        stop += 1
    return stop


def _traceback(lines: Sequence[str], start: int) -> Region:
    """A traceback to its exception, and those that were raised while it was handled."""
    indent = _indent(lines[start])
    limit = min(len(lines), start + 4 * LONGEST_REGION)
    for number in range(start + 1, limit):
        text = bare(lines[number])
        if not text or _indent(lines[number]) > indent or text.startswith((*_CHAINED, "Traceback ")):
            continue
        if not _again(lines, number + 1):
            return Region(start, number + 1)
    return Region(start, min(limit, start + LONGEST_REGION))


def _again(lines: Sequence[str], after: int) -> bool:
    """Whether the next words say that another traceback belongs to this one."""
    for line in lines[after : after + 3]:
        if text := bare(line):
            return text.startswith(_CHAINED)
    return False


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(_RULERS))
