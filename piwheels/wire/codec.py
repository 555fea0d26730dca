# SPDX-License-Identifier: BSD-3-Clause
"""Messages to bytes and back: the protocol's one declaration, from which both ends encode and decode.

Owns names, order and bounds of what travels; must not know sockets or sessions. Decoding takes any bytes and gives a
message or a PeerError. Source: docs/protocol.rst. The part of each message that a 0.2x slave knows is a fixed row;
extensions follow as one more element, sent only where our message has one (whether the peer can read it is the
session's business). What needs a judgement on a build rather than on bytes, a wheel's name say, passes here as
bounded text and is judged by the session, which can answer.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from piwheels.errors import LocalProtocolError, PeerError
from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wire import cbor
from piwheels.wire import messages as m
from piwheels.wire.fields import (
    Choice,
    Field,
    Flag,
    Integer,
    ListOf,
    Log,
    MapOf,
    Maybe,
    Moment,
    Number,
    Row,
    Span,
    Table,
    Text,
)

MAX_LOG = 12 * 1024**2  #: bytes of log in one BUILT; leaves room for the rest within cbor.MAX_MESSAGE
MAX_CHUNK = 4 * 1024**2  #: bytes in one CHUNK
MAX_FILES = 100  #: files in one BUILT; the master's settings allow fewer

_WORD = Text(100)
_TAG = Text(200)
_TOKEN = Text(32, re.compile(r"[0-9a-f]{32}"))
_SHA256 = Text(64, re.compile(r"[0-9a-f]{64}"))
_PLAIN_NAME = Text(400, re.compile(r"[^/\\.~-][^/\\]*"))  # becomes a file's name at the builder
_URL = Text(2000, re.compile(r"https?://[!-~]+"))
_DAY = timedelta(days=1)


class _Seconds:
    """A length of time as whole seconds."""

    _kind = Integer(1, 7 * 86_400)

    def load(self, data: Any, where: str) -> timedelta:
        return timedelta(seconds=self._kind.load(data, where))

    def dump(self, value: Any, where: str) -> Any:
        return self._kind.dump(-(-value // timedelta(seconds=1)), where)  # rounded up: 0 would mean no time at all


class _Variables:
    """A build's environment: a map on the wire, pairs here."""

    _kind = MapOf(Text(100, re.compile(r"[A-Za-z_][A-Za-z0-9_]*")), Text(4000, re.compile(r"[^\x00]*"), raw=True), 50)

    def load(self, data: Any, where: str) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(self._kind.load(data, where).items()))

    def dump(self, value: Any, where: str) -> Any:
        return self._kind.dump(dict(value), where)


class _OrderTable:
    """BUILD's third element: a map with a map of the sdist inside. What a recipe adds is absent where none does."""

    _build = Table(
        dict,
        {
            "token": ("token", _TOKEN),
            "target": ("target", _WORD),
            "time": ("time_limit", _Seconds()),
            "memory": ("memory_limit", Integer()),
            "apt": ("apt", ListOf(Text(100, re.compile(r"[a-z0-9][a-z0-9+.-]+")), 100)),
            "environment": ("environment", _Variables()),
            "network": ("network", Flag()),
        },
        required=frozenset({"token", "target", "sdist", "time", "memory"}),
    )
    _sdist = Table(
        dict,
        {
            "name": ("sdist_name", _PLAIN_NAME),
            "url": ("sdist_url", _URL),
            "sha256": ("sdist_sha256", _SHA256),
            "size": ("sdist_size", Maybe(Integer())),
        },
        required=frozenset({"name", "url", "sha256"}),
    )

    def load(self, data: Any, where: str) -> m.Order:
        build = self._build.load(data, where)
        sdist = self._sdist.load(data["sdist"], f"{where}'s sdist")
        return m.Order(**{"sdist_size": None, **build, **sdist})

    def dump(self, value: Any, where: str) -> dict[str, Any]:
        build = self._build.dump(value, where)
        usual = {"apt": [], "environment": {}, "network": True}
        plain = {key: item for key, item in build.items() if key not in usual or item != usual[key]}
        return {**plain, "sdist": self._sdist.dump(value, f"{where}'s sdist")}


