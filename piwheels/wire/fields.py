# SPDX-License-Identifier: BSD-3-Clause
"""The kinds of field that messages are declared with: each loads a value off the wire and dumps one onto it.

Owns type, range and form of single values; must not know which message they are in. Loading is strict (a bool is no
int, NaN is no number) and raises PeerError; dumping holds our own values to the same rules and raises
LocalProtocolError, so that nothing leaves which the other side would refuse.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

import cbor2

from piwheels.errors import LocalProtocolError, PeerError
from piwheels.wire.cbor import TAG_MOMENT, TAG_NO_DATA, TAG_SPAN

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Field(Protocol):
    """One value's form on the wire."""

    def load(self, data: Any, where: str) -> Any:
        """The value that ``data``, as CBOR was decoded, stands for. PeerError, naming ``where``, if none."""

    def dump(self, value: Any, where: str) -> Any:
        """What CBOR is to encode for this value. LocalProtocolError, naming ``where``, if it may not be sent."""


class _Symmetric(ABC):
    """A field whose value is the same on the wire."""

    @abstractmethod
    def fault(self, value: Any) -> str | None:
        """What is wrong with the value, or None."""

    def load(self, data: Any, where: str) -> Any:
        fault = self.fault(data)
        if fault:
            raise PeerError(f"{where} {fault}")
        return data

    def dump(self, value: Any, where: str) -> Any:
        fault = self.fault(value)
        if fault:
            raise LocalProtocolError(f"{where} {fault}")
        return value


@dataclass(frozen=True, slots=True)
class Text(_Symmetric):
    """Text of bounded length; without control characters unless ``raw``."""

    longest: int  #: characters
    pattern: re.Pattern[str] | None = None  #: to be matched whole
    raw: bool = False

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, str):
            return "is not text"
        if len(value) > self.longest:
            return f"is longer than {self.longest} characters"
        if not self.raw and _CONTROL.search(value):
            return "holds control characters"
        if self.pattern and not self.pattern.fullmatch(value):
            return f"has not the form {self.pattern.pattern}"
        return None


