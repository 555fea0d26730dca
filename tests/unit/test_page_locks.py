# SPDX-License-Identifier: BSD-3-Clause
"""Locks that a process holds until it dies: nobody else has them meanwhile, and afterwards anybody."""

import subprocess
import sys
from pathlib import Path

import pytest

from piwheels.errors import UnavailableError
from piwheels.master.page_locks import FILE, PageLocks
from piwheels.vocabulary import PageKind

HOLDER = """
import sys
from pathlib import Path
from piwheels.master.page_locks import PageLocks
from piwheels.vocabulary import PageKind
with PageLocks(Path(sys.argv[1])).hold(PageKind.PROJECT, ["one", "two"]) as held:
    print(sorted(held), flush=True)
    sys.stdin.read()
"""


def test_held_by_a_process_until_it_dies(tmp_path: Path) -> None:
    locks = PageLocks(tmp_path)
    with locks.hold(PageKind.PROJECT, ["two"]) as mine:
        assert mine == {"two"}
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "['one']\n"
            with locks.hold(PageKind.PROJECT, ["one", "three"]) as free:
                assert free == {"three"}
            with locks.hold(PageKind.ROOT, ["one"]) as free:  # another kind's
                assert free == {"one"}
            holder.kill()
    with locks.hold(PageKind.PROJECT, ["one", "two", "three"]) as free:
        assert free == {"one", "two", "three"}


def test_no_place_for_locks(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(UnavailableError, match=r"cannot lock pages with .*publish\.lock: Is a directory"):
        PageLocks(tmp_path)
