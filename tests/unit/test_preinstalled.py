# SPDX-License-Identifier: BSD-3-Clause
"""Lists of Debian packages, as programs write them and as people do."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piwheels.master import preinstalled
from piwheels.master.preinstalled import packages
from piwheels.master.targets import TargetError

DPKG_L = """\
Desired=Unknown/Install/Remove/Purge/Hold
| Status=Not/Inst/Conf-files/Unpacked/halF-conf/Half-inst/trig-aWait/Trig-pend
|/ Err?=(none)/Reinst-required (Status,Err: uppercase=bad)
||/ Name           Version             Architecture Description
+++-==============-===================-============-=================================
ii  adduser        3.134               all          add and remove users and groups
hi  libssl3:armhf  3.0.15-1~deb12u1    armhf        Secure Sockets Layer toolkit
rc  libold1:armhf  1.0                 armhf        removed, its configuration is left
un  libnone        <none>              <none>       (no description available)
"""
APT = """\
Listing... Done
adduser/stable,now 3.134 all [installed]
libssl3/stable-security,now 3.0.15-1~deb12u1 armhf [installed,automatic]
libold1/now 1.0 armhf [residual-config]
"""
STATUS = """\
Package: adduser
Status: install ok installed
Priority: important

Package: libold1
Status: deinstall ok config-files

Package: libssl3
Essential: no
Status: hold ok installed
Description: x
 Status: of something else
"""


@pytest.mark.parametrize(
    "text",
    [
        "libssl3\nadduser\n",
        "# mine\nadduser, libssl3:armhf  # both\n\nadduser\n",
        DPKG_L,
        APT,
        STATUS,
        "adduser\t3.134\nlibold1\t\nlibssl3:armhf\t3.0.15-1~deb12u1\n",
        "adduser\t\t\tinstall\nlibold1\t\tdeinstall\nlibssl3:armhf\t\thold\n",
    ],
)
def test_however_they_are_listed(text: str) -> None:
    assert packages(text, name="x") == ("adduser", "libssl3")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "list.txt: no package is listed there"),
        ("# nothing\n", "list.txt: no package is listed there"),
        ("libc6\n\nLibFoo\n", "list.txt:3: 'LibFoo' is not the name of a Debian package"),
        ("../etc\n", "list.txt:1: '../etc' is not the name"),
        (DPKG_L + "ii" * 3 + "\n" * 20 + "what is this\n", "list.txt:"),
        ("adduser\t3.134\n" * 30 + "<html>\n", "list.txt:31: '<html>' is not a line of such a list"),
    ],
)
def test_what_makes_no_sense_is_named(text: str, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        packages(text, name="list.txt")
    assert str(caught.value).startswith(words)


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preinstalled, "MAX_PREINSTALLED", 2)
    assert packages("aa bb aa", name="x") == ("aa", "bb")
    with pytest.raises(TargetError, match="x: 3 packages are more than the 2 that are taken"):
        packages("aa bb cc", name="x")


@given(st.text("abi \t\n:/#.,[]PackgeStus0", max_size=200) | st.text(max_size=200))
def test_no_text_crashes_the_reader(text: str) -> None:
    with contextlib.suppress(TargetError):
        assert packages(text, name="x")
