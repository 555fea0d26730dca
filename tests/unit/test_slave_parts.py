# SPDX-License-Identifier: BSD-3-Clause
"""The builder's smaller parts: environment, sandbox's command, control groups, task and result files, statistics."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest

from piwheels.errors import SettingsError, UnavailableError
from piwheels.slave import build, job, limits, processes, sandbox, stats, tools
from piwheels.slave.environment import build_environment, certificate_paths
from piwheels.slave.limits import GroupHome, MemoryGroup
from piwheels.slave.sandbox import Confinement, Place, Sandbox
from piwheels.slave.sdist import BuildFailed
from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wire.codec import encode
from piwheels.wire.messages import FileInfo, Order
from tests.wheels import make_wheel

# The environment


def test_environment_is_made_from_nothing() -> None:
    user = {
        "HOME": "/home/user",
        "PATH": "/home/user/bin",
        "PYTHONPATH": "/home/user/lib",
        "PIP_INDEX_URL": "https://user:password@example.org",
        "AWS_SECRET": "x",
        "LD_PRELOAD": "x.so",
        "https_proxy": "http://proxy.example.org:3128",
        "NO_PROXY": "localhost",
        "SSL_CERT_FILE": "/etc/ssl/ca.pem",
        "PIP_CERT": "",
    }
    made = build_environment(
        user,
        home=PurePosixPath("/build/home"),
        temporary=PurePosixPath("/tmp"),
        interpreter=PurePosixPath("/v/bin/python"),
    )
    assert {"https_proxy", "NO_PROXY", "SSL_CERT_FILE"} <= set(made)
    assert not {"PYTHONPATH", "PIP_INDEX_URL", "AWS_SECRET", "LD_PRELOAD", "PIP_CERT"} & set(made)
    assert (made["HOME"], made["TMPDIR"], made["LANG"]) == ("/build/home", "/tmp", "C.UTF-8")
    assert made["PATH"].startswith("/v/bin:") and "/home" not in made["PATH"]
    assert made["PIP_CONFIG_FILE"] == "/dev/null"


def test_certificates_to_be_shown(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    names = {"PIP_CERT": str(tmp_path / "ca.pem"), "SSL_CERT_FILE": "/no/where", "CURL_CA_BUNDLE": "relative"}
    assert certificate_paths(names) == [tmp_path / "ca.pem"]


# The sandbox


def test_what_the_sandbox_shows(tmp_path: Path) -> None:
    key = Path(sys.prefix, "slave.key")
    command = sandbox.bubblewrap(
        "bwrap",
        ["true"],
        at=Place(tmp_path, sandbox.INSIDE),
        show={Path("/x/foo.tar.gz"): PurePosixPath("/sdist/foo.tar.gz")},
        hide=[key, tmp_path / "other.key"],
        environ={"A": "b"},
    )
    text = " ".join(command)
    assert "--unshare-all --share-net --die-with-parent --new-session" in text
    assert f"--bind {tmp_path} /build" in text
    assert "--ro-bind /x/foo.tar.gz /sdist/foo.tar.gz" in text
    assert "--clearenv" in command and "--setenv A b" in text
    assert command[-2:] == ["--", "true"]
    binds = [command[at + 2] for at, word in enumerate(command) if word == "--bind"]
    assert binds == ["/build", "/tmp"]  # nothing else can be written to
    for secret in ("/home", "/root", "/etc", "/etc/shadow", "/run", "/var", "/"):
        assert f"--ro-bind {secret} " not in text and f"--bind {secret} " not in text


def test_key_inside_the_prefix_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    key = tmp_path / "farm" / "slave.key"
    key.parent.mkdir()
    key.touch()
    command = " ".join(sandbox.bubblewrap("bwrap", ["true"], at=Place(tmp_path / "b", sandbox.INSIDE), hide=[key]))
    assert f"--ro-bind {tmp_path} {tmp_path}" in command
    assert f"--ro-bind /dev/null {key}" in command


def test_wishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="auto, required or off"):
        sandbox.choose("perhaps", scratch=tmp_path)
    monkeypatch.setattr("shutil.which", lambda *args, **keywords: None)
    with pytest.raises(UnavailableError, match="bubblewrap is not installed"):
        sandbox.choose("required", scratch=tmp_path)
    for wish in ("auto", "off"):
        found = sandbox.choose(wish, scratch=tmp_path)
        assert found.confinement is not Confinement.BUBBLEWRAP
        assert found.warning.startswith("builds run ")
    assert list(tmp_path.iterdir()) == []


def test_bubblewrap_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *args, **keywords: str(fake))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UnavailableError, match="is required, but bubblewrap does not work here: "):
        sandbox.choose("required", scratch=tmp_path / "scratch")


def test_index_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as failed:
        build.build(
            tmp_path / "foo-1.0.tar.gz",
            place=Place(tmp_path, PurePosixPath(tmp_path)),
            confined=Sandbox(Confinement.NONE),
            index_url="--extra-index-url=evil",
            hide=(),
            limits=None,  # type: ignore[arg-type]  # not looked at
            group=None,
            outlet=None,  # type: ignore[arg-type]
            stopped=lambda: False,
            wake=0,
        )
    assert failed.value.reason is FailureReason.BUILDER


# What a build leaves


def left(tmp_path: Path) -> tuple[Place, Path, Path]:
    place = Place(tmp_path / "place", PurePosixPath("/build"))
    place.make(Sandbox(Confinement.NONE))
    into = tmp_path / "wheels"
    into.mkdir()
    return place, place.outside / "out", into


def test_only_regular_files_are_collected(tmp_path: Path) -> None:
    place, out, into = left(tmp_path)
    make_wheel(out)
    (out / "evil-1.0-py3-none-any.whl").symlink_to("/etc/passwd")
    (out / "dir-1.0-py3-none-any.whl").mkdir()
    os.mkfifo(out / "pipe-1.0-py3-none-any.whl")
    (out / "notes.txt").touch()
    assert build.collect(place, into) == [into / "foo-1.0-py3-none-any.whl"]


def test_nothing_left(tmp_path: Path) -> None:
    place, _, into = left(tmp_path)
    with pytest.raises(BuildFailed, match="left 0 wheels") as failed:
        build.collect(place, into)
    assert failed.value.reason is FailureReason.PACKAGE


def test_too_much_left(tmp_path: Path) -> None:
    place, out, into = left(tmp_path)
    for number in range(21):
        (out / f"x{number}.whl").touch()
    with pytest.raises(BuildFailed, match="left 21 wheels"):
        build.collect(place, into)


def test_directory_swapped_for_a_link(tmp_path: Path) -> None:
    place, out, into = left(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_wheel(elsewhere)
    out.rmdir()
    out.symlink_to(elsewhere)
    with pytest.raises(BuildFailed, match="removed the directory"):
        build.collect(place, into)
    assert list(elsewhere.iterdir())


def test_wiping_what_resists(tmp_path: Path) -> None:
    victim, kept = tmp_path / "victim", tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    victim.mkdir()
    deep = os.open(victim, os.O_RDONLY)
    for _ in range(1500):  # deeper than Python's stack, longer than PATH_MAX
        os.mkdir("deeper", dir_fd=deep)
        below = os.open("deeper", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    (victim / "link").symlink_to(kept)
    (victim / "shut").mkdir()
    (victim / "shut/file").touch()
    (victim / "shut").chmod(0)
    (victim / "-rf").touch()
    assert job.wipe(victim)
    assert not victim.exists()
    assert (kept / "file").exists()
    assert job.wipe(victim)  # nothing there


# Task and result

ORDER = Order(
    token="0" * 32,
    target="native",
    sdist_name="foo-1.0.tar.gz",
    sdist_url="https://example.org/foo-1.0.tar.gz",
    sdist_sha256="0" * 64,
    sdist_size=None,
    time_limit=timedelta(minutes=5),
    memory_limit=0,
)
TASK = job.Task(
    package="foo",
    version="1.0",
    order=ORDER,
    index_url="https://example.org/simple/",
    time_limit=300.0,
    memory_limit=1,
    min_free=2,
    sandbox=Sandbox(Confinement.BUBBLEWRAP, program="/usr/bin/bwrap", user=1, group=2),
    group_home=GroupHome(Path("/sys/fs/cgroup/x"), 2),
    hide=(Path("/etc/key"),),
)


@pytest.mark.parametrize("task", [TASK, replace(TASK, group_home=None, hide=())])
def test_task_round_trip(tmp_path: Path, task: job.Task) -> None:
    job.write_task(tmp_path, task)
    assert job.read_task(tmp_path) == task


def test_result_round_trip(tmp_path: Path) -> None:
    file = FileInfo("f", 1, "0" * 64, "a", "b", "c", "d", "e", None, {DependencyTool.NONE: ("x",)})
    for report in (
        job.Report(None, files=(file,), built_with={"pip": "1"}, peak_memory=3, cpu_seconds=0.5),
        job.Report(FailureReason.MEMORY, "why"),
    ):
        job.write_result(tmp_path, report)
        assert job.read_result(tmp_path) == report
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reason": "none-such"}', '{"reason": null, "files": [{}]}'])
def test_result_that_is_none(tmp_path: Path, text: str) -> None:
    assert job.read_result(tmp_path) is None
    (tmp_path / "result.json").write_text(text)
    assert job.read_result(tmp_path) is None


# Control groups


def fake_group(tmp_path: Path, version: int, **files: str) -> MemoryGroup:
    for name, text in files.items():
        (tmp_path / name.replace("_", ".", 1)).write_text(text)
    return MemoryGroup(tmp_path, version)


def test_what_groups_tell(tmp_path: Path) -> None:
    (tmp_path / "memory.peak").write_text("1234\n")
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text("99\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert (MemoryGroup(tmp_path, 2).peak(), MemoryGroup(tmp_path, 2).oom_kills()) == (1234, 2)
    assert (MemoryGroup(tmp_path, 1).peak(), MemoryGroup(tmp_path, 1).oom_kills()) == (99, 5)
    assert (MemoryGroup(tmp_path / "none", 2).peak(), MemoryGroup(tmp_path / "none", 2).oom_kills()) == (None, 0)


def test_groups_are_named_after_the_work_directory(tmp_path: Path) -> None:
    home = GroupHome(tmp_path, 2)
    assert home.group(Path("/a")).path != home.group(Path("/b")).path
    assert home.group(Path("/a")).path.parent == tmp_path


MOUNTS_V2 = (
    "30 20 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n20 1 8:1 / / rw - ext4 x rw\n"
)
MOUNTS_V1 = "30 20 0:26 {root} {point} rw,nosuid shared:4 - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("mounts", "own", "root", "expected"),
    [
        (MOUNTS_V2, "0::/system.slice/piw.service\n", "/", "system.slice"),
        (MOUNTS_V1, "4:memory:/a/b\n0::/\n", "/", "a/b"),
        (MOUNTS_V1, "4:memory:/docker/1/b\n", "/docker/1", "b"),
        (MOUNTS_V2, "garbage\n", "/", None),
        ("", "0::/\n", "/", None),
    ],
)
def test_finding_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, own: str, root: str, expected: str | None
) -> None:
    """On a made-up hierarchy, where a group can be made but files do not appear in it by themselves."""
    point = tmp_path / "cgroup"
    (point / "system.slice/piw.service").mkdir(parents=True)
    (point / "system.slice/cgroup.subtree_control").write_text("cpu memory\n")
    (point / "system.slice/piw.service/cgroup.controllers").write_text("memory pids\n")
    (point / "system.slice/piw.service/cgroup.procs").write_text("1\n2\n")
    (tmp_path / "mounts").write_text(mounts.format(root=root, point=point))
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(limits, "_try", lambda home: True)
    found = limits.find_home(mounts=tmp_path / "mounts", own=tmp_path / "own")
    assert found == (None if expected is None else GroupHome(point / expected, 2 if mounts is MOUNTS_V2 else 1))


def test_a_service_with_a_group_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "piw.service"
    own.mkdir()
    (own / "cgroup.controllers").write_text("memory\n")
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "mounts").write_text(MOUNTS_V2.format(root="/", point=tmp_path))
    (tmp_path / "own").write_text("0::/piw.service\n")
    monkeypatch.setattr(limits, "_try", lambda home: True)
    assert limits.find_home(mounts=tmp_path / "mounts", own=tmp_path / "own") == GroupHome(own, 2)
    assert (own / "piw-slave/cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory"


def test_limits_are_written(tmp_path: Path) -> None:
    for version, file in ((2, "memory.max"), (1, "memory.limit_in_bytes")):
        group = MemoryGroup(tmp_path / str(version), version)
        group.path.mkdir()
        limits._limit(group, 12345)
        assert (group.path / file).read_text() == "12345"


def test_free_space(tmp_path: Path) -> None:
    assert 0 < limits.free_space(tmp_path) < 2**60


# Processes


def test_descendants() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=0)"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        while len(processes.descendants(child.pid)) < 1:
            assert child.poll() is None
        (below,) = processes.descendants(child.pid)
        assert below in processes.descendants(os.getpid())
        assert below not in processes.descendants(os.getpid(), skip=frozenset({child.pid}))
        assert processes.memory_of([below]) > 0
        child.communicate(b"\n", timeout=30)
    assert processes.memory_of([below, 2**22 + 1]) == 0


# What a machine tells of itself


def test_stats_of_this_machine(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    found = stats.stats(tmp_path, now=now)
    assert found.now == now
    assert 0 < found.disk_free <= found.disk_size and 0 < found.mem_free <= found.mem_size


def test_a_raspberry_pi(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\n\nRevision\t: c03111\nSerial\t\t: 10000000abcdef\x00\nModel : x\n"
    )
    (tmp_path / "proc/meminfo").write_text("MemTotal:  100 kB\nMemAvailable: 50 kB\nodd\nHugePages_Total: 0\n")
    (tmp_path / "proc/loadavg").write_text("0.25 0.10 0.05 1/100 1234\n")
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("48312\n")
    (tmp_path / "etc/os-release").write_text(
        '# comment\nNAME="Raspbian GNU/Linux"\nID=raspbian\nVERSION_CODENAME=\'bookworm\'\nEVIL="a\\$b"\n'
    )
    assert stats.board(tmp_path) == ("c03111", "10000000abcdef?")
    found = stats.stats(tmp_path, root=tmp_path)
    assert (found.mem_size, found.mem_free, found.swap_size) == (102400, 51200, 0)
    assert (found.load_average, found.cpu_temperature) == (0.25, 48.312)
    assert stats.os_release(tmp_path)["EVIL"] == "a$b"
    greeting = stats.hello(
        label="x" * 500 + "\n", build_timeout=timedelta(hours=1), busy_timeout=timedelta(minutes=1), root=tmp_path
    )
    assert (greeting.os_name, greeting.os_version) == ("raspbian", "bookworm")
    assert len(greeting.label) == 100
    assert encode(greeting)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = stats.stats(tmp_path, root=tmp_path)
    assert (found.mem_size, found.load_average, found.cpu_temperature) == (0, 0.0, 0.0)
    assert stats.board(tmp_path) == ("", "")


def test_missing_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.missing_tools() == []
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lines = tools.missing_tools()
    assert len(lines) == 3
    assert all("apt install" in line for line in lines)
