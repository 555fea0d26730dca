# SPDX-License-Identifier: BSD-3-Clause
"""Projects with documents, for tests that read them back."""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert

from piwheels.db import documents, tables
from piwheels.pypi.entry import entry_of


def answer(name: str, *, version: str = "2.0", releases: tuple[str, ...] = ("1.0", "2.0")) -> dict[str, Any]:
    """What PyPI's JSON API says of a project, in short."""

    def file(of: str) -> dict[str, Any]:
        return {"filename": f"{name}-{of}.tar.gz", "packagetype": "sdist", "digests": {"sha256": "ab" * 32}}

    return {
        "info": {"name": name, "version": version, "summary": f"what {name} is for", "description": "long " * 100},
        "last_serial": 7,
        "releases": {one: [file(one)] for one in releases},
        "urls": [file(version)],
    }


def add_document(conn: Connection, name: str, changed_at: datetime, document: object | None = None) -> None:
    """A project with what PyPI said of it."""
    entry = entry_of(answer(name) if document is None else document)
    assert entry is not None
    row = insert(tables.projects).values(name=name, display_name=name).returning(tables.projects.c.id)
    number = conn.execute(row).scalar_one()
    body = documents.pack(entry)
    conn.execute(insert(tables.documents).values(project_id=number, body=body, changed_at=changed_at))


def parsed(entry: bytes) -> Any:
    """An entry's content."""
    return json.loads(entry)
