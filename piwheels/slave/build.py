# SPDX-License-Identifier: BSD-3-Clause
"""Builds a wheel from an sdist with pip, confined and limited, and says how that ended.

Owns the pip commands and what their end means. Build requirements come from the index that the master named, as wheels
where there are any; nothing of the user's configuration or cache takes part. It must not know the protocol's sessions,
nor what is in the wheels (:mod:`piwheels.slave.inspection` does).
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath

from piwheels.slave import sandbox, supervise
from piwheels.slave.environment import build_environment, certificate_paths
from piwheels.slave.failure import LogReader
from piwheels.slave.limits import MemoryGroup
from piwheels.slave.sandbox import Confinement, Place, Sandbox
from piwheels.slave.sdist import BuildFailed, disk_or_builder, is_web_address
from piwheels.slave.stats import linux_platform, own_platform
from piwheels.slave.supervise import Limits, Outlet
from piwheels.vocabulary import FailureReason

MAX_WHEELS = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a build ended, wheels not yet looked at."""

    reason: FailureReason | None  #: None: pip succeeded
    detail: str
    stopped: bool  #: nobody wants the result
    peak_memory: int | None
    cpu_seconds: float
    built_with: Mapping[str, str] = field(default_factory=dict)  #: python, pip, build requirements: name -> version


def build(
    sdist: Path,
    *,
    place: Place,
    confined: Sandbox,
    index_url: str,
    hide: tuple[Path, ...],
    limits: Limits,
    group: MemoryGroup | None,
    outlet: Outlet,
    stopped: Callable[[], bool],
    wake: int,
    environment: Mapping[str, str] | None = None,
    offline: Sequence[str] | None = None,
) -> Outcome:
    """Run pip wheel on ``sdist``; what it makes is in ``place.outside / "out"``.

    ``environment``: variables beside our own. ``offline``: build requirements; they are brought in first, and then the
    sdist's own code runs without a network, which takes bubblewrap. None: it runs with one, and pip brings in what it
    asks for.
    """
    if not is_web_address(index_url):
        raise BuildFailed(FailureReason.BUILDER, f"the master named {index_url[:100]!r} as the index")

    def run(command: list[str], *, online: bool = True) -> Outcome:
        log = LogReader()
        whole, environ = confine(
            command, sdist, place=place, confined=confined, hide=hide, environment=environment, network=online
        )
        ended = supervise.run(
            whole,
            environ=environ,
            cwd=place.outside / "cwd",
            sandbox=confined,
            limits_=limits,
            group=group,
            read=log.feed,
            outlet=outlet,
            stopped=stopped,
            wake=wake,
        )
        log.end()
        return _outcome(ended, log)

    source, out = _source(sdist, confined), place.inside / "out"
    if offline is None:
        return run(pip_command(source, out=out, index=["--index-url", index_url]))
    if confined.confinement is not Confinement.BUBBLEWRAP:
        words = "it is to be built without a network, which this builder cannot do: it has no bubblewrap"
        raise BuildFailed(FailureReason.BUILDER, words)
    kept = place.inside / "home" / "requirements"
    brought = run(bring_command(offline, into=kept, index_url=index_url))
    if brought.reason is not None or brought.stopped:
        return brought
    built = run(pip_command(source, out=out, index=["--no-index", "--find-links", str(kept)]), online=False)
    return _together(brought, built)


def _source(sdist: Path, confined: Sandbox) -> PurePath:
    """The sdist as the build sees it."""
    return PurePosixPath("/sdist", sdist.name) if confined.confinement is Confinement.BUBBLEWRAP else sdist


def _outcome(ended: supervise.Ended, log: LogReader) -> Outcome:
    reason, detail = _judge(ended, log)
    return Outcome(
        reason=reason,
        detail=detail,
        stopped=ended.stopped,
        peak_memory=ended.peak_memory,
        cpu_seconds=ended.cpu_seconds,
        built_with=tools() | log.built_with,
    )


def _together(first: Outcome, last: Outcome) -> Outcome:
    """Two runs as one build."""
    peaks = [peak for peak in (first.peak_memory, last.peak_memory) if peak is not None]
    return replace(last, peak_memory=max(peaks, default=None), cpu_seconds=first.cpu_seconds + last.cpu_seconds)


