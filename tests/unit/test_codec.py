# SPDX-License-Identifier: BSD-3-Clause
"""The codec: what a 0.2x peer may rely on, round trips of every message, and any bytes from a hostile peer."""

import math
from datetime import datetime, timedelta, timezone
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from piwheels.errors import LocalProtocolError, PeerError
from piwheels.vocabulary import DependencyTool, FailureReason
from piwheels.wire import cbor, codec
from piwheels.wire import messages as m
from piwheels.wire.fields import cut
from tests import wire_samples as samples

few = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
more = settings(deadline=None, max_examples=400)

HOUR, MINUTES = cbor2.CBORTag(2001, [0, 10800, 0]), cbor2.CBORTag(2001, [0, 300, 0])
OLD_HELLO: list[Any] = [HOUR, MINUTES, "311", "cp311", "linux_armv7l", "pi", "Raspbian", "12", "a02082", "000012"]
MOMENT = cbor2.CBORTag(0, "2024-02-29T12:30:15.250000+00:00")
OLD_STATS: list[Any] = [MOMENT, 1, 2, 3, 4, 5, 6, 0.5, 40.0]
OLD_FILE: list[Any] = [
    "foo-1.0-py3-none-any.whl", 10, "ab" * 32, "foo", "1.0", "py3", "none", "any", None, {"apt": ["libc6"], "": ["x"]},
    "/simple",
]  # fmt: skip
OLD_BUILT: list[Any] = [True, cbor2.CBORTag(2001, [0, 9, 5]), "log", [OLD_FILE]]


def say(name: str, data: Any) -> bytes:
    """A message as any CBOR encoder would write it."""
    return bytes(cbor2.dumps([name, data]))


def replaced(items: list[Any], index: int, item: Any) -> list[Any]:
    return [*items[:index], item, *items[index + 1 :]]


class TestRoundTrip:
    @few
    @given(samples.slave_messages)
    def test_what_a_slave_says(self, message: m.SlaveMessage) -> None:
        assert codec.decode_from_slave(codec.encode(message)) == message

    @few
    @given(samples.master_messages)
    def test_what_a_master_says(self, message: m.MasterMessage) -> None:
        assert codec.decode_from_master(codec.encode(message)) == message

    @few
    @given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1), st.binary(max_size=100))
    def test_the_file_channel(self, offset: int, length: int, data: bytes) -> None:
        for message in (m.FileHello(length), m.Chunk(offset, data)):
            assert codec.decode_file_from_slave(codec.encode_file(message)) == message
        for answer in (m.Fetch(offset, length), m.FileDone()):
            assert codec.decode_file_from_master(codec.encode_file(answer)) == answer


class TestUsualMessages:
    """Those that are told by a pattern pass the scan as well."""

    @few
    @given(st.from_regex(cbor._USUAL, fullmatch=True))
    def test_what_the_pattern_takes_the_scan_takes(self, data: bytes) -> None:
        cbor.scan(data)

    @few
    @given(samples.slave_messages)
    def test_it_takes_what_builders_say_most(self, message: m.SlaveMessage) -> None:
        usual = isinstance(message, m.Idle) or (isinstance(message, m.Busy) and not message.log)
        assert bool(cbor._USUAL.fullmatch(codec.encode(message))) == usual

    @pytest.mark.parametrize("moment", ["2024-02-29T12:30:15Z", "2024-02-29T12:30:15.250000+00:00"])
    def test_it_takes_what_old_builders_say(self, moment: str) -> None:
        data = say("IDLE", replaced(OLD_STATS, 0, cbor2.CBORTag(0, moment)))
        assert cbor._USUAL.fullmatch(data) and isinstance(codec.decode_from_slave(data), m.Idle)


