# SPDX-License-Identifier: BSD-3-Clause
"""Builds go on while everything is killed, cut off and filled up; afterwards an auditor looks at what is left."""
