# SPDX-License-Identifier: BSD-3-Clause
"""Real builds: real pip, real processes, the sandbox that this machine has; hostile sdists included. No index is asked.

Each build is a second or two. They run confined as the builder would choose here, and some without bubblewrap too.
"""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from piwheels.settings import SlaveSettings
from piwheels.slave import job
from piwheels.slave.runner import Runner
from piwheels.slave.sandbox import Confinement
from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wheelfile import read_wheel
from piwheels.wire.messages import Build, Built, Order
from tests.files_server import serve
from tests.sdists import Sdist, make_sdist
from tests.waiting import wait_for
from tests.wheels import make_wheel, metadata_text

pytestmark = pytest.mark.e2e

TOKEN = "5" * 32
NO_INDEX = "http://127.0.0.1:9/simple/"  # the discard port: nothing is there

BuildIt = Callable[..., Built]


@pytest.fixture(params=["auto", "off"])
def confinement(request: pytest.FixtureRequest) -> str:
    """With the best sandbox of this machine, and without bubblewrap."""
    return str(request.param)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    path.mkdir()
    return path


@pytest.fixture
def server(files: Path) -> Iterator[str]:
    with serve(files) as address:
        yield address


@pytest.fixture
def work() -> Iterator[Path]:
    """A work directory that an ordinary user reaches, as pytest's own are not."""
    path = Path("/var/tmp") / f"piw-slave-test-{os.getpid()}-{time.monotonic_ns()}"
    yield path
    job.wipe(path)


