# SPDX-License-Identifier: BSD-3-Clause
"""``python -m tests.chaos.quick_slave``: piw-slave whose builds are quick_job's, so that thousands take minutes."""

import sys
from collections.abc import Sequence

from piwheels.slave import cli, runner
from tests.chaos import quick_job


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    runner.job = quick_job  # type: ignore[attr-defined]
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
