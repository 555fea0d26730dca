# SPDX-License-Identifier: BSD-3-Clause
"""The real piw-slave, as a process, over TCP with CurveZMQ, against a master that does what each test says."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zmq

import piwheels
from piwheels import faults
from piwheels.slave import job
from piwheels.vocabulary import FailureReason
from piwheels.wire import codec, keys, sockets
from piwheels.wire import messages as m
from piwheels.wire.gate import Gate
from piwheels.wire.transfer import Complete, Receiver, Write
from tests.files_server import serve
from tests.missing import leave_out
from tests.sdists import Sdist, make_sdist
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e

Message = TypeVar("Message", bound=m.SlaveMessage)
TOKEN = "7" * 32
HANG = "import sys\nprint('hanging', flush=True)\nos.execvp('sleep', ['sleep', '86397'])\nname = ''"
NO_INDEX = "http://127.0.0.1:9/simple/"


class Master:
    """The master's sockets; every wait has a deadline."""

    def __init__(self, own: keys.KeyPair, admitted: str, builders: str, files: str) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.gate = Gate(self.context, [admitted])
        self.gate.start()
        self.builders = sockets.builder_router(self.context, builders, own)
        self.files = sockets.file_router(self.context, files, own)
        self.builders.setsockopt(zmq.ROUTER_MANDATORY, 0)
        self.identity = b""

    def addresses(self) -> tuple[str, str]:
        return tuple(s.getsockopt_string(zmq.LAST_ENDPOINT) for s in (self.builders, self.files))  # type: ignore[return-value]

    def receive(self, *, seconds: float = 30) -> m.SlaveMessage:
        assert self.builders.poll(int(seconds * 1000)), "the slave says nothing"
        self.identity, _, data = self.builders.recv_multipart()
        return codec.decode_from_slave(data)

    def reply(self, message: m.MasterMessage) -> None:
        self.reply_raw(codec.encode(message))

    def reply_raw(self, data: bytes) -> None:
        self.builders.send_multipart([self.identity, b"", data])

    def expect(self, kind: type[Message], *, seconds: float = 30) -> Message:
        message = self.receive(seconds=seconds)
        assert isinstance(message, kind), message
        return message

    def welcome(self) -> m.Hello:
        """Take a HELLO, answer ACK."""
        hello = self.expect(m.Hello)
        self.reply(m.Ack(7, NO_INDEX))
        return hello

    def hand_out(self, build: m.Build) -> None:
        self.expect(m.Idle)
        self.reply(build)

    def until_built(self, *, seconds: float = 90) -> tuple[m.Built, str]:
        """Answer each BUSY with CONT until BUILT comes; it, and the log that the BUSYs carried."""
        log, deadline = "", time.monotonic() + seconds
        while time.monotonic() < deadline:
            message = self.receive()
            if isinstance(message, m.Built):
                return message, log
            assert isinstance(message, m.Busy), message
            log += message.log
            self.reply(m.Cont())
        raise AssertionError("the build does not end")

    def take(self, size: int) -> bytes:
        """Receive a file on the file channel."""
        receiver, data, deadline = Receiver(size, chunk=1000, credit=3), bytearray(size), time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.files.poll(10_000), "nothing comes on the file channel"
            identity, *frames = self.files.recv_multipart()
            message = codec.decode_file_from_slave(frames)
            now = time.monotonic()
            for effect in receiver.start(now) if isinstance(message, m.FileHello) else receiver.handle(message, now):
                if isinstance(effect, Write):
                    data[effect.offset : effect.offset + len(effect.data)] = effect.data
                    continue
                if isinstance(effect, Complete):
                    self.files.send_multipart([identity, *codec.encode_file(m.FileDone())])
                    return bytes(data)
                self.files.send_multipart([identity, *codec.encode_file(effect)])
        raise AssertionError("the file does not arrive")

    def close(self) -> None:
        self.builders.close(linger=0)
        self.files.close(linger=0)
        self.gate.stop()
        self.context.term()


