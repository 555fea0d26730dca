# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks: how fast, with how much memory, against which target. ``make bench`` runs them all.

Each runs on a PostgreSQL of its own with the safety settings of a real farm, and measures a process of its own, so that
what prepares the data is not measured. They are not tests: nothing fails because a machine is slow.
"""