@dataclass(frozen=True, slots=True)
class Log:
    """Text that a build wrote: any characters, cut in the middle when too long to send."""

    longest: int  #: bytes of UTF-8 when sent; as many characters when received

    def load(self, data: Any, where: str) -> str:
        return str(Text(self.longest, raw=True).load(data, where))

    def dump(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise LocalProtocolError(f"{where} is not text")
        return cut(value, self.longest)


@dataclass(frozen=True, slots=True)
class Flag(_Symmetric):
    """True or false."""

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else "is not true or false"


@dataclass(frozen=True, slots=True)
class Integer(_Symmetric):
    """A whole number within bounds."""

    least: int = 0
    most: int = 2**63 - 1  #: what a PostgreSQL bigint holds

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return "is not a whole number"
        return None if self.least <= value <= self.most else f"is not between {self.least} and {self.most}"


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within bounds, as a float; whole numbers pass for one."""

    most: float = 1e9

    def load(self, data: Any, where: str) -> float:
        return self._check(data, where, PeerError)

    def dump(self, value: Any, where: str) -> float:
        return self._check(value, where, LocalProtocolError)

    def _check(self, value: Any, where: str, error: type[Exception]) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise error(f"{where} is not a number")
        if not -self.most <= value <= self.most or math.isnan(value):
            raise error(f"{where} is not between {-self.most:g} and {self.most:g}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time: tag 2001 around [days, seconds, microseconds]."""

    most: timedelta
    least: timedelta = timedelta(0)
    clamp: bool = False  #: take one below ``least`` for it: a builder's clock may have been set back during a build

    def load(self, data: Any, where: str) -> timedelta:
        if not _is_tag(data, TAG_SPAN) or not isinstance(data.value, list | tuple) or len(data.value) != 3:
            raise PeerError(f"{where} is not a length of time")
        days, seconds, microseconds = data.value
        Integer(-1000, 1000).load(days, f"{where}'s days")
        Integer(-86_400, 86_400).load(seconds, f"{where}'s seconds")
        Integer(-1_000_000, 1_000_000).load(microseconds, f"{where}'s microseconds")
        span = timedelta(days, seconds, microseconds)
        if self.clamp:
            span = max(span, self.least)
        if not self.least <= span <= self.most:
            raise PeerError(f"{where} is not between {self.least} and {self.most}")
        return span

    def dump(self, value: Any, where: str) -> Any:
        if not isinstance(value, timedelta) or not self.least <= value <= self.most:
            raise LocalProtocolError(f"{where} is not a length of time between {self.least} and {self.most}")
        return cbor2.CBORTag(TAG_SPAN, [value.days, value.seconds, value.microseconds])


@dataclass(frozen=True, slots=True)
class Moment:
    """A date and time with its offset from UTC: tag 0, which cbor2 reads by itself."""

    def load(self, data: Any, where: str) -> datetime:
        if not isinstance(data, datetime) or data.utcoffset() is None:
            raise PeerError(f"{where} is not a date and time with its offset from UTC")
        return data

    def dump(self, value: Any, where: str) -> Any:
        if not isinstance(value, datetime) or value.utcoffset() is None:
            raise LocalProtocolError(f"{where} is not a date and time with its offset from UTC")
        return cbor2.CBORTag(TAG_MOMENT, value.isoformat())


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value, or null. Null in a tag 2002 ("no data nested in other data") is understood too."""

    field: Field

    def load(self, data: Any, where: str) -> Any:
        if data is None or (_is_tag(data, TAG_NO_DATA) and data.value is None):
            return None
        return self.field.load(data, where)

    def dump(self, value: Any, where: str) -> Any:
        return None if value is None else self.field.dump(value, where)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an enum's values, some of which may be ours alone to use."""

    enum: type[StrEnum]
    barred: frozenset[StrEnum] = frozenset()

    def load(self, data: Any, where: str) -> StrEnum:
        member = next((member for member in self.enum if isinstance(data, str) and member == data), None)
        if member is None or member in self.barred:
            raise PeerError(f"{where} is none of the words it may be")
        return member

    def dump(self, value: Any, where: str) -> str:
        member = next((member for member in self.enum if member == value), None)
        if member is None or member in self.barred:
            raise LocalProtocolError(f"{where} may not be {value!r}")
        return str(member)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind, as a tuple."""

    field: Field
    longest: int

    def load(self, data: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(data, list | tuple) or len(data) > self.longest:
            raise PeerError(f"{where} is not a list of at most {self.longest}")
        return tuple(self.field.load(item, f"{where}[{index}]") for index, item in enumerate(data))

    def dump(self, value: Any, where: str) -> list[Any]:
        if len(value) > self.longest:
            raise LocalProtocolError(f"{where} has more than {self.longest} items")
        return [self.field.dump(item, f"{where}[{index}]") for index, item in enumerate(value)]


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map whose keys are of one kind and whose values of another."""

    key: Field
    field: Field
    longest: int

    def load(self, data: Any, where: str) -> Mapping[Any, Any]:
        if not isinstance(data, Mapping) or len(data) > self.longest:
            raise PeerError(f"{where} is not a map of at most {self.longest}")
        return MappingProxyType(
            {
                self.key.load(key, f"{where}'s key"): self.field.load(item, f"{where}'s item")
                for key, item in data.items()
            }
        )

    def dump(self, value: Any, where: str) -> dict[Any, Any]:
        if len(value) > self.longest:
            raise LocalProtocolError(f"{where} has more than {self.longest} items")
        return {
            self.key.dump(key, f"{where}'s key"): self.field.dump(item, f"{where}'s item")
            for key, item in value.items()
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A dataclass as an array: its attributes by position. ``extra`` may follow: an extension, absent when None."""

    make: type[Any]
    fields: tuple[tuple[str, Field], ...]
    extra: tuple[str, Field] | None = None

    def load(self, data: Any, where: str) -> Any:
        least, most = len(self.fields), len(self.fields) + (self.extra is not None)
        if not isinstance(data, list | tuple) or not least <= len(data) <= most:
            raise PeerError(f"{where} has not {least if least == most else f'{least} or {most}'} parts")
        pairs = [*self.fields, self.extra] if self.extra and len(data) == most else self.fields
        values = {name: kind.load(item, f"{where}'s {name}") for (name, kind), item in zip(pairs, data, strict=True)}
        return self.make(**values)

    def dump(self, value: Any, where: str) -> list[Any]:
        row = [kind.dump(getattr(value, name), f"{where}'s {name}") for name, kind in self.fields]
        if self.extra and getattr(value, self.extra[0]) is not None:
            row.append(self.extra[1].dump(getattr(value, self.extra[0]), f"{where}'s {self.extra[0]}"))
        return row


@dataclass(frozen=True, slots=True)
class Table:
    """A dataclass as a map: key on the wire -> (attribute, kind). Keys that a newer peer adds are ignored; one that
    is missing leaves the attribute at its default, if it has one. None is not sent."""

    make: type[Any]
    fields: Mapping[str, tuple[str, Field]]
    required: frozenset[str] = field(default=frozenset())

    def load(self, data: Any, where: str) -> Any:
        if not isinstance(data, Mapping):
            raise PeerError(f"{where} is not a map")
        missing = self.required - data.keys()
        if missing:
            raise PeerError(f"{where} lacks {min(missing)}")
        return self.make(
            **{
                name: kind.load(data[key], f"{where}'s {key}")
                for key, (name, kind) in self.fields.items()
                if key in data
            }
        )

    def dump(self, value: Any, where: str) -> dict[str, Any]:
        values = {key: (getattr(value, name), kind) for key, (name, kind) in self.fields.items()}
        return {key: kind.dump(item, f"{where}'s {key}") for key, (item, kind) in values.items() if item is not None}


def cut(text: str, longest: int) -> str:
    """The text as it can be encoded, its middle left out if it is longer than so many bytes."""
    data = text.encode("utf-8", "replace")  # a lone surrogate becomes a question mark
    if len(data) <= longest:
        return data.decode("utf-8")
    gap = b"\n[... %d bytes left out ...]\n" % (len(data) - longest)
    keep = max(longest - len(gap), 0)
    head, tail = data[: keep // 2], data[len(data) - (keep - keep // 2) :]
    return (head.decode("utf-8", "ignore") + gap.decode("ascii") + tail.decode("utf-8", "ignore"))[:longest]


def _is_tag(data: Any, number: int) -> bool:
    return isinstance(data, cbor2.CBORTag) and data.tag == number
