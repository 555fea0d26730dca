# SPDX-License-Identifier: BSD-3-Clause
"""Recorded histories of the simulator, and one follower's way through one of them: heard in pieces, out of order and
twice, asked through caches that lag, killed anywhere. At the level of the database, so that thousands take a minute.

What is real: interpret, changes, survey, fetch, judge, write. What is not: HTTP, the clock (rows that wait are made
ready by hand), and the commit (each transaction is a savepoint, a kill is its end without a commit).
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select, update

from piwheels.db import changes, survey, upstream
from piwheels.db.tables import changes as change_table
from piwheels.db.tables import jobs, pages, projects, releases
from piwheels.db.tables import targets as target_table
from piwheels.errors import UpstreamMissing
from piwheels.master.feed_fetch import fetch
from piwheels.master.feed_write import Answered, Rules, write
from piwheels.master.planner import Policy
from piwheels.pypi.client import Answer, Page
from piwheels.pypi.entry import entry_of, requires_of
from piwheels.pypi.interpret import interpret
from piwheels.pypi.journal import Event
from piwheels.pypi.listing import Listing
from piwheels.pypi.model import UpstreamUnusable, parse_project
from piwheels.pypi.page import read_json
from piwheels.pypi.pending import Pending, Priority
from piwheels.pypi.weather import UpstreamAway
from tests.integration.feed_world import expected, facts, ours
from tests.simulator import documents
from tests.simulator.history import History
from tests.simulator.script import Step, play_step
from tests.simulator.things import Project

T = TypeVar("T")

ROOT = "http://pypi.invalid/"
RULES = Rules(every=True, policy=Policy(), disbelief=timedelta(hours=24), listed=False)
LAG = 6  #: moments that a cache may be behind


class Recording:
    """A history, and what PyPI was like at each of its moments."""

    def __init__(self, name: str, steps: Iterable[Step]) -> None:
        self.name = name
        self.history = History()
        self.first = self.history.serial
        self.moments = [self.first]  #: serials between which nobody sees anything
        self._states: dict[str, list[tuple[int, Project | None]]] = {}
        for step in steps:
            play_step(self.history, step)
            if self.history.serial > self.moments[-1]:
                self._note(self.history.last_change[0])
        self.events = [Event(e.name, e.version, e.time, e.action, e.serial) for e in self.history.events]
        self.answer = cache(self._answer)
        self.page = cache(self._page)

    def _note(self, name: str) -> None:
        self.moments.append(self.history.serial)
        found = self.history.find(name)
        state = found.snapshot() if found is not None else None
        self._states.setdefault(name, []).append((self.history.serial, state))

    @property
    def projects(self) -> int:
        """How many there have been."""
        return len(self._states)

    @property
    def last(self) -> int:
        return self.moments[-1]

    def state(self, name: str, at: int) -> Project | None:
        """A project at a moment."""
        states = self._states.get(name, [])
        number = bisect_right(states, at, key=lambda one: one[0])
        return states[number - 1][1] if number else None

    def states_since(self, name: str, serial: int) -> list[Project | None]:
        """What a project was at that moment and has been since."""
        later = [state for when, state in self._states.get(name, []) if when > serial]
        return [self.state(name, serial), *later]

    def heard(self, after: int, upto: int) -> list[Event]:
        """The events between two moments."""
        start, end = (bisect_right(self.events, serial, key=lambda event: event.serial) for serial in (after, upto))
        return self.events[start:end]

    def last_events(self, upto: int) -> dict[str, int]:
        """Each project's last serial that is not above this one."""
        found: dict[str, int] = {}
        for event in self.heard(self.first, upto):
            found[_canonical(event.name)] = event.serial
        return found

    def listing(self, at: int) -> Listing:
        """All projects at a moment."""
        states = {name: self.state(name, at) for name in self._states}
        listed = {name: one.serial for name, one in states.items() if one is not None and one.status != "quarantined"}
        return Listing(listed, at, etag="", refused=0)

    def _answer(self, name: str, at: int, quarantine: str, empty: str, urls: str) -> Answer | None:
        state = self.state(name, at)
        if state is None or (state.status == "quarantined" and quarantine == "missing"):
            return None
        if not state.versions and empty == "missing":
            return None
        document = documents.project_json(state, files_url=f"{ROOT}files/", urls=urls)
        return Answer(parse_project(document, name=name), "", entry_of(document), requires_of(document))

    def _page(self, name: str, at: int) -> Page | None:
        state = self.state(name, at)
        if state is None:
            return None
        body = json.dumps(documents.detail(state, files_url=f"{ROOT}files/")).encode()
        return read_json(body, name=name, url=f"{ROOT}simple/{name}/", serial=state.serial)


