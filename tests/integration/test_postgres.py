# SPDX-License-Identifier: BSD-3-Clause
"""The private PostgreSQL: made, started, killed, found again; as root and as an ordinary user; in awkward places."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import psycopg_binary
import pytest
import typing_extensions

import piwheels
from piwheels import postgres, postgres_host
from piwheels.errors import UnavailableError
from piwheels.postgres import Cluster

pytestmark = pytest.mark.integration


def as_root(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """A test of what only root meets: for anybody else there is no such test."""
    test.__test__ = os.geteuid() == 0  # type: ignore[attr-defined]
    return test


# Starts a cluster as another process would, says where and with which process, and lingers.
STARTER = """
import sys, threading
from pathlib import Path
from piwheels.postgres import Cluster
cluster = Cluster(Path(sys.argv[1]), fast=True)
cluster.start()
print(cluster.pid, flush=True)
threading.Event().wait(60)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name that everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="piw-pg-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        threading.Event().wait(0.01)


def lives(pid: int | None) -> bool:
    assert pid is not None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows(cluster: Cluster) -> list[int]:
    with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as conn:
        return [row[0] for row in conn.execute("SELECT x FROM t ORDER BY x")]


def add(cluster: Cluster, x: int) -> None:
    with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS t (x int)")
        conn.execute("INSERT INTO t VALUES (%s)", [x])


def runs(cluster: Cluster) -> bool:
    return cluster.running  # through a function: mypy would take a property's value for settled


def test_data_survive_stop_and_kill(place: Path) -> None:
    with Cluster(place / "pg") as cluster:
        assert runs(cluster)
        add(cluster, 1)
    assert not runs(cluster)
    cluster.start()
    pid = cluster.pid
    cluster.start()  # changes nothing
    assert cluster.pid == pid
    add(cluster, 2)
    cluster.kill()
    assert not runs(cluster) and not lives(pid)
    assert (cluster.data / "postmaster.pid").exists()
    cluster.start()
    assert rows(cluster) == [1, 2]
    cluster.stop()
    cluster.stop()


def test_nothing_but_a_socket_listens(place: Path) -> None:
    with Cluster(place / "pg", fast=True) as cluster:
        with psycopg.connect(cluster.url_of("postgres")) as conn:
            shown = [conn.execute(f"SHOW {name}".encode()).fetchone() for name in ("listen_addresses", "fsync")]
        assert shown == [("",), ("off",)]
        assert cluster.socket_folder.stat().st_mode & 0o777 == 0o700


def test_the_farms_own_is_safe_against_power_cuts(place: Path) -> None:
    with Cluster(place / "pg") as cluster, psycopg.connect(cluster.url_of("postgres")) as conn:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert conn.execute(f"SHOW {name}".encode()).fetchone() == ("on",)


