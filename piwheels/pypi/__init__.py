# SPDX-License-Identifier: BSD-3-Clause
"""PyPI as the feed sees it: a client of its APIs, what its answers mean, and when to ask again. Knows no database."""