@cache
def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


class Caches:
    """PyPI as a follower sees it, through caches that lag and lines that break; stands in for the client."""

    def __init__(self, recording: Recording, rng: Random) -> None:
        self.recording, self._rng = recording, rng
        self.now = recording.first
        self.lag = self.trouble = 0.0  #: how often an answer is old, how often it is none
        self.vanish = 0.0  #: how often it is 404 whatever there is
        self._quarantine = rng.choice(["missing", "kept"])
        self._empty = rng.choice(["missing", "kept"])
        self._urls = rng.choice(["absolute"] * 5 + ["absent"])

    async def ask(self, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As the gate has it, which is always open here."""
        return await request()

    async def project(self, name: str, *, etag: str = "") -> Answer:
        found = self.recording.answer(name, self._moment(), self._quarantine, self._empty, self._urls)
        if found is None:
            raise UpstreamMissing(name)
        return found

    async def page(self, name: str) -> Page:
        found = self.recording.page(name, self._moment())
        if found is None:
            raise UpstreamMissing(name)
        return found

    def old_moment(self) -> int:
        """Some moment that a cache may still show."""
        moments = self.recording.moments
        number = moments.index(self.now)
        return moments[self._rng.randint(max(0, number - LAG), number)]

    def _moment(self) -> int:
        if self._rng.random() < self.trouble:
            raise self._rng.choice([UpstreamAway("broken off"), UpstreamUnusable("an HTML page")])
        if self._rng.random() < self.vanish:
            return self.recording.first
        return self.old_moment() if self._rng.random() < self.lag else self.now


class Follower:
    """A feed's state between two transactions, which is lost when it is killed, and its rows, which are not."""

    def __init__(self, conn: Connection, pypi: Caches, rng: Random) -> None:
        self.conn, self.pypi, self.rng = conn, pypi, rng
        self.recording = pypi.recording
        self.story: list[str] = []
        self.kill_rate = 0.0
        self._names: list[Pending] = []
        self._answers: list[Answered] = []

    # Transactions, which a kill may end

    def _transaction(self, work: Callable[[Connection], T]) -> T | None:
        """None: killed before the commit."""
        savepoint = self.conn.begin_nested()
        found = work(self.conn)
        fate = self.rng.random()
        if fate < self.kill_rate:
            savepoint.rollback()
            self.die()
            return None
        savepoint.commit()
        if fate > 1 - self.kill_rate / 2:
            self.die()
        return found

    def die(self) -> None:
        """kill -9."""
        self._say("killed")
        self._names.clear()
        self._answers.clear()

    def _say(self, words: str) -> None:
        self.story.append(words)

    # Hearing

    def position(self) -> int:
        return changes.position(self.conn) or 0

    def hear(self, events: Sequence[Event], *, after: int) -> None:
        """An answer of the journal's."""
        self._say(f"hears {[event.serial for event in events]}")
        reading = interpret(events, after=after)

        def work(conn: Connection) -> None:
            changes.record(conn, reading.changes, Priority.NEWS)
            changes.advance(conn, reading.upto, source="journal")

        self._transaction(work)

    def compare(self, listing: Listing, *, live: bool) -> None:
        """An answer of the index's."""
        self._say(f"compares with the listing of {listing.last_serial}{', which it follows' if live else ''}")
        self._transaction(lambda conn: survey.note(conn, listing, restricted=False, live=live))

    # Asking

    def take(self, most: int = 100) -> int:
        """Names to ask for; how many there were."""
        busy = [one.name for one in self._names] + [one.pending.name for one in self._answers]
        taken = changes.take(self.conn, dict.fromkeys(Priority, most), busy=busy)
        self._say(f"takes {[one.name for one in taken]}")
        self._names += taken
        return len(taken)

    def ask(self, most: int = 100) -> None:
        """Some of the names in hand."""
        self.rng.shuffle(self._names)
        for _ in range(min(most, len(self._names))):
            pending = self._names.pop()
            outcome = drive(fetch(self.pypi, self.pypi, pending, self._known_links))  # type: ignore[arg-type]
            self._say(f"asks for {pending.name}: {type(outcome).__name__} {_serial_of(outcome)}")
            self._answers.append(Answered(pending, outcome))

    async def _known_links(self, name: str) -> Any:
        return upstream.known_links(self.conn, name)

    def write(self, most: int = 100) -> None:
        """Some of the answers in hand."""
        batch, self._answers = self._answers[:most], self._answers[most:]
        if batch:
            self._say(f"writes {[one.pending.name for one in batch]}")
            self._transaction(lambda conn: write(conn, batch, RULES))

    def wait(self, passed: timedelta = timedelta(0)) -> None:
        """Until everything that was put off is due again; what is doubted has been so for longer then."""
        since = change_table.c.doubted_since - passed
        self.conn.execute(update(change_table).values(ready_at=func.now(), doubted_since=since))

    def finish(self) -> None:
        """With PyPI at its best: until nothing is left to ask."""
        self.pypi.lag = self.pypi.vanish = self.pypi.trouble = self.kill_rate = 0.0
        self._say("nothing goes wrong any more")
        for _ in range(4):
            self.ask()
            self.write()
            self.wait(timedelta(minutes=11))
            if not self.take():
                return
        left = self.conn.execute(select(change_table)).all()
        raise AssertionError(f"there is no end to asking for {left}")

    # What came of it

    def check_position(self) -> None:
        """What is said to be applied is."""
        applied = changes.applied(self.conn)
        assert applied <= self.position() <= self.recording.last
        rows = {row.name: row.serial for row in self.conn.execute(select(projects.c.name, projects.c.serial))}
        for name, serial in self.recording.last_events(applied).items():
            if name in rows:
                assert rows[name] >= serial, f"{name} is at {rows[name]}, and {applied} is said to be applied"
            else:
                states = self.recording.states_since(name, serial)
                assert any(_is_nothing(state) for state in states), f"{name} is missing, {applied} said to be applied"

    def check_end(self, reference: dict[str, Any] | None = None) -> None:
        """All is as it is at PyPI, and as with one who read it all at once."""
        found = ours(self.conn)
        differing = different(found, expected(self.recording.history.truth(), found))
        assert not differing, f"ours and theirs: {differing}"
        assert changes.applied(self.conn) == self.position()
        assert set(found) <= set(self.conn.scalars(select(pages.c.key)))
        for name, one in everything(self.conn).items() if reference is not None else ():
            if found[name].releases and found[name].status != "quarantined":
                theirs = reference[name]
                mine, other = ([x for x in a if x not in b] for a, b in ((one, theirs), (theirs, one)))
                assert one == theirs, f"{name} has {mine}, and read at once {other}"


def everything(conn: Connection) -> dict[str, Any]:
    """All that follows from PyPI's truth, by project: rows, and what is to be built."""
    found: dict[str, Any] = {}
    for row in conn.execute(facts()):
        found.setdefault(row.name, []).append(tuple(row))
    query = (
        select(projects.c.name, releases.c.version, target_table.c.name.label("target"))
        .join(releases, releases.c.project_id == projects.c.id)
        .join(jobs, jobs.c.release_id == releases.c.id)
        .join(target_table, target_table.c.id == jobs.c.target_id)
        .order_by(projects.c.name, releases.c.version, target_table.c.name)
    )
    for row in conn.execute(query):
        found[row.name].append((row.version, row.target))
    return found


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


def different(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not the same, in both forms."""
    names = sorted({*ours, *theirs})
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def _is_nothing(state: Project | None) -> bool:
    """Whether a project in this state is none to us."""
    return state is None or state.status == "quarantined" or not replace(state, status="active").on_page()


def _serial_of(outcome: Any) -> int:
    return getattr(getattr(outcome, "project", outcome), "serial", 0)
