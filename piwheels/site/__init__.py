# SPDX-License-Identifier: BSD-3-Clause
"""What is published: page models, renderers, templates."""
