# SPDX-License-Identifier: BSD-3-Clause
"""Sphinx configuration of the manual (``make docs``)."""

project = "piwheels"
author = "the piwheels founders"
copyright = "2026, the piwheels founders"
extensions: list[str] = []
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Wheels for Raspberry Pis", "fixed_sidebar": True}
nitpicky = True
