# SPDX-License-Identifier: BSD-3-Clause
"""Wheels in the published tree: which of a project's wheels may be listed, linked in beside their metadata.

Wheels are durable before their metadata, and both before this returns, so that whoever writes a page afterwards lists
nothing that is not there. Removing what no page lists any more is the publisher's (master/publish); which wheel has a
name is in the rows (db/names) and piwheels.site.model's to read. The disk is asked only where a name is there already:
a database that was restored from a backup knows less than the tree does, and the tree is what has been seen.
"""

import logging
from collections.abc import Collection
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from sqlalchemy import Connection

from piwheels.db import names, planning
from piwheels.db import targets as target_rows
from piwheels.master.planner import Policy
from piwheels.master.store import Store
from piwheels.site import paths, writer
from piwheels.site.facts import MAIN, FileFacts, ProjectFacts
from piwheels.site.model import ProjectPage, choose_files, fit_name, project_page
from piwheels.vocabulary import ProjectStatus

logger = logging.getLogger(__name__)


def place_wheels(
    conn: Connection, facts: ProjectFacts, *, output: Path, store: Store, policy: Policy
) -> tuple[ProjectPage, Collection[str]]:
    """The project's page, with only such wheels as are in place beside their metadata, and the names of others."""
    verdicts = planning.verdicts(conn, facts.id, policy=policy)
    targets = target_rows.every(conn)
    facts = _bind(conn, facts)
    unavailable: Collection[str] = ()
    if facts.status is not ProjectStatus.QUARANTINED:
        chosen = []
        for file in choose_files(facts.files, facts.bound, MAIN).values():
            if fit_name(file.filename):
                chosen.append(file)
            else:
                logger.error("%s: a file cannot be published under the name %r", facts.name, file.filename)
        unavailable = link_files(output / paths.simple_dir(facts.name), store, chosen)
    return project_page(facts, verdicts, targets, unavailable=unavailable), unavailable


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
