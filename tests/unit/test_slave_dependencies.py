# SPDX-License-Identifier: BSD-3-Clause
"""What a wheel needs: ELF files really compiled, dpkg's data of a made-up system."""

import io
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piwheels.errors import WheelError
from piwheels.slave.apt import Machine, System
from piwheels.slave.inspection import inspect, pip_requirements, read_elf
from piwheels.vocabulary import DependencyTool
from tests.wheels import make_wheel, metadata_text

APT, PIP, NONE = DependencyTool.APT, DependencyTool.PIP, DependencyTool.NONE


def compile_library(directory: Path, name: str, *arguments: str) -> Path:
    """A shared library; ``arguments`` for the compiler, after its source."""
    directory.mkdir(parents=True, exist_ok=True)
    source, library = directory / "source.c", directory / name
    source.write_text("int answer(void) { return 42; }\n")
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", "-o", str(library), str(source)]
    subprocess.run([*command, *arguments], check=True, timeout=60)
    source.unlink()
    return library


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up Debian: merged /usr, a versioned library, an alternative, a diversion, one file that nobody owns."""
    root = tmp_path_factory.mktemp("root")
    multiarch = root / "usr/lib/x86_64-linux-gnu"
    compile_library(multiarch, "libplain.so.1.2.3")
    (multiarch / "libplain.so.1").symlink_to("libplain.so.1.2.3")
    compile_library(multiarch, "libmerged.so.2")
    compile_library(multiarch / "blas", "libblas.so.3.9")
    (multiarch / "blas/libblas.so.3").symlink_to("libblas.so.3.9")
    (multiarch / "libblas.so.3").symlink_to("/etc/alternatives/libblas.so.3-x86_64-linux-gnu")
    (root / "etc/alternatives").mkdir(parents=True)
    (root / "etc/alternatives/libblas.so.3-x86_64-linux-gnu").symlink_to("/usr/lib/x86_64-linux-gnu/blas/libblas.so.3")
    compile_library(multiarch, "libdiverted.so.1")
    compile_library(multiarch, "libdiverted.so.1.real")
    compile_library(root / "opt/vendor/lib", "libvendor.so.1")
    compile_library(root / "usr/local/lib", "libnobody.so.1")
    (multiarch / "libother.so.1").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x03\x00\x28\x00")  # 32-bit ARM
    (multiarch / "libloop.so.1").symlink_to("libloop.so.1")
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/ld.so.conf.d").mkdir()
    (root / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n")
    (root / "etc/ld.so.conf.d/vendor.conf").write_text("# ours\n/opt/vendor/lib\n")
    (root / "etc/ld.so.conf.d/loop.conf").write_text("include /etc/ld.so.conf.d/*.conf\n")
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    lists = {
        "libplain1:amd64": ["/.", "/usr", *(f"/usr/lib/x86_64-linux-gnu/libplain.so.{end}" for end in ("1", "1.2.3"))],
        "libmerged2": ["/lib/x86_64-linux-gnu/libmerged.so.2"],
        "libblas3:amd64": [
            "/usr/lib/x86_64-linux-gnu/blas/libblas.so.3",
            "/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.9",
        ],
        "original": ["/usr/lib/x86_64-linux-gnu/libdiverted.so.1"],
        "replacement": ["/usr/lib/x86_64-linux-gnu/libdiverted.so.1"],
        "vendor": ["/opt/vendor/lib/libvendor.so.1"],
        "not-it": ["/usr/lib/x86_64-linux-gnu/libplain.so.1.2.3.old", "/x/usr/lib/x86_64-linux-gnu/libmerged.so.2"],
    }
    for package, paths in lists.items():
        (info / f"{package}.list").write_text("\n".join(paths) + "\n")
    name = "/usr/lib/x86_64-linux-gnu/libdiverted.so.1"
    (root / "var/lib/dpkg/diversions").write_text(f"{name}\n{name}.real\nreplacement\n")
    return root


@pytest.fixture(scope="module")
def machine(root: Path) -> Machine:
    found = Machine.of((root / "usr/local/lib/libnobody.so.1").read_bytes()[:20])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libplain.so.1", "libplain1"),
        ("libmerged.so.2", "libmerged2"),
        ("/lib/x86_64-linux-gnu/libmerged.so.2", "libmerged2"),
        ("libblas.so.3", "libblas3"),
        ("libdiverted.so.1", "replacement"),
        ("/usr/lib/x86_64-linux-gnu/libdiverted.so.1.real", "original"),
        ("libvendor.so.1", "vendor"),
        ("libnobody.so.1", ""),
        ("libother.so.1", ""),
        ("libloop.so.1", ""),
        ("libmissing.so.1", ""),
        ("../libplain.so.1", ""),
        ("/usr/lib/../lib/x86_64-linux-gnu/libplain.so.1", ""),
        ("libplain.so.1\0", ""),
        ("*", ""),
    ],
)
def test_package_of_a_library(root: Path, machine: Machine, library: str, package: str) -> None:
    assert System(root).packages([library], machine) == {library: package}


def test_all_at_once(root: Path, machine: Machine) -> None:
    found = System(root).packages(["libplain.so.1", "libvendor.so.1", "libnobody.so.1"], machine)
    assert found == {"libplain.so.1": "libplain1", "libvendor.so.1": "vendor", "libnobody.so.1": ""}


def test_a_system_without_dpkg(tmp_path: Path, machine: Machine) -> None:
    assert System(tmp_path).packages(["libc.so.6"], machine) == {"libc.so.6": ""}


def test_this_system_knows_its_own_c_library(machine: Machine) -> None:
    assert System().packages(["libc.so.6"], machine) == {"libc.so.6": "libc6"}


def test_needed_libraries(root: Path, tmp_path: Path, machine: Machine) -> None:
    library = compile_library(tmp_path, "libuser.so", "-L", str(root / "usr/local/lib"), "-l:libnobody.so.1")
    with library.open("rb") as file:
        needed = read_elf(file)
    assert needed is not None
    assert needed.machine == machine
    assert set(needed.libraries) == {"libnobody.so.1", "libc.so.6"}


def test_malformed_elf_has_no_dependencies(tmp_path: Path) -> None:
    data = compile_library(tmp_path, "libx.so").read_bytes()
    for broken in (
        b"",
        b"\x7fELF",
        data[:64],
        data[:200],
        data[:40] + b"\xff" * 200 + data[240:],
        b"\x7fELF" + b"\xff" * 500,
    ):
        found = read_elf(io.BytesIO(broken))
        assert found is None or isinstance(found.libraries, tuple)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_an_elf_file_is_tolerated(data: st.DataObject, library_bytes: bytes) -> None:
    content = bytearray(library_bytes)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(4, 400))] = data.draw(st.integers(0, 255))
    found = read_elf(io.BytesIO(bytes(content)))
    assert found is None or all(name.isprintable() for name in found.libraries)


@pytest.fixture(scope="module")
def library_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compile_library(tmp_path_factory.mktemp("library"), "liby.so").read_bytes()


def test_dependencies_of_a_wheel(root: Path, tmp_path: Path) -> None:
    search = [
        "-L",
        str(root / "usr/lib/x86_64-linux-gnu"),
        "-L",
        str(root / "usr/local/lib"),
        "-L",
        str(tmp_path / "in"),
    ]
    bundled = compile_library(tmp_path / "in", "libbundled-1a2b.so.1")
    names = ["libplain.so.1", "libblas.so.3", "libnobody.so.1", "libbundled-1a2b.so.1"]
    module = compile_library(tmp_path / "out", "module.so", *search, *(f"-l:{name}" for name in names[:1] + names[2:]))
    path = make_wheel(
        tmp_path,
        "foo-1.0-cp311-cp311-linux_x86_64.whl",
        members={
            "foo.cpython-311-x86_64-linux-gnu.so": module.read_bytes(),
            "foo.libs/libbundled-1a2b.so.1": bundled.read_bytes(),
            "foo/broken.so": b"\x7fELF" + b"\xff" * 100,
        },
        metadata=metadata_text("foo", "1.0", "Requires-Python: >=3.7", "Requires-Dist: Bar.Baz>=1"),
        tags=["cp311-cp311-linux_x86_64"],
    )
    info = inspect(path, project="foo", version="1.0", system=System(root))
    assert info.dependencies == {
        APT: ("libplain1",),
        PIP: ("bar-baz",),
        NONE: ("libc.so.6", "libnobody.so.1"),  # the made-up system has no C library
    }
    assert (info.size, info.requires_python, info.abi_tag) == (path.stat().st_size, ">=3.7", "cp311")


def test_essential_packages_are_not_worth_telling(tmp_path: Path) -> None:
    module = compile_library(tmp_path / "out", "module.so")
    path = make_wheel(
        tmp_path,
        "foo-1.0-cp311-cp311-linux_x86_64.whl",
        members={"foo.so": module.read_bytes()},
        tags=["cp311-cp311-linux_x86_64"],
    )
    assert inspect(path, project="foo", version="1.0").dependencies == {}


def test_damaged_member_is_the_wheels_fault(tmp_path: Path) -> None:
    module = compile_library(tmp_path / "out", "module.so").read_bytes()
    path = make_wheel(
        tmp_path, "foo-1.0-py3-none-any.whl", members={"foo.so": module, "foo/__init__.py": b""}, tags=["py3-none-any"]
    )
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("foo.so").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 500 : offset + 520] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(WheelError):
        inspect(path, project="foo", version="1.0")


def test_pip_requirements() -> None:
    lines = [
        "Foo_Bar>=1",
        "tests; extra == 'test'",
        "also ; python_version >= '3.8' and extra == 'x'",
        "here; python_version >= '3.0'",
        "elsewhere; sys_platform == 'win32'",
        "direct @ https://example.org/direct.whl",
        "not a requirement !!",
        "odd; nonsense == '1'",
    ]
    assert pip_requirements(lines) == {"foo-bar", "here", "direct"}
