# SPDX-License-Identifier: BSD-3-Clause
"""Lines pass on what is said, can be cut at any byte, and stalled."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.proxy import Line, Lines, lines_to
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@pytest.fixture
def ends() -> Iterator[tuple[Lines, Line, socket.socket]]:
    """A line, and the socket at which its file channel ends."""
    with listening() as files, lines_to(9, files.getsockname()[1]) as lines:
        yield lines, lines.lay("one"), files


def connect(line: Line, files: socket.socket) -> tuple[socket.socket, socket.socket]:
    near = socket.create_connection(("127.0.0.1", line.files.port), timeout=10)
    far, _ = files.accept()
    far.settimeout(10)
    return near, far


def gone(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def test_what_is_said_arrives(ends: tuple[Lines, Line, socket.socket]) -> None:
    lines, line, files = ends
    near, far = connect(line, files)
    with near, far:
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        assert near.recv(100) == b"answer"
        assert lines.passed == 8
        near.sendall(b"bye")
        near.close()
        assert far.recv(100) == b"bye" and gone(far)


# It ends with a connection that the line may not have taken up yet, and asyncio drops such a one without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cut_ends_both_ends_and_nobody_is_let_in_for_a_while(ends: tuple[Lines, Line, socket.socket]) -> None:
    _, line, files = ends
    near, far = connect(line, files)
    with near, far:
        line.cut(seconds=0.5)
        assert gone(near) and gone(far)
    with socket.create_connection(("127.0.0.1", line.files.port), timeout=10) as refused:
        assert gone(refused)

    def let_in() -> bool:
        with socket.create_connection(("127.0.0.1", line.files.port), timeout=10) as again:
            again.settimeout(0.1)
            try:
                return not gone(again)
            except TimeoutError:
                return True

    wait_for(let_in, "the line to be there again", seconds=10)


def test_a_cut_amid_comes_after_so_many_bytes(ends: tuple[Lines, Line, socket.socket]) -> None:
    lines, line, files = ends
    near, far = connect(line, files)
    with near, far:
        line.cut_amid(50_000)
        wait_for(lambda: line.files.amid_in is not None, "the line to know", seconds=5)
        near.sendall(bytes(40_000))
        received = 0
        while received < 40_000:
            received += len(far.recv(65536))
        assert lines.happened.total() == 0
        near.sendall(bytes(20_000))
        while received < 60_000 and (data := _receive(far)):
            received += len(data)
        assert received < 60_000 and lines.happened == {"cut a transfer": 1}


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(65536)
    except ConnectionResetError:
        return b""


def test_a_stalled_line_loses_nothing(ends: tuple[Lines, Line, socket.socket]) -> None:
    _, line, files = ends
    near, far = connect(line, files)
    with near, far:
        line.stall(stop=True)
        wait_for(lambda: not line.files.flowing.is_set(), "the line to stall", seconds=5)
        near.sendall(b"late")
        far.settimeout(0.2)
        with pytest.raises(TimeoutError):
            far.recv(10)
        far.settimeout(10)
        line.stall(stop=False)
        assert far.recv(10) == b"late"


def test_a_master_that_is_being_started_is_waited_for() -> None:
    with listening() as place:
        port = place.getsockname()[1]
    with lines_to(9, port) as lines:
        line = lines.lay("one")
        with socket.create_connection(("127.0.0.1", line.files.port), timeout=10) as near:
            near.sendall(b"hello")
            with socket.create_server(("127.0.0.1", port)) as server:
                server.settimeout(20)
                far, _ = server.accept()
                with far:
                    far.settimeout(10)
                    assert far.recv(10) == b"hello"
