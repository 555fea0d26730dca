# SPDX-License-Identifier: BSD-3-Clause
"""The simple repository API: two renderings that agree, and that say what installers need in the way they need it."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piwheels.site import simple
from piwheels.site.model import ProjectPage
from piwheels.vocabulary import ProjectStatus
from tests import site_facts as make


def parse(data: bytes) -> Any:
    """The document, if it is valid HTML."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(data.decode())


def files_of_html(data: bytes) -> list[dict[str, Any]]:
    """What the HTML says of each file, in JSON's terms."""
    files = []
    for link in parse(data).iter("a"):
        url, _, fragment = link.get("href").partition("#")
        entry = {
            "filename": link.text,
            "url": url,
            "hashes": dict([fragment.split("=")]),
            "yanked": link.get("data-yanked") or True if link.get("data-yanked") is not None else False,
            "core-metadata": dict([link.get("data-core-metadata").split("=")]),
        }
        assert link.get("data-dist-info-metadata") == link.get("data-core-metadata")
        if link.get("data-requires-python") is not None:
            entry["requires-python"] = link.get("data-requires-python")
        files.append(entry)
    return files


def meta_of_html(data: bytes) -> dict[str, str]:
    return {m.get("name"): m.get("content") for m in parse(data).iter("meta") if m.get("name")}


def check_agreement(page: ProjectPage) -> None:
    """JSON and HTML of one page say the same wherever HTML has a way to say it."""
    from_json = json.loads(simple.project_json(page))
    html = simple.project_html(page)
    only_json = ("size", "upload-time")  # PEP 700: HTML has no words for these
    assert files_of_html(html) == [
        {key: value for key, value in file.items() if key not in only_json} for file in from_json["files"]
    ]
    meta = meta_of_html(html)
    assert meta["pypi:repository-version"] == from_json["meta"]["api-version"]
    assert meta["pypi:project-status"] == from_json["project-status"]["status"]
    assert meta.get("pypi:project-status-reason") == from_json["project-status"].get("reason")
    assert f"<!--SERIAL {from_json['meta']['_last-serial']}-->".encode() in html


def test_json_of_a_project() -> None:
    document = json.loads(simple.project_json(make.page()))
    assert document["meta"] == {"api-version": "1.4", "_last-serial": 4711}
    assert document["name"] == "foo-bar"
    assert document["project-status"] == {"status": "active"}
    assert document["versions"] == ["0.9", "1.0", "1.10"]  # those with files
    assert document["files"][2] == {
        "filename": "foo_bar-1.0-cp311-cp311-linux_armv7l.whl",
        "url": "foo_bar-1.0-cp311-cp311-linux_armv7l.whl",
        "hashes": {"sha256": "01" * 32},
        "size": 1000,
        "upload-time": "2026-11-20T10:11:12.123456Z",
        "core-metadata": {"sha256": "65" * 32},
        "yanked": False,
        "requires-python": ">=3.8",
    }
    assert document["files"][0]["yanked"] == "Broke on Pi Zero"
    assert "requires-python" not in document["files"][3]  # it was invalid


def test_html_of_a_project_escapes_requires_python() -> None:
    assert b'data-requires-python="&gt;=3.8"' in simple.project_html(make.page())


def test_yanked_without_a_reason() -> None:
    facts = make.project(files=(replace(make.project().files[0], yanked=True),))
    page = make.page(facts)
    assert json.loads(simple.project_json(page))["files"][0]["yanked"] is True
    assert b'data-yanked=""' in simple.project_html(page)


def test_project_status_with_a_reason() -> None:
    page = make.page(make.project(status=ProjectStatus.ARCHIVED, status_reason='moved to "bar" <now>'))
    assert json.loads(simple.project_json(page))["project-status"] == {
        "status": "archived",
        "reason": 'moved to "bar" <now>',
    }
    check_agreement(page)


def test_the_url_ends_with_the_file_name_whatever_is_in_it() -> None:
    name = "foo_bar-1!1.0+local.1-py3-none-any.whl"
    page = make.page(make.project(files=(make.file(1, 1, name),)))
    (file,) = json.loads(simple.project_json(page))["files"]
    assert unquote(file["url"]) == file["filename"] == name
    assert "+" not in file["url"]
    check_agreement(page)


def test_same_model_same_bytes() -> None:
    assert simple.project_json(make.page()) == simple.project_json(make.page())
    assert simple.project_html(make.page()) == simple.project_html(make.page())


@pytest.mark.parametrize("pages", [[], [[]], [["a"]], [["bar", "foo"], ["foo-bar"]], [["a"], [], ["b", "c"]]])
def test_both_renderings_of_the_list_agree(pages: list[list[str]]) -> None:
    names = [name for page in pages for name in page]
    parts = list(simple.root(pages, serial=7))
    document, html = (b"".join(part[form] for part in parts) for form in (0, 1))
    expected = {"meta": {"api-version": "1.4", "_last-serial": 7}, "projects": [{"name": name} for name in names]}
    assert json.loads(document) == expected
    assert [(a.get("href"), a.text) for a in parse(html).iter("a")] == [(f"{n}/", n) for n in names]
    assert meta_of_html(html)["pypi:repository-version"] == "1.4"


def test_a_project_without_files_and_a_quarantined_one_have_no_page() -> None:
    assert simple.is_listed(make.page())
    assert not simple.is_listed(make.page(make.project(files=())))
    assert not simple.is_listed(make.page(make.project(status=ProjectStatus.QUARANTINED)))


@settings(max_examples=60, deadline=None)
@given(
    reason=st.text(max_size=60),
    status_reason=st.text(max_size=60),
    requires=st.one_of(st.none(), st.text(max_size=20), st.sampled_from([">=3.6,<4", "!=3.1.*", "~=3.8", "===x"])),
    yanked=st.booleans(),
)
def test_renderings_agree_whatever_text_comes_from_outside(
    reason: str, status_reason: str, requires: str | None, yanked: bool
) -> None:
    hostile = replace(make.project().files[0], yanked=yanked, yanked_reason=reason, requires_python=requires)
    check_agreement(make.page(make.project(files=(hostile,), status_reason=status_reason)))


@pytest.mark.parametrize(
    "reason", ['"><script>alert(1)</script>', "' onmouseover='x", "&quot;", "\x1b[31mred\x00", "\ufffe"]
)
def test_hostile_reasons_stay_text(reason: str) -> None:
    hostile = replace(make.project().files[0], yanked=True, yanked_reason=reason)
    page = make.page(make.project(files=(hostile,)))
    assert not list(parse(simple.project_html(page)).iter("script"))
    check_agreement(page)
