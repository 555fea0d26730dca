# SPDX-License-Identifier: BSD-3-Clause
"""What a project has under ``/project/<p>/``, for people and for programs.

Pure: a model in, files out, the same bytes for the same model.
"""

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from piwheels.site import badge, changes, paths, project_json, project_page
from piwheels.site.facts import News, SiteFacts
from piwheels.site.model import ProjectPage


def render(page: ProjectPage, site: SiteFacts, news: Sequence[News] = ()) -> dict[PurePosixPath, bytes]:
    """The files by their place in the published tree, in order of writing. ``news``: the project's, latest first."""
    own, *more = project_page.render(page, site, has_feed=bool(news))
    feed = changes.project_atom(news, site, page.name, page.display_name)
    return {
        paths.project_json(page.name): project_json.render(page, site),
        paths.project_badge(page.name): badge.render(badge.of(page, site)),
        **({} if feed is None else {paths.project_feed(page.name): feed}),
        **{paths.releases_page(page.name, number): data for number, data in enumerate(more, 1)},
        paths.project_page(page.name): own,
    }


def is_left_over(name: str, written: Collection[PurePosixPath]) -> bool:
    """Whether a file of that name in a project's directory is of an earlier rendering, which had more pages."""
    page, end, _ = name.partition(".html")  # the rest tells of a compressed twin
    return name.startswith("releases-") and page + end not in {path.name for path in written}
