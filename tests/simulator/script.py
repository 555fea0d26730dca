# SPDX-License-Identifier: BSD-3-Clause
"""Scripted histories: steps that say what happens at PyPI, one after the other; from a file, or by chance.

A step is a table: ``do`` names a method of the history (ACTIONS), the rest are its arguments. ``recipe`` is one by its
name on the command line, ``uploaded`` an ISO time. In a file: a JSON array of steps, or TOML with ``[[step]]`` tables.
Must know nothing of HTTP.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.simulator.history import History
from tests.simulator.random_day import random_day
from tests.simulator.recipes import RECIPES

__all__ = ["ACTIONS", "Script", "ScriptError", "Step", "load", "play", "play_step", "random_day"]

Step = Mapping[str, Any]
Script = list[Step]

#: What a step may do.
ACTIONS = frozenset(
    (
        *("add_project", "remove_project", "recreate", "rename", "change_owner", "docupdate", "unknown_event"),
        *("set_status", "quarantine", "clear_quarantine", "quarantine_release", "clear_release_quarantine"),
        *("answer_with", "add_release", "remove_file", "remove_release", "yank", "skip"),
    )
)


class ScriptError(ValueError):
    """A script that cannot be read or played; says which step, and why."""


def load(path: Path) -> Script:
    """Read a script, TOML or JSON by the file's name. Raises ScriptError."""
    try:
        text = path.read_text("utf-8")
        steps = tomllib.loads(text).get("step") if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ScriptError(f"{path}: {error}") from error
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "do" in step for step in steps):
        raise ScriptError(f"{path} is no list of steps")
    return steps


def play(history: History, steps: Iterable[Step]) -> int:
    """Let it all happen; how many events there were. Raises ScriptError at the first step that cannot be."""
    before = len(history.events)
    for number, step in enumerate(steps, 1):
        try:
            play_step(history, step)
        except (KeyError, TypeError, ValueError) as error:
            raise ScriptError(f"step {number}, {dict(step)}: {error!r}") from error
    return len(history.events) - before


def play_step(history: History, step: Step) -> None:
    """Let one step happen. Raises KeyError, TypeError or ValueError for what cannot."""
    if step["do"] not in ACTIONS:
        raise ValueError(f"{step['do']!r} is nothing that a step can do")
    arguments = {key: value for key, value in step.items() if key != "do"}
    if isinstance(arguments.get("recipe"), str):
        arguments["recipe"] = RECIPES[arguments["recipe"]]
    if isinstance(arguments.get("uploaded"), str):
        time = datetime.fromisoformat(arguments["uploaded"])
        arguments["uploaded"] = time if time.tzinfo else time.replace(tzinfo=UTC)
    getattr(history, step["do"])(**arguments)
