# SPDX-License-Identifier: BSD-3-Clause
"""What PostgreSQL means to do for each statement that is sent: for tests that nothing frequent scans a big table."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

#: Tables whose size is that of the farm.
BIG = frozenset(
    {
        "projects",
        "project_names",
        "releases",
        "upstream_files",
        "jobs",
        "builds",
        "files",
        "dependencies",
        "needs",
        "documents",
        "download_days",
        "published",
        "pages",
        "changes",
    }
)

Sent = tuple[str, Any]


@contextmanager
def statements(engine: Engine) -> Iterator[list[Sent]]:
    """What is sent meanwhile, each text once, with its first parameters."""
    sent: dict[str, Any] = {}

    def note(_conn: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        sent.setdefault(statement, parameters)

    found: list[Sent] = []
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)
        found += sent.items()


def scans(conn: Connection, sent: list[Sent]) -> list[str]:
    """Where these statements would read a big table from one end to the other."""
    first = {row.name: row.first for row in conn.exec_driver_sql(_INDEXES)}
    found = []
    for statement, parameters in sent:
        [[plan]] = conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        plan = json.loads(plan) if isinstance(plan, str) else plan
        found += [f"{what}\n{statement}" for what in _scans(plan[0]["Plan"], first, limited=False)]
    return found


#: With the column that each begins with. One of jobs that are leased is as small as the farm has builders: the empty
#: name is in every condition.
_INDEXES = """
SELECT i.indexrelid :: regclass :: text AS name,
    CASE WHEN pg_get_expr(i.indpred, i.indrelid) ~ 'lease_\\w+ IS NOT NULL' THEN '' ELSE a.attname END AS first
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
"""


def _scans(node: Mapping[str, Any], first: Mapping[str, str], *, limited: bool) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name", "")
    # A limit above stops a walk along an index, but not one that filters: who knows how much it skips.
    limited = kind == "Limit" or (limited and kind not in ("Sort", "Aggregate", "Hash", "Hash Join"))
    whole = kind == "Seq Scan" or ("Index" in kind and not _is_narrowed(node, first))
    if (table in BIG or "Bitmap Index" in kind) and whole and not (limited and "Filter" not in node):
        by = f", by {node['Index Name']}" if "Index Name" in node else ""
        yield f"{kind} of {table}{by}"
    for below in node.get("Plans", ()):
        yield from _scans(below, first, limited=limited)


def _is_narrowed(node: Mapping[str, Any], first: Mapping[str, str]) -> bool:
    """Whether a scan of an index is of a part of it: a condition on its first column, or few rows in it at all."""
    return first.get(node["Index Name"], "?") in node.get("Index Cond", "")
