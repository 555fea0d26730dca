# SPDX-License-Identifier: BSD-3-Clause
"""A farm that serves 0.2x slaves, on addresses without encryption, and such slaves."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from sqlalchemy import Engine, select

from piwheels.db import slaves as slave_rows
from piwheels.db.tables import slaves
from piwheels.master import dispatch
from piwheels.settings import DatabaseSettings
from piwheels.wire import plain
from tests.integration import dispatch_world as world
from tests.integration.dispatch_farm import Farm, make_farm
from tests.old_slave import Silence, Slave, Wheel

HERE = "127.0.0.1"
SHORTLY = timedelta(seconds=0.4)  #: how long nothing must be answered


class Old:
    """A farm that serves 0.2x slaves too."""

    def __init__(self, farm: Farm, stack: ExitStack) -> None:
        self.farm = farm
        self.stack = stack

    def enrol(self, address: str = HERE) -> int:
        key = plain.address_key(address)
        assert key is not None
        with self.farm.engine.begin() as conn:
            number = slave_rows.enrol(conn, key)
        self.farm.wait_for_admission()
        return number

    def slave(self, **values: Any) -> Slave:
        slave = Slave(*self.farm.plain_address, **{"pace": 0.001, **values})
        self.stack.callback(slave.close)
        slave.connect()
        return slave

    def connections(self) -> list[Any]:
        """The master's ends of connections to the address for builders."""
        port = int(self.farm.plain_address[0].rsplit(":", 1)[1])
        return [one for one in psutil.net_connections("tcp") if one.laddr.port == port and one.raddr]

    def row(self, slave: Slave) -> Any:
        with self.farm.engine.begin() as conn:
            return conn.execute(select(slaves).where(slaves.c.id == slave.slave_id)).one()

    def dropped(self, slave: Slave, name: str, data: Any) -> None:
        """The message is counted and not answered."""
        before = self.farm.state["nonsense"]
        with patience(slave, SHORTLY), pytest.raises(Silence):
            slave.ask(name, data)
        world.wait_for(lambda: self.farm.state["nonsense"] > before, "the message to be counted")

    def turned_away(self, slave: Slave) -> None:
        """Its connection is refused before it has said anything; such are counted."""
        before = self.farm.state.get("refused", 0)
        slave.connect()
        slave.socket.setsockopt(zmq.SNDTIMEO, 500)  # once it was refused, there is nobody to send to
        with patience(slave, SHORTLY), pytest.raises((Silence, zmq.Again)):
            slave.hello()
        world.wait_for(lambda: self.farm.state.get("refused", 0) > before, "the connection to be counted")


@contextmanager
def patience(slave: Slave, time: timedelta) -> Iterator[None]:
    """Have it wait for so long."""
    before, slave.busy_timeout = slave.busy_timeout, time
    yield
    slave.busy_timeout = before


@contextmanager
def serving_old(
    database: Engine, settings: DatabaseSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Old]:
    """Such a farm, running."""
    monkeypatch.setattr(dispatch, "REPORT", 0.05)
    where = "tcp://127.0.0.1:*"
    change = {"plain_builders": where, "plain_files": where}
    farm = make_farm(database, settings, folder, lambda d: replace(d, **change))
    with ExitStack() as stack:
        stack.callback(farm.close)
        farm.start()
        yield Old(farm, stack)


def wheel_of(package: str, version: str, *, padding: int = 0) -> Wheel:
    name = package.lower()
    data = world.wheel_bytes(name, version, padding=padding)
    return Wheel(f"{name}-{version}-cp311-cp311-linux_armv7l.whl", data)
