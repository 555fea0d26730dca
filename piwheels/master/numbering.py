# SPDX-License-Identifier: BSD-3-Clause
"""Which build number a wheel gets whose name stands for other bytes already (PEP 427). Pure.

The first rebuild is 1. A wheel that comes again byte for byte has the name that it had, numbered or not.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from piwheels.errors import WheelError
from piwheels.wheelfile import WheelName, parse_wheel_name


@dataclass(frozen=True, slots=True)
class Bound:
    """A name and what it stands for."""

    filename: str
    sha256: bytes
    made_of: bytes  #: SHA-256 of what the wheel was before it got a number


def start(name: WheelName) -> str:
    """What the names of a release's wheels begin with, and a hyphen after it."""
    return f"{name.package_tag}-{name.version_tag}"


def candidates(name: WheelName, made_of: bytes, taken: Iterable[Bound]) -> list[tuple[str, bytes | None]]:
    """The names that a wheel may have, the best first, each with the content that it stands for; None: for none yet.

    ``name`` is what its builder called it, ``made_of`` its hash; ``taken``: names that begin as it does, in the space
    of names where it is to have one.
    """
    rivals = [bound for bound in taken if _parts(bound.filename) == _parts(name.filename)]
    again = [(bound.filename, bound.sha256) for bound in rivals if bound.made_of == made_of]
    if all(bound.filename != name.filename for bound in rivals):
        return [*again, (name.filename, None)]
    highest = max(_number(bound.filename) for bound in rivals)
    return [*again, (name.renamed(build=str(highest + 1)), None)]


def _parts(filename: str) -> list[str]:
    """What a name says but for the build number. Names that were bound before are not checked again."""
    parts = filename.removesuffix(".whl").split("-")
    return [*parts[:2], *parts[-3:]]


def _number(filename: str) -> int:
    try:
        order = parse_wheel_name(filename).build_order
    except WheelError:
        return 0
    return order[0] if order else 0
