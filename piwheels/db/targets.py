# SPDX-License-Identifier: BSD-3-Clause
"""Targets as rows: listing, adding, switching and ordering them, and finding the one that a builder serves."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from piwheels.db import direct, wake
from piwheels.db.arrays import update_rows
from piwheels.db.tables import builds, jobs, slaves, targets
from piwheels.master.targets import Target, TargetError

#: Names by which builders may call a distribution, when they announce its number instead of its code name.
DEBIAN = {"10": "buster", "11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}

RANK_STEP = 10  #: room between ranks, for one to be put between two


def enabled(conn: Connection) -> list[Target]:
    """The enabled targets, oldest first."""
    return [target for target in every(conn) if target.enabled]


def every(conn: Connection) -> list[Target]:
    """All targets, oldest first."""
    return list(read(conn, "NULL")[0])


def read(conn: Connection, more: str) -> tuple[tuple[Target, ...], Any]:
    """All targets, oldest first, and what an expression of SQL comes to, in one round; None if there is no target."""
    rows = direct.fetch(conn, _READ.format(more=more), {})
    return _targets(tuple(row[:-1] for row in rows)), rows[0][-1] if rows else None


# Lists as texts: what is read can be compared then, and most of the time it is what was read before.
_READ = """\
SELECT id, name, python_version, abi, platform, array_to_string(platforms, E'\\n'), distribution, rank, enabled,
    array_to_string(preinstalled, E'\\n'), libc, {more}
FROM targets ORDER BY rank, id
"""


@lru_cache(maxsize=4)
def _targets(rows: tuple[tuple[Any, ...], ...]) -> tuple[Target, ...]:
    return tuple(_target(*row) for row in rows)


def add(conn: Connection, target: Target) -> int:
    """Store a target, or make the stored one of that name equal to it; returns its id. Raises TargetError.

    A target with rank 0 goes after all others; a stored one keeps its rank, and is not enabled or disabled here. What
    there is to build for it is planned by the feed role, which notices (db.planning.catch_up).
    """
    target.check()
    rival = select(targets.c.name).where(targets.c.rank == target.rank, targets.c.name != target.name)
    if (taken := conn.execute(rival).scalar_one_or_none()) is not None:
        raise TargetError(f"target {target.name}: rank {target.rank} is that of target {taken}; choose another")
    facts = {
        "python_version": target.python_version,
        "abi": target.abi,
        "platform": target.platform,
        "platforms": list(target.platforms),
        "distribution": target.distribution,
        "preinstalled": list(target.preinstalled),
        "libc": target.libc,
    }
    last = select(func.coalesce(func.max(targets.c.rank), 0) + RANK_STEP).scalar_subquery()
    row = insert(targets).values(name=target.name, enabled=target.enabled, rank=target.rank or last, **facts)
    statement = row.on_conflict_do_update(index_elements=[targets.c.name], set_=facts).returning(targets.c.id)
    return int(conn.execute(statement).scalar_one())


def named(conn: Connection, name: str) -> Target:
    """The target of this name. Raises TargetError, saying which there are."""
    there = {target.name: target for target in every(conn)}
    if name not in there:
        names = ", ".join(there) or "none yet; see piw-target add --help"
        raise TargetError(f"there is no target {name!r}; there are: {names}")
    return there[name]


def switch(conn: Connection, name: str, *, enabled: bool) -> bool:
    """Build for a target from now on, or no more; whether that is another thing than before. Raises TargetError."""
    if named(conn, name).enabled == enabled:
        return False
    conn.execute(update(targets).where(targets.c.name == name).values(enabled=enabled))
    wake.notify(conn, wake.CONTROL)
    return True


def order(conn: Connection, names: Sequence[str]) -> bool:
    """Give these targets the first ranks, in this order; the others follow in theirs. Whether that changed anything.
    Raises TargetError."""
    there = [target.name for target in every(conn)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise TargetError(f"target {twice} is named twice")
    wanted = [named(conn, name).name for name in names]
    wanted += [name for name in there if name not in wanted]
    if wanted == there:
        return False
    conn.execute(update(targets).values(rank=-targets.c.id))  # ranks are unique at every moment
    ranks = [{"name": name, "rank": (number + 1) * RANK_STEP} for number, name in enumerate(wanted)]
    conn.execute(update_rows(targets, ranks, key="name"))
    return True


def is_used(conn: Connection, target_id: int) -> bool:
    """Whether anything was ever built for it."""
    return conn.execute(select(builds.c.id).where(builds.c.target_id == target_id).limit(1)).first() is not None


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do for a target, and who does it."""

    waiting: int
    building: int
    builders: int  #: that serve it and are admitted


