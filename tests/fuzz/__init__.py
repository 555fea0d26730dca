# SPDX-License-Identifier: BSD-3-Clause
"""Fuzzing of the codec and of both machines: ``python -m tests.fuzz codec --seconds 60``."""
