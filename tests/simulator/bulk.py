# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.simulator.bulk``: a synthetic PyPI of any size, answering as fast as Python can; for benchmarks.

Nothing is held of a project but its number: its documents follow from that and are made when they are asked for, by the
templates of bulk_pages.py. Speaks as much HTTP/1.1 as clients need: keep-alive, GET, POST with a length; no pipelining
limits, no faults. Prints the address of its simple index as its first line, and ends on SIGTERM or SIGINT.
"""

import argparse
import asyncio
import signal
import sys
from functools import cache

from tests.simulator.bulk_pages import World, answer_rpc, detail, json_document, listing, number_of
from tests.simulator.negotiation import HTML, SIMPLE_JSON

MAX_HEAD = 16_384  #: bytes of a request's head

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nNot Found\n"
_BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_NOT_ALLOWED = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"


class Server(asyncio.Protocol):
    """One connection."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (request := self._take()) is not None:
            if self._transport is not None:
                self._transport.write(self._answer(*request))

    def _take(self) -> tuple[bytes, bytes] | None:
        """The head and the body of the next request that has come whole."""
        head, found, rest = self._waiting.partition(b"\r\n\r\n")
        if not found:
            if len(self._waiting) > MAX_HEAD:
                self._refuse()
            return None
        length = _length(head) if head.startswith(b"POST") else 0
        if len(rest) < length:
            return None
        self._waiting = rest[length:]
        return head, rest[:length]

    def _refuse(self) -> None:
        self._waiting = b""
        if self._transport is not None:
            self._transport.write(_BAD)
            self._transport.close()

    def _answer(self, head: bytes, body: bytes) -> bytes:
        method, path, *_ = head.split(b" ", 2)
        if method == b"POST":
            return _ok(answer_rpc(self._world, body), b"text/xml") if path.rstrip(b"/") == b"/pypi" else _NOT_ALLOWED
        if path.startswith(b"/pypi/") and path.endswith(b"/json"):
            return self._project(path[6:-5], head)
        if path == b"/simple/":
            return self._listing(head)
        return self._page(path[8:-1]) if path.startswith(b"/simple/") else _NOT_FOUND

    def _project(self, name: bytes, head: bytes) -> bytes:
        number = number_of(name)
        if number is None or number >= self._world.names:
            return _NOT_FOUND
        serial = self._world.serial(number)
        etag = b'"%d"' % serial
        return (
            _unchanged(etag)
            if etag in head
            else _ok(json_document(self._world, number), b"application/json", etag, serial)
        )

    def _page(self, name: bytes) -> bytes:
        number = number_of(name)
        if number is None or number >= self._world.names:
            return _NOT_FOUND
        return _ok(detail(self._world, number), SIMPLE_JSON.encode(), b"", self._world.serial(number))

    def _listing(self, head: bytes) -> bytes:
        if SIMPLE_JSON.encode() not in head:
            return _ok(b"<!DOCTYPE html><p>Ask for JSON.</p>", HTML.encode())
        last = self._world.last_serial
        etag = b'"listing-%d"' % last
        return _unchanged(etag) if etag in head else _whole_listing(self._world)


@cache
def _whole_listing(world: World) -> bytes:
    last = world.last_serial
    return _ok(listing(world), SIMPLE_JSON.encode(), b'"listing-%d"' % last, last)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return 0


def _ok(body: bytes, kind: bytes, etag: bytes = b"", serial: int = 0) -> bytes:
    named = b"ETag: %b\r\n" % etag if etag else b""
    numbered = b"X-PyPI-Last-Serial: %d\r\n" % serial if serial else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n"
    return head % (kind, len(body), named, numbered) + body


def _unchanged(etag: bytes) -> bytes:
    return b"HTTP/1.1 304 Not Modified\r\nETag: %b\r\nContent-Length: 0\r\n\r\n" % etag


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(prog="python -m tests.simulator.bulk", description="A large, fast PyPI.")
    arguments.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any that is free)")
    arguments.add_argument("--projects", type=int, default=50_000, help="that the journal speaks of (%(default)s)")
    arguments.add_argument("--events", type=int, default=200_000, help="in the journal (%(default)s)")
    arguments.add_argument("--listing", type=int, default=0, help="names in the listing, the projects among them")
    arguments.add_argument(
        "--changed", type=int, help="names whose serial has moved since bulk_pages.base_serial: one event each"
    )
    arguments.add_argument("--together", action="store_true", help="a project's events follow one another")
    return arguments


async def serve(world: World, port: int) -> None:
    """Until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(world), "127.0.0.1", port, reuse_address=True)
    world.root = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(f"{world.root}simple/", flush=True)
    await stop.wait()
    server.close()


def main(argv: list[str] | None = None) -> int:
    """Serve; 0 in the end."""
    arguments = parser().parse_args(argv)
    projects, events = arguments.projects, arguments.events
    if arguments.changed is not None:
        projects = events = arguments.changed
    world = World(projects=projects, events=events, listing=arguments.listing, together=arguments.together)
    asyncio.run(serve(world, arguments.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
