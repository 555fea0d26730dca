# SPDX-License-Identifier: BSD-3-Clause
"""Threads beside dispatch's loop: one pool whose jobs of the same key run one after the other, and the way back.

Owns threads and queues; must not know what the jobs do.
"""

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

logger = logging.getLogger(__name__)

Job = Callable[[], None]


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
    """A pool of threads. Jobs of one key run in the order they were given, never two at once; keys run side by side."""

    MAX_WAITING = 16  #: jobs of one key; an honest builder has one or two

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
                job()
            except Exception:
                logger.exception("a fault in a job of dispatch's")
            self._done(key)

    def _done(self, key: str) -> None:
        with self._lock:
            strand = self._strands.get(key)
            if strand is None:
                return
            strand.popleft()
            if not strand:
                del self._strands[key]
                return
        self._ready.put(key)  # at the end of the queue: no key keeps others waiting
