# SPDX-License-Identifier: BSD-3-Clause
"""Running loops beside one another, and ending them all."""

import asyncio
import time

import pytest

from piwheels.master import feed_apply
from piwheels.master.feed_apply import together


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_apply, "INSIST", 0.01)


async def deaf(times: int) -> None:
    """Loses so many cancellations, as wait_for of Python 3.11 does now and then."""
    lost = 0
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            lost += 1
            if lost > times:
                raise


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        ended.append("forever")


async def fails() -> None:
    raise ValueError("as it was to")


def test_what_one_raises_ends_the_others() -> None:
    ended: list[str] = []
    with pytest.raises(ValueError, match="as it was to"):
        asyncio.run(together(forever(ended), fails(), deaf(3)))
    assert ended == ["forever"]


def test_a_lost_cancellation_is_repeated() -> None:
    async def work() -> None:
        main = asyncio.create_task(together(together(deaf(2), deaf(0)), deaf(1)))
        await asyncio.sleep(0.01)
        main.cancel()
        await main

    begin = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert time.monotonic() - begin < 20
