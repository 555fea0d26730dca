# SPDX-License-Identifier: BSD-3-Clause
"""``piw-logger``: reads access-log lines and hands the downloads in them to the stats role.

The thin shell around :mod:`piwheels.logger.lines` and :mod:`piwheels.logger.batches`: it owns standard input, files
and one socket. Reading never waits for the stats role: behind a web server's pipe, waiting would hold up the site.
"""

import argparse
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import zmq

from piwheels import commands
from piwheels.errors import ExitCode, PeerError, UnavailableError
from piwheels.logger import batches
from piwheels.logger.batches import Outbox
from piwheels.logger.lines import LONGEST_LINE, Download, LineError, parse_line
from piwheels.settings import Settings

log = logging.getLogger(__name__)

READ_BYTES = 65_536
ROOM = 200_000  #: downloads kept while nobody answers: some 100 MB
RESEND_SECONDS = 5.0  #: without an answer, the same batch goes out again
GATHER_SECONDS = 1.0  #: downloads are gathered this long before a batch goes out
REPORT_SECONDS = 60.0


class LineReader:
    """Cuts a stream of bytes into lines of bounded length; longer ones are left out and counted."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self.too_long = 0

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines completed by these bytes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            if self._skipping:
                self._skipping = False
            elif len(line) <= LONGEST_LINE:
                yield line.decode("utf-8", "replace").rstrip("\r")
            else:
                self.too_long += 1
        if len(self._rest) > LONGEST_LINE:
            self.too_long += not self._skipping
            self._skipping, self._rest = True, b""

    def end(self) -> Iterator[str]:
        """What is left when the stream ends without a line end."""
        yield from self.feed(b"\n") if self._rest else ()


class Logger:
    """Moves downloads from log lines to the stats role."""

    def __init__(self, address: str, *, patience: float) -> None:
        self.outbox = Outbox(uuid.uuid4(), room=ROOM)
        self.lines = self.odd = 0
        self._patience = patience
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        # A request may be repeated before it is answered (the stats role was killed), and only the answer to the
        # latest is let through.
        self._socket.setsockopt(zmq.REQ_RELAXED, 1)
        self._socket.setsockopt(zmq.REQ_CORRELATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, batches.LONGEST_MESSAGE)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.connect(address)
        self._sent_at: float | None = None  #: monotonic; None while no answer is awaited
        self._gather_until = 0.0
        self.stopping = False

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()
        self._context.term()

    def read(self, descriptor: int, *, may_wait: bool) -> None:
        """Read a stream to its end; with may_wait, wait for room in the outbox (files can wait, web servers not)."""
        reader = LineReader()
        poller = zmq.Poller()
        poller.register(descriptor, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        reported = time.monotonic()
        while not self.stopping:
            if may_wait and self.outbox.is_full:
                self.flush()
            if dict(poller.poll(200)).get(descriptor):
                data = os.read(descriptor, READ_BYTES)
                self.add(reader.feed(data) if data else reader.end())
                if not data:
                    break
            self.exchange(time.monotonic())
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                self.report(logging.DEBUG)
        self.odd += reader.too_long

    def add(self, lines: Iterator[str]) -> None:
        """Take in lines."""
        self.outbox.add(self._downloads(lines))

    def _downloads(self, lines: Iterator[str]) -> Iterator[Download]:
        for line in lines:
            self.lines += 1
            try:
                download = parse_line(line)
            except LineError:
                self.odd += 1
                continue
            if download is not None:
                yield download

    def exchange(self, now: float, *, hurry: bool = False) -> bool:
        """Take an answer if there is one, and send what is to be sent; True when an answer came."""
        came = self._receive(now)
        if not self.outbox.pending:
            self._gather_until = now + GATHER_SECONDS
        if self._is_due(now, hurry=hurry) and (batch := self.outbox.current()) is not None:
            try:
                self._socket.send(batches.encode_batch(batch), zmq.NOBLOCK)
            except zmq.Again:
                log.debug("the stats role is not there; batch %d waits", batch.number)
            self._sent_at = now
        return came

    def _is_due(self, now: float, *, hurry: bool) -> bool:
        if self._sent_at is not None:  # an answer is awaited
            return now - self._sent_at > RESEND_SECONDS
        return hurry or now >= self._gather_until

    def _receive(self, now: float) -> bool:
        try:
            data = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:  # EFSM: nothing was asked yet
            if error.errno != zmq.EFSM:
                raise
            return False
        try:
            answer = batches.decode_answer(data)
        except PeerError as error:
            log.warning("the stats role answered with %s", error)
            return False
        if answer.error:
            log.error("the stats role refuses batch %d: %s", answer.number, answer.error)
        self._sent_at, self._gather_until = None, now + GATHER_SECONDS
        return self.outbox.answered(answer)

    def flush(self) -> None:
        """Hand over what is left; raises UnavailableError when no answer comes for as long as our patience."""
        deadline = time.monotonic() + self._patience
        while self.outbox.pending:
            if time.monotonic() > deadline:
                raise UnavailableError(_unanswered(self.outbox.pending))
            if self.exchange(time.monotonic(), hurry=True):
                deadline = time.monotonic() + self._patience
                continue
            self._socket.poll(100)

    def report(self, level: int) -> None:
        """Say what was done."""
        box = self.outbox
        log.log(
            level,
            "%d lines read (%d not in combined format); downloads: %d counted, %d waiting, %d dropped, %d refused",
            *(self.lines, self.odd, box.counted, box.pending, box.dropped, box.refused),
        )


def _unanswered(count: int) -> str:
    return f"{count} downloads are not counted: the stats role does not answer (is piw-master running?)"


def work(options: argparse.Namespace, settings: Settings) -> int:
    """Read everything, hand over everything."""
    logger = Logger(f"ipc://{settings.paths.run}/stats", patience=options.patience)
    signal.signal(signal.SIGTERM, lambda *_: setattr(logger, "stopping", True))
    if not sys.stdin.isatty():
        # Ctrl-C reaches a whole pipeline. The web server's end of it ends our input; what it wrote until then counts.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for path in options.files or (None,):
            _read_one(logger, path)
        logger.flush()
    finally:
        logger.report(logging.INFO)
        logger.close()
    return ExitCode.OK


def _read_one(logger: Logger, path: Path | None) -> None:
    if path is None:
        logger.read(sys.stdin.fileno(), may_wait=False)
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        logger.read(file.fileno(), may_wait=True)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(
        prog="piw-logger", description="Count the downloads that an access log in combined format tells of."
    )
    result.add_argument("files", nargs="*", type=Path, metavar="FILE", help="logs to read (default: standard input)")
    result.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="at the end, how long to wait for the stats role to answer (default: %(default)s)",
    )
    commands.add_common_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return commands.run(work, parser(), argv, "piw-logger")


if __name__ == "__main__":
    raise SystemExit(main())
