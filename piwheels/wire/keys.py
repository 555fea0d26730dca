# SPDX-License-Identifier: BSD-3-Clause
"""CurveZMQ key pairs: made, kept in files, read, and named in logs. Knows no sockets and no database.

A key is 32 bytes, written as 40 characters of Z85 (ZeroMQ RFC 32). A key file holds ``public:`` and ``secret:`` lines
and is its owner's alone; beside it lies ``<file>.pub`` with the public line, to be handed to the other side.
"""

import os
import re
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from piwheels.durable import sync_directory
from piwheels.errors import SettingsError, UnavailableError

_Z85 = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")  # ZeroMQ RFC 32's alphabet
_MAX_FILE = 4096  #: bytes; a key file is 100


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A peer's identity; both halves in Z85."""

    public: str
    secret: str = field(repr=False)  #: kept out of logs and tracebacks


def is_key(text: str) -> bool:
    """Whether the text has the form of a key."""
    return _Z85.fullmatch(text) is not None


def make() -> KeyPair:
    """Make a new key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def short(public: str) -> str:
    """The start of a public key: enough to tell peers apart in a log. The name of one without a key stays whole."""
    return public if public.startswith("plain ") else public[:8]


def load(path: Path) -> KeyPair:
    """Read a key pair; SettingsError when it is damaged or open to others, UnavailableError when it cannot be read."""
    lines = _lines(path, private=True)
    public, secret = lines.get("public", ""), lines.get("secret", "")
    if not (is_key(public) and is_key(secret)):
        raise SettingsError(
            f"{path} is not a key file: it needs a 'public:' and a 'secret:' line of 40 characters each"
        )
    if zmq.curve_public(secret.encode("ascii")).decode("ascii") != public:
        raise SettingsError(f"{path} is damaged: its public and secret key do not belong together")
    return KeyPair(public, secret)


def load_or_make(path: Path) -> KeyPair:
    """Read the key pair, or make one there if there is none. Two processes that do this at once get the same pair."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create(path, make())
        keys = load(path)
        public = path.with_name(path.name + ".pub")
        text = f"public: {keys.public}\n"
        if not public.exists() or public.read_text(encoding="utf-8", errors="replace") != text:
            _replace(public, text)
    except OSError as error:
        if isinstance(error, UnavailableError):
            raise
        raise UnavailableError(f"cannot keep a key pair in {path}: {error.strerror or error}") from error
    return keys


def read_public(text_or_path: str) -> str:
    """A public key, given as itself or as the path of a file that holds it (a ``.pub`` file or a key file)."""
    text = text_or_path.strip()
    if is_key(text) and not Path(text).exists():  # a path of 40 characters may look like a key
        return text
    if not text:
        raise SettingsError("no public key given: 40 characters, or the path of a .pub file")
    public = _lines(Path(text), private=False).get("public", "")
    if not is_key(public):
        raise SettingsError(f"{text!r} is neither a public key (40 characters) nor a file with a 'public:' line")
    return public


def _lines(path: Path, *, private: bool) -> dict[str, str]:
    """The ``name: value`` lines of a small file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read the key in {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise SettingsError(f"{str(path)!r} is neither a public key nor the path of one") from error
    if private and stat.S_IMODE(mode) & 0o077:
        raise SettingsError(f"{path} holds a secret key that others can read: chmod 600 it, or make a new one")
    if len(data) > _MAX_FILE:
        raise SettingsError(f"{path} is not a key file: it is too large")
    pairs = (line.partition(":") for line in data.decode("utf-8", "replace").splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _create(path: Path, keys: KeyPair) -> None:
    """Put a new key file in place, whole or not at all, unless another process was faster."""
    temporary = _temporary(path, f"public: {keys.public}\nsecret: {keys.secret}\n", 0o600)
    try:
        os.link(temporary, path)  # unlike rename, never replaces a pair that a peer may have been told of
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def _replace(path: Path, text: str) -> None:
    _temporary(path, text, 0o644).rename(path)
    sync_directory(path.parent)


def _temporary(path: Path, text: str, mode: int) -> Path:
    """Write the text to a file beside ``path`` that is safely on the disk."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
