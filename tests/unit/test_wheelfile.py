# SPDX-License-Identifier: BSD-3-Clause
"""Wheels and their names: what is read from right ones, and that every wrong one is refused with one clear line."""

import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag
from packaging.version import Version

from piwheels.errors import WheelError
from piwheels.wheelfile import check_wheel, parse_wheel_name, read_wheel, top_level, valid_requires_python
from tests.wheels import make_wheel, metadata_text, wheel_text

GOOD = [
    "foo-1.0-py3-none-any.whl",
    "RPi.GPIO-0.7.1-cp311-cp311-linux_armv7l.whl",
    "foo_bar-1!2.0.post1+local.1-2build-py2.py3-none-any.whl",
    "x-0-cp313-cp313t-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
]
BAD = [
    "",
    ".whl",
    "foo.whl",
    "foo-1.0.whl",
    "../x.whl",
    "../foo-1.0-py3-none-any.whl",
    "/etc/foo-1.0-py3-none-any.whl",
    "a/foo-1.0-py3-none-any.whl",
    "a\\foo-1.0-py3-none-any.whl",
    "foo-1.0-py3-none-any.whl\0",
    "foo\0-1.0-py3-none-any.whl",
    "foo-1.0-py3-none-any.whl\n",
    "foo-1.0-py3-none-any.tar.gz",
    "foo-1.0-py3-none-any.WHL",
    "foo-abc-py3-none-any.whl",
    "foo-1.0-x1-py3-none-any.whl",
    "foo-1.0-1-2-py3-none-any.whl",
    "foo__bar-1.0-py3-none-any.whl",
    "_foo-1.0-py3-none-any.whl",
    "-1.0-py3-none-any.whl",
    "föö-1.0-py3-none-any.whl",
    "foo-1.0-py3..py2-none-any.whl",
    "foo-1.0-.py3-none-any.whl",
    "foo-1.0-py3-none-.whl",
    "<b>-1.0-py3-none-any.whl",
    "foo-1.0-py3-none-any.whl; rm -rf",
    "foo-1.0-" + ".".join("abcdefgh") + "-" + ".".join("abcdefgh") + "-" + ".".join("abcdefgh") + ".whl",
    "f" * 300 + "-1.0-py3-none-any.whl",
    "\ud800-1.0-py3-none-any.whl",
]


@pytest.mark.parametrize("name", GOOD)
def test_good_name(name: str) -> None:
    parsed = parse_wheel_name(name)
    assert parsed.filename == name
    assert parsed.tags


def test_parts_of_a_name() -> None:
    parsed = parse_wheel_name("RPi.GPIO-0.7.1-1-cp310.cp311-abi3-linux_armv7l.whl")
    assert (parsed.project, parsed.version, parsed.build) == ("rpi-gpio", Version("0.7.1"), "1")
    assert (parsed.package_tag, parsed.version_tag) == ("RPi.GPIO", "0.7.1")
    assert parsed.tags == {Tag("cp310", "abi3", "linux_armv7l"), Tag("cp311", "abi3", "linux_armv7l")}


@pytest.mark.parametrize("name", BAD)
def test_bad_name(name: str) -> None:
    with pytest.raises(WheelError) as error:
        parse_wheel_name(name)
    text = str(error.value)
    assert text.isprintable() and len(text) < 500


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    for name in (text, f"{text}-1.0-py3-none-any.whl", f"foo-{text}-py3-none-any.whl", f"foo-1.0-{text}.whl"):
        try:
            parsed = parse_wheel_name(name)
        except WheelError:
            continue
        assert parsed.filename == name == Path(name).name
        assert name.isascii() and len(name) <= 255


def test_what_a_wheel_says(tmp_path: Path) -> None:
    metadata = metadata_text(
        "Foo", "1.0", "Requires-Python: >=3.7, <4", "Requires-Dist: bar (>=1)", "Requires-Dist: baz"
    )
    path = make_wheel(tmp_path, metadata=metadata, tags=("py2.py3-none-any",), filename="foo-1.0-py2.py3-none-any.whl")
    name, content = check_wheel(path, project="FOO", version="1.0.0")
    assert content.metadata == metadata
    assert content.requires_python == ">=3.7, <4"
    assert content.requires_dist == ("bar (>=1)", "baz")
    assert content.wheel_tags == name.tags == {Tag("py2", "none", "any"), Tag("py3", "none", "any")}
    assert content.root_is_purelib
    assert content.top_level == ("foo",)
    assert content.elf_members == ()


