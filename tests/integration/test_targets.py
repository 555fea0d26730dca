# SPDX-License-Identifier: BSD-3-Clause
"""Targets as rows, and which of them a builder serves."""

from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, update

from piwheels.db import tables, targets
from piwheels.master.targets import PRESETS, TargetError, native

pytestmark = pytest.mark.integration

ARMHF = PRESETS["bookworm-armhf"]


def serves(conn: Connection, **announced: str) -> str | None:
    hello = {"py_version": "311", "abi": "cp311", "platform": "linux_armv7l"} | announced
    found = targets.by_builder(conn, **hello)  # type: ignore[arg-type]
    names = {target.id: target.name for target in targets.every(conn)}
    return None if found is None else names[found]


def test_a_target_comes_back_as_it_was_stored(database: Engine) -> None:
    target = replace(ARMHF, preinstalled=("libc6", "libssl3"))
    with database.begin() as conn:
        number = targets.add(conn, target)
        assert targets.enabled(conn) == [replace(target, id=number)]


def test_adding_again_updates_and_keeps_rank_and_switch(database: Engine) -> None:
    with database.begin() as conn:
        first = targets.add(conn, native())
        conn.execute(update(tables.targets).values(enabled=False))
        again = targets.add(conn, replace(native(), preinstalled=("libc6",)))
        assert first == again
        assert targets.enabled(conn) == []
        assert [(t.preinstalled, t.rank) for t in targets.every(conn)] == [(("libc6",), 10)]
        targets.add(conn, replace(native(), name="another"))
        targets.add(conn, ARMHF)
        assert [target.name for target in targets.every(conn)] == ["native", "another", "bookworm-armhf"]


def test_a_contradictory_target_is_not_stored(database: Engine) -> None:
    with database.begin() as conn:
        with pytest.raises(TargetError, match=r"not one of CPython 3\.11"):
            targets.add(conn, replace(ARMHF, abi="cp313"))
        targets.add(conn, ARMHF)
        with pytest.raises(TargetError, match="rank 100 is that of target bookworm-armhf"):
            targets.add(conn, replace(ARMHF, name="twin"))
        assert [target.name for target in targets.every(conn)] == ["bookworm-armhf"]


def test_which_target_a_builder_serves(database: Engine) -> None:
    with database.begin() as conn:
        for preset in PRESETS.values():
            targets.add(conn, preset)
        assert serves(conn) == "bookworm-armhf"
        assert serves(conn, os_name="Debian GNU/Linux", os_version="12 (bookworm)") == "bookworm-armhf"
        assert serves(conn, os_name="Raspbian GNU/Linux", os_version="12") == "bookworm-armhf"
        assert serves(conn, os_name="debian", os_version="bookworm") == "bookworm-armhf"
        assert serves(conn, os_version="something of its own") == "bookworm-armhf"
        assert serves(conn, os_name="Debian GNU/Linux", os_version="13 (trixie)") is None  # other libraries
        assert serves(conn, platform="linux_armv8l") == "bookworm-armhf"
        assert serves(conn, platform="linux_aarch64") == "bookworm-arm64"
        assert serves(conn, py_version="313", abi="cp313") == "trixie-armhf"
        assert serves(conn, py_version="313", abi="cp313t") is None
        assert serves(conn, abi="cp312") is None
        assert serves(conn, platform="linux_armv6l") is None
        assert serves(conn, platform="\x00" * 1000, os_version="x" * 10**6) is None


def test_the_distribution_decides_between_equal_targets(database: Engine) -> None:
    with database.begin() as conn:
        targets.add(conn, ARMHF)
        targets.add(conn, replace(ARMHF, name="bullseye-armhf", distribution="bullseye", rank=50))
        assert serves(conn, os_version="bookworm") == "bookworm-armhf"
        assert serves(conn, os_version="11 (bullseye)") == "bullseye-armhf"
        assert serves(conn) == "bullseye-armhf"  # says nothing: the older, whose libraries later systems have
        conn.execute(update(tables.targets).where(tables.targets.c.name == "bullseye-armhf").values(enabled=False))
        assert serves(conn, os_version="11 (bullseye)") is None


def test_a_target_without_a_distribution_takes_any_builder(database: Engine) -> None:
    with database.begin() as conn:
        targets.add(conn, replace(ARMHF, name="any", distribution=""))
        assert serves(conn, os_version="13 (trixie)") == "any"
        targets.add(conn, replace(ARMHF, name="mine", distribution="trixie", rank=0))
        assert serves(conn, os_version="13 (trixie)") == "mine"
        targets.add(conn, replace(ARMHF, name="fedora", distribution="fedora-43", rank=0))
        assert serves(conn, os_name="fedora", os_version="43") == "fedora"
