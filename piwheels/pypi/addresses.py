# SPDX-License-Identifier: BSD-3-Clause
"""Where PyPI's things are, derived from the one address that is a setting. Pure."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where things are, derived from the address of the simple index."""

    simple: str  #: ends with a slash
    root: str  #: ends with a slash

    @classmethod
    def of(cls, simple_url: str) -> Self:
        """``simple_url`` empty: the one that pypi-simple knows."""
        simple = (simple_url or _known()).rstrip("/")
        return cls(simple=simple + "/", root=simple.removesuffix("/simple") + "/")

    @property
    def journal(self) -> str:
        """Where XML-RPC is spoken."""
        return f"{self.root}pypi"

    def page(self, name: str) -> str:
        """A project's page of the simple index (PEP 503)."""
        return f"{self.simple}{quote(name, safe='')}/"

    def json(self, name: str) -> str:
        """A project's JSON."""
        return f"{self.root}pypi/{quote(name, safe='')}/json"


def _known() -> str:
    from pypi_simple import PYPI_SIMPLE_ENDPOINT  # here: roles that never ask PyPI would wait for it to be loaded

    return PYPI_SIMPLE_ENDPOINT