class _BusyRow:
    """BUSY's data: the statistics, and the live log as a tenth element of theirs."""

    _log = Log(4 * m.MAX_LIVE_LOG)  # a character takes at most 4 bytes

    def load(self, data: Any, where: str) -> m.Busy:
        if isinstance(data, list | tuple) and len(data) == 10:
            return m.Busy(_STATS.load(data[:9], where), self._log.load(data[9], f"{where}'s log")[-m.MAX_LIVE_LOG :])
        return m.Busy(_STATS.load(data, where))

    def dump(self, value: Any, where: str) -> list[Any]:
        log = self._log.dump(value.log[-m.MAX_LIVE_LOG :], f"{where}'s log")
        return _STATS.dump(value.stats, where) + ([log] if log else [])


_CAPABILITIES = Table(
    m.Capabilities,
    {
        "protocol": ("protocol", Integer(2, 1000)),
        "slave": ("agent", _WORD),
        "resume": ("resume", Maybe(_TOKEN)),
        "features": ("features", ListOf(Text(40), 50)),
    },
    required=frozenset({"protocol"}),
)
_HELLO = Row(
    m.Hello,
    (
        ("build_timeout", Span(30 * _DAY, least=timedelta(seconds=1))),
        ("busy_timeout", Span(_DAY, least=timedelta(seconds=1))),
        ("py_version", Text(4, re.compile(r"[0-9]{2,4}"))),
        ("abi", Text(40, re.compile(r"[A-Za-z0-9_]+"))),
        ("platform", Text(100, re.compile(r"[A-Za-z0-9_.]+"))),
        ("label", _WORD),
        ("os_name", _WORD),
        ("os_version", _WORD),
        ("board_revision", _WORD),
        ("board_serial", _WORD),
    ),
    extra=("capabilities", _CAPABILITIES),
)
_STATS = Row(
    m.Stats,
    (
        ("now", Moment()),
        ("disk_size", Integer()),
        ("disk_free", Integer()),
        ("mem_size", Integer()),
        ("mem_free", Integer()),
        ("swap_size", Integer()),
        ("swap_free", Integer()),
        ("load_average", Number(1e6)),
        ("cpu_temperature", Number(1e6)),
    ),
)
_FILE = Row(
    m.FileInfo,
    (
        ("filename", Text(1000, raw=True)),  # whatever it is, the session is to say so in the build's record
        ("size", Integer()),
        ("sha256", _TAG),
        ("package_tag", _TAG),
        ("version_tag", _TAG),
        ("py_tag", _TAG),
        ("abi_tag", _TAG),
        ("platform_tag", _TAG),
        ("requires_python", Maybe(Text(1000))),
        ("dependencies", MapOf(Choice(DependencyTool), ListOf(Text(500), 1000), 3)),
        ("location", _TAG),
    ),
)
_REPORT = Table(
    m.BuildReport,
    {
        "token": ("token", _TOKEN),
        "reason": ("reason", Maybe(Choice(FailureReason, barred=frozenset({FailureReason.LOST})))),
        "detail": ("detail", Text(1000)),
        "peak_memory": ("peak_memory", Maybe(Integer())),
        "cpu_seconds": ("cpu_seconds", Maybe(Number())),
        "built_from": ("built_from", Maybe(_SHA256)),
        "built_with": ("built_with", MapOf(_TAG, _TAG, 1000)),
    },
    required=frozenset({"token"}),
)
_BUILT = Row(
    m.Built,
    (
        ("ok", Flag()),
        ("duration", Span(30 * _DAY, clamp=True)),
        ("log", Log(MAX_LOG)),
        ("files", ListOf(_FILE, MAX_FILES)),
    ),
    extra=("report", _REPORT),
)

#: name -> (message, form of its data; None: it has none). What a slave says.
SLAVE_MESSAGES: dict[str, tuple[type[m.SlaveMessage], Field | None]] = {
    "HELLO": (m.Hello, _HELLO),
    "IDLE": (m.Idle, _STATS),
    "BUSY": (m.Busy, _BusyRow()),
    "BUILT": (m.Built, _BUILT),
    "SENT": (m.Sent, None),
    "BYE": (m.Bye, None),
}
#: What a master says. (The same name never means two things.)
MASTER_MESSAGES: dict[str, tuple[type[m.MasterMessage], Field | None]] = {
    "ACK": (m.Ack, Row(m.Ack, (("slave_id", Integer()), ("index_url", Text(2000))))),
    "BUILD": (m.Build, Row(m.Build, (("package", _TAG), ("version", _TAG)), extra=("order", _OrderTable()))),
    "SLEEP": (m.Sleep, Flag()),
    "CONT": (m.Cont, None),
    "SEND": (m.Send, Text(1000, raw=True)),
    "DONE": (m.Done, None),
    "DIE": (m.Die, None),
}
#: Messages whose data is the value of one attribute: that attribute.
_SINGLE: dict[type[Any], str] = {m.Idle: "stats", m.Sleep: "paused", m.Send: "filename"}