class TestOldPeer:
    """Bytes that a 0.2x slave and its master exchange, written out from docs/protocol.rst."""

    def test_messages_without_data_are_bare_text(self) -> None:
        assert codec.encode(m.Bye()) == b"\x63BYE"
        assert codec.encode(m.Done()) == b"\x64DONE"
        assert codec.decode_from_slave(b"\x64SENT") == m.Sent()

    def test_build_has_two_elements(self) -> None:
        assert codec.encode(m.Build("numpy", "1.14.0")) == b"\x82\x65BUILD\x82\x65numpy\x661.14.0"

    def test_other_answers(self) -> None:
        assert codec.encode(m.Sleep(True)) == b"\x82\x65SLEEP\xf5"
        assert codec.encode(m.Send("a.whl")) == b"\x82\x64SEND\x65a.whl"
        assert codec.encode(m.Ack(7, "http://x")) == b"\x82\x63ACK\x82\x07\x68http://x"

    def test_hello_of_ten_elements(self) -> None:
        hello = codec.decode_from_slave(say("HELLO", OLD_HELLO))
        assert isinstance(hello, m.Hello) and hello.capabilities is None
        assert hello.build_timeout == timedelta(hours=3) and hello.board_serial == "000012"

    def test_idle_and_busy(self) -> None:
        idle = codec.decode_from_slave(say("IDLE", OLD_STATS))
        assert isinstance(idle, m.Idle) and idle.stats.now == samples.NOW and idle.stats.swap_free == 6
        assert codec.decode_from_slave(say("BUSY", OLD_STATS)) == m.Busy(idle.stats)

    def test_moments_in_zulu_time_and_whole_numbers_for_floats(self) -> None:
        data = replaced(replaced(OLD_STATS, 0, cbor2.CBORTag(0, "2024-02-29T12:30:15.25Z")), 7, 2)
        idle = codec.decode_from_slave(say("IDLE", data))
        assert isinstance(idle, m.Idle) and idle.stats.now == samples.NOW and idle.stats.load_average == 2.0

    @pytest.mark.parametrize("nothing", [None, cbor2.CBORTag(2002, None)], ids=["null", "tag 2002"])
    def test_built_with_no_requires_python(self, nothing: Any) -> None:
        data = replaced(OLD_BUILT, 3, [replaced(OLD_FILE, 8, nothing)])
        built = codec.decode_from_slave(say("BUILT", data))
        assert isinstance(built, m.Built) and built.report is None
        assert built.files[0].requires_python is None
        assert built.files[0].dependencies == {DependencyTool.APT: ("libc6",), DependencyTool.NONE: ("x",)}

    def test_a_clock_that_was_set_back_does_not_cost_the_build(self) -> None:
        data = replaced(OLD_BUILT, 1, cbor2.CBORTag(2001, [-1, 86000, 0]))
        built = codec.decode_from_slave(say("BUILT", data))
        assert isinstance(built, m.Built) and built.duration == timedelta(0)


