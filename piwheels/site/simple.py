# SPDX-License-Identifier: BSD-3-Clause
"""The simple repository API, version 1.4: a project's files and the list of projects, as JSON and as HTML.

Pure: a model in, bytes out, the same for the same model. Both renderings are made from :class:`File`, so that they
cannot disagree about what a file is. Sources: PEP 503, 592, 629, 658, 691, 700, 714 and 792, and what pip, uv and
poetry do in fact.
"""

import json
from collections.abc import Iterable
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
    url: str  #: relative to the project's page; PEP 691 asks for the file name as its last part
    sha256: str
    size: int  #: PEP 700; uv drops the whole page over a null
    upload_time: str  #: PEP 700: UTC, with Z and microseconds
    requires_python: str | None
    yanked: str | None  #: the reason, maybe empty; None: not yanked
    metadata_sha256: str

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
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def project_json(page: ProjectPage) -> bytes:
    """A project's page in JSON (PEP 691). Only for a project that has files: others have no page."""
    status: dict[str, str] = {"status": page.status.value}  # PEP 792
    if page.status_reason:
        status["reason"] = page.status_reason
    wheels = page.wheels
    return _dump(
        {
            "meta": {"api-version": API_VERSION, "_last-serial": page.serial},
            "name": page.name,
            "project-status": status,
            "versions": list(dict.fromkeys(wheel.version for wheel in wheels)),
            "files": [_file_json(File.of(wheel)) for wheel in wheels],
        }
    )


def _file_json(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": file.filename,
        "url": file.url,
        "hashes": {"sha256": file.sha256},
        "size": file.size,
        "upload-time": file.upload_time,
        # PEP 714: this key and not dist-info-metadata, which pip 22.3 to 23.0 misread.
        "core-metadata": {"sha256": file.metadata_sha256},
        # PEP 691: a non-empty string is the reason; without one it is a boolean.
        "yanked": False if file.yanked is None else file.yanked or True,
    }
    if file.requires_python is not None:
        entry["requires-python"] = file.requires_python
    return entry


def project_html(page: ProjectPage) -> bytes:
    """The same in HTML (PEP 503)."""
    title = escape(f"Links for {page.name}")
    meta = _meta("pypi:project-status", page.status.value)
    if page.status_reason:
        meta += _meta("pypi:project-status-reason", page.status_reason)
    links = "".join(_file_html(File.of(wheel)) for wheel in page.wheels)
    text = (
        f"{_HEAD}{meta}<title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n{links}</body>\n</html>\n"
        f"<!--SERIAL {page.serial}-->\n"
    )
    return text.encode()


def _meta(name: str, content: str) -> str:
    return f'<meta name="{name}" content="{escape(content)}">\n'


def _file_html(file: File) -> str:
    attributes = [f'href="{escape(file.url)}#sha256={file.sha256}"']
    if file.requires_python is not None:
        attributes.append(f'data-requires-python="{escape(file.requires_python)}"')
    # PEP 714: HTML pages carry the older name too, for pip before 23.1.
    attributes.append(f'data-core-metadata="sha256={file.metadata_sha256}"')
    attributes.append(f'data-dist-info-metadata="sha256={file.metadata_sha256}"')
    if file.yanked is not None:
        attributes.append(f'data-yanked="{escape(file.yanked)}"')  # PEP 592
    return f"<a {' '.join(attributes)}>{escape(file.filename)}</a><br>\n"


def root_json(names: Iterable[str], *, serial: int) -> bytes:
    """The list of projects in JSON; ``names`` are canonical and sorted."""
    meta = {"api-version": API_VERSION, "_last-serial": serial}
    return _dump({"meta": meta, "projects": [{"name": name} for name in names]})


def root_html(names: Iterable[str], *, serial: int) -> bytes:
    """The same in HTML."""
    # Canonical names need neither escaping nor quoting.
    links = "".join(f'<a href="{name}/">{name}</a><br>\n' for name in names)
    text = (
        f"{_HEAD}<title>Simple index</title>\n</head>\n<body>\n<h1>Simple index</h1>\n{links}</body>\n</html>\n"
        f"<!--SERIAL {serial}-->\n"
    )
    return text.encode()


def is_listed(page: ProjectPage) -> bool:
    """Whether the project has index pages at all: never an empty one, for which uv would stop looking elsewhere. A
    quarantined project lists nothing (PEP 792)."""
    return bool(page.wheels) and page.status is not ProjectStatus.QUARANTINED


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
