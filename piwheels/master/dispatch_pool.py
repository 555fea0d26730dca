# SPDX-License-Identifier: BSD-3-Clause
"""Threads beside dispatch's loop: one pool whose jobs of the same key run one after the other, one thread that does
many callers' work at once, and the way back.

Owns threads and queues; must not know what the jobs do.
"""

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

Job = Callable[[], object]

T = TypeVar("T")
R = TypeVar("R")


class Inbox:
    """Calls that other threads want the loop to make. ``post`` is for any thread; the rest is the loop's.

    The descriptor becomes readable when something was posted, so that the loop can poll it beside its sockets.
    """

    def __init__(self) -> None:
        self._calls: deque[Job] = deque()  # append and popleft are atomic
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # only so that nobody wakes a descriptor that is closed, or another's by then

    def fileno(self) -> int:
        """What to poll."""
        return self._descriptor

    def post(self, call: Job) -> None:
        """Have the loop make this call soon."""
        self._calls.append(call)
        with self._lock:
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def drain(self, most: int) -> int:
        """Make the calls that are waiting, at most so many; how many that were."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)
        done = 0
        while self._calls and done < most:
            self._calls.popleft()()
            done += 1
        if self._calls:
            os.eventfd_write(self._descriptor, 1)
        return done

    def close(self) -> None:
        """No more waking."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


class Strands:
    """A pool of threads. Jobs of one key run in the order they were given, never two at once; keys run side by side.

    A job that returns HELD goes on elsewhere: its key waits until ``free`` is called, without a thread.
    """

    MAX_WAITING = 16  #: jobs of one key; an honest builder has one or two
    HELD: Final = object()

    def __init__(self, threads: int, *, name: str) -> None:
        self._ready: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._strands: dict[str, deque[Job]] = {}
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """Let the threads end once they are through with what they are doing; what waits is dropped."""
        with self._lock:
            self._strands.clear()
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def submit(self, key: str, job: Job) -> bool:
        """Have a job done; False when too many of this key are waiting already."""
        with self._lock:
            strand = self._strands.get(key)
            if strand is not None:
                if len(strand) >= self.MAX_WAITING:
                    return False
                strand.append(job)
                return True
            self._strands[key] = deque([job])
        self._ready.put(key)
        return True

    @property
    def waiting(self) -> int:
        """Jobs given and not finished."""
        with self._lock:
            return sum(map(len, self._strands.values()))

    def _run(self) -> None:
        while (key := self._ready.get()) is not None:
            with self._lock:
                strand = self._strands.get(key)
                job = strand[0] if strand else None
            if job is None:  # dropped by stop
                continue
            try:
                if job() is Strands.HELD:
                    continue
            except Exception:
                logger.exception("a fault in a job of dispatch's")
            self.free(key)

    def free(self, key: str) -> None:
        """The job of this key is over; the next one may run."""
        with self._lock:
            strand = self._strands.get(key)
            if strand is None:
                return
            strand.popleft()
            if not strand:
                del self._strands[key]
                return
        self._ready.put(key)  # at the end of the queue: no key keeps others waiting


class Group(Generic[T, R]):
    """A thread that does the same work for many callers: whatever comes in during one round makes the next.

    ``work`` takes what was put in, in order, and returns as many results. If it fails, it is tried with each item by
    itself, so that one caller's fault is nobody else's.
    """

    def __init__(self, work: Callable[[list[T]], list[R]], *, most: int, ends: type[Exception], name: str) -> None:
        """``most``: in one round. ``ends``: what ``work`` raises when all is over; then nobody is called."""
        self._work = work
        self._most = most
        self._ends = ends
        self._waiting: queue.SimpleQueue[tuple[T, Callable[[R | None], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Finish what was put in, and end."""
        self._waiting.put(None)
        self._thread.join(timeout)

    @property
    def waiting(self) -> int:
        """What was put in and is not being done."""
        return self._waiting.qsize()

    def put(self, item: T, then: Callable[[R | None], None]) -> None:
        """Have something done; ``then`` is called in the thread, with the result, or None if it failed."""
        self._waiting.put((item, then))

    def _run(self) -> None:
        going = True
        while going:
            going, batch = self._next()
            if batch:
                self._do(batch)

    def _next(self) -> tuple[bool, list[tuple[T, Callable[[R | None], None]]]]:
        """What there is, waiting for the first; and whether there will be more."""
        batch = []
        one = self._waiting.get()
        while one is not None:
            batch.append(one)
            if len(batch) >= self._most:
                return True, batch
            try:
                one = self._waiting.get_nowait()
            except queue.Empty:
                return True, batch
        return False, batch

    def _do(self, batch: list[tuple[T, Callable[[R | None], None]]]) -> None:
        try:
            results: list[R | None] = list(self._work([item for item, _ in batch]))
        except self._ends:
            return
        except Exception:
            if len(batch) > 1:
                for one in batch:
                    self._do([one])
                return
            logger.exception("a fault in work of dispatch's")
            results = [None]
        for (_, then), result in zip(batch, results, strict=True):
            try:
                then(result)
            except Exception:
                logger.exception("a fault after work of dispatch's")
