# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.fuzz [codec|master|slave]...``: mutated bytes until the time is over or something breaks.

With ``--atheris`` (``pip install atheris``) coverage guides what is tried, for one entry; otherwise chance does.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence

NASTY = (b"\x00", b"\xff", b"\x7f", b"\x9f", b"\xf7", b"\xc0", b"\xd9\x07\xd1", b"\x1b" + b"\xff" * 8)  #: in CBOR


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feed the wire any bytes.")
    add = arguments.add_argument
    add("entry", nargs="*", help="codec, master, slave (default: all)")
    add("--seconds", type=float, default=60.0, help="for each (default: %(default)s)")
    add("--seed", type=int, default=1, help="what is tried (default: %(default)s)")
    add("--atheris", action="store_true", help="guided by coverage")
    return arguments


def mutated(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Something like it."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(made) + 1)
        end = min(len(made), at + chance.choice((0, 1, 1, 4, 30)))
        other = chance.choice(others)
        start = chance.randrange(len(other) + 1)
        piece = chance.choice(
            (
                chance.randbytes(end - at),
                chance.randbytes(chance.randrange(4)),
                b"",
                bytes(made[at:end]) * 2,
                other[start : start + chance.randrange(40)],
                chance.choice(NASTY),
            )
        )
        made[at:end] = piece
    return bytes(made[:100_000])


def hunt(entry: Callable[[bytes], None], corpus: Sequence[bytes], *, seconds: float, seed: int) -> tuple[int, bytes]:
    """How many were tried, and the bytes that broke it (empty: none did)."""
    chance = random.Random(seed)
    pool = list(corpus)
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until:
        data = mutated(chance.choice(pool), pool, chance)
        tried += 1
        try:
            entry(data)
        except Exception:
            traceback.print_exc()
            return tried, data
        if chance.random() < 0.01 and len(pool) < 500:
            pool.append(data)
    return tried, b""


def main(argv: Sequence[str] | None = None) -> int:
    """Hunt; 1 if something broke."""
    arguments = parser()
    given = arguments.parse_args(argv)
    if given.atheris:
        return guided(given)
    from tests.fuzz.entry import CORPUS, ENTRIES

    if unknown := set(given.entry) - set(ENTRIES):
        arguments.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(ENTRIES)}")
    chance = random.Random(given.seed)
    stories = [chance.randbytes(200) for _ in range(50)]
    for name in given.entry or ENTRIES:
        corpus = CORPUS if name == "codec" else stories
        tried, broke = hunt(ENTRIES[name], corpus, seconds=given.seconds, seed=given.seed)
        print(f"{name}: {tried} tried in {given.seconds:g} s, seed {given.seed}", flush=True)
        if broke:
            print(f"{name} broke over {broke.hex()}", file=sys.stderr)
            return 1
    return 0


def guided(given: argparse.Namespace) -> int:
    """Let atheris choose; it ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["piwheels"]):
        from tests.fuzz.entry import ENTRIES
    entry = ENTRIES[given.entry[0] if given.entry else "codec"]
    atheris.Setup([sys.argv[0], f"-max_total_time={given.seconds:.0f}", f"-seed={given.seed}"], entry)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
