# SPDX-License-Identifier: BSD-3-Clause
"""The error tree: one root, a family for each area, each leaf also a builtin.

An error's text is one line for a person: what is wrong, where, and what to do about it. Foreign exceptions are
translated once, where they enter (``raise ... from error``). Exit codes are listed in :class:`ExitCode` and in
the manual. Areas may add leaves in their own modules; families live here.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a ``piw-*`` command's exit status means."""

    OK = 0
    FAILED = 1  #: the work was done and some of it failed (one line each on standard error)
    USAGE = 2  #: wrong arguments or settings
    UNAVAILABLE = 3  #: something needed is missing, in use, or does not answer
    INTERNAL = 70  #: a fault in piwheels itself
    INTERRUPTED = 130  #: ended by Ctrl-C


class PiwheelsError(Exception):
    """Root of everything piwheels raises on purpose."""

    exit_code = ExitCode.FAILED


class SettingsError(PiwheelsError, ValueError):
    """A setting is missing, unknown or has a bad value; the text names file and line, variable or flag."""

    exit_code = ExitCode.USAGE


class UnavailableError(PiwheelsError, OSError):
    """Something the command needs is missing or taken: a port, a program, another farm's lock, the network."""

    exit_code = ExitCode.UNAVAILABLE

    def __str__(self) -> str:  # OSError would show a tuple for two arguments; ours always has one
        return str(self.args[0]) if self.args else ""


class DatabaseError(PiwheelsError, RuntimeError):
    """The database is missing, has the wrong schema version, or refused."""

    exit_code = ExitCode.UNAVAILABLE


class ProtocolError(PiwheelsError, ValueError):
    """A peer broke the slave protocol, or we were about to."""


class PeerError(ProtocolError):
    """The other side sent something that is not allowed; never our fault, never fatal to us."""


class LocalProtocolError(ProtocolError, RuntimeError):
    """Our own side asked a protocol machine for an illegal move: a fault in piwheels."""

    exit_code = ExitCode.INTERNAL


class TransferError(PiwheelsError, OSError):
    """A file did not arrive as announced."""


class WheelError(PiwheelsError, ValueError):
    """A wheel or its name is not what it should be; the text says in which way."""


class UpstreamError(PiwheelsError, OSError):
    """PyPI did not answer, or answered with something unusable. Weather: it is retried."""


class UpstreamMissing(UpstreamError, LookupError):
    """PyPI says that this project does not exist (404)."""


class BuildError(PiwheelsError, RuntimeError):
    """A build failed; carries a :class:`piwheels.vocabulary.FailureReason` in ``reason``."""