class TestExtensions:
    def test_order_on_the_wire(self) -> None:
        _, (_, _, order) = cbor2.loads(codec.encode(m.Build("foo", "1.0", samples.ORDER)))
        assert order == {
            "token": samples.TOKEN,
            "target": "bookworm-armhf",
            "sdist": {
                "name": "foo-1.0.tar.gz",
                "url": "https://files.example.org/foo-1.0.tar.gz",
                "sha256": "ab" * 32,
                "size": 1234,
            },
            "time": 3600,
            "memory": 0,
        }

    def test_keys_of_a_newer_peer_are_ignored(self) -> None:
        data = [*OLD_HELLO, {"protocol": 3, "slave": "piwheels 9", "resume": None, "features": [], "colour": [1, {}]}]
        hello = codec.decode_from_slave(say("HELLO", data))
        assert isinstance(hello, m.Hello) and hello.capabilities == m.Capabilities(3, "piwheels 9")

    def test_an_empty_live_log_is_not_sent(self) -> None:
        assert len(cbor2.loads(codec.encode(m.Busy(samples.STATS)))[1]) == 9
        assert len(cbor2.loads(codec.encode(m.Busy(samples.STATS, "x")))[1]) == 10

    def test_a_live_log_keeps_its_end(self) -> None:
        busy = codec.decode_from_slave(codec.encode(m.Busy(samples.STATS, "é" * m.MAX_LIVE_LOG + "end")))
        assert isinstance(busy, m.Busy) and busy.log.endswith("é" * (m.MAX_LIVE_LOG - 3) + "end")

    def test_a_log_too_long_to_send_loses_its_middle(self) -> None:
        log = "first\n" + "\x00\x1b[1m é\n" * 3_000_000 + "last\n"
        message = m.Built(False, timedelta(1), log, ())
        data = codec.encode(message)
        assert len(data) < cbor.MAX_MESSAGE
        built = codec.decode_from_slave(data)
        assert isinstance(built, m.Built) and built.log.startswith("first\n") and built.log.endswith("last\n")
        assert "left out" in built.log

    @few
    @given(st.text(max_size=200), st.integers(60, 300))
    def test_cut_fits_and_keeps_short_texts(self, text: str, longest: int) -> None:
        short = cut(text, longest)
        size = len(text.encode("utf-8", "replace"))
        assert len(short.encode()) <= longest
        if size <= longest:
            assert short == text.encode("utf-8", "replace").decode()

    def test_a_log_with_bytes_that_were_no_text_can_be_sent(self) -> None:
        built = codec.decode_from_slave(codec.encode(m.Built(False, timedelta(1), "a\udcffb", ())))
        assert isinstance(built, m.Built) and built.log == "a?b"


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "two items": b"\x63BYE\x63BYE",
    "junk after": b"\x63BYE\x00",
    "unknown name": b"\x63FOO",
    "a master's message": b"\x64CONT",
    "data where none belongs": say("BYE", None),
    "data missing": b"\x65HELLO",
    "three parts": bytes(cbor2.dumps(["IDLE", OLD_STATS, 1])),
    "name not text": bytes(cbor2.dumps([1, OLD_STATS])),
    "a map": bytes(cbor2.dumps({"IDLE": OLD_STATS})),
    "a number": b"\x01",
    "null": b"\xf6",
    "too few statistics": say("IDLE", OLD_STATS[:8]),
    "too many statistics": say("IDLE", [*OLD_STATS, "log"]),
    "bool for a number": say("IDLE", replaced(OLD_STATS, 1, True)),
    "negative size": say("IDLE", replaced(OLD_STATS, 1, -1)),
    "huge size": say("IDLE", replaced(OLD_STATS, 1, 2**63)),
    "float for a size": say("IDLE", replaced(OLD_STATS, 1, 1.0)),
    "not a number": say("IDLE", replaced(OLD_STATS, 7, math.nan)),
    "infinite load": say("IDLE", replaced(OLD_STATS, 7, math.inf)),
    "moment as text": say("IDLE", replaced(OLD_STATS, 0, "2024-02-29T12:30:15Z")),
    "moment of nonsense": say("IDLE", replaced(OLD_STATS, 0, cbor2.CBORTag(0, "yesterday"))),
    "moment of number": say("IDLE", replaced(OLD_STATS, 0, cbor2.CBORTag(0, 5))),
    "moment that is none": say("IDLE", replaced(OLD_STATS, 0, cbor2.CBORTag(0, "2024-13-45T99:99:99Z"))),
    "time-out of zero": say("HELLO", replaced(OLD_HELLO, 1, cbor2.CBORTag(2001, [0, 0, 0]))),
    "time-out of years": say("HELLO", replaced(OLD_HELLO, 1, cbor2.CBORTag(2001, [900, 0, 0]))),
    "time-out beyond timedelta": say("HELLO", replaced(OLD_HELLO, 1, cbor2.CBORTag(2001, [10**12, 0, 0]))),
    "time-out of floats": say("HELLO", replaced(OLD_HELLO, 1, cbor2.CBORTag(2001, [0, 1.5, 0]))),
    "time-out of two parts": say("HELLO", replaced(OLD_HELLO, 1, cbor2.CBORTag(2001, [0, 1]))),
    "time-out without tag": say("HELLO", replaced(OLD_HELLO, 1, 300)),
    "label with newline": say("HELLO", replaced(OLD_HELLO, 5, "a\nb")),
    "label with escape": say("HELLO", replaced(OLD_HELLO, 5, "\x1b[2J")),
    "long label": say("HELLO", replaced(OLD_HELLO, 5, "x" * 101)),
    "platform that is a path": say("HELLO", replaced(OLD_HELLO, 4, "../linux")),
    "Python that is none": say("HELLO", replaced(OLD_HELLO, 2, "3.11")),
    "capabilities that are a list": say("HELLO", [*OLD_HELLO, ["protocol", 2]]),
    "capabilities without protocol": say("HELLO", [*OLD_HELLO, {}]),
    "resume token of another form": say("HELLO", [*OLD_HELLO, {"protocol": 2, "resume": "../../x"}]),
    "twelve elements": say("HELLO", [*OLD_HELLO, {"protocol": 2}, 1]),
    "ok that is a number": say("BUILT", replaced(OLD_BUILT, 0, 1)),
    "log that is a list": say("BUILT", replaced(OLD_BUILT, 2, [])),
    "files that are null": say("BUILT", replaced(OLD_BUILT, 3, None)),
    "too many files": say("BUILT", replaced(OLD_BUILT, 3, [OLD_FILE] * 101)),
    "unknown tool": say("BUILT", replaced(OLD_BUILT, 3, [replaced(OLD_FILE, 9, {"snap": ["x"]})])),
    "report without token": say("BUILT", [*OLD_BUILT, {"reason": None}]),
    "reason that is the master's": say("BUILT", [False, *OLD_BUILT[1:], {"token": samples.TOKEN, "reason": "lost"}]),
    "reason for a success": say("BUILT", [*OLD_BUILT, {"token": samples.TOKEN, "reason": "disk"}]),
    "no reason for a failure": say("BUILT", [False, *OLD_BUILT[1:], {"token": samples.TOKEN}]),
    "text that is not UTF-8": b"\x82\x64IDLE\x62\xff\xfe",
    "a name that is not UTF-8": b"\x63\xff\xfe\xfd",
    "byte string": say("IDLE", b"x"),
    "undefined": b"\x82\x64IDLE\xf7",
    "simple value": b"\x82\x64IDLE\xf8\xff",
    "a break alone": b"\xff",
    "indefinite array": b"\x9f\x64IDLE\xff",
    "indefinite text": b"\x7f\x63BYE\xff",
    "reserved length": b"\x1c",
    "a big number": b"\xc2\x49" + b"\x01" + b"\x00" * 8,
    "a regular expression": b"\xd8\x23\x63(a)",
    "a shared reference": b"\xd8\x1c\x81\xd8\x1d\x00",
    "claimed length of text": b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
    "claimed length of array": b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff",
    "claimed length of map": b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
    "deep arrays": b"\x81" * 1_000_000 + b"\x00",
    "deep tags": b"\xd9\x07\xd1" * 100_000 + b"\x00",
    "wide array": b"\x9a\x00\x0f\x42\x40" + b"\x00" * 1_000_000,
    "map with a key that is none": b"\x82\x64IDLE\xa1\x01\x01",
    "map with a list for key": b"\x82\x64IDLE\xa1\x81\x01\x01",
    "too long": b"\x7a\x01\x00\x00\x00" + b"x" * 2**24,
}  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
    def test_one_clear_line(self, data: bytes) -> None:
        with pytest.raises(PeerError) as caught:
            codec.decode_from_slave(data)
        assert 0 < len(str(caught.value)) < 200 and str(caught.value).isprintable()

    @pytest.mark.parametrize(
        ("where", "value"),
        [
            ("sdist_name", "../evil.tar.gz"),
            ("sdist_name", "/etc/passwd"),
            ("sdist_name", ".bashrc"),
            ("sdist_name", "-rf"),
            ("sdist_name", "a\x00b"),
            ("sdist_url", "file:///etc/passwd"),
            ("sdist_url", "https://example.org/a b"),
            ("sdist_sha256", "AB" * 32),
            ("token", "short"),
        ],
    )
    def test_an_order_that_is_none(self, where: str, value: str) -> None:
        order = cbor2.loads(codec.encode(m.Build("foo", "1.0", samples.ORDER)))
        inside = order[1][2]["sdist"] if where.startswith("sdist") else order[1][2]
        assert where.removeprefix("sdist_") in inside
        inside[where.removeprefix("sdist_")] = value
        with pytest.raises(PeerError):
            codec.decode_from_master(bytes(cbor2.dumps(order)))

    @pytest.mark.parametrize(
        "message",
        [
            m.Ack(-1, "x"),
            m.Send("x" * 2000),
            m.Build("a\n", "1"),
            m.Idle(m.Stats(datetime(2024, 1, 1), *[1] * 6, 0.0, 0.0)),  # noqa: DTZ001
            m.Built(False, timedelta(0), "", (), m.BuildReport(samples.TOKEN, FailureReason.LOST)),
            m.Built(True, timedelta(0), "", (samples.file_info(),) * 101),
            m.Sleep(1),  # type: ignore[arg-type]
        ],
    )
    def test_our_own_are_held_to_the_same_rules(self, message: Any) -> None:
        with pytest.raises(LocalProtocolError):
            codec.encode(message)

    def test_any_offset_from_utc_is_a_moment(self) -> None:
        stats = m.Stats(datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))), *[1] * 6, 0.0, 0.0)
        assert codec.decode_from_slave(codec.encode(m.Idle(stats))) == m.Idle(stats)

    @pytest.mark.parametrize(
        "frames",
        [
            [],
            [b""],
            [b"HELLO"],
            [b"HELLO", b""],
            [b"HELLO", b"-1"],
            [b"HELLO", b"1_0"],
            [b"HELLO", "٣".encode()],
            [b"HELLO", b"1" * 5000],
            [b"HELLO", b"1", b"2"],
            [b"CHUNK", b"0"],
            [b"CHUNK", b" 1", b"x"],
            [b"CHUNK", b"1e3", b"x"],
            [b"CHUNK", b"0", b"x" * (codec.MAX_CHUNK + 1)],
            [b"FETCH", b"0", b"1"],
            [b"DONE"],
        ],
    )
    def test_file_channel(self, frames: list[bytes]) -> None:
        with pytest.raises(PeerError):
            codec.decode_file_from_slave(frames)


