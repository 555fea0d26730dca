# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks: how fast, with how much memory, against which target. ``make bench`` runs them all.

Each runs on a PostgreSQL of its own with the safety settings of a real farm, and measures a process of its own, so that
what prepares the data is not measured. They are not tests: nothing fails because a machine is slow.

``make bench-scale`` is one by itself: a farm of PyPI's size, made by the database (scale_rows, scale_database) in
about twenty minutes of two cores, 20 GB; then its queue, its planner and its master at work on it (scale_measures,
scale_load, scale_master). ``--keep DIR`` keeps the farm for the next time; ``bench_scale`` is a hundredth of it for
``make bench``.
"""
