# SPDX-License-Identifier: BSD-3-Clause
"""Operators' commands as they travel on the control socket: strictly validated JSON objects, and their answers.

Pure; what a command does is the control role's. Field names are listed in docs/monitoring.rst.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from packaging.utils import canonicalize_name

from piwheels.errors import PeerError

MAX_COMMAND = 4096  #: bytes
MAX_WORD = 200  #: characters of a name, a version or a target


class Verb(StrEnum):
    """What can be asked."""

    STATUS = "status"
    PAUSE = "pause"
    RESUME = "resume"
    SLAVE_PAUSE = "slave-pause"
    SLAVE_RESUME = "slave-resume"
    SLAVE_STOP = "slave-stop"
    SLAVE_SLEEP = "slave-sleep"  #: another word for slave-pause
    SLAVE_WAKE = "slave-wake"  #: another word for slave-resume
    SLAVE_SKIP = "slave-skip"
    SLAVE_KILL = "slave-kill"
    SKIP = "skip"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Command:
    """A command; the fields that its verb does not take are empty."""

    verb: Verb
    slave: str = ""  #: number, key, start of a key, or label; or ALL
    project: str = ""  #: canonical name
    version: str = ""
    target: str = ""
    back: str = ""  #: yes or no: whether what is ended goes back to the queue
    build: str = ""  #: a builder as above, or a project's name
    position: str = ""  #: bytes of a log that are known already


ALL = "all"  #: instead of a builder: all that are admitted

FIELDS: Mapping[Verb, tuple[str, ...]] = {
    Verb.STATUS: (),
    Verb.PAUSE: (),
    Verb.RESUME: (),
    Verb.SLAVE_PAUSE: ("slave",),
    Verb.SLAVE_RESUME: ("slave",),
    Verb.SLAVE_STOP: ("slave",),
    Verb.SLAVE_SLEEP: ("slave",),
    Verb.SLAVE_WAKE: ("slave",),
    Verb.SLAVE_SKIP: ("slave",),
    Verb.SLAVE_KILL: ("slave", "back"),
    Verb.LOG: ("build", "position"),
    Verb.SKIP: ("project", "version", "target"),
}


def encode(command: Command) -> bytes:
    """The command as it travels."""
    fields = {name: getattr(command, name) for name in FIELDS[command.verb]}
    return json.dumps({"command": command.verb.value, **fields}).encode()


def decode(data: bytes) -> Command:
    """The command that these bytes say; PeerError, with one line for the operator, if they say none."""
    given = _object(data)
    name = given.pop("command", None)
    if not isinstance(name, str) or name not in list(Verb):
        raise PeerError(f"unknown command; there are: {', '.join(Verb)}")
    verb = Verb(name)
    if set(given) != set(FIELDS[verb]):
        raise PeerError(f"{verb} takes {', '.join(FIELDS[verb]) or 'nothing'}")
    fields = {key: _word(key, value) for key, value in given.items()}
    if "project" in fields:
        fields["project"] = canonicalize_name(fields["project"])
    if fields.get("back", "no") not in ("yes", "no"):
        raise PeerError("back is yes or no")
    position = fields.get("position", "0")
    if not (position.isascii() and position.isdecimal() and len(position) <= 18):
        raise PeerError("position is a number of bytes")
    return Command(verb, **fields)


def answer(ok: bool, message: str, **more: Any) -> bytes:
    """An answer as it travels."""
    return json.dumps({"ok": ok, "message": message, **more}).encode()


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_COMMAND:
        raise PeerError(f"a command is at most {MAX_COMMAND} bytes long")
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PeerError("a command is a JSON object") from error
    if not isinstance(given, dict):
        raise PeerError("a command is a JSON object")
    return given


_NUMBERS = ("slave", "build", "position")  #: may be given as numbers


def _word(key: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and key in _NUMBERS:
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_WORD or not value.isprintable():
        raise PeerError(f"{key} must be a word of up to {MAX_WORD} printable characters")
    return value
