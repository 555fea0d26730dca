# SPDX-License-Identifier: BSD-3-Clause
"""A real master to be attacked: its processes, what they weigh, what they log, and an honest builder they must serve.

Knows no attack. The master is ``piw-master`` with the roles that own sockets, as processes of its own, on a database
of its own.
"""

import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import zmq
from sqlalchemy import Engine, func, select

from piwheels.db import slaves, tables
from piwheels.logger.batches import Batch, decode_answer, encode_batch
from piwheels.master.commands import Command, Verb
from piwheels.monitor.client import Client
from piwheels.wire import messages as m
from piwheels.wire.codec import decode_from_master, encode
from piwheels.wire.keys import KeyPair, load_or_make, make
from tests.integration import dispatch_world as world
from tests.integration.builder import Address, Builder, announce
from tests.old_slave import Outcome as Made
from tests.old_slave import Slave, Wheel

ROLES = ("control", "dispatch", "stats")
SERVED_WITHIN = 10.0  #: seconds that any one answer to the honest builder may take, after and during an attack
PATIENCE = 30.0  #: seconds that anything else may take
MEBI = 1024**2

#: What is admitted without encryption, each with its name: an honest 0.2x slave's address, a villain's, and another.
HONEST_OLD, VILLAIN_OLD, CROWD_OLD = "127.0.0.2", "127.0.0.3", "127.0.0.4"
OLD = {address: f"plain {address}" for address in (HONEST_OLD, VILLAIN_OLD, CROWD_OLD)}


