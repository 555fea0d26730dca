# SPDX-License-Identifier: BSD-3-Clause
"""A project in the merged index, ``/all/simple/``: PyPI's own files, as PyPI has them, and those of ours that PyPI has
none for. With it as its only index an installer cannot be led astray by a project of the same name elsewhere.

Pure. Ours never stand in front of PyPI's: an installer takes the most specific of several wheels that fit, so a wheel
of ours is listed only where it serves a target that no wheel of PyPI's does, and never under a name that PyPI has.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from piwheels.master.planner import wheel_name
from piwheels.master.targets import Target
from piwheels.site import paths
from piwheels.site.facts import UpstreamFile
from piwheels.site.model import ProjectPage, Wheel
from piwheels.site.simple import File, Listing, upload_time
from piwheels.site.text import clean
from piwheels.vocabulary import ProjectStatus
from piwheels.wheelfile import valid_requires_python

_UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)  #: when a file was uploaded whose time PyPI did not give


Upstream = tuple[Sequence[UpstreamFile], Mapping[int, str]]  #: PyPI's files, and the versions of releases, oldest first


def merge(
    page: ProjectPage, upstream: Sequence[UpstreamFile], versions: Mapping[int, str], targets: Sequence[Target]
) -> Listing | None:
    """What a project's page lists, oldest release first. ``versions``: of its releases, in that order.

    None: there is to be none, since nothing is to be listed, or because of some file of PyPI's it is not known where it
    is: a page without it would have installers take another.
    """
    if page.status is ProjectStatus.QUARANTINED or any(file.url is None for file in upstream):
        return None
    theirs = defaultdict(list)
    for file in upstream:
        theirs[file.release_id].append(file)
    taken = {file.filename for file in upstream}
    ours = {release.version: release.wheels for release in page.releases}
    files: list[File] = []
    listed = []
    for release_id, version in versions.items():
        there = sorted(theirs[release_id], key=lambda file: file.filename)
        added = [
            wheel
            for wheel in ours.get(clean(version), ())
            if wheel.filename not in taken and _is_needed(wheel, there, targets)
        ]
        files += [_theirs(file) for file in there]
        files += [_ours(page.name, wheel) for wheel in added]
        if there or added:
            listed.append(clean(version))
    return Listing(tuple(listed), tuple(files)) if files else None


def _is_needed(wheel: Wheel, theirs: Sequence[UpstreamFile], targets: Sequence[Target]) -> bool:
    """Whether a wheel of ours serves a target that none of these does."""
    names = [(name, file) for file in theirs if not file.yanked and (name := wheel_name(file.filename)) is not None]
    served = {
        target.name
        for target in targets
        if any(target.accepts(name.tags) and target.allows(file.requires_python) for name, file in names)
    }
    return not served.issuperset(wheel.targets)


def _theirs(file: UpstreamFile) -> File:
    return File(
        filename=file.filename,
        url=file.url or "",
        sha256=file.sha256.hex() if file.sha256 else None,
        size=file.size,
        upload_time=upload_time(file.uploaded) if file.uploaded > _UNKNOWN else None,
        requires_python=valid_requires_python(file.requires_python or ""),
        yanked=clean(file.yanked_reason) if file.yanked else None,
        metadata_sha256=None,
    )


def _ours(project: str, wheel: Wheel) -> File:
    file = File.of(wheel)
    return File(
        filename=file.filename,
        url=f"../../../{quote(str(paths.wheel_path(project, wheel.filename)), safe='/')}",
        sha256=file.sha256,
        size=file.size,
        upload_time=file.upload_time,
        requires_python=file.requires_python,
        yanked=file.yanked,
        metadata_sha256=file.metadata_sha256,
    )
