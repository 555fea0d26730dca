# SPDX-License-Identifier: BSD-3-Clause
"""The names of builders that come without encryption, and so without a key: by their network address.

Where others have a public key, they have ``plain 192.0.2.5 #3``: the third that is here from that address. What the
operator admits is the address, ``plain 192.0.2.5``. No public key looks like either, for Z85 has no space. Pure.
"""

import ipaddress
import re
from functools import lru_cache

MOST = 16  #: builders of one address at a time

_ADDRESS = re.compile(r"[0-9A-Za-z:.%_-]{2,60}")  # a scope id, fe80::1%eth0, may be anything
_NUMBERED = re.compile(r"(plain \S+) #[0-9]{1,2}")


@lru_cache(4096)  # asked for each message
def address_key(text: str) -> str | None:
    """The name of a network address, however it is spelled; None if the text is no IPv4 or IPv6 address."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    # A socket that listens for both families sees IPv4 peers as ::ffff:192.0.2.5 (RFC 4291, 2.5.5.2).
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    spelled = str(mapped or address)
    return f"plain {spelled}" if _ADDRESS.fullmatch(spelled) else None


def builder_key(address: str, number: int) -> str:
    """The name of one builder of an address, whose name is given."""
    return f"{address} #{number}"


def builder_keys(address: str) -> tuple[str, ...]:
    """The names of all builders that there may be from an address, in order."""
    return tuple(builder_key(address, number) for number in range(1, MOST + 1))


def address_of(key: str) -> str | None:
    """The name of the address that a builder's name belongs to; None: it is a public key, or an address itself."""
    match = _NUMBERED.fullmatch(key)
    return match.group(1) if match else None


def is_address(key: str) -> bool:
    """Whether this is the name of an address."""
    return key.startswith("plain ") and address_of(key) is None