def work(conn: Connection, target_id: int) -> Work:
    """How much there is to do for a target. Counts its jobs: for people."""
    mine = jobs.c.target_id == target_id
    leased = jobs.c.lease_expires.is_not(None)
    counted = select(func.count().filter(~leased), func.count().filter(leased)).where(mine)
    waiting, building = conn.execute(counted).one()
    serving = select(func.count()).where(slaves.c.target_id == target_id, slaves.c.enabled)
    return Work(waiting, building, conn.execute(serving).scalar_one())


def enable_only(conn: Connection, names: Collection[str]) -> None:
    """Build for these targets and for no others, from now on."""
    wanted = targets.c.name.in_(sorted(names))
    conn.execute(update(targets).where(targets.c.enabled != wanted).values(enabled=wanted))


def by_builder(
    conn: Connection, *, py_version: str, abi: str, platform: str, os_name: str = "", os_version: str = ""
) -> int | None:
    """The id of the enabled target that a builder with these announcements serves; None: none.

    ``py_version`` is "311". Python, ABI and platform must be the target's. A builder that announces ``linux_armv8l`` (a
    32-bit system under a 64-bit kernel) serves the target for ``linux_armv7l``. The builder's distribution decides
    between targets that differ in nothing else, and one that is known to be another's is refused: it has other
    libraries. ``os_name`` and ``os_version`` may say it in any way that os-release(5) does.
    """
    said = _words(os_name, os_version, f"{os_name}-{os_version}")
    found = [
        target
        for target in enabled(conn)
        if target.python_version.replace(".", "") == py_version and target.abi == abi and target.platform == platform
    ]
    if not found and platform == "linux_armv8l":
        return by_builder(
            conn, py_version=py_version, abi=abi, platform="linux_armv7l", os_name=os_name, os_version=os_version
        )
    same = [target for target in found if target.distribution.lower() in said]
    if same:
        return same[0].id
    known = {target.distribution.lower() for target in every(conn)} | set(DEBIAN.values())
    if said & (known - {""}):  # it says what it is, and no target of that distribution fits
        return next((target.id for target in found if not target.distribution), None)
    return found[0].id if found else None


def _words(*texts: str) -> frozenset[str]:
    """What a builder says of its system, as words; with Debian's code name where it says Debian's number."""
    words = {word for text in texts for word in re.findall(r"[a-z0-9.-]+", text[:200].lower())}
    debian = bool(words & {"debian", "raspbian"})
    return frozenset(words | {DEBIAN[word] for word in words if debian and word in DEBIAN})


def _target(
    id_: int,
    name: str,
    python_version: str,
    abi: str,
    platform: str,
    platforms: str,
    distribution: str,
    rank: int,
    enabled: bool,
    preinstalled: str,
    libc: str,
) -> Target:
    return Target(
        id=id_,
        name=name,
        python_version=python_version,
        abi=abi,
        platform=platform,
        platforms=tuple(platforms.split("\n")) if platforms else (),
        distribution=distribution,
        rank=rank,
        enabled=enabled,
        preinstalled=tuple(preinstalled.split("\n")) if preinstalled else (),
        libc=libc,
    )