class World:
    """Keys, directories, a file server; starts masters and slaves."""

    def __init__(self, directory: Path, server: str) -> None:
        self.directory = directory
        self.server = server
        self.files = directory / "files"
        self.work = directory / "work"
        self.master_keys = keys.load_or_make(directory / "master.key")
        self.slave_keys = keys.load_or_make(directory / "slave.key")
        self.addresses = ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
        self.python = sys.executable  #: what the slave runs on
        self.faults = ""  #: what goes wrong in it

    @contextmanager
    def master(self) -> Iterator[Master]:
        master = Master(self.master_keys, self.slave_keys.public, *self.addresses)
        self.addresses = master.addresses()
        try:
            yield master
        finally:
            master.close()

    def command(self, **settings: object) -> list[str]:
        values = {
            "builders": self.addresses[0],
            "files": self.addresses[1],
            "master_key": self.directory / "master.key.pub",
            "key": self.directory / "slave.key",
            "work": self.work,
            "poll": "0.3",
            "min_free": 0,
        } | settings
        start = "import sys; from piwheels.slave.cli import main; sys.exit(main())"
        flags = [word for key, value in values.items() for word in ("--set", f"slave.{key}={value}")]
        return [self.python, "-c", start, *flags]

    @contextmanager
    def slave(self, **settings: object) -> Iterator["subprocess.Popen[str]"]:
        log = self.directory / f"slave-{time.monotonic_ns()}.log"
        command = self.command(**settings)
        environ = os.environ | {"PYTHONPATH": str(Path(piwheels.__file__).parents[1]), faults.VARIABLE: self.faults}
        with log.open("w") as output, subprocess.Popen(command, stderr=output, text=True, env=environ) as process:
            try:
                yield process
            finally:
                process.kill()
                process.wait(10)
                print(log.read_text())

    def build(self, sdist: Sdist, **changes: object) -> m.Build:
        values: dict[str, object] = {
            "token": TOKEN,
            "target": "native",
            "sdist_name": sdist.path.name,
            "sdist_url": f"{self.server}/{sdist.path.name}",
            "sdist_sha256": sdist.sha256,
            "sdist_size": sdist.path.stat().st_size,
            "time_limit": timedelta(seconds=60),
            "memory_limit": 0,
        }
        return m.Build(sdist.project, sdist.version, m.Order(**values | changes))  # type: ignore[arg-type]


@pytest.fixture
def world() -> Iterator[World]:
    directory = Path("/var/tmp") / f"piw-agent-test-{os.getpid()}-{time.monotonic_ns()}"
    (directory / "files").mkdir(parents=True)
    with serve(directory / "files") as server:
        yield World(directory, server)
    job.wipe(directory)


def sleeping(argument: str = "86397") -> bool:
    """Whether a live process has this argument."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def hang(world: World, master: Master, code: str = HANG) -> None:
    """Have the slave build something that says "hanging" and does not end by itself, until it says that."""
    master.welcome()
    master.hand_out(world.build(make_sdist(world.files, code)))
    log, deadline = "", time.monotonic() + 30
    while "hanging" not in log:
        assert time.monotonic() < deadline
        log += master.expect(m.Busy).log
        master.reply(m.Cont())
    if code is HANG:
        assert sleeping()
    else:
        wait_for(lambda: not sleeping(), "the build of an earlier test to be gone", seconds=15)


SYSTEM_PYTHON = "/usr/bin/python3"


def debian_environment(world: World) -> str:
    """A Python with Debian's own packages, the old end of the range, and a pip."""
    command = [SYSTEM_PYTHON, "-c", "import zmq, cbor2, packaging, elftools"]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        leave_out("needs python3-zmq python3-cbor2 python3-packaging python3-pyelftools")
    venv = world.directory / "venv"
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--system-site-packages", str(venv)], check=True, timeout=120)
    return str(venv / "bin/python")


@pytest.mark.parametrize("old", [False, True], ids=["newest", "debian"])
def test_a_build_from_hello_to_done(world: World, old: bool) -> None:
    if old:
        world.python = debian_environment(world)
    code = "print('x' * 100)\nname = wheel(out, {'foo/__init__.py': os.urandom(50000)})"
    with world.master() as master, world.slave(label="Café 1") as slave:
        hello = master.welcome()
        assert re.fullmatch(r"3\d+", hello.py_version) and hello.abi.startswith("cp3")
        assert hello.platform.startswith("linux_")
        assert hello.label == "Caf? 1"
        assert hello.capabilities is not None and hello.capabilities.resume is None
        idle = master.expect(m.Idle)
        assert 0 < idle.stats.disk_free <= idle.stats.disk_size and 0 < idle.stats.mem_free <= idle.stats.mem_size
        master.reply(m.Sleep(paused=False))
        master.hand_out(world.build(make_sdist(world.files, code)))
        built, _ = master.until_built()
        assert built.ok, built.log
        assert built.report is not None and built.report.token == TOKEN
        (file,) = built.files
        for _ in range(2):  # the same file may be asked for again
            master.reply(m.Send(file.filename))
            data = master.take(file.size)
            assert hashlib.sha256(data).hexdigest() == file.sha256
            master.expect(m.Sent)
        assert (world.work / "job").exists()
        master.reply(m.Done())
        master.expect(m.Idle)
        assert not (world.work / "job").exists()
        master.reply(m.Sleep(paused=True))
        master.expect(m.Idle)
        master.reply(m.Sleep(paused=False))
        time_out = time.monotonic() + 10
        slave.send_signal(signal.SIGTERM)
        while not isinstance(message := master.receive(), m.Bye):
            assert isinstance(message, m.Idle) and time.monotonic() < time_out
            master.reply(m.Sleep(paused=False))
        assert slave.wait(10) == 0


