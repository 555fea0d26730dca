# SPDX-License-Identifier: BSD-3-Clause
"""Dispatch in a thread of the test, with rows to hand out and builders that talk to it over TCP."""

import queue as queues
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import zmq
from sqlalchemy import Engine, select
from sqlalchemy.pool import QueuePool

from piwheels.db import slaves
from piwheels.db.engine import make_engine
from piwheels.db.tables import builds
from piwheels.master.dispatch import serve
from piwheels.settings import DatabaseSettings, DispatchSettings, PathSettings, Settings, UpstreamSettings
from piwheels.wire import messages as m
from piwheels.wire.keys import KeyPair, make
from tests.integration import dispatch_world as world
from tests.integration.builder import Address, Builder

WHEEL = "spidev-3.6-cp311-cp311-linux_armv7l.whl"  #: what the job of a test is to become
STOPS_WITHIN = 15.0  #: seconds


@dataclass
class Farm:
    """What a test sees."""

    engine: Engine  #: the test's own
    settings: Settings
    keys: KeyPair = field(default_factory=make)
    context: "zmq.Context[Any]" = field(default_factory=zmq.Context)
    state: dict[str, Any] = field(default_factory=dict)
    address: Address | None = None
    plain_address: tuple[str, str] = ("", "")  #: builders, files
    target_id: int = 0
    _stop: threading.Event | None = None
    _thread: threading.Thread | None = None
    _builders: list[Builder] = field(default_factory=list)
    _failure: list[BaseException] = field(default_factory=list)

    def start(self) -> None:
        """Start dispatch; at the addresses it had before, if it ran before."""
        self._stop = threading.Event()
        listening: queues.Queue[tuple[str, str]] = queues.Queue()
        self._thread = threading.Thread(target=self._run, args=(self._stop, listening), daemon=True)
        self._thread.start()
        builders, files = listening.get(timeout=20)
        self.address = Address(builders, files, self.keys.public)
        plain_builders, plain_files = self.plain_address
        dispatch = replace(
            self.settings.dispatch,
            builders=builders,
            files=files,
            plain_builders=plain_builders,
            plain_files=plain_files,
        )
        self.settings = replace(self.settings, dispatch=dispatch)

    def stop(self) -> None:
        """Stop it and wait until it has."""
        if self._thread is not None and self._stop is not None:
            self._stop.set()
            self._thread.join(STOPS_WITHIN)
            assert not self._thread.is_alive(), "dispatch does not stop"
            self._thread = None
        assert not self._failure, self._failure

    def close(self) -> None:
        """End everything."""
        for builder in self._builders:
            builder.close()
        try:
            self.stop()
        finally:
            self.context.destroy(linger=0)

    def builder(self, *, keys: KeyPair | None = None, admitted: bool = True, **values: Any) -> Builder:
        """An enrolled builder, connected, that has not said anything yet."""
        keys = keys or make()
        if admitted:
            with self.engine.begin() as conn:
                slaves.enrol(conn, keys.public)
            # A connection that comes before its key is admitted is turned away, and ZeroMQ does not try again.
            self.wait_for_admission()
        assert self.address is not None
        builder = Builder(self.address, keys, self.context, **values).connect()
        self._builders.append(builder)
        return builder

    def wait_for_admission(self) -> None:
        """Wait until dispatch knows whom the database admits."""

        def known() -> bool:
            with self.engine.begin() as conn:
                return self.state.get("admitted") == len(slaves.admitted_keys(conn))

        world.wait_for(known, "its admission")

    def job(self, project: str = "spidev", version: str = "3.6") -> int:
        """Something to be built; its release."""
        with self.engine.begin() as conn:
            release_id = world.add_release(conn, project, version)
            world.add_job(conn, release_id, self.target_id)
        return release_id

    def build(self) -> Any:
        """The only build that was recorded, or None."""
        with self.engine.begin() as conn:
            return conn.execute(select(builds)).one_or_none()

    def _run(self, stop: threading.Event, listening: "queues.Queue[tuple[str, str]]") -> None:
        engine = make_engine(self.settings.database, name="dispatch")
        try:
            serve(
                self.settings,
                self.keys,
                engine=engine,
                stop=stop,
                report=self.state.update,
                listening=lambda builders, files: listening.put((builders, files)),
                listening_plain=lambda builders, files: setattr(self, "plain_address", (builders, files)),
            )
        except BaseException as error:
            self._failure.append(error)
            raise
        finally:
            # A thread may be at work still where the machine is slow; what it has of the pool would never be closed.
            world.wait_for(lambda: not _in_use(engine), "dispatch's threads to end", timeout=STOPS_WITHIN)
            engine.dispose()


def _in_use(engine: Engine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


def make_farm(
    engine: Engine, database: DatabaseSettings, folder: Path, change: Callable[[DispatchSettings], DispatchSettings]
) -> Farm:
    """A farm that is not running yet."""
    dispatch = DispatchSettings(
        builders="tcp://127.0.0.1:*",
        files="tcp://127.0.0.1:*",
        retry_after=timedelta(seconds=0.01),
        min_free=0,
    )
    settings = Settings(
        upstream=UpstreamSettings(simple_url="https://index.example.org/simple/"),
        database=replace(database, pool=8),
        paths=PathSettings(output=folder / "www", store=folder / "store", run=folder, keys=folder / "keys"),
        dispatch=change(dispatch),
    )
    farm = Farm(engine, settings)
    with engine.begin() as conn:
        farm.target_id = world.add_target(conn)
    return farm


def at_work(farm: Farm) -> tuple[Builder, m.Build]:
    """A builder with a job."""
    farm.job()
    builder = farm.builder()
    assert isinstance(builder.hello(), m.Ack)
    return builder, builder.job()
