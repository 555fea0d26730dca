# SPDX-License-Identifier: BSD-3-Clause
"""Named points in a build's life at which a test may have something go wrong: a kill, a full disk, a lost answer.

``$PIWHEELS_FAULTS`` says what goes wrong where, once each: ``leased=kill verified=enospc@3 sending=sleep:2`` kills the
process with SIGKILL as soon as a job is leased, has the third verified wheel meet a full disk, and stops for two
seconds before a chunk is sent. Without it a point is one look at an empty dictionary; it is read once, at the start,
by the command's own process, and a log line warns that it was given. Whatever happens is said on standard error first,
so that whoever asked for it knows that it did. Builders load this, so it needs no other library.
"""

import errno
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from piwheels.errors import SettingsError

VARIABLE = "PIWHEELS_FAULTS"
SAID = "fault: "  #: what the line on standard error begins with
LONGEST = 600.0  #: seconds of a sleep


class Kind(StrEnum):
    """What can go wrong."""

    KILL = "kill"  #: SIGKILL to this process
    SLEEP = "sleep"  #: nothing happens for a while
    STOP = "stop"  #: SIGSTOP: it stands exactly there until whoever asked for that has done what is to happen meanwhile
    ENOSPC = "enospc"  #: the disk is full
    EIO = "eio"  #: the disk is broken
    LOST = "lost"  #: the connection is gone; the caller sees to that


_PLAIN = frozenset({Kind.KILL, Kind.SLEEP, Kind.STOP})
_LINK = _PLAIN | {Kind.LOST}
_DISK = _PLAIN | {Kind.ENOSPC, Kind.EIO}

#: Every point there is, in the order of a build's life, with what can go wrong there.
POINTS: Mapping[str, frozenset[Kind]] = {
    # dispatch
    "leased": _PLAIN,  # in the database, before anybody is told
    "receiving": _DISK,  # a chunk came and is to be written
    "verified": _DISK,  # a wheel is right, but not in the store yet
    "kept": _PLAIN,  # it is there, and nobody knows
    "logging": _DISK,  # the log of a result is to be written
    "renamed": _DISK,  # a wheel got a build number, but is not in the store yet
    "recording": _PLAIN,  # it is; the result is not committed
    "recorded": _PLAIN,  # it is; the builder was not told
    # publish
    "linked": _DISK,  # wheels have their names; no page lists them
    "unlisted": _DISK,  # pages are written; what they list no more is there still
    "published": _DISK,  # pages are written, and still marked stale
    # every process that has a database
    "committing": _LINK | _DISK,  # everything is done but the commit; the disk is PostgreSQL's
    "committed": _LINK,  # it is committed, and we did not hear of it
    # a builder
    "building": _LINK | _DISK,  # the build has begun
    "reading": _DISK,  # it has ended; what it came to is to be read
    "built": _LINK,  # that is known; the master was not told
    "sending": _LINK | {Kind.EIO},  # a chunk is to be sent
    "sent": _LINK,  # the master has the whole file
}

_ONE = re.compile(r"(?P<point>\w+)=(?P<kind>\w+)(:(?P<seconds>[0-9.]{1,10}))?(@(?P<turn>[0-9]{1,9}))?")
_ERRORS = {Kind.ENOSPC: errno.ENOSPC, Kind.EIO: errno.EIO}


@dataclass(slots=True)
class Fault:
    """One that is to happen."""

    kind: Kind
    turn: int  #: the pass at which it happens; 1 is the next
    seconds: float = 1.0  #: of a sleep


logger = logging.getLogger(__name__)

_armed: dict[str, list[Fault]] = {}
_lock = threading.Lock()


def parse(text: str) -> dict[str, list[Fault]]:
    """What ``$PIWHEELS_FAULTS`` says; SettingsError if it makes no sense."""
    found: dict[str, list[Fault]] = {}
    for word in text.split():
        match = _ONE.fullmatch(word)
        if match is None:
            raise SettingsError(f"${VARIABLE}: {word[:60]!r} is not POINT=KIND[:SECONDS][@PASS]")
        point_, kind, seconds = match["point"], match["kind"], match["seconds"] or "1"
        if point_ not in POINTS:
            raise SettingsError(f"${VARIABLE}: there is no point {point_[:40]}; there are: {', '.join(POINTS)}")
        if kind not in POINTS[point_]:
            can = ", ".join(sorted(POINTS[point_]))
            raise SettingsError(f"${VARIABLE}: at {point_} there is no {kind[:40]}; there are: {can}")
        try:
            fault = Fault(Kind(kind), max(int(match["turn"] or 1), 1), min(float(seconds), LONGEST))
        except ValueError:
            raise SettingsError(f"${VARIABLE}: {word[:60]!r}: not a number of seconds: {seconds}") from None
        found.setdefault(point_, []).append(fault)
    return found


def arm(environ: Mapping[str, str]) -> None:
    """Have happen in this process what the environment says, and nothing else; SettingsError."""
    faults = parse(environ.get(VARIABLE, ""))
    with _lock:
        _armed.clear()
        _armed.update(faults)
    if faults:
        logger.warning(
            "$%s is set: this process will fail on purpose (%s); for tests only", VARIABLE, environ[VARIABLE]
        )


def point(name: str) -> bool:
    """Pass a point. True: the caller is to behave as if its connection were lost. Raises OSError where the disk is to
    be full or broken."""
    return bool(_armed) and _pass(name)


def _pass(name: str) -> bool:
    due: Fault | None = None
    with _lock:
        waiting = _armed.get(name, [])
        for fault in waiting:
            fault.turn -= 1
        due = next((fault for fault in waiting if fault.turn <= 0), None)
        if due is None:
            return False
        waiting.remove(due)
    os.write(2, f"{SAID}{name} {due.kind}\n".encode())
    match due.kind:
        case Kind.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Kind.STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Kind.SLEEP:
            time.sleep(due.seconds)
        case Kind.ENOSPC | Kind.EIO:
            number = _ERRORS[due.kind]
            raise OSError(number, os.strerror(number))
        case Kind.LOST:
            return True
    return False
