# SPDX-License-Identifier: BSD-3-Clause
"""The page of a build's log: its lines numbered, each with an address of its own, and the error found and marked.

Pure. Logs are the packages' to write. Of a long one the page has the beginning, the end, and what is around the error;
the log itself, as text, is one link away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

from piwheels.site.facts import SiteFacts
from piwheels.site.log_errors import Region, find_error
from piwheels.site.release_rows import Markup
from piwheels.site.rendering import render as fill
from piwheels.site.text import clean_lines

LONGEST_LINE = 600  #: characters; what follows in a line is cut
ALL = 1200  #: lines up to which a log is shown whole
HEAD, BEFORE, AFTER, TAIL = 60, 300, 240, 400  #: of a longer one, lines at its start, around the error, at its end


@dataclass(frozen=True, slots=True)
class LoggedBuild:
    """What is known of the build whose log it is; its text is fit for HTML, as the models have it."""

    project: str  #: canonical name
    display_name: str
    version: str
    target: str
    finished: datetime | None
    duration: timedelta | None
    outcome: str  #: in words
    detail: str
    raw: str  #: name of the log itself, beside the page


def render(build: LoggedBuild, log: str, site: SiteFacts) -> bytes:
    """The page."""
    lines = log.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")  # each is cleaned when it is shown
    error = find_error(lines)
    return fill(
        "build_log",
        site,
        root="../../../",
        title=f"Log of {build.display_name} {build.version} on {build.target} · {site.name}",
        description=f"What the build of {build.display_name} {build.version} for {build.target} said.",
        indexed=False,
        build=build,
        total=len(lines),
        error_line=None if error is None else error.start + 1,
        lines=Markup("".join(_lines(lines, error))),
    )


def _lines(lines: Sequence[str], error: Region | None) -> Iterator[str]:
    after = 0
    for span in shown(len(lines), error):
        if span.start > after:
            yield _cut(span.start - after)
        for number in span:
            yield _line(number, lines[number], error)
        after = span.stop
    if after < len(lines):
        yield _cut(len(lines) - after)


def shown(total: int, error: Region | None) -> list[range]:
    """Which lines a page has."""
    if total <= ALL:
        return [range(total)]
    middle = error.start if error else 0
    spans = [range(HEAD), range(max(middle - BEFORE, 0), min(middle + AFTER, total)), range(total - TAIL, total)]
    merged: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return merged


def _line(number: int, line: str, error: Region | None) -> str:
    line = clean_lines(line[: 2 * LONGEST_LINE])
    text = escape(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} […]", quote=False)
    marks = anchor = ""
    if error is not None and error.start <= number < error.stop:
        marks = ' class="bad"'
        if number == error.start:
            marks, anchor = ' class="bad first"', ' id="error"'
    name = f"L{number + 1}"
    return f'<li id="{name}"{marks}><a href="#{name}"{anchor}>{number + 1}</a>{text}</li>\n'


def _cut(count: int) -> str:
    return f'<li class="cut">{count} {"line is" if count == 1 else "lines are"} left out here</li>\n'
