# SPDX-License-Identifier: BSD-3-Clause
"""Making the metadata dump from the database: when asked, and in a thread that does it every so often.

What is in it, :mod:`piwheels.db.documents` knows; how it is written, :mod:`piwheels.site.dump`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TypeVar

from sqlalchemy import Engine

from piwheels.db import documents
from piwheels.db.engine import Stopped, describe, is_passing
from piwheels.errors import DatabaseError, PiwheelsError
from piwheels.master.publish import site_facts
from piwheels.master.role import Context
from piwheels.settings import Settings
from piwheels.site import dump
from piwheels.site.facts import DumpFacts
from piwheels.site.text import count, size
from piwheels.site.writer import PublishError

logger = logging.getLogger(__name__)

T = TypeVar("T")

SOON = 300.0  #: seconds until another try after a dump that failed, or that had nothing in it yet
REST = 10  #: at least so many times as long as a dump took nothing is done
LEAVE = 5.0  #: seconds that a dump in hand is given to end, when told to


def to_site(settings: Settings, engine: Engine, *, window: timedelta, stop: threading.Event | None = None) -> DumpFacts:
    """Write the dump of what changed within the window (none: of all) into the published tree, with its page.

    Raises DatabaseError, UnavailableError, PublishError; Stopped when ``stop`` is set meanwhile. The dump that is
    there then stays.
    """

    def work(entries: Iterable[bytes], made: datetime, since: datetime | None) -> DumpFacts:
        return dump.publish(settings.paths.output, site_facts(settings), entries, made=made, since=since)

    return _with_entries(engine, work, window=window, stop=stop)


def to_file(engine: Engine, path: Path, *, window: timedelta) -> DumpFacts:
    """Write it to a file. Raises as :func:`to_site` does."""

    def work(entries: Iterable[bytes], made: datetime, since: datetime | None) -> DumpFacts:
        return dump.write_file(path, entries, made=made, since=since)

    return _with_entries(engine, work, window=window)


def to_stream(engine: Engine, out: IO[bytes], *, window: timedelta) -> DumpFacts:
    """Write it to a pipe or the like. Raises DatabaseError, PublishError; BrokenPipeError when the reader left."""

    def work(entries: Iterable[bytes], made: datetime, since: datetime | None) -> DumpFacts:
        try:
            facts = dump.write(out, entries, made=made, since=since)
            out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise PublishError(f"the output cannot be written: {error.strerror or error}") from error
        return facts

    return _with_entries(engine, work, window=window)


Work = Callable[[Iterable[bytes], datetime, datetime | None], T]


def _with_entries(engine: Engine, work: Work[T], *, window: timedelta, stop: threading.Event | None = None) -> T:
    made = datetime.now(UTC).replace(microsecond=0)
    since = made - window if window else None
    with _entries(engine, since, stop or threading.Event()) as entries:
        return work(entries, made, since)


@contextmanager
def _entries(engine: Engine, since: datetime | None, stop: threading.Event) -> Iterator[Iterator[bytes]]:
    """The entries, from one transaction. A dump begins anew rather than going on with another, so it is tried once."""
    try:
        with engine.begin() as conn:
            yield _until(stop, documents.stream(conn, since=since))
    except Exception as error:
        if not is_passing(error):
            raise
        raise DatabaseError(f"the database cannot be used: {describe(error)}") from error


def _until(stop: threading.Event, found: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    for _, entry in found:
        if stop.is_set():
            raise Stopped("stopped while the metadata dump was made")
        yield entry


def words(facts: DumpFacts, *, seconds: float) -> str:
    """What was done, for the log."""
    return f"{count(facts.packages)} packages, {size(facts.size)} ({size(facts.unpacked)} unpacked), in {seconds:.1f} s"


class Dumper:
    """Makes the dump whenever it is due, in a thread of its own, and says so in the role's state."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._rest = settings.dump.interval.total_seconds()
        self._thread = threading.Thread(target=self._run, name="dump", daemon=True)

    def start(self) -> None:
        """Begin, unless there are to be no dumps."""
        if self._settings.dump.interval:
            self._thread.start()

    def join(self) -> None:
        """Wait for its end; the context's stop has been set."""
        if self._thread.ident is not None:
            self._thread.join(LEAVE)

    def _run(self) -> None:
        wait = self._first()
        while not self._context.stop.wait(wait):
            wait = self._make()

    def _first(self) -> float:
        """Seconds until the first is due. A dump of the future (the clock went back) makes nobody wait longer."""
        facts = dump.last(self._settings.paths.output)
        if facts is None or not facts.packages:
            return 0.0
        try:
            dump.describe(self._settings.paths.output, site_facts(self._settings), facts)  # the look may be new
        except OSError as error:
            logger.warning("the page of the metadata dump cannot be written: %s", error)
        age = (datetime.now(UTC) - facts.made).total_seconds()
        return min(max(self._rest - age, 0.0), self._rest)

    def _make(self) -> float:
        """Make one; seconds until the next."""
        begun = time.monotonic()
        try:
            facts = to_site(
                self._settings, self._context.engine, window=self._settings.dump.window, stop=self._context.stop
            )
        except Stopped:
            return 0.0
        except PiwheelsError as error:
            logger.warning("no metadata dump: %s; trying again in %.0f s", error, min(self._rest, SOON))
            return min(self._rest, SOON)
        except Exception:
            logger.exception("a fault in piwheels itself; no metadata dump")
            return min(self._rest, SOON)
        took = time.monotonic() - begun
        logger.info("metadata dump: %s", words(facts, seconds=took))
        self._context.report(dumped=facts.made.isoformat(), dump_packages=facts.packages, dump_bytes=facts.size)
        return max(self._rest if facts.packages else min(self._rest, SOON), REST * took)
