# SPDX-License-Identifier: BSD-3-Clause
"""The template engine behind every page for people: finds a template, the operator's own first, and fills it.

Chameleon escapes whatever a template inserts; no template inserts structure (a test looks), and the only values that
bring markup of their own are drawings (piwheels.site.charts). Same names, same bytes. A template of the operator's that
cannot be used is told in one line, once, and ours stands in for it.
"""

import logging
from functools import cache
from pathlib import Path
from typing import Any, cast

from chameleon import PageTemplateFile, PageTemplateLoader

from piwheels.logs import one_line
from piwheels.site import paths, text
from piwheels.site.facts import SiteFacts

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).with_name("templates")

_WORDS = (text.count, text.length, text.listed, text.size, text.clean, text.stamp, text.minute, text.day, text.rounded)
_told: set[tuple[Path, str]] = set()  #: templates of the operator's that were complained of


class _Template(PageTemplateFile):
    """A template that finds others where the loader looks, and not first beside itself: else ours would never use the
    operator's layout."""

    prepend_relative_search_path = False


@cache
def _loader(overrides: Path | None) -> Any:
    # Not reloaded when a file changes: looking at every rendering costs more than rendering a small page.
    places = [str(TEMPLATES)] if overrides is None else [str(overrides / "templates"), str(TEMPLATES)]
    return PageTemplateLoader(
        places, default_extension=".pt", formats={"xml": _Template}, auto_reload=False, trim_attribute_space=True
    )


def render(
    name: str, site: SiteFacts, *, root: str, title: str, home: str | None = None, section: str = "", **names: Any
) -> bytes:
    """A page: ``root`` leads from it to the site's root, ``section`` says which entry of the navigation it belongs to.

    ``home`` is the home page's own address where the root's is empty.
    """
    common = {
        "site": site,
        "root": root,
        "home": root if home is None else home,
        "title": title,
        "section": section,
        "contact_href": contact_href(site.contact),
        "indexed": True,
        "description": "",
        **{function.__name__: function for function in _WORDS},
        "url_path": paths.url_path,
        "wheel_path": paths.wheel_path,
    }
    return _fill(name, site.overrides, {**common, **names})


def _fill(name: str, overrides: Path | None, names: dict[str, Any]) -> bytes:
    try:
        return cast(str, _loader(overrides)[name](**names)).encode()
    except Exception as error:
        if overrides is None:
            raise
        if (overrides, name) not in _told:
            _told.add((overrides, name))
            why = one_line(str(error).strip().partition("\n")[0], 300) or type(error).__name__
            log.error("page %r is made without the templates of %s: %s", name, overrides, why)
    return _fill(name, None, names)


def contact_href(contact: str) -> str:
    """What the operator's contact links to; empty for one that is neither a web nor a mail address."""
    if contact.startswith(("https://", "http://")):
        return contact
    return f"mailto:{contact}" if "@" in contact and ":" not in contact and " " not in contact else ""
