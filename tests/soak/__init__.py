# SPDX-License-Identifier: BSD-3-Clause
"""A scripted day at PyPI, with everything that goes wrong on such a day: ``make soak`` for the long one."""
