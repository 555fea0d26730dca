# SPDX-License-Identifier: BSD-3-Clause
"""Targets: the tags they accept, and the Pythons that Requires-Python leaves them."""

import re
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging import tags
from packaging.tags import parse_tag

from piwheels.master.targets import (
    PRESETS,
    TargetError,
    aliases,
    distribution_of,
    libc_of,
    manylinux,
    native,
    parse_platform,
)

BOOKWORM, TRIXIE = PRESETS["bookworm-armhf"], PRESETS["trixie-arm64"]
FREE_THREADED = replace(TRIXIE, name="trixie-free", abi="cp313t")


def test_native_accepts_exactly_what_this_interpreter_accepts() -> None:
    target = native()
    assert target.ordered() == tuple(tags.sys_tags())
    assert target.python == sys.version_info[:2]
    assert target.platform.startswith("linux_")


@pytest.mark.parametrize(
    ("tag", "accepted"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp311-cp311-linux_armv7l", True),
        ("cp311-abi3-manylinux_2_31_armv7l", True),
        ("cp37-abi3-manylinux_2_17_armv7l.manylinux2014_armv7l", True),
        ("py3-none-linux_armv7l", True),
        ("cp311-none-any", True),
        ("py2-none-any", False),
        ("cp39-cp39-linux_armv7l", False),
        ("cp312-abi3-linux_armv7l", False),
        ("cp311-cp311-linux_armv6l", False),
        ("cp311-cp311-linux_armv8l", False),
        ("cp311-cp311-linux_aarch64", False),
        ("cp311-cp311-manylinux_2_37_armv7l", False),
        ("cp311-cp311-musllinux_1_2_armv7l", False),
    ],
)
def test_tags_of_bookworm_armhf(tag: str, accepted: bool) -> None:
    assert BOOKWORM.accepts(frozenset(parse_tag(tag))) is accepted


def test_a_free_threaded_abi_is_not_confused_with_the_ordinary_one() -> None:
    def accepts(target: object, tag: str) -> bool:
        return target.accepts(frozenset(parse_tag(tag)))  # type: ignore[attr-defined, no-any-return]

    assert accepts(FREE_THREADED, "cp313-cp313t-linux_aarch64")
    assert not accepts(FREE_THREADED, "cp313-cp313-linux_aarch64")
    assert not accepts(FREE_THREADED, "cp39-abi3-linux_aarch64")
    assert accepts(FREE_THREADED, "py3-none-any")
    assert not accepts(TRIXIE, "cp313-cp313t-linux_aarch64")


@pytest.mark.parametrize(
    ("requires", "allowed"),
    [
        (None, True),
        ("", True),
        (">=3.8", True),
        (">=3.11", True),
        (">=3.11.4", True),
        ("!=3.11.0", True),
        ("==3.11.*", True),
        ("==3.11.17", True),
        (">3.11.2,<3.11.4", True),
        ("~=3.11.30", True),
        (">=2.7, !=3.0.*, <4", True),
        (">=3.6.*", True),  # not a valid specifier: ignored, as pip does
        ("nonsense", True),
        (">=3.12", False),
        ("<3", False),
        ("<3.11", False),
        ("!=3.11.*", False),
        ("==3.9.*", False),
    ],
)
def test_requires_python(requires: str | None, allowed: bool) -> None:
    assert BOOKWORM.allows(requires) is allowed


