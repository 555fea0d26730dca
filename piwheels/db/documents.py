# SPDX-License-Identifier: BSD-3-Clause
"""Each project's JSON as PyPI gave it last, shortened and compressed: what the metadata dump is made of.

Owns how a document is kept in the table ``documents``: one zstd frame of an entry of :mod:`piwheels.pypi.entry`. Knows
neither what is in an entry nor what a dump looks like.
"""

import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

import zstandard
from sqlalchemy import Connection, func, select, text

from piwheels.db.arrays import among, insert_rows
from piwheels.db.copying import copy_rows
from piwheels.db.tables import documents, projects
from piwheels.errors import DatabaseError
from piwheels.pypi.entry import MAX_ENTRY

logger = logging.getLogger(__name__)

LEVEL = 3  #: zstd's; 10 saves another eighth, at six times the work of the one core that follows PyPI
STREAM_ROWS = 64  #: fetched at a time; even if each were as long and as random as it may be, that is 64 MiB
FETCH_TIMEOUT = "10min"

_own = threading.local()  #: zstd's contexts serve one thread at a time, and cost more to make than one entry to pack


class DocumentDamaged(DatabaseError, ValueError):
    """A stored document is not what :func:`pack` makes."""


def pack(entry: bytes) -> bytes:
    """The entry as it is stored; ValueError for one that is longer than MAX_ENTRY."""
    if len(entry) > MAX_ENTRY:
        raise ValueError(f"an entry of {len(entry)} bytes is longer than {MAX_ENTRY}")
    try:
        compressor: zstandard.ZstdCompressor = _own.compressor
    except AttributeError:
        compressor = _own.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    return compressor.compress(entry)


def unpack(body: bytes) -> bytes:
    """The entry that was packed; DocumentDamaged for anything else, whatever length it says that it has."""
    try:
        # The library allocates what the frame's header promises, so that is looked at first.
        if not 0 <= zstandard.frame_content_size(body) <= MAX_ENTRY:
            raise DocumentDamaged("a stored document does not say its length, or an impossible one")
        return _decompressor().decompress(body)
    except zstandard.ZstdError as error:
        raise DocumentDamaged(f"a stored document cannot be read: {error}") from error


def _decompressor() -> zstandard.ZstdDecompressor:
    try:
        decompressor: zstandard.ZstdDecompressor = _own.decompressor
    except AttributeError:
        decompressor = _own.decompressor = zstandard.ZstdDecompressor()
    return decompressor


def stream(conn: Connection, *, since: datetime | None = None) -> Iterator[tuple[str, bytes]]:
    """Each project's canonical name and entry, a few rows in memory at a time.

    ``since``: only projects that changed then or later, in the order of their changes; None: all, by project id.
    A damaged document is logged and left out. The connection can be used for nothing else before the iterator's end.
    """
    query = select(projects.c.name, documents.c.body).join_from(documents, projects)
    if since is None:
        query = query.order_by(documents.c.project_id)
    else:
        query = query.where(documents.c.changed_at >= since).order_by(documents.c.changed_at, documents.c.project_id)
    # Each fetch is a statement, and the first one may have to sort.
    conn.execute(text(f"SET LOCAL statement_timeout = '{FETCH_TIMEOUT}'"))
    streaming = {"stream_results": True, "yield_per": STREAM_ROWS}
    with conn.execute(query, execution_options=streaming) as rows:
        yield from _readable((row.name, row.body) for row in rows)


def keep(conn: Connection, entries: Mapping[int, bytes], *, new: Collection[int] = ()) -> None:
    """Keep these entries (project id → entry), as changed now; one that is what we have already is left alone.

    ``new``: those among the projects that were added in this transaction, so that there is nothing to compare with.
    """
    packed = [(number, pack(entry)) for number, entry in sorted(entries.items())]
    if first := [one for one in packed if one[0] in new]:
        copy_rows(conn, documents, ("project_id", "body"), first)
    if rows := [{"project_id": number, "body": body} for number, body in packed if number not in new]:
        row = insert_rows(documents, rows)
        statement = row.on_conflict_do_update(
            index_elements=[documents.c.project_id],
            set_={"body": row.excluded.body, "changed_at": func.now()},
            where=documents.c.body != row.excluded.body,  # the same entry packs to the same bytes
        )
        conn.execute(statement)


def load(conn: Connection, names: Iterable[str]) -> dict[str, bytes]:
    """The entries of these projects, by name, as far as there are any; a damaged one is none."""
    query = select(projects.c.name, documents.c.body).join_from(documents, projects)
    rows = conn.execute(query.where(among(projects.c.name, sorted(names))))
    return dict(_readable((row.name, row.body) for row in rows))


def _readable(rows: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    for name, body in rows:
        try:
            yield name, unpack(body)
        except DocumentDamaged as error:  # the project's next change mends it; the others must not wait for that
            logger.error("%s is left out: %s", name, error)
