# SPDX-License-Identifier: BSD-3-Clause
"""What is done about an answer of PyPI's: believe it, doubt it, or ask again, and when. Pure.

The one that must not go wrong is deletion: it takes builds away from those who install them. It is believed when the
news said so and JSON and index page agree, or when both have said so for long enough (setting feed.disbelief).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from piwheels.pypi.pending import Emptied, Failed, Found, Gone, Hidden, Outcome, Pending, Priority, Unchanged

FIRST_DOUBT, LONGEST_DOUBT = timedelta(seconds=2), timedelta(minutes=10)
FIRST_RETRY, LONGEST_RETRY = timedelta(seconds=2), timedelta(hours=6)
AWAY_RETRY = timedelta(seconds=5)  #: how long to wait is the weather's business; this only lets others go first
NOT_YET = timedelta(
    minutes=10
)  #: how long a project that was just made may be missing: it has no release yet, or a cache
HOPELESS = 10  #: failures after which a project's news count as a repair


class Action(Enum):
    """What to do with our rows."""

    NOTHING = "nothing"
    APPLY = "apply"  #: make them equal to the answer
    FORCE = "force"  #: the same, even if the answer is older than they are
    STATUS = "status"  #: note the status, keep the rest
    EMPTY = "empty"  #: it has no releases any more
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an answer."""

    action: Action
    again: timedelta | None = None  #: ask again after this time; None: the matter is settled
    doubted: bool = False  #: because the answer is not (all) believed
    demote: bool = False  #: it is no news any more


def judge(pending: Pending, outcome: Outcome, *, now: datetime, disbelief: timedelta) -> Verdict:
    """Decide about an answer. ``now`` is the database's clock, as is ``pending.doubted_since``."""
    if isinstance(outcome, Failed):
        return _failed(pending, outcome)
    if isinstance(outcome, Unchanged):
        return Verdict(Action.NOTHING)
    if isinstance(outcome, Gone):
        return _gone(pending, now=now, disbelief=disbelief)
    believed = _doubted_for(pending, now) >= disbelief
    action = {Found: Action.FORCE if believed else Action.APPLY, Hidden: Action.STATUS, Emptied: Action.EMPTY}[
        type(outcome)
    ]
    serial = outcome.project.serial if isinstance(outcome, Found) else outcome.serial
    if serial and serial < pending.serial and not believed:
        return Verdict(action, again=doubt_wait(pending), doubted=True)  # from a cache; there is a newer state
    return Verdict(action)


def older(pending: Pending) -> Verdict:
    """The answer turned out to be older than our rows, which were left as they are."""
    return Verdict(Action.NOTHING, again=doubt_wait(pending), doubted=True)


def doubt_wait(pending: Pending) -> timedelta:
    """When to ask again after an answer that was not believed."""
    return _growing(FIRST_DOUBT, LONGEST_DOUBT, pending.attempts)


def _gone(pending: Pending, *, now: datetime, disbelief: timedelta) -> Verdict:
    if pending.removed:
        return Verdict(Action.DELETE)
    patience = disbelief if pending.project_id is not None else min(NOT_YET, disbelief)
    if pending.priority is not Priority.NEWS and pending.project_id is None:
        return Verdict(Action.NOTHING)  # nothing was heard of it, and we have nothing of it
    if _doubted_for(pending, now) >= patience:
        return Verdict(Action.DELETE)
    return Verdict(Action.NOTHING, again=doubt_wait(pending), doubted=True)


def _failed(pending: Pending, outcome: Failed) -> Verdict:
    if outcome.away:
        return Verdict(Action.NOTHING, again=AWAY_RETRY, doubted=pending.doubted_since is not None)
    return Verdict(
        Action.NOTHING,
        again=_growing(FIRST_RETRY, LONGEST_RETRY, pending.attempts),
        doubted=pending.doubted_since is not None,
        demote=pending.attempts + 1 >= HOPELESS,
    )


def _doubted_for(pending: Pending, now: datetime) -> timedelta:
    return now - pending.doubted_since if pending.doubted_since is not None else timedelta(0)


def _growing(first: timedelta, longest: timedelta, attempts: int) -> timedelta:
    return min(longest, first * float(2 ** min(attempts, 30)))
