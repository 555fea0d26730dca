# SPDX-License-Identifier: BSD-3-Clause
"""Write the chapters of the manual that follow from the code: settings, commands, database, sessions.

Run as ``python docs/generate.py``; ``--check`` writes nothing and exits 1 when one differs from the code
(tests/unit/test_docs.py does that).
"""

import argparse
import configparser
import dataclasses
import importlib
import importlib.resources
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from piwheels.errors import ExitCode
from piwheels.master import session as master
from piwheels.settings import Settings
from piwheels.slave import session as slave

HERE = Path(__file__).resolve().parent


def heading(text: str, line: str = "=") -> str:
    """A title with its underline."""
    return f"{text}\n{line * len(text)}\n\n"


def literal(text: str) -> str:
    """A literal block."""
    return "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())


def shown(value: object) -> str:
    """A default as the manual shows it."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "empty"
    return str(value) if value not in ("", None) else "empty"


def settings() -> Iterator[str]:
    """Every setting, its default and meaning."""
    yield heading("Settings")
    yield (
        "Taken from a TOML file (``--config``), then from the environment, then from ``--set section.key=value``;\n"
        "the later wins. ``--show-config`` prints what holds. Durations are in seconds, sizes in bytes.\n"
        "They are read when a command starts: what is changed holds once it was started again (``piw-master`` as a\n"
        "whole; a role that it starts again has those that it began with).\n\n"
    )
    for section in dataclasses.fields(Settings):
        values = getattr(Settings(), section.name)
        yield heading(f"[{section.name}]", "-")
        yield f"{type(values).__doc__}\n\n"
        for key in dataclasses.fields(values):
            yield f"``{key.name}``\n    {key.metadata['help']}\n    Default: ``{shown(getattr(values, key.name))}``."
            yield f" Environment: ``PIWHEELS_{section.name.upper()}_{key.name.upper()}``.\n\n"


def database() -> Iterator[str]:
    """Every table with its columns, from the SQL files' own words."""
    yield heading("Database")
    yield (
        "The schema is in ``sql/``, numbered files applied in order by ``piw-initdb``, each in one transaction.\n"
        "``piwheels/db/tables.py`` mirrors it, and a test compares the two. Wherever a column is an enum, its members\n"
        "are in ``piwheels/vocabulary.py``.\n\n"
    )
    files = importlib.resources.files("piwheels.sql").iterdir()
    sql = "\n".join(f.read_text() for f in sorted(files, key=lambda f: f.name) if f.name.endswith(".sql"))
    comments = {
        k: v.replace("''", "'") for k, v in re.findall(r"COMMENT ON (?:TABLE|COLUMN) (\S+) IS '((?:[^']|'')*)';", sql)
    }
    for name, body in re.findall(r"CREATE TABLE (\w+) \(\n(.*?)\n\)(?: PARTITION[^;]*)?;", sql, re.DOTALL):
        yield heading(name, "-")
        yield f"{comments[name]}\n\n"
        yield "::\n\n" + literal(re.sub(r"^    ", "", body, flags=re.MULTILINE))
        yield from (f"    + {added}\n" for added in re.findall(rf"ALTER TABLE {name} ADD COLUMN (.*?);\n", sql))
        yield "\n"
        for key, text in comments.items():
            if key.startswith(f"{name}."):
                yield f"* *{key.partition('.')[2]}*: {text}\n"
        yield "\n"


def commands() -> Iterator[str]:
    """Every command, its arguments, and what exit statuses mean."""
    yield heading("Commands")
    yield "Every command has ``--help`` and ``--version``.\n\n"
    yield heading("Exit status", "-")
    for code in ExitCode:
        yield f"* {int(code)}: {STATUS[code]}\n"
    yield "\n"
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(HERE.parent / "setup.cfg")
    for line in setup["options.entry_points"]["console_scripts"].split("\n"):
        if line.strip():
            name, _, place = line.partition(" = ")
            yield heading(name.strip(), "-")
            yield from command(importlib.import_module(place.partition(":")[0]).parser())


