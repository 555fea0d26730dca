# SPDX-License-Identifier: BSD-3-Clause
"""Pages of the simple index, in both forms; and that what may hide files by mistake is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.pypi import page
from piwheels.pypi.model import UpstreamUnusable
from piwheels.pypi.page import Page, read_html, read_json
from piwheels.vocabulary import ProjectStatus

URL = "https://example.org/simple/spam/"
SHA256 = "ab" * 32
FILE = {"filename": "spam-1.0.tar.gz", "url": "../../files/spam-1.0.tar.gz", "hashes": {"sha256": SHA256.upper()}}
GOOD: dict[str, Any] = {
    "meta": {"api-version": "1.4", "_last-serial": 77},
    "name": "Spam",
    "project-status": {"status": "quarantined", "reason": "mal\nware"},
    "files": [FILE],
}
HEAD = '<meta name="pypi:repository-version" content="1.4"><meta name="pypi:project-status" content="quarantined">'
HTML = f"""<!DOCTYPE html><html><head>{HEAD}<meta name="pypi:project-status-reason" content="mal&#10;ware"></head><body>
<a href="../../files/spam-1.0.tar.gz#sha256={SHA256}" data-yanked="x">spam-1.0.tar.gz</a></body></html>"""


def from_json(document: Any) -> Page:
    return read_json(json.dumps(document).encode(), name="spam", url=URL, serial=5)


def from_html(text: str | bytes) -> Page:
    body = text.encode() if isinstance(text, str) else text
    return read_html(body, name="spam", url=URL, charset=None, serial=77)


def test_both_forms_say_the_same() -> None:
    expected = Page(
        links={"spam-1.0.tar.gz": ("https://example.org/files/spam-1.0.tar.gz", SHA256)},
        status=ProjectStatus.QUARANTINED,
        status_reason="mal ware",
        serial=77,
        filenames=frozenset({"spam-1.0.tar.gz"}),
    )
    assert from_json(GOOD) == expected
    assert from_html(HTML) == expected


def test_what_may_be_missing() -> None:
    found = from_json({"meta": {"api-version": "1.0"}, "name": "spam", "files": [{"filename": "a.whl"}]})
    assert found == Page({"a.whl": ("", "")}, None, "", 5, frozenset({"a.whl"}))
    assert from_json(GOOD | {"project-status": {"status": "pickled"}}).status is None
    assert from_json(GOOD | {"meta": {"api-version": "1.0", "_last-serial": "77"}}).serial == 5
    assert from_html(HTML.replace("quarantined", "pickled")).status is None
    assert from_html('<a href="a-1.zip">a-1.zip</a>').filenames == {"a-1.zip"}
    assert from_html(f"<head>{HEAD}</head>").filenames == frozenset()


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        GOOD | {"name": "ham"},
        GOOD | {"name": None},
        GOOD | {"name": "x" * 10_000_000},
        GOOD | {"files": None},
        GOOD | {"files": [None]},
        GOOD | {"files": [FILE, {"filename": None}]},
        GOOD | {"files": [FILE, {"filename": "x" * 10_000_000}]},
        GOOD | {"files": [FILE, {"filename": "../x"}]},
        GOOD | {"meta": None},
        GOOD | {"meta": {"api-version": "2.0"}},
        GOOD | {"meta": {"api-version": 1}},
    ],
)
def test_json_that_might_hide_files_by_mistake(document: Any) -> None:
    with pytest.raises(UpstreamUnusable) as caught:
        from_json(document)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"<html>", json.dumps(GOOD).encode()[:-2], b"\xff\xff"])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(UpstreamUnusable):
        read_json(body, name="spam", url=URL, serial=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html><body>All is well</body></html>",
        '<a href="/login">Log in</a>',
        '<a href="https://[::1/spam-1.0.tar.gz">spam-1.0.tar.gz</a>',
        HTML.replace("1.4", "2.0"),
        "<" * 1000,
        "<![x",
        b"\x00\xff\xfe",
    ],
)
def test_html_that_may_be_anything(text: str | bytes) -> None:
    with pytest.raises(UpstreamUnusable):
        from_html(text)


def test_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_FILES", 0)
    monkeypatch.setattr(page, "MAX_HTML", 10)
    for read in (lambda: from_json(GOOD), lambda: from_html(HTML)):
        with pytest.raises(UpstreamUnusable, match="more than"):
            read()


@pytest.mark.parametrize("url", [None, 7, "https://[::1", "x" * 3000])
def test_a_file_without_an_address_is_there_all_the_same(url: Any) -> None:
    assert from_json(GOOD | {"files": [FILE | {"url": url}]}).links == {"spam-1.0.tar.gz": ("", SHA256)}


@given(st.text(), st.binary(max_size=50))
def test_no_html_does_worse_than_being_refused(text: str, junk: bytes) -> None:
    for body in (text.encode("utf-8", "replace"), HTML.encode()[:200] + junk + HTML.encode()[200:]):
        try:
            found = from_html(body)
        except UpstreamUnusable:
            continue
        assert all(name.isprintable() for name in found.filenames)
