# SPDX-License-Identifier: BSD-3-Clause
"""Wheels under other names: what changes in them, and that nothing else does."""

import hashlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piwheels.errors import WheelError
from piwheels.master.renaming import Change, for_platform, rewrite, with_number
from piwheels.master.targets import PRESETS
from piwheels.master.twins import platform_of_twin, runs_on_twin
from piwheels.wheelfile import WheelContent, check_wheel, parse_wheel_name
from tests.elf import DEBIAN, RASPBERRY, elf
from tests.wheels import make_wheel, record, wheel_text

NAME = "foo-1.0-cp311-cp311-linux_armv7l.whl"
TAG = "cp311-cp311-linux_armv7l"
ARMHF = PRESETS["bookworm-armhf"]


def renamed(path: Path, filename: str, change: Change) -> Path:
    out = path.with_name(filename)
    with out.open("wb") as file:
        digest = rewrite(path, file, change)
    assert digest == hashlib.sha256(out.read_bytes()).digest()
    return out


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


def inside(path: Path) -> WheelContent:
    return check_wheel(path, project="foo", version="1.0")[1]


def check_record(path: Path) -> None:
    """RECORD says of every file what it is, as installers want it."""
    found = contents(path)
    listed = found.pop("foo-1.0.dist-info/RECORD").decode().splitlines()
    expected = record(found, "foo-1.0.dist-info").decode().splitlines()
    assert sorted(listed) == sorted(expected)


def test_a_build_number(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, NAME, tags=[TAG], members={"foo/__init__.py": b"x = 1\n" * 500, "foo/é.txt": b"e"})
    filename, change = with_number(parse_wheel_name(NAME), "3")
    assert filename == "foo-1.0-3-cp311-cp311-linux_armv7l.whl"
    new = renamed(path, filename, change)
    before, after = contents(path), contents(new)
    assert after.pop("foo-1.0.dist-info/WHEEL") == wheel_text([]) + b"Build: 3\nTag: " + TAG.encode() + b"\n"
    assert before.pop("foo-1.0.dist-info/WHEEL") == wheel_text([TAG])
    assert {**before, "foo-1.0.dist-info/RECORD": b""} == {**after, "foo-1.0.dist-info/RECORD": b""}
    assert list(contents(path)) == list(contents(new))
    assert inside(new).metadata == inside(path).metadata
    check_record(new)


def test_a_build_number_instead_of_another(tmp_path: Path) -> None:
    text = wheel_text([TAG]) + b"Build: 2abc\n"
    path = make_wheel(tmp_path, NAME, tags=[TAG], change={"foo-1.0.dist-info/WHEEL": text})
    new = renamed(path, *with_number(parse_wheel_name("foo-1.0-2abc-cp311-cp311-linux_armv7l.whl"), "3"))
    assert contents(new)["foo-1.0.dist-info/WHEEL"].count(b"Build: 3\n") == 1
    assert b"2abc" not in contents(new)["foo-1.0.dist-info/WHEEL"]


def test_another_platform(tmp_path: Path) -> None:
    name = "foo-1.0-1-cp39.cp311-abi3-manylinux_2_17_armv7l.linux_armv7l.whl"
    tags = [f"cp{v}-abi3-{p}" for v in (39, 311) for p in ("manylinux_2_17_armv7l", "linux_armv7l")]
    text = wheel_text(tags, purelib=False) + b"Build: 1\n"
    path = make_wheel(tmp_path, name, tags=tags, change={"foo-1.0.dist-info/WHEEL": text})
    filename, change = for_platform(parse_wheel_name(name), "linux_armv6l")
    assert filename == "foo-1.0-1-cp39.cp311-abi3-linux_armv6l.whl"
    new = renamed(path, filename, change)
    said = contents(new)["foo-1.0.dist-info/WHEEL"].decode().splitlines()
    tags = ["Tag: cp39-abi3-linux_armv6l", "Tag: cp311-abi3-linux_armv6l"]
    assert said[2:] == ["Root-Is-Purelib: false", "Build: 1", *tags]
    check_record(new)