def test_a_received_file_goes_by_another_name(tmp_path: Path) -> None:
    path = make_wheel(tmp_path).rename(tmp_path / "incoming")
    name, _ = check_wheel(path, project="foo", version="1.0", filename="foo-1.0-py3-none-any.whl")
    assert name.project == "foo"


ELF = b"\x7fELF" + bytes(60)


def test_elf_members_are_known_by_what_they_begin_with(tmp_path: Path) -> None:
    members = {
        "foo/a.cpython-311-x86_64-linux-gnu.so": ELF,
        "foo/libb.so.1.2": ELF,
        "foo/not.so": b"GROUP ( libfoo.so.1 )" + bytes(60),
        "foo/bin/tool": ELF,
        "foo/data.txt": ELF,
        "foo-1.0.data/scripts/run": ELF,
    }
    found = read_wheel(make_wheel(tmp_path, members=members)).elf_members
    assert set(found) == {
        "foo/a.cpython-311-x86_64-linux-gnu.so",
        "foo/libb.so.1.2",
        "foo/bin/tool",
        "foo-1.0.data/scripts/run",
    }


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["RPi/GPIO/__init__.py", "RPi/_GPIO.cpython-311-arm-linux-gnueabihf.so"], ("RPi",)),
        (["smbus.cpython-311-x86_64-linux-gnu.so"], ("smbus",)),
        (["_a.abi3.so", "b.so", "c.py", "d.pyd"], ("_a", "b", "c", "d")),
        (["google/api/x.py"], ("google",)),
        (["foo.libs/libx-1234.so.1", "foo/__pycache__/x.pyc", "share/x.txt", "foo.pth"], ()),
        (["foo-1.0.data/purelib/bar/__init__.py", "foo-1.0.data/platlib/baz.py"], ("bar", "baz")),
        (["foo-1.0.data/scripts/run.py", "foo-1.0.data/data/x/y.py", "foo-1.0.dist-info/x.py"], ()),
        (["not-a-name/x.py", "1st.py", "ok/not-a-name.py"], ()),
    ],
)
def test_top_level(members: list[str], expected: tuple[str, ...]) -> None:
    assert top_level(members) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (">=3.8", ">=3.8"),
        (" >=3.8,!=3.9.* ", ">=3.8,!=3.9.*"),
        ("3.8", None),
        ("", None),
        (">=3.8.*.*", None),
        (">=3.8\x00", None),
    ],
)
def test_requires_python(text: str, expected: str | None) -> None:
    assert valid_requires_python(text) == expected


def test_invalid_requires_python_counts_as_none(tmp_path: Path) -> None:
    metadata = metadata_text("foo", "1.0", "Requires-Python: python three")
    assert read_wheel(make_wheel(tmp_path, metadata=metadata)).requires_python is None


