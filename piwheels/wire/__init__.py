# SPDX-License-Identifier: BSD-3-Clause
"""The slave protocol: messages, codec, keys, sockets, and the transfer machines. Imports nothing of master or slave."""
