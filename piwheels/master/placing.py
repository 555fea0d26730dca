# SPDX-License-Identifier: BSD-3-Clause
"""Wheels in the published tree: which of a project's wheels may be listed, linked in beside their metadata.

Wheels are durable before their metadata, and both before this returns, so that whoever writes a page afterwards lists
nothing that is not there. Removing what no page lists any more is the publisher's (master/publish); which wheel has a
name is in the rows (db/names) and piwheels.site.model's to read. The disk is asked only where a name is there already:
a database that was restored from a backup knows less than the tree does, and the tree is what has been seen.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from sqlalchemy import Connection

from piwheels.db import names
from piwheels.durable import sync_directory
from piwheels.master.store import Store
from piwheels.master.targets import Target
from piwheels.site import merged, paths, simple, writer
from piwheels.site.facts import MAIN, FileFacts, ProjectFacts
from piwheels.site.merged import Upstream
from piwheels.site.model import ProjectPage, Verdicts, choose_files, fit_name, project_page, space_page
from piwheels.site.simple import Listing
from piwheels.vocabulary import ProjectStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Index:
    """A project in one of the indexes."""

    listing: Listing | None  #: what its page lists, only such wheels as are in place; None: it is to have no page
    wheels: frozenset[str]  #: names that are in its directory
    refused: Collection[str] = ()  #: names there that wheels did not get, as they stand for other bytes


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of a project's wheels."""

    page: ProjectPage  #: what its own pages show
    indexes: Mapping[str, Index]  #: by space, in the order in which they are to lose what they lose
    settled: bool  #: nothing is left that another rendering would do, though no row changed


def place_wheels(
    conn: Connection,
    facts: ProjectFacts,
    verdicts: Verdicts,
    targets: Sequence[Target],
    *,
    spaces: Sequence[str],
    upstream: Upstream | None,
    output: Path,
    store: Store,
) -> Placed:
    """Put a project's wheels in place, in the main index and in those of these distributions. ``upstream``: PyPI's
    files, for the merged index; None: there is none."""
    facts = _bind(conn, facts)
    chosen = _choose(facts, MAIN)
    refused = link_files(output / paths.simple_dir(facts.name), store, chosen)
    page = project_page(facts, verdicts, targets, unavailable=refused)
    settled = not refused
    indexes: dict[str, Index] = {}
    if upstream is not None:  # it names wheels of the main index, so it is the first to lose them
        indexes[paths.MERGED] = Index(merged.merge(page, *upstream, targets), frozenset())
    indexes[MAIN] = _index(page, refused)
    for space in spaces:
        chosen = _choose(facts, space)
        refused = link_files(output / paths.simple_dir(facts.name, space), store, chosen)
        settled = settled and not refused
        there = [file for file in chosen if file.filename not in refused]
        indexes[space] = _index(space_page(page, facts, targets, there), refused)
    return Placed(page, indexes, settled)


def _index(page: ProjectPage, refused: Collection[str]) -> Index:
    listing = simple.Listing.of(page) if simple.is_listed(page) else None
    return Index(listing, frozenset(wheel.filename for wheel in page.wheels), refused)


def _choose(facts: ProjectFacts, space: str) -> list[FileFacts]:
    """The files that are to be in an index."""
    if facts.status is ProjectStatus.QUARANTINED:
        return []
    chosen = []
    for file in choose_files(facts.files, facts.bound, space).values():
        if fit_name(file.filename):
            chosen.append(file)
        elif space == MAIN:
            logger.error("%s: a file cannot be published under the name %r", facts.name, file.filename)
    return chosen


def _bind(conn: Connection, facts: ProjectFacts) -> ProjectFacts:
    """Bind names that are not bound yet: nothing is listed before. They are of builds that an older piwheels recorded
    while this one's schema was there already."""
    lacking = [file.id for file in facts.files if (file.distribution, file.filename) not in facts.bound]
    if not lacking:
        return facts
    names.bind_files(conn, lacking)
    return replace(facts, bound=names.of_files(conn, {file.filename for file in facts.files}))


def link_files(directory: Path, store: Store, files: Collection[FileFacts]) -> set[str]:
    """Give wheels, then their metadata, their published names; the names that cannot be had, which are not to be
    listed. All that is new is durable on return."""
    folder = str(directory)
    files = [file for file in files if not _is_linked(file, folder, store)]  # of old wheels most are
    if not files:
        return set()
    writer.make_directory(directory)
    lost: set[str] = set()
    for suffix, content in (("", attrgetter("sha256")), (".metadata", attrgetter("metadata_sha256"))):
        new = False
        for file in files:
            if file.filename in lost:
                continue
            try:
                sha256: bytes = content(file)
                new |= writer.link_into(store.path(sha256), directory / (file.filename + suffix), sha256)
            except (writer.NameTakenError, writer.NotInStoreError) as error:
                logger.error("%s is not listed: %s", file.filename, error)
                lost.add(file.filename)
        if new:
            sync_directory(directory)
    return lost


def _is_linked(file: FileFacts, folder: str, store: Store) -> bool:
    name = f"{folder}/{file.filename}"
    return writer.is_linked(store.place(file.sha256), name) and writer.is_linked(
        store.place(file.metadata_sha256), f"{name}.metadata"
    )


def with_metadata(filenames: Collection[str]) -> set[str]:
    """The names of wheels and of what lies beside them."""
    return {name + end for name in filenames for end in ("", ".metadata")}
