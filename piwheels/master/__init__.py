# SPDX-License-Identifier: BSD-3-Clause
"""The master: its roles, and the pure machines they decide with (planner, session, receiver)."""