def test_a_signature_goes(tmp_path: Path) -> None:
    info = "foo-1.0.dist-info"
    change = {f"{info}/RECORD.jws": b"{}", f"{info}/RECORD.p7s": b"x"}
    path = make_wheel(tmp_path, NAME, tags=[TAG], change=change)
    rows = contents(path)[f"{info}/RECORD"] + f"{info}/RECORD.jws,,\n{info}/RECORD.p7s,,\n".encode()
    path = make_wheel(tmp_path, NAME, tags=[TAG], change={**change, f"{info}/RECORD": rows})
    new = renamed(path, *with_number(parse_wheel_name(NAME), "1"))
    assert not [name for name in contents(new) if "jws" in name or "p7s" in name]
    check_record(new)


def test_the_same_wheel_gives_the_same_bytes_whoever_packed_its_directory(tmp_path: Path) -> None:
    """Modes, times and order stay; what readers may disagree about (extra fields, local headers, comments) goes."""
    plain, odd = tmp_path / "plain.whl", tmp_path / "odd.whl"
    made = contents(make_wheel(tmp_path, NAME, tags=[TAG], members={"foo/run": b"#!python\n"}))
    for path, is_odd in ((plain, False), (odd, True)):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in made.items():
                info = zipfile.ZipInfo(name, (2024, 5, 6, 7, 8, 10))
                info.external_attr, info.compress_type = 0o100755 << 16, zipfile.ZIP_DEFLATED
                if is_odd:
                    info.extra, info.comment = struct.pack("<HHI", 0x7777, 4, 1), b"hello"
                archive.writestr(info, data)
    assert plain.read_bytes() != odd.read_bytes()
    new = [renamed(path, f"{path.stem}-1.0-1-{TAG}.whl", Change(build="1")) for path in (plain, odd)]
    assert new[0].read_bytes() == new[1].read_bytes()
    with zipfile.ZipFile(new[0]) as archive:
        assert {i.date_time for i in archive.infolist()} == {(2024, 5, 6, 7, 8, 10)}
        assert {i.external_attr for i in archive.infolist()} == {0o100755 << 16}


def test_a_stream_of_unknown_length_is_copied_too(tmp_path: Path) -> None:
    """Archives that were written to a pipe have sizes behind the data, and in the directory."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(make_wheel(tmp_path, NAME, tags=[TAG])).items():
            archive.writestr(name, data)
    path = tmp_path / NAME
    path.write_bytes(pipe.data)
    new = renamed(path, *with_number(parse_wheel_name(NAME), "1"))
    assert contents(new)["foo/__init__.py"] == b"x = 1\n"
    assert inside(new).metadata == inside(path).metadata
    check_record(new)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (b"\xff\xfe", "RECORD cannot be read"),
        (b'"' + b"x" * 200_000 + b'"', "RECORD cannot be read"),
        (b"\n" * 100_000, "more rows than"),
    ],
)
def test_a_record_that_is_none(tmp_path: Path, rows: bytes, why: str) -> None:
    path = make_wheel(tmp_path, NAME, tags=[TAG], change={"foo-1.0.dist-info/RECORD": rows})
    with pytest.raises(WheelError, match=why):
        rewrite(path, io.BytesIO(), Change(build="1"))


def central(data: bytes, name: bytes) -> int:
    """Where the directory's entry for a name is."""
    return data.rindex(name) - 46


def patched(path: Path, name: bytes, at: int, value: int) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, central(bytes(data), name) + at, value)
    path.write_bytes(bytes(data))
    return path


def test_members_that_are_not_where_they_should_be(tmp_path: Path) -> None:
    members = {"foo/a.bin": bytes(range(256)) * 40, "foo/b.bin": bytes(reversed(range(256))) * 40}
    path = patched(make_wheel(tmp_path, NAME, tags=[TAG], members=members), b"foo/b.bin", 42, 7)
    with pytest.raises(WheelError):
        rewrite(path, io.BytesIO(), Change(build="1"))
    size = path.stat().st_size
    path = make_wheel(tmp_path, NAME, tags=[TAG], members=members)
    for name in (b"foo/a.bin", b"foo/b.bin"):
        patched(path, name, 20, size - 100)  # each as long as the archive: it would double with every member
    with pytest.raises(WheelError):
        rewrite(path, io.BytesIO(), Change(build="1"))


