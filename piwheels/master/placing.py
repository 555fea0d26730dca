# SPDX-License-Identifier: BSD-3-Clause
"""Wheels in the published tree: which of a project's wheels may be listed, linked in beside their metadata.

Wheels are durable before their metadata, and both before this returns, so that whoever writes a page afterwards lists
nothing that is not there. Removing what no page lists any more is the publisher's (master/publish); which wheel has a
name is piwheels.site.model's to decide.
"""

import logging
from collections.abc import Collection
from operator import attrgetter
from pathlib import Path

from sqlalchemy import Connection

from piwheels.db import pages, planning, withdrawal
from piwheels.db import targets as target_rows
from piwheels.master.planner import Policy
from piwheels.master.store import Store
from piwheels.site import paths, writer
from piwheels.site.facts import MAIN, Bound, FileFacts, ProjectFacts
from piwheels.site.model import ProjectPage, choose_files, fit_name, project_page, rivals
from piwheels.vocabulary import PageKind, ProjectStatus

logger = logging.getLogger(__name__)


def place_wheels(
    conn: Connection, facts: ProjectFacts, *, output: Path, store: Store, policy: Policy
) -> tuple[ProjectPage, Collection[str]]:
    """The project's page, with only such wheels as are in place beside their metadata, and the names of others."""
    verdicts = planning.verdicts(conn, facts.id, policy=policy)
    targets = target_rows.every(conn)
    bound = _bound(facts, output, store)
    unavailable: Collection[str] = ()
    outgoing: set[str] = set()
    if facts.status is not ProjectStatus.QUARANTINED:
        chosen = []
        for file in choose_files(facts.files, bound, MAIN).values():
            if fit_name(file.filename):
                chosen.append(file)
            else:
                logger.error("%s: a file cannot be published under the name %r", facts.name, file.filename)
        outgoing = _outgoing(conn, facts, chosen, output, store)
        if outgoing:  # listed by the next rendering, once the bytes that have the name now are gone
            pages.mark_stale(conn, PageKind.PROJECT, facts.name, "withdrawn wheels give up their names")
        chosen = [file for file in chosen if file.filename not in outgoing]
        unavailable = link_files(output / paths.simple_dir(facts.name), store, chosen)
    page = project_page(facts, verdicts, targets, bound=bound, unavailable=outgoing.union(unavailable))
    return page, unavailable


def _outgoing(
    conn: Connection, facts: ProjectFacts, chosen: Collection[FileFacts], output: Path, store: Store
) -> set[str]:
    """Names that are to be listed, and under which the site still has a withdrawn wheel."""
    there = {(file.filename, file.sha256) for file in facts.files}
    found = set()
    for filename, contents in withdrawal.withdrawn_of(conn, facts.id).items():
        if any(file.filename == filename for file in chosen):
            published = output / paths.wheel_path(facts.name, filename)
            gone = [sha256 for sha256 in contents if (filename, sha256) not in there]
            if any(_is_same(store.path(sha256), published) for sha256 in gone):
                found.add(filename)
    return found


def _bound(facts: ProjectFacts, output: Path, store: Store) -> Bound:
    """For names under which several contents were built: which of them the site has."""
    bound = {}
    for filename, contents in rivals(facts.files).items():
        if not fit_name(filename):
            continue
        published = output / paths.wheel_path(facts.name, filename)
        for sha256 in sorted(contents):
            if _is_same(store.path(sha256), published):
                bound[MAIN, filename] = sha256
    return bound


def link_files(directory: Path, store: Store, files: Collection[FileFacts]) -> set[str]:
    """Give wheels, then their metadata, their published names; the names that cannot be had, which are not to be
    listed. All that is new is durable on return."""
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
            writer.sync_directory(directory)
    return lost


def with_metadata(filenames: Collection[str]) -> set[str]:
    """The names of wheels and of what lies beside them."""
    return {name + end for name in filenames for end in ("", ".metadata")}


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
