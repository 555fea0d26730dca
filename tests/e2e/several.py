# SPDX-License-Identifier: BSD-3-Clause
"""A master and several builders on one machine, each of another target: their processes, keys and settings.

Builders of Pythons that are on this machine are real ``piw-slave`` processes that say they run another distribution
(tests/e2e/posing.py). For a Python that is not here there is a builder that speaks the protocol over real sockets and
hands over wheels without building them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import zmq
from sqlalchemy import Connection, select

from piwheels.db import migrate, slaves, targets
from piwheels.db.engine import in_transaction, make_engine
from piwheels.db.tables import roles
from piwheels.master.targets import Target
from piwheels.postgres import Cluster
from piwheels.settings import DatabaseSettings
from piwheels.wire import keys
from piwheels.wire import messages as m
from tests.bench.harness import ROOT
from tests.e2e.running import clean_environ, free_port
from tests.integration import dispatch_world
from tests.integration.builder import Address, Builder, announce
from tests.waiting import wait_for

TRIES, ANSWER = 20, 3000  #: connections of a pretender; milliseconds that each may go without an answer
END = 20.0  #: seconds that a process may take to end


@dataclass
class SeveralTargets:
    """The farm. As a context manager it is ended, and nothing of it is left."""

    upstream: str  #: of the simulator
    projects: Sequence[str]
    targets: Sequence[Target]
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="piw-e2e-", dir="/tmp")))
    _stack: ExitStack = field(default_factory=ExitStack)
    _processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    _pretenders: list["Pretender"] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._prepare()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        faults = [fault for pretender in self._pretenders if (fault := pretender.stop()) is not None]
        left = [child for process in self._processes.values() for child in _family(process.pid)]
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(END)
        if error is not None:
            print(self.logs(), *map(repr, faults), sep="\n")
        _, alive = psutil.wait_procs(left, timeout=END)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._stack.close()
        if faults and error is None:
            raise AssertionError("a pretending builder met something it does not know") from faults[0]

    def _prepare(self) -> None:
        cluster = self._stack.enter_context(Cluster(self.folder / "pg"))
        self.database = DatabaseSettings(url=cluster.url)
        migrate.create_database(self.database)
        migrate.upgrade(self.database)
        for name in ("keys", "run", "www"):
            (self.folder / name).mkdir(mode=0o700 if name == "keys" else 0o755)
        self.engine = make_engine(self.database, name="test")
        self._stack.callback(self.engine.dispose)
        master = keys.load_or_make(self.folder / "keys" / "master.key")
        self.address = Address(
            builders=f"tcp://127.0.0.1:{free_port()}", files=f"tcp://127.0.0.1:{free_port()}", key=master.public
        )
        in_transaction(self.engine, self._add_targets)

    def _add_targets(self, conn: Connection) -> None:
        for target in self.targets:
            targets.add(conn, target)

    # Who works here

    def start_master(self) -> None:
        """All its roles; returns when builders can come."""
        paths = {"output": "www", "store": "store", "run": "run", "keys": "keys"}
        settings = [f"paths.{name}={self.folder / folder}" for name, folder in paths.items()]
        settings += [f"database.url={self.database.url}", f"upstream.simple_url={self.upstream}"]
        settings += [f"feed.projects={','.join(self.projects)}", "feed.interval=5"]
        settings += [f"dispatch.builders={self.address.builders}", f"dispatch.files={self.address.files}"]
        self._start("master", "piwheels.master.cli", settings=settings)
        serves = until(
            self, lambda conn: conn.scalar(select(roles.c.pid).where(roles.c.name == "dispatch")) is not None
        )
        wait_for(serves, "dispatch to start", seconds=60)

    def start_posing(self, name: str, codename: str, *, python: str = sys.executable) -> None:
        """A piw-slave that says it runs this release of Debian; builds with this Python."""
        own = self.folder / "keys" / f"{name}.key"
        self.enrol(keys.load_or_make(own).public, name)
        settings = [f"slave.{key}={value}" for key, value in self._slave_settings(name, own).items()]
        self._start(name, "tests.e2e.posing", codename, settings=settings, python=python)

    def _slave_settings(self, label: str, key: Path) -> Mapping[str, object]:
        return {
            "builders": self.address.builders,
            "files": self.address.files,
            "master_key": self.address.key,
            "key": key,
            "label": label,
            "work": self.folder / f"work-{label}",
            "poll": 0.3,
        }

    def start_pretending(self, target: Target, wheels: Mapping[str, str]) -> None:
        """A builder of this target that builds nothing: for each project the tag of the wheel that it hands over."""
        own = keys.make()
        self.enrol(own.public, target.name)
        context: zmq.Context[Any] = zmq.Context()
        self._stack.callback(context.destroy, linger=0)
        pretender = Pretender(Posed(self.address, own, context, platform=target.platform, target=target), wheels)
        self._pretenders.append(pretender)
        pretender.start()

    def enrol(self, key: str, label: str) -> None:
        """Admit a builder."""
        in_transaction(self.engine, lambda conn: slaves.enrol(conn, key, label=label))

    def _start(
        self, name: str, module: str, *arguments: str, settings: Sequence[str], python: str = sys.executable
    ) -> None:
        words = [word for one in settings for word in ("--set", one)]
        # farm_children: it ends when this test does, by kill -9 too.
        command = [python, "-m", "piwheels.farm_children", str(os.getpid()), module, *arguments, *words]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environ()
            )

    def logs(self) -> str:
        """The ends of what the processes said."""
        ends = []
        for path in sorted(self.folder.glob("*.log")):
            ends.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-30:]))
        return "\n".join(ends)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass
class Posed(Builder):
    """The tests' builder, which says that it is a target's."""

    target: Target | None = None

    def hello_message(self, **values: Any) -> m.Hello:
        assert self.target is not None
        return replace(
            super().hello_message(**values),
            py_version=self.target.python_version.replace(".", ""),
            abi=self.target.abi,
            os_name="debian",
            os_version=self.target.distribution,
        )


class Pretender:
    """Asks for jobs and hands over wheels, in a thread."""

    def __init__(self, builder: Posed, wheels: Mapping[str, str]) -> None:
        self._builder = builder
        self._wheels = wheels
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pretender", daemon=True)
        self._fault: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> BaseException | None:
        """End; returns what went wrong."""
        self._stop.set()
        self._thread.join(END)
        return self._fault

    def _run(self) -> None:
        try:
            self._join()
            while not self._stop.is_set():
                answer = self._builder.idle()
                if isinstance(answer, m.Build):
                    self._deliver(answer)
                else:
                    self._stop.wait(0.2)
        except BaseException as error:
            self._fault = error
        finally:
            self._builder.close()

    def _join(self) -> None:
        """As real builders do: a connection that was refused (the master had not heard of our key yet) is not made
        anew by ZeroMQ."""
        for _ in range(TRIES):
            self._builder.connect().send(self._builder.hello_message())
            if self._builder.socket.poll(ANSWER):
                answer = self._builder.receive()
                assert isinstance(answer, m.Ack), answer
                self._builder.slave_id = answer.slave_id
                return
            if self._stop.is_set():
                return
        raise AssertionError("the master did not answer")

    def _deliver(self, build: m.Build) -> None:
        project = build.package.replace("-", "_")
        tag = self._wheels[build.package]
        data = dispatch_world.wheel_bytes(project, build.version, tag)
        answer = self._builder.built(build, announce(f"{project}-{build.version}-{tag}.whl", data))
        if isinstance(answer, m.Send):
            self._builder.deliver(data)
            answer = self._builder.ask(m.Sent())
        assert isinstance(answer, m.Done), answer


def until(farm: SeveralTargets, condition: Callable[[Connection], bool]) -> Callable[[], bool]:
    """A condition on the database as one without arguments, for wait_for."""
    return lambda: in_transaction(farm.engine, condition)
