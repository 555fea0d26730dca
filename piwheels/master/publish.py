# SPDX-License-Identifier: BSD-3-Clause
"""The publish role: renders stale pages, so that the site shows what the database says. Any number of them may run.

For a project, in this order: wheels are linked in, then their metadata, then the pages that list them are written;
only then is what no page lists any more removed. A reader therefore never meets a link to nothing, and a kill between
any two lines leaves a site that is right and a page that is still marked stale. What a page shows is decided in
piwheels.site; here are the order, the disk and the transaction.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine

from piwheels import faults
from piwheels.db import farm_pages, news, page_facts, pages
from piwheels.db.engine import Stopped, in_transaction, is_passing
from piwheels.db.wake import PAGES, Listener
from piwheels.errors import DatabaseError
from piwheels.master import log_pages, placing, publish_site
from piwheels.master.news_desk import NewsDesk
from piwheels.master.policy import policy_of
from piwheels.master.role import Context
from piwheels.master.store import Store
from piwheels.pypi.addresses import Addresses
from piwheels.settings import Settings
from piwheels.site import assets, changes, paths, project_files, simple, writer
from piwheels.site.facts import Link, News, SiteFacts
from piwheels.site.model import ProjectPage
from piwheels.site.text import clean
from piwheels.vocabulary import PageKind

logger = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 8  #: pages claimed at a time
POLL = 0.5  #: seconds between two looks at the table while nobody wakes us; debounced pages wait for this
LOOK = 2.0  #: seconds between two looks for pages about the farm that are due
LEAVE = 5.0  #: seconds that a page about the farm in hand is given to end, when told to
INDEX_FILES = frozenset(page + end for page in paths.INDEX_PAGES for end in ("", ".gz"))
STATIC_KEY = "static"  #: key of the lock under which the files that no row changes are written


def run(settings: Settings, context: Context) -> None:
    """The role's body: until told to stop."""
    publisher = Publisher(settings, context, kinds=frozenset(PageKind) - pages.BESIDE)
    publisher.start()
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
    failed: int = 0


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
        self.context = context
        self.worker = worker or context.name
        self.counts = Counts()
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
        for claim in claims:
            if self.context.stop.is_set():
                break
            self._publish(claim)
        if self.context.stop.is_set():
            with suppress(DatabaseError):  # they expire anyway
                self._transaction(lambda conn: pages.release_claims(conn, self.worker), deadline=1.0)
        if PageKind.PROJECT in self.kinds:
            self.context.report(rendered=self.counts.rendered, failed=self.counts.failed)
        return bool(claims)

    def mark_due(self) -> None:
        """Mark the pages about the farm whose rest is over."""
        self._transaction(farm_pages.mark_due)

    def _transaction(self, work: Callable[[Connection], T], *, deadline: float | None = None) -> T:
        stop = None if deadline else self.context.stop
        return in_transaction(self._engine, work, deadline=deadline, stop=stop)

    def _publish(self, claim: pages.Claim) -> None:
        """Render one page. What goes wrong with it is its own misfortune: it is tried again later, others go on."""
        begun = time.monotonic()
        try:
            done = self._transaction(lambda conn: self._render(conn, claim))
        except Stopped:
            raise
        except Exception as error:
            if isinstance(error, DatabaseError) or is_passing(error):
                raise
            self._note_failure(claim, error)
            return
        if done:
            self.counts.rendered += 1
            logger.debug("%s %s in %.1f ms", claim.kind, claim.key, (time.monotonic() - begun) * 1000)

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

    def _render(self, conn: Connection, claim: pages.Claim) -> bool:
        """Bring a page's files and rows in line, in one transaction; False: another worker is at it."""
        if not pages.lock(conn, claim.kind, claim.key):
            pages.put_back(conn, self.worker, claim)
            return False
        match claim.kind:
            case PageKind.PROJECT:
                self._project(conn, claim.key)
            case PageKind.ROOT:
                self._root(conn)
            case PageKind.CHANGES:
                self._news.write(conn)
            case _:
                publish_site.render(conn, claim.kind, self.site, self.output)
        faults.point("published")
        pages.finish(conn, self.worker, claim)
        return True

    # Projects

    def _project(self, conn: Connection, name: str) -> None:
        if not _is_canonical(name):
            logger.error("not a project's name: %r; nothing is published for it", name[:80])
            return
        facts = page_facts.load_project(conn, name, today=datetime.now(UTC).date())
        if facts is None:
            self._remove_project(conn, name)
            return
        page, refused = placing.place_wheels(conn, facts, output=self.output, store=self.store, policy=self.policy)
        faults.point("linked")
        self._write_project(page, refused, news.of_projects(conn, [name], limit=changes.ENTRIES)[name])
        changes_root = pages.note_published(conn, name, files=len(page.wheels))
        # These rows are everybody's, so they are touched last and their locks are held for a moment only.
        if changes_root:
            pages.mark_stale(conn, PageKind.ROOT, "", f"{name} {'listed' if page.wheels else 'not listed any more'}")
        pages.mark_stale(conn, PageKind.HOME, "", name)

    def _write_project(self, page: ProjectPage, refused: Collection[str], told: Sequence[News]) -> None:
        listed = simple.is_listed(page)
        if listed:
            as_html = simple.project_html(page)
            index = {
                paths.INDEX_V1_JSON: simple.project_json(page),
                paths.INDEX_V1_HTML: as_html,
                paths.INDEX_HTML: as_html,
            }
            writer.write_files(self.output / paths.simple_dir(page.name), index)
        else:
            self._remove_listing(page.name, refused)
        log_pages.write(self.output, page, self.site, self._log_mark)
        files = project_files.render(page, self.site, told)
        for path, data in files.items():
            writer.write_if_changed(self.output / path, data)
        directory = self.output / paths.project_dir(page.name)
        writer.remove_files(directory, lambda name: project_files.is_left_over(name, files))
        if listed:
            self._sweep(page, refused)

    def _sweep(self, page: ProjectPage, refused: Collection[str]) -> None:
        """Remove what no page lists any more, and what a killed writer left."""
        faults.point("unlisted")
        keep = placing.with_metadata({wheel.filename for wheel in page.wheels}.union(refused)).union(INDEX_FILES)
        removed = writer.remove_files(self.output / paths.simple_dir(page.name), lambda name: name not in keep)
        if removed:
            logger.info("%s: removed %s", page.name, ", ".join(removed[:10]))

    def _remove_listing(self, name: str, refused: Collection[str] = ()) -> None:
        """Remove a project's index: pages first, then the wheels, then the directory. A name that was refused to other
        bytes keeps its own, here as everywhere, or those would take it the next time."""
        directory = self.output / paths.simple_dir(name)
        if refused:
            keep = placing.with_metadata(refused)
            writer.remove_files(directory, INDEX_FILES.__contains__)
            faults.point("unlisted")
            writer.remove_files(directory, lambda name: name not in keep)
        elif not writer.remove_directory(directory, first=INDEX_FILES):
            logger.warning("%s holds something that is not ours; it is left there", directory)

    def _remove_project(self, conn: Connection, name: str) -> None:
        """Remove everything of a project that is not known any more."""
        self._remove_listing(name)
        for path in (paths.project_json(name).parent, paths.project_dir(name)):
            if not writer.remove_directory(self.output / path):
                logger.warning("%s holds something that is not ours; it is left there", self.output / path)
        if pages.note_removed(conn, name):
            pages.mark_stale(conn, PageKind.ROOT, "", f"{name} removed")
        pages.mark_stale(conn, PageKind.HOME, "", name)
        logger.info("%s is not known any more; its pages are removed", name)

    # What there is one of

    def _root(self, conn: Connection) -> None:
        names, serial = page_facts.load_root(conn)
        as_html = simple.root_html(names, serial=serial)
        index = {
            paths.INDEX_V1_JSON: simple.root_json(names, serial=serial),
            paths.INDEX_V1_HTML: as_html,
            paths.INDEX_HTML: as_html,
        }
        writer.write_files(self.output / paths.SIMPLE, index)

    def _write_static(self, conn: Connection) -> None:
        """Write what changes only with the program and its settings; see that there is a root."""
        if not pages.lock(conn, PageKind.HOME, STATIC_KEY):
            return  # another worker, of the same program and settings
        for path, data in assets.files(self.site).items():
            writer.write_if_changed(self.output / path, data)
        if not (self.output / paths.SIMPLE / paths.INDEX_V1_JSON).exists():
            pages.mark_stale(conn, PageKind.ROOT, "", "there was none")

    def _notice_new_look(self) -> None:
        """Have everything rendered again when the program or its settings would render it differently."""
        look = assets.look(self.site)
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
