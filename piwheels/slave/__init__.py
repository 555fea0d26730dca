# SPDX-License-Identifier: BSD-3-Clause
"""The builder's side. Runs on Debian bookworm's own packages; never imports master, db, site or pypi."""