@pytest.fixture
def runner_for(work: Path, tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    made: list[Runner] = []

    def make(**settings: object) -> Runner:
        values = {"work": work, "key": tmp_path / "secret" / "slave.key", "min_free": 0} | settings
        made.append(Runner(SlaveSettings(**values)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for runner in made:
        runner.close()


def order(sdist: Sdist, server: str, **changes: object) -> Build:
    values: dict[str, object] = {
        "token": TOKEN,
        "target": "native",
        "sdist_name": sdist.path.name,
        "sdist_url": f"{server}/{sdist.path.name}",
        "sdist_sha256": sdist.sha256,
        "sdist_size": sdist.path.stat().st_size,
        "time_limit": timedelta(seconds=120),
        "memory_limit": 0,
    }
    return Build(sdist.project, sdist.version, Order(**values | changes))  # type: ignore[arg-type]


def build(runner: Runner, what: Build, *, index_url: str = NO_INDEX, seconds: float = 150) -> Built:
    runner.start(what, index_url, now=time.monotonic())
    built = wait_for(lambda: runner.poll(now=time.monotonic()), "the build to end", seconds=seconds)
    assert built.report is not None and built.report.token == TOKEN
    return built


def reason(built: Built) -> tuple[FailureReason | None, str]:
    assert built.report is not None
    return built.report.reason, built.report.detail


def test_pure_package(runner_for: Callable[..., Runner], files: Path, server: str, confinement: str) -> None:
    runner = runner_for(sandbox=confinement)
    sdist = make_sdist(files)
    built = build(runner, order(sdist, server))
    assert built.ok, built.log
    assert reason(built) == (None, "")
    (file,) = built.files
    assert (file.filename, file.package_tag, file.py_tag) == ("foo-1.0-py3-none-any.whl", "foo", "py3")
    assert runner.wheel(file.filename).stat().st_size == file.size
    assert read_wheel(runner.wheel(file.filename)).top_level == ("foo",)
    assert built.report is not None
    assert built.report.built_from == sdist.sha256
    assert {"python", "pip"} <= set(built.report.built_with)
    assert built.report.peak_memory and built.report.peak_memory > 1024**2
    assert built.report.cpu_seconds and built.report.cpu_seconds > 0.05
    assert "Successfully built foo" in built.log
    runner.wipe()
    assert not runner.directory.exists()


def test_c_extension(runner_for: Callable[..., Runner], files: Path, server: str) -> None:
    code = """
    import sysconfig
    with open("foo.c", "w") as file:
        file.write('#include <Python.h>\\n#include <zlib.h>\\nconst char *v(void) { return zlibVersion(); }\\n'
                   'static struct PyModuleDef d = {PyModuleDef_HEAD_INIT, "foo", 0, -1, 0};\\n'
                   'PyMODINIT_FUNC PyInit_foo(void) { return PyModule_Create(&d); }\\n')
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if not os.path.exists("/usr/include/zlib.h"):
        text = open("foo.c").read().replace("#include <zlib.h>", "const char *zlibVersion(void);")
        open("foo.c", "w").write(text)
    zlib = next(os.path.join(d, f) for d, _, fs in os.walk("/usr/lib") for f in fs + _ if f == "libz.so.1")
    subprocess.run(["gcc", "-shared", "-fPIC", "-I" + sysconfig.get_path("include"),
                    "foo.c", "-o", "foo" + suffix, zlib], check=True)
    tag = "cp%d%d-cp%d%d-%s" % (*sys.version_info[:2] * 2, sysconfig.get_platform().replace("-", "_"))
    name = wheel(out, {"foo" + suffix: open("foo" + suffix, "rb").read()}, tag=tag)
    """
    built = build(runner_for(), order(make_sdist(files, code), server))
    assert built.ok, built.log
    assert built.files[0].dependencies == {DependencyTool.APT: ("zlib1g",)}


def test_failing_build(runner_for: Callable[..., Runner], files: Path, server: str, confinement: str) -> None:
    code = """
    open("x.c", "w").write("#include <no_such_header.h>\\n")
    subprocess.run(["gcc", "-c", "x.c"], check=True)
    """
    built = build(runner_for(sandbox=confinement), order(make_sdist(files, code), server))
    assert not built.ok and built.files == ()
    assert reason(built)[0] is FailureReason.PACKAGE
    assert "no_such_header.h: No such file" in reason(built)[1]
    assert "no_such_header.h" in built.log


def test_wrong_hash_runs_nothing(runner_for: Callable[..., Runner], files: Path, server: str, work: Path) -> None:
    sdist = make_sdist(files, "open('/tmp/ran', 'w').close()\nprint('I RAN')\nname = wheel(out)")
    runner = runner_for()
    built = build(runner, order(sdist, server, sdist_sha256="0" * 64))
    assert reason(built)[0] is FailureReason.NETWORK
    assert "SHA-256" in reason(built)[1] and "nothing of it was run" in reason(built)[1]
    assert "I RAN" not in built.log and "Processing" not in built.log
    assert not (runner.directory / "place").exists()


def test_missing_sdist(runner_for: Callable[..., Runner], files: Path, server: str) -> None:
    sdist = make_sdist(files)
    built = build(runner_for(), order(sdist, server, sdist_url=f"{server}/gone.tar.gz"))
    assert reason(built)[0] is FailureReason.NETWORK
    assert "404" in reason(built)[1]


def test_wheel_that_lies_about_its_project(runner_for: Callable[..., Runner], files: Path, server: str) -> None:
    code = "name = wheel(out, project='bar', filename='foo-1.0-py3-none-any.whl')"
    built = build(runner_for(), order(make_sdist(files, code), server))
    assert reason(built)[0] is FailureReason.PACKAGE
    assert "bar" in reason(built)[1]


def test_wheel_of_another_project(runner_for: Callable[..., Runner], files: Path, server: str) -> None:
    built = build(runner_for(), order(make_sdist(files, "name = wheel(out, project='bar')"), server))
    assert reason(built)[0] is FailureReason.PACKAGE
    assert "bar" in reason(built)[1]


def test_wheel_whose_tags_disagree(runner_for: Callable[..., Runner], files: Path, server: str) -> None:
    built = build(runner_for(), order(make_sdist(files, "name = wheel(out, inner_tag='cp27-none-any')"), server))
    assert reason(built)[0] is FailureReason.PACKAGE
    assert "cp27-none-any" in reason(built)[1]


def test_time_limit_and_daemons(runner_for: Callable[..., Runner], files: Path, server: str, confinement: str) -> None:
    """A build that hangs, has children that left its session, and ignores signals: gone, all of it."""
    code = """
    import signal
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "86399"])
        os._exit(0)
    print("hanging", flush=True)
    while True:
        time.sleep(1000)
    name = ""
    """
    runner = runner_for(sandbox=confinement)
    started = time.monotonic()
    built = build(runner, order(make_sdist(files, code), server, time_limit=timedelta(seconds=8)))
    assert time.monotonic() - started < 60
    assert reason(built)[0] is FailureReason.TIMEOUT
    assert "hanging" in built.log
    assert not running("86399")


def test_daemon_of_a_build_that_ends_well(
    runner_for: Callable[..., Runner], files: Path, server: str, confinement: str
) -> None:
    code = """
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(3):  # pip waits for whoever holds its pipe
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.execvp("sleep", ["sleep", "86398"])
        os._exit(0)
    name = wheel(out)
    """
    built = build(runner_for(sandbox=confinement), order(make_sdist(files, code), server))
    assert built.ok, built.log
    assert not running("86398")


@pytest.mark.parametrize("groups", [True, False])
def test_job_that_is_killed(
    runner_for: Callable[..., Runner],
    files: Path,
    server: str,
    confinement: str,
    groups: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process that watches over the build dies (out of memory, say): the builder's fault, and nothing is left."""
    if not groups:
        monkeypatch.setattr("piwheels.slave.limits.find_home", lambda: None)
    runner = runner_for(sandbox=confinement)
    runner.start(order(make_sdist(files, "os.execvp('sleep', ['sleep', '86396'])\nname=''"), server), NO_INDEX, now=0)
    wait_for(lambda: running("86396"), "the build to run", seconds=60)
    assert runner._running is not None
    runner._running.process.kill()
    built = wait_for(lambda: runner.poll(now=1), "the build to end", seconds=30)
    assert reason(built)[0] is FailureReason.BUILDER and "killed" in reason(built)[1]
    wait_for(lambda: not running("86396"), "the build to be gone", seconds=10)


def running(argument: str) -> list[str]:
    """Command lines of live processes that contain an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in words:
            found.append(repr(words))
    return found


def test_memory_limit(runner_for: Callable[..., Runner], files: Path, server: str, confinement: str) -> None:
    code = """
    keep = [bytearray(b"x" * 1024 * 1024) for _ in range(3000)]
    name = wheel(out)
    """
    built = build(runner_for(sandbox=confinement), order(make_sdist(files, code), server, memory_limit=300 * 1024**2))
    assert reason(built)[0] is FailureReason.MEMORY, built.log
    assert built.report is not None and built.report.peak_memory
    assert 100 * 1024**2 < built.report.peak_memory < 400 * 1024**2


def test_memory_of_many_processes(
    runner_for: Callable[..., Runner], files: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a control group each process is limited, and all of them together are watched."""
    monkeypatch.setattr("piwheels.slave.limits.find_home", lambda: None)
    code = """
    for _ in range(10):
        if os.fork() == 0:
            keep = [bytearray(b"x" * 1024 * 1024) for _ in range(60)]
            time.sleep(100)
    time.sleep(100)
    name = ""
    """
    runner = runner_for()
    assert not runner.limited
    built = build(runner, order(make_sdist(files, code), server, memory_limit=300 * 1024**2))
    assert reason(built)[0] is FailureReason.MEMORY
    assert built.report is not None and built.report.peak_memory and built.report.peak_memory > 300 * 1024**2


def test_largest_file(runner_for: Callable[..., Runner], files: Path, server: str) -> None:
    """A file beyond the limit is the disk's affair: the write fails in the build."""
    code = """
    import resource
    with open("big", "wb") as file:
        file.truncate(resource.getrlimit(resource.RLIMIT_FSIZE)[0] + 1)
    name = wheel(out)
    """
    built = build(runner_for(), order(make_sdist(files, code), server))
    assert not built.ok
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # not ours


def test_disk_nearly_full(runner_for: Callable[..., Runner], files: Path, server: str, work: Path) -> None:
    status = os.statvfs("/var/tmp")
    runner = runner_for(min_free=status.f_blocks * status.f_frsize)
    built = build(runner, order(make_sdist(files), server))
    assert reason(built)[0] is FailureReason.DISK
    assert "disk" in reason(built)[1]


def test_build_requirements_cannot_be_had(runner_for: Callable[..., Runner], files: Path, server: str) -> None:
    sdist = make_sdist(files, requires='["setuptools"]')
    built = build(runner_for(), order(sdist, server))
    assert reason(built)[0] is FailureReason.NETWORK, built.log


SPY = """
import glob, json
found = {}
for path in %(paths)r:
    try:
        found[path] = open(path, "rb").read(20).decode("latin-1")
    except OSError as error:
        found[path] = None
for path in %(write)r:
    try:
        open(path, "w").write("pwned")
        found["wrote " + path] = True
    except OSError:
        pass
commands = [open(p).read().replace(chr(0), " ") for p in glob.glob("/proc/[0-9]*/cmdline")]
found["tests"] = [c[:50] for c in commands if "-m pytest" in c or "bin/pytest" in c]
found["environment"] = dict(os.environ)
found["user"] = [os.getuid(), os.getgid(), os.getgroups()]
found["home"] = os.listdir("/home") if os.path.exists("/home") else []
for item in found.items():
    print("SPY" + json.dumps(item)[:3500], flush=True)
name = wheel(out)
"""


@pytest.mark.parametrize("root_outside", [False, True])
def test_what_a_build_can_see(
    runner_for: Callable[..., Runner],
    files: Path,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root_outside: bool,
) -> None:
    """``root_outside``: as where nobody cannot reach the virtual environment; no matter for other users than root."""
    monkeypatch.setenv("PIW_SECRET", "password")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/evil")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    key = tmp_path / "secret" / "slave.key"
    key.parent.mkdir()
    key.write_text("secret")
    key.chmod(0o644)  # worse than it would be: only what is not shown is safe then
    tmp_path.chmod(0o755)
    runner = runner_for()
    if root_outside and runner.sandbox.confinement is Confinement.BUBBLEWRAP:
        runner.sandbox = replace(runner.sandbox, user=None, group=None)
    outside = [str(tmp_path / "evil"), str(runner.work / "evil"), "/usr/evil", "/etc/evil", "/evil", "/var/evil"]
    outside += ["/proc/sys/kernel/core_pattern"]
    paths = [str(key), "/etc/shadow", str(Path.home() / ".bashrc"), "/etc/piwheels/slave.key", "/etc/passwd"]
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    built = build(runner, order(make_sdist(files, SPY % {"paths": paths, "write": outside}), server))
    assert built.ok, built.log
    said = (line.partition("SPY") for line in built.log.splitlines())
    found = dict(json.loads(item) for before_it, spy, item in said if spy and not before_it.strip())
    assert "PIW_SECRET" not in found["environment"] and "PIP_EXTRA_INDEX_URL" not in found["environment"]
    assert found["environment"]["no_proxy"] == "127.0.0.1"
    assert found["environment"]["HOME"] != os.environ.get("HOME")
    assert found["user"][0] != 0
    assert [word for word in found if word.startswith("wrote")] == []
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    assert found["/etc/shadow"] is None
    if runner.sandbox.confinement is Confinement.BUBBLEWRAP:
        assert found[str(key)] is None
        assert found[str(Path.home() / ".bashrc")] is None
        assert found["/etc/passwd"].startswith("build:x:")
        prefix = Path(sys.prefix)  # the way to our own Python is there, and nothing beside it
        assert found["home"] == ([prefix.parts[2]] if prefix.is_relative_to("/home") else [])
        assert found["tests"] == []


# What an order may say beyond what to build


def test_a_build_sees_the_variables_of_its_order(
    runner_for: Callable[..., Runner], files: Path, server: str, confinement: str
) -> None:
    code = """
    print(ascii({key: os.environ[key] for key in ("A", "HOME")}))
    name = wheel(out)
    """
    given = (("A", "x 'y' \n $(z) é"), ("HOME", "/elsewhere"))
    built = build(runner_for(sandbox=confinement), order(make_sdist(files, code), server, environment=given))
    assert built.ok, built.log
    assert ascii({"A": given[0][1]})[:-1] in built.log
    assert "/elsewhere" not in built.log


def test_missing_packages_end_a_build_before_it_begins(
    runner_for: Callable[..., Runner], files: Path, server: str
) -> None:
    runner, sdist = runner_for(), make_sdist(files)
    built = build(runner, order(sdist, server, apt=("libno-such-dev", "dpkg", "no-such2")))
    words = "it needs Debian packages that are not installed here: libno-such-dev no-such2"
    assert reason(built) == (FailureReason.BUILDER, words)
    assert "fetching" not in built.log
    if shutil.which("dpkg-query"):
        assert build(runner, order(sdist, server, apt=("dpkg",))).ok


@pytest.mark.parametrize("network", [True, False])
def test_a_build_without_a_network_has_what_it_requires(
    runner_for: Callable[..., Runner], files: Path, server: str, network: bool
) -> None:
    runner = runner_for()
    if runner.sandbox.confinement is not Confinement.BUBBLEWRAP:
        pytest.skip("bubblewrap does not work here")
    make_wheel(
        files,
        "need-1.0-py3-none-any.whl",
        members={"need.py": b"x = 42\n"},
        metadata=metadata_text("need"),
        dist_info="need-1.0.dist-info",
    )

    def index(answer: BaseHTTPRequestHandler) -> None:
        page = b'<!DOCTYPE html><a href="/need-1.0-py3-none-any.whl">need-1.0-py3-none-any.whl</a>'
        answer.send_response(200)
        answer.send_header("Content-Type", "text/html")
        answer.send_header("Content-Length", str(len(page)))
        answer.end_headers()
        answer.wfile.write(page)

    with serve(files, {"/simple/need/": index}) as address:
        code = f"""
        import need, socket
        try:
            socket.create_connection(("127.0.0.1", {address.rpartition(":")[2]}), timeout=10).close()
            print("a network,", need.x)
        except OSError:
            print("no network,", need.x)
        name = wheel(out)
        """
        sdist = make_sdist(files, code, requires='["need >= 1"]')
        built = build(runner, order(sdist, server, network=network), index_url=f"{address}/simple/")
    assert built.ok, built.log
    assert ("a network, 42" if network else "no network, 42") in built.log
    assert ("building without a network, with need>=1 brought in first" in built.log) is not network
    assert built.report is not None and built.report.built_with.get("need", "1.0") == "1.0"


def test_a_network_cannot_be_taken_away_without_bubblewrap(
    runner_for: Callable[..., Runner], files: Path, server: str
) -> None:
    built = build(runner_for(sandbox="off"), order(make_sdist(files), server, network=False))
    words = "it is to be built without a network, which this builder cannot do: it has no bubblewrap"
    assert reason(built) == (FailureReason.BUILDER, words)


def test_requirements_that_cannot_be_had_end_a_build(
    runner_for: Callable[..., Runner], files: Path, server: str
) -> None:
    runner = runner_for()
    if runner.sandbox.confinement is not Confinement.BUBBLEWRAP:
        pytest.skip("bubblewrap does not work here")
    sdist = make_sdist(files, "print('it ran')\nname = wheel(out)", requires='["need"]')
    built = build(runner, order(sdist, server, network=False))
    assert not built.ok and "it ran" not in built.log
    sdist = make_sdist(files, project="bar", requires='["--index-url=http://evil"]')
    built = build(runner, order(sdist, server, network=False))
    assert reason(built)[0] is FailureReason.PACKAGE
    assert "build-system.requires has what is no requirement" in reason(built)[1]
