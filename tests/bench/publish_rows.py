# SPDX-License-Identifier: BSD-3-Clause
"""The rows of ``bench-publish``: projects of five sizes, what was built of them, and a store that has their wheels.

What a project has follows from its number, so that the same farm is made each time. Wheels share a thousand contents:
what is in them costs nobody anything here, and a file may have only so many names.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from piwheels.db import targets
from piwheels.db.engine import in_transaction
from piwheels.master.store import Store
from piwheels.master.targets import PRESETS
from piwheels.versions import sort_key
from tests.bench.harness import Bench
from tests.bench.scale_measures import engine_of

CONTENTS = 1000


@dataclass(frozen=True, slots=True)
class Size:
    """How large some projects are."""

    share: int  #: of a hundred
    releases: int
    files: int  #: the newest so many releases have a wheel of ours each


MIXED = (Size(60, 3, 1), Size(25, 10, 3), Size(10, 30, 8), Size(4, 80, 15), Size(1, 200, 40))
HUGE = (Size(100, 1250, 1250),)  #: each release of which is built for four targets


def name(number: int) -> str:
    """A project's."""
    return f"bench{number:07d}"


def prepare(at: Bench) -> None:
    """Targets, contents and versions, in an empty database and an empty store."""
    with engine_of(at) as engine:
        for target in PRESETS.values():
            in_transaction(engine, lambda conn, target=target: targets.add(conn, target))
    store = Store(at.settings.paths.store)
    store.prepare()
    rows = []
    for number in range(CONTENTS):
        found = []
        for data in (b"wheel %d" % number, b"Metadata-Version: 2.1\nName: x\nVersion: %d\n" % number):
            path = store.path(hashlib.sha256(data).digest())
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o644)
            found.append(hashlib.sha256(data).digest())
        rows.append((number, *found))
    with at.connect() as conn:
        conn.execute("CREATE TABLE bench_contents (number int PRIMARY KEY, wheel bytea, metadata bytea)")
        conn.execute("CREATE TABLE bench_versions (number int PRIMARY KEY, version text, sort_key bytea)")
    at.fill("bench_contents", ("number", "wheel", "metadata"), rows)
    most = max(size.releases for size in (*MIXED, *HUGE))
    versions = ((number, f"{number // 10}.{number % 10}") for number in range(1, most + 1))
    at.fill("bench_versions", ("number", "version", "sort_key"), ((n, v, sort_key(v)) for n, v in versions))


def add(at: Bench, *, first: int, count: int, sizes: Sequence[Size], everywhere: bool = False) -> None:
    """Add projects. ``everywhere``: their wheels were built for every target."""
    upto, shares = 0, []
    for size in sizes:
        upto += size.share
        shares.append((upto, size.releases, size.files))
    facts = {"first": first, "last": first + count - 1, "everywhere": everywhere}
    facts |= {"shares": [share for share, _, _ in shares], "releases": [size for _, size, _ in shares]}
    facts |= {"files": [size for _, _, size in shares], "contents": CONTENTS}
    with at.connect() as conn:
        conn.execute("SET session_replication_role = replica")  # the rows are right; no need to look each one up
        for statement in _FILL:
            conn.execute(statement, {key: value for key, value in facts.items() if f"%({key})s" in statement})
        conn.execute("VACUUM ANALYZE")
        conn.execute("CHECKPOINT")


