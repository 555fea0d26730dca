# SPDX-License-Identifier: BSD-3-Clause
"""The schema: numbered SQL files, installed as ``piwheels.sql`` so that piw-initdb finds them anywhere."""