@dataclass
class Ground:
    """What an attack sees of the master, and what the test asks of it."""

    engine: Engine
    run: Path  #: where the local sockets are
    store: Path
    address: Address
    plain: dict[str, str]  #: the addresses without encryption
    process: subprocess.Popen[bytes]
    log: Path  #: what all processes write
    honest: Builder
    villain_keys: KeyPair  #: admitted: its owner builds strangers' code
    victim: Builder  #: another admitted builder, here and with a build in hand while attacks run
    context: "zmq.Context[Any]" = field(default_factory=zmq.Context)
    target_id: int = 0
    pids: dict[str, int] = field(default_factory=dict)
    _visits: int = 0
    _read: int = 0  #: bytes of the log that were looked at
    _stack: ExitStack = field(default_factory=ExitStack)

    # For attacks

    def port(self, channel: str) -> int:
        """The TCP port of ``builders`` or ``files``, ``plain builders`` or ``plain files``."""
        return int((self.plain.get(channel) or getattr(self.address, channel)).rpartition(":")[2])

    def tcp(self, channel: str, *, timeout: float = 10.0, source: str = "127.0.0.1") -> socket.socket:
        """A bare TCP connection; closed at the end of the attack."""
        made = socket.create_connection(("127.0.0.1", self.port(channel)), timeout=timeout, source_address=(source, 0))
        return self._stack.enter_context(made)

    def unix(self, name: str, *, timeout: float = 10.0) -> socket.socket:
        """A bare connection to a local socket."""
        made = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        made.settimeout(timeout)
        made.connect(str(self.run / name))
        return made

    def peer(self, channel: str, kind: int = zmq.DEALER, *, keys: KeyPair | None = None, **options: Any) -> Any:
        """A ZeroMQ socket at one of the master's, without any of our own limits. ``channel`` may be a local socket's
        name. Without ``keys`` it is the admitted villain's; ``curve=False``: no encryption at all. ``source``: the
        address that it has, where that matters."""
        made = self.context.socket(kind)
        self._stack.callback(made.close, linger=0)
        for option, value in {zmq.SNDTIMEO: 10_000, zmq.RCVTIMEO: 10_000, zmq.SNDHWM: 0}.items():
            made.setsockopt(option, value)
        if channel in ("builders", "files"):
            if options.pop("curve", True):
                pair = keys or self.villain_keys
                made.curve_serverkey = (options.pop("server_key", None) or self.address.key).encode()
                made.curve_publickey, made.curve_secretkey = pair.public.encode(), pair.secret.encode()
            address = getattr(self.address, channel)
        elif channel in self.plain:
            address = self.plain[channel].replace("tcp://", f"tcp://{options.pop('source')}:0;")
        else:
            address = f"ipc://{self.run / channel}"
        for name, value in options.items():
            made.setsockopt(getattr(zmq, name.upper()), value)
        made.connect(address)
        return made

    def villain(self) -> Builder:
        """The villain as a builder that behaves, so far; it has said hello."""
        builder = Builder(self.address, self.villain_keys, self.context).connect()
        self._stack.callback(builder.close)
        assert isinstance(builder.hello(), m.Ack)
        return builder

    def old_slave(self, source: str, **options: Any) -> Slave:
        """A 0.2x slave at an address of this machine's."""
        slave = Slave(*self.plain.values(), source=source, busy_timeout=timedelta(seconds=SERVED_WITHIN), **options)
        self._stack.callback(slave.close)
        slave.connect()
        return slave

    def at_work(self) -> tuple[Builder, m.Build]:
        """The villain with a build in hand."""
        self._visits += 1
        self.job(f"foe{self._visits}", "1.0")
        builder = self.villain()
        return builder, _job(builder)

    def greet(self, channel: Any, *, resume: str | None = None) -> m.Ack:
        """Say hello over a DEALER; what was sent before has been taken in once it is answered."""
        ack: m.Ack = self.ask(channel, self.honest.hello_message(resume=resume), m.Ack)
        return ack

    def ask(self, channel: Any, message: m.SlaveMessage, kind: Any) -> Any:
        """Send over a DEALER until there is an answer of this kind: others may be in its way, or push it out."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            channel.send_multipart([b"", encode(message)])
            again = time.monotonic() + 3.0
            while (left := again - time.monotonic()) > 0 and channel.poll(int(1000 * left)):
                answer = decode_from_master(channel.recv_multipart()[-1])
                if isinstance(answer, kind):
                    return answer
        raise AssertionError(f"no {kind} within {PATIENCE:g} s")

    def job(self, project: str, version: str) -> None:
        """Something to be built."""
        with self.engine.begin() as conn:
            world.add_job(conn, world.add_release(conn, project, version), self.target_id)

    def victims_next(self) -> tuple[Builder, m.Build]:
        """The victim with another build in hand, over a new connection."""
        self._visits += 1
        self.job(f"victim{self._visits}", "1.0")
        assert isinstance(self.victim.connect().hello(), m.Ack)
        return self.victim, _job(self.victim)

    def token_of(self, slave_id: int) -> str:
        """The lease that a builder holds."""
        with self.engine.begin() as conn:
            where = tables.jobs.c.lease_slave_id == slave_id
            token = conn.execute(select(tables.jobs.c.lease_token).where(where)).scalar_one()
        return str(token.hex)

    def builds_of(self, project: str) -> int:
        """How many builds of a project are recorded."""
        with self.engine.begin() as conn:
            joined = tables.builds.join(tables.releases).join(tables.projects)
            query = select(func.count()).select_from(joined).where(tables.projects.c.name == project)
            return int(conn.execute(query).scalar_one())

    # For the test

    def clear(self) -> None:
        """Close what the attack opened, take away what is left to be built, and forget how much memory it took."""
        self._stack.close()

    @contextmanager
    def weighing(self, most: int) -> Iterator[None]:
        """No role may at any time within take more than so many bytes beyond what it takes now."""
        self.pids = self.heartbeats()
        before = {name: _memory(pid, "VmRSS") for name, pid in self.pids.items()}
        for pid in self.pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the peak begins anew
        yield
        grown = {name: _memory(pid, "VmHWM") - before[name] for name, pid in self.pids.items() if _lives(pid)}
        fat = {name: f"{size / MEBI:.0f} MiB" for name, size in grown.items() if size > most}
        assert not fat, f"grew by more than {most / MEBI:.0f} MiB: {fat}"

    def check(self) -> None:
        """The same processes live, and none found a fault in itself."""
        news = self._news()
        pids, self.pids = self.pids, self.heartbeats() or self.pids  # one that died is not every later attack's doing
        assert self.process.poll() is None, f"the master is gone: {news}"
        assert self.pids == pids and all(map(_lives, pids.values())), f"a process ended: {news[-6000:]}"
        for word in ("Traceback", "fault", "Assertion"):
            assert word not in news, news[-4000:]

    def serve_the_honest(self) -> None:
        """A builder joins, builds, delivers a wheel, fails a build and leaves, and waits for nothing long."""
        self._visits += 1
        project = f"honest{self._visits}"
        self.job(project, "1.0")
        honest = self.honest.connect()
        _timely(honest.hello, m.Ack)
        build = _job(honest)
        _timely(honest.busy, m.Cont)
        name, data = wheel_of(build)
        _timely(lambda: honest.built(build, announce(name, data)), m.Send)
        honest.deliver(data)
        _timely(lambda: honest.ask(m.Sent()), m.Done)
        honest.send(m.Bye())
        assert self.victim.busy() == m.Cont(), "the victim's build goes on"

    def serve_the_old(self) -> None:
        """The same without encryption, from an admitted address, as 0.2x."""
        slave = self.old_slave(HONEST_OLD)
        name, _ = slave.hello()
        assert name == "ACK"
        package, version = self.old_job(slave)
        wheel = old_wheel_of(package, version)
        assert slave.built(Made([wheel])) == ("SEND", wheel.filename)
        slave.transfer(wheel.data)
        assert slave.ask("SENT") == ("DONE", None)
        slave.bye()
        slave.close()

    def old_job(self, slave: Slave) -> tuple[str, str]:
        """Something to build, handed to a 0.2x slave."""
        self._visits += 1
        self.job(f"old{self._visits}", "1.0")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            match slave.idle():
                case ("BUILD", [package, version]):
                    return package, version
            time.sleep(0.1)
        raise AssertionError("no job for a 0.2x slave")

    def ask_control(self, *, and_status: bool) -> None:
        """The control role answers; and publishes, which takes it half a second."""
        answer = self._command()
        assert answer["ok"], answer
        if and_status:
            with Client(self.run, timeout=SERVED_WITHIN) as client:
                assert next(client.snapshots())["problem"] is None

    def ask_stats(self) -> None:
        """The stats role answers an honest logger."""
        assert decode_answer(self._batch()).number == 1

    def _command(self) -> dict[str, Any]:
        with Client(self.run, timeout=SERVED_WITHIN) as client:
            return client.command(Command(Verb.STATUS))

    def _batch(self) -> bytes:
        with self.context.socket(zmq.REQ) as asking:
            asking.setsockopt(zmq.LINGER, 0)
            asking.setsockopt(zmq.RCVTIMEO, int(1000 * SERVED_WITHIN))
            asking.connect(f"ipc://{self.run / 'stats'}")
            asking.send(encode_batch(Batch(uuid.uuid4(), 1, ())))
            return bytes(asking.recv())

    def heartbeats(self) -> dict[str, int]:
        """The roles that run, and their processes."""
        with self.engine.begin() as conn:
            return {row.name: row.pid for row in conn.execute(select(tables.roles))}

    def parts(self) -> list[str]:
        """Half-received files."""
        return sorted(path.name for path in (self.store / "incoming").iterdir())

    def until_no_parts(self, *, at_most: int = 0) -> None:
        """Half-received files are to be gone soon: another thread of the master's removes them."""
        world.wait_for(lambda: len(self.parts()) <= at_most, "half-received files to be removed")

    def _news(self) -> str:
        text = self.log.read_text("utf-8", "replace")
        news, self._read = text[self._read :], len(text)
        return news


