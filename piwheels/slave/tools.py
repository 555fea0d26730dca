# SPDX-License-Identifier: BSD-3-Clause
"""What a builder needs installed to build anything at all, and what to install where it is missing."""

import importlib.util
import shutil
import sysconfig
from pathlib import Path

NO_PIP = "this Python has no pip: apt install python3-pip, or make the virtual environment with pip"


def has_pip() -> bool:
    """Whether this Python has pip."""
    return importlib.util.find_spec("pip") is not None


def missing_tools() -> list[str]:
    """One line for each thing that is missing, naming the package to install; empty if nothing is."""
    missing = []
    if not has_pip():
        missing.append(NO_PIP)
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        missing.append("there is no C compiler: apt install build-essential")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        missing.append("there is no C++ compiler: apt install build-essential")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("Python's header files are missing: apt install python3-dev")
    return missing
