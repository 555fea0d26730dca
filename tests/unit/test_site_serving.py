# SPDX-License-Identifier: BSD-3-Clause
"""What URLs mean, and content negotiation (PEP 691)."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.site import serving
from piwheels.site.serving import Kind, Representation, is_canonical, negotiate, segments, wanted

PIP = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
UV = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PIP, Representation.JSON),
        (UV, Representation.JSON),
        (BROWSER, Representation.LEGACY),
        ("", Representation.LEGACY),
        ("*/*", Representation.LEGACY),
        ("text/*", Representation.LEGACY),
        ("application/*", Representation.JSON),
        ("application/vnd.pypi.simple.latest+json", Representation.JSON),
        ("application/vnd.pypi.simple.latest+html", Representation.HTML),
        ("application/vnd.pypi.simple.v1+html", Representation.HTML),
        ("APPLICATION/VND.PYPI.SIMPLE.V1+JSON", Representation.JSON),
        ("application/vnd.pypi.simple.v1+json;q=0, */*;q=0.1", Representation.LEGACY),
        ("text/html;q=0.5, application/vnd.pypi.simple.v1+json;q=0.4", Representation.LEGACY),
        ("text/html, application/vnd.pypi.simple.v1+json", Representation.JSON),
        ("application/vnd.pypi.simple.v1+json ; charset=x ; Q=0.9, text/html;q=0.8", Representation.JSON),
        ("application/json", Representation.LEGACY),
        ("nonsense, ;;;q=9, text/html/html", Representation.LEGACY),
    ],
)
def test_negotiation(accept: str, expected: Representation) -> None:
    assert negotiate(accept) is expected


@given(st.text(max_size=300))
def test_negotiation_takes_anything(accept: str) -> None:
    assert negotiate(accept) in Representation


@given(st.lists(st.sampled_from(list(Representation)), min_size=1, unique=True))
def test_what_is_asked_for_alone_is_given(choices: list[Representation]) -> None:
    asked = ", ".join(f"{choice};q={1 - order / 10}" for order, choice in enumerate(choices))
    assert negotiate(asked) is choices[0]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "simple",
        "//evil.example.org",
        "/simple//spidev/",
        "/../etc/passwd",
        "/simple/../../x",
        "/%2e%2e/etc/passwd",
        "/simple/%2e%2e%2f%2e%2e%2fx",
        "/a%2fb",
        "/a%5cb",
        "/a%00b",
        "/.git/config",
        "/simple/.packages.json.new",
        "/%ff",
        "/" + "a" * 256,
        "/" + "a/" * 50,
        "/" + "a" * 5000,
        "/a%0d%0aSet-Cookie:x",
    ],
)
def test_refused_paths(path: str) -> None:
    assert segments(path) is None


@given(st.text(alphabet=st.sampled_from("aA.-_/%2eE2fF5c0\\\x00é~"), max_size=40))
def test_no_path_leads_out_of_the_tree(path: str) -> None:
    split = segments("/" + path)
    if split is not None:
        want = wanted(split[0])
        assert not want.path.is_absolute()
        assert not any(part.startswith(".") for part in want.path.parts)
        assert want.canonical.startswith("/") and not want.canonical.startswith("//")


@pytest.mark.parametrize(
    ("path", "kind", "file", "canonical"),
    [
        ("/", Kind.PAGE, ".", "/"),
        ("/simple", Kind.INDEX, "simple", "/simple/"),
        ("/simple/RPi.GPIO", Kind.INDEX, "simple/rpi-gpio", "/simple/rpi-gpio/"),
        ("/simple/index.html", Kind.FILE, "simple/index.html", "/simple/index.html"),
        ("/bookworm/simple/A_B/", Kind.INDEX, "bookworm/simple/a-b", "/bookworm/simple/a-b/"),
        ("/simple/A_B/x.whl", Kind.FILE, "simple/a-b/x.whl", "/simple/a-b/x.whl"),
        ("/project/RPi.GPIO", Kind.PAGE, "project/rpi-gpio", "/project/rpi-gpio/"),
        ("/project/RPi.GPIO/json/", Kind.JSON, "project/rpi-gpio/json", "/project/rpi-gpio/json"),
        ("/p/RPi.GPIO", Kind.PAGE, "project/rpi-gpio", "/project/rpi-gpio/"),
        ("/packages.json", Kind.FILE, "packages.json", "/packages.json"),
    ],
)
def test_meaning(path: str, kind: Kind, file: str, canonical: str) -> None:
    split = segments(path)
    assert split is not None
    want = wanted(split[0])
    assert (want.kind, want.path, want.canonical) == (kind, PurePosixPath(file), canonical)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", True),
        ("/simple/", True),
        ("/simple", False),
        ("/simple/spidev/", True),
        ("/simple/Spidev/", False),
        ("/project/spidev/json", True),
        ("/project/spidev/json/", True),
        ("/project/Spidev/json", False),
        ("/p/spidev/", False),
        ("/simple/x/x-1+local.1-py3-none-any.whl", True),
        ("/simple/x/x-1%2Blocal.1-py3-none-any.whl", True),
        ("/packages.json/", False),
    ],
)
def test_canonical_spelling(path: str, expected: bool) -> None:
    split = segments(path)
    assert split is not None
    assert is_canonical(wanted(split[0]), split[0], slash=split[1]) is expected


def test_caching() -> None:
    assert serving.cache_control(PurePosixPath("simple/x/x-1-py3-none-any.whl")) == serving.FOREVER
    assert serving.cache_control(PurePosixPath("simple/x/x-1-py3-none-any.whl.metadata")) == serving.FOREVER
    assert serving.cache_control(PurePosixPath("simple/x/index.html")) == "public, max-age=120"