def start_elsewhere(folder: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_the_server_ends_when_its_owner_is_killed(place: Path) -> None:
    owner, server = start_elsewhere(place / "pg")
    with owner:
        assert lives(server)
        owner.kill()
    until(lambda: not lives(server))


def test_a_second_user_of_the_folder_is_refused(place: Path) -> None:
    owner, server = start_elsewhere(place / "pg")
    with owner:
        with pytest.raises(UnavailableError, match="is in use by another process"):
            Cluster(place / "pg", fast=True).start()
        assert lives(server)
        owner.kill()
    until(lambda: not lives(server))  # else it would write while its files are removed


def test_a_server_left_from_a_previous_life_is_replaced(place: Path) -> None:
    with Cluster(place / "pg", fast=True) as before:
        add(before, 1)
        first = before.pid
        assert before._lock is not None
        before._lock.close()  # as if the owner had died and the kernel had not told the server
        with Cluster(place / "pg", fast=True) as after:
            assert rows(after) == [1] and after.pid != first
            assert not lives(first)


def test_children_of_a_killed_server_are_waited_for(place: Path) -> None:
    with Cluster(place / "pg", fast=True) as cluster:
        with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as conn:
            child = conn.info.backend_pid
            os.kill(child, signal.SIGSTOP)  # it cannot notice that its server is gone
            cluster.kill()
            assert lives(child)
            threading.Timer(0.5, os.kill, (child, signal.SIGCONT)).start()
            cluster.start()
            assert not lives(child)
        add(cluster, 1)


def test_marks_of_a_dead_server_with_a_living_number_do_not_matter(place: Path) -> None:
    """After a reboot the number in postmaster.pid may be anybody's."""
    with Cluster(place / "pg", fast=True) as cluster:
        cluster.kill()
        mark = cluster.data / "postmaster.pid"
        lines = mark.read_text().splitlines()
        mark.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        cluster.start()
        assert cluster.running


def test_a_half_made_cluster_is_made_anew(place: Path) -> None:
    (place / "pg" / "data.new" / "base").mkdir(parents=True)
    with Cluster(place / "pg", fast=True) as cluster:
        add(cluster, 1)
    assert not (place / "pg" / "data.new").exists()


def test_a_folder_too_deep_for_a_socket(place: Path) -> None:
    deep = place / ("d" * 60) / ("e" * 60)
    with Cluster(deep / "pg", fast=True) as cluster:
        assert len(str(cluster.socket_folder)) <= postgres.MAX_SOCKET_FOLDER
        add(cluster, 1)
    cluster.socket_folder.rmdir()


def test_a_socket_folder_that_somebody_else_made(place: Path) -> None:
    cluster = Cluster(place / "pg", fast=True)
    cluster.folder.mkdir()
    cluster.socket_folder.symlink_to(place)
    with pytest.raises(UnavailableError, match="belongs to somebody else"):
        cluster.start()
    assert not cluster.running


def test_why_it_did_not_start_is_one_line(place: Path) -> None:
    with Cluster(place / "pg", fast=True) as cluster:
        cluster.stop()
        (cluster.data / "postgresql.conf").write_text("nonsense\n")
        with pytest.raises(UnavailableError, match=r"PostgreSQL did not start: .*contains errors") as caught:
            cluster.start()
        assert "\n" not in str(caught.value)


def test_a_file_where_the_folder_should_be(place: Path) -> None:
    (place / "pg").write_text("")
    with pytest.raises(UnavailableError, match="cannot prepare"):
        Cluster(place / "pg").start()


def test_data_of_a_version_that_is_not_there(place: Path) -> None:
    (place / "pg" / "data").mkdir(parents=True)
    (place / "pg" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(UnavailableError, match="made by PostgreSQL 9, which is no longer here: install"):
        Cluster(place / "pg").start()


def test_no_programs_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_host, "_candidates", lambda: iter([Path("/nonexistent")]))
    with pytest.raises(UnavailableError, match="PostgreSQL is missing: install Debian's package postgresql, or"):
        postgres_host.find_binaries()


@as_root
def test_root_gives_up_its_rights(place: Path) -> None:
    with Cluster(place / "pg", fast=True) as cluster:
        facts = Path(f"/proc/{cluster.pid}/status").read_text()
        assert cluster.user is not None
        assert f"Uid:\t{cluster.user.uid}\t{cluster.user.uid}" in facts
        if postgres_host.passable(postgres_host.find_binaries() / "postgres", cluster.user):
            assert "CapEff:\t0000000000000000" in facts


@as_root
def test_root_behind_a_closed_door(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with Cluster(closed / "pg", fast=True) as cluster:
        add(cluster, 1)
        cluster.kill()
        cluster.start()
        assert rows(cluster) == [1]


@as_root
def test_an_ordinary_user(place: Path) -> None:
    """The whole of it, as nobody, who may not be able to enter this checkout: with copies of what it needs."""
    place.chmod(0o777)
    for package in (piwheels, psycopg, psycopg_binary):
        folder = Path(str(package.__file__)).parent
        shutil.copytree(folder, place / "code" / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
        libraries = folder.with_name(f"{folder.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, place / "code" / libraries.name)
    shutil.copy(typing_extensions.__file__, place / "code")
    code = STARTER.replace("threading.Event().wait(60)", "cluster.kill(); cluster.start(); cluster.stop()")
    program = Path(sys.executable).resolve()
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(program), "-c", code, str(place / "pg")],
        env={"PYTHONPATH": str(place / "code"), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert (place / "pg" / "data").stat().st_uid == 65534


def test_socket_paths_are_really_short_enough() -> None:
    with socket.socket(socket.AF_UNIX) as probe, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        longest = folder + "/" + "x" * (postgres.MAX_SOCKET_FOLDER - len(folder) - 1)
        os.mkdir(longest)  # noqa: PTH102 - the text's length is the point
        probe.bind(f"{longest}/.s.PGSQL.5432")
