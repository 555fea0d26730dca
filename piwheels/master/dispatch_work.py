# SPDX-License-Identifier: BSD-3-Clause
"""What sessions ask for that needs the database or the disk, done in worker threads: register, claim, verify, record.

Each function does one thing and returns the event that answers it. It may wait for a database that is away, for as long
as the process runs. It must not know sockets or other sessions.
"""

import gzip
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Lock
from typing import Generic, TypeVar

from sqlalchemy import Connection, Engine

from piwheels import faults
from piwheels.db import builds, names, queue, slaves
from piwheels.db import targets as target_rows
from piwheels.db.builds import RetryPolicy
from piwheels.db.claims import Terms
from piwheels.db.engine import in_transaction
from piwheels.errors import WheelError
from piwheels.logs import RateLimited
from piwheels.master import numbering
from piwheels.master import session as s
from piwheels.master.dispatch_logs import clean_log
from piwheels.master.needs import Room
from piwheels.master.policy import retry_policy_of
from piwheels.master.receiving_disk import Arrived
from piwheels.master.renaming import Change, for_platform, rewrite, with_number
from piwheels.master.store import Store, half_written, write_files
from piwheels.master.targets import Target
from piwheels.master.twins import platform_of_twin, runs_on_twin
from piwheels.master.verify import check_content, check_renamed
from piwheels.settings import Settings
from piwheels.site.paths import log_path
from piwheels.vocabulary import FailureReason, SlaveWish
from piwheels.wheelfile import WheelName, parse_wheel_name
from piwheels.wire import messages as m

logger = logging.getLogger(__name__)

RECENT = 1000  #: build numbers, up to the last given out, among which a killed process may have left logs

NUMBERS = 50  #: of builds, taken ahead at a time
REMEMBERED = 3.0  #: seconds that targets are not read again

T = TypeVar("T")