@contextmanager
def make_ground(engine: Engine, url: str) -> Iterator[Ground]:
    """A running master on an empty, migrated database."""
    with tempfile.TemporaryDirectory(prefix="piw-foe-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        paths = {word: folder / word for word in ("run", "store", "output", "keys")}
        master = load_or_make(paths["keys"] / "master.key")
        honest, victim, villain = make(), make(), make()
        with engine.begin() as conn:
            target_id = world.add_target(conn)
            for name in (*(keys.public for keys in (honest, victim, villain)), *OLD.values()):
                slaves.enrol(conn, name)
        builders, files, old_builders, old_files = (f"tcp://127.0.0.1:{port}" for port in _free_ports(4))
        given = {
            "database.url": url,
            "dispatch.builders": builders,
            "dispatch.files": files,
            "dispatch.plain_builders": old_builders,
            "dispatch.plain_files": old_files,
            "dispatch.min_free": "0",
            "dispatch.retry_after": "0.01",
            "dispatch.max_file": str(64 * MEBI),
            "dispatch.strikes": "100",
            **{f"paths.{word}": str(path) for word, path in paths.items()},
        }
        log = folder / "log"
        context: zmq.Context[Any] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, 4000)
        stack.callback(context.destroy, linger=0)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "piwheels.master.cli", "--roles", ",".join(ROLES)]
                + [word for key, value in given.items() for word in ("--set", f"{key}={value}")],
                stdout=output,
                stderr=output,
                preexec_fn=_few_files,
            )
        stack.callback(_end, process)
        address = Address(builders, files, master.public)
        ground = Ground(
            engine=engine,
            run=paths["run"],
            store=paths["store"],
            address=address,
            plain={"plain builders": old_builders, "plain files": old_files},
            process=process,
            log=log,
            honest=Builder(address, honest, context),
            villain_keys=villain,
            victim=Builder(address, victim, context),
            context=context,
            target_id=target_id,
        )
        world.wait_for(lambda: set(ground.heartbeats()) == set(ROLES), "all roles", timeout=PATIENCE)
        world.wait_for(lambda: all((ground.run / name).is_socket() for name in ("control", "stats")), "local sockets")
        ground.pids = ground.heartbeats()
        ground.job("victim", "1.0")
        assert isinstance(ground.victim.connect().hello(), m.Ack)
        _job(ground.victim)
        yield ground
        ground.clear()


