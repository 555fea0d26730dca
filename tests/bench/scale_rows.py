# SPDX-License-Identifier: BSD-3-Clause
"""Rows of a farm as big as PyPI, made by the database itself: nothing travels, and nothing is logged twice.

Owns what the farm of ``bench-scale`` contains, and the statements that fill it in. The rows are such that the planner
would decide about them as they say: what has no job is served, built, excluded or given up, so that measuring it does
not begin with repairs. Numbers are chosen by hashes, so the same fraction gives the same farm.

Projects are of seven kinds (:data:`KINDS`), in PyPI's proportions as far as the farm notices them. Releases per project
follow a power law (the number at the quantile u is proportional to u^-0.75, 3 000 at most): half of the projects have
five or fewer, a thousandth of them a tenth of all releases.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from piwheels.versions import sort_key

PROJECTS = 740_000
MEAN_RELEASES = 12.0  #: with the cut at the most, 11.1: 8.2 million releases
MOST_RELEASES = 3_000  #: of one project
WAITING = 0.249  #: share of the releases still to be built, among those that are to be: makes a million jobs
POPULAR = 0.04  #: share of the projects that were downloaded in the last days
SLAVES = 20  #: builders of each target

SDIST, PURE = ".tar.gz", "-py3-none-any.whl"
PYTHONS = ("39", "310", "311", "312", "313")
PLATFORMS = (
    "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "manylinux_2_17_aarch64.manylinux2014_aarch64",
    "win_amd64",
    "macosx_11_0_arm64",
    "macosx_10_9_x86_64",
)
MANY = tuple(f"-cp{python}-cp{python}-{platform}.whl" for python in PYTHONS for platform in PLATFORMS)
FEW = tuple(f"-cp311-cp311-{platform}.whl" for platform in (PLATFORMS[0], "win_amd64", "macosx_11_0_arm64"))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of project."""

    share: int  #: of a thousand projects
    files: tuple[str, ...]  #: that PyPI has of each release, by the end of their names
    built: str  #: for which targets there are builds, or jobs: a condition on targets t, t.place counts the eligible
    succeeds: bool = True
    waits: bool = True  #: some of its releases are not built yet
    native: bool = False
    requires_python: str | None = None  #: of all its projects; None: by chance


_NOTHING, _FIRST, _ALL = "false", "t.place = 1", "true"

#: By name.
KINDS = {
    # PyPI's own wheel serves everybody; what we have of it is from the days when everything was built.
    "served": Kind(600, (SDIST, PURE), "t.place <= 2", waits=False),
    "pure": Kind(180, (SDIST,), _FIRST),
    # PyPI has wheels for 64-bit ARM.
    "many": Kind(75, (SDIST, *MANY, "-pp310-pypy310_pp73-win_amd64.whl"), "t.arch = 'armv7l'", native=True),
    "native": Kind(40, (SDIST, *FEW), _ALL, native=True),
    "failing": Kind(30, (SDIST,), "t.place <= 2", succeeds=False, waits=False),
    "wheels": Kind(55, (PURE,), _NOTHING, waits=False),
    "ancient": Kind(20, (SDIST,), _NOTHING, waits=False, requires_python="<3"),
}

#: Requires-Python by chance: of a hundred projects, so many have it.
REQUIRES = ((35, None), (25, ">=3.6"), (20, ">=3.8"), (17, ">=3.9"), (3, ">=3.12"))


def versions() -> Iterator[tuple[int, str, bytes]]:
    """Number, version and sort key of the first to the last release that a project can have; in order."""
    for number in range(1, MOST_RELEASES + 1):
        version = f"{number // 100}.{number // 10 % 10}.{number % 10}" + ("rc1" if number % 29 == 0 else "")
        yield number, version, sort_key(version)


