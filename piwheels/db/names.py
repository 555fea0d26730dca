# SPDX-License-Identifier: BSD-3-Clause
"""What file names stand for: bound to a wheel's bytes when they are first recorded, and for ever.

There is a space of names for the main index, and one for each distribution's own. A row is never changed or deleted, so
whoever finds one may rely on it. What number a wheel gets whose name is another's is master/numbering's to say.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from piwheels.db import direct
from piwheels.master.numbering import Bound


@dataclass(frozen=True, slots=True)
class Claim:
    """A wheel that is to have a name."""

    target_id: int  #: that it was built for
    filename: str
    sha256: bytes
    made_of: bytes  #: SHA-256 of what it was before it got a build number
    base: str | None = None  #: the name it would have had without that


def bind(conn: Connection, claims: Sequence[Claim]) -> list[bool]:
    """Bind names to wheels' bytes, in the index of each one's distribution and in the main one; whether each has its
    name in its distribution's index. Of several claims to one name the first is right; a name that is bound already
    stays so. Other transactions that bind one of the names wait for this one.

    In the main index a name may be bound to another distribution's wheel, which is then listed there in place of this
    one; and one with a build number is bound there only if the plain name is that of the same distribution. An
    installer there would prefer it to what it can run.
    """
    given = [
        {
            "number": number,
            "target_id": claim.target_id,
            "filename": claim.filename,
            "sha256": _bytea(claim.sha256),
            "made_of": _bytea(claim.made_of),
            "base": claim.base,
        }
        for number, claim in enumerate(claims)
    ]
    if not given:
        return []
    refused = {row[0] for row in direct.fetch(conn, _BIND, {"claims": json.dumps(given)})}
    return [number not in refused for number in range(len(claims))]


# The names of one statement are inserted in order, so that two of them cannot wait for each other. "DO UPDATE" changes
# nothing: it waits for whoever binds the name at this moment, and returns what it is bound to.
_BIND = """
    WITH claim AS (
        SELECT x.*, t.distribution
        FROM json_to_recordset(CAST(%(claims)s AS json)) AS x(number integer, target_id integer, filename text,
            sha256 bytea, made_of bytea, base text) JOIN targets t ON t.id = x.target_id
    ), wanted AS (
        SELECT DISTINCT ON (c.filename, s.space) c.filename, s.space, c.sha256, c.made_of
        FROM claim c CROSS JOIN LATERAL (
            SELECT c.distribution UNION SELECT '' WHERE NOT EXISTS (
                SELECT FROM names main JOIN names own ON own.filename = main.filename AND own.space = c.distribution
                WHERE main.filename = c.base AND main.space = '' AND main.sha256 <> own.sha256
            )
        ) AS s(space)
        ORDER BY c.filename, s.space, c.number
    ), bound AS (
        INSERT INTO names (filename, space, sha256, made_of)
        SELECT filename, space, sha256, made_of FROM wanted ORDER BY filename, space
        ON CONFLICT (filename, space) DO UPDATE SET sha256 = names.sha256
        RETURNING filename, space, sha256
    )
    SELECT c.number FROM claim c JOIN bound b ON b.filename = c.filename AND b.space = c.distribution
    WHERE b.sha256 <> c.sha256
"""


def bind_files(conn: Connection, file_ids: Collection[int]) -> None:
    """Bind the names of files that are recorded already, in the order in which they were."""
    direct.run(conn, _BIND_FILES, {"ids": list(file_ids)})


_BIND_FILES = f"""
    INSERT INTO names (filename, space, sha256, made_of)
    SELECT DISTINCT ON (f.filename, s.space) f.filename, s.space, f.sha256, f.sha256
    FROM files f JOIN builds b ON b.id = f.build_id JOIN targets t ON t.id = b.target_id
        CROSS JOIN LATERAL (SELECT t.distribution UNION SELECT '') AS s(space)
    WHERE {direct.among("f.id", "ids", "bigint")}
    ORDER BY f.filename, s.space, f.id
    ON CONFLICT DO NOTHING
"""


def of_files(conn: Connection, filenames: Collection[str]) -> dict[tuple[str, str], bytes]:
    """What these names stand for: (space, name) → SHA-256."""
    if not filenames:
        return {}
    rows = direct.fetch(conn, _OF_FILES, {"names": list(filenames)})
    return {(space, filename): bytes(sha256) for filename, space, sha256 in rows}


_OF_FILES = f"SELECT filename, space, sha256 FROM names WHERE {direct.among('filename', 'names', 'text')}"


def of_releases(conn: Connection, target_id: int, starts: Iterable[str]) -> dict[str, list[Bound]]:
    """What all names that begin so stand for in the index of a target's distribution; by beginning."""
    found: Mapping[str, list[Bound]] = defaultdict(list)
    rows = direct.fetch(conn, _OF_RELEASES, {"target": target_id, "starts": sorted(set(starts))})
    for start, filename, sha256, made_of in rows:
        found[start].append(Bound(filename, bytes(sha256), bytes(made_of)))
    return dict(found)


# Compared bytewise, "-" and what follows it come before ".".
_OF_RELEASES = """
    SELECT s.start, n.filename, n.sha256, n.made_of
    FROM unnest(CAST(%(starts)s AS text[])) AS s(start)
    JOIN names n ON n.filename >= s.start || '-' AND n.filename < s.start || '.'
    WHERE n.space = (SELECT distribution FROM targets WHERE id = %(target)s)
    ORDER BY n.filename
"""


def _bytea(value: bytes) -> str:
    return "\\x" + value.hex()
