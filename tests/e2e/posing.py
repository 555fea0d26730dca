# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.e2e.posing CODENAME ...``: piw-slave on a machine that says it runs another release of Debian.

Only what it says is changed; what it does is a builder's. So one machine can serve targets of several distributions.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from piwheels.slave import cli, stats


def main(argv: Sequence[str]) -> int:
    """Entry point."""
    codename, *arguments = argv

    def os_release(root: Path = Path("/")) -> dict[str, str]:
        return {"ID": "debian", "VERSION_CODENAME": codename}

    stats.os_release = os_release
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
