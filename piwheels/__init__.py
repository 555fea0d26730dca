# SPDX-License-Identifier: BSD-3-Clause
"""piwheels: a farm that turns PyPI's source distributions into wheels."""

__version__ = "1.0.0.dev0"