def shapes() -> Iterator[tuple[str, int, str, str]]:
    """Kind, number, end of name and kind of each file that a release has."""
    for name, kind in KINDS.items():
        for number, suffix in enumerate(kind.files):
            yield name, number, suffix, "wheel" if suffix.endswith(".whl") else "sdist"


def _kind() -> str:
    """The kind of a project from a number below a thousand."""
    limit, cases = 0, []
    for name, kind in KINDS.items():
        limit += kind.share
        cases.append(f"WHEN {{0}} < {limit} THEN '{name}'")
    return f"CASE {' '.join(cases)} END"


def _requires() -> str:
    limit, cases = 0, [f"WHEN kind = '{n}' THEN '{k.requires_python}'" for n, k in KINDS.items() if k.requires_python]
    for share, requires in REQUIRES:
        limit += share
        cases.append(f"WHEN {{0}} < {limit} THEN {'NULL' if requires is None else repr(requires)}")
    return f"CASE {' '.join(cases)} END"


def _built() -> str:
    return " OR ".join(f"(p.kind = '{name}' AND {kind.built})" for name, kind in KINDS.items())


def _names(*, trait: str) -> str:
    """The kinds of which something is true, as a list of SQL's."""
    return ", ".join(f"'{name}'" for name, kind in KINDS.items() if getattr(kind, trait))


def _chance(what: str, salt: int, below: int) -> str:
    """A number below another one, of something that has a number; always the same."""
    return f"((hashint8extended({what}, {salt}) & 9007199254740991) % {below})"


#: What is made before anything else: working tables, in a schema of their own.
PREPARE = (
    "CREATE SCHEMA scale",
    "CREATE UNLOGGED TABLE scale.versions (n integer PRIMARY KEY, version text, sort_key bytea)",
    "CREATE UNLOGGED TABLE scale.shapes (kind text, n integer, suffix text, file_kind upstream_kind)",
    """CREATE UNLOGGED TABLE scale.projects (id bigint PRIMARY KEY, name text, module text, releases integer, kind text,
       popularity double precision, born timestamptz, requires_python text)""",
    # Which targets a release can be built for, by its Requires-Python, oldest first.
    """CREATE UNLOGGED TABLE scale.places (requires_python text, target_id integer, arch text, place integer)""",
    "CREATE UNLOGGED TABLE scale.made (fraction double precision, generator text, seconds double precision)",
)

_PROJECTS = f"""
INSERT INTO scale.projects
SELECT id, name, replace(name, '-', '_'),
       greatest(1, least({MOST_RELEASES},
           floor({MEAN_RELEASES} / 4 * quantile ^ -0.75 + {_chance("id", 1, 1000)} / 1000.0)))::integer,
       kind, 1 - quantile,
       now() - interval '1 hour' - interval '12 years' * ({_chance("id", 2, 1000)} + 1) / 1000.0,
       {_requires().format(_chance("id", 3, 100))}
FROM (
    SELECT id, (id * 104729 % {{projects}} + 0.5)::double precision / {{projects}} AS quantile,
           'scale-' || substr(md5(id::text), 1, 4 + (id % 7)::integer) || '-' || id AS name,
           {_kind().format(_chance("id", 4, 1000))} AS kind
    FROM generate_series(1::bigint, {{projects}}) AS id
) AS one"""

_PLACES = """
INSERT INTO scale.places
SELECT requires, id, split_part(platform, 'linux_', 2), row_number() OVER (PARTITION BY requires ORDER BY rank)
FROM targets, unnest(ARRAY['', '>=3.6', '>=3.8', '>=3.9', '>=3.12']) AS requires
WHERE enabled AND NOT (requires = '>=3.12' AND python_version = '3.11')"""

_PROJECT_ROWS = """
INSERT INTO projects (id, name, display_name, summary, serial) OVERRIDING SYSTEM VALUE
SELECT id, name, name, 'A project that does what its name says, number ' || id, id FROM scale.projects"""

