# SPDX-License-Identifier: BSD-3-Clause
"""Writing what PyPI answered, in one transaction: projects, jobs, stale pages, documents, the watch list, and what is
settled by it. Knows no HTTP; what an answer means is feed_verdict's, how rows are made equal db/upstream's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection

from piwheels.db import changes, documents, upstream, watches
from piwheels.db.upstream import Sync
from piwheels.master.feed_verdict import Action, Verdict, judge, older
from piwheels.master.planner import Policy
from piwheels.pypi.pending import Emptied, Failed, Found, Gone, Hidden, Outcome, Pending, Unchanged


@dataclass(frozen=True, slots=True)
class Answered:
    """A project, and what became of asking for it."""

    pending: Pending
    outcome: Outcome

    @property
    def weight(self) -> int:
        """Roughly how many rows it is made of."""
        if not isinstance(self.outcome, Found):
            return 1
        return 1 + sum(1 + len(release.files) for release in self.outcome.project.releases)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator wants."""

    every: bool  #: build all releases, not only the latest
    policy: Policy
    disbelief: timedelta
    listed: bool  #: there is a watch list
    addresses: bool = False  #: keep where each of PyPI's files is


@dataclass(slots=True)
class Written:
    """What a transaction came to, in names of projects."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    doubted: list[str] = field(default_factory=list)
    settled: int = 0
    news: int = 0  #: projects that changes were recorded for


def write(conn: Connection, answered: Sequence[Answered], rules: Rules) -> Written:
    """Apply answers; each name at most once. Call it in a transaction of its own."""
    now = changes.now(conn)
    verdicts = {
        one.pending.name: judge(one.pending, one.outcome, now=now, disbelief=rules.disbelief) for one in answered
    }
    syncs = _sync(conn, answered, verdicts, rules)
    written = Written()
    for one in answered:
        name = one.pending.name
        if (sync := syncs.get(name)) is not None and sync.older:
            verdicts[name] = older(one.pending)
            written.older.append(name)
        if verdicts[name].action is Action.DELETE and upstream.delete_project(conn, name):
            written.deleted.append(name)
    written.added = [name for name, sync in syncs.items() if sync.added]
    written.changed = [name for name, sync in syncs.items() if sync.changed and not sync.added]
    _keep_documents(conn, answered, syncs)
    if rules.listed:
        written.news = watches.note_answers(conn, _seen(answered, syncs), every=rules.every, policy=rules.policy)
    _settle(conn, answered, verdicts, written)
    return written


def _sync(
    conn: Connection, answered: Sequence[Answered], verdicts: dict[str, Verdict], rules: Rules
) -> dict[str, Sync]:
    found = [one.outcome.project for one in answered if isinstance(one.outcome, Found)]
    forced = {name for name, verdict in verdicts.items() if verdict.action is Action.FORCE}
    syncs: dict[str, Sync] = {}
    if found:
        syncs = upstream.sync_projects(
            conn, found, every=rules.every, policy=rules.policy, forced=forced, addresses=rules.addresses
        )
    for one in answered:
        sync = _sync_other(conn, one, rules)
        if sync is not None:
            syncs[one.pending.name] = sync
    return syncs


def _sync_other(conn: Connection, one: Answered, rules: Rules) -> Sync | None:
    name, outcome = one.pending.name, one.outcome
    if isinstance(outcome, Hidden):
        return upstream.set_status(conn, name, outcome.status, outcome.reason, outcome.serial, policy=rules.policy)
    if isinstance(outcome, Emptied):
        head = (outcome.serial, outcome.status, outcome.reason)
        return upstream.empty_project(conn, name, *head, every=rules.every, policy=rules.policy)
    return None


def _keep_documents(conn: Connection, answered: Sequence[Answered], syncs: dict[str, Sync]) -> None:
    fresh = {
        sync.project_id: one.outcome.entry
        for one in answered
        if isinstance(one.outcome, Found)
        and one.outcome.entry is not None
        and (sync := syncs[one.pending.name]).changed
    }
    documents.keep(conn, fresh, new={sync.project_id for sync in syncs.values() if sync.added})


def _seen(answered: Sequence[Answered], syncs: dict[str, Sync]) -> dict[str, watches.Seen]:
    """The answers in the watch list's terms."""
    return {one.pending.name: _seen_one(one.outcome, syncs.get(one.pending.name)) for one in answered}


def _seen_one(outcome: Outcome, sync: Sync | None) -> watches.Seen:
    if isinstance(outcome, Found):
        # An older answer's ETag must not make us believe that we have the newer one.
        etag = None if sync is None or sync.older else outcome.etag
        return watches.Seen(there=True, etag=etag, requires=outcome.requires, changed=True)
    if isinstance(outcome, Unchanged):
        return watches.Seen(there=True)
    if isinstance(outcome, Gone | Emptied) and sync is None:
        return watches.Seen(there=False)
    if isinstance(outcome, Failed):
        return watches.Seen(there=False, trouble=outcome.words, away=outcome.away)
    return watches.Seen(there=True, changed=True)


def _settle(conn: Connection, answered: Sequence[Answered], verdicts: dict[str, Verdict], written: Written) -> None:
    done = []
    for one in answered:
        verdict = verdicts[one.pending.name]
        if verdict.again is None:
            done.append(one.pending)
            continue
        changes.postpone(conn, one.pending, verdict.again, doubted=verdict.doubted, demote=verdict.demote)
        if verdict.doubted:
            written.doubted.append(one.pending.name)
    changes.settle(conn, done)
    written.settled = len(done)
