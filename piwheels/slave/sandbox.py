# SPDX-License-Identifier: BSD-3-Clause
"""How a build is kept apart from the builder: bubblewrap where it works, an ordinary user where it does not.

In bubblewrap a build sees the system's programs and libraries and its Python read-only, a few files of /etc, its own
directory as /build, a private /tmp on the same disk, and (unless told otherwise) the network. It does not see
homes, keys, the farm's directories or other processes, has no capabilities, and cannot outlive its parent. Abstract
sockets come with the network and are shared.

A builder that root runs becomes user nobody before bubblewrap starts. Where nobody cannot reach the Python in use (a
virtual environment under /root), the build is an ordinary user inside but root's id outside, without capabilities: the
kernel still lets that id write under /proc, so what is there is covered.

It must not know pip or the protocol; it turns a command into the command that runs it confined.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from piwheels.errors import SettingsError, UnavailableError

INSIDE = PurePosixPath("/build")
_UID = 1000  #: of the build's user as the build sees it
_PROBE_TIMEOUT = 30.0
_ROOT_OUTSIDE = (
    "builds keep root's id outside their sandbox, because user nobody cannot reach slave.work or {}; "
    "the builder is safer as a user of its own"
)

#: What of /etc a build may read: name lookup, certificates, the linker's and the alternatives' tables, time zone.
# fmt: off
_ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "debian_version", "fonts", "gai.conf",
    "gitconfig", "host.conf", "hosts", "java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
    "lsb-release", "machine-arch", "magic", "mime.types", "mke2fs.conf", "networks", "nsswitch.conf",
    "os-release", "pkcs11", "pki", "protocols", "resolv.conf", "rpi-issue", "services", "ssl/certs",
    "ssl/openssl.cnf", "timezone",
)
# fmt: on
#: What an id of root's could read or write under /proc without any capability; bubblewrap 0.8 covers less.
_PROC_READ_ONLY = ("sys", "irq", "bus", "fs")
_PROC_EMPTY = ("acpi", "scsi", "driver")
_PROC_NOTHING = (
    "sysrq-trigger",
    "mtrr",
    "kcore",
    "keys",
    "kmsg",
    "timer_list",
    "sched_debug",
    "kallsyms",
    "vmallocinfo",
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt/vc")


class Confinement(StrEnum):
    """How far a build is kept apart."""

    BUBBLEWRAP = "bubblewrap"
    USER = "user"  #: an ordinary user's rights, but that user sees what others see
    NONE = "none"  #: the builder's own rights


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What was found to work on this machine."""

    confinement: Confinement
    program: str = ""  #: path of bwrap
    user: int | None = None  #: the user and group id to become first, when root runs the builder
    group: int | None = None
    warning: str = ""  #: one line for the log: what is weaker than it could be, and what would help


@dataclass(frozen=True, slots=True)
class Place:
    """Where a build happens, outside and as the build sees it."""

    outside: Path
    inside: PurePosixPath

    def make(self, sandbox: Sandbox) -> None:
        """Make its empty directories, owned by whoever builds."""
        self.outside.mkdir(mode=0o755)
        for name in ("home", "tmp", "out", "etc", "cwd"):
            directory = self.outside / name
            directory.mkdir(mode=0o755)
            if sandbox.user is not None and sandbox.group is not None:
                os.chown(directory, sandbox.user, sandbox.group)
        (self.outside / "etc/passwd").write_text(f"build:x:{_UID}:{_UID}::{self.inside}/home:/bin/sh\n")
        (self.outside / "etc/group").write_text(f"build:x:{_UID}:\n")


def place(sandbox: Sandbox, directory: Path) -> Place:
    """The place of a build in ``directory``, which does not exist yet."""
    confined = sandbox.confinement is Confinement.BUBBLEWRAP
    return Place(directory, INSIDE if confined else PurePosixPath(directory))


def choose(wish: str, *, scratch: Path) -> Sandbox:
    """Find out what works here. ``wish`` is setting slave.sandbox; ``scratch`` an existing directory for the trial.

    Raises UnavailableError when bubblewrap is required and does not work.
    """
    if wish not in ("auto", "required", "off"):
        raise SettingsError(f"slave.sandbox is {wish!r}; it takes auto, required or off")
    user, group = _ordinary_user(scratch) if os.geteuid() == 0 else (None, None)
    why = "slave.sandbox is off"
    if wish != "off":
        program = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin:" + os.environ.get("PATH", ""))
        warning = _ROOT_OUTSIDE.format(sys.prefix) if os.geteuid() == 0 and user is None else ""
        candidate = Sandbox(Confinement.BUBBLEWRAP, program=program or "", user=user, group=group, warning=warning)
        why = _trouble(candidate, scratch) if program else "bubblewrap is not installed (apt install bubblewrap)"
        if not why:
            return candidate
        if wish == "required":
            raise UnavailableError(f"slave.sandbox is required, but {why}")
    return _without(why, user, group)


def _without(why: str, user: int | None, group: int | None) -> Sandbox:
    """The next best thing: not root."""
    if user is not None:
        warning = f"builds run as user nobody and see what that user sees, because {why}"
        return Sandbox(Confinement.USER, user=user, group=group, warning=warning)
    if os.geteuid() != 0:
        warning = f"builds run with this user's own rights and see its files, because {why}"
    else:
        warning = f"builds run as root, because {why} and user nobody cannot reach {sys.prefix}"
    return Sandbox(Confinement.NONE, warning=warning)