_RELEASES = """
INSERT INTO releases (project_id, version, sort_key, released, requires_python)
SELECT p.id, v.version, v.sort_key, p.born + (now() - p.born) * (n::double precision / p.releases), p.requires_python
FROM scale.projects AS p, generate_series(1, p.releases) AS n JOIN scale.versions AS v USING (n)"""

_FILES_OF_PYPI = """
INSERT INTO upstream_files (release_id, filename, kind, size, sha256, url, requires_python, uploaded)
SELECT r.id, filename, s.file_kind, 10000 + r.id % 100000, CASE WHEN s.file_kind = 'sdist' THEN sha END,
       CASE WHEN s.file_kind = 'sdist' THEN 'https://files.example/packages/' || substr(sha::text, 3, 2) || '/'
            || substr(sha::text, 5, 2) || '/' || substr(sha::text, 7, 60) || '/' || filename END,
       p.requires_python, r.released
FROM releases AS r
JOIN scale.projects AS p ON p.id = r.project_id
JOIN scale.shapes AS s ON s.kind = p.kind,
LATERAL (SELECT p.module || '-' || r.version || s.suffix, sha256(int8send(r.id * 32 + s.n))) AS made (filename, sha)"""

# A release waits or not as a whole, and pre-releases never do: whether they are built is a matter of policy.
_WAITS = f"""(p.kind IN ({_names(trait="waits")}) AND {_chance("r.id", 5, 1000)} < {round(WAITING * 1000)}
    AND right(r.version, 3) <> 'rc1')"""

#: One that ended, and for two kinds of three an earlier one that does not count any more.
_BUILDS = f"""
INSERT INTO builds (release_id, target_id, slave_id, token, started, finished, duration, outcome, reason, detail,
                    superseded, peak_memory, cpu_seconds, built_from, built_with, has_log)
SELECT r.id, t.target_id, s.id, gen_random_uuid(), at, at + took, took,
       CASE WHEN ok THEN 'success' ELSE 'failed' END::build_outcome,
       CASE WHEN ok THEN NULL WHEN earlier THEN 'network' ELSE 'package' END::failure_reason,
       CASE WHEN ok THEN '' ELSE 'error: the build ended with status 1' END, earlier, 50000000 + r.id % 400000000,
       (r.id % 500) / 3.0, sha256(int8send(r.id * 32)),
       CASE WHEN ok THEN '{{"pip": "24.0", "setuptools": "69.1.0", "wheel": "0.42.0"}}'::jsonb END, true
FROM (
    SELECT r.id, r.released, t.target_id, p.kind, earlier, p.kind IN ({_names(trait="succeeds")}) AND NOT earlier AS ok
    FROM releases AS r
    JOIN scale.projects AS p ON p.id = r.project_id
    JOIN scale.places AS t ON t.requires_python = coalesce(p.requires_python, '')
    JOIN (VALUES (false), (true)) AS twice (earlier) ON p.kind IN ({_names(trait="waits")}) OR NOT earlier
    WHERE ({_built()}) AND NOT {_WAITS}
) AS r
CROSS JOIN LATERAL (SELECT r.target_id,
    r.released + interval '1 day' * (r.id % 20 + CASE WHEN earlier THEN 0 ELSE 30 END),
    interval '1 second' * (5 + r.id % 300)) AS t (target_id, at, took)
JOIN slaves AS s ON s.target_id = t.target_id AND s.board_serial = (r.id % {SLAVES})::text"""

_FILES = f"""
INSERT INTO files (build_id, filename, size, sha256, requires_python, metadata_sha256, top_level, uploaded)
SELECT b.id, p.module || '-' || r.version || CASE WHEN p.kind IN ({_names(trait="native")})
           THEN '-' || t.abi || '-' || t.abi || '-' || t.platform || '.whl' ELSE '{PURE}' END,
       20000 + b.id % 1000000, sha256(int8send(b.id)), r.requires_python, sha256(int8send(-b.id)), ARRAY[p.module],
       b.finished
FROM builds AS b
JOIN releases AS r ON r.id = b.release_id
JOIN scale.projects AS p ON p.id = r.project_id
JOIN targets AS t ON t.id = b.target_id
WHERE b.outcome = 'success' AND (p.kind <> 'served' OR t.name = 'bookworm-armhf' AND r.id % 2 = 0)"""

