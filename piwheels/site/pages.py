# SPDX-License-Identifier: BSD-3-Clause
"""The pages for people: Chameleon templates filled from the models. Knows words and links; decides nothing.

How templates are found and filled is piwheels.site.rendering's part. Same model, same bytes.
"""

from urllib.parse import urlsplit

from piwheels.site import paths, text
from piwheels.site.facts import DumpFacts, SiteFacts
from piwheels.site.rendering import render


def not_found(site: SiteFacts) -> bytes:
    """The page for addresses that have none; served under any of them, so its links start at the site's root."""
    root = urlsplit(site.base_url).path.rstrip("/") + "/"
    return render("not_found", site, root=root, title=f"Nothing here · {site.name}", indexed=False)


def dump(facts: DumpFacts, site: SiteFacts) -> bytes:
    """The page that says what the metadata dump is."""
    url = f"{site.base_url}/{paths.DUMP}"
    return render(
        "dump",
        site,
        root="../",
        title=f"PyPI metadata · {site.name}",
        description="Metadata of packages on PyPI as a single file.",
        dump=facts,
        filename=paths.DUMP.name,
        command=f"curl -fsS {url} | zstd -dc | python3 -m json.tool",
        window=None if facts.since is None else text.window(facts.made - facts.since),
    )