def test_failure_is_reported_with_its_reason(world: World) -> None:
    with world.master() as master, world.slave():
        master.welcome()
        master.hand_out(world.build(make_sdist(world.files, "raise RuntimeError('no way')")))
        built, _ = master.until_built()
        assert not built.ok and built.report is not None
        assert built.report.reason is FailureReason.PACKAGE
        assert built.report.detail == "RuntimeError: no way"
        master.reply(m.Done())
        master.expect(m.Idle)


def test_hundred_megabytes_of_log_with_nuls_and_escapes(world: World) -> None:
    code = r"""
    line = b"\x00\x1b[31m" + b"x" * 50_000 + b"\r\n"
    for _ in range(2100):
        os.write(1, line)
    raise RuntimeError("after all that")
    """
    with world.master() as master, world.slave():
        master.welcome()
        master.hand_out(world.build(make_sdist(world.files, code)))
        built, live = master.until_built()
        assert built.report is not None and built.report.detail == "RuntimeError: after all that"
        assert built.report.reason is FailureReason.PACKAGE
        assert len(built.log) < 4 * 1024**2
        assert "bytes of the log are left out here" in built.log and "Running command" in built.log
        assert not set(built.log + live) & set("\x00\x1b\r")


def test_a_disk_that_fills_up_as_a_build_begins_ends_it(world: World) -> None:
    world.faults = "building=enospc"
    with world.master() as master, world.slave():
        master.welcome()
        master.hand_out(world.build(make_sdist(world.files, HANG)))
        built, _ = master.until_built()
        assert built.report is not None and built.report.reason is FailureReason.DISK
        assert not sleeping()
        master.reply(m.Done())
        master.expect(m.Idle)


def test_a_result_that_cannot_be_read_is_the_disks_fault(world: World) -> None:
    world.faults = "reading=eio"
    with world.master() as master, world.slave():
        master.welcome()
        master.hand_out(world.build(make_sdist(world.files, "name = wheel(out)")))
        built, _ = master.until_built()
        assert built.report is not None and not built.ok
        assert built.report.reason is FailureReason.BUILDER and "cannot be read" in built.report.detail
        master.reply(m.Done())
        master.expect(m.Idle)


def test_master_ends_a_build(world: World) -> None:
    with world.master() as master, world.slave():
        hang(world, master)
        master.expect(m.Busy)
        master.reply(m.Done())
        master.expect(m.Idle)
        assert not sleeping()
        assert not (world.work / "job").exists()


def test_master_says_die(world: World) -> None:
    with world.master() as master, world.slave() as slave:
        hang(world, master)
        master.expect(m.Busy)
        master.reply(m.Die())
        assert slave.wait(15) == 1
        assert not sleeping()


def test_a_restart_of_the_master_loses_no_build(world: World) -> None:
    flag = world.directory / "files" / "go"  # served; the build asks for it until it is there
    code = f"""
    import urllib.request
    print("hanging", flush=True)
    for _ in range(600):
        try:
            urllib.request.urlopen("{world.server}/go", timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    name = wheel(out)
    """
    with ExitStack() as stack:
        with world.master() as master:
            slave = stack.enter_context(world.slave())
            hang(world, master, code)
        with world.master() as master:
            hello = master.welcome()
            assert hello.capabilities is not None and hello.capabilities.resume == TOKEN
            flag.write_text("")
            built, _ = master.until_built()
            assert built.ok, built.log
            assert built.report is not None and built.report.token == TOKEN
            assert slave.poll() is None
        # Once more, with the result already told and not answered.
        with world.master() as master:
            hello = master.welcome()
            assert hello.capabilities is not None and hello.capabilities.resume == TOKEN
            built, _ = master.until_built()
            master.reply(m.Done())
            master.expect(m.Idle)


