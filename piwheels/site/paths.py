# SPDX-License-Identifier: BSD-3-Clause
"""Where each file of the published tree is, relative to its root; the URL under the farm's base is the same path.

Pure: knows names, touches no disk. Every function refuses a name that could lead out of its own directory, since names
come from PyPI and from builders.
"""

import re
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import quote

# PEP 503: what a canonical name looks like; the schema has the same check.
_PROJECT = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# What a wheel's name may hold: PEP 427's escaped parts, PEP 440's epoch (!) and local (+) signs.
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl")

# What a target may say that its distribution is called.
_DISTRIBUTION = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")
_ANOTHER = "distribution-"  #: begins the directory of a distribution that cannot have its own name
#: Directories of ours in which a directory called ``simple`` means something else, or may one day.
TAKEN = frozenset(("simple", "project", "p", "all", "logs", "static", "schema"))

SIMPLE = PurePosixPath("simple")
MERGED = "all/"  #: the name of the index of PyPI's files and ours together; no distribution's
PROJECT = PurePosixPath("project")
LOGS = PurePosixPath("logs")
STATIC = PurePosixPath("static")
HOME_PAGE = PurePosixPath("index.html")
NOT_FOUND_PAGE = PurePosixPath("404.html")
ROBOTS = PurePosixPath("robots.txt")
FAVICON = PurePosixPath("favicon.ico")
SITEMAP = PurePosixPath("sitemap.xml")
SITEMAPS = PurePosixPath("sitemap")  #: the directory of the parts that SITEMAP lists
SEARCH_PAGE = PurePosixPath("search/index.html")
SEARCH_SHARDS = PurePosixPath("search/names")  #: the directory of what the search page looks names up in
STATS_PAGE = PurePosixPath("stats/index.html")
STATUS_PAGE = PurePosixPath("status/index.html")
FAQ_PAGE = PurePosixPath("faq/index.html")
API_PAGE = PurePosixPath("api/index.html")
PACKAGES_JSON = PurePosixPath("packages.json")
PROJECT_SCHEMA = PurePosixPath("schema/project.json")
CHANGES_SCHEMA = PurePosixPath("schema/changes.json")
CHANGES = PurePosixPath("changes")  #: the directory of the pages with older ones
CHANGES_JSON = PurePosixPath("changes.json")
CHANGES_ATOM = PurePosixPath("changes.atom")
DUMP = PurePosixPath("pypi-metadata.json.zst")
DUMP_ABOUT = PurePosixPath("pypi-metadata")  #: the directory of what is said of the dump, for people and for programs

INDEX_HTML = "index.html"  #: for plain servers that do not negotiate
INDEX_V1_HTML = "index.v1_html"  #: application/vnd.pypi.simple.v1+html
INDEX_V1_JSON = "index.v1_json"  #: application/vnd.pypi.simple.v1+json
INDEX_PAGES = (INDEX_V1_JSON, INDEX_V1_HTML, INDEX_HTML)  #: the pages of one index directory, in the order of writing


def check_project(name: str) -> str:
    """The name itself, if it is canonical (PEP 503) and so fit to be a directory's name; else ValueError."""
    if len(name) > 200 or not _PROJECT.fullmatch(name):
        raise ValueError(f"not a canonical project name: {name[:80]!r}")
    return name


def check_wheel(filename: str) -> str:
    """The file name itself, if it is fit to be a wheel's name in a directory; else ValueError."""
    if len(filename) > 255 - len(".metadata") or not _WHEEL.fullmatch(filename):
        raise ValueError(f"not fit to be published as a wheel: {filename[:80]!r}")
    return filename


@lru_cache(maxsize=1000)
def index_dir(space: str) -> PurePosixPath:
    """The directory of an index: of all wheels (the empty name), of a distribution's own, or of PyPI's files too.

    A distribution is called after by whoever adds a target. One whose directory would mean something else, or would
    be taken for a file, gets another.
    """
    if not space:
        return SIMPLE
    if space == MERGED:
        return PurePosixPath("all") / SIMPLE
    if space in ("", ".", "..") or not _DISTRIBUTION.fullmatch(space):
        raise ValueError(f"not a distribution's name: {space[:80]!r}")
    if space in TAKEN or "." in space or space.startswith(_ANOTHER):
        return PurePosixPath(_ANOTHER + space) / SIMPLE
    return PurePosixPath(space) / SIMPLE


@lru_cache(maxsize=1000)
def simple_dir(project: str, space: str = "") -> PurePosixPath:
    """The directory of a project's index pages, wheels and their metadata, in one of the indexes."""
    return index_dir(space) / check_project(project)


def wheel_path(project: str, filename: str) -> PurePosixPath:
    """A wheel in the published tree."""
    return simple_dir(project) / check_wheel(filename)


def metadata_path(project: str, filename: str) -> PurePosixPath:
    """A wheel's METADATA beside it (PEP 658: the wheel's URL with .metadata appended)."""
    return simple_dir(project) / (check_wheel(filename) + ".metadata")


@lru_cache(maxsize=1000)
def project_dir(project: str) -> PurePosixPath:
    """The directory of a project's page for people."""
    return PROJECT / check_project(project)


def project_page(project: str) -> PurePosixPath:
    """A project's page for people."""
    return project_dir(project) / INDEX_HTML


def releases_page(project: str, number: int) -> PurePosixPath:
    """One of the pages that have what does not go on a project's own."""
    return project_dir(project) / f"releases-{number}.html"


def project_json(project: str) -> PurePosixPath:
    """A project's page for programs; its URL is the directory."""
    return project_dir(project) / "json" / "index.json"


def project_feed(project: str) -> PurePosixPath:
    """A project's Atom feed."""
    return project_dir(project) / "changes.atom"


def project_badge(project: str) -> PurePosixPath:
    """A project's badge, for its README."""
    return project_dir(project) / "badge.svg"


def changes_page(number: int) -> PurePosixPath:
    """A page of older changes, by number from 1."""
    return CHANGES / f"{number}.json"


def log_path(build_id: int) -> PurePosixPath:
    """The log of a build: gzip, UTF-8 text. At most a thousand files or directories in each directory."""
    return PurePosixPath(log_place(build_id) + ".txt.gz")


def log_place(build_id: int) -> str:
    """Where the log of a build is, without the ending that says in which form."""
    if build_id < 1:
        raise ValueError(f"not the number of a build: {build_id}")
    return f"{LOGS}/{build_id // 1_000_000:04d}/{build_id // 1000 % 1000:03d}/{build_id}"


def log_page(build_id: int) -> PurePosixPath:
    """The same for people: gzip, HTML, beside it."""
    return PurePosixPath(log_place(build_id) + ".html.gz")


def url_path(path: PurePosixPath) -> str:
    """The path as a URL spells it: everything but letters, digits, ``-._~`` and slashes is percent-encoded.

    ``+`` too: object stores read a bare one as a space.
    """
    return quote(str(path), safe="/")