def tools() -> dict[str, str]:
    """What every build is built with: this Python and its pip."""
    try:
        pip = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        pip = "missing"
    return {"python": platform.python_version(), "pip": pip}


def _judge(ended: supervise.Ended, log: LogReader) -> tuple[FailureReason | None, str]:
    """Whose fault it is: what the kernel and the limits say goes before what the log says."""
    if ended.cause is not None:
        return ended.cause, ended.words
    if ended.status == 0:
        return None, ""
    if log.detail.startswith("bwrap: "):  # it could not even start
        return FailureReason.BUILDER, log.detail
    if ended.status < 0:
        return log.reason, log.detail or f"pip was ended by signal {-ended.status}"
    return log.reason, log.detail or f"pip ended with status {ended.status}"


def confine(
    command: list[str],
    sdist: Path,
    *,
    place: Place,
    confined: Sandbox,
    hide: tuple[Path, ...],
    environment: Mapping[str, str] | None,
    network: bool,
) -> tuple[list[str], dict[str, str]]:
    """The whole command and its environment."""
    inside = place.inside
    bubble = confined.confinement is Confinement.BUBBLEWRAP
    environ = build_environment(
        os.environ,
        home=inside / "home",
        temporary=PurePosixPath("/tmp") if bubble else inside / "tmp",
        interpreter=PurePath(sys.executable),
        ordered=environment,
    )
    if (platform_tag := linux_platform()) != own_platform():
        environ["_PYTHON_HOST_PLATFORM"] = platform_tag.replace("_", "-", 1)  # what sysconfig then takes for its own
    if not bubble:
        return command, environ
    show = {sdist: PurePosixPath(_source(sdist, confined))}
    show |= {path: PurePosixPath(path) for path in certificate_paths(os.environ)}
    whole = sandbox.bubblewrap(
        confined.program, command, at=place, show=show, hide=hide, environ=environ, network=network
    )
    return whole, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


#: -I: nothing from the current directory or the environment. Verbose: the compiler's words, and the versions of the
#: build requirements.
_PIP = (
    "-I",
    "-m",
    "pip",
    "wheel",
    "--verbose",
    "--no-cache-dir",
    "--prefer-binary",
    "--progress-bar",
    "off",
    "--no-color",
)


def pip_command(source: PurePath, *, out: PurePath, index: Sequence[str]) -> list[str]:
    """pip's own command line. The sdist is a local file, so that ``--no-binary`` is needed for nothing."""
    return [sys.executable, *_PIP, "--no-deps", *index, "--wheel-dir", str(out), str(source)]


def bring_command(requirements: Sequence[str], *, into: PurePath, index_url: str) -> list[str]:
    """The command that makes wheels of build requirements and of what they need; harmless if there are none."""
    if not requirements:
        return [sys.executable, "-I", "-c", f"import os; os.makedirs({str(into)!r}, exist_ok=True)"]
    return [sys.executable, *_PIP, "--index-url", index_url, "--wheel-dir", str(into), "--", *requirements]


def collect(place: Place, into: Path) -> list[Path]:
    """Move the wheels that a build left out of its reach, to directory ``into``, and return them.

    The build owned the place: what it left may be anything. Only regular files count, and no symbolic link is followed.
    """
    try:
        out = os.open(place.outside / "out", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise BuildFailed(FailureReason.PACKAGE, "the build removed the directory its wheel belongs in") from error
    try:
        with os.scandir(out) as entries:  # by descriptor: the path could be made to lead elsewhere
            names = sorted(one.name for one in entries if one.name.endswith(".whl") and _is_file(one))
        if not 0 < len(names) <= MAX_WHEELS:
            raise BuildFailed(FailureReason.PACKAGE, f"the build ended well but left {len(names)} wheels")
        for name in names:
            os.rename(name, into / name, src_dir_fd=out)
    except OSError as error:
        raise BuildFailed(disk_or_builder(error), f"the wheel cannot be kept: {error.strerror or error}") from error
    finally:
        os.close(out)
    return [into / name for name in names]


def _is_file(entry: "os.DirEntry[str]") -> bool:
    return entry.is_file(follow_symlinks=False)
