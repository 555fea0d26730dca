# SPDX-License-Identifier: BSD-3-Clause
"""Why a build failed, as far as its log tells: whose fault it was, and the one line that says most.

Reads a log line by line in constant memory. The log is the package's to write, so a package can pass its failure off
as the builder's: then it is tried again until the master's strikes are used up, which costs time and no more. It must
not know processes; what the kernel says (limits, out of memory) goes before what a log says, and is the caller's.
"""

import re
from collections import deque

from piwheels.slave.log import clean
from piwheels.vocabulary import FailureReason

MAX_DETAIL = 300  #: characters

_MAX_PARTIAL = 16 * 1024  #: bytes of a line that are looked at
_AT_ONCE = 2000  #: lines with one of the words that are looked at as they come
_AT_END = 2000  #: lines with one of the words that are looked at in the end

#: What a line has, in lower case, if any of the expressions below can match it.
_WORDS = (
    *(b"error", b"exception", b"failure", b"failed", b"exit", b"notfound", b"did not run", b"is invalid"),
    *(b"no space left", b"errno", b"quota", b"memory", b"bad_alloc", b"killed", b"sigkill"),
    *(b"retrying", b"timed out", b"ssl certificate", b"could not fetch", b"urllib3", b"successfully installed"),
)

_DISK = re.compile(r"No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]", re.IGNORECASE)
_MEMORY = re.compile(
    r"^\s*MemoryError\b|virtual memory exhausted|out of memory allocating|Cannot allocate memory|\[Errno 12\]"
    r"|std::bad_alloc|Killed signal terminated program|\(signal: 9, SIGKILL|LLVM ERROR: out of memory"
    r"|memory allocation of \d+ bytes failed|JavaScript heap out of memory"
)
#: What pip itself says when the index cannot be reached; a package's own downloads are its own affair.
_NETWORK = re.compile(
    r"WARNING: Retrying \(Retry\(total=0|ERROR: Could not install packages due to an OSError: HTTPS?ConnectionPool"
    r"|pip\._vendor\.urllib3\.exceptions\.\w*(?:Timeout|Connection|Protocol|Retry|Resolution)\w*"
    r"|pip\._internal\.exceptions\.NetworkConnectionError|ERROR: HTTP error (?:429|5\d\d) while getting"
    r"|WARNING: Connection timed out while downloading|problem confirming the ssl certificate"
    # pip names these on a page of the index only; a 404 there is an answer, so it is not among them
    r"|Could not fetch URL .*(?:connection error|Max retries|timed out|50[0-9] (?:Server|Service|Bad|Gateway))"
)
_COMPILER = re.compile(r"(?:^|:\d{1,9}: |:\d{1,9}:\d{1,9}: )(?:fatal )?error: (?P<what>.+)")
_EXCEPTION = re.compile(r"^\s*(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Failure|Exit|NotFound)\b(?:: .*)?$")
_SAYS_ERROR = re.compile(
    r"^\s*(?:\w+: )?(?:fatal |configure: |CMake )?error\b[: ]|^\s*WARNING: Built wheel for \S+ is invalid",
    re.IGNORECASE,
)
#: True of every failure, so no use to anybody.
_EMPTY_WORDS = re.compile(
    r"subprocess-exited-with-error|did not run successfully|Failed to build|Failed building wheel|note: This error"
    r"|metadata-generation-failed|hint: See above|CalledProcessError|exit(?:ed with)? (?:code|status)"
    r"|returned non-zero exit|SystemExit: [0-9]+$|failed-wheel-build|Encountered error while|build dependencies",
    re.IGNORECASE,
)


class LogReader:
    """Takes a log in pieces and remembers what tells about a failure.

    Most lines are dismissed by a search for a few words, and of those that have one only the first and the last few
    thousand are looked at: a log of 100 MB is read in seconds, also by a Pi.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._last = b""
        self._read = 0  # lines looked at
        self._held: deque[bytes] = deque(maxlen=_AT_END)  # the last ones beyond; looked at when the log ends
        self._signs: set[FailureReason] = set()
        self._compiler = ""  # the first: later ones follow from it
        self._exception = ""  # the last: earlier ones may have been handled
        self._error = ""
        self._empty = ""
        self.built_with: dict[str, str] = {}  #: build requirements and their versions, as pip reported them

    def feed(self, data: bytes) -> None:
        """Read on."""
        whole, end, rest = (self._partial + data).rpartition(b"\n")
        self._partial = rest[-_MAX_PARTIAL:]
        if not end:
            return
        self._last = whole.rstrip().rpartition(b"\n")[2] or self._last
        if _has_word(whole):
            for line in whole.split(b"\n"):
                if _has_word(line):
                    self._notice(line)

    def _notice(self, line: bytes) -> None:
        if self._read < _AT_ONCE:
            self._read += 1
            self._line(clean(line).strip())
        else:
            self._held.append(line[:_MAX_PARTIAL])

    def _line(self, line: str) -> None:
        installed = line.partition("Successfully installed ")
        if installed[1] and not installed[0]:
            self._installed(installed[2])
        self._signs |= {reason for reason, sign in _SIGNS.items() if sign.search(line)}
        if _EMPTY_WORDS.search(line):
            self._empty = line
        elif _EXCEPTION.match(line):
            self._exception = line
        elif _COMPILER.search(line):
            self._compiler = self._compiler or line
        elif _SAYS_ERROR.match(line):
            self._error = line

    def _installed(self, words: str) -> None:
        """pip's own "Successfully installed setuptools-80.9.0 wheel-0.45.1": a normalised version has no hyphen."""
        for word in words.split()[:100]:
            name, _, version = word.rpartition("-")
            if name and version[:1].isdigit() and len(word) <= 200 and len(self.built_with) < 100:
                self.built_with[name] = version

    def end(self) -> None:
        """The log is complete; its last line may lack an end."""
        self.feed(b"\n")
        while self._held:
            self._line(clean(self._held.popleft()).strip())

    @property
    def reason(self) -> FailureReason:
        """Whose fault the log speaks of."""
        for reason in _SIGNS:
            if reason in self._signs:
                return reason
        return FailureReason.PACKAGE

    @property
    def detail(self) -> str:
        """The line that says most about the failure."""
        last = self._last[:_MAX_PARTIAL].decode("utf-8", "replace")
        return shorten(self._compiler or self._exception or self._error or self._empty or last)


def _has_word(data: bytes) -> bool:
    lower = data.lower()
    return any(word in lower for word in _WORDS)


#: In the order in which they are believed.
_SIGNS = {FailureReason.DISK: _DISK, FailureReason.MEMORY: _MEMORY, FailureReason.NETWORK: _NETWORK}


def shorten(text: str) -> str:
    """One line of at most MAX_DETAIL characters."""
    line = " ".join(clean(text.encode("utf-8", "replace")).split())
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"
