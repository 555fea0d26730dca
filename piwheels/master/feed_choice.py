# SPDX-License-Identifier: BSD-3-Clause
"""Which source the feed follows: a pure machine that is told what happened and when. Knows no HTTP and no rows.

Whatever it chooses, nothing is lost: all sources write to the same rows of what changed, against the same position.
"""

from dataclasses import dataclass
from enum import StrEnum

UNREADABLE = 5  #: answers in a row that make no sense, after which a source counts as refused


class SourceName(StrEnum):
    """Where news come from."""

    JOURNAL = "journal"  #: XML-RPC's changelog
    INDEX = "index"  #: the whole listing of PEP 691, compared with our rows
    WATCH = "watch"  #: each project of a list, asked in turn


@dataclass(slots=True)
class Choice:
    """The source followed now. Times are monotonic seconds."""

    current: SourceName
    fixed: bool  #: by the operator: never changed
    retry: float  #: seconds between two tries whether a refused journal answers again
    why: str = ""  #: what made us leave the journal
    unreadable: int = 0  #: answers in a row that made no sense
    retry_at: float = 0.0

    @classmethod
    def of(cls, wanted: str, *, listed: bool, retry: float) -> "Choice":
        """``wanted`` is the setting feed.source; ``listed``: there is a watch list."""
        if wanted != "auto":
            return cls(SourceName(wanted), fixed=True, retry=retry)
        return cls(SourceName.WATCH if listed else SourceName.JOURNAL, fixed=listed, retry=retry)

    def answered(self) -> None:
        """The current source answered."""
        self.unreadable = 0

    def refused(self, now: float, why: str) -> bool:
        """The current source is not to be had; whether another is followed from now on."""
        self.unreadable = 0
        if self.fixed or self.current is not SourceName.JOURNAL:
            return False
        self.current, self.why = SourceName.INDEX, why
        self.retry_at = now + self.retry
        return True

    def made_no_sense(self, now: float, why: str) -> bool:
        """The current source gave an answer that cannot be used; whether another is followed from now on."""
        self.unreadable += 1
        return self.unreadable >= UNREADABLE and self.refused(now, why)

    def should_try_journal(self, now: float) -> bool:
        """Whether it is time to see if the journal answers again; counts as a try."""
        if self.fixed or self.current is not SourceName.INDEX or now < self.retry_at:
            return False
        self.retry_at = now + self.retry
        return True

    def journal_is_back(self) -> None:
        """It answered."""
        self.current, self.why, self.unreadable = SourceName.JOURNAL, "", 0
