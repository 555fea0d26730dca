# SPDX-License-Identifier: BSD-3-Clause
"""The publish role: renders stale pages, so that the site shows what the database says. Any number of them may run.

For a project, in this order: wheels are linked in, then their metadata, then the pages that list them are written;
only then is what no page lists any more removed. A reader therefore never meets a link to nothing, and a kill between
any two lines leaves a site that is right and a page that is still marked stale. What a page shows is decided in
piwheels.site; here are the order, the disk and the transaction.
"""

import gc
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from sqlalchemy import Connection, Engine

from piwheels import faults
from piwheels.db import farm_pages, news, page_facts, page_rows, pages, recipes
from piwheels.db import targets as target_rows
from piwheels.db.engine import Stopped, in_transaction, is_passing
from piwheels.db.wake import PAGES, Listener
from piwheels.errors import DatabaseError
from piwheels.master import log_pages, placing, publish_site
from piwheels.master.news_desk import NewsDesk
from piwheels.master.page_locks import PageLocks
from piwheels.master.policy import policy_of
from piwheels.master.recipes import Book
from piwheels.master.role import Context
from piwheels.master.store import Store
from piwheels.master.targets import Target
from piwheels.master.verdicts import Verdicts, verdicts_of
from piwheels.pypi.addresses import Addresses
from piwheels.settings import Settings
from piwheels.site import assets, changes, paths, project_files, simple, writer
from piwheels.site.facts import MAIN, Link, News, SiteFacts
from piwheels.site.text import clean
from piwheels.vocabulary import PageKind

logger = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 32  #: pages claimed at a time
RESTS = 30  #: times as long as writing a list of projects took, it rests
SHORTEST_REST = 1.0  #: seconds
POLL = 0.5  #: seconds between two looks at the table while nobody wakes us; debounced pages wait for this
LOOK = 2.0  #: seconds between two looks for pages about the farm that are due
LEAVE = 5.0  #: seconds that a page about the farm in hand is given to end, when told to
INDEX_FILES = frozenset(page + end for page in paths.INDEX_PAGES for end in ("", *writer.TWINS))
STATIC_KEY = "static"  #: key of the lock under which the files that no row changes are written


def run(settings: Settings, context: Context) -> None:
    """The role's body: until told to stop."""
    publisher = Publisher(settings, context, kinds=frozenset(PageKind) - pages.BESIDE)
    publisher.start()
    spare_the_collector()
    beside = FarmPages(Publisher(settings, context, kinds=pages.BESIDE, worker=f"{context.name} beside"))
    beside.start()
    listener = Listener(settings.database, PAGES, name=f"{context.name} listener")
    try:
        while not context.stop.is_set():
            if beside.fault is not None:
                raise beside.fault
            if not publisher.step():
                listener.wait(POLL)
    finally:
        listener.close()
        context.stop.set()  # on the way out by an error it is not set yet
        beside.join(LEAVE)


