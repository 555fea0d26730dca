# SPDX-License-Identifier: BSD-3-Clause
"""What piw-farm reads of the projects it was asked for."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from piwheels.db import farm_facts, targets
from piwheels.master.planner import Code, Policy
from piwheels.master.targets import PRESETS
from piwheels.vocabulary import FailureReason, Outcome, WatchState

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def execute(conn: Connection, statement: str, **values: object) -> int:
    return int(conn.execute(text(statement), values).scalar_one())


def add_release(conn: Connection, name: str, *, position: int) -> int:
    """A watched project with one release that has an sdist."""
    conn.execute(
        text(
            "INSERT INTO watches (name, spelling, position, state, checked_at)"
            " VALUES (:n, upper(:n), :p, 'found', :now)"
        ),
        {"n": name, "p": position, "now": NOW},
    )
    project = execute(conn, "INSERT INTO projects (name, display_name) VALUES (:n, upper(:n)) RETURNING id", n=name)
    release = execute(
        conn,
        "INSERT INTO releases (project_id, version, sort_key, released) VALUES (:p, '1.0', '\\x01', :now) RETURNING id",
        p=project,
        now=NOW,
    )
    return execute(
        conn,
        "INSERT INTO upstream_files (release_id, filename, kind, sha256, url, uploaded)"
        " VALUES (:r, 'x-1.0.tar.gz', 'sdist', decode(repeat('ab', 32), 'hex'), 'https://example.org/x', :now)"
        " RETURNING release_id",
        r=release,
        now=NOW,
    )


def add_build(conn: Connection, release: int, target: int, *, wheel: str = "", detail: str = "") -> int:
    """A build that ended, with a wheel or with a reason."""
    build = execute(
        conn,
        "INSERT INTO builds (release_id, target_id, token, started, duration, outcome, reason, detail)"
        " VALUES (:r, :t, gen_random_uuid(), :now, '12 s', CAST(:o AS build_outcome),"
        "         CAST(:why AS failure_reason), :d) RETURNING id",
        r=release,
        t=target,
        now=NOW,
        o="success" if wheel else "failed",
        why=None if wheel else "package",
        d=detail,
    )
    if wheel:
        execute(
            conn,
            "INSERT INTO files (build_id, filename, size, sha256, metadata_sha256, top_level)"
            " VALUES (:b, :f, 1, decode(repeat('cd', 32), 'hex'), decode(repeat('ef', 32), 'hex'), '{x}') RETURNING id",
            b=build,
            f=wheel,
        )
    return build


def test_projects_builds_and_wheels(database: Engine) -> None:
    with database.begin() as conn:
        target = targets.add(conn, PRESETS["bookworm-armhf"])
        good, bad = add_release(conn, "good", position=0), add_release(conn, "bad", position=1)
        add_release(conn, "new", position=2)
        first = add_build(conn, good, target, wheel="good-1.0-cp311-cp311-linux_armv7l.whl")
        second = add_build(conn, bad, target, detail="no such header")
    with database.begin() as conn:
        found = farm_facts.watched(conn, since=NOW, policy=Policy())
        assert [(p.name, p.spelling, p.state, p.fresh, p.listed) for p in found] == [
            ("good", "GOOD", WatchState.FOUND, True, False),
            ("bad", "BAD", WatchState.FOUND, True, False),
            ("new", "NEW", WatchState.FOUND, True, False),
        ]
        codes = [verdict.code for p in found for release in p.releases for verdict in release.verdicts]
        assert codes == [Code.BUILT, Code.FAILED, Code.QUEUED]
        assert not farm_facts.watched(conn, since=NOW + timedelta(seconds=1), policy=Policy())[0].fresh

        assert farm_facts.last_build(conn) == second
        attempts = farm_facts.attempts_since(conn, first - 1)
        assert [(a.id, a.project, a.outcome, a.reason, a.filenames) for a in attempts] == [
            (first, "GOOD", Outcome.SUCCESS, None, ("good-1.0-cp311-cp311-linux_armv7l.whl",)),
            (second, "BAD", Outcome.FAILED, FailureReason.PACKAGE, ()),
        ]
        assert attempts[0].duration == timedelta(seconds=12)
        assert [a.id for a in farm_facts.attempts_since(conn, first)] == [second]
        assert farm_facts.last_failures(conn, [good, bad]).keys() == {bad}
        assert farm_facts.running(conn) == []

        (wheel,) = farm_facts.wheels(conn, found)
        assert (wheel.project, wheel.version, wheel.top_level) == ("GOOD", "1.0", ("x",))
        assert wheel.sha256 == "cd" * 32


def test_nothing_is_there_at_first(database: Engine) -> None:
    with database.begin() as conn:
        assert farm_facts.watched(conn, since=NOW, policy=Policy()) == []
        assert farm_facts.last_build(conn) == 0
        assert farm_facts.attempts_since(conn, 0) == []
        assert farm_facts.last_failures(conn, []) == {}
        assert not farm_facts.upstream_is_away(conn)


def test_only_the_targets_named_stay_enabled(database: Engine) -> None:
    with database.begin() as conn:
        for target in PRESETS.values():
            targets.add(conn, target)
        targets.enable_only(conn, ["trixie-arm64"])
        assert [target.name for target in targets.enabled(conn)] == ["trixie-arm64"]
        targets.enable_only(conn, ["bookworm-armhf"])
        assert [target.name for target in targets.enabled(conn)] == ["bookworm-armhf"]
