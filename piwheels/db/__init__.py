# SPDX-License-Identifier: BSD-3-Clause
"""The database: tables and the queries of each area; the only place with SQL."""