class Remembered(Generic[T]):
    """A value that holds for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._value: T | None = None
        self._until = float("-inf")

    def get(self) -> T | None:
        """The value; None: it is to be had anew."""
        return self._value if time.monotonic() < self._until else None

    def set(self, value: T) -> None:
        """It is this, as of now."""
        self._value, self._until = value, time.monotonic() + self._seconds


@dataclass(frozen=True, slots=True)
class Clerk:
    """Does the work. One for the process; any thread may use it."""

    engine: Engine
    store: Store
    settings: Settings
    stop: Event
    _numbers: list[int] = field(default_factory=list)  #: of builds, taken ahead
    _lock: Lock = field(default_factory=Lock)
    _targets: "Remembered[dict[int | None, Target]]" = field(default_factory=lambda: Remembered(REMEMBERED))

    @property
    def policy(self) -> RetryPolicy:
        """What becomes of jobs whose builder failed."""
        return retry_policy_of(self.settings)

    @property
    def terms(self) -> Terms:
        """How jobs are handed out."""
        dispatch = self.settings.dispatch
        return Terms(dispatch.lease, dispatch.build_timeout, dispatch.memory_limit)

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """Run it, waiting for the database if need be."""
        return in_transaction(self.engine, work, stop=self.stop)

    # Register

    def register(self, key: str, hello: m.Hello) -> s.Registered | s.Refused:
        """Note that a builder is here; see to what it held."""
        return self.transaction(lambda conn: self._register(conn, key, hello))

    def _register(self, conn: Connection, key: str, hello: m.Hello) -> s.Registered | s.Refused:
        target_id = _target_of(conn, hello)
        slave_id = slaves.register(conn, key, hello, target_id=target_id)
        if slave_id is None:
            return s.Refused("its key is not enrolled, or disabled")
        if target_id is None:
            _warn_of_stranger(conn, hello)
        token = hello.capabilities.resume if hello.capabilities else None
        resumed = None
        if token is not None:
            resumed = queue.lease_by_token(conn, token, slave_id=slave_id, terms=self.terms)
        why = "the builder came back without the build"
        kept = resumed.token if resumed else None
        if resumed is not None:
            queue.renew(conn, [resumed.token], lease=self.terms.lease)
        queue.release_all_of(conn, slave_id, kept, policy=self.policy, why=why)
        recorded = token is not None and resumed is None and builds.recorded(conn, token) is not None
        return s.Registered(slave_id, resumed, already_recorded=recorded, target_id=target_id)

    # Claim

    def claim(self, key: str, slave_id: int, hello: m.Hello, room: Room) -> s.Claimed:
        """Lease a job. The lease is committed when this returns, so nobody is told of one that does not exist."""
        if self.full:
            return s.Claimed(None, paused=True)
        claimed = self.transaction(lambda conn: self._claim(conn, key, slave_id, hello, room))
        faults.point("leased")
        return claimed

    @property
    def full(self) -> bool:
        """Whether the store's disk has no room for what would be built."""
        free = self.store.free()
        if free >= self.settings.dispatch.min_free:
            return False
        _nonsense.warning("disk", f"nothing is handed out: {free} bytes are free at {self.store.root}")
        return True

    def _claim(self, conn: Connection, key: str, slave_id: int, hello: m.Hello, room: Room) -> s.Claimed:
        standing = queue.standing(conn, slave_id)
        if standing is None or not standing.enabled or standing.wish is SlaveWish.STOP:
            return s.Claimed(None, leave=True)
        if standing.paused or standing.wish is SlaveWish.PAUSE:
            return s.Claimed(None, paused=True)
        target_id = standing.target_id
        if target_id is None:  # perhaps it was enabled since
            target_id = _target_of(conn, hello)
            if target_id is None:
                _warn_of_stranger(conn, hello)
                return s.Claimed(None)
            slaves.register(conn, key, hello, target_id=target_id)
        lease = queue.claim(
            conn, slave_id=slave_id, target_id=target_id, terms=self.terms, policy=self.policy, room=room
        )
        return s.Claimed(lease, target_id=target_id)

    def claim_ahead(self, target_id: int, room: Room, count: int) -> list[s.Lease]:
        """Lease jobs to nobody yet."""

        def work(conn: Connection) -> list[s.Lease]:
            return queue.claim_many(
                conn, target_id=target_id, terms=self.terms, limit=count, room=room, policy=self.policy
            )

        leases = [] if self.full else self.transaction(work)
        faults.point("leased")
        return leases

    def assign(self, holders: Sequence[tuple[str, int]]) -> list[bool]:
        """Make leases that nobody had those of builders that were told: (token, slave id); whether each holds."""
        lease = self.settings.dispatch.lease
        held = self.transaction(lambda conn: queue.assign(conn, dict(holders), lease=lease))
        return [token in held for token, _ in holders]

    def unclaim(self, *tokens: str) -> None:
        """Take back leases that nobody was told of."""
        self.transaction(lambda conn: queue.unclaim(conn, *tokens, policy=self.policy))

    def unclaim_ahead(self) -> None:
        """Take back what a predecessor that was killed had kept for whoever asks next: else it waits a minute."""
        count = self.transaction(lambda conn: queue.unclaim_ahead(conn, policy=self.policy))
        if count:
            logger.info("%d jobs that an earlier dispatch had taken ahead are back in the queue", count)

    # Verify

    def check(self, arrived: Arrived, file: m.FileInfo, lease: s.Lease) -> "Checked | s.Rejected":
        """Look whether a whole file is what it should be; if so, ``keep`` is to follow."""
        try:
            if arrived.sha256.hex() != file.sha256:
                raise Differs(f"{file.filename!r} arrived with another SHA-256 than was announced")
            return self._checked(arrived, file, lease)
        except BaseException as error:
            arrived.path.unlink(missing_ok=True)
            return _rejected(error, file.filename)

    def _checked(self, arrived: Arrived, file: m.FileInfo, lease: s.Lease) -> "Checked":
        target = self._target(lease.target_id)
        supported = target.supported() if target else frozenset()
        name, content, dependencies = check_content(arrived.path, file, lease, supported)
        faults.point("verified")
        metadata, metadata_sha256 = self.store.write_part(content.metadata)
        verified = s.VerifiedFile(
            filename=name.filename,
            size=arrived.size,
            sha256=arrived.sha256,
            metadata_sha256=metadata_sha256,
            requires_python=content.requires_python,
            top_level=content.top_level,
            dependencies=dependencies,
        )
        checked = Checked(verified, arrived.path, metadata)
        try:
            twin = self._twin(arrived.path, name, verified, target)
        except BaseException:
            checked.discard()
            raise
        return replace(checked, twin=twin)

    def _twin(
        self, path: Path, name: WheelName, wheel: s.VerifiedFile, target: Target | None
    ) -> "tuple[s.VerifiedFile, Path] | None":
        """The wheel for boards of an older kind, if it runs there."""
        platform = platform_of_twin(target, name) if target else None
        if platform is None or not runs_on_twin(path):
            return None
        try:
            return self._rewritten(path, wheel, *for_platform(name, platform))
        except WheelError as error:
            logger.info("%s has no twin: %s", name.filename, error)
            return None

    def _rewritten(
        self, source: Path, wheel: s.VerifiedFile, filename: str, change: Change
    ) -> tuple[s.VerifiedFile, Path]:
        """A wheel under another name, and where it is until the store has it. Raises WheelError, OSError."""
        with self.store.temporary() as out:
            path = Path(out.name)
            try:
                sha256 = rewrite(source, out, change)
                out.flush()
                check_renamed(path, filename)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return replace(wheel, filename=filename, size=out.tell(), sha256=sha256), path

    def keep(self, files: Sequence["Checked"]) -> list[s.Verified | s.Rejected]:
        """Put files that are right into the store, all as one; one by one if that cannot be done."""
        try:
            self.store.add_all([pair for one in files for pair in one.parts])
        except OSError as error:
            if len(files) > 1:
                return [answer for one in files for answer in self.keep([one])]
            return [_rejected(error, one.verified.filename) for one in files]
        finally:
            for one in files:
                one.discard()
        faults.point("kept")
        return [s.Verified(one.verified, one.twin[0] if one.twin else None) for one in files]

    def _target(self, target_id: int) -> Target | None:
        """A target as of a moment ago: asked for with every wheel, changed once a year."""
        with self._lock:
            targets = self._targets.get()
        if targets is None:
            targets = {target.id: target for target in self.transaction(target_rows.every)}
            with self._lock:
                self._targets.set(targets)
        return targets.get(target_id)

    # Record and release

    def record(self, result: s.Result) -> s.Recorded:
        """Commit a result, once."""
        entries = self.prepare([result])
        while isinstance(done := self.commit(entries)[0], builds.Taken):
            entries = self.rename(entries)
        return done

    def prepare(self, results: Sequence[s.Result]) -> list[builds.Entry]:
        """Write results' logs; first, so that a build that says it has a log has one."""
        numbers = self._next_numbers(len(results))
        logs = {
            self._log_of(number): clean_log(result.log, self.settings.dispatch.max_log)
            for number, result in zip(numbers, results, strict=True)
        }
        written = _write_logs(logs)
        return [
            builds.Entry(result, number, self._log_of(number) in written)
            for number, result in zip(numbers, results, strict=True)
        ]

    def commit(self, entries: Sequence[builds.Entry]) -> list[s.Recorded | builds.Taken]:
        """Commit results, once each, in one transaction; but not those of which a wheel's name is taken."""
        faults.point("recording")
        numbers = self.transaction(lambda conn: self._record(conn, entries))
        faults.point("recorded")
        for entry, number in zip(entries, numbers, strict=True):
            if isinstance(number, builds.Taken) or number == entry.build_id or entry.build_id is None:
                continue
            # Only once the transaction has decided: while that is not known, the log may be a recorded build's.
            self._log_of(entry.build_id).unlink(missing_ok=True)
            logger.info("a result of %s %s came too late", entry.result.lease.project, entry.result.lease.version)
        return [number if isinstance(number, builds.Taken) else s.Recorded() for number in numbers]

    def _record(self, conn: Connection, entries: Sequence[builds.Entry]) -> list[int | builds.Taken | None]:
        lost = [entry for entry in entries if not self._keeps(entry.result)]
        for entry in lost:
            lease = entry.result.lease
            why = "a wheel vanished from the store before the build was recorded"
            logger.error("%s %s: %s", lease.project, lease.version, why)
            queue.release(conn, lease.token, FailureReason.BUILDER, why, policy=self.policy)
        whole = [entry for entry in entries if entry not in lost]
        numbers = iter(builds.record_many(conn, whole, policy=self.policy))
        return [None if entry in lost else next(numbers) for entry in entries]

    def _keeps(self, result: s.Result) -> bool:
        """Whether the store has, and will have, what the build is to be recorded with."""
        return self.store.keep({digest for file in result.files for digest in (file.sha256, file.metadata_sha256)})

    # Rename

    def rename(self, entries: Sequence[builds.Entry]) -> list[builds.Entry]:
        """The same results, their wheels with build numbers where their names stand for other bytes. Takes long for a
        long wheel. A result of which a wheel can have no such name is one that failed by its builder's fault."""
        return [replace(entry, result=self._renamed(entry.result)) for entry in entries]

    def _renamed(self, result: s.Result) -> s.Result:
        lease = result.lease
        files = [(parse_wheel_name(file.filename), file) for file in (one.origin or one for one in result.files)]
        starts = {numbering.start(name) for name, _ in files}
        taken = self.transaction(lambda conn: names.of_releases(conn, lease.target_id, starts))
        try:
            named = [self._named(name, file, taken.get(numbering.start(name), [])) for name, file in files]
        except (WheelError, OSError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            text = f"a wheel whose name is taken cannot have a build number: {why}"
            logger.error("%s %s: %s", lease.project, lease.version, text)
            return replace(result, ok=False, reason=FailureReason.BUILDER, detail=text, files=())
        return replace(result, files=tuple(named))

    def _named(self, name: WheelName, file: s.VerifiedFile, taken: Sequence[numbering.Bound]) -> s.VerifiedFile:
        """The wheel under the first name that it may have."""
        for filename, sha256 in numbering.candidates(name, file.sha256, taken):
            found = file if filename == file.filename else self._numbered(name, file, filename)
            if sha256 in (None, found.sha256):
                if found is not file:
                    logger.info("%s is a rebuild: it becomes %s", name.filename, filename)
                return found
        raise AssertionError("the last candidate stands for nothing yet")

    def _numbered(self, name: WheelName, file: s.VerifiedFile, filename: str) -> s.VerifiedFile:
        """The wheel under a name with a build number, in the store."""
        number = parse_wheel_name(filename).build
        found, path = self._rewritten(self.store.path(file.sha256), file, *with_number(name, number))
        try:
            faults.point("renamed")
            self.store.add(path, found.sha256)
        finally:
            path.unlink(missing_ok=True)
        return replace(found, origin=file)

    def _next_numbers(self, count: int) -> list[int]:
        with self._lock:
            if len(self._numbers) < count:
                more = max(count, NUMBERS)
                self._numbers.extend(self.transaction(lambda conn: builds.new_ids(conn, more)))
            taken, self._numbers[:count] = self._numbers[:count], []
            return taken

    def _log_of(self, number: int) -> Path:
        return self.settings.paths.output / log_path(number)

    def release(self, token: str, reason: FailureReason, why: str) -> None:
        """Return a lease to the queue, with a strike."""
        self.transaction(lambda conn: queue.release(conn, token, reason, why, policy=self.policy))

    def release_all_of(self, slave_id: int, why: str) -> None:
        """Return everything a builder holds."""
        self.transaction(lambda conn: queue.release_all_of(conn, slave_id, None, policy=self.policy, why=why))

    def sweep_logs(self) -> None:
        """Remove logs whose build was never recorded because the process was killed in between. Before anything is
        recorded by this one: a log that is being written now would be taken for one of them."""
        last = self.transaction(builds.last_number)
        recent = range(max(1, last - RECENT), last + 1)
        for number in self.transaction(lambda conn: builds.missing_of(conn, recent)):
            try:
                for path in (self._log_of(number), half_written(self._log_of(number))):
                    path.unlink(missing_ok=True)
            except OSError as error:
                _nonsense.warning("log", f"cannot remove the log of build {number}: {error.strerror or error}")


@dataclass(frozen=True, slots=True)
class Checked:
    """A wheel that is right, and its METADATA, on their way into the store."""

    verified: s.VerifiedFile
    wheel: Path
    metadata: Path
    twin: tuple[s.VerifiedFile, Path] | None = None  #: the same for other machines, and where it is

    @property
    def parts(self) -> tuple[tuple[Path, bytes], ...]:
        """As the store takes them. The wheel comes last, so that none is there without its METADATA and its twin."""
        twin = ((self.twin[1], self.twin[0].sha256),) if self.twin else ()
        return (self.metadata, self.verified.metadata_sha256), *twin, (self.wheel, self.verified.sha256)

    def discard(self) -> None:
        """Remove what is not in the store."""
        for path, _ in self.parts:
            path.unlink(missing_ok=True)


class Differs(WheelError):
    """What arrived is not what was announced: the line's fault perhaps, so it may be sent again."""


def _rejected(error: BaseException, filename: str) -> s.Rejected:
    """What to tell the session of it; raises what is nobody's fault but ours."""
    if isinstance(error, WheelError):
        return s.Rejected(str(error), hostile=not isinstance(error, Differs))
    if not isinstance(error, OSError):
        raise error
    logger.warning("cannot keep %r: %s", filename, error)
    return s.Rejected(f"the file could not be kept: {error.strerror or error}")


_nonsense = RateLimited(logger, per=timedelta(minutes=5))


def _target_of(conn: Connection, hello: m.Hello) -> int | None:
    return target_rows.by_builder(
        conn,
        py_version=hello.py_version,
        abi=hello.abi,
        platform=hello.platform,
        os_name=hello.os_name,
        os_version=hello.os_version,
    )


def _warn_of_stranger(conn: Connection, hello: m.Hello) -> None:
    """It stays and sleeps: the operator may add its target without touching the builder."""
    there = ", ".join(target.name for target in target_rows.enabled(conn)) or "none"
    what = f"{hello.abi} on {hello.platform}, {hello.os_name} {hello.os_version}"
    text = f"builder {hello.label[:60]!r} ({what[:200]}) serves no enabled target (there are: {there}); it sleeps"
    _nonsense.warning(f"target {hello.label[:60]}", text)


def _write_logs(logs: Mapping[Path, bytes]) -> set[Path]:
    """Write builds' logs; those that were written. A build is worth recording without one, too."""
    packed, failed = {}, {}
    for path, log in logs.items():
        try:
            faults.point("logging")
        except OSError as error:
            failed[path] = error
            continue
        packed[path] = gzip.compress(log, _LEVEL, mtime=0)
    failed |= write_files(packed)
    for path, why in failed.items():
        _nonsense.warning("log", f"cannot write build logs, such as {path}: {why.strerror or why}")
    return logs.keys() - failed.keys()


_LEVEL = 6  #: of gzip; 9 takes three times as long for a hundredth less
