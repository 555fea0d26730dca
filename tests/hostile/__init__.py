# SPDX-License-Identifier: BSD-3-Clause
"""A hostile client: everything it tries on every socket of a real master, and how the master does meanwhile."""