def command(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A command's description and arguments. Read off the parser: argparse's own help differs between Pythons."""
    yield f"{(parser.description or '').strip()}\n\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield f"``{choice.dest}``\n    {sentence(choice.help)}\n"
                yield from ("    " + line for line in arguments(action.choices[choice.dest]) if line)
                yield "\n"
    yield from arguments(parser)
    yield "\n"
    if parser.epilog:
        yield f"{parser.epilog.strip()}\n\n"


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """One line an argument."""
    shown = [a for a in parser._actions if not isinstance(a, argparse._HelpAction | argparse._SubParsersAction)]
    for action in shown:
        if action.help is argparse.SUPPRESS:
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper().replace("_", "-")
        value = "" if action.nargs == 0 or not action.option_strings else f" {metavar}"
        word = ", ".join(f"{flag}{value}" for flag in action.option_strings) or metavar
        text = (action.help or "") % {"default": action.default, "prog": parser.prog, "const": action.const}
        yield f"* ``{word}``: {sentence(text)}\n"


def sentence(text: str | None) -> str:
    """Help as a sentence; no markup of its own."""
    plain = re.sub(r"\s+", " ", text or "").strip().replace("*", r"\*").replace("`", "'")
    return (plain[:1].upper() + plain[1:]).rstrip(".") + "."


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A list-table; empty cells are allowed in it."""
    yield ".. list-table::\n   :header-rows: 1\n\n"
    for row in (columns, *rows):
        for number, cell in enumerate(row):
            yield f"   {'*' if number == 0 else ' '} - {cell}\n"
    yield "\n"


def sessions() -> Iterator[str]:
    """The two machines of the slave protocol as tables."""
    yield heading("Sessions")
    yield (
        "Which message may follow which, on both sides of the builder channel (:doc:`protocol`). Whatever has no row\n"
        "is an error of the peer's and ends the session; it never harms the receiver.\n\n"
    )
    yield heading("The master's side, one session a builder", "-")
    yield "``piwheels/master/session.py``. Messages are in capitals, events of the master's own are not.\n\n"
    rows = []
    for move in master.DESCRIPTION:
        message = move.event.__module__ == "piwheels.wire.messages"
        name = f"``{move.name.upper()}``" if message else move.name
        rows.append((str(move.state), name, " or ".join(map(str, move.to)), move.effects))
    yield from table(("state", "event", "next", "effects, in order"), rows)
    yield heading("The builder's side", "-")
    yield "``piwheels/slave/session.py``. What the master may answer in each state.\n\n"
    answers = [
        (str(state), " or ".join(f"``{message.__name__.upper()}``" for message in replies))
        for state, replies in slave.REPLIES.items()
    ]
    yield from table(("state", "answers"), answers)


STATUS = {
    ExitCode.OK: "all went well.",
    ExitCode.FAILED: "the work was done and some of it failed; standard error has one line for each failure.",
    ExitCode.USAGE: "wrong arguments or settings.",
    ExitCode.UNAVAILABLE: "something needed is missing, in use, or does not answer.",
    ExitCode.INTERNAL: "a fault in piwheels itself; the log has the traceback.",
    ExitCode.INTERRUPTED: "ended by Ctrl-C.",
}

CHAPTERS = {"settings.rst": settings, "database.rst": database, "commands.rst": commands, "sessions.rst": sessions}


def main(argv: list[str] | None = None) -> int:
    """Write the chapters, or with --check compare them."""
    parser = argparse.ArgumentParser(description="Write the chapters of the manual that follow from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a chapter is out of date")
    arguments = parser.parse_args(argv)
    stale = []
    for name, write in CHAPTERS.items():
        path, text = HERE / name, f".. Generated by docs/generate.py.\n\n{''.join(write()).rstrip()}\n"
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not arguments.check:
            path.write_text(text)
    if arguments.check and stale:
        print(f"docs: out of date: {', '.join(stale)}; run python docs/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