def _trouble(sandbox: Sandbox, scratch: Path) -> str:
    """Why bubblewrap does not do all we ask of it; empty if it does."""
    trial = place(sandbox, scratch / "probe")
    shutil.rmtree(trial.outside, ignore_errors=True)
    try:
        trial.make(sandbox)
        command = bubblewrap(sandbox.program, [sys.executable, "-I", "-S", "-c", "pass"], at=trial)
        _run(command, user=sandbox.user, group=sandbox.group)
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr or "").strip().splitlines()
        return f"bubblewrap does not work here: {lines[-1][:200] if lines else f'it exits with {error.returncode}'}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here: {error}"
    finally:
        shutil.rmtree(trial.outside, ignore_errors=True)
    return ""


def _ordinary_user(scratch: Path) -> tuple[int, int] | tuple[None, None]:
    """The ids of user nobody, if that user reaches the work directory and this Python with its pip."""
    trial = scratch / "probe-user"
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir()
    try:
        nobody = pwd.getpwnam("nobody")
        os.chown(trial, nobody.pw_uid, nobody.pw_gid)
        code = "import pip, sys; open(sys.argv[1] + '/x', 'w').close()"
        _run([sys.executable, "-I", "-B", "-c", code, str(trial)], user=nobody.pw_uid, group=nobody.pw_gid)
    except (KeyError, OSError, subprocess.SubprocessError):
        return None, None
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return nobody.pw_uid, nobody.pw_gid


def _run(command: Sequence[str], *, user: int | None, group: int | None) -> None:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=True,
        timeout=_PROBE_TIMEOUT,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )


def bubblewrap(
    program: str,
    command: Sequence[str],
    *,
    at: Place,
    show: Mapping[Path, PurePosixPath] | None = None,
    hide: Iterable[Path] = (),
    environ: Mapping[str, str] | None = None,
    network: bool = True,
) -> list[str]:
    """The command that runs ``command`` confined to ``at``.

    ``show``: further files and directories to be seen, read-only, and where. ``hide``: paths that must not be seen
    even if they lie in something that is shown.
    """
    arguments = [program, "--unshare-user", "--unshare-all", *(["--share-net"] if network else [])]
    arguments += [
        "--die-with-parent",
        "--new-session",
        "--disable-userns",
        "--uid",
        str(_UID),
        "--gid",
        str(_UID),
        "--cap-drop",
        "ALL",
        "--hostname",
        "builder",
        "--clearenv",
    ]
    arguments += _system()
    for source, target in (show or {}).items():
        arguments += ["--ro-bind", str(source), str(target)]
    arguments += [*_proc(), "--dev", "/dev", "--bind", str(at.outside), str(at.inside)]
    arguments += [
        "--bind",
        str(at.outside / "tmp"),
        "/tmp",
        "--dir",
        "/run",
        "--dir",
        "/var",
        "--symlink",
        "/tmp",
        "/var/tmp",
    ]
    arguments += _python()  # after /tmp, which would cover one that lives there
    for name in ("passwd", "group"):
        arguments += ["--ro-bind", str(at.outside / "etc" / name), f"/etc/{name}"]
    arguments += ["--ro-bind", str(at.outside / "etc"), str(at.inside / "etc")]
    for path in hide:
        arguments += _mask(path)
    for key, value in (environ or {}).items():
        arguments += ["--setenv", key, value]
    # Last, so that the root itself, a tmpfs until here, cannot be filled by the build.
    return [*arguments, "--remount-ro", "/", "--chdir", str(at.inside / "cwd"), "--", *command]


def _system() -> list[str]:
    """Arguments that show the system: merged /usr's symlinks as such (Debian bookworm and later), else directories."""
    arguments: list[str] = []
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            arguments += ["--ro-bind", name, name]
    pythons = [path.name for path in sorted(Path("/etc").glob("python3*"))]
    for name in (*_ETC, *pythons):
        path = Path("/etc", name)
        if path.is_symlink() and str(path.readlink()).lstrip("./").startswith("usr/"):
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif (
            path.exists()
        ):  # resolv.conf and localtime may be symlinks to places that are not shown: show what they lead to
            arguments += ["--ro-bind", str(path.resolve()), str(path)]
    return arguments


def _proc() -> list[str]:
    arguments = ["--proc", "/proc"]
    for name in _PROC_READ_ONLY:
        arguments += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for name in _PROC_EMPTY:
        if Path("/proc", name).is_dir():
            arguments += ["--tmpfs", f"/proc/{name}", "--remount-ro", f"/proc/{name}"]
    for name in _PROC_NOTHING:
        arguments += ["--ro-bind", "/dev/null", f"/proc/{name}"] if Path("/proc", name).exists() else []
    return arguments


def _python() -> list[str]:
    """Arguments that show this Python, where it does not belong to the system anyway."""
    executable = Path(sys.executable)
    wanted = [Path(sys.prefix), Path(sys.exec_prefix), Path(sys.base_prefix), Path(sys.base_exec_prefix)]
    wanted += [executable.parent, executable.resolve().parent]
    arguments: list[str] = []
    for path in dict.fromkeys(path.absolute() for path in wanted):
        covered = [Path("/usr"), *map(Path, arguments[2::3])]
        if path != Path("/") and not any(path == other or other in path.parents for other in covered):
            arguments += ["--ro-bind", str(path), str(path)]
    return arguments


def _mask(path: Path) -> list[str]:
    """Arguments that put nothing where ``path`` is; needed only where it would be seen at all."""
    path = path.absolute()
    seen = [Path("/usr"), *map(Path, _python()[2::3])]
    if not any(other in path.parents for other in seen):
        return []
    return ["--tmpfs", str(path)] if path.is_dir() else ["--ro-bind", "/dev/null", str(path)] if path.exists() else []