def wheel_of(build: m.Build, *, padding: int = 0) -> tuple[str, bytes]:
    """A right wheel's name and bytes for a build."""
    project = build.package.lower()
    name = f"{project}-{build.version}-cp311-cp311-linux_armv7l.whl"
    return name, world.wheel_bytes(project, build.version, padding=padding)


def old_wheel_of(package: str, version: str, *, padding: int = 0) -> Wheel:
    """The same as a 0.2x slave has it."""
    name = package.lower()
    data = world.wheel_bytes(name, version, padding=padding)
    return Wheel(f"{name}-{version}-cp311-cp311-linux_armv7l.whl", data)


def _job(builder: Builder) -> m.Build:
    """Ask until there is a job: one that was leased ahead for another may take a moment to come back."""
    until = time.monotonic() + PATIENCE
    while True:
        answer = _timely(builder.idle, (m.Build, m.Sleep))
        if isinstance(answer, m.Build):
            return answer
        assert time.monotonic() < until, "no job for an honest builder"
        time.sleep(0.1)


def _timely(ask: Any, kind: Any) -> Any:
    begun = time.monotonic()
    answer = ask()
    took = time.monotonic() - begun
    assert isinstance(answer, kind), answer
    assert took < SERVED_WITHIN, f"{answer} took {took:.1f} s"
    return answer


def _few_files() -> None:
    """In the master before it begins: the limit that a shell or systemd gives by default."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in bound]


def _memory(pid: int, what: str) -> int:
    """Bytes, from proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no {what}")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
