# SPDX-License-Identifier: BSD-3-Clause
"""Documents as rows: packed and unpacked the same, bounded, streamed in the order asked for."""

from datetime import UTC, datetime, timedelta

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select, update

from piwheels.db import tables
from piwheels.db.documents import DocumentDamaged, keep, load, pack, stream, unpack
from piwheels.pypi.entry import MAX_ENTRY
from tests.integration.documents import add_document, parsed

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
DAY = timedelta(days=1)


@given(st.binary(max_size=5000))
def test_what_is_packed_comes_back(entry: bytes) -> None:
    assert unpack(pack(entry)) == entry


def test_too_long_is_refused_both_ways() -> None:
    assert unpack(pack(b"x" * MAX_ENTRY)) == b"x" * MAX_ENTRY
    with pytest.raises(ValueError, match="longer than"):
        pack(b"x" * (MAX_ENTRY + 1))
    with pytest.raises(DocumentDamaged, match="impossible"):
        unpack(zstandard.compress(bytes(100 * MAX_ENTRY)))
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 * MAX_ENTRY))
    with pytest.raises(DocumentDamaged, match="impossible"):
        unpack(unsaid)


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda data: pack(b"x" * 50)[:9] + data))
def test_damage_is_said(body: bytes) -> None:
    try:
        assert len(unpack(body)) <= MAX_ENTRY
    except DocumentDamaged as error:
        assert "document" in str(error)


def test_a_changed_byte_is_noticed() -> None:
    body = bytearray(pack(b'{"info":{}}' * 10))
    body[-1] ^= 1  # of the checksum
    with pytest.raises(DocumentDamaged):
        unpack(bytes(body))


@pytest.mark.integration
def test_all_come_by_id(database: Engine) -> None:
    with database.begin() as conn:
        for number in range(150):  # more than are fetched at a time
            add_document(conn, f"p{number:03}", NOW - number * DAY)
    with database.begin() as conn:
        found = list(stream(conn))
    assert [name for name, _ in found] == [f"p{number:03}" for number in range(150)]
    first = parsed(found[0][1])
    assert first["info"]["name"] == "p000" and "description" not in first["info"]
    assert list(first["releases"]) == ["2.0"]


@pytest.mark.integration
def test_kept_when_it_changed(database: Engine) -> None:
    one, other = b'{"info":{"version":"1"}}', b'{"info":{"version":"2"}}'
    with database.begin() as conn:
        for name in ("a", "b", "c"):
            add_document(conn, name, NOW)
        ids = {row.name: row.id for row in conn.execute(select(tables.projects))}
        conn.execute(delete(tables.documents).where(tables.documents.c.project_id == ids["c"]))
        keep(conn, {ids["c"]: one, ids["a"]: one})
        keep(conn, {})
    with database.begin() as conn:
        assert load(conn, ["a", "c", "unknown"]) == {"a": one, "c": one}
        assert load(conn, []) == {}
        before = {row.project_id: row.changed_at for row in conn.execute(select(tables.documents))}
        keep(conn, {ids["a"]: one, ids["b"]: other, ids["c"]: other})
        after = {row.project_id: row.changed_at for row in conn.execute(select(tables.documents))}
        assert load(conn, ids) == {"a": one, "b": other, "c": other}
    assert {name for name, number in ids.items() if before[number] != after[number]} == {"b", "c"}


@pytest.mark.integration
def test_a_window_has_what_changed_in_it_oldest_first(database: Engine) -> None:
    with database.begin() as conn:
        for name, days in (("old", 61), ("new", 1), ("edge", 60), ("newest", 0)):
            add_document(conn, name, NOW - days * DAY)
        assert [name for name, _ in stream(conn, since=NOW - 60 * DAY)] == ["edge", "new", "newest"]
        assert list(stream(conn, since=NOW + DAY)) == []


@pytest.mark.integration
def test_a_project_takes_its_document_with_it(database: Engine) -> None:
    with database.begin() as conn:
        add_document(conn, "gone", NOW)
        conn.execute(delete(tables.projects))
        assert list(stream(conn)) == []


@pytest.mark.integration
def test_a_damaged_one_is_left_out_and_named(database: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with database.begin() as conn:
        for name in ("a", "b", "c"):
            add_document(conn, name, NOW)
        second = select(tables.projects.c.id).where(tables.projects.c.name == "b").scalar_subquery()
        conn.execute(update(tables.documents).where(tables.documents.c.project_id == second).values(body=b"rubbish"))
        assert [name for name, _ in stream(conn)] == ["a", "c"]
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("b is left out: ")