_DEPENDENCIES = """
INSERT INTO dependencies (file_id, tool, name)
SELECT f.id, tool::dependency_tool, name
FROM files AS f
CROSS JOIN (VALUES ('apt', 'libc6', 1), ('apt', 'libgcc-s1', 1), ('apt', 'libstdc++6', 2), ('apt', 'zlib1g', 3),
                   ('pip', 'numpy', 2), ('', 'libfoo.so.1', 4), ('apt', 'libopenblas0-pthread', 1)
    ) AS d (tool, name, each)
WHERE right(f.filename, 8) <> '-any.whl' AND f.id % each = 0"""

_DOWNLOADS = f"""
INSERT INTO download_days (project_id, day, arch, distro, python, installer, count)
SELECT id, current_date - day, arch, 'Raspbian GNU/Linux', '3.11', 'pip',
       greatest(1, (1 / (1.0000001 - popularity))::bigint / 8)
FROM scale.projects, generate_series(1, 30) AS day, unnest(ARRAY['armv7l', 'aarch64']) AS arch
WHERE popularity > {1 - POPULAR}"""

_JOBS = f"""
INSERT INTO jobs (release_id, target_id, priority, downloads, released, created_at)
SELECT r.id, t.target_id, CASE WHEN r.released > now() - interval '7 days' THEN 1 ELSE 3 END,
       coalesce(d.downloads, 0), r.released, now()
FROM releases AS r
JOIN scale.projects AS p ON p.id = r.project_id
JOIN scale.places AS t ON t.requires_python = coalesce(p.requires_python, '')
LEFT JOIN (SELECT project_id, sum(count) AS downloads FROM download_days GROUP BY 1) AS d ON d.project_id = p.id
WHERE ({_built()}) AND {_WAITS}"""

_PUBLISHED = """
INSERT INTO published (name, listed, files)
SELECT name, kind NOT IN ('wheels', 'ancient', 'failing'), releases FROM scale.projects"""

#: Builders: Z85 keys of 40 characters.
_SLAVES = f"""
INSERT INTO slaves (key, label, target_id, os_name, os_version, board, board_serial, agent)
SELECT 'scale' || lpad(t.id::text, 5, '0') || lpad(n::text, 30, '0'), 'scale-' || t.name || '-' || n, t.id, 'debian',
       t.distribution, 'd03114', n::text, 'bench'
FROM targets AS t, generate_series(0, {SLAVES - 1}) AS n"""


@dataclass(frozen=True, slots=True)
class Step:
    """One table filled in, in one transaction."""

    table: str
    statement: str


#: In order. Those of :data:`BESIDE` may run beside those after them, once ``releases`` is there.
STEPS = (
    Step("scale.projects", _PROJECTS),
    Step("slaves", _SLAVES),
    Step("scale.places", _PLACES),
    Step("projects", _PROJECT_ROWS),
    Step("project_names", "INSERT INTO project_names (project_id, name) SELECT id, name FROM scale.projects"),
    Step("published", _PUBLISHED),
    Step("download_days", _DOWNLOADS),
    Step("releases", _RELEASES),
)
BESIDE = (Step("upstream_files", _FILES_OF_PYPI),)
AFTER = (
    Step("builds", _BUILDS),
    Step("files", _FILES),
    Step("dependencies", _DEPENDENCIES),
    Step("jobs", _JOBS),
)
TABLES = tuple(step.table for step in (*STEPS, *BESIDE, *AFTER) if not step.table.startswith("scale."))