def spare_the_collector() -> None:
    """Have Python look for garbage in cycles less often: pages are made of many small things, which leave none, and
    looking through them took a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def site_facts(settings: Settings) -> SiteFacts:
    """What pages know of the farm."""
    return SiteFacts(
        name=clean(settings.farm.name),
        base_url=settings.farm.base_url.rstrip("/"),
        contact=clean(settings.farm.contact),
        pypi_project_url=f"{Addresses.of(settings.upstream.simple_url).root}project/",
        dump=bool(settings.dump.interval),
        links=tuple(Link(clean(name), url) for name, _, url in (one.partition("=") for one in settings.farm.links)),
        overrides=settings.publish.overrides,
        styles=assets.own_styles(settings.publish.overrides),
    )


@dataclass(slots=True)
class Counts:
    """What this process did since it started."""

    rendered: int = 0
    skipped: int = 0  #: projects that were marked, though what their pages are made of was the same
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Stand:
    """What the pages of all projects depend on, beside their own rows."""

    targets: tuple[Target, ...]
    book: Book
    verdicts: Verdicts
    look: str
    spaces: tuple[str, ...]  #: distributions that have an index of their own
    unused: tuple[str, ...]  #: the others

    @property
    def mark(self) -> str:
        """Changes with it, but for the recipes: of these each project has its own."""
        return f"{self.targets!r} {self.look} {self.spaces}"


class Publisher:
    """One publishing process. Every method that is given a connection runs in a transaction that may be repeated."""

    def __init__(
        self,
        settings: Settings,
        context: Context,
        *,
        kinds: Collection[PageKind] = frozenset(PageKind),
        worker: str = "",
    ) -> None:
        self.kinds = kinds  #: what it renders
        self.site = site_facts(settings)
        self.output = settings.paths.output
        self.store = Store(settings.paths.store)
        self.policy = policy_of(settings)
        self.distributions = settings.publish.distributions
        self.longest_rest = settings.publish.listing_interval.total_seconds()
        self.merged = settings.publish.all_index == "yes"
        self._look = f"{assets.look(self.site)} {self.distributions} {self.merged}"
        self.context = context
        self.worker = worker or context.name
        self.counts = Counts()
        self._locks = PageLocks(settings.paths.store)
        self._news = NewsDesk(self.output, self.site)
        self._log_mark = log_pages.mark_of(assets.look(self.site))
        self._engine: Engine = context.engine

    def start(self) -> None:
        """Take up what an earlier process of this name left, and write the files that no row changes."""
        left = self._transaction(lambda conn: pages.release_claims(conn, self.worker))
        if left:
            logger.info("%d pages were in hand when an earlier %s ended; they are done again", left, self.worker)
        self._transaction(self._write_static)
        self._notice_new_look()

    def step(self) -> bool:
        """Render a batch of stale pages; whether there were any."""
        if PageKind.CHANGES in self.kinds:
            self._news.look(self._transaction)
        claims = self._transaction(lambda conn: pages.claim(conn, self.worker, limit=BATCH, kinds=self.kinds))
        self._publish([claim for claim in claims if claim.kind is PageKind.PROJECT])
        for claim in claims:
            if claim.kind is not PageKind.PROJECT:
                self._publish([claim])
        if self.context.stop.is_set():
            with suppress(DatabaseError):  # they expire anyway
                self._transaction(lambda conn: pages.release_claims(conn, self.worker), deadline=1.0)
        if PageKind.PROJECT in self.kinds:
            counts = self.counts
            self.context.report(rendered=counts.rendered, skipped=counts.skipped, failed=counts.failed)
        return bool(claims)

    def mark_due(self) -> None:
        """Mark the pages about the farm whose rest is over."""
        self._transaction(farm_pages.mark_due)

    def _transaction(self, work: Callable[[Connection], T], *, deadline: float | None = None) -> T:
        stop = None if deadline else self.context.stop
        return in_transaction(self._engine, work, deadline=deadline, stop=stop)

    def _publish(self, claims: Sequence[pages.Claim]) -> None:
        """Render pages of one kind together. Should something go wrong, each is rendered by itself, so that it is the
        misfortune of one alone: that is tried again later, and others go on."""
        if not claims or self.context.stop.is_set():
            return
        begun = time.monotonic()
        kind = claims[0].kind
        try:
            with self._locks.hold(kind, [claim.key for claim in claims]) as free:
                done = self._transaction(lambda conn: self._render(conn, claims, free))
        except Stopped:
            raise
        except Exception as error:
            if isinstance(error, DatabaseError) or is_passing(error):
                raise
            if len(claims) > 1:
                for claim in claims:
                    self._publish([claim])
            else:
                self._note_failure(claims[0], error)
            return
        self.counts.rendered += done.rendered
        self.counts.skipped += done.skipped
        names = ", ".join(claim.key or claim.kind.value for claim in claims)
        logger.debug("%d pages in %.1f ms: %s", done.rendered, (time.monotonic() - begun) * 1000, names)

    def _note_failure(self, claim: pages.Claim, error: Exception) -> None:
        self.counts.failed += 1
        why = f"{type(error).__name__}: {error}"
        wait = self._transaction(lambda conn: pages.failed(conn, self.worker, claim, why))
        # A disk that is full says the same for each page; the first of each page gets the traceback.
        logger.error(
            "cannot publish %s %s: %s; trying again in %.0f s",
            claim.kind,
            claim.key or "page",
            why,
            wait.total_seconds(),
            exc_info=error if claim.attempts == 0 and not isinstance(error, OSError) else None,
        )

    def _render(self, conn: Connection, claims: Sequence[pages.Claim], free: Collection[str]) -> Counts:
        """Bring pages' files and rows in line, in one transaction; but for those that another worker is at. ``free``:
        those that no other process here is at."""
        kind = claims[0].kind
        free = pages.lock(conn, kind, [claim.key for claim in claims if claim.key in free])
        pages.put_back(conn, self.worker, [claim for claim in claims if claim.key not in free])
        mine = [claim for claim in claims if claim.key in free]
        done = Counts(rendered=len(mine))
        match kind:
            case PageKind.PROJECT:
                done = self._projects(conn, [claim.key for claim in mine])
            case PageKind.ROOT if mine:
                for claim in mine:
                    self._root(conn, claim.key)
            case PageKind.CHANGES if mine:
                self._news.write(conn)
            case _ if mine:
                publish_site.render(conn, kind, self.site, self.output)
        faults.point("published")
        pages.finish(conn, self.worker, mine)
        return done

    # Projects

    def _projects(self, conn: Connection, names: Sequence[str]) -> Counts:
        """Publish projects: their wheels, then all their pages together, then what is noted of them."""
        for name in names:
            if not _is_canonical(name):
                logger.error("not a project's name: %r; nothing is published for it", name[:80])
        names = [name for name in names if _is_canonical(name)]
        stand = self._stand(conn)
        found = page_rows.read(conn, names, today=datetime.now(UTC).date(), addresses=self.merged)
        before = pages.published_facts(conn, names)
        told = news.of_projects(conn, names, limit=changes.ENTRIES)
        marks = {
            name: rows.fingerprint(stand.mark, stand.book.effective(name), told[name]) for name, rows in found.items()
        }
        stale = [name for name in found if before.get(name) != marks[name] or not self._has_pages(name)]
        page_rows.read_rest(conn, [found[name] for name in stale])
        self._doubt([name for name in names if name in before and (name in stale or name not in found)])
        placed = {name: self._place_wheels(conn, found[name], stand) for name in stale}
        for name in stale:
            for space in (*stand.unused, *(() if self.merged else (paths.MERGED,))):  # that were switched off
                self._remove_listing(self.output / paths.simple_dir(name, space))
        faults.point("linked")
        self._write_projects([(one, told[name]) for name, one in placed.items()])
        spaces = pages.note_published(
            conn,
            [
                pages.Noted(name, len(one.page.wheels), marks[name] if one.settled else None, _spaces(one))
                for name, one in placed.items()
            ],
        )
        removed = [name for name in names if name not in found]
        for name in removed:
            self._remove_project(name, stand)
        if removed:
            spaces |= pages.note_removed(conn, removed)
        # These rows are everybody's, so they are touched last and their locks are held for a moment only.
        if spaces:
            pages.mark_all_stale(conn, PageKind.ROOT, sorted(spaces), "projects came or went")
        if placed or removed:
            pages.mark_stale(conn, PageKind.HOME, "", (stale or removed)[0])
        return Counts(rendered=len(placed) + len(removed), skipped=len(found) - len(placed))

    def _doubt(self, names: Sequence[str]) -> None:
        """Have it known, before anything of these projects is written, that what is on the site may be anything: should
        this not come to its end, whoever is next writes all of it, though the rows be what they were before."""
        if names:
            with self._engine.begin() as conn:  # beside the transaction in which we are; it is tried again with that
                pages.forget(conn, names)

    def _stand(self, conn: Connection) -> "Stand":
        """What all projects' pages depend on."""
        targets, mark = target_rows.read(conn, recipes.MARK)
        known = sorted({target.distribution for target in targets} - {MAIN})
        wanted = len(known) > 1 if self.distributions == "auto" else self.distributions == "yes"
        return Stand(
            targets,
            recipes.book(conn, mark=mark or ""),
            verdicts_of(targets, self.policy),
            self._look,
            spaces=tuple(known) if wanted else (),
            unused=() if wanted else tuple(known),
        )

    def _has_pages(self, name: str) -> bool:
        """Whether the site has pages of a project at all: somebody may have emptied it."""
        return (self.output / paths.project_page(name)).exists()

    def _place_wheels(self, conn: Connection, rows: page_rows.ProjectRows, stand: "Stand") -> placing.Placed:
        recipe = stand.book.effective(rows.head[1])
        return placing.place_wheels(
            conn,
            page_facts.project_facts(rows, stand.targets, recipe),
            page_facts.project_verdicts(rows, recipe, stand.verdicts),
            stand.targets,
            spaces=stand.spaces,
            upstream=page_facts.project_upstream(rows) if self.merged else None,
            output=self.output,
            store=self.store,
        )

    def _write_projects(self, placed: Sequence[tuple[placing.Placed, Sequence[News]]]) -> None:
        batch = writer.Batch()
        shown: list[Mapping[PurePosixPath, bytes]] = []
        for one, told in placed:
            log_pages.write(self.output, one.page, self.site, self._log_mark)
            for space, index in one.indexes.items():
                directory = self.output / paths.simple_dir(one.page.name, space)
                if index.listing is not None:
                    as_html = simple.project_html(one.page, index.listing)
                    files = {
                        paths.INDEX_V1_JSON: simple.project_json(one.page, index.listing),
                        paths.INDEX_V1_HTML: as_html,
                        paths.INDEX_HTML: as_html,
                    }
                    batch.add(directory, files)
            shown.append(project_files.render(one.page, self.site, told))
            for folder, by_name in _by_directory(shown[-1]).items():
                batch.add(self.output / folder, by_name)
        batch.write()
        for (one, _), written in zip(placed, shown, strict=True):
            is_left_over = partial(project_files.is_left_over, written=written.keys())
            writer.remove_files(self.output / paths.project_dir(one.page.name), is_left_over)
            for space, index in one.indexes.items():
                directory = self.output / paths.simple_dir(one.page.name, space)
                if index.listing is not None:
                    self._sweep(directory, index)
                else:
                    self._remove_listing(directory, index.refused)

    def _sweep(self, directory: Path, index: placing.Index) -> None:
        """Remove what no page lists any more, and what a killed writer left."""
        faults.point("unlisted")
        keep = placing.with_metadata(index.wheels.union(index.refused)).union(INDEX_FILES)
        removed = writer.remove_files(directory, lambda name: name not in keep)
        if removed:
            logger.info("%s: removed %s", directory, ", ".join(removed[:10]))

    def _remove_listing(self, directory: Path, refused: Collection[str] = ()) -> None:
        """Remove a project's index: pages first, then the wheels, then the directory. A name that was refused to other
        bytes keeps its own, here as everywhere, or those would take it the next time."""
        if refused:
            keep = placing.with_metadata(refused)
            writer.remove_files(directory, INDEX_FILES.__contains__)
            faults.point("unlisted")
            writer.remove_files(directory, lambda name: name not in keep)
        elif not writer.remove_directory(directory, first=INDEX_FILES):
            logger.warning("%s holds something that is not ours; it is left there", directory)

    def _remove_project(self, name: str, stand: "Stand") -> None:
        """Remove everything of a project that is not known any more."""
        for space in (paths.MERGED, MAIN, *stand.spaces, *stand.unused):
            self._remove_listing(self.output / paths.simple_dir(name, space))
        for path in (paths.project_json(name).parent, paths.project_dir(name)):
            if not writer.remove_directory(self.output / path):
                logger.warning("%s holds something that is not ours; it is left there", self.output / path)
        logger.info("%s is not known any more; its pages are removed", name)

    # What there is one of

    def _root(self, conn: Connection, space: str) -> None:
        """Write the list of an index's projects, and let it rest: a long one takes seconds."""
        begun = time.monotonic()
        directory = self.output / paths.index_dir(space)
        if not (space == MAIN or (self.merged if space == paths.MERGED else space in self._stand(conn).spaces)):
            if not (
                writer.remove_directory(directory, first=INDEX_FILES) and writer.remove_directory(directory.parent)
            ):
                logger.warning("%s holds something that is not ours; it is left there", directory)
            return
        names = page_facts.listed_names(conn, space)
        others = (paths.INDEX_V1_HTML, paths.INDEX_HTML)
        with writer.streams(directory, (paths.INDEX_V1_JSON,), others) as (as_json, as_html):
            for json_part, html_part in simple.root(names, serial=page_facts.newest_serial(conn)):
                as_json.write(json_part)
                as_html.write(html_part)
        took = time.monotonic() - begun
        pages.rest(conn, space, seconds=min(max(RESTS * took, SHORTEST_REST), self.longest_rest))

    def _write_static(self, conn: Connection) -> None:
        """Write what changes only with the program and its settings; see that there is a root."""
        if not pages.lock(conn, PageKind.HOME, [STATIC_KEY]):
            return  # another worker, of the same program and settings
        for path, data in assets.files(self.site).items():
            writer.write_if_changed(self.output / path, data)
        if not (self.output / paths.SIMPLE / paths.INDEX_V1_JSON).exists():
            pages.mark_stale(conn, PageKind.ROOT, "", "there was none")

    def _notice_new_look(self) -> None:
        """Have everything rendered again when the program or its settings would render it differently."""
        look = self._look
        if self._transaction(pages.rendered_with) == look:
            return
        marked, after = 0, ""
        while batch := self._transaction(partial(pages.mark_published, after=after)):
            marked, after = marked + len(batch), batch[-1]
        self._transaction(lambda conn: pages.note_rendered_with(conn, look))
        if marked:
            logger.info("pages have a new look: %d projects are rendered again", marked)


class FarmPages(threading.Thread):
    """Renders the pages about the farm as they become due, beside the publisher, which nothing is to hold up."""

    def __init__(self, publisher: Publisher) -> None:
        super().__init__(name="farm pages", daemon=True)
        self.fault: BaseException | None = None  #: what it ended with, for the role to end with too
        self._publisher = publisher

    def run(self) -> None:
        """Until the role is told to stop."""
        try:
            while not self._publisher.context.stop.is_set():
                self._publisher.mark_due()
                self._publisher.step()
                self._publisher.context.stop.wait(LOOK)
        except Stopped:
            pass
        except BaseException as error:
            self.fault = error


def _is_canonical(name: str) -> bool:
    try:
        paths.check_project(name)
    except ValueError:
        return False
    return True


def _spaces(placed: placing.Placed) -> tuple[str, ...]:
    return tuple(space for space, index in placed.indexes.items() if index.listing is not None)


def _by_directory(files: Mapping[PurePosixPath, bytes]) -> dict[PurePosixPath, dict[str, bytes]]:
    found: dict[PurePosixPath, dict[str, bytes]] = defaultdict(dict)
    for path, data in files.items():
        found[path.parent][path.name] = data
    return found