LIES = {
    "project in METADATA": ({"metadata": metadata_text("bar")}, "bar"),
    "version in METADATA": ({"metadata": metadata_text("foo", "2.0")}, "2.0"),
    "other project": ({"filename": "bar-1.0-py3-none-any.whl"}, "named after project bar"),
    "other version": ({"filename": "foo-1.1-py3-none-any.whl"}, "version 1.1"),
    "tags": ({"tags": ["cp311-cp311-linux_x86_64"]}, "cp311-cp311-linux_x86_64"),
    "fewer tags": ({"filename": "foo-1.0-py2.py3-none-any.whl"}, "not those of its name"),
    "dist-info of another project": ({"dist_info": "bar-1.0.dist-info"}, "lies in"),
    "dist-info of another version": ({"dist_info": "foo-1.1.dist-info"}, "lies in"),
    "no PEP 440 version": ({"metadata": metadata_text("foo", "one")}, "PEP 440"),
    "METADATA missing": ({"change": {"foo-1.0.dist-info/METADATA": None}}, "no foo-1.0.dist-info/METADATA"),
    "WHEEL missing": ({"change": {"foo-1.0.dist-info/WHEEL": None}}, "no foo-1.0.dist-info/WHEEL"),
    "RECORD missing": ({"change": {"foo-1.0.dist-info/RECORD": None}}, "no foo-1.0.dist-info/RECORD"),
    "METADATA too large": ({"metadata": metadata_text() + b"x" * (5 * 1024**2)}, "are the limit"),
    "WHEEL too large": ({"change": {"foo-1.0.dist-info/WHEEL": wheel_text(["a-b-c"]) * 2000}}, "are the limit"),
    "METADATA in Latin-1": ({"metadata": metadata_text() + b"\xe9"}, "not UTF-8"),
    "two names": ({"metadata": metadata_text("foo", "1.0", "Name: bar")}, "2 Name lines"),
    "no version": ({"metadata": b"Metadata-Version: 2.1\nName: foo\n"}, "0 Version lines"),
    "no tag": ({"tags": []}, "0 Tag lines"),
    "odd tag": ({"tags": ["py3-none"]}, "not a tag"),
    "too many tags": ({"tags": ["py3-none-any"] * 400}, "400 Tag lines"),
    "format 2": ({"change": {"foo-1.0.dist-info/WHEEL": b"Wheel-Version: 2.0\n"}}, "only 1.x"),
    "two dist-infos": ({"members": {"bar-1.0.dist-info/METADATA": b""}}, "2 .dist-info"),
    "absolute member": ({"members": {"/etc/passwd": b""}}, "hostile name"),
    "climbing member": ({"members": {"foo/../../x": b""}}, "hostile name"),
    "member with a drive": ({"members": {"C:/x": b""}}, "hostile name"),
    "member with a backslash": ({"members": {"foo\\..\\x": b""}}, "hostile name"),
    "member with a line end": ({"members": {"foo\nbar": b""}}, "hostile name"),
    "member with a long name": ({"members": {"x" * 300: b""}}, "300 characters"),
    "many requirements": (
        {"metadata": metadata_text("foo", "1.0", *["Requires-Dist: x"] * 3000)},
        "3000 Requires-Dist",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_found(tmp_path: Path, lie: str) -> None:
    how, words = LIES[lie]
    path = make_wheel(tmp_path, **how)  # type: ignore[arg-type]  # each entry names parameters of its own
    with pytest.raises(WheelError) as error:
        check_wheel(path, project="foo", version="1.0")
    assert words in str(error.value)
    assert str(error.value).isprintable()


def test_member_with_a_nul(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, members={"foo/aXpy": b""})
    path.write_bytes(path.read_bytes().replace(b"foo/aXpy", b"foo/a\0py"))
    with pytest.raises(WheelError, match="hostile name"):
        read_wheel(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicated_member(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("foo-1.0.dist-info/METADATA", metadata_text("evil"))
    with pytest.raises(WheelError, match="two members"):
        read_wheel(path)


def test_encrypted_member(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(WheelError, match="encrypted"):
        read_wheel(path)


def test_compression_that_installers_lack(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("foo/x.py", b"x = 1\n")
    with pytest.raises(WheelError, match="compressed in a way"):
        read_wheel(path)


def test_declared_sizes_of_a_bomb(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, members={f"foo/{number}": b"" for number in range(6)})
    data = bytearray(path.read_bytes())
    position = 0
    while (position := data.find(b"PK\x01\x02", position)) >= 0:
        data[position + 24 : position + 28] = struct.pack("<I", 0xFFFFFFF0)
        position += 4
    path.write_bytes(data)
    with pytest.raises(WheelError, match="unpacks to more than"):
        read_wheel(path)


def test_member_longer_than_declared(tmp_path: Path) -> None:
    """The directory says ten bytes of METADATA; what comes is cut there and does not have the checksum."""
    path = make_wheel(tmp_path)
    data = bytearray(path.read_bytes())
    name = data.rindex(b"foo-1.0.dist-info/METADATA")
    data[name - 46 + 24 : name - 46 + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    with pytest.raises(WheelError):
        read_wheel(path)


@pytest.mark.parametrize(
    "change", ["cut", "appended", "prepended", "comment", "count", "zip64", "empty", "text", "short"]
)
def test_broken_archives(tmp_path: Path, change: str) -> None:
    path = make_wheel(tmp_path)
    data = path.read_bytes()
    end = len(data) - 22
    changed = {
        "cut": data[:-30],
        "appended": data + b"x",
        "prepended": b"x" + data,
        "comment": data[:-2] + b"\x01\x00c",
        "count": data[: end + 10] + b"\xff\xff" + data[end + 12 :],
        "zip64": data[:end] + b"PK\x06\x07" + bytes(16) + data[end:],
        "empty": b"",
        "text": b"<html>not found</html>" * 10,
        "short": b"PK\x05\x06",
    }[change]
    path.write_bytes(changed)
    with pytest.raises(WheelError) as error:
        read_wheel(path)
    assert str(error.value).isprintable()


@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = make_wheel(tmp_path_factory.mktemp("wheel"), members={"foo/__init__.py": b"x = 1\n" * 50, "foo/b.so": ELF})
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_wheel(path)
    except WheelError as error:
        assert str(error).isprintable()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="cannot be read"):
        read_wheel(tmp_path / "foo-1.0-py3-none-any.whl")
