# SPDX-License-Identifier: BSD-3-Clause
"""Build logs made fit to be kept: text without NULs, and not longer than allowed. Pure."""


def clean_log(text: str, limit: int) -> bytes:
    """The log as UTF-8, its middle cut out where it has more than ``limit`` bytes: errors are at the end, and what was
    asked for at the start. Escapes stay, since pages and terminals know what to do with them."""
    data = text.replace("\0", "").encode("utf-8", "replace")
    if len(data) <= limit:
        return data
    note = f"\n\n[{len(data) - limit} bytes or more cut out here]\n\n".encode()
    room = max(limit - len(note), 0)
    head, tail = data[: room // 4], data[len(data) - (room - room // 4) :]
    # A character cut in two at either end is dropped.
    return head.decode("utf-8", "ignore").encode() + note + tail.decode("utf-8", "ignore").encode()
