# SPDX-License-Identifier: BSD-3-Clause
"""What a request for the published tree means: which file answers it, under which URL, with which headers.

Pure decisions over text; must not know sockets, HTTP libraries or the disk. ``piwheels.site.web`` executes them, and
the nginx and Apache configurations in ``master/`` say the same in their own words.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from urllib.parse import quote, unquote_to_bytes

from packaging.utils import canonicalize_name

PAGE_SECONDS = 120  #: how long a page may be kept by caches
LOG_SECONDS = 86400  #: a build's log does not change, but its location is not promised for ever
FOREVER = "public, max-age=365000000, immutable"  #: for what is bound to its bytes: wheels and their metadata
LONGEST_PATH = 2000  #: characters of a URL's path, as sent
DEEPEST_PATH = 12  #: segments


class Kind(StrEnum):
    """What sort of thing a URL denotes."""

    INDEX = "index"  #: a page of the simple repository API, in the representation the client likes best
    PAGE = "page"  #: a directory with an index.html
    JSON = "json"  #: /project/<p>/json, with and without a slash at the end
    FILE = "file"  #: the bytes of one file (or a directory whose slash was forgotten: the disk knows)


class Representation(StrEnum):
    """Media types of the simple repository API (PEP 691)."""

    JSON = "application/vnd.pypi.simple.v1+json"
    HTML = "application/vnd.pypi.simple.v1+html"
    LEGACY = "text/html"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the file that holds it, best first."""
        if self is Representation.JSON:
            return ("index.v1_json",)
        return ("index.v1_html", "index.html") if self is Representation.HTML else ("index.html", "index.v1_html")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for."""

    kind: Kind
    path: PurePosixPath  #: below the published tree's root; a directory for INDEX, PAGE and JSON
    canonical: str  #: the URL path under which it is served; any other spelling is redirected there


INDEX_FILES = frozenset(("index.html", "index.v1_html", "index.v1_json"))
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".v1_html": Representation.HTML,
    ".v1_json": Representation.JSON,
    ".whl": "application/octet-stream",
    ".metadata": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain; charset=utf-8",
    ".xml": "application/xml",
    ".atom": "application/atom+xml",
    ".gz": "application/gzip",
    ".zst": "application/zstd",
}


def segments(raw_path: str) -> tuple[tuple[str, ...], bool] | None:
    """Split a URL's path, as sent, into decoded segments and whether a slash ended it; None for one we refuse.

    Refused: what is too long or too deep, empty and hidden segments (and so ``.`` and ``..``), anything that decodes
    to a slash, a backslash or a control character, and what is not UTF-8.
    """
    if not raw_path.startswith("/") or len(raw_path) > LONGEST_PATH:
        return None
    slash = raw_path.endswith("/")
    parts = raw_path[1:-1] if slash and len(raw_path) > 1 else raw_path[1:]
    if not parts:
        return (), True
    names = parts.split("/")
    if len(names) > DEEPEST_PATH:
        return None
    decoded = tuple(_segment(name) for name in names)
    return None if None in decoded else (tuple(name for name in decoded if name is not None), slash)


def _segment(text: str) -> str | None:
    try:
        name = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    bad = not name or name.startswith(".") or len(name.encode()) > 255 or any(c in "/\\\x7f" or c < " " for c in name)
    return None if bad else name


def wanted(names: tuple[str, ...]) -> Wanted:
    """Say what the segments of a URL denote."""
    match names:
        case ():
            return _directory(Kind.PAGE, ())
        case ("p", name):
            return _directory(Kind.PAGE, ("project", canonicalize_name(name)))
        case ("project", name, "json"):
            path = ("project", canonicalize_name(name), "json")
            return Wanted(Kind.JSON, PurePosixPath(*path), _url(path))
        case ("project", name):
            return _directory(Kind.PAGE, ("project", canonicalize_name(name)))
        case ("project", name, *rest):
            return _file(("project", canonicalize_name(name), *rest))
        case ("simple", *rest):
            return _simple(("simple",), tuple(rest))
        case (distribution, "simple", *rest):
            return _simple((distribution, "simple"), tuple(rest))
        case _:
            return _file(names)


def _simple(root: tuple[str, ...], rest: tuple[str, ...]) -> Wanted:
    match rest:
        case ():
            return _directory(Kind.INDEX, root)
        case (name,) if name in INDEX_FILES:
            return _file((*root, name))
        case (name,):
            # PEP 503: names are normalised in URLs, and a server may redirect other spellings.
            return _directory(Kind.INDEX, (*root, canonicalize_name(name)))
        case (name, *others):
            return _file((*root, canonicalize_name(name), *others))
    raise AssertionError("a sequence is empty, of one, or longer")


def _directory(kind: Kind, path: tuple[str, ...]) -> Wanted:
    return Wanted(kind, PurePosixPath(*path), _url(path) + ("/" if path else ""))


def _file(path: tuple[str, ...]) -> Wanted:
    return Wanted(Kind.FILE, PurePosixPath(*path), _url(path))


def _url(path: tuple[str, ...]) -> str:
    # A segment is never empty, so this cannot come to "//host", which a browser would take for another site.
    return "/" + "/".join(quote(name, safe="!+,:=@~") for name in path)


def is_canonical(want: Wanted, names: tuple[str, ...], *, slash: bool) -> bool:
    """Whether the request spelled the URL as we do."""
    if _url(names) != want.canonical.rstrip("/") and names:
        return False
    return want.kind is Kind.JSON or slash == want.canonical.endswith("/")


def content_type(name: str) -> tuple[str, str]:
    """Media type and content encoding of a file, by its name."""
    if name.endswith(".txt.gz"):  # build logs are kept compressed and read as text
        return CONTENT_TYPES[".txt"], "gzip"
    if re.fullmatch(r"[0-9]+\.html\.gz", name):  # so are their pages
        return CONTENT_TYPES[".html"], "gzip"
    return CONTENT_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"), ""


def cache_control(path: PurePosixPath) -> str:
    """How long a file may be kept by caches."""
    if path.name.endswith((".whl", ".whl.metadata")):
        return FOREVER
    return f"public, max-age={LOG_SECONDS if path.parts[:1] == ('logs',) else PAGE_SECONDS}"


# Content negotiation: RFC 9110 12.5.1 and PEP 691.

_RANGE = re.compile(r"\s*([A-Za-z0-9!#$&^_.+*-]{1,100})/([A-Za-z0-9!#$&^_.+*-]{1,100})\s*((?:;[^,]{0,200})?)")
_QUALITY = re.compile(r";\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)
_LATEST = {
    "application/vnd.pypi.simple.latest+json": Representation.JSON,
    "application/vnd.pypi.simple.latest+html": Representation.HTML,
}


def parse_accept(header: str) -> dict[str, float]:
    """Media ranges of an Accept header with their quality; what cannot be parsed is ignored."""
    ranges: dict[str, float] = {}
    for item in header[:4000].split(",")[:50]:
        found = _RANGE.fullmatch(item)
        if found is None:
            continue
        quality = _QUALITY.search(found[3])
        value = min(float(quality[1]), 1.0) if quality else 1.0
        name = f"{found[1]}/{found[2]}".lower()
        name = _LATEST.get(name, name)
        ranges[name] = max(value, ranges.get(name, 0.0))
    return ranges


_CODING = re.compile(r"\s*([A-Za-z0-9!#$&^_.+*-]{1,100})\s*((?:;[^,]{0,200})?)")


def takes(accept_encoding: str, coding: str) -> bool:
    """Whether a client that says this of encodings takes one of them; it must be named, as one that names none may be
    an old one."""
    for item in accept_encoding[:4000].split(",")[:50]:
        found = _CODING.fullmatch(item)
        if found is not None and found[1].lower() == coding:
            quality = _QUALITY.search(found[2])
            return quality is None or float(quality[1]) > 0
    return False


def negotiate(accept: str) -> Representation:
    """Choose the representation a client likes best.

    Among equals what was named beats what a wildcard covers, then JSON, then HTML; where only wildcards match, and
    where nothing does (PEP 691 allows a server not to answer 406), it is plain HTML, which everything understands.
    """
    ranges = parse_accept(accept)
    best, best_rank = Representation.LEGACY, (0.0, 0, 0)
    for order, choice in enumerate(reversed(Representation)):
        quality, specificity = _liking(ranges, choice)
        preference = order if specificity else choice is Representation.LEGACY
        rank = (quality, specificity, int(preference))
        if quality > 0 and rank > best_rank:
            best, best_rank = choice, rank
    return best


def _liking(ranges: dict[str, float], choice: Representation) -> tuple[float, int]:
    """Quality and specificity of the most specific range that covers a media type."""
    for specificity, name in ((2, str(choice)), (1, choice.split("/")[0] + "/*"), (0, "*/*")):
        if name in ranges:
            return ranges[name], specificity
    return 0.0, 0
