# SPDX-License-Identifier: BSD-3-Clause
"""PyPI's XML-RPC as it is today: the journal, two queries, faults for what is permanently deprecated. Knows no HTTP.

Source: seeds/pypi-xmlrpc-current.md; the words of the faults are like PyPI's. What it once answered is legacy.py's.
"""

import xmlrpc.client
from collections.abc import Iterable
from random import Random
from typing import Any
from xml.sax.saxutils import escape

from tests.simulator import legacy, twist
from tests.simulator.faults import Fault
from tests.simulator.history import History

#: Both the rate limit and what is deprecated answer with this code; the words tell them apart, as PyPI's do.
REFUSED = -32500
UNKNOWN_METHOD = -32601
BAD_PARAMETERS = -32602
BAD_XML = -32700
TOO_MANY = (
    "HTTPTooManyRequests: The action could not be performed because there were too many requests by the client. "
    "Limit may reset in 1 seconds."
)

_JSON_API = "Use the JSON API or the Index API instead."
DEPRECATED = {
    "changelog": "Use changelog_since_serial instead.",
    "changed_packages": "Use changelog_since_serial instead.",
    "updated_releases": "Use changelog_since_serial or the RSS feeds instead.",
    "package_data": _JSON_API,
    "package_urls": _JSON_API,
    "package_releases": _JSON_API,
    "package_roles": "Use the ownership key of the JSON API instead.",
    "release_urls": _JSON_API,
    "release_data": _JSON_API,
    "release_downloads": "Use BigQuery instead.",
    "top_packages": "Use BigQuery instead.",
    "list_packages": "Use the Index API instead.",
    "search": "It was disabled due to excessive traffic driven by unidentified traffic, presumably automated.",
}


class Rpc:
    """The methods. ``legacy``: answers those that PyPI no longer does, too."""

    def __init__(self, history: History, *, root: str, legacy: bool, limit: int) -> None:
        self._history = history
        self._root = root
        self._legacy = legacy
        self._limit = limit

    def answer(self, body: bytes, fault: Fault | None, rng: Random) -> bytes:
        """The response to a call, faults included."""
        try:
            parameters, method = xmlrpc.client.loads(body)
        except Exception:  # expat's, xmlrpc's, Unicode's: whatever was sent, it was no call
            return fault_xml(BAD_XML, "parse error; invalid XML")
        if fault is Fault.RPC_LIMIT:
            return fault_xml(REFUSED, TOO_MANY)
        try:
            with self._history.lock:
                return self._call(method or "", parameters, fault, rng)
        except (TypeError, ValueError, AttributeError) as error:
            return fault_xml(BAD_PARAMETERS, f"server error; invalid method params: {error}")

    def _call(self, method: str, parameters: tuple[Any, ...], fault: Fault | None, rng: Random) -> bytes:
        if method == "changelog_since_serial":
            (since,) = parameters
            return rows_xml(twist.events(self._history, int(since), fault, rng, limit=self._limit))
        if method == "changelog_last_serial":
            () = parameters
            return response_xml(twist.last_serial(self._history, fault))
        if method == "list_packages_with_serial":
            () = parameters
            _, rows = twist.listing(self._history, fault, rng, quarantined=True)
            return struct_xml((str(row.name), row.serial) for row in rows if row.name is not None)
        if method in ("user_packages", "browse"):
            return response_xml(getattr(self, method)(*parameters))
        if self._legacy and method in legacy.METHODS:
            return response_xml(legacy.METHODS[method](self._history, self._root, *parameters))
        if method in DEPRECATED:
            return fault_xml(
                REFUSED, f"RuntimeError: PyPI no longer supports the XMLRPC {method} method. {DEPRECATED[method]}"
            )
        return fault_xml(UNKNOWN_METHOD, "server error; requested method not found")

    def user_packages(self, user: str) -> list[list[str]]:
        """``[role, name]`` of a user's projects."""
        projects = self._history.projects.values()
        roles = [[role, project.name] for project in projects for role, who in project.roles if who == user]
        return sorted(roles, key=lambda one: (one[0] != "Owner", one[1]))

    def browse(self, classifiers: Iterable[str]) -> list[list[str]]:
        """``[name, version]`` of the releases with all these classifiers."""
        wanted = set(classifiers)
        found = [one for one in self._history.projects.values() if wanted <= set(one.classifiers)]
        return sorted([project.name, version] for project in found for version in project.versions)


def response_xml(value: Any) -> bytes:
    """A response with one value."""
    return xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode("utf-8", "xmlcharrefreplace")


def fault_xml(code: int, words: str) -> bytes:
    """A response that is a fault."""
    return xmlrpc.client.dumps(xmlrpc.client.Fault(code, words), methodresponse=True).encode()


_HEAD = b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>"
_TAIL = b"</value>\n</param>\n</params>\n</methodResponse>\n"


def rows_xml(rows: Iterable[Iterable[Any] | None]) -> bytes:
    """An array of arrays of strings, numbers and nulls. By hand: xmlrpc's way takes ten times as long for 50 000."""
    inside = "\n".join("<value><nil/></value>" if row is None else _array(map(_value, row)) for row in rows)
    return _HEAD + f"<array><data>\n{inside}</data></array>".encode("utf-8", "surrogatepass") + _TAIL


def struct_xml(members: Iterable[tuple[str, int]]) -> bytes:
    """A struct of numbers."""
    inside = "".join(f"<member><name>{escape(name)}</name>{_value(value)}</member>\n" for name, value in members)
    return _HEAD + f"<struct>\n{inside}</struct>".encode("utf-8", "surrogatepass") + _TAIL


def _array(values: Iterable[str]) -> str:
    return f"<value><array><data>{''.join(values)}</data></array></value>"


def _value(value: Any) -> str:
    if value is None:
        return "<value><nil/></value>"
    if isinstance(value, int):
        return f"<value><int>{value}</int></value>"
    return f"<value><string>{escape(value)}</string></value>"