def test_a_member_that_says_it_is_larger_than_zip_can_say(tmp_path: Path) -> None:
    """Zip64's field, in an archive that is none."""
    path = tmp_path / NAME
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents(make_wheel(tmp_path, "other.whl", tags=[TAG])).items():
            info = zipfile.ZipInfo(name)
            if name == "foo/__init__.py":
                info.extra = struct.pack("<HHQ", 1, 8, 5 * 1024**3)
            archive.writestr(info, data)
    path = patched(path, b"foo/__init__.py", 24, 0xFFFFFFFF)
    with pytest.raises(WheelError, match="too large for its format"):
        rewrite(path, io.BytesIO(), Change(build="1"))


def test_a_large_wheel_takes_little_memory(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, NAME, tags=[TAG], members={"foo/a.bin": b"", "foo/__init__.py": b""})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive, archive.open("foo/big.bin", "w") as member:
        for _ in range(32):
            member.write(bytes(1024**2))
    tracemalloc.start()
    try:
        with (tmp_path / "new").open("wb") as out:
            rewrite(path, out, Change(build="1"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "new").stat().st_size > 32 * 1024**2
    assert peak < 8 * 1024**2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_bytes_do_harm(tmp_path: Path, place: int, value: int) -> None:
    """A wheel with any byte changed is rewritten to one that can be read, or refused with a WheelError."""
    path = make_wheel(tmp_path, NAME, tags=[TAG], members={"foo/a.bin": b"abc" * 50})
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(bytes(data))
    assert runs_on_twin(path) in (True, False)
    out = io.BytesIO()
    try:
        rewrite(path, out, Change(build="1"))
    except WheelError:
        return
    with zipfile.ZipFile(out) as archive:
        assert "foo-1.0.dist-info/WHEEL" in archive.namelist()


# Which wheels have a twin


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        ("bookworm-armhf", NAME, "linux_armv6l"),
        ("trixie-armhf", "foo-1.0-py3-none-linux_armv7l.whl", "linux_armv6l"),
        ("bookworm-armhf", "foo-1.0-cp311-cp311-manylinux_2_31_armv7l.linux_armv7l.whl", "linux_armv6l"),
        ("bookworm-armhf", "foo-1.0-cp311-cp311-manylinux_2_31_armv7l.whl", None),
        ("bookworm-armhf", "foo-1.0-cp311-cp311-linux_armv6l.linux_armv7l.whl", None),
        ("bookworm-armhf", "foo-1.0-py3-none-any.whl", None),
        ("bookworm-arm64", "foo-1.0-cp311-cp311-linux_aarch64.whl", None),
    ],
)
def test_targets_and_names(target: str, name: str, expected: str | None) -> None:
    assert platform_of_twin(PRESETS[target], parse_wheel_name(name)) == expected


OLD, NEW = elf(RASPBERRY), elf(DEBIAN)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"foo/a.so": OLD}, True),
        ({"foo/a.so": OLD, "foo/b.cpython-311-arm-linux-gnueabihf.so": OLD, "foo.libs/c.so.1": OLD}, True),
        ({"foo/a.so": NEW}, False),
        ({"foo/a.so": OLD, "foo.libs/c.so.1.2": NEW}, False),
        ({"foo/a.so": OLD, "foo/model.bin": NEW}, False),  # whatever its name is
        ({"foo/a.so": OLD, "foo-1.0.data/scripts/run": NEW}, False),
        ({"foo/a.so": OLD, "foo/x86.so": elf(machine=3)}, False),
        ({"foo/a.so": OLD[:100]}, False),
        ({"foo/a.so": b"\x7fELF"}, False),
        ({"foo/a.txt": b"\x7fE"}, True),
        ({"foo/__init__.py": b""}, True),  # no ELF file at all
    ],
)
def test_contents(tmp_path: Path, members: dict[str, bytes], expected: bool) -> None:
    assert runs_on_twin(make_wheel(tmp_path, NAME, tags=[TAG], members=members)) is expected


def test_more_than_will_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piwheels.master.twins.MAX_ELF", 2 * len(OLD))
    assert runs_on_twin(make_wheel(tmp_path, NAME, tags=[TAG], members={"a.so": OLD, "b.so": OLD}))
    assert not runs_on_twin(make_wheel(tmp_path, NAME, tags=[TAG], members={"a.so": OLD, "b.so": OLD, "c.so": OLD}))


def test_what_is_no_wheel_has_no_twin(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"no archive")
    assert not runs_on_twin(path)