_NAMES: dict[type[Any], tuple[str, Field | None]] = {
    kind: (name, form) for name, (kind, form) in (*SLAVE_MESSAGES.items(), *MASTER_MESSAGES.items())
}
_BARE = {name: cbor.dumps(name) for name, form in _NAMES.values() if form is None}


def encode(message: m.SlaveMessage | m.MasterMessage) -> bytes:
    """The message's bytes; LocalProtocolError for one that the other side would have to refuse."""
    name, form = _NAMES[type(message)]
    if form is None:
        return _BARE[name]
    single = _SINGLE.get(type(message))
    data = cbor.dumps([name, form.dump(getattr(message, single) if single else message, name)])
    if len(data) > cbor.MAX_MESSAGE:
        raise LocalProtocolError(f"{name} would take {len(data)} bytes")
    return data


def decode_from_slave(data: bytes) -> m.SlaveMessage:
    """What a slave sent; PeerError if it is none of its messages."""
    message: m.SlaveMessage = _decode(data, SLAVE_MESSAGES)
    if isinstance(message, m.Built) and message.report and message.ok != (message.report.reason is None):
        raise PeerError("BUILT gives a reason for a success, or none for a failure")
    return message


def decode_from_master(data: bytes) -> m.MasterMessage:
    """What a master sent; PeerError if it is none of its messages."""
    message: m.MasterMessage = _decode(data, MASTER_MESSAGES)
    return message


def _decode(data: bytes, messages: Mapping[str, tuple[type[Any], Field | None]]) -> Any:
    item = cbor.loads(data)
    bare = isinstance(item, str)
    name = item if bare else item[0] if isinstance(item, list) and len(item) == 2 else None
    if not isinstance(name, str) or name not in messages:
        raise PeerError(f"not a message: {repr(name)[:40] if isinstance(name, str) else 'wrong shape'}")
    kind, form = messages[name]
    if bare != (form is None):
        raise PeerError(f"{name} {'lacks its data' if bare else 'has data where none belongs'}")
    if form is None:
        return kind()
    value = form.load(item[1], name)
    return kind(value) if kind in _SINGLE else value


# The file channel: raw frames.

_DECIMAL = re.compile(rb"[0-9]{1,18}")


def encode_file(message: m.FileMessage) -> list[bytes]:
    """The message's frames."""
    match message:
        case m.FileHello(slave_id):
            return [b"HELLO", b"%d" % slave_id]
        case m.Fetch(offset, length):
            return [b"FETCH", b"%d" % offset, b"%d" % length]
        case m.Chunk(offset, data):
            return [b"CHUNK", b"%d" % offset, bytes(data)]
        case m.FileDone():
            return [b"DONE"]


def decode_file_from_slave(frames: Sequence[bytes | memoryview]) -> m.FileHello | m.Chunk:
    """What a slave sent on the file channel (without the identity frame); PeerError if it is none of its messages."""
    match list(frames):
        case [b"HELLO", slave_id]:
            return m.FileHello(_decimal(slave_id))
        case [b"CHUNK", offset, data] if len(data) <= MAX_CHUNK:
            return m.Chunk(_decimal(offset), data)
    raise _not_a_file_message(frames)


def decode_file_from_master(frames: Sequence[bytes]) -> m.Fetch | m.FileDone:
    """What a master sent on the file channel; PeerError if it is none of its messages."""
    match list(frames):
        case [b"FETCH", offset, length]:
            return m.Fetch(_decimal(offset), _decimal(length))
        case [b"DONE"]:
            return m.FileDone()
    raise _not_a_file_message(frames)


def _not_a_file_message(frames: Sequence[bytes | memoryview]) -> PeerError:
    start = bytes(frames[0][:20]) if frames else b""
    return PeerError(f"not a message of the file channel: {len(frames)} frames, the first {start!r}")


def _decimal(frame: bytes | memoryview) -> int:
    if not _DECIMAL.fullmatch(frame):
        raise PeerError(f"not a decimal number: {bytes(frame[:20])!r}")
    return int(frame)