def finish(world: World, master: Master) -> m.Built:
    """Have a slave build something and tell its result; kill it before it is answered."""
    sdist = make_sdist(world.files, "print('done')\nname = wheel(out)", project="left-over", version="1.0")
    with world.slave() as slave:
        master.welcome()
        master.hand_out(world.build(sdist))
        built, _ = master.until_built()
        slave.kill()
        slave.wait(10)
    assert built.ok, built.log
    return built


def test_a_killed_builder_delivers_what_it_had_built(world: World) -> None:
    with world.master() as master:
        built = finish(world, master)
        with world.slave():
            hello = master.welcome()
            assert hello.capabilities is not None and hello.capabilities.resume == TOKEN
            again = master.expect(m.Built)
            assert (again.ok, again.files) == (True, built.files) and again.report is not None
            assert again.report.token == TOKEN and "killed" in again.log
            (file,) = again.files
            master.reply(m.Send(file.filename))
            assert hashlib.sha256(master.take(file.size)).hexdigest() == file.sha256
            master.expect(m.Sent)
            master.reply(m.Done())
            master.expect(m.Idle)
            assert not (world.work / "job").exists()


@pytest.mark.parametrize("damage", ["wheel", "result.json", "task.json"])
def test_what_a_killed_builder_has_only_in_part_is_not_delivered(world: World, damage: str) -> None:
    with world.master() as master:
        built = finish(world, master)
        path = world.work / "job" / ("wheels/" + built.files[0].filename if damage == "wheel" else damage)
        path.write_bytes(path.read_bytes()[:-1])
        with world.slave():
            hello = master.welcome()
            assert hello.capabilities is not None and hello.capabilities.resume is None
            master.expect(m.Idle)
            assert not (world.work / "job").exists()


@pytest.mark.parametrize(
    "nonsense", [b"", b"\xff" * 20, b'"NOPE"', codec.encode(m.Cont()), codec.encode(m.Send("x.whl"))]
)
def test_nonsense_costs_the_connection_and_no_more(world: World, nonsense: bytes) -> None:
    with world.master() as master, world.slave() as slave:
        master.welcome()
        before = master.identity
        master.expect(m.Idle)
        master.reply_raw(nonsense)
        master.welcome()
        assert master.identity != before
        master.expect(m.Idle)
        assert slave.poll() is None


def test_sigterm_in_the_middle_of_a_build(world: World) -> None:
    with world.master() as master, world.slave() as slave:
        hang(world, master)
        started = time.monotonic()
        slave.send_signal(signal.SIGTERM)
        assert slave.wait(15) == 0
        assert time.monotonic() - started < 10
        assert not sleeping()
        assert not (world.work / "job").exists()


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_kill_nine_leaves_nothing_running(world: World, sandbox: str) -> None:
    with world.master() as master:
        with world.slave(sandbox=sandbox) as slave:
            hang(world, master)
            slave.kill()
            slave.wait(10)
        wait_for(lambda: not sleeping(), "the build to be gone", seconds=15)
        with world.slave(sandbox=sandbox):
            while not isinstance(master.receive(), m.Hello):
                pass  # what the killed one still had in its socket
            assert not (world.work / "job").exists()
            master.reply(m.Ack(7, NO_INDEX))
            master.expect(m.Idle)


def run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_two_in_the_same_directory(world: World) -> None:
    with world.master() as master, world.slave():
        master.welcome()
        status, errors = run(world.command())
    assert status == 3
    assert len(errors.splitlines()) == 1 and "another piw-slave works in" in errors


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"master_key": ""}, 2, "slave.master_key is not set"),
        ({"master_key": "/nowhere/at/all"}, 3, "/nowhere/at/all"),
        ({"sandbox": "maybe"}, 2, "sandbox"),
        ({"work": "/proc/nowhere"}, 3, "/proc/nowhere"),
        ({"builders": "nonsense"}, 2, "nonsense"),
    ],
)
def test_what_is_wrong_is_one_line(world: World, settings: dict[str, object], status: int, words: str) -> None:
    got, errors = run(world.command(**settings))
    assert got == status
    assert words in errors.splitlines()[-1] and "Traceback" not in errors


def test_required_sandbox_that_is_not_there(world: World) -> None:
    command = world.command(sandbox="required")
    command[2] = "import shutil; shutil.which = lambda *a, **k: None\n" + command[2].replace("; ", "\n", 1)
    status, errors = run(command)
    assert status == 3
    assert "slave.sandbox is required, but bubblewrap is not installed" in errors
