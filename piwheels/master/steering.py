# SPDX-License-Identifier: BSD-3-Clause
"""What an operator says to one builder or to all, carried out in a transaction and answered in a line.

What builders are to do, and what becomes of their builds, is rows; dispatch reads them and tells the builders.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from piwheels.db import operator, slaves, withdrawal
from piwheels.db.builds import RetryPolicy
from piwheels.db.operator import Running
from piwheels.db.slaves import Slave
from piwheels.errors import PeerError
from piwheels.master.commands import ALL, Command, Verb
from piwheels.vocabulary import SlaveWish

SHOWN = 100  #: builders or builds listed in an answer

WISHES: Mapping[Verb, SlaveWish] = {
    Verb.SLAVE_PAUSE: SlaveWish.PAUSE,
    Verb.SLAVE_SLEEP: SlaveWish.PAUSE,
    Verb.SLAVE_RESUME: SlaveWish.RUN,
    Verb.SLAVE_WAKE: SlaveWish.RUN,
    Verb.SLAVE_STOP: SlaveWish.STOP,
}
WORDS = {
    SlaveWish.PAUSE: ("takes no more jobs", "take no more jobs"),
    SlaveWish.RUN: ("takes jobs", "take jobs"),
    SlaveWish.STOP: ("is told to leave", "are told to leave"),
}
BUILDS = frozenset({Verb.SLAVE_SKIP, Verb.SLAVE_KILL})  #: what is about the builds in builders' hands


@dataclass(frozen=True, slots=True)
class Answer:
    """What happened."""

    ok: bool
    message: str  #: one line for the operator
    more: Mapping[str, Any] = field(default_factory=dict)  #: the same for programs, JSON


def steer(conn: Connection, command: Command, *, policy: RetryPolicy) -> Answer:
    """Carry out a command that names one builder, or all that are admitted."""
    try:
        meant = builders(conn, command.slave)
    except PeerError as error:
        return Answer(False, str(error))
    if command.verb in BUILDS:
        return _builds(conn, command, meant, policy)
    wish = WISHES[command.verb]
    for slave in meant:
        slaves.set_wish(conn, slave.id, wish)
    one, several = WORDS[wish]
    who = several if command.slave == ALL else one
    subject = f"{len(meant)} builders" if command.slave == ALL else _name(meant[0])
    return Answer(True, f"{subject} {who}", {"builders": [_plain(slave) for slave in meant[:SHOWN]]})


def builders(conn: Connection, who: str) -> list[Slave]:
    """The builders meant, at least one. An address stands for itself, first, and for those that come from there.
    PeerError, with a line for the operator, if nobody or more than one is called so."""
    if who == ALL:
        found = [slave for slave in slaves.every(conn) if slave.enabled]
        if not found:
            raise PeerError("no builder is admitted; piw-keys enrol admits one")
        return found
    found = slaves.find(conn, who)
    if len(found) != 1:
        what = "no builder is" if not found else f"{len(found)} builders are"
        raise PeerError(f"{what} called {who}; piw-monitor slaves lists them")
    ids = set(withdrawal.builders_of(conn, found[0].id, found[0].key)) - {found[0].id}
    return [found[0], *(slave for slave in slaves.every(conn) if slave.id in ids)] if ids else found


def _builds(conn: Connection, command: Command, meant: Sequence[Slave], policy: RetryPolicy) -> Answer:
    found = operator.running(conn, slave_ids=[slave.id for slave in meant])
    if not found:
        who = "no builder" if command.slave == ALL else _name(meant[0])
        return Answer(False, f"{who} is building anything" if command.slave == ALL else f"{who} is not building")
    if command.verb is Verb.SLAVE_SKIP:
        operator.cancel(conn, found)
        return Answer(True, _dropped(found), {"builds": _listed(found)})
    back = command.back == "yes"
    live = operator.end(conn, found, back=back, policy=policy)
    ended = [one for one in found if one.token in live]
    if not ended:
        return Answer(False, "what was being built had ended already")
    return Answer(True, _ended(ended, back=back), {"builds": _listed(ended)})


def _dropped(found: Sequence[Running]) -> str:
    if len(found) == 1:
        return f"{_holder(found[0])} is told to drop {found[0]}"
    return f"{len(found)} builders are told to drop what they build"


def _ended(found: Sequence[Running], *, back: bool) -> str:
    one, several = ("goes", "go") if back else ("is", "are")
    then = "back to the queue" if back else "not tried again for that target until piw-queue retry"
    if len(found) == 1:
        return f"{_holder(found[0])}: the build of {found[0]} is ended, and {one} {then}"
    return f"{len(found)} builds are ended, and {several} {then}"


def _holder(one: Running) -> str:
    return f"builder {one.slave_id} {one.label}".rstrip()


def _name(slave: Slave) -> str:
    return f"builder {slave.id} {slave.label}".rstrip()


def _plain(slave: Slave) -> dict[str, Any]:
    return {"id": slave.id, "label": slave.label}


def _listed(found: Collection[Running]) -> list[dict[str, Any]]:
    return [
        {"project": one.project, "version": one.version, "target": one.target, "slave_id": one.slave_id}
        for one in list(found)[:SHOWN]
    ]
