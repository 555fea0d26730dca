# SPDX-License-Identifier: BSD-3-Clause
"""The simple repository API, version 1.4: a project's files and the list of projects, as JSON and as HTML.

Pure: a model in, bytes out, the same for the same model. Both renderings are made from :class:`File`, so that they
cannot disagree about what a file is. Sources: PEP 503, 592, 629, 658, 691, 700, 714 and 792, and what pip, uv and
poetry do in fact.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import quote

from piwheels.site.model import ProjectPage, Wheel
from piwheels.vocabulary import ProjectStatus

API_VERSION = "1.4"

_HEAD = (
    "<!DOCTYPE html>\n"
    '<html lang="en">\n<head>\n'
    '<meta charset="utf-8">\n'
    f'<meta name="pypi:repository-version" content="{API_VERSION}">\n'  # PEP 629
)


@dataclass(frozen=True, slots=True)
class File:
    """What the index says of one file, in the API's own terms."""

    filename: str
    url: str  #: absolute, or relative to the project's page; PEP 691 asks for the file name as its last part
    sha256: str | None  #: None: PyPI did not say, as of the rest that may be None; of our own files all is known
    size: int | None  #: PEP 700; uv drops the whole page over a null, so it is left out
    upload_time: str | None  #: PEP 700: UTC, with Z and microseconds
    requires_python: str | None
    yanked: str | None  #: the reason, maybe empty; None: not yanked
    metadata_sha256: str | None

    @classmethod
    def of(cls, wheel: Wheel) -> "File":
        """The index's view of a wheel."""
        return cls(
            filename=wheel.filename,
            url=quote(wheel.filename, safe=""),
            sha256=wheel.sha256.hex(),
            size=wheel.size,
            upload_time=upload_time(wheel.uploaded),
            requires_python=wheel.requires_python,
            yanked=wheel.yanked_reason if wheel.yanked else None,
            metadata_sha256=wheel.metadata_sha256.hex(),
        )


def upload_time(moment: datetime) -> str:
    """PEP 700's format."""
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:26]}Z"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a page lists."""

    versions: tuple[str, ...]
    files: tuple[File, ...]

    @classmethod
    def of(cls, page: ProjectPage) -> "Listing":
        """A project's wheels, oldest release first."""
        wheels = page.wheels
        return cls(tuple(dict.fromkeys(wheel.version for wheel in wheels)), tuple(map(File.of, wheels)))


def project_json(page: ProjectPage, listing: Listing | None = None) -> bytes:
    """A project's page in JSON (PEP 691). Only for a project that has files: others have no page. ``listing``: what it
    lists instead of the project's wheels."""
    listing = listing or Listing.of(page)
    status: dict[str, str] = {"status": page.status.value}  # PEP 792
    if page.status_reason:
        status["reason"] = page.status_reason
    return _dump(
        {
            "meta": {"api-version": API_VERSION, "_last-serial": page.serial},
            "name": page.name,
            "project-status": status,
            "versions": list(listing.versions),
            "files": [_file_json(file) for file in listing.files],
        }
    )


def _file_json(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": file.filename,
        "url": file.url,
        "hashes": {"sha256": file.sha256} if file.sha256 else {},
        # PEP 691: a non-empty string is the reason; without one it is a boolean.
        "yanked": False if file.yanked is None else file.yanked or True,
    }
    if file.size is not None:
        entry["size"] = file.size
    if file.upload_time is not None:
        entry["upload-time"] = file.upload_time
    if file.metadata_sha256 is not None:
        # PEP 714: this key and not dist-info-metadata, which pip 22.3 to 23.0 misread.
        entry["core-metadata"] = {"sha256": file.metadata_sha256}
    if file.requires_python is not None:
        entry["requires-python"] = file.requires_python
    return entry


def project_html(page: ProjectPage, listing: Listing | None = None) -> bytes:
    """The same in HTML (PEP 503)."""
    listing = listing or Listing.of(page)
    title = escape(f"Links for {page.name}")
    meta = _meta("pypi:project-status", page.status.value)
    if page.status_reason:
        meta += _meta("pypi:project-status-reason", page.status_reason)
    links = "".join(map(_file_html, listing.files))
    text = (
        f"{_HEAD}{meta}<title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n{links}</body>\n</html>\n"
        f"<!--SERIAL {page.serial}-->\n"
    )
    return text.encode()


def _meta(name: str, content: str) -> str:
    return f'<meta name="{name}" content="{escape(content)}">\n'


def _file_html(file: File) -> str:
    attributes = [f'href="{escape(file.url)}{f"#sha256={file.sha256}" if file.sha256 else ""}"']
    if file.requires_python is not None:
        attributes.append(f'data-requires-python="{escape(file.requires_python)}"')
    if file.metadata_sha256 is not None:
        # PEP 714: HTML pages carry the older name too, for pip before 23.1.
        attributes.append(f'data-core-metadata="sha256={file.metadata_sha256}"')
        attributes.append(f'data-dist-info-metadata="sha256={file.metadata_sha256}"')
    if file.yanked is not None:
        attributes.append(f'data-yanked="{escape(file.yanked)}"')  # PEP 592
    return f"<a {' '.join(attributes)}>{escape(file.filename)}</a><br>\n"


def root(pages: Iterable[Sequence[str]], *, serial: int) -> Iterator[tuple[bytes, bytes]]:
    """The list of projects in JSON and in HTML, piece by piece; ``pages`` have their canonical names, sorted."""
    meta = _dump({"api-version": API_VERSION, "_last-serial": serial})
    yield (
        b'{"meta":' + meta + b',"projects":[',
        f"{_HEAD}<title>Simple index</title>\n</head>\n<body>\n<h1>Simple index</h1>\n".encode(),
    )
    comma = ""
    for names in filter(None, pages):
        # Canonical names need neither escaping nor quoting.
        as_json = ",".join([f'{{"name":"{name}"}}' for name in names])
        as_html = "".join([f'<a href="{name}/">{name}</a><br>\n' for name in names])
        yield (comma + as_json).encode(), as_html.encode()
        comma = ","
    yield b"]}", f"</body>\n</html>\n<!--SERIAL {serial}-->\n".encode()


def is_listed(page: ProjectPage) -> bool:
    """Whether the project has index pages at all: never an empty one, for which uv would stop looking elsewhere. A
    quarantined project lists nothing (PEP 792)."""
    return bool(page.wheels) and page.status is not ProjectStatus.QUARANTINED


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
