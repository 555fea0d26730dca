# SPDX-License-Identifier: BSD-3-Clause
"""Who fetched a wheel, as its User-Agent tells: architecture, distribution, Python, installer.

Pure. pip and uv describe themselves as ``name/version {JSON}`` (the format of PyPI's linehaul), poetry as
``name/version words``. All of it is a stranger's text: bounded, reduced to plain characters, never required.
"""

import json
import re
from dataclasses import dataclass

LONGEST = 60  #: characters of any one field
LONGEST_AGENT = 4096

_PRODUCT = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,39})/[A-Za-z0-9._+!-]{1,40}(?: |$)")
_POETRY_PYTHON = re.compile(r" (?:CPython|PyPy)/(\d{1,2}\.\d{1,3})")
_SHORT_VERSION = re.compile(r"\d{1,2}\.\d{1,3}")
_UNPLAIN = re.compile(r"[^A-Za-z0-9 ._+/()-]+")
INSTALLERS = frozenset(("pip", "uv", "poetry", "pdm", "pipenv", "pex", "bandersnatch", "setuptools"))


@dataclass(frozen=True, slots=True)
class Agent:
    """What counts are broken down by; empty where the agent does not say."""

    arch: str = ""  #: "armv7l", "aarch64", "x86_64"
    distro: str = ""  #: "Debian GNU/Linux 12"
    python: str = ""  #: "3.11"
    installer: str = ""  #: "pip"; one of INSTALLERS


NOBODY = Agent()


def parse_agent(text: str) -> Agent:
    """Take a User-Agent apart; anything unknown is NOBODY."""
    product = _PRODUCT.match(text[:LONGEST_AGENT])
    if product is None or product[1].lower() not in INSTALLERS:
        return NOBODY
    installer = product[1].lower()
    rest = text[product.end() : LONGEST_AGENT]
    if rest.startswith("{"):
        return _from_linehaul(rest, installer)
    python = _POETRY_PYTHON.search(text[:LONGEST_AGENT])
    return Agent(installer=installer, python=python[1] if python else "")


def _from_linehaul(text: str, installer: str) -> Agent:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Agent(installer=installer)
    if not isinstance(data, dict):
        return Agent(installer=installer)
    distro = data.get("distro")
    parts = [_plain(distro.get(key)) for key in ("name", "version")] if isinstance(distro, dict) else []
    python = _SHORT_VERSION.match(_plain(data.get("python")))
    return Agent(
        arch=_plain(data.get("cpu")),
        distro=" ".join(part for part in parts if part)[:LONGEST],
        python=python[0] if python else "",
        installer=installer,
    )


def _plain(value: object) -> str:
    return _UNPLAIN.sub("?", value[:LONGEST]).strip() if isinstance(value, str) else ""
