# SPDX-License-Identifier: BSD-3-Clause
"""piw-monitor: watch and steer a running master."""