_FILL = (
    "DROP TABLE IF EXISTS bench_projects",
    """CREATE UNLOGGED TABLE bench_projects AS
    SELECT n AS number, 'bench' || lpad(n::text, 7, '0') AS name, s.releases, s.files
    FROM generate_series(CAST(%(first)s AS int), CAST(%(last)s AS int)) AS n, LATERAL (
        SELECT * FROM unnest(%(shares)s::int[], %(releases)s::int[], %(files)s::int[]) AS x(upto, releases, files)
        WHERE n * 37 %% 100 < x.upto ORDER BY x.upto LIMIT 1) AS s""",
    """INSERT INTO projects (name, display_name, summary, serial)
    SELECT name, initcap(name), 'Reads temperatures, draws them & sends them <elsewhere>: number ' || number, number
    FROM bench_projects""",
    """INSERT INTO project_names (project_id, name)
    SELECT p.id, p.display_name FROM projects p JOIN bench_projects b USING (name)""",
    """INSERT INTO releases (project_id, version, sort_key, released, requires_python, wanted)
    SELECT p.id, v.version, v.sort_key, '2020-01-01'::timestamptz + v.number * interval '3 days', '>=3.8',
        v.number > b.releases - b.files
    FROM bench_projects b JOIN projects p USING (name) JOIN bench_versions v ON v.number <= b.releases""",
    """INSERT INTO upstream_files (release_id, filename, kind, size, sha256, url, uploaded)
    SELECT r.id, p.name || '-' || r.version || '.tar.gz', 'sdist', 1000, sha256(r.id::text::bytea),
        'https://files.example.org/' || p.name || '-' || r.version || '.tar.gz', r.released
    FROM bench_projects b JOIN projects p USING (name) JOIN releases r ON r.project_id = p.id""",
    """INSERT INTO upstream_files (release_id, filename, kind, size, requires_python, uploaded)
    SELECT r.id, p.name || '-' || r.version || w.ending, 'wheel', 1000, '>=3.8', r.released
    FROM bench_projects b JOIN projects p USING (name) JOIN releases r ON r.project_id = p.id,
        unnest(ARRAY['-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl', '-cp311-cp311-win_amd64.whl',
            '-cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64.whl']) AS w(ending)
    WHERE b.number %% 3 = 0""",
    # A success on the oldest target for each release that has a wheel; and a failure of the newest on the next.
    """INSERT INTO builds (release_id, target_id, token, started, finished, duration, outcome, has_log)
    SELECT r.id, t.id, gen_random_uuid(), r.released, r.released + interval '1 hour', interval '83.25 s', 'success',
        true
    FROM bench_projects b JOIN projects p USING (name) JOIN releases r ON r.project_id = p.id AND r.wanted
        JOIN targets t ON CAST(%(everywhere)s AS boolean) OR t.rank = (SELECT min(rank) FROM targets)""",
    """INSERT INTO builds (release_id, target_id, token, started, finished, duration, outcome, reason, detail, has_log)
    SELECT r.id, t.id, gen_random_uuid(), r.released, r.released + interval '2 hours', interval '12.5 s', 'failed',
        'package', E'error: command gcc failed\\nwith exit status 1', false
    FROM bench_projects b JOIN projects p USING (name) JOIN LATERAL (
            SELECT * FROM releases WHERE project_id = p.id ORDER BY sort_key DESC LIMIT 1) AS r ON true
        JOIN targets t ON t.rank = (SELECT min(rank) FROM targets WHERE rank > 100)
            AND NOT CAST(%(everywhere)s AS boolean)""",
    """INSERT INTO files (build_id, filename, size, sha256, requires_python, metadata_sha256, uploaded)
    SELECT u.id, p.name || '-' || r.version || '-cp' || replace(t.python_version, '.', '') || '-'
        || t.abi || '-' || t.platform || '.whl', 20000, c.wheel, '>=3.8', c.metadata, u.finished
    FROM bench_projects b JOIN projects p USING (name) JOIN releases r ON r.project_id = p.id
        JOIN builds u ON u.release_id = r.id AND u.outcome = 'success' JOIN targets t ON t.id = u.target_id
        JOIN bench_contents c ON c.number = u.id %% %(contents)s""",
    """INSERT INTO dependencies (file_id, tool, name)
    SELECT f.id, d.tool::dependency_tool, d.name FROM bench_projects b JOIN projects p USING (name)
        JOIN releases r ON r.project_id = p.id JOIN builds u ON u.release_id = r.id JOIN files f ON f.build_id = u.id,
        (VALUES ('apt', 'libopenblas0'), ('apt', 'libc6'), ('pip', 'numpy')) AS d(tool, name)""",
    """INSERT INTO download_days (project_id, day, count)
    SELECT p.id, current_date - d, 1 + (b.number + d) %% 50 FROM bench_projects b JOIN projects p USING (name),
        generate_series(0, 39) AS d WHERE b.number %% 10 = 0""",
)
