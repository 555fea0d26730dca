# SPDX-License-Identifier: BSD-3-Clause
"""Every project that has a page, for the search index and the sitemap: streamed, sorted by PostgreSQL, so that neither
end holds them all. Run for pages that rest many times as long as they took (db.farm_pages.REST)."""

from collections.abc import Iterator
from datetime import UTC, date, timedelta

from sqlalchemy import Connection, select, text

from piwheels.db.tables import published
from piwheels.site.search_index import LONGEST_SUMMARY, Entry, summary

MONTH = timedelta(days=30)
STREAM_ROWS = 5000

# A project is found by its name; one with wheels by each further word of it too, and by what follows a leading "py".
_KNOWN = text(r"""
    WITH month AS (
        SELECT project_id, sum(count)::bigint AS downloads FROM download_days WHERE day > :since GROUP BY project_id
    ), known AS (
        SELECT s.name, coalesce(m.downloads, 0) AS downloads, s.files > 0 AS wheels,
               CASE WHEN s.files > 0 THEN left(p.summary, :longest) ELSE '' END AS summary
        FROM published s JOIN projects p ON p.name = s.name LEFT JOIN month m ON m.project_id = p.id
    )
    SELECT name COLLATE "C" AS key, name, downloads, wheels, summary FROM known
    UNION ALL
    SELECT substr(name, at + 1) COLLATE "C", name, downloads, wheels, summary
    FROM known, generate_series(1, length(name) - 1) AS at
    WHERE wheels AND substr(name, at, 1) = '-' AND substr(name, at + 1, 1) <> '-'
    UNION ALL
    SELECT substr(name, 3) COLLATE "C", name, downloads, wheels, summary
    FROM known WHERE wheels AND name ~ '^py[a-z]{3}'
    ORDER BY 1, 2
""")


def stream(conn: Connection, *, today: date) -> Iterator[Entry]:
    """What the search index is made of, sorted by key, bytewise. ``today`` is UTC's."""
    facts = {"since": today - MONTH, "longest": 4 * LONGEST_SUMMARY}
    streaming = {"stream_results": True, "yield_per": STREAM_ROWS}
    for key, name, downloads, wheels, words in conn.execute(_KNOWN, facts, execution_options=streaming):
        yield Entry(key, name, downloads, wheels, summary(words) if words else "")


def pages(conn: Connection) -> Iterator[tuple[str, date]]:
    """Each project that has a page, by name, with the day (UTC) that it was last written."""
    query = select(published.c.name, published.c.published_at).order_by(published.c.name)
    streaming = {"stream_results": True, "yield_per": STREAM_ROWS}
    for name, moment in conn.execute(query, execution_options=streaming):
        yield name, moment.astimezone(UTC).date()
