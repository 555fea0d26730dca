# SPDX-License-Identifier: BSD-3-Clause
"""piw-logger: access-log lines become download counts."""
