# SPDX-License-Identifier: BSD-3-Clause
"""What an operator may change while the farm runs; each wakes the roles it concerns."""

from sqlalchemy import Connection, select, update

from piwheels.db import roles, wake
from piwheels.db.tables import jobs, projects, releases, targets


def pause(conn: Connection, paused: bool) -> bool:
    """Stop handing out jobs, or go on; whether that changed anything. Builds in hand are finished either way."""
    changed = roles.set_paused(conn, paused)
    wake.notify(conn, wake.CONTROL)
    if not paused:
        wake.notify(conn, wake.JOBS)
    return changed


def cancel_build(conn: Connection, project: str, version: str, *, target: str) -> bool:
    """Have the builder drop this build at its next word; whether it is being built."""
    meant = (
        select(releases.c.id, targets.c.id)
        .join_from(releases, projects, projects.c.id == releases.c.project_id)
        .join(targets, targets.c.name == target)
        .where(projects.c.name == project, releases.c.version == version)
    )
    row = conn.execute(meant).one_or_none()
    if row is None:
        return False
    here = (jobs.c.release_id == row[0], jobs.c.target_id == row[1], jobs.c.lease_token.is_not(None))
    found = conn.execute(update(jobs).where(*here).values(cancelled=True)).rowcount > 0
    wake.notify(conn, wake.CONTROL)
    return found
