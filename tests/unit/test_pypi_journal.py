# SPDX-License-Identifier: BSD-3-Clause
"""The journal's answers, good and bad: no XML whatever does worse than being refused in one line."""

import xmlrpc.client
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.errors import UpstreamError
from piwheels.pypi import journal
from piwheels.pypi.journal import (
    Event,
    JournalRefused,
    call,
    read_events,
    read_serial,
    read_serials,
    usual_events,
)
from piwheels.pypi.model import UpstreamUnusable
from piwheels.pypi.weather import UpstreamAway

GOOD = ["spam", "1.0", 1725534675, "new release", 24891358]


def answer(value: Any) -> bytes:
    return xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode()


def fault(code: int, words: str) -> bytes:
    return xmlrpc.client.dumps(xmlrpc.client.Fault(code, words)).encode()


def test_a_call() -> None:
    params, method = xmlrpc.client.loads(call("changelog_since_serial", 24891357))
    assert (params, method) == ((24891357,), "changelog_since_serial")


def test_a_serial_that_xml_rpc_cannot_express() -> None:
    assert call("changelog_since_serial", journal.MAX_SERIAL)
    with pytest.raises(JournalRefused, match="as high as"):
        call("changelog_since_serial", journal.MAX_SERIAL + 1)


def test_events() -> None:
    found = read_events(answer([GOOD, ["Ham", None, 5, "create", 7]]))
    assert found.events == (
        Event("spam", "1.0", 1725534675, "new release", 24891358),
        Event("Ham", None, 5, "create", 7),
    )
    assert found.refused == 0
    assert read_events(answer([])).events == ()


def test_strings_need_no_type() -> None:
    plain = answer([GOOD]).replace(b"<string>", b"").replace(b"</string>", b"")
    assert read_events(plain).events[0].name == "spam"


@pytest.mark.parametrize(
    ("place", "value", "seen"),
    [
        (0, None, ""),
        (0, 7, ""),
        (0, {"a": 1}, ""),
        (1, 7, None),
        (1, ["1.0"], None),
        (2, None, 0),
        (2, True, 0),
        (2, "yesterday", 0),
        (3, None, ""),
        (3, "x" * 10_000, "x" * 1000),
    ],
)
def test_an_event_keeps_its_serial_whatever_else_is_wrong_with_it(place: int, value: Any, seen: object) -> None:
    [event] = read_events(answer([[*GOOD[:place], value, *GOOD[place + 1 :]]])).events
    assert (event.name, event.version, event.time, event.action)[place] == seen
    assert event.serial == 24891358


@pytest.mark.parametrize(
    "entry",
    [None, "spam", 7, {}, [], GOOD[:4], [*GOOD[:4], None], [*GOOD[:4], "24891358"], [*GOOD[:4], True], [*GOOD[:4], -1]],
)
def test_what_has_no_serial_is_left_out_and_counted(entry: Any) -> None:
    found = read_events(answer([GOOD, entry, GOOD]))
    assert (len(found.events), found.refused) == (2, 1)


def test_a_serial_beyond_reason_would_end_the_journal_for_us() -> None:
    huge = answer([GOOD]).replace(b"<int>24891358</int>", b"<i8>9223372036854775807</i8>")
    assert read_events(huge).refused == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff\xfe",
        b"<!DOCTYPE html><html><body>All is well</body></html>",
        b"<html><head><title>All is well</title></head><body><br></body></html>",
        b"<html><head><title>All is well</title></head><body></body></html>",
        b'{"meta": {}}',
        answer([GOOD])[:-40],
        answer([GOOD]) + b"x",
        answer([GOOD]).replace(b"24891358", b"many"),
        answer([GOOD]).replace(b"24891358", b"9" * 5000),
        answer([GOOD]).replace(b"spam", b"sp&#0;am"),
        answer([GOOD]).replace(b"spam", b"\xff"),
        answer([GOOD]).replace(b"string>", b"strong>"),
        answer({"a": 1}),
        answer("spam"),
        answer(5),
        answer(None),
        xmlrpc.client.dumps(([], []), "twice").encode(),
        b"<methodResponse><params><param/></params></methodResponse>",
        b"<methodResponse><fault><value><string>x</string></value></fault></methodResponse>",
        b"<methodResponse><params><param><value><struct><member/></struct></value></param></params></methodResponse>",
        b"</array>",
        b"<methodResponse><params><param></array></param></params></methodResponse>",
        b"<methodResponse><params><param><value><bigdecimal>x</bigdecimal></value></param></params></methodResponse>",
        b"<a>" * 100_000,
        b"<value>" * 100_000,
        b"<array>" * 100_000,
    ],
)
def test_what_is_no_list_of_events(body: bytes) -> None:
    with pytest.raises(UpstreamUnusable) as caught:
        read_events(body)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<methodResponse><params><param><value><string>&b;</string></value></param></params></methodResponse>"""

OUTSIDE = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>
<methodResponse><params><param><value><int>&a;</int></value></param></params></methodResponse>"""


@pytest.mark.parametrize(
    "body", [BOMB, OUTSIDE, b'<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd"><x/>', BOMB.decode().encode("utf-16")]
)
def test_declarations_are_refused(body: bytes) -> None:
    with pytest.raises(UpstreamUnusable):
        read_events(body)


def test_an_encoding_of_its_own_does_not_get_round_the_bounds() -> None:
    text = '<?xml version="1.0" encoding="cp037"?><methodResponse/>'
    with pytest.raises(UpstreamUnusable):
        read_events(text.encode("cp037"))


