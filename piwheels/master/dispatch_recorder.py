# SPDX-License-Identifier: BSD-3-Clause
"""Results on their way into the database: their logs written, then they are committed, each step with whatever else
has come meanwhile. One of which a wheel's name stands for other bytes gets a build number beside that, and comes again.

Owns the three threads that do so. While a result is in their hands, its lease is kept alive and its builder's other
affairs wait; it must not know sessions or sockets.
"""

import logging
from collections.abc import Callable
from functools import partial

from piwheels.db.builds import Entry, Taken
from piwheels.db.engine import Stopped
from piwheels.master.dispatch_pool import Group, Strands
from piwheels.master.dispatch_pulse import Pulse
from piwheels.master.dispatch_work import Clerk
from piwheels.master.session import Recorded, Result
from piwheels.vocabulary import FailureReason

logger = logging.getLogger(__name__)

ROUND = 64  #: results recorded in one transaction

Then = Callable[[Recorded], None]  #: called from any thread


class Recorder:
    """One for the loop."""

    def __init__(self, clerk: Clerk, pulse: Pulse, work: Strands) -> None:
        self._clerk = clerk
        self._pulse = pulse
        self._work = work
        self._logs = Group(clerk.prepare, most=ROUND, ends=Stopped, name="logs")
        self._names = Group(clerk.rename, most=1, ends=Stopped, name="names")
        self._group = Group(clerk.commit, most=ROUND, ends=Stopped, name="recorder")

    def start(self) -> None:
        """Begin."""
        for group in (self._logs, self._names, self._group):
            group.start()

    def stop(self, timeout: float) -> None:
        """Finish what is in hand, and end."""
        for group in (self._logs, self._names, self._group):
            group.stop(timeout)

    def hold(self, result: Result) -> None:
        """From here on the lease is ours."""
        self._pulse.hold(result.lease.token)

    def let_go(self, result: Result) -> None:
        """It is not, after all."""
        self._pulse.let_go(result.lease.token)

    def job(self, key: str, result: Result, then: Then) -> Callable[[], object]:
        """What is to be done in the turn of the builder with this key."""

        def settle(done: Recorded | None) -> None:
            try:
                self._settle(result, done, then)
            finally:
                self._work.free(key)

        def prepared(entry: Entry | None) -> None:  # in the thread of the logs, or that of names
            if entry is None:
                settle(None)
            else:
                self._group.put(entry, partial(recorded, entry))

        def recorded(entry: Entry, done: Recorded | Taken | None) -> None:  # in the recorder's
            if isinstance(done, Taken):
                self._names.put(entry, prepared)
            else:
                settle(done)

        def job() -> object:
            self._logs.put(result, prepared)
            return Strands.HELD

        return job

    def _settle(self, result: Result, done: Recorded | None, then: Then) -> None:
        lease = result.lease
        try:
            if done is None:
                logger.error("the result of %s %s cannot be recorded", lease.project, lease.version)
                self._clerk.release(lease.token, FailureReason.BUILDER, "the master could not record the result")
        except Stopped:
            return
        finally:
            self._pulse.let_go(lease.token)
        then(Recorded())