def test_manylinux_names_follow_pep_600() -> None:
    assert manylinux(18, "aarch64") == ("manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def test_presets_are_consistent_and_ordered_by_age() -> None:
    assert all(target.check() is target for target in PRESETS.values())
    ranks = [target.rank for target in PRESETS.values()]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Upper"}, "cannot be a target's name"),
        ({"name": "a/b"}, "cannot be a target's name"),
        ({"python_version": "3"}, "not a Python version"),
        ({"python_version": "3.11.2"}, "not a Python version"),
        ({"python_version": "3.13"}, "not one of CPython 3.13"),
        ({"abi": "cp311; drop"}, "not one of CPython"),
        ({"platform": "linux_x86_64"}, "not among those it accepts"),
        ({"platform": "linux armv7l", "platforms": ("linux armv7l",)}, "a-z, 0-9 and _"),
        ({"abi": "cp311t"}, "CPython 3.11 has no ABI 'cp311t'"),
        ({"abi": "cp311m"}, "CPython 3.11 has no ABI 'cp311m'"),
        ({"abi": "abi3"}, "not one of CPython 3.11"),
        ({"platforms": ("linux_armv7l", "linux_aarch64")}, "built for linux_aarch64 does not run on linux_armv7l"),
        ({"platforms": ("linux_armv7l", "linux_armv8l")}, "built for linux_armv8l does not run on linux_armv7l"),
        (
            {"platforms": ("linux_armv7l", "manylinux_2_37_armv7l")},
            "manylinux_2_37_armv7l does not run with glibc-2.36",
        ),
        ({"platforms": ("linux_armv7l", "musllinux_1_2_armv7l")}, "musllinux_1_2_armv7l does not run with glibc-2.36"),
        ({"platforms": ("linux_armv7l", "win_arm64")}, "nobody knows the platform tag 'win_arm64'"),
        ({"platforms": ("linux_armv7l", "manylinux_armv7l")}, "nobody knows the platform tag 'manylinux_armv7l'"),
        ({"platform": "linux_pdp11", "platforms": ("linux_pdp11",)}, "not one that builders announce"),
        ({"platform": "manylinux_2_31_armv7l"}, "not one that builders announce"),
        ({"platforms": ("linux_armv7l",) * 501}, "501 platform tags are more than"),
        ({"libc": "glibc"}, "'glibc' is not a C library"),
        ({"libc": "dietlibc-0.34"}, "'dietlibc-0.34' is not a C library"),
        ({"distribution": "book worm"}, "'book worm' is not a distribution's name"),
        ({"preinstalled": ("libc6", "LIBC")}, "'LIBC' is not the name of a Debian package"),
        ({"preinstalled": ("aa",) * 20_001}, "20001 packages are more than"),
        (
            {"libc": "", "platforms": ("linux_armv7l", "manylinux_2_17_armv7l", "musllinux_1_1_armv7l")},
            "two C libraries, glibc and musl",
        ),
    ],
)
def test_a_target_that_contradicts_itself_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        replace(BOOKWORM, **changes).check()  # type: ignore[arg-type]


def test_abis_that_there_are() -> None:
    for python, abi in (("3.13", "cp313t"), ("3.14", "cp314td"), ("3.7", "cp37m"), ("3.9", "cp39d"), ("2.7", "cp27mu")):
        assert replace(BOOKWORM, python_version=python, abi=abi).check()


def test_platform_tags_follow_from_the_c_library() -> None:
    for preset in PRESETS.values():
        assert aliases(preset.platform.removeprefix("linux_"), preset.libc) == preset.platforms
    assert aliases("aarch64", "musl-1.2") == (
        "linux_aarch64",
        "musllinux_1_2_aarch64",
        "musllinux_1_1_aarch64",
        "musllinux_1_0_aarch64",
    )
    assert aliases("x86_64", "glibc-2.5") == ("linux_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")
    with pytest.raises(TargetError, match="'musl' is not a C library"):
        aliases("x86_64", "musl")


def test_the_c_library_follows_from_platform_tags() -> None:
    assert all(libc_of(preset.platforms) == preset.libc for preset in PRESETS.values())
    assert libc_of(["musllinux_1_2_aarch64", "musllinux_1_1_aarch64", "linux_aarch64"]) == "musl-1.2"
    assert libc_of(["linux_armv7l", "nonsense"]) == ""
    assert re.fullmatch(r"(glibc|musl)-\d+\.\d+", native().libc)


def test_a_32_bit_system_under_a_64_bit_kernel() -> None:
    tags_ = ("linux_armv8l", "linux_armv7l", *manylinux(36, "armv8l"), *manylinux(36, "armv7l"))
    assert replace(BOOKWORM, platform="linux_armv8l", platforms=tags_).check()


@given(st.text("manyuslix_0123456789arv7w", max_size=40))
def test_any_platform_tag_is_told_or_none(tag: str) -> None:
    found = parse_platform(tag)
    assert found is None or tag.endswith(found.arch)


def test_the_distribution_is_its_code_name_where_it_has_one() -> None:
    assert distribution_of({"VERSION_CODENAME": "Bookworm", "ID": "debian", "VERSION_ID": "12"}) == "bookworm"
    assert distribution_of({"ID": "fedora", "VERSION_ID": "43"}) == "fedora-43"
    assert distribution_of({}) == ""