def survives(data: bytes) -> None:
    """Decoding gives a message or a PeerError; anything else fails the test."""
    for decode in (codec.decode_from_slave, codec.decode_from_master):
        try:
            message = decode(data)
        except PeerError as error:
            assert str(error)
        else:
            codec.encode(message)  # what is accepted can be said


class TestFuzz:
    @more
    @given(st.binary(max_size=200))
    @example(b"\xd8\x23\x64(((a")
    def test_random_bytes(self, data: bytes) -> None:
        survives(data)

    @more
    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
        | st.builds(cbor2.CBORTag, st.sampled_from([0, 1, 2, 28, 35, 258, 2001, 2002]), inner),
        max_leaves=12,
    ), st.sampled_from([*codec.SLAVE_MESSAGES, *codec.MASTER_MESSAGES]))  # fmt: skip
    def test_any_data_for_any_name(self, data: Any, name: str) -> None:
        survives(say(name, data))

    @settings(more, suppress_health_check=[HealthCheck.too_slow])
    @given(st.one_of(samples.slave_messages, samples.master_messages), st.data())
    def test_damaged_messages(self, message: Any, data: st.DataObject) -> None:
        good = bytearray(codec.encode(message))
        for _ in range(data.draw(st.integers(1, 4))):
            index = data.draw(st.integers(0, len(good)))
            change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
            if change == "flip" and index < len(good):
                good[index] = data.draw(st.integers(0, 255))
            elif change == "insert":
                good[index:index] = data.draw(st.binary(min_size=1, max_size=4))
            else:
                del good[index : index + data.draw(st.integers(1, 8))]
        survives(bytes(good))

    @more
    @given(
        st.lists(st.binary(max_size=12) | st.sampled_from([b"HELLO", b"CHUNK", b"FETCH", b"DONE", b"12"]), max_size=5)
    )
    def test_frames(self, frames: list[bytes]) -> None:
        for decode in (codec.decode_file_from_slave, codec.decode_file_from_master):
            try:
                message = decode(frames)
            except PeerError as error:
                assert str(error)
            else:
                assert isinstance(message, m.FileMessage)