def test_too_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_EVENTS", 100)
    assert len(read_events(answer([GOOD] * 100)).events) == 100
    with pytest.raises(UpstreamUnusable, match=r"more than 100 events|too much"):
        read_events(answer([GOOD] * 101))
    with pytest.raises(UpstreamUnusable, match="more than 100 events"):
        read_events(answer([7] * 101))
    with pytest.raises(UpstreamUnusable, match="too much"):
        read_events(answer([GOOD, [[]] * 10_000]))


def test_a_megabyte_name_is_read_in_no_time() -> None:
    [event] = read_events(answer([["x" * 10_000_000, *GOOD[1:]]])).events
    assert event.serial == 24891358


@pytest.mark.parametrize(
    ("code", "words", "error"),
    [
        (-32500, "HTTPTooManyRequests: too many requests. Limit may reset in 17 seconds.", UpstreamAway),
        (-32500, "", UpstreamAway),
        (-32500, "RuntimeError: package_data is permanently deprecated", JournalRefused),
        (-32500, "RuntimeError: PyPI no longer supports 'changelog_since_serial'", JournalRefused),
        (-32601, "server error; requested method not found", JournalRefused),
        (1, "two\nlines\x7f" + "x" * 10_000, JournalRefused),
    ],
)
def test_faults(code: int, words: str, error: type[UpstreamError]) -> None:
    for read in (read_events, read_serial, read_serials):
        with pytest.raises(error) as caught:
            read(fault(code, words))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


def test_how_long_the_journal_asks_us_to_wait() -> None:
    def wait(words: str) -> float | None:
        with pytest.raises(UpstreamAway) as caught:
            read_serial(fault(-32500, words))
        return caught.value.retry_after

    assert wait("Limit may reset in 17 seconds.") == 17.0
    assert wait("Limit may reset in 999999 seconds.") == 3600.0
    assert wait("later") is None


def test_a_serial() -> None:
    assert read_serial(answer(24891357)) == 24891357
    for wrong in (None, "24891357", True, -1, [24891357], 1.5, datetime(2026, 1, 1)):  # noqa: DTZ001
        with pytest.raises(UpstreamUnusable):
            read_serial(answer(wrong))


def test_serials() -> None:
    found = read_serials(answer({"Spam": 5, "spam": 7, "ham_and.eggs": 3, "a b": 1, "": 1, "c": None, "d": "9"}))
    assert found == {"spam": 7, "ham-and-eggs": 3}
    with pytest.raises(UpstreamUnusable):
        read_serials(answer([["spam", 5]]))


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**31), 2**31 - 1), st.text(st.characters(codec="utf-8"))),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.text("ab"), inner, max_size=3)),
)


@given(st.lists(st.one_of(values, st.tuples(*[values] * 4, st.integers(0, 2**31 - 1)).map(list)), max_size=5))
def test_every_entry_is_an_event_or_counted(entries: list[Any]) -> None:
    text = xmlrpc.client.dumps((entries,), methodresponse=True, allow_none=True)
    try:
        found = read_events(text.encode())
    except UpstreamUnusable:  # control characters are no XML
        return
    assert len(found.events) + found.refused == len(entries)


@given(st.binary(max_size=60), st.integers(0, 300), st.integers(0, 300))
def test_no_bytes_do_worse_than_being_refused(junk: bytes, start: int, end: int) -> None:
    body = answer([GOOD])
    try:
        read_events(body[:start] + junk + body[min(start, end) :])
    except UpstreamError as error:
        assert str(error).isprintable()


# The short way and the long way have to come to the same.

texts = st.text(st.characters(codec="utf-8"), max_size=8)
whole = st.integers(0, 2**31 - 1)


def slowly(body: bytes) -> object:
    """What the parser makes of it."""
    try:
        return journal._value(body, most=10**6)
    except UpstreamError as error:
        return type(error)


@given(st.lists(st.tuples(texts, st.none() | texts, whole, texts, whole).map(list), max_size=4), st.booleans())
def test_usual_events_are_what_the_parser_finds(entries: list[Any], named: bool) -> None:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n' if named else "<?xml version='1.0'?>\n"
    text = xmlrpc.client.dumps((entries,), methodresponse=True, allow_none=True)
    body = head.encode() + text.partition("\n")[2].encode()
    short = usual_events(body)
    assert short is None or short == slowly(body)


def test_the_short_way_is_taken() -> None:
    entries = [GOOD, ["h\u00e4m", None, 5, "create", 7]]
    assert usual_events(answer(entries)) == entries
    assert usual_events(answer([])) == []


@pytest.mark.parametrize("wrong", ["a&b", "a<b", "a\tb", "\ufffe", "a]]>b"])
def test_what_xml_has_opinions_about_goes_the_long_way(wrong: str) -> None:
    assert usual_events(answer([[wrong, *GOOD[1:]]])) is None


TAGS = [
    b"<value>",
    b"</value>",
    b"<string>",
    b"</string>",
    b"<int>",
    b"</data>",
    b"<nil/>",
    b"<!--x-->",
    b"<!DOCTYPE x>",
]
ODD = [
    b"&amp;",
    b"]]>",
    b"\xff",
    b" ",
    b"\n",
    b"\r\n",
    b"7",
    b"-",
    b"\x7f",
    b"\xef\xbf\xbe",
    b"\xc0\x80",
    b"\xed\xa0\x80",
]
pieces = st.sampled_from([*TAGS, *ODD])


@given(st.lists(pieces, max_size=3).map(b"".join), st.integers(0, 400), st.integers(0, 12))
def test_whatever_goes_the_short_way_would_have_been_read_so(junk: bytes, start: int, left_out: int) -> None:
    body = answer([GOOD])
    body = body[:start] + junk + body[start + left_out :]
    short = usual_events(body)
    assert short is None or short == slowly(body)
