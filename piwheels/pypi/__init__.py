# SPDX-License-Identifier: BSD-3-Clause
"""Clients of PyPI's APIs, and what their answers mean."""
