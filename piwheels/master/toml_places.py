# SPDX-License-Identifier: BSD-3-Clause
"""Where things are in a TOML text: TOML's reader gives values and forgets the lines that complaints should name. Pure.

Only for texts that ``tomllib`` has accepted, so that what is read here is well-formed. Knows arrays of tables
(``[[recipe]]``), their sub-tables, inline tables and arrays; not what any of them means.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

_TOKEN = re.compile(
    r"""
      (?P<text> \"\"\"(?:\\.|[^\\])*?\"{3,5}(?!\") | '''.*?'{3,5}(?!') | "(?:\\.|[^"\\\n])*" | '[^'\n]*' )
    | (?P<comment> \#[^\n]* )
    | (?P<sign> [\[\]{}=,\n] )
    | (?P<word> [^\s\[\]{}=,\#"']+ )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class Block:
    """A table: ``[[head]]`` with its sub-tables, ``[head]``, or (empty head) what stands before any."""

    head: str
    line: int
    keys: dict[str, int] = field(default_factory=dict)  #: dotted key → line
    items: dict[str, list[int]] = field(default_factory=dict)  #: dotted key of an array → lines of its texts

    def where(self, key: str, number: int | None = None) -> int:
        """The line of a key, or of the array item of that number; the table's where it is not known."""
        lines = self.items.get(key, [])
        if number is not None and number < len(lines):
            return lines[number]
        return self.keys.get(key) or self.keys.get(key.partition(".")[0]) or self.line


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """The text's tables in order, the one without a head first. A sub-table's keys are part of its array's item."""
    found = [Block("", 1)]
    below = ""  # the sub-table that keys belong to, with a dot
    for statement in _statements(text):
        first = statement[0]
        if first.text == "[":
            name = _dotted([token for token in statement if token.text not in "[]"])
            parent = found[-1].head
            below = f"{name.removeprefix(parent + '.')}." if parent and name.startswith(parent + ".") else ""
            if below:
                found[-1].keys[below[:-1]] = first.line
            else:
                found.append(Block(name, first.line))
        else:
            _key(found[-1], below, statement)
    return found


def _statements(text: str) -> Iterator[list[_Token]]:
    """The tokens of each head or ``key = value``."""
    statement: list[_Token] = []
    depth = 0
    for token in _tokens(text):
        if token.text == "\n" and token.kind == "sign":
            if statement and not depth:
                yield statement
                statement = []
            continue
        if token.kind == "sign":
            depth += (token.text in "[{") - (token.text in "]}")
        statement.append(token)
    if statement:
        yield statement


def _tokens(text: str) -> Iterator[_Token]:
    line, seen = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        if match.lastgroup != "comment":
            yield _Token(match.lastgroup or "", match.group(), line)


def _key(block: Block, below: str, statement: list[_Token]) -> None:
    signs = [number for number, token in enumerate(statement) if token.kind == "sign" and token.text == "="]
    if not signs:
        return
    name = below + _dotted(statement[: signs[0]])
    block.keys[name] = statement[0].line
    value = statement[signs[0] + 1 :]
    for before, token in pairwise(value):
        if token.kind == "sign" and token.text == "=":  # in an inline table
            block.keys[f"{name}.{_dotted([before])}"] = before.line
    if value and value[0].text == "[":
        block.items[name] = [token.line for token in value if token.kind == "text"]


def _dotted(tokens: list[_Token]) -> str:
    return "".join(token.text.strip("\"'") for token in tokens)
