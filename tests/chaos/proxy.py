# SPDX-License-Identifier: BSD-3-Clause
"""What lies between builders and their master: lines that can be cut, in the middle of a transfer too, and stalled.

Bytes are passed on as they are (they are encrypted). Everything runs in one thread of its own; the methods of Line are
for any other.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

BLOCK = 16 * 1024  #: bytes passed on at once
TRIES, PAUSE = 100, 0.1  #: to reach a master that is just being started again, and seconds between them


class Cut(Exception):
    """The line was cut."""


@dataclass
class Channel:
    """One of a builder's two: a port that is as good as the master's."""

    target: int  #: the master's port
    loop: asyncio.AbstractEventLoop
    port: int = 0
    passed: int = 0  #: bytes from the builder
    times: int = 0  #: how often it was cut
    amid: int = 0  #: of them, those that ``cut_amid`` cut
    amid_in: int | None = None  #: bytes until then
    away_until: float = 0.0  #: nobody is let in before
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    ends: set[asyncio.WriteTransport] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what is said until one of both is gone."""
        others: asyncio.StreamWriter | None = None
        try:
            if self.loop.time() < self.away_until:
                raise Cut
            self.ends.add(writer.transport)
            before = self.times
            there, others = await self._reach()
            if self.times != before:
                raise Cut
            self.ends.add(others.transport)
            pumps = [self._pump(reader, others, up=True), self._pump(there, writer, up=False)]
            await _first([asyncio.ensure_future(pump) for pump in pumps])
            for one in (writer, others):  # what is on its way still arrives
                one.close()
        except (OSError, Cut):
            for one in (writer, others):
                if one is not None:
                    one.transport.abort()
        finally:
            self.ends -= {one.transport for one in (writer, others) if one is not None}

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(TRIES):
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.sleep(PAUSE)
        raise Cut

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(BLOCK):
            await self.flowing.wait()
            if up:
                self.passed += len(data)
                self._count(len(data))
            writer.write(data)
            await writer.drain()

    def _count(self, length: int) -> None:
        if self.amid_in is not None:
            self.amid_in -= length
            if self.amid_in <= 0:
                self.amid_in = None
                self.amid += 1
                raise Cut

    def cut(self, seconds: float) -> None:
        """In the thread."""
        self.away_until = self.loop.time() + seconds
        self.times += 1
        for end in list(self.ends):
            end.abort()

    def stall(self, *, stop: bool) -> None:
        """In the thread."""
        (self.flowing.clear if stop else self.flowing.set)()


@dataclass
class Line:
    """A builder's two channels."""

    builders: Channel
    files: Channel
    _loop: asyncio.AbstractEventLoop

    def cut(self, *, seconds: float = 0.0, files_alone: bool = False) -> None:
        """End its connections at once; nobody is let in for a while."""
        for channel in (self.files,) if files_alone else (self.files, self.builders):
            self._call(lambda channel=channel: channel.cut(seconds))

    def cut_amid(self, after: int) -> None:
        """Cut the file channel once so many bytes more have gone over it."""

        def arm() -> None:
            self.files.amid_in = after

        self._call(arm)

    def stall(self, *, stop: bool) -> None:
        """Have nothing come through, or everything again."""
        for channel in (self.files, self.builders):
            self._call(lambda channel=channel: channel.stall(stop=stop))

    def _call(self, work: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(work)


class Lines:
    """All lines to one master."""

    def __init__(self, loop: asyncio.AbstractEventLoop, builders: int, files: int) -> None:
        self._loop, self._builders, self._files = loop, builders, files
        self._servers: list[asyncio.Server] = []
        self.lines: dict[str, Line] = {}

    def lay(self, name: str) -> Line:
        """One more, for the builder of this name."""
        made = [
            asyncio.run_coroutine_threadsafe(self._open(port), self._loop) for port in (self._builders, self._files)
        ]
        builders, files = (one.result(10) for one in made)
        line = self.lines[name] = Line(builders, files, self._loop)
        return line

    @property
    def happened(self) -> Counter[str]:
        """Transfers that were cut amid."""
        return Counter({"cut a transfer": sum(line.files.amid for line in self.lines.values())})

    @property
    def passed(self) -> int:
        """Bytes that builders sent over their file channels."""
        return sum(line.files.passed for line in self.lines.values())

    async def _open(self, target: int) -> Channel:
        channel = Channel(target, self._loop)
        channel.flowing.set()
        server = await asyncio.start_server(channel.serve, "127.0.0.1", 0)
        channel.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)
        return channel

    async def close(self) -> None:
        """Let nobody in any more, and everybody go."""
        for server in self._servers:
            server.close()
        for line in self.lines.values():
            for channel in (line.builders, line.files):
                channel.cut(0.0)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def lines_to(builders: int, files: int) -> Iterator[Lines]:
    """Lines to the master whose channels are at these ports."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="lines", daemon=True)
    thread.start()
    lines = Lines(loop, builders, files)
    try:
        yield lines
    finally:
        asyncio.run_coroutine_threadsafe(lines.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _first(tasks: "list[asyncio.Future[None]]") -> None:
    """Wait until one of them ends, and end the rest; raises what it raised."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
